"""The file system over the bucket in memory, used as a kernel would use it, without one.

Every node that is handed out is counted, as the kernel counts its references, and given back in
the end: then nothing may be left in the table, in memory, or half done in the bucket.
"""

import asyncio
import contextlib
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.fs.attributes import Attributes, Overrides, Ownership
from fuse_s3_worker.fs.core import Found, Kernel
from fuse_s3_worker.fs.describer import Results
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.fs.treerename import Moving
from fuse_s3_worker.posix.inode import Defaults
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.partsize import PART_MIN
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.stagedir import StageDirectory
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writer import Writers
from support.answers import Answers
from support.gatedstore import GatedStore
from support.staging import PLACE, AtOnce
from support.virtualtime import settle

__all__ = ["DEFAULTS", "LIFETIME", "OWNERSHIP", "Notices", "Tree", "tree"]

LIFETIME = 60.0
OWNERSHIP = Ownership(uid=1, gid=2, file_mode=0o644, dir_mode=0o755, mounted_at=0)
DEFAULTS = Defaults(uid=1, gid=2, file_mode=0o644, dir_mode=0o755)

_DT_DIR = 4


class Notices:
    """What the kernel was told without asking."""

    def __init__(self) -> None:
        self.invalidated: list[int] = []

    def invalidate(self, node_id: int) -> None:
        """Take note."""
        self.invalidated.append(node_id)


class Tree:
    """A mount.

    Attributes:
        notices: what the kernel was told.
        handles: open files, with the node of each.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        lifetime: float = LIFETIME,
        budget: int = 64 * MIB,
        first_part: int = 8 * MIB,
        part_min: int = PART_MIN,
        prefix: str = "",
        cache: Path | None = None,
        write_back: float = 0.0,
        moving: Moving | None = None,
        store: GatedStore | None = None,
        posix: bool = False,
        results: Results | None = None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self.store = store or GatedStore(objects, clock=clock, part_min=part_min)
        self.pool = Pool(budget)
        self.cache = cache
        self.metadata = Metadata(lifetime, clock)
        self.posix = Posix(self.store, DEFAULTS, OWNERSHIP.mounted_at, results) if posix else None
        kept = self.posix.store if self.posix else self.store
        uploads = Uploads(kept, self.pool, first_part)
        directory = None
        if cache is not None:
            directory = StageDirectory.open(str(cache), PLACE, {})
        limits = uploads.limits = uploads.limits._replace(part_min=part_min)
        staging = Staging(kept, self.pool, limits, uploads.size_limit, directory, AtOnce())
        self.fs = FileSystem(
            kept,
            self.metadata,
            self.posix or OWNERSHIP,
            Readers(kept, self.pool, 8),
            Writers(uploads, staging, write_back),
            prefix,
            moving or Moving(connections=8),
        )
        self.notices = Notices()
        self.fs.attach(_as_kernel(self.notices))
        self.answers = Answers()
        self.references: Counter[int] = Counter()
        self.handles: dict[int, int] = {}
        self._uniques = 0
        self.reading: set[asyncio.Task[None]] = set()

    # -- names ------------------------------------------------------------------------------------

    def remember(self, found: Found) -> Found:
        """Count a reference, as the kernel does."""
        self.references[found.node.id] += 1
        return self.fs.remember(found)

    async def lookup(self, parent: int, name: str) -> Found:
        """Look a name up: at once if that can be, or else by asking."""
        found = self.fs.names.lookup_nowait(parent, name.encode())
        if found is None:
            found = await self.fs.names.lookup(parent, name.encode())
        if not isinstance(found, Found):
            raise FileSystemError(errno.ENOENT, name)
        return self.remember(found)

    async def walk(self, path: str) -> int:
        """Return the node of a path."""
        node = ROOT_ID
        for name in path.split("/") if path else ():
            node = (await self.lookup(node, name)).node.id
        return node

    async def _place(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        return await self.walk(parent), name.encode()

    async def exists(self, path: str) -> bool:
        """Tell whether there is such a path."""
        try:
            await self.walk(path)
        except FileSystemError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    async def mkdir(self, path: str) -> int:
        """Make a directory."""
        return self.remember(await self.fs.names.mkdir(*await self._place(path))).node.id

    async def mknod(self, path: str) -> int:
        """Make an empty file."""
        return self.remember(await self.fs.names.mknod(*await self._place(path))).node.id

    async def unlink(self, path: str) -> None:
        """Remove a file."""
        await self.fs.names.unlink(*await self._place(path))

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Give something another name, trying again after ESTALE as rename(2) does."""
        try:
            await self._rename(old, new, flags)
        except ServeError as error:
            if error.errno != errno.ESTALE:
                raise
            await self._rename(old, new, flags)

    async def _rename(self, old: str, new: str, flags: int) -> None:
        places = await self._place(old), await self._place(new)
        await self.fs.renames.rename(*places, flags)

    async def rmdir(self, path: str) -> None:
        """Remove a directory."""
        await self.fs.names.rmdir(*await self._place(path))

    # -- attributes -------------------------------------------------------------------------------

    async def attributes(self, node: int) -> Attributes:
        """Answer fstat(2)."""
        found = self.fs.getattr_nowait(node)
        return (found or await self.fs.getattr(node)).attributes

    async def stat(self, path: str) -> Attributes:
        """Answer stat(2)."""
        return await self.attributes(await self.walk(path))

    async def set(
        self, node: int, size: int | None = None, overrides: Overrides | None = None
    ) -> Attributes:
        """Answer truncate(2) and the like."""
        return (await self.fs.setattr(node, size, overrides)).attributes

    # -- files ------------------------------------------------------------------------------------

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file, looking up again after ESTALE as open(2) does; return the handle."""
        try:
            return await self.open_node(await self.walk(path), flags)
        except FileSystemError as error:
            if error.errno != errno.ESTALE:
                raise
        return await self.open_node(await self.walk(path), flags)

    async def open_node(self, node: int, flags: int = os.O_RDONLY) -> int:
        """Open a node; return the handle."""
        opened = await self.fs.files.open(node, flags, os.getpid())
        self.handles[opened.handle] = node
        return opened.handle

    async def create(self, path: str, flags: int = os.O_WRONLY) -> int:
        """Make a file and open it; return the handle."""
        parent, name = await self._place(path)
        found, opened = await self.fs.files.create(parent, name, flags, os.getpid())
        self.handles[opened.handle] = self.remember(found).node.id
        return opened.handle

    def start_read(self, handle: int, offset: int, size: int) -> int:
        """Send a READ; return its unique number."""
        self._uniques += 1
        work = self.fs.files.read(handle, self._uniques, offset, size, self.answers)
        if work is not None:
            task = asyncio.create_task(work)
            self.reading.add(task)
            task.add_done_callback(self.reading.discard)
        return self._uniques

    async def read(self, handle: int, offset: int = 0, size: int = MIB) -> bytes:
        """Read, and wait for the bytes; raise what the READ is answered with instead."""
        unique = self.start_read(handle, offset, size)
        try:
            return await self.answers.bytes_of(unique)
        except KeyError:
            raise self.answers.errors[unique] from None

    async def read_all(self, path: str) -> bytes:
        """Return what is in a file."""
        handle = await self.open(path)
        try:
            return await self.read(handle, 0, (await self.stat(path)).size)
        finally:
            await self.close(handle)

    async def write(self, handle: int, offset: int, data: bytes) -> None:
        """Write."""
        view = memoryview(data)
        taken = self.fs.files.write_nowait(handle, offset, view)
        if taken < len(data):
            await self.fs.files.write(handle, offset + taken, view[taken:])

    async def close(self, handle: int) -> None:
        """Close(2): FLUSH says whether it worked, RELEASE follows in any case."""
        del self.handles[handle]
        try:
            await self.fs.files.flush(handle, os.getpid())
        finally:
            with contextlib.suppress(ServeError):  # nobody is told what RELEASE comes to
                await self.fs.files.release(handle)

    async def put(self, path: str, data: bytes) -> None:
        """Write a file, as a shell does with `>`."""
        flags = os.O_WRONLY | os.O_TRUNC
        exists = await self.exists(path)
        handle = await (self.open(path, flags) if exists else self.create(path, flags))
        await self.write(handle, 0, data)
        await self.close(handle)

    # -- directories ------------------------------------------------------------------------------

    async def list(self, path: str = "", *, plus: bool = False) -> dict[str, bool]:
        """Return the names in a directory, and whether each is one."""
        number = self.fs.directories.opendir(await self.walk(path))
        found: dict[str, bool] = {}
        async for record in self.fs.directories.entries(number, 0):
            if record.is_dot:
                continue
            name = record.name.decode()
            assert name not in found
            found[name] = record.kind == _DT_DIR
            if plus and (node := self.fs.directories.take(number, record)) is not None:
                self.remember(node)
        self.fs.directories.releasedir(number)
        return found

    # -- the end ----------------------------------------------------------------------------------

    async def forget_all(self) -> None:
        """Give all references back."""
        references, self.references = self.references, Counter()
        for node, count in references.items():
            self.fs.forget(node, count)

    async def finish(self) -> None:
        """Close everything, end, and look at what is left: it must be nothing."""
        for handle in list(self.handles):
            with contextlib.suppress(ServeError):
                await self.close(handle)
        await self.fs.close()
        await self.forget_all()
        await settle()
        counts = self.fs.statistics()
        assert (counts.nodes, counts.open_files) == (1, 0)
        assert self.pool.statistics().used == 0
        assert self.pool._reclaimers == {}
        assert self.store.uploads == {}


@contextlib.asynccontextmanager
async def tree(
    objects: Mapping[str, bytes] | None = None,
    *,
    lifetime: float = LIFETIME,
    prefix: str = "",
    cache: Path | None = None,
    write_back: float = 0.0,
    posix: bool = False,
    results: Results | None = None,
) -> AsyncIterator[Tree]:
    """Set up a mount; in the end nothing may be left of it."""
    made = Tree(
        objects,
        lifetime=lifetime,
        prefix=prefix,
        cache=cache,
        write_back=write_back,
        posix=posix,
        results=results,
    )
    yield made
    await made.finish()


def _as_kernel(notices: Notices) -> Kernel:
    """Have the type checker hold the class against the protocol."""
    return notices
