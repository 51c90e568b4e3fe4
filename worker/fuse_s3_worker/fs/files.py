"""Open files: reading a version, writing a new one, and when it becomes visible."""

import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator, Iterator

from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.handles import WRITING, Handle, Opened, Source, Work, read_slowly
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.opener import Opener
from fuse_s3_worker.fs.recording import HandleRecord, Remains
from fuse_s3_worker.fs.survivors import Survivors
from fuse_s3_worker.fs.writeback import WriteBack
from fuse_s3_worker.store.types import ObjectInfo, same_version
from fuse_s3_worker.transfer.readstream import Answer, ReadStream
from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["Files"]


class Files:
    """Operations on files and their handles.

    Attributes:
        write_back: what was closed and is to be stored later.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.write_back = WriteBack(core, core.writers.write_back, self)
        self._survivors = Survivors(core.nodes, core.writers)
        self._handles: dict[int, Handle] = {}
        self.next_number = 1

    def __len__(self) -> int:
        return len(self._handles)

    def nodes(self) -> set[Node]:
        """Return the files that are open, or closed and not stored yet."""
        return {handle.node for handle in self._handles.values()} | self.write_back.nodes()

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
            await self._core.settled(node.key)
            truncates = bool(flags & os.O_TRUNC)
            reads = flags & os.O_ACCMODE == os.O_RDONLY
            await self._refresh(node, truncates=truncates, reads=reads)
            if not truncates:
                self._core.check_not_archived(node)
            if truncates:
                async with self._core.claims.changing(node):
                    if flags & WRITING:
                        await self._upload(node).truncate(0)
                    else:  # whose close tells nothing
                        await self._truncate(node, 0)
        except BaseException:
            self._core.nodes.unpin(node)
            raise
        return self._opened(node, flags, pid)

    async def _refresh(self, node: Node, *, truncates: bool, reads: bool) -> None:
        """See to it that a node is opened as what its name stands for now."""
        core = self._core
        if node.upload is None:
            await core.refresh(node, reads=reads)
        replaces = truncates and node.upload is None and not node.writers
        if replaces and node.being_read and not node.gone:
            async with core.claims.changing(node):
                await core.inodes.flush(node)
            core.nodes.detach(node)  # who reads it goes on with what it was
        if node.gone and not node.unlinked:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} is another file now")

    async def create(
        self, parent_id: int, name: bytes, flags: int, pid: int, made: Made | None = None
    ) -> tuple[Found, Opened]:
        """Make a file and open it; it is seen here at once, and in the bucket when it is closed."""
        core = self._core
        async with core.claims.changing(core.directory(parent_id)):
            return await self._create(core.directory(parent_id), name, flags, pid, made)

    async def _create(
        self, parent: Node, name: bytes, flags: int, pid: int, made: Made | None
    ) -> tuple[Found, Opened]:
        core = self._core
        text = core.name(parent, name)
        await core.settled(parent.key + text)
        node = core.nodes.child(parent, text, directory=False)
        if node.upload is None and node.being_read:
            core.nodes.detach(node)
            node = core.nodes.child(parent, text, directory=False)
        node.pins += 1
        if node.upload is None:
            node.info = None
            core.recorder.changes(node)
            node.upload = core.writers.begin(node.key)
            if made is not None:
                core.inodes.made(node, parent, made)
        else:
            await node.upload.truncate(0)
        try:
            if flags & os.O_ACCMODE == os.O_RDONLY and not node.writers:
                # Nothing will be written by who makes it, so its close tells nothing either.
                await self._end_writing(node)
        except BaseException:
            core.nodes.unpin(node)
            raise
        return core.found(node), self._opened(node, flags, pid)

    def _opened(self, node: Node, flags: int, pid: int) -> Opened:
        handle = self._add(node, HandleRecord(self.next_number, node.id, flags, pid))
        self._core.recorder.opened(handle.record, node.info)
        if node.changed:  # by a handle that is closed, and nobody has asked for since
            self._core.recorder.changes(node)
        if handle.reads and node.upload is not None:
            node.upload.expect_reads()
        etag = node.info.etag if node.info and node.upload is None else None
        if etag is not None and node.info is not None and not handle.writes:
            self._core.beginnings.opened(node.info)
        if not (kept := etag is not None and etag == node.cached_etag):
            node.cached_etag = None  # the kernel drops its pages when it sees that
        return Opened(handle.record.number, kept, not (handle.writes or self._core.inodes.late))

    def _add(self, node: Node, record: HandleRecord) -> Handle:
        handle = Handle(node, record)
        node.readers += handle.reads
        node.writers += handle.writes
        if handle.writes:
            handle.opener = Opener.of(record.pid)
        self.next_number = max(self.next_number, record.number + 1)
        self._handles[record.number] = handle
        return handle

    def _upload(self, node: Node) -> FileWriter:
        """Return the writing of a node, which goes on from what the bucket has."""
        if node.upload is None:
            node.upload = self._core.writers.begin(
                node.key, node.info, unlinked=node.unlinked, read_back=bool(node.readers)
            )
        if not node.upload.dirty:
            self._core.recorder.changes(node)  # before anything is: whoever asks for it means to
        return node.upload

    def handle(self, number: int) -> Handle:
        """Return an open file; raise FileSystemError (EBADF) when there is none."""
        handle = self._handles.get(number)
        if handle is None:
            raise FileSystemError(errno.EBADF, f"no open file {number}")
        return handle

    # -- reading --------------------------------------------------------------------------------

    def read(self, number: int, unique: int, offset: int, size: int, answer: Answer) -> Work | None:
        """Answer READ `unique`, now or later; return what is to be waited for, if anything.

        Raises:
            FileSystemError: EBADF.
            ServeError: what was written there cannot be read.
        """
        handle = self.handle(number)
        if not handle.reads:
            raise FileSystemError(errno.EBADF, "not open for reading")
        if handle.stream is None and self._core.unsettled(handle.node.key):
            return self._read_settled(number, unique, offset, size, answer)
        upload = handle.node.upload
        if upload is not None and upload.readable and (handle.writes or upload.failed is None):
            views = upload.read_nowait(offset, size)
            if views is None:
                return read_slowly(upload, unique, offset, size, answer)
            answer.reply(unique, *views)
            return None
        if handle.stream is None:
            handle.stream = self._stream(handle, answer)
        handle.stream.read(unique, offset, size)
        return None

    async def _read_settled(
        self, number: int, unique: int, offset: int, size: int, answer: Answer
    ) -> None:
        await self._core.settled(self.handle(number).node.key)
        if (work := self.read(number, unique, offset, size, answer)) is not None:
            await work

    def _stream(self, handle: Handle, answer: Answer) -> ReadStream:
        node = handle.node
        if node.info is None:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} was not stored")

        source = Source(self, handle, first=node.cached_etag is None)
        node.cached_etag = node.info.etag
        self._core.recorder.reads(node)
        stream = self._core.readers.open(node.info, answer, source)
        if (data := self._core.beginnings.take(node.info)) is not None:
            stream.begin_with(data)
        return stream

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
        if node.parent is None or (node.gone and not node.replaced):
            raise FileSystemError(errno.ESTALE, f"{node.key!r} is gone")
        known = await core.look_at(node, fresh=True)
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

    def node_of(self, number: int) -> Node:
        """Return the node that a handle was opened on."""
        return self.handle(number).node

    def interrupt(self, unique: int) -> bool:
        """Give up a READ that waits; tell whether there was one."""
        streams = (handle.stream for handle in self._handles.values() if handle.stream)
        return any(stream.interrupt(unique) for stream in streams)

    # -- writing --------------------------------------------------------------------------------

    def write_nowait(
        self, number: int, offset: int, data: memoryview, *, mapped: bool = False
    ) -> int:
        """Take what can be taken at once; return how many bytes that is.

        Args:
            number: of the handle.
            offset: where; what is appended goes to the end all the same, `mapped` pages never.
            data: what.
            mapped: whether the kernel writes back pages of a memory map.

        Raises:
            FileSystemError: EBADF, or what cannot be written like this.
            StoreError: storing has failed already.
        """
        node = self.handle(number).node
        core = self._core
        if core.claims.held(node) or core.unsettled(node.key) or not core.inodes.known(node):
            return 0
        file, offset = self._target(number, offset, mapped=mapped)
        return file.write_nowait(offset, data)

    async def write(
        self, number: int, offset: int, data: memoryview, *, mapped: bool = False
    ) -> None:
        """Take the rest, as memory and the disk allow."""
        async with self.changing(number):
            file, offset = self._target(number, offset, mapped=mapped)
            await file.write(offset, data)

    @contextlib.asynccontextmanager
    async def changing(self, *numbers: int) -> AsyncIterator[None]:
        """Claim open files for a change, which goes on from what an earlier worker left of them.

        A handle may be older than this worker, so that it was not waited for when it was opened.
        """
        nodes = {self.handle(number).node for number in numbers}
        for node in nodes:
            await self._core.settled(node.key)
            await self._core.know(node)
        async with self._core.claims.changing(*nodes):
            yield

    def _target(self, number: int, offset: int, *, mapped: bool) -> tuple[FileWriter, int]:
        file = self.writable(number)
        if self.handle(number).appends and not mapped:
            # The kernel's idea of the size may be older: another client has appended, too.
            offset = file.size
        return file, offset

    def writable(self, number: int) -> FileWriter:
        """Return the writing of an open file, which may be changed under a claim.

        Raises:
            FileSystemError: EBADF, it is not open for that.
        """
        handle = self.handle(number)
        if not handle.writes:
            raise FileSystemError(errno.EBADF, "not open for writing")
        return self._upload(handle.node)

    async def truncate(self, node: Node, size: int) -> None:
        """Set the size of a file; if nobody has it open for writing, it is stored at once."""
        if node.is_directory:
            raise FileSystemError(errno.EISDIR, f"{node.key!r} is a directory")
        node.pins += 1
        try:
            await self._core.settled(node.key)
            await self._core.know(node)
            async with self._core.claims.changing(node):
                await self._truncate(node, size)
        finally:
            self._core.nodes.unpin(node)

    async def _truncate(self, node: Node, size: int) -> None:
        try:
            await self._upload(node).truncate(size)
            if not node.writers:
                await self._settle(node)
        finally:
            await self._end_if_unused(node)

    async def flush(self, number: int, pid: int) -> None:
        """A descriptor was closed: make what was written visible, and say whether that worked.

        Raises:
            StoreError: it did not, and the bucket has what it had before.
        """
        handle = self.handle(number)
        if handle.opener is not None and not handle.opener.leaves_to(pid):
            async with self._core.claims.changing(handle.node):
                await self._settle(handle.node)
        self._core.inodes.check(handle.node)

    async def fsync(self, number: int) -> None:
        """Make what was written and set visible, and return when the store has it."""
        handle = self.handle(number)
        async with self._core.claims.changing(handle.node):
            if handle.writes:
                await self.store(handle.node)
            await self._core.inodes.flush(handle.node)
        self._core.inodes.check(handle.node)

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
            if handle.writes or node.unlinked:
                async with self._core.claims.changing(node):
                    await self._end_writing(node)
        finally:
            self._core.recorder.released(number)
            self._core.nodes.unpin(node)

    async def _end_writing(self, node: Node) -> None:
        try:
            await self._settle(node)
        finally:
            await self._end_if_unused(node)

    async def _settle(self, node: Node) -> None:
        """Somebody is done with a file: store it, or see that it will be."""
        upload = node.upload
        if upload is None or node.unlinked or not await self.write_back.takes(node, upload):
            await self.store(node)

    async def _end_if_unused(self, node: Node) -> None:
        # What was removed is nowhere else any more, and who reads it goes on.
        read = node.unlinked and node.readers
        if not node.writers and not read and not self.write_back.has(node):
            await self.end_upload(node)

    async def store(self, node: Node) -> None:
        """Store what was written; a failure is told to everybody who closes the file."""
        await self._core.settled(node.key)  # what an earlier worker has closed may be all there is
        upload = node.upload
        if upload is None or not (upload.dirty or upload.failed):
            return
        info = await upload.commit()
        if info is not None and node.parent is not None and not node.unlinked:
            self._stored(node, node.parent, info)

    async def recovered(self, info: ObjectInfo) -> None:
        """Take note of what an earlier worker left and this one has stored."""
        core = self._core
        node = core.nodes.at(info.key)
        if node is not None:
            await self._survivors.save(node)
        if node is not None and node.parent is not None and node.upload is None:
            self._stored(node, node.parent, info)
            if core.kernel is not None:  # which may have asked for its size before
                core.kernel.invalidate(node.id)
        else:
            directory, slash, name = info.key.rpartition("/")
            core.metadata.change(directory + slash, name, Entry.file(info))

    def _stored(self, node: Node, parent: Node, info: ObjectInfo) -> None:
        node.info = info
        node.cached_etag = info.etag
        self._core.recorder.stored(node)
        for handle in self._of(node):
            if handle.stream is not None:
                handle.stream.follow(info)
        if node.gone:
            self._core.metadata.forget(parent.key, node.name)
        else:
            self._core.metadata.change(parent.key, node.name, Entry.file(info))

    async def end_upload(self, node: Node) -> None:
        """Nobody writes any more; what was not stored by now is given up."""
        upload, node.upload = node.upload, None
        if upload is None:
            return
        await upload.close()
        self._core.inodes.upload_ended(node)
        if upload.failed is None and not upload.dirty:
            return
        node.cached_etag = None
        if node.parent is not None and not node.gone:
            self._core.metadata.forget(node.parent.key, node.name)

    # -- another name ---------------------------------------------------------------------------

    def streams_below(self, node: Node) -> dict[ReadStream, Node]:
        """Return what is being read at and below `node`, and the file of each."""
        return {
            handle.stream: handle.node
            for handle in self._handles.values()
            if handle.stream is not None and handle.node.is_below((node,))
        }

    def moved(self, node: Node, original: ObjectInfo, made: ObjectInfo) -> None:
        """Take note that a file has another key, and maybe another entity tag, and is the same."""
        if node.cached_etag == original.etag:
            node.cached_etag = made.etag
        node.info = made
        self._core.inodes.moved(node)
        if node.cached_etag is not None:
            self._core.recorder.reads(node)
        for handle in self._of(node) if node.readers else ():
            if handle.stream is not None and same_version(handle.stream.info, original):
                handle.stream.end_move(made)

    def changed(self, number: int) -> bool:
        """Tell whether the file of a handle has something that the bucket does not have."""
        return self.handle(number).node.changed

    # -- what survives --------------------------------------------------------------------------

    def open_files(self) -> Iterator[tuple[HandleRecord, Node]]:
        """Yield what is open."""
        return ((handle.record, handle.node) for handle in self._handles.values())

    def restore(self, remains: Remains) -> None:
        """Open what a predecessor had open. What it had not stored is lost, and said to be."""
        self.next_number = remains.next_handle
        self._survivors.restore(remains, self._add)

    async def close(self) -> None:
        """Give up what is still open: the connection ended before its programs closed it.

        What was changed of it is kept in the cache directory, if there is one.
        """
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            if handle.stream is not None:
                handle.stream.close()
            if handle.node.upload is not None and not self.write_back.has(handle.node):
                await handle.node.upload.close(keep=True)
                handle.node.upload = None
        await self.write_back.close()
