"""Open files: reading a version, writing a new one, and when it becomes visible."""

import errno
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.opener import Opener
from fuse_s3_worker.fs.recording import HandleRecord, Remains
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.readstream import Answer, ReadStream
from fuse_s3_worker.transfer.upload import Upload

__all__ = ["Files", "Opened"]

# fcntl.h, as the kernel passes them
_WRITING = os.O_WRONLY | os.O_RDWR


class Handle:
    """One open file description."""

    __slots__ = ("node", "opener", "reads", "record", "stream", "writes")

    def __init__(self, node: Node, record: HandleRecord) -> None:
        flags = record.flags
        self.node = node
        self.record = record
        self.reads = flags & os.O_ACCMODE != os.O_WRONLY
        self.writes = bool(flags & _WRITING)
        self.stream: ReadStream | None = None
        self.opener: Opener | None = None


class Opened(NamedTuple):
    """A new handle, and whether the kernel may keep the pages it has of the file."""

    handle: int
    keep_cache: bool
    read_only: bool


class Files:
    """Operations on files and their handles."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._handles: dict[int, Handle] = {}
        self.next_number = 1

    def __len__(self) -> int:
        return len(self._handles)

    # -- opening --------------------------------------------------------------------------------

    async def open(self, node_id: int, flags: int, pid: int) -> Opened:
        """Open a file.

        Raises:
            FileSystemError: EISDIR; ESTALE, its name leads to another node by now, which the
                kernel then asks for (open(2) looks up again by itself).
            StoreError: the store cannot be asked whether this is the newest version.
        """
        node = self._core.node(node_id)
        if node.is_directory:
            raise FileSystemError(errno.EISDIR, f"{node.key!r} is a directory")
        node.pins += 1
        try:
            truncates = bool(flags & os.O_TRUNC and flags & _WRITING)
            await self._refresh(node, truncates=truncates)
            if truncates:
                await self._upload(node).truncate(0)
        except BaseException:
            self._core.nodes.unpin(node)
            raise
        return self._opened(node, flags, pid)

    async def _refresh(self, node: Node, *, truncates: bool) -> None:
        """See to it that a node is opened as what its name stands for now."""
        core = self._core
        if node.upload is None:
            await core.refresh(node)
        if truncates and node.upload is None and node.being_read and not node.gone:
            core.nodes.detach(node)  # who reads it goes on with what it was
        if node.gone and not node.unlinked:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} is another file now")

    async def create(
        self, parent_id: int, name: bytes, flags: int, pid: int
    ) -> tuple[Found, Opened]:
        """Make a file and open it; it is seen here at once, and in the bucket when it is closed."""
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        node = core.nodes.child(parent, text, directory=False)
        if node.upload is None and node.being_read:
            core.nodes.detach(node)
            node = core.nodes.child(parent, text, directory=False)
        node.pins += 1
        if node.upload is None:
            node.info = None
            core.recorder.changes(node)
            node.upload = Upload(core.uploads, node.key)
        else:
            await node.upload.truncate(0)
        return core.found(node), self._opened(node, flags, pid)

    def _opened(self, node: Node, flags: int, pid: int) -> Opened:
        handle = self._add(node, HandleRecord(self.next_number, node.id, flags, pid))
        self._core.recorder.opened(handle.record, node.info)
        etag = node.info.etag if node.info and node.upload is None else None
        kept = etag is not None and etag == node.cached_etag
        if not kept:
            node.cached_etag = None  # the kernel drops its pages when it sees that
        return Opened(handle.record.number, kept, not handle.writes)

    def _add(self, node: Node, record: HandleRecord) -> Handle:
        handle = Handle(node, record)
        node.readers += handle.reads
        node.writers += handle.writes
        if handle.writes:
            handle.opener = Opener.of(record.pid)
        self.next_number = max(self.next_number, record.number + 1)
        self._handles[record.number] = handle
        return handle

    def _upload(self, node: Node) -> Upload:
        """Return the upload of a node, which goes on from what the bucket has."""
        if node.upload is None:
            node.upload = Upload(self._core.uploads, node.key, node.info)
            if node.unlinked:
                node.upload.abandon()
        if not node.upload.dirty:
            self._core.recorder.changes(node)  # before anything is: whoever asks for it means to
        return node.upload

    def _handle(self, number: int) -> Handle:
        handle = self._handles.get(number)
        if handle is None:
            raise FileSystemError(errno.EBADF, f"no open file {number}")
        return handle

    # -- reading --------------------------------------------------------------------------------

    def read(self, number: int, unique: int, offset: int, size: int, answer: Answer) -> None:
        """Answer READ `unique`, now or later.

        Raises:
            FileSystemError: EBADF; EBUSY, the file is being written and not in memory.
        """
        handle = self._handle(number)
        if not handle.reads:
            raise FileSystemError(errno.EBADF, "not open for reading")
        upload = handle.node.upload
        if upload is not None and upload.dirty and _sees(handle, upload):
            answer.reply(unique, *upload.read(offset, size))
            return
        if handle.stream is None:
            handle.stream = self._stream(handle, answer)
        handle.stream.read(unique, offset, size)

    def _stream(self, handle: Handle, answer: Answer) -> ReadStream:
        node = handle.node
        if node.info is None:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} was not stored")

        source = _Source(self, handle, first=node.cached_etag is None)
        node.cached_etag = node.info.etag
        self._core.recorder.reads(node)
        return self._core.readers.open(node.info, answer, source)

    async def newest(self, handle: Handle, *, first: bool) -> ObjectInfo:
        """Return the version of today of a file that `handle` was the `first` to read."""
        node = handle.node
        if first and not any(h.stream for h in self._of(node) if h is not handle):
            node.cached_etag = None  # nobody has read anything yet
        return await self._newest(node)

    def outdated(self, node: Node) -> None:
        """Have the store asked when the file is looked at next."""
        if node.parent is not None and not node.gone:
            self._core.metadata.forget(node.parent.key, node.name)

    def _of(self, node: Node) -> list[Handle]:
        return [handle for handle in self._handles.values() if handle.node is node]

    async def _newest(self, node: Node) -> ObjectInfo:
        """Find the version of today, and tell the kernel that the file is another.

        Raises:
            FileSystemError: ESTALE, there is none, or something of the one before was read.
        """
        core = self._core
        if node.parent is None or node.gone:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} is gone")
        known = await core.look(node.parent, node.name, fresh=True)
        if known.entry is None or known.entry.info is None or known.entry.directory:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} was removed", logging.WARNING)
        info = known.entry.info
        if not core.update(node, info):
            text = f"{node.key!r} was replaced, and something of it was read before"
            raise FileSystemError(errno.ESTALE, text, logging.WARNING)
        node.cached_etag = info.etag
        core.recorder.reads(node)
        if core.kernel is not None:
            core.kernel.invalidate(node.id)
        return info

    def interrupt(self, unique: int) -> bool:
        """Give up a READ that waits; tell whether there was one."""
        streams = (handle.stream for handle in self._handles.values() if handle.stream)
        return any(stream.interrupt(unique) for stream in streams)

    # -- writing --------------------------------------------------------------------------------

    def write_nowait(self, number: int, offset: int, data: memoryview) -> int:
        """Take what can be taken at once; return how many bytes that is.

        Raises:
            FileSystemError: EBADF, or what cannot be written like this.
            StoreError: the upload has failed already.
        """
        return self._writable(number).write_nowait(offset, data)

    async def write(self, number: int, offset: int, data: memoryview) -> None:
        """Take the rest, as memory allows."""
        await self._writable(number).write(offset, data)

    def _writable(self, number: int) -> Upload:
        handle = self._handle(number)
        if not handle.writes:
            raise FileSystemError(errno.EBADF, "not open for writing")
        return self._upload(handle.node)

    async def truncate(self, node: Node, size: int) -> None:
        """Set the size of a file; if nobody has it open for writing, it is stored at once."""
        if node.is_directory:
            raise FileSystemError(errno.EISDIR, f"{node.key!r} is a directory")
        node.pins += 1
        try:
            await self._upload(node).truncate(size)
            if not node.writers:
                await self._commit(node)
        finally:
            if not node.writers:
                await self._end_upload(node)
            self._core.nodes.unpin(node)

    async def flush(self, number: int, pid: int) -> None:
        """A descriptor was closed: make what was written visible, and say whether that worked.

        Raises:
            StoreError: it did not, and the bucket has what it had before.
        """
        handle = self._handle(number)
        if handle.opener is not None and not handle.opener.leaves_to(pid):
            await self._commit(handle.node)

    async def fsync(self, number: int) -> None:
        """Make what was written visible, and return when the store has it."""
        if self._handle(number).writes:
            await self._commit(self._handle(number).node)

    async def release(self, number: int) -> None:
        """The last descriptor is closed; nobody waits for this."""
        handle = self._handles.pop(number, None)
        if handle is None:
            return
        if handle.stream is not None:
            handle.stream.close()
        node = handle.node
        node.readers -= handle.reads
        node.writers -= handle.writes
        try:
            if handle.writes:
                await self._commit(node)
        finally:
            if handle.writes and not node.writers:
                await self._end_upload(node)
            self._core.recorder.released(number)
            self._core.nodes.unpin(node)

    async def _commit(self, node: Node) -> None:
        """Store what was written; a failure is told to everybody who closes the file."""
        upload = node.upload
        if upload is None or not (upload.dirty or upload.failed):
            return
        info = await upload.commit()
        if info is None or node.parent is None or node.unlinked:
            return
        node.info = info
        node.cached_etag = info.etag
        self._core.recorder.stored(node)
        for handle in self._of(node):
            if handle.stream is not None:
                handle.stream.follow(info)
        if node.gone:
            self._core.metadata.forget(node.parent.key, node.name)
        else:
            self._core.metadata.change(node.parent.key, node.name, Entry.file(info))

    async def _end_upload(self, node: Node) -> None:
        """Nobody writes any more; what was not stored by now is given up."""
        upload, node.upload = node.upload, None
        if upload is None:
            return
        await upload.close()
        if upload.failed is None and not upload.dirty:
            return
        node.cached_etag = None
        if node.parent is not None and not node.gone:
            self._core.metadata.forget(node.parent.key, node.name)

    def changed(self, number: int) -> bool:
        """Tell whether the file of a handle has something that the bucket does not have."""
        return self._handle(number).node.changed

    # -- what survives --------------------------------------------------------------------------

    def open_files(self) -> Iterator[tuple[HandleRecord, Node]]:
        """Yield what is open."""
        return ((handle.record, handle.node) for handle in self._handles.values())

    def restore(self, remains: Remains) -> None:
        """Open what a predecessor had open. What it had not stored is lost, and said to be."""
        self.next_number = remains.next_handle
        for record in remains.handles:
            node = self._core.nodes.get(record.node)
            if node is None:
                continue
            node.pins += 1
            self._add(node, record)
            node.info = remains.versions.get(node.id, node.info)
            if node.info is not None:
                node.info = node.info._replace(key=node.key)
                node.cached_etag = node.info.etag if node.id in remains.read else None
            if node.id in remains.changed and node.upload is None:
                node.upload = self._lost(node)

    def _lost(self, node: Node) -> Upload:
        upload = Upload(self._core.uploads, node.key)
        text = f"{node.key!r} was being written when the worker died: the bucket has what it had"
        upload.failed = FileSystemError(errno.EIO, text, logging.ERROR)
        return upload

    async def close(self) -> None:
        """Give up what is still open: the connection ended before its programs closed it."""
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            if handle.stream is not None:
                handle.stream.close()
            await self._end_upload(handle.node)


class _Source:
    """What the stream of a handle asks (transfer.readstream.Source)."""

    __slots__ = ("_files", "_first", "_handle")

    def __init__(self, files: Files, handle: Handle, *, first: bool) -> None:
        self._files = files
        self._handle = handle
        self._first = first

    async def reopen(self) -> ObjectInfo:
        """Return the version of today."""
        return await self._files.newest(self._handle, first=self._first)

    def outdated(self) -> None:
        """Take note that the file was replaced or removed."""
        self._files.outdated(self._handle.node)


def _sees(handle: Handle, upload: Upload) -> bool:
    """Tell whether a handle reads what is being written and is not stored yet.

    Whoever writes does, and so do the others as long as it looks as if it was going to be stored.
    Only who has begun to read what is merely continued goes on with that, where it is not in
    memory: nothing of it changes.
    """
    if handle.writes or upload.failed is not None:
        return handle.writes
    return handle.stream is None or upload.in_memory or upload.base is None
