"""Sending a file to the store while a program writes it.

The bytes since the last part boundary are in memory, where they may be changed; earlier ones are
on their way. A file that ends within its first part is one PUT, a longer one a multipart upload
whose parts go out side by side while the program goes on. Nothing is visible in the bucket before
`commit`, and nothing of an upload that is given up stays there.

A file may be written on after a commit: a small object is fetched back, a large one becomes, by
server-side copy, the first part of the next upload.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Sequence

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo, ObjectStore, PartResult
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.buffer import PartBuffer
from fuse_s3_worker.transfer.partsize import (
    OBJECT_MAX,
    PART_MAX,
    PART_MIN,
    largest_object,
    part_size,
)

__all__ = ["Upload", "Uploads"]

_log = logging.getLogger(__name__)

_MEMORY_PATIENCE = 60.0  # seconds that a write waits for memory before it fails


class Uploads:
    """What all uploads of a mount share.

    Attributes:
        largest_part: bytes of a part at most: while one is filled and another is on its way,
            half of the memory is left for others.
        size_limit: bytes of an object at most.
    """

    def __init__(self, store: ObjectStore, pool: Pool, first_part: int) -> None:
        self.store = store
        self.pool = pool
        self.first_part = first_part
        self.largest_part = max(pool.budget // 4 // MIB * MIB, first_part)
        self.size_limit = largest_object(first_part, self.largest_part)


class Upload:
    """The writing of one file, by any number of handles.

    Attributes:
        size: of the file as it is written.
        base: what the bucket has of it; None when nothing, or nothing that still counts.
        mtime: when it was last written to, in nanoseconds since the epoch.
        dirty: whether there is something that the bucket does not have.
        failed: why nothing more will come of it.
    """

    def __init__(self, uploads: Uploads, key: str, base: ObjectInfo | None = None) -> None:
        self._uploads = uploads
        self._store = uploads.store
        self._key = key
        self.base = base
        self.size = base.size if base else 0
        self.mtime = base.mtime if base else time.time_ns()
        self.dirty = base is None
        self.failed: ServeError | None = None
        self._discarding = False
        self._patience = _MEMORY_PATIENCE  # seconds that are left to wait for memory
        # Whoever awaits something holds the turn; whoever comes meanwhile waits for it.
        self._turn = asyncio.Lock()
        self._buffer = PartBuffer(uploads.pool)
        self._part_start = self.size  # of the buffer, in the file
        self._multipart: asyncio.Task[MultipartUpload] | None = None
        self._parts: list[asyncio.Task[PartResult]] = []
        self._copied: ObjectInfo | None = None  # what the first parts are a copy of
        self._held = False
        uploads.pool.add_reclaimer(self, self._reclaim)

    @property
    def in_memory(self) -> bool:
        """Tell whether every byte of the file is in the buffer."""
        return self._part_start == 0 and not self._discarding

    # -- writing --------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: memoryview) -> int:
        """Take of `data` at `offset` what needs no waiting; return how many bytes were taken.

        Raises:
            ServeError: it can never be taken, or the upload has failed.
        """
        self._check_write(offset, len(data))
        if self._turn.locked() or self._needs_base:
            return 0
        return self._put(offset, data)

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`, as memory and earlier writes allow."""
        async with self._turn:
            self._check_write(offset, len(data))
            self._patience = _MEMORY_PATIENCE
            if self._needs_base:
                await self._resume()
            while data:
                taken = self._put(offset, data)
                offset, data = offset + taken, data[taken:]
                if data:
                    await self._make_room(offset, len(data))

    async def truncate(self, size: int) -> None:
        """Set the size of the file."""
        async with self._turn:
            if size == 0 and (self.size or self.failed):
                await self._start_over()
                return
            if size == self.size:
                return
            self._check_write(size, 0)
            self._patience = _MEMORY_PATIENCE
            if self._needs_base:
                await self._resume()
            if not self._discarding:
                await self._reserve(size - self._part_start)
                self._buffer.truncate(size - self._part_start)
            self.size = size
            self._touch()

    def _check_write(self, offset: int, length: int) -> None:
        end = offset + length
        if self.failed is not None:
            raise self.failed
        if end > OBJECT_MAX:
            raise FileSystemError(errno.EFBIG, "an object has at most 5 TiB", logging.WARNING)
        if end > self._uploads.size_limit:
            raise FileSystemError(
                errno.EFBIG,
                f"with this memory_target= an object has at most {self._uploads.size_limit} bytes",
                logging.WARNING,
            )
        if self._discarding or offset == self.size:
            return
        start, room = self._changeable()
        if not start <= offset <= end <= start + room:
            raise FileSystemError(
                errno.EOPNOTSUPP,
                f"write at {offset} of a file of {self.size} bytes: only the last {room} bytes "
                "and the end can be written",
                logging.WARNING,
            )

    def _changeable(self) -> tuple[int, int]:
        """Return where the bytes begin that can still be changed, and how many there can be."""
        if self._needs_base and self.size <= self._uploads.first_part:
            return 0, self._uploads.first_part  # after fetching it back
        return self._part_start, self._part_size()

    def _part_size(self) -> int:
        number = len(self._parts) + 1
        return part_size(number, self._uploads.first_part, self._uploads.largest_part)

    def _put(self, offset: int, data: memoryview) -> int:
        """Put data into the part, seal a full one, go on with the next, until memory is short."""
        if self._discarding:
            self.size = max(self.size, offset + len(data))
            return len(data)
        taken = 0
        while taken < len(data):
            at = offset + taken - self._part_start
            if at >= self._part_size():
                self._seal()
                continue
            piece = data[taken : taken + self._part_size() - at]
            if not self._buffer.reserve_nowait(at + len(piece)):
                break
            self._buffer.write(at, piece)
            taken += len(piece)
        if taken:
            self.size = max(self.size, offset + taken)
            self._touch()
        return taken

    def _touch(self) -> None:
        self.mtime = time.time_ns()
        self.dirty = True

    async def _make_room(self, offset: int, length: int) -> None:
        at = offset - self._part_start
        if at == self._buffer.size >= PART_MIN and all(part.done() for part in self._parts):
            self._seal()  # nothing else of this file is going to make room
            return
        try:
            await self._reserve(min(at + length, self._part_size()))
        except StoreError as error:
            # Some of this write was taken already: what lacks the rest is not published.
            self.failed = self.failed or error
        if self.failed is not None:
            raise self.failed

    async def _reserve(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._patience):
                await self._buffer.reserve(size)
            self._patience = max(self._patience - (loop.time() - begun), 0.0)
        except TimeoutError:
            raise StoreError(
                Fault.NO_MEMORY,
                f"no memory for {self._key!r} within {_MEMORY_PATIENCE:.0f} s: "
                "raise memory_target=, or write fewer files at once",
            ) from None

    # -- parts ----------------------------------------------------------------------------------

    def _seal(self) -> None:
        """Send the part in the buffer on its way and begin the next."""
        number = len(self._parts) + 1
        buffer, self._buffer = self._buffer, PartBuffer(self._uploads.pool)
        self._part_start += buffer.size
        self._add_part(asyncio.create_task(self._send(number, buffer)), buffer)

    def _add_part(self, task: asyncio.Task[PartResult], buffer: PartBuffer | None = None) -> None:
        self._parts.append(task)
        task.add_done_callback(lambda task: self._part_done(task, buffer))

    def _part_done(self, task: asyncio.Task[PartResult], buffer: PartBuffer | None) -> None:
        if buffer is not None:
            buffer.free()
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed:
            self.failed = _as_serve_error(error)

    async def _send(self, number: int, buffer: PartBuffer) -> PartResult:
        upload = await self._begin_multipart()
        body = Body(buffer.pieces(), buffer.size)
        return await self._store.upload_part(upload, number, body)

    async def _begin_multipart(self) -> MultipartUpload:
        """Create the multipart upload once; parts sealed meanwhile wait for the same reply."""
        if self._multipart is None:
            self._multipart = asyncio.create_task(self._store.create_multipart(self._key))
        return await asyncio.shield(self._multipart)

    # -- going on after a commit ----------------------------------------------------------------

    @property
    def _needs_base(self) -> bool:
        """Tell whether everything there is, is in the bucket only."""
        untouched = not self._parts and not self._buffer.size and self._part_start > 0
        return untouched and not self._discarding

    async def _resume(self) -> None:
        """Make the committed object the beginning of what is written now."""
        base = self.base
        assert base is not None  # noqa: S101  what is not in memory was committed
        # Ceph, as of 16, decodes the name of a source twice, and some names end the server.
        if base.size <= self._uploads.first_part or "%" in base.key:
            await self._fetch_back(base)
            return
        self._copied = base
        # Parts of one size: a small rest could not stand before what is written now.
        size = -(-base.size // -(-base.size // PART_MAX))
        for start in range(0, base.size, size):
            end = min(start + size, base.size)
            number = len(self._parts) + 1
            self._add_part(asyncio.create_task(self._copy(number, base, start, end)))

    async def _fetch_back(self, base: ObjectInfo) -> None:
        """Go on with the bytes of `base` as if they had been written just now."""
        start = 0
        try:
            while True:
                size = min(self._part_size(), base.size - start)
                await self._reserve(size)
                sink = _BufferSink(self._buffer, size)
                await self._store.get_range(base.key, base.etag, start, start + size, sink)
                if start + size == base.size:
                    break
                self._part_start = start
                self._seal()
                start += size
        except BaseException as error:
            self._buffer.free()  # some of it is not to be taken for all of it
            if self._parts:
                self.failed = self.failed or _as_serve_error(error)
            raise
        self._part_start = start

    async def _copy(self, number: int, base: ObjectInfo, start: int, end: int) -> PartResult:
        upload = await self._begin_multipart()
        return await self._store.copy_part(upload, number, base, start, end)

    # -- the end --------------------------------------------------------------------------------

    async def commit(self) -> ObjectInfo | None:
        """Put everything that was written into the bucket; return what is there now.

        Raises:
            ServeError: it is not there, and the bucket is as it was. The upload is over.
        """
        async with self._turn:
            if self.failed is None and (self._discarding or not self.dirty):
                return self.base
            try:
                await self._commit()
            except BaseException as error:
                self.failed = self.failed or _as_serve_error(error)
                await self._give_up()
                raise self.failed from error
            return self.base

    async def _commit(self) -> None:
        if self.failed is not None:
            raise self.failed
        self.base = await self._complete() if self._parts else await self._put_whole()
        self._buffer.free()
        self._part_start = self.size
        self._parts, self._multipart, self._copied = [], None, None
        self.mtime = self.base.mtime
        self.dirty = False

    async def _put_whole(self) -> ObjectInfo:
        body = Body(self._buffer.pieces() if self._buffer.size else (), self._buffer.size)
        return await self._store.put(self._key, body)

    async def _complete(self) -> ObjectInfo:
        if self._buffer.size:
            self._seal()
        done = await _all(self._parts)
        if self._copied is not None:
            await self._check_unchanged(self._copied)
        upload = await self._begin_multipart()
        return await self._store.complete_multipart(upload, done)

    async def _check_unchanged(self, base: ObjectInfo) -> None:
        """See that what was copied is still what would be replaced.

        UploadPartCopy has a header that demands it, which not all stores heed.

        Raises:
            StoreError: another client has stored or deleted it meanwhile.
        """
        try:
            etag = (await self._store.head(base.key)).etag
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            etag = ""
        if etag != base.etag:
            text = f"{base.key!r} was replaced by another client while it was appended to"
            raise StoreError(Fault.CHANGED, text)

    def abandon(self) -> None:
        """The file was unlinked: writes are taken and lead nowhere."""
        self._discarding = True

    async def discard(self) -> None:
        """Give up what was written: the file was unlinked."""
        self.abandon()
        async with self._turn:
            await self._give_up()
        self.dirty = False

    async def close(self) -> None:
        """Give back memory; what was not committed is given up."""
        self._uploads.pool.remove_reclaimer(self)
        async with self._turn:
            await self._give_up()

    async def _start_over(self) -> None:
        await self._give_up()
        self.base, self.failed, self.size, self._part_start = None, None, 0, 0
        self._touch()

    async def _give_up(self) -> None:
        """Stop the parts, free the memory, and leave no orphan in the bucket."""
        parts, self._parts = self._parts, []
        self._copied = None
        multipart, self._multipart = self._multipart, None
        for task in parts:
            task.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        self._buffer.free()
        if multipart is None:
            return
        try:
            upload = await multipart
        except StoreError:
            return  # it was never begun
        try:
            await self._store.abort_multipart(upload)
        except StoreError as error:
            details: dict[str, object] = {"key": self._key, "reason": error}
            event(_log, logging.WARNING, "abort_failed", details | error.details)

    def _reclaim(self) -> int:
        """Memory is short: a part that may be sent is sent."""
        idle = not self._turn.locked() and not self._held
        if self._buffer.size >= PART_MIN and idle and self.failed is None:
            self._seal()
        return 0

    # -- another name ---------------------------------------------------------------------------

    def hold(self) -> None:
        """Begin nothing under the name that the file has; until `retarget` or `let_go`.

        Whoever calls this keeps all others from writing and committing meanwhile.

        Raises:
            FileSystemError: EBUSY, parts are on their way already, under this name.
        """
        if self._multipart is not None or self._parts:
            raise FileSystemError(
                errno.EBUSY,
                f"{self._key!r} is sent under this name already: rename it when it is closed",
                logging.WARNING,
            )
        self._held = True

    def let_go(self) -> None:
        """Go on under the same name."""
        self._held = False

    async def retarget(self, key: str, base: ObjectInfo | None) -> None:
        """Go on under another name.

        `base` is what `self.base` was copied to; None when there was none, or it is gone.
        """
        self._key = key
        self.base = base or self.base
        self._held = False

    # -- reading back ---------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> list[memoryview]:
        """Return bytes of a file that is in memory as a whole.

        Raises:
            FileSystemError: EBUSY, part of it is on its way already.
            ServeError: it could not be stored.
        """
        if self.failed is not None:
            raise self.failed
        if not self.in_memory:
            raise FileSystemError(
                errno.EBUSY,
                "a file of more than one part cannot be read while it is written",
                logging.WARNING,
            )
        return self._buffer.views(min(offset, self.size), min(offset + size, self.size))


async def _all(tasks: Sequence[asyncio.Task[PartResult]]) -> list[PartResult]:
    """Wait for all parts; the first failure ends the waiting."""
    return list(await asyncio.gather(*tasks))


def _as_serve_error(error: BaseException) -> ServeError:
    if isinstance(error, ServeError):
        return error
    return StoreError(Fault.BAD_REPLY, f"upload failed: {error!r}")


class _BufferSink:
    """Fetches an object back into a part's buffer."""

    def __init__(self, buffer: PartBuffer, size: int) -> None:
        self._buffer = buffer
        self._scratch = memoryview(bytearray(min(size, MIB)))
        self.filled = 0

    def begin(self, head: ReplyHead) -> bool:
        """Take it."""
        del head
        return True

    def buffer(self) -> memoryview:
        """Return where the next bytes go."""
        return self._scratch

    def advance(self, count: int) -> None:
        """Put them into the buffer."""
        self._buffer.write(self.filled, self._scratch[:count])
        self.filled += count
