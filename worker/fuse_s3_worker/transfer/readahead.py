"""How far ahead to read: pure arithmetic on offsets, no transfers, no memory.

A run is one program's way through a file. One that goes on where it was gets a window that grows,
most of all while the program has to wait; one that jumps in somewhere gets exactly what it asks
for until it, too, goes on. Where earlier runs were of one length, a new one gets that at once, and
no more until it is longer.

A small window costs little and grows whenever the program waits. A large one takes memory from
others, and where the server, the network or a processor is the limit it brings nothing: it has to
be worth it. What a doubling brought is measured, taken back if that is too little, and tried again
much later, as things may have changed.

What is small depends on what everybody waits for. Is it our own processor, then more connections
bring nothing, fewer and larger requests spare work, and what is copied out soon is still in a
cache. Is it idle, then the store's answers take their time, and more of them side by side are what
helps.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.transfer.blocks import BLOCK

__all__ = ["Reading", "Run"]

_FIRST_WINDOW = BLOCK  # who begins at the beginning probably goes on
_SEGMENT_MAX = 8 * BLOCK  # asking for more at once gains nothing
_SEGMENTS_A_WINDOW = 32  # more side by side is worth more than larger ones
_SEGMENT_MIN = 2 * BLOCK  # unless they are so small that requests become the work
_SEGMENT_MIN_BUSY = 8 * BLOCK  # which they soon are where work is what everybody waits for
_SKIP = 4 * BLOCK  # a jump ahead of this much rides on what is under way
_BEHIND = 4 * BLOCK  # the kernel sends read-ahead out of order, by less than this

# Up to this, a window need not be worth it.
_CHEAP = 64 * BLOCK
_CHEAP_BUSY = 16 * BLOCK  # what stays in a processor's caches
_WORTH = 1.2  # times the rate before: what a doubling must bring
_TRY_AGAIN = 16  # windows later

_CAUTION = 4  # times a window must have been read before it is asked for


class _Growth:
    """Whether a large window is worth it: what was read at which rate.

    After every change, half a window is let pass before a window is measured: what was asked for
    before the change is no measure of it.
    """

    def __init__(self) -> None:
        self._rate_before = 0.0  # at half the window; 0 when nobody knows
        self._hold = 0  # no change before this much was read
        self._from = 0
        self._since = 0.0
        self._settled = False

    def changed(self, position: int, now: float) -> None:
        """Begin anew: the window is another one."""
        self._from, self._since, self._settled = position, now, False

    def next(self, window: int, limit: int, position: int, now: float) -> int:
        """Return the window to go on with, up to `limit`, for a program that waits."""
        done = position - self._from
        if done < (window if self._settled else window // 2):
            return window
        if not self._settled:
            self._from, self._since, self._settled = position, now, True
            return window
        rate = done / max(now - self._since, 1e-6)
        self.changed(position, now)
        if self._rate_before and rate < self._rate_before * _WORTH:
            self._rate_before = 0.0
            self._hold = position + _TRY_AGAIN * window
            return window // 2
        if position < self._hold or window >= limit:
            return window
        self._rate_before = rate if window * 2 <= limit else 0.0  # less is not to be judged so
        return window * 2


class Reading(NamedTuple):
    """What a READ finds when it comes.

    Attributes:
        waits: its bytes are not here yet.
        limit: the largest window, in bytes.
        now: the time, in seconds.
        busy: our own processor has hardly any time left.
    """

    waits: bool
    limit: int
    now: float
    busy: bool


class Run:
    """One way through a file, from `start` on.

    Attributes:
        start: where it began.
        position: up to where has been read; the highest, as READs come out of order.
        high: up to where has been asked for.
        window: how many bytes beyond `position` are to be asked for.
        reads: how many READs it had.
    """

    __slots__ = (
        "_busy", "_cautious", "_expected", "_growth", "high", "position", "reads", "start",
        "window",
    )  # fmt: skip

    def __init__(self, start: int, expected: int = 0, *, cautious: bool = False) -> None:
        """Begin where nothing was read before.

        Args:
            start: where.
            expected: how long it is going to be, as far as is known; 0 for unknown.
            cautious: runs of this file are mostly short; a window has to be small beside what was
                read, so that little is read in vain.
        """
        self.start = start
        self.position = start
        self.high = start
        self.window = 0
        self.reads = 0
        self._expected = start + expected  # where others of this length would end
        self._cautious = cautious
        self._busy = False
        self._growth = _Growth()

    @property
    def length(self) -> int:
        """How many bytes it has come."""
        return self.position - self.start

    def follows(self, start: int) -> bool:
        """Tell whether a READ at `start` is this run going on.

        Who has read a while may leave something out; who leaves out more than it reads is not on
        its way through everything, also where a large window has all that is left out.
        """
        if start <= self.position:
            return start >= max(self.start, self.position - _BEHIND)
        if start - self.position > max(_SKIP, self.length):
            return False
        return start <= self.high or (
            bool(self.window) and start - self.high <= min(_SKIP, self.length)
        )

    def read(self, start: int, end: int, found: Reading) -> None:
        """Note a READ of [start, end)."""
        self._busy = found.busy
        self.reads += 1
        if self.reads == 1:
            # At the start of a file a run is taken for one through all of it.
            self.window = _FIRST_WINDOW if start == 0 else 0
        elif end > self.position and (found.waits or not self.window) and end > self._expected:
            grown = self._grown(max(end - start, _FIRST_WINDOW), found)
            self.window = min(grown, max(found.limit, end - start))
            if self._cautious:
                self.window = min(self.window, self.length // _CAUTION)
        self.position = max(self.position, end)
        self.high = max(self.high, end)

    def _grown(self, least: int, found: Reading) -> int:
        if self.window >= (_CHEAP_BUSY if self._busy else _CHEAP):
            return max(self._growth.next(self.window, found.limit, self.position, found.now), least)
        self._growth.changed(self.position, found.now)
        return max(self.window * 2, least)

    def ahead(self, size: int, limit: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to ask for now, in a file of `size` bytes, no more than `limit` ahead.

        `high` moves over a range only when the caller goes on to the next: one that cannot be
        had now (no memory) is yielded again the next time.
        """
        expects = self._expected > self.position
        until = self._expected if expects else self.position + self.window
        until = min(until, self.position + max(limit, self.window), size)
        segment = self._segment(until - self.position)
        while self.high < until:
            end = min(self.high + segment, until if expects or self._cautious else size)
            yield self.high, end
            self.high = end

    def _segment(self, window: int) -> int:
        share = window // _SEGMENTS_A_WINDOW // BLOCK * BLOCK
        enough = _SEGMENT_MIN_BUSY if self._busy else _SEGMENT_MIN
        least = min(max(window // 4 // BLOCK * BLOCK, BLOCK), enough)
        return min(max(share, least), _SEGMENT_MAX)

    def wants(self, start: int, end: int) -> bool:
        """Tell whether something of [start, end) may still be read."""
        if end <= self.position - _BEHIND:
            return False
        return start < max(self.high, self.position + self.window)

    def yield_memory(self) -> None:
        """Take a smaller window: what was read ahead was let go of, and is asked for again."""
        self.window //= 2
        self.high = self.position
