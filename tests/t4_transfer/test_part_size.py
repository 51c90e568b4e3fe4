"""Part sizes: within S3's limits for every setting, and the promise of `largest_object`."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.config.units import GIB, MIB, TIB
from fuse_s3_worker.transfer.partsize import (
    OBJECT_MAX,
    PART_MAX,
    PART_MIN,
    PARTS_MAX,
    largest_object,
    part_size,
)

FIRST = st.integers(PART_MIN, PART_MAX)
# memory_target= is at least four parts, and a quarter of it bounds a part
FACTOR = st.integers(1, 4096) | st.just(1)


def test_the_limits_are_those_of_s3() -> None:
    assert (PARTS_MAX, PART_MIN, PART_MAX) == (10_000, 5 * MIB, 5 * GIB)
    assert OBJECT_MAX == 5 * TIB


@settings(deadline=None, max_examples=60)
@given(FIRST, FACTOR)
@example(5 * MIB, 1)
@example(8 * MIB, 8)
@example(5 * GIB, 1)
def test_parts_never_shrink_and_stay_within_bounds(first: int, factor: int) -> None:
    largest = first * factor
    sizes = [part_size(number, first, largest) for number in range(1, PARTS_MAX + 1)]
    assert sizes[0] == first
    assert all(a <= b for a, b in pairwise(sizes))
    assert min(sizes) >= PART_MIN
    assert max(sizes) <= min(PART_MAX, largest)
    assert largest_object(first, largest) == min(sum(sizes), OBJECT_MAX)


@settings(deadline=None, max_examples=100)
@given(FIRST, FACTOR, st.integers(1, OBJECT_MAX))
def test_every_object_that_is_promised_fits_into_the_parts(
    first: int, factor: int, size: int
) -> None:
    largest = first * factor
    size = min(size, largest_object(first, largest))
    parts = 0
    while size > 0:
        parts += 1
        size -= part_size(parts, first, largest)
    assert parts <= PARTS_MAX


@pytest.mark.parametrize(
    ("first", "largest", "most"),
    [
        (8 * MIB, 64 * MIB, 504_000 * MIB),  # the defaults: 256M of memory, parts of 8M
        (8 * MIB, 8 * MIB, 80_000 * MIB),  # the least memory that these parts may have
        (8 * MIB, 4 * GIB, OBJECT_MAX),
        (1 * GIB, 1 * GIB, OBJECT_MAX),
    ],
)
def test_largest_object(first: int, largest: int, most: int) -> None:
    assert largest_object(first, largest) == most


def test_small_uploads_have_small_parts() -> None:
    """A part is in memory until the store has it, so the size grows as late as it can."""
    assert part_size(1_000, 8 * MIB, 4 * GIB) == 8 * MIB
    assert part_size(1_001, 8 * MIB, 4 * GIB) == 16 * MIB
    assert part_size(PARTS_MAX, 8 * MIB, 8 * GIB) == 4 * GIB
