"""The file system: one object, one method for each thing a program can want.

Methods that can answer out of what is known are plain functions with `_nowait` in their names;
the others are coroutines. Both raise `ServeError`, which has the errno. Nothing here knows the
kernel's protocol, so all of it runs in tests without a kernel.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.fs.attributes import Overrides, Ownership
from fuse_s3_worker.fs.core import Core, Found, Kernel
from fuse_s3_worker.fs.directories import Directories
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.inspection import DirtyFile, dirty_files, drop_metadata
from fuse_s3_worker.fs.links import Links
from fuse_s3_worker.fs.names import NAME_MAX
from fuse_s3_worker.fs.namespace import Namespace
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.plain import Plain
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.fs.ranges import Ranges
from fuse_s3_worker.fs.recording import DirectoryRecord, HandleRecord, Recorder, Remains
from fuse_s3_worker.fs.renames import Renames
from fuse_s3_worker.fs.treerename import Moving, TreeRenames
from fuse_s3_worker.fs.xattrs import Xattrs
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.blocks import PoolStatistics
from fuse_s3_worker.transfer.copying import Copier
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.writer import Writers

__all__ = ["FileSystem", "Statistics", "VolumeSize"]


class VolumeSize(NamedTuple):
    """What statfs(2) shows: a bucket has no size, so it is one no program will find too small."""

    block_size: int = 1 << 20
    blocks: int = 1 << 30  # 1 PiB
    files: int = 1 << 30
    name_max: int = NAME_MAX


class Statistics(NamedTuple):
    """A moment's counts."""

    nodes: int
    open_files: int
    names_cached: int
    open_directories: int


class FileSystem:
    """A bucket, or a prefix of one, as files.

    Attributes:
        names: looking up, making and removing.
        files: reading and writing.
        ranges: holes, zeros and copies.
        directories: listing.
        renames: giving other names.
        links: links and special files; None where they are not kept.
        xattrs: extended attributes; None where they are not kept.
        staging: where files that are changed are kept until they are stored.
    """

    def __init__(  # noqa: PLR0913, PLR0917  every part of a mount
        self,
        store: ObjectStore,
        metadata: Metadata,
        shown: Ownership | Posix,
        readers: Readers,
        writers: Writers,
        prefix: str = "",
        moving: Moving | None = None,
    ) -> None:
        inodes = shown if isinstance(shown, Posix) else Plain(shown, metadata.lifetime)
        self.staging = writers.staging
        self._core = core = Core(store, metadata, inodes, readers, writers, prefix)
        self.names = Namespace(core)
        self.files = Files(core)
        self.ranges = Ranges(self.files)
        self.directories = Directories(core)
        self.links: Links | None = None
        self.xattrs: Xattrs | None = None
        if isinstance(inodes, Posix):
            inodes.attach(core)
            self.staging.carried = inodes.carried
            self.links = Links(core, self.names, inodes)
            self.xattrs = Xattrs(core, inodes)
        moving = moving or Moving()
        copier = Copier(
            store,
            writers.uploads.pool,
            connections=moving.connections,
            part_size=writers.uploads.first_part,
        )
        trees = TreeRenames(core, self.files, self.directories, copier, moving)
        self.renames = Renames(core, self.files, self.names, copier, trees)

    def attach(self, kernel: Kernel) -> None:
        """Tell where notifications go."""
        self._core.kernel = kernel

    # -- attributes -----------------------------------------------------------------------------

    def getattr_nowait(self, node_id: int) -> Found | None:
        """Describe a node out of what is known; None when the store has to be asked."""
        core = self._core
        node = core.node(node_id)
        if node.parent is None and not core.inodes.root_ready(node):
            return None
        if node.parent is None or node.gone or (node.local and core.inodes.known(node)):
            return core.found(node)
        if core.unsettled(node.key):
            return None
        known = core.resolver.known(node.parent.key, node.name)
        if known is None or known.entry is None or known.entry.directory != node.is_directory:
            return None
        if not core.inodes.ready(node.parent.key, node.name, known.entry):
            return None
        return core.found_as(node, known.entry.info, known.seconds_left)

    async def getattr(self, node_id: int) -> Found:
        """Describe a node as it is in the bucket."""
        node = self._core.node(node_id)
        await self._core.settled(node.key)
        return await self._core.refresh(node)

    async def setattr(self, node_id: int, size: int | None, overrides: Overrides | None) -> Found:
        """Set the size of a file, and mode, owner and times."""
        core = self._core
        node = core.node(node_id)
        if not node.is_directory and node.info is None:
            # A predecessor's node: what it has is not known yet, or still to be stored.
            await core.settled(node.key)
            await core.refresh(node)
        if size is not None:
            await self.files.truncate(node, size)
        if overrides is not None:
            await core.inodes.change(node, overrides)
        return core.found(node)

    def kill_privileges(self, node_id: int) -> None:
        """Take setuid and setgid away: somebody without rights to set them changes the file."""
        self._core.inodes.kill_privileges(self._core.node(node_id))

    async def fsyncdir(self, number: int) -> None:
        """Return when the store has what was set of an open directory.

        Names are there when they are made.
        """
        await self._core.inodes.flush(self.directories.node_of(number))

    def statfs(self) -> VolumeSize:
        """Describe the volume."""
        return VolumeSize()

    # -- references -----------------------------------------------------------------------------

    def remember(self, found: Found) -> Found:
        """Count a reference that the kernel is given with an answer."""
        found.node.nlookup += 1
        self._core.nodes.recorder.looked_up(found.node)
        return found

    def forget(self, node_id: int, nlookup: int) -> None:
        """Take references back."""
        self._core.nodes.forget(node_id, nlookup)

    # -- what survives (survival.recorder.Subject) ------------------------------------------------

    def changed(self, node_id: int) -> bool:
        """Tell whether a node has something that the bucket does not have."""
        return self._core.node(node_id).changed

    def unstored(self) -> list[str]:
        """Return the keys of the nodes that have."""
        return [node.key for node in self._core.nodes if node.changed]

    def hurry(self) -> None:
        """Store now what was closed and could wait."""
        self.files.write_back.hurry()

    async def settle(self) -> None:
        """Finish what is under way in the background, and leave all the rest as it is."""
        self.names.hurry()
        await self._core.drain()
        await self._core.inodes.close()

    def record(self, recorder: Recorder) -> None:
        """Tell who is to be told what a successor has to know."""
        self._core.nodes.recorder = recorder

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes, parents first."""
        return iter(self._core.nodes)

    def open_files(self) -> Iterator[tuple[HandleRecord, Node]]:
        """Yield the open files."""
        return self.files.open_files()

    def open_directories(self) -> Iterator[DirectoryRecord]:
        """Yield the open directories."""
        return self.directories.open_directories()

    def next_numbers(self) -> tuple[int, int]:
        """Return a node id and a handle that were never used."""
        return self._core.nodes.next_id, max(self.files.next_number, self.directories.next_number)

    def restore(self, remains: Remains) -> None:
        """Take over what a worker left behind; nothing may have been served yet."""
        # A file without a name that nobody has open is of no use to anybody.
        nodes = [
            node
            for node in remains.nodes
            if node.directory or node.id not in remains.detached or node.id in remains.versions
        ]
        self._core.nodes.restore(nodes, remains.detached, remains.next_node)
        self._core.attempts.restore(remains.begun)
        self.files.restore(remains)
        self.directories.restore(remains)

    # -- the whole ------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return the counts of this moment."""
        core = self._core
        return Statistics(
            len(core.nodes), len(self.files), len(core.metadata), len(self.directories)
        )

    def dirty_files(self) -> Iterator[DirtyFile]:
        """Yield what is written and not stored."""
        return dirty_files(self.files)

    @property
    def memory(self) -> PoolStatistics:
        """The counts of the memory for data in flight."""
        return self._core.readers.pool.statistics()

    @property
    def staging_directory(self) -> str:
        """Where files that are changed are staged; "" for in memory."""
        directory = self._core.writers.staging.directory
        return str(directory.path) if directory is not None else ""

    @property
    def recovering(self) -> list[str]:
        """The keys that an earlier worker left, and that are being stored."""
        return sorted(self._core.recovery.keys) if self._core.recovery is not None else []

    def drop_metadata(self, path: str) -> list[Node]:
        """Forget what is remembered below a path; return the nodes that the kernel should, too."""
        return drop_metadata(self._core, path)

    def expire(self) -> None:
        """Forget what is out of date; called now and then."""
        for _ in self._core.metadata.expire():
            pass

    def start(self) -> None:
        """Begin with what was left undone before this mount."""
        core = self._core
        self.names.keep_left()
        core.recover(self.files.recovered)
        core.spawn(self.renames.trees.resume(), "rename_not_resumed", core.nodes.root)

    async def close(self) -> None:
        """End: nothing that was closed is lost, what was not closed is given up."""
        self.directories.close()
        self._core.beginnings.close()
        await self.files.close()
        await self.settle()
