"""What is usual for downloads from a server, to tell the one that is not.

A program that reads in order waits for the slowest of the connections that fetch for it. One that
lags far behind what others do just now is given up, and what it still owes is asked for on another
one. Only while most do better: when all are slow, the server or the network is, and asking again
would make it worse. Only a few: what is asked for twice is bounded.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Pace", "Progress"]

_EVIDENCE = 8  # downloads that must have ended before anything is called unusual
_MEMORY = 64  # downloads that are remembered
_LARGE = 256 * 1024  # bytes from which on a download tells a rate
_LAG = 8  # times slower than usual
_AT_LEAST = 1.0  # seconds that a download may be slow in any case
_SHARE = 1 / 16  # of all downloads may be asked for again
_AT_ONCE = 4.0


class Progress(NamedTuple):
    """How far a download has come.

    Attributes:
        elapsed: seconds since it was asked for.
        waited: seconds until the first byte; None when there is none yet.
        size: bytes received.
    """

    elapsed: float
    waited: float | None
    size: int


class Pace:
    """The pace of one server."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=_MEMORY)
        self._rates: deque[float] = deque(maxlen=_MEMORY)  # bytes a second
        self._allowed = 1.0

    def note(self, done: Progress) -> None:
        """Learn from a download that has ended well."""
        waited = done.elapsed if done.waited is None else done.waited
        self._waits.append(waited)
        if done.size >= _LARGE and done.elapsed > waited:
            self._rates.append(done.size / (done.elapsed - waited))
        self._allowed = min(self._allowed + _SHARE, _AT_ONCE)

    def stragglers(self, downloads: Sequence[Progress]) -> list[int]:
        """Return which of the downloads under way to give up; they count as given up."""
        if len(self._waits) < _EVIDENCE:
            return []
        lagging = [number for number, one in enumerate(downloads) if self._lags(one)]
        if len(lagging) * 2 > len(downloads):
            return []
        chosen = lagging[: int(self._allowed)]
        self._allowed -= len(chosen)
        return chosen

    def _lags(self, one: Progress) -> bool:
        if one.waited is None:
            return one.elapsed > max(_LAG * median(self._waits), _AT_LEAST)
        seconds = one.elapsed - one.waited
        if seconds <= _AT_LEAST or len(self._rates) < _EVIDENCE:
            return False
        return one.size < seconds * median(self._rates) / _LAG
