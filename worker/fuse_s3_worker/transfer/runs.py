"""Which READ of an open file belongs to what: programs, threads, and how they go on.

Several runs in one open file are several programs, or threads, and do not disturb one another. The
last ones that began tell what to expect of the next: that it is as long as they were, or that all
of them are pieces at equal distances.
"""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readahead import Reading, Run
from fuse_s3_worker.transfer.steps import PIECE_MAX, Steps

__all__ = ["Course", "Runs"]

Course = Run | Steps

_RUNS_MAX = 16  # of one open file; the one that rested longest makes room
_EVIDENCE = 3  # runs that agree; by chance, two often do
_DISTANCE_MAX = 64 * BLOCK  # further apart are threads, each in its part of the file
_MANY, _SHORT = 8, 8 * BLOCK  # so many runs, so short on average, are of one who looks around
_ALIKE = 0.8  # lengths: the kernel reads ahead beyond the end of some


class Runs:
    """The runs of one open file, last used first."""

    def __init__(self) -> None:
        self._runs: list[Course] = []
        self._last: deque[Run] = deque(maxlen=_EVIDENCE)  # that began
        self._begun = 0
        self._read = 0  # bytes

    def __iter__(self) -> Iterator[Course]:
        return iter(self._runs)

    def read(self, start: int, end: int, found: Reading) -> Course:
        """Note a READ of [start, end); return the run that it belongs to, a new one if need be."""
        run = self._of(start)
        run.read(start, end, found)
        self._read += end - start
        return run

    def _of(self, start: int) -> Course:
        if self._runs and self._runs[0].follows(start):
            return self._runs[0]
        run = next((run for run in self._runs if run.follows(start)), None)
        if run is None:
            run = self._begin(start)
            del self._runs[_RUNS_MAX - 1 :]
        else:
            self._runs.remove(run)
        self._runs.insert(0, run)
        return run

    def _begin(self, start: int) -> Course:
        if distance := self._distance(start):
            return Steps(start, self._last[-1].length, distance)
        short = self._begun >= _MANY and self._read < self._begun * _SHORT
        run = Run(start, self._usual_length(), cautious=short)
        self._last.append(run)
        self._begun += 1
        return run

    def _distance(self, start: int) -> int:
        """Return the distance from each of the last runs, of one length, to the next; 0: none."""
        if len(self._last) < _EVIDENCE:
            return 0
        starts = [run.start for run in self._last] + [start]
        distances = {after - before for before, after in pairwise(starts)}
        lengths = {run.length for run in self._last}
        if len(distances) > 1 or len(lengths) > 1:
            return 0
        (distance,), (length,) = distances, lengths
        near = 0 < length <= min(abs(distance), PIECE_MAX) and abs(distance) <= _DISTANCE_MAX
        return distance if near else 0

    def _usual_length(self) -> int:
        """Return the length that runs have in this file, 0 when nobody knows.

        Of several READs each: who reads at random reads its piece in one, and gets just that.
        """
        lengths = [run.length for run in self._last if run.reads > 1]
        if len(lengths) < _EVIDENCE or min(lengths) < max(lengths) * _ALIKE:
            return 0
        return min(lengths)

    def wanted(self, start: int, end: int) -> bool:
        """Tell whether any run may still read something of [start, end)."""
        return any(run.wants(start, end) for run in self._runs)
