"""What a file that is being written is made of: an ordered map of extents, without any bytes.

Each byte of the file is one of these: written and in the stage, the local file that backs it; a
byte of some version of an object in the bucket, and maybe in the stage too; or a zero that nobody
has written. The stage has every byte at its place in the file, so an extent needs no place there.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["Extent", "ExtentMap"]


class Extent(NamedTuple):
    """Bytes [start, end) of the file, all of one kind.

    Attributes:
        source: the version they are bytes of; None when they were written, or are zeros.
        offset: of the first one in `source`.
        local: whether the stage has them.
    """

    start: int
    end: int
    source: ObjectInfo | None = None
    offset: int = 0
    local: bool = False

    @property
    def size(self) -> int:
        """Bytes from `start` to `end`."""
        return self.end - self.start

    @property
    def written(self) -> bool:
        """Tell whether the stage is the only place that has them."""
        return self.local and self.source is None

    @property
    def hole(self) -> bool:
        """Tell whether they are zeros that are nowhere."""
        return not self.local and self.source is None

    @property
    def missing(self) -> bool:
        """Tell whether they would have to be fetched."""
        return not self.local and self.source is not None

    def clip(self, start: int, end: int) -> Self:
        """Return what of it is in [start, end), which must be something."""
        low, high = max(self.start, start), min(self.end, end)
        offset = self.offset + low - self.start if self.source else 0
        return self._replace(start=low, end=high, offset=offset)

    def same_bytes(self, other: "Extent") -> bool:
        """Tell whether both are of one object, and go on in it as they do in the file."""
        return self.source == other.source and (
            self.source is None or self.offset - self.start == other.offset - other.start
        )

    def joins(self, after: "Extent") -> bool:
        """Tell whether `after` goes on where this one ends, in everything."""
        if (self.end, self.source, self.local) != (after.start, after.source, after.local):
            return False
        return self.source is None or self.offset + self.size == after.offset


class ExtentMap:
    """The extents of one file: without gaps, in order, from 0 to its size."""

    def __init__(self, base: ObjectInfo | None = None) -> None:
        """Begin with what the bucket has, or with nothing."""
        self._extents: list[Extent] = []
        if base is not None and base.size:
            self._extents.append(Extent(0, base.size, base))

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Self:
        """Return a map of these extents.

        Raises:
            ValueError: they leave gaps, overlap or are empty.
        """
        made = cls()
        for extent in extents:
            if extent.start != made.size or extent.size <= 0:
                raise ValueError(f"{extent.start} to {extent.end} does not follow {made.size}")
            made._splice(extent.start, extent.start, [extent])
        return made

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._extents[-1].end if self._extents else 0

    def between(self, start: int, end: int) -> list[Extent]:
        """Return the extents of [start, end), as far as the file goes."""
        found = self._extents[self._first(start) : self._behind(end)] if start < end else []
        if found:
            found[0] = found[0].clip(start, end)
            found[-1] = found[-1].clip(start, end)
        return found

    def missing(self, start: int, end: int) -> list[Extent]:
        """Return what of [start, end) would have to be fetched."""
        return [extent for extent in self.between(start, end) if extent.missing]

    def all_zeros(self, start: int, end: int) -> bool:
        """Tell whether there is nothing but holes in [start, end)."""
        return all(extent.hole for extent in self.between(start, end))

    def unchanged(self, base: ObjectInfo | None) -> bool:
        """Tell whether the file is what `base` is, byte for byte."""
        if base is None or self.size != base.size:
            return False
        return all(e.source == base and e.offset == e.start for e in self._extents)

    # -- changes --------------------------------------------------------------------------------

    def write(self, start: int, end: int) -> None:
        """Note that [start, end) was written to the stage; a gap before it is a hole."""
        self.put([Extent(start, end, local=True)])

    def zero(self, start: int, end: int) -> None:
        """Make [start, end) a hole, also behind the end."""
        self.put([Extent(start, end)])

    def put(self, extents: Sequence[Extent]) -> None:
        """Put extents that follow one another into the place of what is there."""
        extents = [extent for extent in extents if extent.size > 0]
        if not extents:
            return
        start, end = extents[0].start, extents[-1].end
        if start > self.size:
            extents.insert(0, Extent(self.size, start))
            start = self.size
        self._splice(start, end, extents)

    def truncate(self, size: int) -> None:
        """Cut the file, or have it go on with a hole."""
        if size > self.size:
            self.zero(self.size, size)
        else:
            self._splice(size, self.size, [])

    def load(self, start: int, end: int) -> None:
        """Note that the stage has what was missing of [start, end)."""
        for extent in self.missing(start, end):
            self._splice(extent.start, extent.end, [extent._replace(local=True)])

    def loaded(self, start: int, end: int) -> list[Extent]:
        """Return what of [start, end) the stage has and need not have."""
        return [extent for extent in self.between(start, end) if extent.local and extent.source]

    def unload(self, start: int, end: int) -> None:
        """Note that the stage has of [start, end) only what was written."""
        for extent in self.loaded(start, end):
            self._splice(extent.start, extent.end, [extent._replace(local=False)])

    def rebase(self, base: ObjectInfo) -> None:
        """Note that the whole file was stored as `base`; the stage has what it has."""
        self._extents = list(
            _joined(Extent(e.start, e.end, base, e.start, local=e.local) for e in self._extents)
        )

    def replace_source(self, old: ObjectInfo, new: ObjectInfo) -> None:
        """Note that the bytes of `old` are now in `new`, at the same places."""
        self._extents = [
            extent._replace(source=new) if extent.source == old else extent
            for extent in self._extents
        ]

    # -- details --------------------------------------------------------------------------------

    def _first(self, offset: int) -> int:
        """Return the index of the first extent that ends behind `offset`."""
        return bisect.bisect_right(self._extents, offset, key=lambda extent: extent.end)

    def _behind(self, offset: int) -> int:
        """Return the index of the first extent that begins at `offset` or behind it."""
        return bisect.bisect_left(self._extents, offset, key=lambda extent: extent.start)

    def _splice(self, start: int, end: int, new: Sequence[Extent]) -> None:
        """Put `new` into the place of [start, end), and join what belongs together."""
        low, high = self._first(start), self._behind(max(start, end))
        around: list[Extent] = []
        if low < len(self._extents) and self._extents[low].start < start:
            around.append(self._extents[low].clip(0, start))
        elif low:
            low -= 1  # it may go on in the first new one
            around.append(self._extents[low])
        around += new
        if high and self._extents[high - 1].end > end:
            around.append(self._extents[high - 1].clip(end, self._extents[high - 1].end))
        elif high < len(self._extents):
            around.append(self._extents[high])
            high += 1
        self._extents[low:high] = _joined(around)


def _joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield extents with those made one that go on in one another."""
    last: Extent | None = None
    for extent in extents:
        if last is None:
            last = extent
        elif last.joins(extent):
            last = last._replace(end=extent.end)
        else:
            yield last
            last = extent
    if last is not None:
        yield last
