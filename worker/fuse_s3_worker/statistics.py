"""What is counted while a mount is served: how many requests of which kind, how long, how much.

Counting must not be felt: an addition or two for each request, into memory that is there already.
Times go into buckets that double, so that a percentile is right to a factor of two at the worst,
which is what it is asked for: whether something takes microseconds, milliseconds or seconds.
"""

from collections import Counter
from collections.abc import Iterator
from time import perf_counter_ns
from typing import NamedTuple

__all__ = ["FIRST_BUCKET", "Histogram", "KernelStatistics", "StoreStatistics", "Times"]

FIRST_BUCKET = 10  # the first bucket has all that is shorter than 2**10 ns, about a microsecond
_BUCKETS = 64 - FIRST_BUCKET + 1  # a clock in nanoseconds has 64 bits
_SECOND = 1e9  # nanoseconds
_OPCODES = 64  # those of the file system; CUSE_INIT, 4096, never comes here


class Times(NamedTuple):
    """How often something took place, and how long it took, in seconds.

    The times are upper bounds: at most that long, and more than half of it.
    """

    number: int
    median: float
    p90: float
    p99: float
    longest: float


class Histogram:
    """Durations, in buckets of [2**n, 2**(n + 1)) nanoseconds.

    Attributes:
        counts: how many there are in each bucket; who is in a hurry adds to it directly, at
            `(nanoseconds >> FIRST_BUCKET).bit_length()`.
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS

    def add(self, nanoseconds: int) -> None:
        """Count a duration."""
        self.counts[(nanoseconds >> FIRST_BUCKET).bit_length()] += 1

    def percentile(self, share: float) -> float:
        """Return the seconds that this share (0 to 1) of all took at most; 0 when there are none.

        It is the upper end of the bucket where the share is reached.
        """
        wanted = share * sum(self.counts)
        reached = 0
        for bucket, count in enumerate(self.counts):
            reached += count
            if count and reached >= wanted:
                return float(1 << (bucket + FIRST_BUCKET)) / _SECOND
        return 0.0

    def times(self) -> Times:
        """Return what there is to say of it."""
        shares = (self.percentile(share) for share in (0.5, 0.9, 0.99, 1.0))
        return Times(sum(self.counts), *shares)


class KernelStatistics:
    """Requests of the kernel.

    Attributes:
        counts: by opcode, the buckets of a Histogram; 0 has all that are unknown.
        errors: how often each errno was the answer.
        waiting: requests that are answered by whoever can, and since when.
        bytes_read: bytes that programs were given.
        bytes_written: bytes that programs gave.
    """

    __slots__ = ("_histograms", "bytes_read", "bytes_written", "counts", "errors", "waiting")

    def __init__(self) -> None:
        self._histograms = [Histogram() for _ in range(_OPCODES)]
        self.counts = [histogram.counts for histogram in self._histograms]
        self.errors: Counter[int] = Counter()
        self.waiting: dict[int, int] = {}
        self.bytes_read = 0
        self.bytes_written = 0

    def add(self, opcode: int, nanoseconds: int) -> None:
        """Count a request that was answered; this is on the way of every single one."""
        if opcode >= _OPCODES:
            opcode = 0
        self.counts[opcode][(nanoseconds >> FIRST_BUCKET).bit_length()] += 1

    def add_waiting(self, opcode: int, unique: int) -> None:
        """Count a request that has waited until now, unless that was done."""
        began = self.waiting.pop(unique, 0)
        if began:
            self.add(opcode, perf_counter_ns() - began)

    def by_opcode(self) -> Iterator[tuple[int, Times]]:
        """Yield opcode and times of those that there were."""
        for opcode, histogram in enumerate(self._histograms):
            if any(histogram.counts):
                yield opcode, histogram.times()


class StoreStatistics:
    """Requests to the store, each attempt for itself.

    Attributes:
        faults: how often each kind of failure was the outcome, by its name.
        bytes_sent: bytes of bodies.
        bytes_received: bytes of bodies that came whole.
    """

    def __init__(self) -> None:
        self._histograms: dict[str, Histogram] = {}
        self.faults: Counter[str] = Counter()
        self.bytes_sent = 0
        self.bytes_received = 0

    def add(self, operation: str, nanoseconds: int) -> None:
        """Count an attempt, whatever came of it."""
        histogram = self._histograms.get(operation)
        if histogram is None:
            histogram = self._histograms[operation] = Histogram()
        histogram.add(nanoseconds)

    def by_operation(self) -> Iterator[tuple[str, Times]]:
        """Yield operation and times, the most frequent first."""
        found = [(name, histogram.times()) for name, histogram in self._histograms.items()]
        yield from sorted(found, key=lambda item: -item[1].number)
