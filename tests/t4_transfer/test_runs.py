"""What the ways that a file was read before tell of the next: lengths, and equal distances."""

import random
from collections.abc import Callable, Iterator

import pytest

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readahead import Reading, Run
from fuse_s3_worker.transfer.steps import Steps
from support.runs import HUGE, KIB, LIMIT, Range, Reader, inside, total

MIB = 1024 * KIB


# -- equal distances ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4 * KIB, 128 * KIB, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("distance", [4 * BLOCK, 64 * BLOCK, -3 * BLOCK])
def test_pieces_at_equal_distances_are_asked_for_ahead_and_nothing_between(
    length: int, distance: int
) -> None:
    reader = Reader(limit=1024 * BLOCK)
    start = 1000 * BLOCK
    asked = [reader.read(start + number * distance, length) for number in range(12)]
    assert asked[:3] == [[]] * 3, "two distances may be equal by chance"
    pieces = {(start + n * distance, start + n * distance + length) for n in range(4, 200)}
    assert set(reader.ahead) <= pieces
    assert len(reader.ahead) == len(set(reader.ahead))
    assert [len(ranges) for ranges in asked[3:9]] == [1, 2, 3, 5, 9, 17]


def test_no_more_pieces_are_asked_for_than_there_are_connections() -> None:
    reader = Reader(limit=1024 * BLOCK)
    for number in range(50):
        reader.read(number * 8 * BLOCK, 64 * KIB)
    assert reader.window == 32 * 64 * KIB


def test_pieces_take_no_more_memory_than_there_is() -> None:
    reader = Reader(limit=4 * BLOCK)
    for number in range(50):
        reader.read(number * 8 * BLOCK, BLOCK)
    assert reader.window == 4 * BLOCK


def test_the_number_of_pieces_stays_while_nobody_waits() -> None:
    reader = Reader(limit=1024 * BLOCK)
    for number in range(6):
        reader.read(number * 8 * BLOCK, BLOCK)
    window = reader.window
    for number in range(6, 40):
        assert len(reader.read(number * 8 * BLOCK, BLOCK, waits=False)) == 1
    assert reader.window == window


@pytest.mark.parametrize("length", [4 * KIB, 96 * KIB, BLOCK])
def test_reading_backward_is_reading_ahead_too(length: int) -> None:
    reader = Reader(limit=64 * BLOCK)
    count = 64 * BLOCK // length
    for number in range(count - 1, -1, -1):
        reader.read(number * length, length)
    assert inside(reader.ahead, 0, count * length) == total(reader.ahead)
    assert total(reader.ahead) == (count - 4) * length, "each piece once"
    assert len(reader.ahead) < count / 3 or length == BLOCK


def test_backward_requests_grow_with_the_window() -> None:
    reader = Reader(limit=64 * BLOCK)
    for number in range(5000, 0, -1):
        reader.read(number * 64 * KIB, 64 * KIB)
    sizes = [end - start for start, end in reader.ahead]
    assert sizes == sorted(sizes)[: len(sizes)] or max(sizes[:8]) < max(sizes)
    assert max(sizes) == 2 * BLOCK
    assert reader.window == 64 * BLOCK


def test_a_piece_that_comes_in_several_reads_is_asked_for_as_a_whole() -> None:
    reader = Reader()
    asked: list[Range] = []
    for number in range(6):
        for part in range(2):
            asked = reader.read(number * 10 * BLOCK + part * BLOCK, BLOCK, waits=part == 0)
            if number >= 3:
                pieces = {(n * 10 * BLOCK, n * 10 * BLOCK + 2 * BLOCK) for n in range(4, 12)}
                rest = {(number * 10 * BLOCK + BLOCK, number * 10 * BLOCK + 2 * BLOCK)}
                assert set(asked) <= pieces | rest
    assert total(reader.ahead) >= 4 * BLOCK


def test_who_stops_stepping_is_not_read_ahead_any_more() -> None:
    reader = Reader()
    for number in range(8):
        reader.read(number * 8 * BLOCK, BLOCK)
    assert isinstance(reader.last, Steps)
    assert reader.read(500 * BLOCK + 3, 4 * KIB) == []
    assert reader.read(900 * BLOCK + 5, 4 * KIB) == []


def test_pieces_that_come_out_of_order_are_the_same_steps() -> None:
    reader = Reader()
    for number in [0, 1, 2, 3, 5, 4, 7, 6, 8, 10, 9]:
        reader.read(number * 8 * BLOCK, BLOCK)
    assert len(reader.ahead) == len(set(reader.ahead))
    assert sum(isinstance(run, Steps) for run in reader.runs) == 1


def test_threads_that_begin_at_equal_distances_cost_a_few_pieces_and_keep_their_runs() -> None:
    reader = Reader()
    starts = [50 * BLOCK * (number + 1) for number in range(6)]
    for number in range(8):
        for start in starts:
            reader.read(start + number * BLOCK, BLOCK)
    beyond = inside(reader.ahead, starts[-1] + 40 * BLOCK, HUGE)
    assert beyond <= 4 * BLOCK
    assert sum(isinstance(run, Run) and run.window > 0 for run in reader.runs) == len(starts)


def test_the_ends_of_the_file_are_the_ends_of_the_steps() -> None:
    reader = Reader(size=40 * BLOCK + 100)
    for number in range(4, 9):
        reader.read(number * 5 * BLOCK, BLOCK)
    assert max(end for _, end in reader.ahead) == reader.size
    back = Reader(size=40 * BLOCK + 100)
    for number in range(9, -1, -1):
        back.read(number * 4 * BLOCK + 100, BLOCK)
    assert min(start for start, _ in back.ahead) == 100
    assert all(0 <= start < end <= back.size for start, end in back.ahead)


def test_a_piece_that_could_not_be_had_is_asked_for_again() -> None:
    steps = Steps(0, BLOCK, 8 * BLOCK)
    for number in range(3):
        at = number * 8 * BLOCK
        steps.read(at, at + BLOCK, Reading(True, LIMIT, 0.0, False))
    first = next(steps.ahead(HUGE, LIMIT))
    again = list(steps.ahead(HUGE, LIMIT))
    assert again[0] == first
    assert list(steps.ahead(HUGE, LIMIT)) == []
    steps.yield_memory()
    assert list(steps.ahead(HUGE, LIMIT)) == again[:2]


# -- usual lengths --------------------------------------------------------------------------------


def chunks(reader: Reader, starts: list[int], length: int) -> list[list[Range]]:
    """Read chunks, BLOCK by BLOCK; return what each had asked for with its first READ."""
    firsts = []
    for start in starts:
        for at in range(start, start + length, BLOCK):
            asked = reader.read(at, min(BLOCK, start + length - at))
            if at == start:
                firsts.append(asked)
    return firsts


STARTS = [7, 40, 90, 130, 200, 233, 300]


def test_a_chunk_as_long_as_the_others_is_asked_for_at_once_and_nothing_beyond() -> None:
    reader = Reader(limit=64 * BLOCK)
    length = 8 * BLOCK
    starts = [start * BLOCK for start in STARTS]
    firsts = chunks(reader, starts, length)
    assert firsts[:3] == [[]] * 3
    for start, asked in zip(starts[3:], firsts[3:], strict=True):
        assert asked[0][0] == start + BLOCK
        assert asked[-1][1] == start + length
        assert total(asked) == length - BLOCK
        assert len(asked) > 2, "side by side"
    late = [r for r in reader.ahead if r[0] >= starts[3]]
    assert total(late) == (len(starts) - 3) * (length - BLOCK)


@pytest.mark.parametrize("beyond", [0, 1, 2])
def test_chunks_that_lie_within_a_window_are_chunks_all_the_same(beyond: int) -> None:
    """Some columns of a table: what is between them is not read, although it would not be far.

    The kernel reads ahead `beyond` the end of each.
    """
    reader = Reader(limit=128 * BLOCK)
    reader.busy = False
    starts = [(128 * group + 8 * column) * BLOCK for group in range(8) for column in (1, 6, 12)]
    chunks(reader, starts, (8 + beyond) * BLOCK)
    late = reader.ahead[next(n for n, r in enumerate(reader.ahead) if r[0] > starts[4]) :]
    between = total([r for r in late if r[0] > starts[4]])
    assert between <= (8 + beyond) * BLOCK * (len(starts) - 4)


def test_a_chunk_that_is_longer_goes_on() -> None:
    reader = Reader(limit=64 * BLOCK)
    chunks(reader, [start * BLOCK for start in STARTS], 8 * BLOCK)
    start = 1000 * BLOCK
    before = len(reader.ahead)
    chunks(reader, [start], 32 * BLOCK)
    assert inside(reader.ahead[before:], start, start + 32 * BLOCK) == 30 * BLOCK
    assert reader.window >= 8 * BLOCK


def test_chunks_of_different_lengths_promise_nothing() -> None:
    reader = Reader()
    for number, length in enumerate([3, 9, 4, 12, 3, 8]):
        (asked,) = chunks(reader, [number * 100 * BLOCK + BLOCK], length * BLOCK)
        assert asked == []


def test_what_is_expected_takes_no_more_than_there_is_memory_for() -> None:
    reader = Reader(limit=4 * BLOCK)
    firsts = chunks(reader, [start * BLOCK for start in STARTS], 20 * BLOCK)
    assert total(firsts[-1]) == 4 * BLOCK
    late = [r for r in reader.ahead if r[0] >= STARTS[-1] * BLOCK]
    assert total(late) == 19 * BLOCK


# -- at random ------------------------------------------------------------------------------------

Sizes = Callable[[random.Random], int]


def _alike(_: random.Random) -> int:
    return 256 * KIB


def _small(_: random.Random) -> int:
    return 4 * KIB


def _several(_: random.Random) -> int:
    return 4 * BLOCK


def _any(shuffled: random.Random) -> int:
    return shuffled.choice([1, 4, 64, 700, 3000]) * KIB


def _reads(sizes: Sizes, shuffled: random.Random, size: int) -> Iterator[Range]:
    for _ in range(400):
        length = sizes(shuffled)
        start = shuffled.randrange(0, size - length) // 4096 * 4096
        for at in range(start, start + length, BLOCK):
            yield at, min(at + BLOCK, start + length)


@pytest.mark.parametrize("sizes", [_alike, _small, _several, _any])
@pytest.mark.parametrize("size", [1024 * MIB, 100 * 1024 * MIB])
@pytest.mark.parametrize("seed", range(3))
def test_reading_at_random_asks_for_little_more_than_is_read(
    sizes: Sizes, size: int, seed: int
) -> None:
    reader = Reader(size=size, limit=64 * BLOCK)
    asked = 0
    for start, end in _reads(sizes, random.Random(seed), size):
        asked += end - start
        reader.read(start, end - start)
    assert reader.fetched <= 1.3 * asked
    if sizes in (_alike, _small) and size > 1024 * MIB:
        assert reader.fetched == asked


def test_who_looks_around_in_a_file_may_read_on_from_anywhere() -> None:
    reader = Reader(size=HUGE, limit=64 * BLOCK)
    for start, end in _reads(_small, random.Random(7), HUGE):
        reader.read(start, end - start)
    start = HUGE // 3
    for number in range(400):
        reader.read(start + number * BLOCK, BLOCK)
        assert reader.window <= max(number, 0) * BLOCK // 4
    assert reader.window == 64 * BLOCK
