"""How far ahead to read: pure arithmetic on offsets, no transfers, no memory.

A run is one program's way through a file. One that goes on where it was gets a window that grows,
most of all while the program has to wait; one that jumps in somewhere gets exactly what it asks
for until it, too, goes on. Several runs in one open file are several programs, or threads, and do
not disturb one another.

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

from fuse_s3_worker.transfer.blocks import BLOCK

__all__ = ["Run", "Runs"]

_FIRST_WINDOW = BLOCK  # who begins at the beginning probably goes on
_SEGMENT_MAX = 8 * BLOCK  # asking for more at once gains nothing
_SEGMENTS_A_WINDOW = 32  # more side by side is worth more than larger ones
_SEGMENT_MIN = 2 * BLOCK  # unless they are so small that requests become the work
_SEGMENT_MIN_BUSY = 8 * BLOCK  # which they soon are where work is what everybody waits for
_SKIP = 4 * BLOCK  # a jump ahead of this much rides on what is under way
_BEHIND = 4 * BLOCK  # the kernel sends read-ahead out of order, by less than this
_RUNS_MAX = 16  # of one open file; the one that rested longest makes room

# Up to this, a window need not be worth it.
_CHEAP = 64 * BLOCK
_CHEAP_BUSY = 16 * BLOCK  # what stays in a processor's caches
_WORTH = 1.2  # times the rate before: what a doubling must bring
_TRY_AGAIN = 16  # windows later


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


class Run:
    """One way through a file.

    Attributes:
        position: up to where has been read; the highest, as READs come out of order.
        high: up to where has been asked for.
        window: how many bytes beyond `position` are to be asked for.
    """

    def __init__(self, start: int) -> None:
        self.position = start
        self.high = start
        self.window = 0
        self._begun = False
        self._busy = False
        self._growth = _Growth()

    def follows(self, start: int) -> bool:
        """Tell whether a READ at `start` is this run going on."""
        return self.position - _BEHIND <= start <= max(self.high, self.position) + self._skip

    @property
    def _skip(self) -> int:
        return _SKIP if self.window else 0

    def read(
        self, start: int, end: int, *, waits: bool, limit: int, now: float, busy: bool
    ) -> None:
        """Note a READ of [start, end).

        Args:
            start: where it begins.
            end: behind its last byte.
            waits: whether its bytes were not there yet.
            limit: the largest window, in bytes.
            now: the time, in seconds.
            busy: whether our own processor has hardly any time left.
        """
        self._busy = busy
        if not self._begun:
            # The first READ of a run: at the start of a file it is taken for a sequential one.
            self._begun = True
            self.window = _FIRST_WINDOW if start == 0 else 0
        elif end > self.position and (waits or not self.window):
            grown = self._grown(max(end - start, _FIRST_WINDOW), limit, now)
            self.window = min(grown, max(limit, end - start))
        self.position = max(self.position, end)
        self.high = max(self.high, end)

    def _grown(self, least: int, limit: int, now: float) -> int:
        if self.window >= (_CHEAP_BUSY if self._busy else _CHEAP):
            return max(self._growth.next(self.window, limit, self.position, now), least)
        self._growth.changed(self.position, now)
        return max(self.window * 2, least)

    def ahead(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to ask for now, in a file of `size` bytes.

        `high` moves over a range only when the caller goes on to the next: one that cannot be
        had now (no memory) is yielded again the next time.
        """
        while self.high < min(self.position + self.window, size):
            end = min(self.high + self._segment(), size)
            yield self.high, end
            self.high = end

    def _segment(self) -> int:
        share = self.window // _SEGMENTS_A_WINDOW // BLOCK * BLOCK
        enough = _SEGMENT_MIN_BUSY if self._busy else _SEGMENT_MIN
        least = min(max(self.window // 4 // BLOCK * BLOCK, BLOCK), enough)
        return min(max(share, least), _SEGMENT_MAX)

    def done_with(self, end: int) -> bool:
        """Tell whether nothing before `end` will be read any more."""
        return end <= self.position - _BEHIND


class Runs:
    """The runs of one open file, last used first."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def for_read(self, start: int) -> Run:
        """Return the run that a READ at `start` belongs to, a new one if need be."""
        run = next((run for run in self._runs if run.follows(start)), None)
        if run is None:
            run = Run(start)
            del self._runs[_RUNS_MAX - 1 :]
        else:
            self._runs.remove(run)
        self._runs.insert(0, run)
        return run

    def wanted(self, start: int, end: int) -> bool:
        """Tell whether any run may still read something of [start, end)."""
        return any(
            not run.done_with(end) and start < max(run.high, run.position + run.window)
            for run in self._runs
        )
