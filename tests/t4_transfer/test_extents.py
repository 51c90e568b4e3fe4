"""The map of a file beside a model that says of each byte, one by one, what it is."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent, ExtentMap

BASE = ObjectInfo("base", 40, 0, '"base"')
OTHER = ObjectInfo("other", 60, 0, '"other"')
STORED = ObjectInfo("stored", 0, 0, '"stored"')


class Byte(NamedTuple):
    """What one byte is: whose, which, and whether the stage has it."""

    source: ObjectInfo | None
    offset: int
    local: bool


HOLE = Byte(None, 0, local=False)
WRITTEN = Byte(None, 0, local=True)


def bytes_of(extents: ExtentMap) -> list[Byte]:
    return [
        Byte(e.source, e.offset + at if e.source else 0, e.local)
        for e in extents
        for at in range(e.size)
    ]


class Model:
    """The same operations, byte by byte."""

    def __init__(self, base: ObjectInfo | None) -> None:
        self.bytes = [Byte(base, at, local=False) for at in range(base.size)] if base else []

    def put(self, start: int, new: list[Byte]) -> None:
        if new:
            self.bytes += [HOLE] * (start - len(self.bytes))
            self.bytes[start : start + len(new)] = new

    def write(self, start: int, size: int) -> None:
        self.put(start, [WRITTEN] * size)

    def zero(self, start: int, size: int) -> None:
        self.put(start, [HOLE] * size)

    def copy(self, start: int, size: int) -> None:
        self.put(start, [Byte(OTHER, at, local=False) for at in range(size)])

    def truncate(self, size: int, _: int) -> None:
        self.bytes = self.bytes[:size] + [HOLE] * (size - len(self.bytes))

    def load(self, start: int, size: int) -> None:
        for at in range(start, min(start + size, len(self.bytes))):
            if self.bytes[at].source:
                self.bytes[at] = self.bytes[at]._replace(local=True)

    def unload(self, start: int, size: int) -> None:
        for at in range(start, min(start + size, len(self.bytes))):
            if self.bytes[at].source:
                self.bytes[at] = self.bytes[at]._replace(local=False)

    def rebase(self, _: int, __: int) -> None:
        stored = STORED._replace(size=len(self.bytes))
        self.bytes = [Byte(stored, at, b.local) for at, b in enumerate(self.bytes)]


def act(extents: ExtentMap, name: str, start: int, size: int) -> None:
    """Do to the map what the method of this name does to the model."""
    deeds: dict[str, Callable[[], object]] = {
        "write": lambda: extents.write(start, start + size),
        "zero": lambda: extents.zero(start, start + size),
        "copy": lambda: extents.put([Extent(start, start + size, OTHER, 0)]),
        "truncate": lambda: extents.truncate(start),
        "load": lambda: extents.load(start, start + size),
        "unload": lambda: extents.unload(start, start + size),
        "rebase": lambda: extents.rebase(STORED._replace(size=extents.size)),
    }
    deeds[name]()


DEEDS = st.tuples(
    st.sampled_from("write write zero copy truncate load load unload rebase".split()),
    st.integers(0, 60),
    st.integers(0, 30),
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([None, BASE]), st.lists(DEEDS, max_size=25), st.integers(0, 80))
def test_the_map_is_what_the_bytes_are(
    base: ObjectInfo | None, deeds: list[tuple[str, int, int]], place: int
) -> None:
    extents, model = ExtentMap(base), Model(base)
    for name, start, size in deeds:
        act(extents, name, start, size)
        getattr(model, name)(start, size)
        assert bytes_of(extents) == model.bytes
        assert extents.size == len(model.bytes)
        together = list(extents)
        assert not any(a.joins(b) for a, b in pairwise(together))
        assert all(extent.size for extent in together)
    clipped = extents.between(place, place + 17)
    assert bytes_of(ExtentMap.of(shifted(clipped, place))) == model.bytes[place : place + 17]
    assert list(ExtentMap.of(extents)) == list(extents)


def shifted(extents: list[Extent], by: int) -> list[Extent]:
    return [e._replace(start=e.start - by, end=e.end - by) for e in extents]


def test_an_extent_is_of_one_kind() -> None:
    kinds = {
        Extent(0, 1, local=True): "written",
        Extent(0, 1): "hole",
        Extent(0, 1, BASE): "missing",
        Extent(0, 1, BASE, local=True): "",
    }
    for extent, kind in kinds.items():
        true = [name for name in ("written", "hole", "missing") if getattr(extent, name)]
        assert true == ([kind] if kind else [])


def test_what_goes_on_is_one_extent() -> None:
    extents = ExtentMap()
    for at in range(0, 100, 10):
        extents.write(at, at + 10)
    assert list(extents) == [Extent(0, 100, local=True)]
    extents.put([Extent(100, 110, OTHER, 5), Extent(110, 120, OTHER, 15), Extent(120, 130, OTHER)])
    assert list(extents)[1:] == [Extent(100, 120, OTHER, 5), Extent(120, 130, OTHER)]


def test_what_is_missing_is_what_would_have_to_be_fetched() -> None:
    extents = ExtentMap(BASE)
    extents.write(10, 20)
    extents.load(15, 25)
    assert extents.missing(5, 100) == [Extent(5, 10, BASE, 5), Extent(25, 40, BASE, 25)]
    assert extents.missing(12, 24) == []


def test_unloading_tells_what_need_not_be_kept() -> None:
    extents = ExtentMap(BASE)
    extents.load(0, 10)
    extents.write(5, 7)
    assert [(e.start, e.end) for e in extents.loaded(0, 100)] == [(0, 5), (7, 10)]
    extents.unload(1, 100)
    assert [(e.start, e.end) for e in extents if e.local] == [(0, 1), (5, 7)]


def test_a_file_is_unchanged_only_if_every_byte_is() -> None:
    extents = ExtentMap(BASE)
    assert extents.unchanged(BASE)
    assert not extents.unchanged(None)
    assert not extents.unchanged(BASE._replace(etag='"new"'))
    extents.load(3, 9)
    assert extents.unchanged(BASE)
    extents.truncate(39)
    assert not extents.unchanged(BASE)
    extents.truncate(40)
    assert not extents.unchanged(BASE)
    moved = ExtentMap.of([Extent(0, 40, BASE, 0), Extent(40, 41, BASE, 0)])
    moved.truncate(40)
    assert moved.unchanged(BASE)
    assert not ExtentMap.of([Extent(0, 39, BASE, 1), Extent(39, 40, BASE, 0)]).unchanged(BASE)


def test_zeros_are_told_from_what_was_written() -> None:
    extents = ExtentMap()
    extents.truncate(50)
    extents.write(20, 30)
    assert extents.all_zeros(0, 20)
    assert not extents.all_zeros(0, 21)
    extents.zero(20, 30)
    assert extents.all_zeros(0, 50)


def test_another_name_for_the_same_bytes() -> None:
    extents = ExtentMap(BASE)
    extents.load(0, 5)
    extents.put([Extent(10, 20, OTHER, 3)])
    renamed = BASE._replace(key="renamed")
    extents.replace_source(BASE, renamed)
    assert [(e.source, e.offset) for e in extents] == [
        *((renamed, 0), (renamed, 5), (OTHER, 3), (renamed, 20))
    ]


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(1, 2)],
        [Extent(0, 2), Extent(3, 4)],
        [Extent(0, 2), Extent(1, 4)],
        [Extent(0, 2), Extent(2, 2)],
        [Extent(0, 2), Extent(2, 1)],
    ],
)
def test_what_is_no_map_is_refused(extents: list[Extent]) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        ExtentMap.of(extents)
