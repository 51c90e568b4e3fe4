"""How a file becomes an object with the least traffic: pure arithmetic on extents.

S3 changes nothing in place, but a new object can be put together out of parts: bytes that are
sent, and ranges of objects that are there, which the store copies by itself. Every part but the
last has at least 5 MiB, so whoever changes one byte of a large file sends the 5 MiB around it and
has the rest copied. What is sent beyond what was changed is bounded by `extra_max`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.partsize import PART_MAX, PART_MIN, PARTS_MAX

__all__ = [
    "Copied",
    "CopyPlan",
    "Limits",
    "Part",
    "PartsPlan",
    "Plan",
    "PutPlan",
    "Sent",
    "TooManyPartsError",
    "Traffic",
    "changed_runs",
    "copies_of",
    "extra_max",
    "plan",
    "traffic",
]

# A store copies several parts at once sooner than a large one, and says nothing meanwhile.
_COPY_PART = 256 * MIB


class Limits(NamedTuple):
    """What parts may be like.

    Attributes:
        send: bytes of a part that is sent; up to twice as many are.
        send_max: what memory allows, at least `send`.
        part_min: the least part but the last, and the largest source that S3 copies no range of.
        part_max: the largest part.
        parts_max: the most parts.
        copy: bytes that are copied by one request at most; more when there would be too many parts.
    """

    send: int
    send_max: int
    part_min: int = PART_MIN
    part_max: int = PART_MAX
    parts_max: int = PARTS_MAX
    copy: int = _COPY_PART


class Sent(NamedTuple):
    """A part whose bytes we send: [start, end) of the file."""

    start: int
    end: int


class Copied(NamedTuple):
    """A part that the store copies: [start, end) of the file, in `source` from `offset` on."""

    start: int
    end: int
    source: ObjectInfo
    offset: int


Part = Sent | Copied


class PutPlan(NamedTuple):
    """All in one request, with its bytes."""

    size: int


class CopyPlan(NamedTuple):
    """The whole of another object, in one request without bytes."""

    source: ObjectInfo


class PartsPlan(NamedTuple):
    """A multipart upload."""

    parts: list[Part]


Plan = PutPlan | CopyPlan | PartsPlan
CanCopy = Callable[[ObjectInfo], bool]


class Traffic(NamedTuple):
    """Bytes that move through this machine."""

    sent: int
    fetched: int


class TooManyPartsError(ValueError):
    """S3 has no room for so many parts, and memory none for larger ones."""


def plan(extents: Sequence[Extent], limits: Limits, can_copy: CanCopy, *, in_place: bool) -> Plan:
    """Return the plan for a file with these extents.

    Args:
        extents: of the whole file, in order.
        limits: what parts may be like.
        can_copy: whether the store copies from a source.
        in_place: whether it is stored on the condition that a certain version is there, which
            CopyObject, unlike the others, does not know.

    Raises:
        TooManyPartsError: there is none.
    """
    size = extents[-1].end if extents else 0
    whole = _whole_source(extents, size)
    if whole and not in_place and whole.size <= limits.copy and can_copy(whole):
        return CopyPlan(whole)
    if size <= min(limits.send, 2 * limits.part_min):
        return PutPlan(size)
    parts = _parts(extents, limits, can_copy)
    if size <= limits.send and all(isinstance(part, Sent) for part in parts):
        return PutPlan(size)
    return PartsPlan(parts)


def copies_of(base: ObjectInfo, limits: Limits) -> list[Copied]:
    """Return the parts that an object is copied in, so that more can follow it."""
    made = plan([Extent(0, base.size, base)], limits, lambda _: True, in_place=True)
    parts = made.parts if isinstance(made, PartsPlan) else ()
    return [part for part in parts if isinstance(part, Copied)]


def _whole_source(extents: Sequence[Extent], size: int) -> ObjectInfo | None:
    """Return the object that the file is, if it is one."""
    source = extents[0].source if extents else None
    if source is None or source.size != size:
        return None
    same = all(extent.source == source and extent.offset == extent.start for extent in extents)
    return source if same else None


# -- which bytes are copied and which are sent -----------------------------------------------------


class _Piece(NamedTuple):
    """A stretch of the file that can be copied out of `source`, or, without one, cannot."""

    start: int
    end: int
    source: ObjectInfo | None
    offset: int

    @property
    def size(self) -> int:
        return self.end - self.start


def _pieces(
    extents: Sequence[Extent], grain: int, source_min: int, can_copy: CanCopy
) -> list[_Piece]:
    """Divide a file into what can be copied and what cannot.

    Only the end of the file can be copied when it has less than `grain` bytes, since no other part
    may.
    """
    size = extents[-1].end if extents else 0
    found: list[_Piece] = []
    for run in _by_source(extents):
        source = run.source
        if source and (source.size <= source_min or not can_copy(source)):
            source = None
        if run.size < grain and run.end != size:
            source = None
        if found and not source and not found[-1].source:
            found[-1] = found[-1]._replace(end=run.end)
        else:
            found.append(run._replace(source=source))
    return found


def _by_source(extents: Sequence[Extent]) -> Iterator[_Piece]:
    """Yield runs of extents that are bytes of one object in one go, whether loaded or not."""
    last: _Piece | None = None
    for start, end, source, offset, _ in extents:
        goes_on = last is not None and last.source == source
        if last and goes_on and (source is None or last.offset + last.size == offset):
            last = last._replace(end=end)
            continue
        if last:
            yield last
        last = _Piece(start, end, source, offset)
    if last:
        yield last


def _cuts(pieces: Sequence[_Piece], grain: int) -> list[_Piece]:
    """Give to what is sent as much of what could be copied as makes a part, from left to right.

    A stretch that is too small takes first from what lies before it and can spare it, then from
    what comes after it, all of that if too little would be left. What is left before it is of no
    use to any later stretch, so this order costs least.
    """
    done: list[_Piece] = []
    for piece in pieces:
        stretch = done[-1] if done and not done[-1].source else None
        if not piece.source:
            if stretch:
                done[-1] = stretch._replace(end=piece.end)
            else:
                done.append(piece)
        elif stretch is None:
            done.append(piece)
        else:
            _join(done, piece, grain, last=piece is pieces[-1])
    return done


def _join(done: list[_Piece], piece: _Piece, grain: int, *, last: bool) -> None:
    """Let `piece`, which can be copied, follow the stretch that was begun."""
    stretch = done.pop()
    lacks = max(grain - stretch.size, 0)
    before = done[-1] if done else None
    left = min(lacks, max(before.size - grain, 0)) if before else 0
    right = min(lacks - left, piece.size)
    rest = piece.size - right
    if rest and (rest >= grain or last):
        if before:
            done[-1] = before._replace(end=before.end - left)
        done.append(stretch._replace(start=stretch.start - left, end=stretch.end + right))
        done.append(_Piece(piece.start + right, piece.end, piece.source, piece.offset + right))
    else:
        done.append(stretch._replace(end=piece.end))


# -- parts -----------------------------------------------------------------------------------------


def _parts(extents: Sequence[Extent], limits: Limits, can_copy: CanCopy) -> list[Part]:
    """Return the parts of a file, no more than S3 takes."""
    for send, copy, grain in _coarser(limits, extents[-1].end):
        cuts = _cuts(_pieces(extents, grain, limits.part_min, can_copy), grain)
        sizes = limits._replace(send=send, copy=copy)
        if sum(_number(cut, sizes) for cut in cuts) <= limits.parts_max:
            return [part for cut in cuts for part in _divided(cut, sizes)]
    raise TooManyPartsError(f"more than {limits.parts_max} parts")


def _coarser(limits: Limits, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield sizes of parts, sent and copied, and the least of both, from fine to coarse."""
    send, copy, grain = limits.send, limits.copy, limits.part_min
    while True:
        yield send, copy, grain
        if (send, copy) == (limits.send_max, limits.part_max):
            if grain >= size:
                return
            grain *= 2
        send, copy = min(send * 2, limits.send_max), min(copy * 2, limits.part_max)


def _number(piece: _Piece, limits: Limits) -> int:
    """Return into how many parts a piece is divided."""
    if piece.source:
        return -(-piece.size // limits.copy)
    return max(piece.size // limits.send, -(-piece.size // limits.part_max))


def _divided(piece: _Piece, limits: Limits) -> Iterator[Part]:
    """Divide a piece evenly, so that none of its parts is smaller than the least."""
    number = _number(piece, limits)
    bounds = [piece.start + piece.size * index // number for index in range(number + 1)]
    for start, end in pairwise(bounds):
        if piece.source:
            yield Copied(start, end, piece.source, piece.offset + start - piece.start)
        else:
            yield Sent(start, end)


# -- what a plan costs -----------------------------------------------------------------------------


def traffic(made: Plan, extents: Sequence[Extent]) -> Traffic:
    """Return the bytes that a plan moves."""
    if isinstance(made, CopyPlan):
        return Traffic(0, 0)
    if isinstance(made, PutPlan):
        sent = [Sent(0, made.size)]
    else:
        sent = [part for part in made.parts if isinstance(part, Sent)]
    fetched = 0
    for part in sent:
        for extent in extents:
            if extent.missing:
                fetched += max(min(extent.end, part.end) - max(extent.start, part.start), 0)
    return Traffic(sum(part.end - part.start for part in sent), fetched)


def changed_runs(extents: Sequence[Extent]) -> list[tuple[int, int]]:
    """Return the places where a file is not simply one object in one go.

    That is, each run of bytes that were written or are zeros, and, as an empty one, each place
    where the bytes of one object are followed by others than its next.
    """
    runs: list[tuple[int, int]] = []
    before: _Piece | None = None
    for piece in _by_source(extents):
        if piece.source is None:
            runs.append((piece.start, piece.end))
        elif before is not None and before.source is not None:
            runs.append((piece.start, piece.start))
        before = piece
    return runs


def extra_max(extents: Sequence[Extent], limits: Limits) -> int:
    """Return the bound on what is sent, and on what is fetched, beyond what was changed.

    For each changed run two parts of the least size, as long as all sources are large enough to
    be copied from, the store copies, and 10,000 parts are enough. What is not changed at all, but
    cut, is sent if it is no more than that.
    """
    return max(len(changed_runs(extents)), 1) * 2 * limits.part_min
