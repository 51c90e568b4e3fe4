"""From paths to the file system: what libfuse's high-level interface asks, one method each.

libfuse asks by path. A path is looked up here name by name, as the kernel would, and the
references are given back when the operation is done; open files are known by their handles.
Nothing here knows a thread or a C type: that is `binding`.

libfuse has one inode for each path, the file system a node for each version of a file. The kernel
may therefore keep nothing: no pages (direct_io), no names and no attributes (timeouts of 0). What
is known is known here, for as long as options say, and two versions cannot meet in a page.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from errno import ENOENT, ENOSYS, EOPNOTSUPP, EPERM
from time import perf_counter_ns
from typing import Any, NamedTuple

from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.failed import report
from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.links import Links
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.xattrs import Xattrs
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.statistics import KernelStatistics

__all__ = ["ENCODING", "OPERATIONS", "Caller", "FailedError", "PortableAdapter", "interruptible"]

_log = logging.getLogger(__name__)

ENCODING = "latin-1"
"""How fusepy makes text of names: each byte a character, so that any name comes through."""

OPERATIONS = (
    "getattr mknod mkdir unlink rmdir rename symlink readlink link chmod chown truncate utimens "
    "setxattr getxattr listxattr removexattr statfs open create read write flush fsync release "
    "opendir readdir releasedir fsyncdir init".split()
)
"""What is served. libfuse answers the rest with ENOSYS, and the kernel does without: it checks
permissions by itself (access, default_permissions), and keeps locks by itself (lock, flock)."""

_INTERRUPTIBLE = frozenset(
    {"getattr", "readlink", "getxattr", "listxattr", "open", "opendir", "read", "readdir"}
)

# By the opcodes of the requests that they come from, as far as that can be told.
_SETATTR = dict.fromkeys(("chmod", "chown", "truncate", "utimens"), Opcode.SETATTR)
_OPCODES = {name: _SETATTR.get(name) or Opcode[name.upper()] for name in OPERATIONS}

_RECORDS = 128  # of a directory at a time: what libfuse has room for in one answer, about
_HELD_MAX = 4096  # nodes; those of programs that set the times of whole trees


class Caller(NamedTuple):
    """Who asks: struct fuse_context."""

    uid: int
    gid: int
    pid: int


class FailedError(Exception):
    """An operation failed; it was logged, and `errno` is to be answered."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class Record(NamedTuple):
    """One name of a directory; `offset` is where the next one begins."""

    name: str
    attributes: dict[str, int]
    offset: int


Handler = Callable[..., Awaitable[Any]]


def interruptible(operation: str, arguments: tuple[Any, ...]) -> bool:
    """Tell whether an operation may be ended half done: looking and reading, and nothing else."""
    truncates = operation == "open" and arguments[1] & os.O_TRUNC
    return operation in _INTERRUPTIBLE and not truncates


class PortableAdapter:
    """Serves one mount, on the loop.

    Attributes:
        initialized: set when libfuse and the kernel have agreed.
        agreed: what another worker would have to know; nothing, since none can go on.
        requests: how many operations came in.
        statistics: what became of them.
    """

    agreed = None

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._handlers: dict[str, Handler] = {
            name: getattr(self, f"_{name}") for name in OPERATIONS
        }
        self._uniques = itertools.count(1)
        self._reads: dict[int, asyncio.Future[bytes]] = {}
        self._held: deque[int] = deque()
        self.initialized = asyncio.Event()
        self.requests = 0
        self.statistics = KernelStatistics()
        fs.attach(self)

    async def serve(self, caller: Caller, operation: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Do one operation of struct fuse_operations, with fusepy's arguments and results.

        Raises:
            FailedError: it failed.
        """
        self.requests += 1
        began = perf_counter_ns()
        try:
            return await self._handlers[operation](caller, *arguments)
        except Exception as error:  # noqa: BLE001  one request fails, the mount goes on
            request: dict[str, object] = {"op": operation.upper()}
            if isinstance(arguments[0], str):
                request["path"] = arguments[0].encode(ENCODING).decode(errors="backslashreplace")
            number = report(_log, error, request, {"pid": caller.pid})
            self.statistics.errors[number] += 1
            raise FailedError(number) from None
        finally:
            self.statistics.add(_OPCODES[operation], perf_counter_ns() - began)

    def invalidate(self, node_id: int) -> None:
        """Nothing (fs.core.Kernel): the kernel was told to keep nothing."""

    def close(self) -> None:
        """Give back what is still held."""
        while self._held:
            self._fs.forget(self._held.popleft(), 1)

    async def _init(self, _caller: Caller, _path: str) -> None:
        self.initialized.set()

    # -- paths ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _at(self, path: str) -> AsyncIterator[Found]:
        """Look a path up; hold what is there meanwhile.

        Raises:
            FileSystemError: ENOENT; ENOTDIR.
        """
        held: list[int] = []
        found: Found | None = None
        try:
            for name in filter(None, path.encode(ENCODING).split(b"/")):
                child = await self._child(held[-1] if held else ROOT_ID, name)
                found = self._fs.remember(child)
                held.append(child.node.id)
            yield await self._described(ROOT_ID) if found is None else found
        finally:
            for node_id in reversed(held):
                self._fs.forget(node_id, 1)

    async def _child(self, parent_id: int, name: bytes) -> Found:
        found = self._fs.names.lookup_nowait(parent_id, name)
        if found is None:
            found = await self._fs.names.lookup(parent_id, name)
        if not isinstance(found, Found):
            raise FileSystemError(ENOENT, f"{name!r} does not exist")
        return found

    @contextlib.asynccontextmanager
    async def _place(self, path: str) -> AsyncIterator[tuple[int, bytes]]:
        """Look up where a name is or will be: the directory's node, and the name in it."""
        directory, _, name = path.rpartition("/")
        async with self._at(directory) as parent:
            yield parent.node.id, name.encode(ENCODING)

    async def _described(self, node_id: int) -> Found:
        found = self._fs.getattr_nowait(node_id)
        return await self._fs.getattr(node_id) if found is None else found

    def _let_go(self, found: Found) -> None:
        """Nobody refers to what was made; whoever wants it looks it up."""
        self._fs.forget(found.node.id, 0)

    def _node_of(self, handle: int) -> int:
        return self._fs.files.handle(handle).node.id

    # -- names ----------------------------------------------------------------------------------

    async def _mkdir(self, caller: Caller, path: str, mode: int) -> None:
        async with self._place(path) as place:
            made = _made(caller, stat.S_IFDIR | mode)
            self._let_go(await self._fs.names.mkdir(*place, made))

    async def _mknod(self, caller: Caller, path: str, mode: int, device: int) -> None:
        async with self._place(path) as place:
            if self._fs.links is None and stat.S_ISREG(mode):
                found = await self._fs.names.mknod(*place)
            else:
                found = await self._links().mknod(*place, _made(caller, mode, device))
            self._let_go(found)

    async def _symlink(self, caller: Caller, path: str, target: str) -> None:
        made = _made(caller, stat.S_IFLNK)
        async with self._place(path) as place:
            links = self._links()
            self._let_go(await links.symlink(*place, target.encode(ENCODING), made))

    async def _readlink(self, _caller: Caller, path: str) -> str:
        links = self._links()
        async with self._at(path) as found:
            target = links.readlink_nowait(found.node.id)
            if target is None:
                target = await links.readlink(found.node.id)
        return target.decode(ENCODING)

    def _links(self) -> Links:
        if self._fs.links is None:
            raise FileSystemError(EPERM, "links and special files are made with -o posix")
        return self._fs.links

    async def _link(self, _caller: Caller, path: str, _target: str) -> None:
        raise FileSystemError(EOPNOTSUPP, f"no second name {path!r}: S3 has one key for an object")

    async def _unlink(self, _caller: Caller, path: str) -> None:
        async with self._place(path) as place:
            await self._fs.names.unlink(*place)

    async def _rmdir(self, _caller: Caller, path: str) -> None:
        async with self._place(path) as place:
            await self._fs.names.rmdir(*place)

    async def _rename(self, _caller: Caller, old: str, new: str) -> None:
        async with self._place(old) as source, self._place(new) as target:
            await self._fs.renames.rename(source, target, 0)

    # -- attributes -----------------------------------------------------------------------------

    async def _getattr(
        self, _caller: Caller, path: str | None, handle: int | None = None
    ) -> dict[str, int]:
        if handle is not None:
            return _stat((await self._described(self._node_of(handle))).attributes)
        async with self._at(path or "/") as found:
            return _stat(found.attributes)

    async def _chmod(self, _caller: Caller, path: str, mode: int) -> None:
        await self._set(path, Overrides(0.0, mode=mode))

    async def _chown(self, _caller: Caller, path: str, uid: int, gid: int) -> None:
        """-1 leaves one as it is: chown(2)."""
        owner, group = (None if number == -1 else number for number in (uid, gid))
        await self._set(path, Overrides(0.0, uid=owner, gid=group))

    async def _utimens(
        self, _caller: Caller, path: str, times: tuple[int | None, int | None]
    ) -> None:
        """Nanoseconds since the epoch; None leaves one as it is."""
        await self._set(path, Overrides(0.0, atime=times[0], mtime=times[1]))

    async def _set(self, path: str, overrides: Overrides) -> None:
        async with self._at(path) as found:
            self._hold(await self._fs.setattr(found.node.id, None, overrides))

    def _hold(self, found: Found) -> None:
        """Keep a node that remembers what is not stored, as the kernel's references would."""
        self._held.append(self._fs.remember(found).node.id)
        while len(self._held) > _HELD_MAX:
            self._fs.forget(self._held.popleft(), 1)

    async def _truncate(
        self, _caller: Caller, path: str | None, size: int, handle: int | None = None
    ) -> None:
        if handle is not None:
            await self._fs.setattr(self._node_of(handle), size, None)
            return
        async with self._at(path or "/") as found:
            await self._fs.setattr(found.node.id, size, None)

    # -- extended attributes --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _attributes(self, path: str) -> AsyncIterator[tuple[Xattrs, int]]:
        """Look a path up, and what it has; ENOSYS is for the kernel, which will not ask again."""
        xattrs = self._fs.xattrs
        if xattrs is None:
            raise FileSystemError(ENOSYS, "attributes are kept with -o posix")
        async with self._at(path) as found:
            if not xattrs.is_fresh(found.node.id):
                await xattrs.look(found.node.id)
            yield xattrs, found.node.id

    async def _setxattr(
        self, caller: Caller, path: str, name: str, value: bytes, flags: int
    ) -> None:
        async with self._attributes(path) as (xattrs, node_id):
            xattrs.set(node_id, name.encode(ENCODING), value, flags, kill_setgid=bool(caller.uid))

    async def _getxattr(self, _caller: Caller, path: str, name: str) -> bytes:
        async with self._attributes(path) as (xattrs, node_id):
            return xattrs.get(node_id, name.encode(ENCODING))

    async def _listxattr(self, _caller: Caller, path: str) -> list[str]:
        async with self._attributes(path) as (xattrs, node_id):
            return [name.decode(ENCODING) for name in xattrs.names(node_id)]

    async def _removexattr(self, _caller: Caller, path: str, name: str) -> None:
        async with self._attributes(path) as (xattrs, node_id):
            xattrs.remove(node_id, name.encode(ENCODING))

    # -- the whole ------------------------------------------------------------------------------

    async def _statfs(self, _caller: Caller, _path: str) -> dict[str, int]:
        volume = self._fs.statfs()
        return {
            **dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), volume.blocks),
            **dict.fromkeys(("f_files", "f_ffree", "f_favail"), volume.files),
            **dict.fromkeys(("f_bsize", "f_frsize"), volume.block_size),
            "f_namemax": volume.name_max,
        }

    # -- files ----------------------------------------------------------------------------------

    async def _open(self, caller: Caller, path: str, flags: int) -> int:
        async with self._at(path) as found:
            opened = await self._fs.files.open(found.node.id, flags, caller.pid)
            if flags & os.O_TRUNC:
                self._kill_privileges(caller, found.node.id)
            return opened.handle

    async def _create(self, caller: Caller, path: str, mode: int, flags: int) -> int:
        made = _made(caller, mode)
        async with self._place(path) as place:
            return (await self._fs.files.create(*place, flags, caller.pid, made))[1].handle

    def _kill_privileges(self, caller: Caller, node_id: int) -> None:
        """Take setuid and setgid away from what somebody else than root changes.

        That the kernel wants it is among the flags that libfuse does not pass on.
        """
        if caller.uid:
            self._fs.kill_privileges(node_id)

    async def _read(
        self, _caller: Caller, _path: str | None, size: int, offset: int, handle: int
    ) -> bytes:
        unique = next(self._uniques)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._reads[unique] = answered
        try:
            work = self._fs.files.read(handle, unique, offset, size, self)
            if work is not None:
                await work
            return await answered
        finally:
            del self._reads[unique]
            if answered.cancelled():
                self._fs.files.interrupt(unique)

    def reply(self, unique: int, *body: memoryview) -> None:
        """Answer a READ (transfer.readstream.Answer)."""
        answered = self._reads.get(unique)
        if answered is not None and not answered.done():
            answered.set_result(b"".join(body))

    def fail(self, unique: int, error: ServeError) -> None:
        """Have a READ fail (transfer.readstream.Answer)."""
        answered = self._reads.get(unique)
        if answered is not None and not answered.done():
            answered.set_exception(error)

    async def _write(
        self, caller: Caller, _path: str | None, data: bytes, offset: int, handle: int
    ) -> int:
        if self._fs.links is not None:
            self._kill_privileges(caller, self._node_of(handle))
        rest = memoryview(data)
        taken = self._fs.files.write_nowait(handle, offset, rest)
        if taken < len(rest):
            await self._fs.files.write(handle, offset + taken, rest[taken:])
        return len(data)

    async def _flush(self, caller: Caller, _path: str | None, handle: int) -> None:
        await self._fs.files.flush(handle, caller.pid)

    async def _fsync(
        self, _caller: Caller, _path: str | None, _data_only: int, handle: int
    ) -> None:
        await self._fs.files.fsync(handle)

    async def _release(self, _caller: Caller, _path: str | None, handle: int) -> None:
        await self._fs.files.release(handle)

    # -- directories ----------------------------------------------------------------------------

    async def _opendir(self, _caller: Caller, path: str) -> int:
        async with self._at(path) as found:
            return self._fs.directories.opendir(found.node.id)

    async def _readdir(
        self, _caller: Caller, _path: str | None, handle: int, offset: int
    ) -> list[Record]:
        """Return the next records; none is the end."""
        found: list[Record] = []
        async with contextlib.aclosing(self._fs.directories.entries(handle, offset)) as entries:
            async for entry in entries:
                kind = {"st_ino": entry.ino, "st_mode": entry.kind << _KIND_SHIFT}
                found.append(Record(entry.name.decode(ENCODING), kind, entry.offset))
                if len(found) == _RECORDS:
                    break
        return found

    async def _releasedir(self, _caller: Caller, _path: str | None, handle: int) -> None:
        self._fs.directories.releasedir(handle)

    async def _fsyncdir(
        self, _caller: Caller, _path: str | None, _data_only: int, handle: int
    ) -> None:
        await self._fs.fsyncdir(handle)


_KIND_SHIFT = 12  # dirent.h: DTTOIF


def _made(caller: Caller, mode: int, device: int = 0) -> Made:
    """Return what is made; the kernel has taken the umask away already."""
    return Made(mode, 0, caller.uid, caller.gid, device)


def _stat(attributes: Attributes) -> dict[str, int]:
    """Return struct stat by the names that fusepy has for it; times in nanoseconds."""
    shown = {f"st_{name}": value for name, value in attributes._asdict().items()}
    shown["st_blocks"] = -(-attributes.size // 512)  # of 512 bytes, whatever the block size is
    return shown
