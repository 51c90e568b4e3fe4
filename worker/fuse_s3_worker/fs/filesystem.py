"""The file system: one object, one method for each thing a program can want.

Methods that can answer out of what is known are plain functions with `_nowait` in their names;
the others are coroutines. Both raise `ServeError`, which has the errno. Nothing here knows the
kernel's protocol, so all of it runs in tests without a kernel.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.fs.attributes import Overrides, Ownership
from fuse_s3_worker.fs.core import Core, Found, Kernel
from fuse_s3_worker.fs.directories import Directories
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.names import NAME_MAX
from fuse_s3_worker.fs.namespace import Namespace
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.recording import DirectoryRecord, HandleRecord, Recorder, Remains
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.upload import Uploads

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


class FileSystem:
    """A bucket, or a prefix of one, as files.

    Attributes:
        names: looking up, making and removing.
        files: reading and writing.
        directories: listing.
    """

    def __init__(
        self,
        store: ObjectStore,
        metadata: Metadata,
        ownership: Ownership,
        readers: Readers,
        uploads: Uploads,
        prefix: str = "",
    ) -> None:
        self._core = Core(store, metadata, ownership, readers, uploads, prefix)
        self.names = Namespace(self._core)
        self.files = Files(self._core)
        self.directories = Directories(self._core)

    def attach(self, kernel: Kernel) -> None:
        """Tell where notifications go."""
        self._core.kernel = kernel

    # -- attributes -----------------------------------------------------------------------------

    def getattr_nowait(self, node_id: int) -> Found | None:
        """Describe a node out of what is known; None when the store has to be asked."""
        core = self._core
        node = core.node(node_id)
        if node.parent is None or node.local or node.gone:
            return core.found(node)
        known = core.resolver.known(node.parent.key, node.name)
        if known is None or known.entry is None or known.entry.directory != node.is_directory:
            return None
        return core.found_as(node, known.entry.info, known.seconds_left)

    async def getattr(self, node_id: int) -> Found:
        """Describe a node as it is in the bucket."""
        return await self._core.refresh(self._core.node(node_id))

    async def setattr(self, node_id: int, size: int | None, overrides: Overrides | None) -> Found:
        """Set the size of a file; mode, owner and times are shown for a lifetime and not kept."""
        core = self._core
        node = core.node(node_id)
        if not node.is_directory and node.info is None:
            await core.refresh(node)  # a predecessor's node: what it has is not known yet
        if size is not None:
            await self.files.truncate(node, size)
        if overrides is not None:
            earlier = node.overrides._asdict() if node.overrides else {}
            fresh = {name: v for name, v in overrides._asdict().items() if v is not None}
            fresh["until"] = time.monotonic() + core.metadata.lifetime
            node.overrides = Overrides(**(earlier | fresh))
        return core.found(node)

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

    async def settle(self) -> None:
        """Finish what is under way in the background, and leave all the rest as it is."""
        self.names.hurry()
        await self._core.drain()

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
        self.files.restore(remains)
        self.directories.restore(remains)

    # -- the whole ------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return the counts of this moment."""
        return Statistics(len(self._core.nodes), len(self.files), len(self._core.metadata))

    def expire(self) -> None:
        """Forget what is out of date; called now and then."""
        for _ in self._core.metadata.expire():
            pass

    async def close(self) -> None:
        """End: nothing that was closed is lost, what was not closed is given up."""
        await self.files.close()
        await self.settle()
