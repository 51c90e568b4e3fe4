"""Sending a file to the store while a program writes it, in order.

The bytes since the last part boundary are in memory, where they may be changed; earlier ones are
on their way, and stay in memory as long as there is enough of it. A file that ends within its first
part is one PUT, a longer one a multipart upload whose parts go out side by side while the program
goes on. What an object is continued from is made its first parts by the store itself. Nothing is
visible in the bucket before `commit`, and nothing of an upload that is given up stays there.

What cannot be done in this way is done in a stage, as long as every byte is still here: then the
upload is given up, and what was written goes there.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Iterator

from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.store.multipart import give_up
from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo, PartResult
from fuse_s3_worker.transfer import writable
from fuse_s3_worker.transfer.assembly import NO_COPY
from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.buffer import PartBuffer
from fuse_s3_worker.transfer.loading import fetch_version, of_a_version
from fuse_s3_worker.transfer.partsize import PART_MIN, PARTS_MAX, part_size
from fuse_s3_worker.transfer.planner import Copied, copies_of
from fuse_s3_worker.transfer.staged import StagedFile
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writable import NeedsStagingError, as_serve_error, check_size

__all__ = ["Upload"]

_log = logging.getLogger(__name__)

_MEMORY_PATIENCE = 60.0  # seconds that a write waits for memory before it fails
_ZEROS = memoryview(bytes(BLOCK))


class Upload:
    """The writing of one file in order (transfer.writable.WritableFile).

    Attributes:
        size: of the file as it is written.
        base: what the bucket has of it; None when nothing, or nothing that still counts.
        mtime: when it was last written to, in nanoseconds since the epoch.
        dirty: whether there is something that the bucket does not have.
        failed: why nothing more will come of it.
        read_back: whether somebody may read what was sent, so that it is not let go lightly.
        held: whether nothing may be begun under this key, since the file gets another one.
    """

    def __init__(
        self,
        uploads: Uploads,
        key: str,
        base: ObjectInfo | None = None,
        on_pressure: Callable[["Upload"], None] | None = None,
        *,
        copies: bool = True,
    ) -> None:
        """Begin a file, or go on with the object `base` at its end.

        The store copies what there is; unless `copies`, see `begin_with_base`.
        `on_pressure` is told when what is read back has to go from memory.
        """
        self._uploads = uploads
        self._store = uploads.store
        self.key = key
        self.base = base
        self.size = base.size if base else 0
        self.mtime = base.mtime if base else time.time_ns()
        self.dirty = base is None
        self.failed: ServeError | None = None
        self.read_back = False
        self.held = False
        self._on_pressure = on_pressure
        self._over = False  # stored, or in a stage: nothing happens here any more
        self._discarding = False
        self._keeping = True  # every byte that was written is still here
        self._must_be_staged = False
        self._patience = _MEMORY_PATIENCE  # seconds that are left to wait for memory
        # Whoever awaits something holds the turn; whoever comes meanwhile waits for it.
        self._turn = asyncio.Lock()
        self._buffer = PartBuffer(uploads.pool)
        self._part_start = self.size  # of the buffer, in the file
        self._multipart: asyncio.Task[MultipartUpload] | None = None
        self._parts: list[asyncio.Task[PartResult]] = []
        self._sent: list[PartBuffer] = []  # in the order of the file, while they are kept
        uploads.pool.add_reclaimer(self, self._reclaim)
        self._copies_base = copies
        if base is not None and copies:
            self._copy_base(base)

    @property
    def can_be_staged(self) -> bool:
        """Tell whether every byte is here, or in an object that is."""
        return self._keeping and self.failed is None and not (self._over or self._discarding)

    @property
    def begun(self) -> bool:
        """Tell whether the store knows of it already."""
        return self._multipart is not None

    # -- writing --------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: memoryview) -> int:
        """Take of `data` at `offset` what needs no waiting; return how many bytes were taken.

        Raises:
            ServeError: it can never be taken, or the upload has failed.
            NeedsStagingError: not like this.
        """
        in_part = self._check_write(offset, len(data))
        if self._turn.locked() or not in_part:
            return 0
        return self._put(offset, data)

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`, as memory and earlier writes allow."""
        async with self._turn:
            self._patience = _MEMORY_PATIENCE
            if not self._check_write(offset, len(data)):
                await self._stretch(offset)
            await self._put_all(offset, data)

    async def _put_all(self, offset: int, data: memoryview) -> None:
        while data:
            taken = self._put(offset, data)
            offset, data = offset + taken, data[taken:]
            if data:
                await self._make_room(offset, len(data))

    async def _stretch(self, size: int) -> None:
        """Have the file end at `size`, which is behind its end, with zeros."""
        while self.size < size and not self._discarding:
            await self._put_all(self.size, _ZEROS[: size - self.size])

    async def truncate(self, size: int) -> None:
        """Set the size of the file, to anything but nothing."""
        async with self._turn:
            if size == self.size:
                return
            self._patience = _MEMORY_PATIENCE
            if not self._check_write(size, 0):
                await self._stretch(size)
            elif not self._discarding:
                await self._reserve(size - self._part_start)
                self._buffer.truncate(size - self._part_start)
            self.size = size
            self._touch()

    def _check_write(self, offset: int, length: int) -> bool:
        """Tell whether a write is at the end, or changes the part in memory.

        Otherwise it is behind the end, and there is no way but to send zeros up to there.
        """
        end = offset + length
        self._check_state()
        check_size(end, self._uploads.size_limit)
        if self._discarding or offset == self.size:
            return True
        if self._part_start <= offset <= end <= self._part_start + self._part_size():
            return True
        if self._keeping:
            raise NeedsStagingError
        if offset > self.size:
            return False
        raise FileSystemError(
            errno.EOPNOTSUPP,
            f"write at {offset} of {self.key!r}, of which bytes before {self._part_start} were "
            "sent and are not in memory any more: close or fsync it first, or open it to read, "
            "too, with cache=",
            logging.WARNING,
        )

    def _check_state(self) -> None:
        if self._over:
            raise NeedsStagingError
        if self.failed is not None:
            raise self.failed
        if self._must_be_staged and self.can_be_staged:
            raise NeedsStagingError

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
        if self._sent and not self.let_go():
            raise NeedsStagingError  # what was kept is on its way to the disk
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
                f"no memory for {self.key!r} within {_MEMORY_PATIENCE:.0f} s: "
                "raise memory_target=, or write fewer files at once",
            ) from None

    # -- parts ----------------------------------------------------------------------------------

    def _seal(self) -> None:
        """Send the part in the buffer on its way and begin the next."""
        number = len(self._parts) + 1
        buffer, self._buffer = self._buffer, PartBuffer(self._uploads.pool)
        self._part_start += buffer.size
        self._add_part(asyncio.create_task(self._send(number, buffer)), buffer)
        if self._keeping:
            self._sent.append(buffer)
            self._uploads.keep(self, buffer.size)

    def _add_part(self, task: asyncio.Task[PartResult], buffer: PartBuffer | None = None) -> None:
        self._parts.append(task)
        task.add_done_callback(lambda task: self._part_done(task, buffer))

    def _part_done(self, task: asyncio.Task[PartResult], buffer: PartBuffer | None) -> None:
        if buffer is not None and not self._keeping:
            buffer.free()
        error = None if task.cancelled() else task.exception()
        if error is None or self.failed:
            return
        refused = isinstance(error, StoreError) and error.fault in NO_COPY and buffer is None
        if refused and self.can_be_staged:
            self._must_be_staged = True  # its bytes are fetched and sent instead
        else:
            self.failed = as_serve_error(error)

    async def _send(self, number: int, buffer: PartBuffer) -> PartResult:
        upload = await self._begin_multipart()
        body = Body(buffer.pieces(), buffer.size)
        return await self._store.upload_part(upload, number, body)

    async def _begin_multipart(self) -> MultipartUpload:
        """Create the multipart upload once; parts sealed meanwhile wait for the same reply."""
        if self._multipart is None:
            self._multipart = asyncio.create_task(self._store.create_multipart(self.key))
        return await asyncio.shield(self._multipart)

    def _copy_base(self, base: ObjectInfo) -> None:
        """Make the object that the file goes on from its first parts."""
        limits = self._uploads.limits._replace(parts_max=PARTS_MAX // 2)
        for part in copies_of(base, limits):
            number = len(self._parts) + 1
            self._add_part(asyncio.create_task(self._copy(number, part)))

    async def _copy(self, number: int, part: Copied) -> PartResult:
        upload = await self._begin_multipart()
        try:
            return await self._store.copy_part(upload, number, part.source, part.start, part.end)
        except StoreError as error:
            raise of_a_version(error) from error

    async def begin_with_base(self) -> None:
        """Have the bytes of the base, which is too small to be copied, as the first ones here.

        Raises:
            ServeError: they cannot be had.
        """
        base = self.base
        async with self._turn:
            if base is not None and base.size:
                await self._reserve(base.size)
                data = memoryview(bytearray(base.size))
                await fetch_version(self._store, base, 0, data)
                self._buffer.write(0, data)
            self._part_start = 0

    # -- memory ---------------------------------------------------------------------------------

    def _reclaim(self) -> int:
        """Memory is short: what was sent can go, and a part that may be sent is sent."""
        if self._turn.locked():
            return 0
        freed = self.let_go() if self._sent else 0
        may_send = self.failed is None and not self.held
        if not freed and self._buffer.size >= PART_MIN and may_send:
            self._seal()
        return freed

    def let_go(self) -> int:
        """Keep no longer what was sent, or see that it gets into a stage; return what was freed."""
        if self.read_back and self._on_pressure is not None and self.can_be_staged:
            if not self._must_be_staged:
                self._must_be_staged = True
                self._on_pressure(self)
            return 0
        return self.forget_sent()

    def forget_sent(self) -> int:
        """Keep no longer what was sent; return how many bytes that was."""
        self._keeping = self._must_be_staged = False
        parts = self._parts[len(self._parts) - len(self._sent) :]
        for task, buffer in zip(parts, self._sent, strict=True):
            if task.done():
                buffer.free()
        self._sent = []
        return self._uploads.keeps_nothing(self)

    # -- into a stage ---------------------------------------------------------------------------

    async def move_into(self, file: StagedFile) -> None:
        """Have `file`, which begins with the same base, go on where this one is; this is over.

        Raises:
            ServeError: it cannot be. What was written is as it was, but for what was sent.
        """
        async with self._turn:
            if not self.can_be_staged:
                raise self.failed or FileSystemError(errno.EOPNOTSUPP, f"{self.key!r} was sent")
            try:
                for start, buffer in list(self._here()):
                    for at, view in buffer.pieces_from(start):
                        await file.write(at, view)
                    self._free_if_sent(buffer)
                await file.truncate(self.size)  # a small base may have been cut
            except BaseException:
                self.forget_sent()
                raise
            self._over = True
            await self._give_up()

    def _free_if_sent(self, buffer: PartBuffer) -> None:
        """Give back the memory of a part that neither a request nor a reader needs any more."""
        if buffer in self._sent:
            number = len(self._parts) - len(self._sent) + self._sent.index(buffer)
            if self._parts[number].done():
                buffer.free()

    def _here(self) -> Iterator[tuple[int, PartBuffer]]:
        """Yield the parts that are in memory, and where each begins."""
        start = self._part_start - sum(buffer.size for buffer in self._sent)
        for buffer in [*self._sent, self._buffer]:
            yield start, buffer
            start += buffer.size

    # -- the end --------------------------------------------------------------------------------

    async def commit(self) -> ObjectInfo | None:
        """Put everything that was written into the bucket; NeedsStagingError: not like this."""
        async with self._turn:
            if self._over or (self.failed is None and (self._discarding or not self.dirty)):
                return self.base
            try:
                await self._commit()
            except NeedsStagingError:
                raise
            except BaseException as error:
                self.failed = self.failed or as_serve_error(error)
                await self._give_up()
                raise self.failed from error
            return self.base

    async def _commit(self) -> None:
        self._check_state()
        self.base = await self._complete() if self._parts else await self._put_whole()
        self._free_all()
        self._parts, self._multipart = [], None
        self.mtime = self.base.mtime
        self.dirty, self._over = False, True

    async def _put_whole(self) -> ObjectInfo:
        body = Body(self._buffer.pieces() if self._buffer.size else (), self._buffer.size)
        return await self._store.put(self.key, body, replaces=self.base)

    async def _complete(self) -> ObjectInfo:
        if self._buffer.size:
            self._seal()
        try:
            done = await asyncio.gather(*self._parts)
        except StoreError:
            self._check_state()  # a copy that was refused is made good in a stage
            raise
        upload = await self._begin_multipart()
        return await self._store.complete_multipart(upload, done, replaces=self.base)

    async def discard(self) -> None:
        """Give up what was written: the file was unlinked. Writes lead nowhere from now on."""
        self._discarding = True
        async with self._turn:
            await self._give_up()
        self.dirty = False

    async def close(self, *, keep: bool = False) -> None:
        """Give back memory; what was not committed is given up."""
        del keep
        self._uploads.pool.remove_reclaimer(self)
        async with self._turn:
            self._over = True
            await self._give_up()

    async def _give_up(self) -> None:
        """Stop the parts, free the memory, and leave no orphan in the bucket."""
        parts, self._parts = self._parts, []
        multipart, self._multipart = self._multipart, None
        for task in parts:
            task.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        self._free_all()
        if multipart is None:
            return
        try:
            upload = await multipart
        except StoreError:
            return  # it was never begun
        await give_up(self._store, upload)

    def _free_all(self) -> None:
        """Give all memory back; no part is on its way any more."""
        self._keeping = False
        for buffer in [*self._sent, self._buffer]:
            buffer.free()
        self._sent = []
        self._uploads.keeps_nothing(self)

    # -- reading back ---------------------------------------------------------------------------

    def read_nowait(self, offset: int, size: int) -> list[memoryview] | None:
        """Return bytes that are in memory; None when they are not, or not all."""
        self._check_state()
        end = min(offset + size, self.size)
        views: list[memoryview] = []
        at = offset
        for start, buffer in self._here():
            if start <= at < min(start + buffer.size, end):
                views += buffer.views(at - start, end - start)
                at = min(start + buffer.size, end)
        return views if at >= end else None

    async def read(self, offset: int, size: int) -> memoryview:
        """Return bytes; EBUSY if they are on their way and not here any more."""
        end = min(offset + size, self.size)
        buffer, at = memoryview(bytearray(end - offset)), offset
        if self.base is not None and self._copies_base and at < self.base.size:
            at = min(end, self.base.size)
            await fetch_version(self._store, self.base, offset, buffer[: at - offset])
        views = self.read_nowait(at, end - at)
        if views is None:
            raise FileSystemError(
                errno.EBUSY,
                f"{self.key!r} is being written, and what was sent of it is not in memory any "
                "more: read it when it was closed, or give cache= and open it to read at first",
                logging.WARNING,
            )
        for view in views:
            buffer[at - offset : at - offset + len(view)] = view
            at += len(view)
        return buffer


def _conforms(file: Upload) -> writable.WritableFile:
    """Have the type checker hold this class against the protocol."""
    return file
