"""Reading one open file: answers READs out of what was fetched ahead, or as soon as it arrives.

A READ whose bytes are there is answered at once, out of the memory they arrived in. Otherwise it
is parked, and the same callback that makes its bytes available answers it: no future, no task,
no wake-up for each READ. Everything that is fetched carries If-Match of the version the file was
opened at, so one open file never shows two versions.
"""

import asyncio
import bisect
import errno
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore
from fuse_s3_worker.transfer.blocks import BLOCK, Pool
from fuse_s3_worker.transfer.readahead import Reading
from fuse_s3_worker.transfer.runs import Course, Runs
from fuse_s3_worker.transfer.segment import Segment

__all__ = ["Answer", "ReadStream", "Readers", "Source"]

_log = logging.getLogger(__name__)

_GONE = frozenset({Fault.CHANGED, Fault.NOT_FOUND})
_LOWEST_WINDOW = 2 * BLOCK
_LOOK_EVERY = 0.005  # seconds between looks at how busy this thread is
_BUSY = 0.6  # of the time: the rest is what wake-ups cost


class Answer(Protocol):
    """Where answers to READs go: straight to the kernel."""

    def reply(self, unique: int, *body: memoryview) -> None:
        """Answer with bytes; they may be overwritten as soon as this returns."""

    def fail(self, unique: int, error: ServeError) -> None:
        """Answer with an errno, and log why."""


class Source(Protocol):
    """What a stream asks when the version it reads is not in the bucket any more."""

    async def reopen(self) -> ObjectInfo:
        """Return the version of today; raise ServeError when it must not take the place."""

    def outdated(self) -> None:
        """Take note that what is known of the file is out of date."""


class _Parked(NamedTuple):
    unique: int
    start: int
    end: int
    size: int  # as it was asked for: the version that is read in the end may have more bytes


class Readers:
    """All read streams of a mount: what they share, and their fair share of it."""

    def __init__(self, store: ObjectStore, pool: Pool, connections: int) -> None:
        self.store = store
        self.pool = pool
        self._most = connections * 8 * BLOCK
        self._reading: set[ReadStream] = set()
        self._load = _Load()

    def open(self, info: ObjectInfo, answer: Answer, source: Source) -> "ReadStream":
        """Return a stream over the version `info`."""
        return ReadStream(self, info, answer, source)

    def reading(self, stream: "ReadStream") -> None:
        """Count `stream` among those that share the memory."""
        self._reading.add(stream)

    def resting(self, stream: "ReadStream") -> None:
        """Count it out: it holds nothing."""
        self._reading.discard(stream)

    def busy(self, now: float) -> bool:
        """Tell whether this thread's processor has hardly any time left."""
        return self._load.busy(now)

    @property
    def window_limit(self) -> int:
        """The largest window: three quarters of the memory, shared by the streams that read."""
        share = self.pool.budget * 3 // 4 // max(len(self._reading), 1)
        return max(min(self._most, share), _LOWEST_WINDOW)


class _Load:
    """How much of the time this thread runs."""

    def __init__(self) -> None:
        self._since = 0.0
        self._ran = 0.0
        self._busy = False

    def busy(self, now: float) -> bool:
        """Tell whether it was running most of the time lately; `now` is in seconds."""
        passed = now - self._since
        if passed >= _LOOK_EVERY:
            ran = time.thread_time()
            self._busy = ran - self._ran > _BUSY * passed
            self._since, self._ran = now, ran
        return self._busy


class ReadStream:
    """One open file, for reading."""

    def __init__(self, readers: Readers, info: ObjectInfo, answer: Answer, source: Source) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers = readers
        self._pool = readers.pool
        self._info = info
        self._answer = answer
        self._source = source
        self._segments: list[Segment] = []  # by start, without overlap
        self._parked: list[_Parked] = []
        self._runs = Runs()
        self._delivered_any = False
        self._reopening: asyncio.Task[None] | None = None
        self._closed = False
        self._moving = False
        self._pool.add_reclaimer(self, self._reclaim)

    @property
    def info(self) -> ObjectInfo:
        """The version that is read."""
        return self._info

    def read(self, unique: int, offset: int, size: int) -> None:
        """Answer READ: now, or when the bytes are here; less than `size` only at the end."""
        end = min(offset + size, self._info.size)
        if offset >= end:
            self._answer.reply(unique)
            return
        here = self._has(offset, end)
        limit, now = self._readers.window_limit, self._loop.time()
        found = Reading(not here, limit, now, self._readers.busy(now))
        run = self._runs.read(offset, end, found)
        if here:
            self._deliver(unique, offset, end)
        else:
            self._parked.append(_Parked(unique, offset, end, size))
            self._fetch_missing(offset, end)
        self._read_ahead(run, limit)

    def begin_with(self, data: memoryview) -> None:
        """Take the first bytes of the version, which came earlier and are charged to the pool."""
        self._segments.append(Segment.of_bytes(self._pool, 0, data))
        self._readers.reading(self)

    def interrupt(self, unique: int) -> bool:
        """Give up the READ `unique` if it waits here; tell whether it did."""
        for parked in self._parked:
            if parked.unique == unique:
                self._parked.remove(parked)
                self._answer.fail(unique, FileSystemError(errno.EINTR, "interrupted"))
                return True
        return False

    def close(self, error: ServeError | None = None) -> None:
        """Stop all transfers; memory goes back as they end. READs that wait get `error`."""
        self._closed = True
        self._pool.remove_reclaimer(self)
        if self._reopening:
            self._reopening.cancel()
        self._fail_parked(error or FileSystemError(errno.EBADF, "the file was closed"))
        self._drop_all()

    # -- answering ------------------------------------------------------------------------------

    def _covering(self, start: int, end: int) -> list[Segment]:
        first = bisect.bisect_right(self._segments, start, key=lambda s: s.end)
        last = bisect.bisect_left(self._segments, end, key=lambda s: s.start)
        return self._segments[first:last]

    def _has(self, start: int, end: int) -> bool:
        at = start
        for segment in self._covering(start, end):
            if segment.start > at or not segment.has(at, end):
                return False
            at = segment.end
        return at >= end

    def _deliver(self, unique: int, start: int, end: int) -> None:
        segments = self._covering(start, end)
        self._answer.reply(unique, *(view for s in segments for view in s.views(start, end)))
        self._delivered_any = True
        for segment in segments:
            segment.delivered += min(end, segment.end) - max(start, segment.start)
            if segment.delivered >= segment.size:
                self._let_go(segment)

    def _arrived(self) -> None:
        """Answer the parked READs whose bytes are here by now."""
        for parked in self._parked[:]:
            if self._has(parked.start, parked.end):
                self._parked.remove(parked)
                self._deliver(parked.unique, parked.start, parked.end)

    def _fail_parked(self, error: ServeError, segment: Segment | None = None) -> None:
        """Fail the READs that wait for `segment`, or all of them."""
        for read in self._parked[:]:
            if segment is None or (read.start < segment.end and read.end > segment.start):
                self._parked.remove(read)
                self._answer.fail(read.unique, error)

    # -- fetching -------------------------------------------------------------------------------

    def _fetch_missing(self, start: int, end: int) -> None:
        """Ask for what of [start, end) is neither here nor under way: somebody waits for it."""
        at = start
        for segment in [*self._covering(start, end), None]:
            gap_end = min(end, segment.start) if segment else end
            if at < gap_end:
                self._fetch(Segment(self._pool, at, gap_end), must=True)
            if segment:
                at = segment.end

    def _read_ahead(self, run: Course, limit: int) -> None:
        for start, end in run.ahead(self._info.size, limit):
            # An eighth of the memory stays for those who wait.
            if self._pool.available < self._pool.budget // 8 + end - start:
                return
            for gap_start, gap_end in self._gaps(start, end):
                if not self._fetch(Segment(self._pool, gap_start, gap_end), must=False):
                    return

    def _gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        gaps, at = [], start
        for segment in self._covering(start, end):
            if at < segment.start:
                gaps.append((at, segment.start))
            at = max(at, segment.end)
        return [*gaps, (at, end)] if at < end else gaps

    def _fetch(self, segment: Segment, *, must: bool) -> bool:
        allocated = segment.allocate_nowait()
        if not (allocated or must):
            return False
        bisect.insort(self._segments, segment, key=lambda s: s.start)
        self._readers.reading(self)
        self._pool.touch_reclaimer(self)
        info = self._info
        segment.task = asyncio.create_task(self._transfer(segment, info, allocated=allocated))
        segment.task.add_done_callback(lambda task: self._transferred(segment, info, task))
        return True

    async def _transfer(self, segment: Segment, info: ObjectInfo, *, allocated: bool) -> None:
        """Fill one segment; whoever waits for it is answered as bytes arrive."""
        if not allocated:
            await segment.allocate()
        sink = _AnsweringSink(segment, self._arrived)
        await self._readers.store.get_range(info.key, info.etag, segment.start, segment.end, sink)

    def _transferred(self, segment: Segment, info: ObjectInfo, task: asyncio.Task[None]) -> None:
        """Settle a transfer that has ended: by itself, by an error, or because it was dropped.

        A callback of the task, because one that is cancelled before its first step runs no code
        of its own, and its memory must go back all the same.
        """
        error = None if task.cancelled() else task.exception()
        if segment not in self._segments:
            segment.free()
        elif error is None and not task.cancelled():
            self._sweep()
            self._pool.relieve()
        else:
            self._remove(segment)
        if self._closed:
            return
        if info is not self._info:
            if error is not None:
                self._ask_again()  # the same bytes have another name now
        elif isinstance(error, StoreError):
            self._failed(segment, error)
        elif error is not None:
            event(_log, logging.ERROR, "bug", {"in": "transfer", "reason": repr(error)})
            self._fail_parked(StoreError(Fault.BAD_REPLY, f"transfer failed: {error!r}"), segment)

    def _failed(self, segment: Segment, error: StoreError) -> None:
        """A transfer failed for good. Before the first byte, a newer version may take its place."""
        if error.fault in _GONE and self._moving:
            return  # who waits is asked for again, by `end_move`
        if error.fault in _GONE and not self._delivered_any:
            if self._reopening is None:
                self._reopening = asyncio.create_task(self._open_anew())
            return
        if error.fault in _GONE:
            self._source.outdated()
        if error.fault is Fault.NOT_FOUND:
            error = StoreError(
                Fault.CHANGED,
                f"deleted while it was open: {error}",
                status=error.status,
                code=error.code,
                request_id=error.request_id,
            )
        self._fail_parked(error, segment)

    async def _open_anew(self) -> None:
        """Take the version of today; the one seen at open was replaced before it was read."""
        try:
            info = await self._source.reopen()
        except ServeError as error:
            self._delivered_any = True  # the kernel asks again after a failure: fail that too
            self._fail_parked(error)
            return
        self.follow(info)  # once is enough: whoever rewrites all the time gets ESTALE

    def follow(self, info: ObjectInfo) -> None:
        """Go on in the version `info`; READs that wait are answered out of it."""
        self._info = info
        self._delivered_any = True
        self._drop_all()
        parked, self._parked = self._parked, []
        for read in parked:
            self.read(read.unique, read.start, read.size)

    # -- another name ---------------------------------------------------------------------------

    def begin_move(self) -> None:
        """Take it for no failure when the object is gone from its name; until `end_move`."""
        self._moving = True

    def end_move(self, info: ObjectInfo | None = None) -> None:
        """Go on reading the same bytes under another name, or with None under the old one."""
        self._moving = False
        if info is not None:
            self._info = info
        self._ask_again()

    def _ask_again(self) -> None:
        """Ask for what READs wait for and nothing is under way to bring."""
        for parked in self._parked[:]:
            self._fetch_missing(parked.start, parked.end)

    # -- memory ---------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Give back segments that their readers had, or that no run will come to any more."""
        for segment in self._segments[:]:
            if segment.delivered >= segment.size or not self._runs.wanted(*segment.place):
                self._let_go(segment)

    def _let_go(self, segment: Segment) -> None:
        """Give a segment back, unless it is being filled or somebody waits for it."""
        if not segment.busy and not self._waited_for(segment):
            self._remove(segment)

    def _waited_for(self, segment: Segment) -> bool:
        """Tell whether a parked READ needs a segment, maybe beside another that is not here."""
        return any(read.start < segment.end and read.end > segment.start for read in self._parked)

    def _reclaim(self) -> int:
        """Give back what was read ahead and nobody waits for; called when memory is short."""
        freed = 0
        for segment in self._segments[:]:
            if not segment.busy and not self._waited_for(segment):
                freed += segment.size
                self._remove(segment)
        for run in self._runs:
            run.yield_memory()
        return freed

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        if not self._segments:
            self._readers.resting(self)
        if segment.busy and segment.task:
            segment.task.cancel()  # the memory is freed when the connection is out of it
        else:
            segment.free()

    def _drop_all(self) -> None:
        for segment in self._segments[:]:
            self._remove(segment)


class _AnsweringSink:
    """A segment's sink that has waiting READs answered after every piece."""

    def __init__(self, segment: Segment, arrived: Callable[[], None]) -> None:
        self._segment = segment
        self._arrived = arrived
        self.begin = segment.begin
        self.buffer = segment.buffer

    @property
    def filled(self) -> int:
        """Bytes that are here."""
        return self._segment.filled

    def advance(self, count: int) -> None:
        """Count bytes that arrived, and answer."""
        self._segment.filled += count
        self._arrived()
