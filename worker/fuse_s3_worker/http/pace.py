"""What is usual for downloads from a server, to tell the one that is not.

A program that reads in order waits for the slowest of the connections that fetch for it. One that
lags far behind what others do just now is given up, and what it still owes is asked for on another
one. Only while most do better: when all are slow, the server or the network is, and asking again
would make it worse. Only a few: what is asked for twice is bounded.

An endpoint of several addresses is several servers. One that is slow beside the others is left out
for a while.
"""

from collections import OrderedDict, deque
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

_ADDRESSES_MAX = 64  # that are remembered: large endpoints name others all the time
_ADDRESS_MEMORY = 16  # downloads of each
_SEVERAL = 2
_SLOW = 4  # times slower than those from other addresses


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
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()  # rates

    def note(self, done: Progress, address: str = "") -> None:
        """Learn from a download that has ended well."""
        waited = done.elapsed if done.waited is None else done.waited
        self._waits.append(waited)
        if done.size >= _LARGE and done.elapsed > waited:
            rate = done.size / (done.elapsed - waited)
            self._rates.append(rate)
            self._rates_of(address).append(rate)
        self._allowed = min(self._allowed + _SHARE, _AT_ONCE)

    def _rates_of(self, address: str) -> deque[float]:
        if address not in self._by_address:
            self._by_address[address] = deque(maxlen=_ADDRESS_MEMORY)
            if len(self._by_address) > _ADDRESSES_MAX:
                self._by_address.popitem(last=False)
        self._by_address.move_to_end(address)
        return self._by_address[address]

    def slow_address(self, address: str) -> bool:
        """Tell whether an address is far slower than the others, and forget what was heard of it.

        It may be better when it is tried the next time.
        """
        rates = self._by_address.get(address, ())
        if len(self._by_address) < _SEVERAL or len(rates) < _EVIDENCE:
            return False
        others = [
            rate for one, found in self._by_address.items() if one != address for rate in found
        ]
        if len(others) < _EVIDENCE or median(rates) * _SLOW > median(others):
            return False
        del self._by_address[address]
        return True

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
