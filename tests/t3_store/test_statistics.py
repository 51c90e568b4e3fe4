"""Counting: buckets, percentiles, and that nothing is made for each request."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.statistics import (
    FIRST_BUCKET,
    Histogram,
    KernelStatistics,
    StoreStatistics,
    Times,
)

MICROSECOND, MILLISECOND, SECOND = 1_000, 1_000_000, 1_000_000_000
NEVER = Times(0, 0.0, 0.0, 0.0, 0.0)


def histogram(*nanoseconds: int) -> Histogram:
    made = Histogram()
    for duration in nanoseconds:
        made.add(duration)
    return made


def test_nothing_has_no_percentiles() -> None:
    assert histogram().times() == NEVER


def test_a_bucket_ends_where_the_next_begins() -> None:
    first = 1 << FIRST_BUCKET
    for nanoseconds, bucket in ((0, 0), (first - 1, 0), (first, 1), (2 * first - 1, 1),
                                (2 * first, 2), (4 * first, 3)):  # fmt: skip
        counts = histogram(nanoseconds).counts
        assert counts.index(1) == bucket, nanoseconds
        assert sum(counts) == 1


@pytest.mark.parametrize("nanoseconds", [0, 1, (1 << 63), (1 << 64) - 1])
def test_every_duration_that_a_clock_can_measure_has_a_bucket(nanoseconds: int) -> None:
    assert histogram(nanoseconds).times().number == 1


def test_percentiles_are_upper_bounds_and_no_worse_than_twice() -> None:
    times = histogram(*[40 * MICROSECOND] * 90, *[3 * MILLISECOND] * 9, 2 * SECOND).times()
    assert times.number == 100
    for found, real in (
        *((times.median, 40e-6), (times.p90, 40e-6)),
        *((times.p99, 3e-3), (times.longest, 2.0)),
    ):
        assert real <= found <= 2 * real


@given(st.lists(st.integers(1 << FIRST_BUCKET, 1 << 50), min_size=1, max_size=60))
def test_a_percentile_is_that_of_the_sorted_list_to_a_factor_of_two(durations: list[int]) -> None:
    found = histogram(*durations)
    durations.sort()
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        at = max(-(-len(durations) * share // 1), 1)
        real = durations[int(at) - 1] / SECOND
        assert real <= found.percentile(share) <= 2 * real


def test_requests_are_counted_by_opcode() -> None:
    counts = KernelStatistics()
    for opcode, times in ((15, 3), (1, 2)):
        for _ in range(times):
            counts.add(opcode, 100)
    counts.add(4096, 100)  # CUSE_INIT, and whatever comes after it
    assert [(opcode, times.number) for opcode, times in counts.by_opcode()] == [
        (0, 1), (1, 2), (15, 3),
    ]  # fmt: skip


def test_counting_takes_no_memory() -> None:
    counts = KernelStatistics()
    counts.add(15, 100)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in itertools.repeat(None, 10_000):
            counts.add(15, 100_000)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    here = tracemalloc.Filter(inclusive=True, filename_pattern="*/statistics.py")
    grown = after.filter_traces([here]).compare_to(before.filter_traces([here]), "filename")
    assert sum(difference.size_diff for difference in grown) < 1_000


def test_operations_come_by_their_number() -> None:
    counts = StoreStatistics()
    for operation, times in (("HeadObject", 1), ("GetObject", 5), ("PutObject", 2)):
        for _ in range(times):
            counts.add(operation, 5 * MILLISECOND)
    found = dict(counts.by_operation())
    assert list(found) == ["GetObject", "PutObject", "HeadObject"]
    assert found["GetObject"].number == 5
    assert 0.005 <= found["GetObject"].median <= 0.01
