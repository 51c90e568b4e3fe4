"""A reader of a file, and what is asked for ahead of it."""

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readahead import Reading, Run
from fuse_s3_worker.transfer.runs import Course, Runs

__all__ = ["HUGE", "KIB", "LIMIT", "Range", "Reader", "inside", "total"]

KIB = 1024
HUGE = 1 << 40
LIMIT = 16 * BLOCK

Range = tuple[int, int]


class Reader:
    """Reads a file of `size` bytes; notes what is asked for ahead of it, all of which it gets.

    Attributes:
        ahead: what was asked for beside the READs themselves.
        fetched: how many bytes were asked for in all.
    """

    def __init__(self, size: int = HUGE, limit: int = LIMIT) -> None:
        self.size = size
        self.limit = limit
        self.runs = Runs()
        self.ahead: list[Range] = []
        self.fetched = 0
        self.now = 0.0
        self.busy = True

    def read(self, start: int, length: int, *, waits: bool = True) -> list[Range]:
        """Return what is asked for now, beside the READ itself."""
        end = min(start + length, self.size)
        run = self.runs.read(start, end, Reading(waits, self.limit, self.now, self.busy))
        self.fetched += end - start - inside(self.ahead, start, end)
        asked = list(run.ahead(self.size, self.limit))
        self.ahead += asked
        self.fetched += total(asked)
        return asked

    @property
    def last(self) -> Course:
        """The run that was read last."""
        return next(iter(self.runs))

    @property
    def ways(self) -> list[Run]:
        """The runs that are on their way through the file, last used first."""
        return [run for run in self.runs if isinstance(run, Run)]

    @property
    def window(self) -> int:
        """Its window."""
        return self.last.window


def total(ranges: list[Range]) -> int:
    """Return how many bytes ranges have together."""
    return sum(end - start for start, end in ranges)


def inside(ranges: list[Range], start: int, end: int) -> int:
    """Return how many bytes of [start, end) ranges have, which do not overlap."""
    return sum(max(min(b, end) - max(a, start), 0) for a, b in ranges)
