"""Plans: the right bytes for every pattern of changes, within S3's limits and the stated bound.

Small units stand for megabytes, so that a byte-by-byte look at what a plan makes is cheap.
"""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.config.units import GIB, MIB, TIB
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent, ExtentMap
from fuse_s3_worker.transfer.partsize import PART_MAX, PART_MIN
from fuse_s3_worker.transfer.planner import (
    Copied,
    CopyPlan,
    Limits,
    PartsPlan,
    Plan,
    PutPlan,
    Sent,
    TooManyPartsError,
    changed_runs,
    extra_max,
    plan,
    traffic,
)

LIMITS = Limits(send=80, send_max=160, part_min=50, part_max=1000, parts_max=10_000, copy=300)
BASE = ObjectInfo("base", 1500, 0, '"base"')
LARGE = ObjectInfo("large", 700, 0, '"large"')
SMALL = ObjectInfo("small", 50, 0, '"small"')  # no range can be copied out of so little
CHANGED = object()

Content = list[tuple[ObjectInfo, int] | object]


def anything(_: ObjectInfo) -> bool:
    return True


def nothing(_: ObjectInfo) -> bool:
    return False


def content_of(extents: ExtentMap) -> Content:
    """Return, byte by byte, what a file is."""
    return [
        (e.source, e.offset + at) if e.source else (CHANGED, e.local, e.start + at)
        for e in extents
        for at in range(e.size)
    ]


def made_by(made: Plan, extents: ExtentMap) -> Content:
    """Return, byte by byte, what a plan makes: what is sent, it takes from the file."""
    if isinstance(made, CopyPlan):
        return [(made.source, at) for at in range(made.source.size)]
    file = content_of(extents)
    if isinstance(made, PutPlan):
        return file[: made.size]
    found: Content = []
    for part in made.parts:
        if isinstance(part, Copied):
            found += [(part.source, part.offset + at) for at in range(part.end - part.start)]
        else:
            found += file[part.start : part.end]
    return found


def check_parts(made: PartsPlan, limits: Limits) -> None:
    """Everything that S3 demands of parts."""
    at = 0
    assert 1 <= len(made.parts) <= limits.parts_max
    for part in made.parts:
        size = part.end - part.start
        assert part.start == at
        at = part.end
        last = part is made.parts[-1]
        assert 1 if last else limits.part_min <= size <= limits.part_max
        if isinstance(part, Copied):
            assert part.source.size > limits.part_min
            assert 0 <= part.offset <= part.offset + size <= part.source.size
        else:
            assert size < 2 * limits.send_max


SIZES = st.integers(1, 30) | st.integers(1, 400) | st.sampled_from([49, 50, 51, 99, 100, 101])


@st.composite
def files(draw: st.DrawFn) -> ExtentMap:
    """A file after any number of changes to an object, or to nothing."""
    extents = ExtentMap(draw(st.sampled_from([None, BASE, BASE, LARGE])))
    for _ in range(draw(st.integers(0, 8))):
        deed = draw(st.sampled_from("write write write append zero cut copy load".split()))
        start = draw(st.integers(0, max(extents.size, 1)))
        size = draw(SIZES)
        source = draw(st.sampled_from([BASE, LARGE, SMALL]))
        offset = draw(st.integers(0, source.size - 1))
        end = start + min(size, source.size - offset)
        deeds: dict[str, Callable[[], object]] = {
            "write": lambda s=start, n=size: extents.write(s, s + n),  # type: ignore[misc]
            "append": lambda n=size: extents.write(extents.size, extents.size + n),  # type: ignore[misc]
            "zero": lambda s=start, n=size: extents.zero(s, s + n),  # type: ignore[misc]
            "cut": lambda s=start: extents.truncate(s),  # type: ignore[misc]
            "copy": lambda s=start, e=end, o=source, f=offset: extents.put(  # type: ignore[misc]
                [Extent(s, e, o, f)]
            ),
            "load": lambda s=start, n=size: extents.load(s, s + n),  # type: ignore[misc]
        }
        deeds[deed]()
    return extents


@settings(deadline=None, max_examples=300)
@given(files(), st.booleans(), st.sampled_from([anything, nothing, lambda s: s is not LARGE]))
def test_a_plan_makes_the_file_within_the_limits(
    extents: ExtentMap, in_place: bool, can_copy: Callable[[ObjectInfo], bool]
) -> None:
    made = plan(list(extents), LIMITS, can_copy, in_place=in_place)
    assert made_by(made, extents) == content_of(extents)
    if isinstance(made, PutPlan):
        assert made.size == extents.size <= LIMITS.send
    elif isinstance(made, CopyPlan):
        assert not in_place
        assert can_copy(made.source)
    else:
        check_parts(made, LIMITS)
        assert all(can_copy(part.source) for part in made.parts if isinstance(part, Copied))


@settings(deadline=None, max_examples=300)
@given(files())
def test_no_more_is_sent_or_fetched_than_the_stated_bound(extents: ExtentMap) -> None:
    if any(extent.source is SMALL for extent in extents):
        return  # the bound is for sources that can be copied from
    made = plan(list(extents), LIMITS, anything, in_place=True)
    moved = traffic(made, list(extents))
    changed = sum(end - start for start, end in changed_runs(list(extents)))
    bound = extra_max(list(extents), LIMITS)
    assert moved.sent <= changed + bound
    assert moved.fetched <= bound
    # nothing that the stage has is fetched, nothing that is sent is not in the file
    assert moved.fetched <= sum(e.size for e in extents if e.missing)


@settings(deadline=None, max_examples=300)
@given(files(), st.integers(1, 40))
def test_few_parts_are_enough(extents: ExtentMap, parts_max: int) -> None:
    """Where there would be too many, parts grow, and then more is sent, but nothing is wrong."""
    limits = LIMITS._replace(parts_max=parts_max)
    try:
        made = plan(list(extents), limits, anything, in_place=True)
    except TooManyPartsError:
        # no part that memory allows is smaller than half of the largest
        assert extents.size > limits.send_max * (parts_max - 1) // 2
        return
    assert made_by(made, extents) == content_of(extents)
    if isinstance(made, PartsPlan):
        check_parts(made, limits)


# -- the sizes of S3 -------------------------------------------------------------------------------

S3 = Limits(send=8 * MIB, send_max=64 * MIB)
EDGES = [0, 1, 4 * MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB, 500 * MIB]


def base(size: int) -> ObjectInfo:
    return ObjectInfo("k", size, 0, '"e"')


@pytest.mark.parametrize("size", [6 * MIB, 11 * MIB, 1 * GIB, 4 * TIB])
@pytest.mark.parametrize("back", [False, True])
def test_changing_one_byte_costs_at_most_10_mib_either_way(size: int, back: bool) -> None:
    for edge in EDGES:
        at = size - 1 - edge if back else edge
        if not 0 <= at < size:
            continue
        extents = ExtentMap(base(size))
        extents.write(at, at + 1)
        moved = traffic(plan(list(extents), S3, anything, in_place=True), list(extents))
        assert max(moved) <= 10 * MIB
        if size > 10 * MIB:  # and really no more than one least part
            assert max(moved) <= PART_MIN


@pytest.mark.parametrize("size", [20 * MIB, 1 * GIB, 300 * GIB])
def test_appending_sends_what_is_appended_and_fetches_nothing(size: int) -> None:
    extents = ExtentMap(base(size))
    extents.write(size, size + MIB)
    made = plan(list(extents), S3, anything, in_place=True)
    assert traffic(made, list(extents)) == (MIB, 0)


def test_a_file_of_one_part_is_one_request() -> None:
    for size in (0, 1, 5 * MIB, 8 * MIB):
        extents = ExtentMap()
        extents.write(0, size)
        assert plan(list(extents), S3, anything, in_place=False) == PutPlan(size)
    extents = ExtentMap(base(8 * MIB))
    extents.write(0, 1)
    assert plan(list(extents), S3, anything, in_place=True) == PutPlan(8 * MIB)


def test_a_large_part_size_does_not_make_small_changes_dear() -> None:
    extents = ExtentMap(base(900 * MIB))
    extents.write(0, 1)
    limits = Limits(send=1 * GIB, send_max=1 * GIB)
    moved = traffic(plan(list(extents), limits, anything, in_place=True), list(extents))
    assert max(moved) <= PART_MIN


def test_the_whole_of_another_object_is_copied_in_one_request() -> None:
    extents = ExtentMap(base(200 * MIB))
    assert plan(list(extents), S3, anything, in_place=False) == CopyPlan(base(200 * MIB))
    # not where the version that is replaced matters, which CopyObject is not told
    made = plan(list(extents), S3, anything, in_place=True)
    assert isinstance(made, PartsPlan)
    assert traffic(made, list(extents)) == (0, 0)
    # nor what takes so long that parts side by side are sooner done
    assert isinstance(plan(list(ExtentMap(base(6 * GIB))), S3, anything, in_place=False), PartsPlan)
    # nor where there is no such request
    assert isinstance(plan(list(extents), S3, nothing, in_place=False), PartsPlan)


@pytest.mark.parametrize("size", [5 * GIB + 1, 1 * TIB, 5 * TIB])
def test_a_huge_object_is_copied_in_parts_that_s3_takes(size: int) -> None:
    extents = ExtentMap(base(size))
    extents.write(size - 1, size)
    made = plan(list(extents), S3, anything, in_place=True)
    assert isinstance(made, PartsPlan)
    check_parts(made, S3)
    assert traffic(made, list(extents)).sent == 1


@pytest.mark.parametrize("send", [5 * MIB, 1 * GIB, 5 * GIB])
def test_no_part_is_larger_than_s3_takes(send: int) -> None:
    extents = ExtentMap()
    extents.write(0, 9 * GIB)
    made = plan(list(extents), Limits(send=send, send_max=5 * GIB), anything, in_place=False)
    assert isinstance(made, PartsPlan)
    assert all(PART_MIN <= p.end - p.start <= PART_MAX for p in made.parts)


def test_ten_thousand_parts_are_enough_for_changes_everywhere() -> None:
    extents = ExtentMap(base(400 * GIB))
    for at in range(0, 400 * GIB, 16 * MIB):
        extents.write(at, at + 4096)
    made = plan(list(extents), S3, anything, in_place=True)
    assert isinstance(made, PartsPlan)
    assert len(made.parts) <= 10_000
    check_parts(made, S3)


def test_more_than_any_parts_can_hold_is_refused() -> None:
    extents = ExtentMap()
    extents.truncate(5 * TIB)
    with pytest.raises(TooManyPartsError, match="10000 parts"):
        plan(list(extents), S3, anything, in_place=False)


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
@example([60, 10, 60])
def test_holes_are_sent_and_never_fetched(sizes: list[int]) -> None:
    extents = ExtentMap()
    for number, size in enumerate(sizes):
        if number % 2:
            extents.write(extents.size, extents.size + size)
        else:
            extents.truncate(extents.size + size)
    moved = traffic(plan(list(extents), LIMITS, anything, in_place=False), list(extents))
    assert moved == (extents.size, 0)


def test_what_is_cheaper_to_keep_together_is() -> None:
    """Between two changes lies too little for a part of its own."""
    extents = ExtentMap(BASE)
    extents.write(500, 501)
    extents.write(540, 541)
    made = plan(list(extents), LIMITS, anything, in_place=True)
    assert isinstance(made, PartsPlan)
    assert [type(part) for part in made.parts] == [*[Copied] * 2, Sent, *[Copied] * 4]
    assert traffic(made, list(extents)).sent == LIMITS.part_min
