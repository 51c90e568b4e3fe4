"""Reading at equal distances: backward, or some of every so many bytes. Pure arithmetic, too.

Where the last pieces were tells where the next ones will be, so these are asked for side by side,
and nothing in between. Their number grows while the program waits.
"""

from collections.abc import Iterator

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readahead import Reading

__all__ = ["PIECE_MAX", "Steps"]

PIECE_MAX = 2 * BLOCK  # bytes, and of pieces that touch in one request
_PIECES_MAX = 32  # ahead, where each is a request: there are hardly more connections
_BEHIND = 4  # pieces: READs come out of order


class Steps:
    """Pieces of `length` bytes, each `distance` bytes after the one before; backward if negative.

    Attributes:
        window: how many bytes of pieces are to be asked for beyond the last one that was read.
    """

    __slots__ = ("_distance", "_done", "_high", "_length", "_rest", "_start", "_touch", "window")

    def __init__(self, start: int, length: int, distance: int) -> None:
        self.window = 0
        self._start = start  # of piece 0
        self._length = length
        self._distance = distance
        self._touch = distance == -length
        self._done = 0  # the last piece that was read
        self._high = -1  # the last one that was asked for
        self._rest = (0, 0)  # of a piece that a READ came for, and that was not asked for

    def _piece(self, offset: int) -> int | None:
        """Return the number of the piece that an offset is in."""
        number, inside = divmod(offset - self._start, abs(self._distance))
        if inside >= self._length:
            return None
        return number if self._distance > 0 else -number

    def _span(self, first: int, last: int) -> tuple[int, int]:
        """Return where pieces begin and end."""
        ends = self._start + first * self._distance, self._start + last * self._distance
        return min(ends), max(ends) + self._length

    def follows(self, start: int) -> bool:
        """Tell whether a READ at `start` is of one of the next pieces, or of one just passed."""
        number = self._piece(start)
        return number is not None and -_BEHIND <= number - self._done <= self._ahead + 1

    @property
    def _ahead(self) -> int:
        return self.window // self._length

    def read(self, start: int, end: int, found: Reading) -> None:
        """Note a READ of [start, end)."""
        number = self._piece(start)
        if number is None or number < self._done:
            return
        if found.waits:
            most = found.limit if self._touch else min(found.limit, _PIECES_MAX * self._length)
            self.window = min(max(2 * self.window, self._length), max(most, self._length))
        if number > self._high:
            self._high = number
            self._rest = end, self._span(number, number)[1]
        self._done = number

    def ahead(self, size: int, limit: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to ask for now, as `Run.ahead` does."""
        start, end = self._rest
        if start < min(end, size):
            yield start, min(end, size)
            self._rest = (0, 0)
        together = 1
        if self._touch:  # as few requests as let several be under way
            together = max(min(self.window // 4, PIECE_MAX) // self._length, 1)
        until = self._done + min(self.window, limit) // self._length
        while self._high + together <= until:
            start, end = self._span(self._high + 1, self._high + together)
            if max(start, 0) >= min(end, size):
                return
            yield max(start, 0), min(end, size)
            self._high += together

    def wants(self, start: int, end: int) -> bool:
        """Tell whether something of [start, end) may still be read."""
        low, high = self._span(self._done, max(self._high, self._done + self._ahead))
        return start < high and end > low

    def yield_memory(self) -> None:
        """Take a smaller window: what was read ahead was let go of, and is asked for again."""
        self.window //= 2
        self._high = self._done
