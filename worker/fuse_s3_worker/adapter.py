"""Between the kernel's protocol and the file system: a thin skin that knows both.

A request that can be answered at once is answered in the callback that read it. Only what has to
wait for the store becomes a task, remembered by the request's unique number so that an INTERRUPT
can end it; what must not end half done (closing, storing, deleting) is not interrupted.
"""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from time import perf_counter_ns
from typing import Any

from fuse_s3_worker.adapter_linking import LinkingHandlers
from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.failed import report
from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.directories import DirectoryEntry
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.handles import Opened
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fuse import replies, requests
from fuse_s3_worker.fuse.abi import (
    IN_HEADER,
    OPEN_KILL_SUIDGID,
    WRITE_KILL_SUIDGID,
    Fattr,
    FopenFlag,
    Opcode,
)
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.fuse.negotiate import (
    WANTED,
    WANTED_WITH_POSIX,
    Negotiated,
    UnsupportedKernelError,
    negotiate,
)
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header, MalformedRequestError
from fuse_s3_worker.log import event
from fuse_s3_worker.statistics import KernelStatistics

__all__ = ["Adapter"]

_log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_FOREVER = float("inf")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC

Work = Coroutine[Any, Any, None]


class Adapter(LinkingHandlers):
    """Serves one connection.

    Attributes:
        initialized: set when INIT was answered.
        agreed: what was agreed then.
        requests: how many requests came in.
        statistics: what became of them.
    """

    def __init__(self, channel: Channel, fs: FileSystem) -> None:
        self._channel = channel
        self._fs = fs
        self._posix = fs.links is not None
        self._tasks: dict[int, tuple[asyncio.Task[None], bool]] = {}
        self._handlers: dict[str, Callable[..., Work | None]] = {
            row.handler: getattr(self, f"_{row.handler}") for row in SERVED.values()
        }
        self.initialized = asyncio.Event()
        self.agreed: Negotiated | None = None
        self.requests = 0
        self.statistics = KernelStatistics()
        self._began = 0  # when the last request came
        self._held: list[bytes] | None = None
        self._silent = False
        fs.attach(self)

    # -- one request ----------------------------------------------------------------------------

    def dispatch(self, request: memoryview) -> None:
        """Serve one request: decode, look up, call, and answer or remember."""
        self.requests += 1
        began = self._began = perf_counter_ns()
        try:
            header = Header.decode(request)
        except MalformedRequestError as error:
            event(_log, logging.ERROR, "malformed_request", {"reason": error})
            return  # without a header there is nobody to answer
        row = SERVED.get(header.opcode)
        if row is None:
            self._channel.fail(header.unique, errno.ENOSYS)
            self.statistics.errors[errno.ENOSYS] += 1
            return
        try:
            message = row.decode(request[IN_HEADER.size :])
            if self._held is not None and self._begins_writing(header, message):
                self._held.append(bytes(request))
                return
            work = self._handlers[row.handler](header, message)
        except Exception as error:  # noqa: BLE001  one request fails, the mount goes on
            self._failed(header, error, answer=row.replies)
        else:
            if work is not None:
                interruptible = row.interruptible and not _truncates(message)
                self._start(header, work, began, interruptible=interruptible)
                return
        if header.opcode != Opcode.READ:  # those are answered one by one, whoever does it
            self.statistics.add(header.opcode, perf_counter_ns() - began)

    def _start(self, header: Header, work: Work, began: int, *, interruptible: bool) -> None:
        task = asyncio.create_task(self._finish(header, work))
        self._tasks[header.unique] = task, interruptible
        task.add_done_callback(lambda task: self._ended(header, work, began, task))

    def _ended(self, header: Header, work: Work, began: int, task: asyncio.Task[None]) -> None:
        """Answer for a task that was cancelled: before its first step it runs no code at all."""
        self._tasks.pop(header.unique, None)
        if header.opcode == Opcode.READ:
            self.statistics.add_waiting(Opcode.READ, header.unique)
        else:
            self.statistics.add(header.opcode, perf_counter_ns() - began)
        if task.cancelled():
            work.close()
            if not self._silent:
                self._channel.fail(header.unique, errno.EINTR)
                self.statistics.errors[errno.EINTR] += 1

    async def _finish(self, header: Header, work: Work) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001
            self._failed(header, error, answer=header.opcode != Opcode.RELEASE)
        if header.opcode == Opcode.RELEASE:
            self._channel.reply(header.unique)

    def _failed(self, header: Header, error: Exception, *, answer: bool = True) -> None:
        """Answer with the errno and write the one line about it."""
        if isinstance(error, MalformedRequestError):
            error = FileSystemError(errno.EINVAL, str(error), logging.ERROR)
        name = Opcode(header.opcode).name if header.opcode in set(Opcode) else str(header.opcode)
        number = report(_log, error, {"op": name, "node": header.nodeid}, {"pid": header.pid})
        if answer:
            self._channel.fail(header.unique, number)
        self.statistics.add_waiting(Opcode.READ, header.unique)
        self.statistics.errors[number] += 1

    # -- the end --------------------------------------------------------------------------------

    def hold_writers(self) -> None:
        """Leave unanswered what would begin to change a file: it is for the next worker."""
        self._held = []

    def let_writers_in(self) -> None:
        """Serve what was held: there will not be another worker now."""
        held, self._held = self._held or [], None
        for request in held:
            self.dispatch(memoryview(request))

    def _begins_writing(self, header: Header, message: object) -> bool:
        files = self._fs.files
        match message:
            case requests.Create():
                return True
            case requests.Open():
                return header.opcode == Opcode.OPEN and bool(message.flags & _WRITING)
            case requests.Write():
                return not files.changed(message.fh)
            case requests.Setattr():
                return message.size is not None and not self._fs.changed(header.nodeid)
            case _:
                return False

    def leave_to_next(self) -> None:
        """Answer nothing any more but what is finished anyway: the kernel will ask again."""
        self._silent = True

    async def drain(self) -> None:
        """Wait for what must be finished; end what nobody waits for any more."""
        for task, interruptible in list(self._tasks.values()):
            if interruptible:
                task.cancel()
        while self._tasks:
            await asyncio.wait([task for task, _ in self._tasks.values()])

    def invalidate(self, node_id: int) -> None:
        """Tell the kernel that attributes and pages of a node are out of date (fs.core.Kernel)."""
        # Attributes only (-1): dropping pages waits for READs under way, which wait for us. The
        # pages go when the next look shows another time or size (AUTO_INVAL_DATA).
        self._channel.notify(replies.notify_inval_inode(node_id, offset=-1))

    # -- the connection -------------------------------------------------------------------------

    def _init(self, header: Header, init: requests.Init) -> None:
        try:
            reply, agreed = negotiate(init, WANTED_WITH_POSIX if self._posix else WANTED)
        except UnsupportedKernelError as error:
            raise FileSystemError(errno.EPROTO, str(error), logging.ERROR) from None
        self._channel.reply(header.unique, reply)
        if agreed is not None:
            event(_log, logging.DEBUG, "init", {"minor": agreed.minor, "flags": agreed.flags})
            self.agreed = agreed
            self.initialized.set()

    def _destroy(self, header: Header, _: requests.Empty) -> None:
        self._channel.reply(header.unique)

    def _interrupt(self, _: Header, interrupt: requests.Interrupt) -> None:
        """End the request that its caller gave up; INTERRUPT itself is never answered."""
        if self._fs.files.interrupt(interrupt.unique):
            return
        task, interruptible = self._tasks.get(interrupt.unique, (None, False))
        if task is not None and interruptible:
            task.cancel()

    def _forget(self, header: Header, forget: requests.Forget) -> None:
        self._fs.forget(header.nodeid, forget.nlookup)

    def _batch_forget(self, _: Header, batch: requests.BatchForget) -> None:
        for node_id, nlookup in batch.nodes:
            self._fs.forget(node_id, nlookup)

    def _statfs(self, header: Header, _: requests.Empty) -> None:
        volume = self._fs.statfs()
        self._channel.reply(
            header.unique,
            replies.Statfs(
                blocks=volume.blocks,
                bfree=volume.blocks,
                bavail=volume.blocks,
                files=volume.files,
                ffree=volume.files,
                bsize=volume.block_size,
                namelen=volume.name_max,
                frsize=volume.block_size,
            ).encode(),
        )

    def _access(self, header: Header, _: requests.Access) -> None:
        self._channel.reply(header.unique)  # default_permissions: the kernel has checked

    # -- names ----------------------------------------------------------------------------------

    def _lookup(self, header: Header, named: requests.Named) -> Work | None:
        found = self._fs.names.lookup_nowait(header.nodeid, named.name)
        if found is None:
            return self._lookup_slowly(header, named.name)
        self._reply_entry(header, found)
        return None

    async def _lookup_slowly(self, header: Header, name: bytes) -> None:
        self._reply_entry(header, await self._fs.names.lookup(header.nodeid, name))

    def _reply_entry(self, header: Header, found: Found | float) -> None:
        if not isinstance(found, Found):
            self._channel.reply(header.unique, replies.negative_entry(_lifetime(found)))
            return
        self._channel.reply(header.unique, _entry(self._fs.remember(found)).encode())

    async def _mkdir(self, header: Header, mkdir: requests.Mkdir) -> None:
        made = Made(stat.S_IFDIR | mkdir.mode, mkdir.umask, header.uid, header.gid)
        names, resent = self._fs.names, header.resent
        self._reply_entry(header, await names.mkdir(header.nodeid, mkdir.name, made, resent=resent))

    async def _unlink(self, header: Header, named: requests.Named) -> None:
        await self._fs.names.unlink(header.nodeid, named.name, resent=header.resent)
        self._channel.reply(header.unique)

    async def _rmdir(self, header: Header, named: requests.Named) -> None:
        await self._fs.names.rmdir(header.nodeid, named.name, resent=header.resent)
        self._channel.reply(header.unique)

    async def _rename(self, header: Header, rename: requests.Rename) -> None:
        old, new = (header.nodeid, rename.name), (rename.newdir, rename.newname)
        await self._fs.renames.rename(old, new, rename.flags, resent=header.resent)
        self._channel.reply(header.unique)

    # -- attributes -----------------------------------------------------------------------------

    def _getattr(self, header: Header, _: requests.Getattr) -> Work | None:
        found = self._fs.getattr_nowait(header.nodeid)
        if found is None:
            return self._getattr_slowly(header)
        self._reply_attr(header, found)
        return None

    async def _getattr_slowly(self, header: Header) -> None:
        self._reply_attr(header, await self._fs.getattr(header.nodeid))

    async def _setattr(self, header: Header, setattr_in: requests.Setattr) -> None:
        overrides = _overrides(setattr_in)
        if Fattr.KILL_SUIDGID in setattr_in.valid:
            self._fs.kill_privileges(header.nodeid)
        self._reply_attr(header, await self._fs.setattr(header.nodeid, setattr_in.size, overrides))

    def _reply_attr(self, header: Header, found: Found) -> None:
        lifetime = _lifetime(found.seconds)
        self._channel.reply(header.unique, replies.attr_out(_attr(found.attributes), lifetime))

    # -- files ----------------------------------------------------------------------------------

    async def _open(self, header: Header, message: requests.Open) -> None:
        opened = await self._fs.files.open(header.nodeid, message.flags, header.pid)
        if message.open_flags & OPEN_KILL_SUIDGID and _truncates(message):
            self._fs.kill_privileges(header.nodeid)
        self._channel.reply(header.unique, replies.open_out(opened.handle, _fopen_flags(opened)))

    async def _create(self, header: Header, create: requests.Create) -> None:
        made = Made(create.mode, create.umask, header.uid, header.gid)
        found, opened = await self._fs.files.create(
            header.nodeid, create.name, create.flags, header.pid, made
        )
        entry = _entry(self._fs.remember(found)).encode()
        flags = _fopen_flags(opened)
        self._channel.reply(header.unique, entry, replies.open_out(opened.handle, flags))

    def _read(self, header: Header, read: requests.Read) -> Work | None:
        self.statistics.waiting[header.unique] = self._began
        return self._fs.files.read(read.fh, header.unique, read.offset, read.size, self)

    def reply(self, unique: int, *body: memoryview) -> None:
        """Answer a READ (transfer.readstream.Answer)."""
        self._channel.reply(unique, *body)
        for piece in body:
            self.statistics.bytes_read += len(piece)
        self.statistics.add_waiting(Opcode.READ, unique)

    def fail(self, unique: int, error: ServeError) -> None:
        """Answer a READ that cannot be served, and log why (transfer.readstream.Answer)."""
        number = report(_log, error, {"op": "READ"})
        self._channel.fail(unique, number)
        self.statistics.errors[number] += 1
        self.statistics.add_waiting(Opcode.READ, unique)

    def _write(self, header: Header, write: requests.Write) -> Work | None:
        if write.flags & WRITE_KILL_SUIDGID and self._posix:
            self._fs.kill_privileges(header.nodeid)
        mapped = write.mapped
        self.statistics.bytes_written += len(write.data)
        taken = self._fs.files.write_nowait(write.fh, write.offset, write.data, mapped=mapped)
        if taken < len(write.data):
            # The request's buffer is used again as soon as this returns.
            rest = memoryview(bytes(write.data[taken:]))
            return self._write_slowly(header, write, write.offset + taken, rest)
        self._channel.reply(header.unique, replies.write_out(len(write.data)))
        return None

    async def _write_slowly(
        self, header: Header, write: requests.Write, offset: int, rest: memoryview
    ) -> None:
        size = offset - write.offset + len(rest)
        await self._fs.files.write(write.fh, offset, rest, mapped=write.mapped)
        self._channel.reply(header.unique, replies.write_out(size))

    def _lseek(self, header: Header, seek: requests.Lseek) -> None:
        offset = self._fs.ranges.lseek(seek.fh, seek.offset, seek.whence)
        self._channel.reply(header.unique, replies.lseek_out(offset))

    async def _fallocate(self, header: Header, room: requests.Fallocate) -> None:
        await self._fs.ranges.fallocate(room.fh, room.offset, room.length, room.mode)
        self._channel.reply(header.unique)

    async def _copy_file_range(self, header: Header, copy: requests.CopyFileRange) -> None:
        self._channel.reply(header.unique, replies.write_out(await self._copied(copy)))

    async def _copy_file_range_64(self, header: Header, copy: requests.CopyFileRange) -> None:
        self._channel.reply(header.unique, replies.copy_file_range_out(await self._copied(copy)))

    async def _copied(self, copy: requests.CopyFileRange) -> int:
        return await self._fs.ranges.copy(
            copy.fh_in, copy.off_in, copy.fh_out, copy.off_out, copy.len
        )

    async def _flush(self, header: Header, flush: requests.Flush) -> None:
        await self._fs.files.flush(flush.fh, header.pid)
        self._channel.reply(header.unique)

    async def _fsync(self, header: Header, fsync: requests.Fsync) -> None:
        await self._fs.files.fsync(fsync.fh)
        self._channel.reply(header.unique)

    async def _release(self, _: Header, release: requests.Release) -> None:
        await self._fs.files.release(release.fh)

    # -- directories ----------------------------------------------------------------------------

    def _opendir(self, header: Header, _: requests.Open) -> None:
        handle = self._fs.directories.opendir(header.nodeid)
        self._channel.reply(header.unique, replies.open_out(handle, FopenFlag(0)))

    def _releasedir(self, header: Header, release: requests.Release) -> None:
        self._fs.directories.releasedir(release.fh)
        self._channel.reply(header.unique)

    async def _fsyncdir(self, header: Header, fsync: requests.Fsync) -> None:
        await self._fs.fsyncdir(fsync.fh)
        self._channel.reply(header.unique)

    async def _readdir(self, header: Header, read: requests.Read) -> None:
        await self._fill(header, read, plus=False)

    async def _readdirplus(self, header: Header, read: requests.Read) -> None:
        await self._fill(header, read, plus=True)

    async def _fill(self, header: Header, read: requests.Read, *, plus: bool) -> None:
        buffer = replies.DirentBuffer(read.size)
        records, last = self._fs.directories.entries(read.fh, read.offset), None
        async with contextlib.aclosing(records):
            async for record in records:
                if not self._add_record(buffer, read.fh, record, plus=plus):
                    break
                last = record
        if last is not None and not last.is_dot:
            self._fs.directories.reached(read.fh, last)
        self._channel.reply(header.unique, buffer.encode())

    def _add_record(
        self, buffer: replies.DirentBuffer, fh: int, record: DirectoryEntry, *, plus: bool
    ) -> bool:
        if not plus:
            return buffer.add(record.ino, record.offset, record.kind, record.name)
        if record.is_dot:
            return buffer.add_unnoticed(record.ino, record.offset, record.kind, record.name)
        found = self._fs.directories.take(fh, record)
        if found is None:
            return buffer.add_unnoticed(record.ino, record.offset, record.kind, record.name)
        entry = _entry(found)
        fits = buffer.add(record.ino, record.offset, record.kind, record.name, entry)
        if fits:
            self._fs.remember(found)
        else:
            self._fs.forget(found.node.id, 0)  # nobody refers to it, if it is new
        return fits


def _truncates(message: object) -> bool:
    """Tell whether an OPEN ends what was written so far, which is not to be left half done."""
    return isinstance(message, requests.Open) and bool(message.flags & os.O_TRUNC)


def _lifetime(seconds: float) -> int:
    """Return a lifetime as nanoseconds for the kernel."""
    return replies.FOREVER if seconds == _FOREVER else int(seconds * _SECOND)


def _attr(attributes: Attributes) -> replies.Attr:
    return replies.Attr(*attributes)


def _entry(found: Found) -> replies.Entry:
    lifetime = _lifetime(found.seconds)
    return replies.Entry(found.node.id, 0, lifetime, lifetime, _attr(found.attributes))


def _fopen_flags(opened: Opened) -> FopenFlag:
    flags = FopenFlag(0)
    if opened.keep_cache:
        flags |= FopenFlag.KEEP_CACHE
    if opened.read_only:
        flags |= FopenFlag.NOFLUSH  # nothing to store: spares a request for each close
    return flags


def _overrides(message: requests.Setattr) -> Overrides | None:
    """Return what SETATTR sets beside the size; the file system adds until when it is shown."""
    now = Fattr.ATIME_NOW | Fattr.MTIME_NOW
    relevant = Fattr.MODE | Fattr.UID | Fattr.GID | Fattr.ATIME | Fattr.MTIME | now
    if not message.valid & relevant:
        return None
    return Overrides(0.0, message.mode, message.uid, message.gid, message.atime, message.mtime)
