"""How far ahead is read: for programs that go on, and for programs that do not."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readahead import Reading, Run
from fuse_s3_worker.transfer.runs import Course, Runs
from fuse_s3_worker.transfer.steps import Steps
from support.runs import HUGE, KIB, LIMIT, Range, Reader, total

# -- one program ----------------------------------------------------------------------------------


def test_who_begins_at_the_beginning_gets_one_request_ahead() -> None:
    reader = Reader()
    assert reader.read(0, 128 * KIB) == [(128 * KIB, 128 * KIB + BLOCK)]


def test_the_window_doubles_while_the_program_waits_up_to_the_limit() -> None:
    reader = Reader()
    windows = []
    for number in range(12):
        reader.read(number * BLOCK, BLOCK)
        windows.append(reader.window // BLOCK)
    assert windows == [1, 2, 4, 8, *[16] * 8]


def test_the_window_stays_while_the_program_does_not_wait() -> None:
    reader = Reader()
    reader.read(0, BLOCK)
    reader.read(BLOCK, BLOCK)
    for number in range(2, 50):
        reader.read(number * BLOCK, BLOCK, waits=False)
    assert reader.window == 2 * BLOCK


def test_a_sequential_reader_has_everything_asked_for_once_and_in_order() -> None:
    reader = Reader(size=300 * BLOCK + 17)
    asked = [(0, 128 * KIB)]
    for offset in range(0, reader.size, 128 * KIB):
        asked += reader.read(offset, 128 * KIB, waits=offset % (3 * 128 * KIB) == 0)
    assert all(end == start for (_, end), (start, _) in pairwise(asked))
    assert asked[-1][1] == reader.size


@pytest.mark.parametrize(("busy", "enough"), [(True, 8 * BLOCK), (False, 2 * BLOCK)])
def test_a_window_is_asked_for_in_several_requests_of_a_bounded_size(
    *, busy: bool, enough: int
) -> None:
    """More of them as the window grows, and larger ones when there are many, or work is short."""
    reader = Reader(limit=256 * BLOCK)
    reader.busy = busy
    for number in range(2_000):
        reader.now += 0.01 * BLOCK / max(reader.window if reader.ahead else BLOCK, BLOCK)
        asked = reader.read(number * BLOCK, BLOCK)
        window = reader.window
        largest = max(BLOCK, min(window // 4, enough), min(window // 32, 8 * BLOCK))
        assert all(end - start <= largest for start, end in asked)
    assert reader.window == 256 * BLOCK
    assert max(end - start for start, end in reader.ahead) == 8 * BLOCK


# -- whether a large window is worth it -----------------------------------------------------------

CHEAP = 16 * BLOCK


def read_on(reader: Reader, best: int, count: int) -> list[int]:
    """Read so many blocks, at a rate that grows with the window up to `best`; return windows."""
    windows = []
    start = reader.last.position if reader.ahead and isinstance(reader.last, Run) else 0
    for number in range(count):
        reader.read(start + number * BLOCK, BLOCK)
        reader.now += BLOCK / min(reader.window, best)
        windows.append(reader.window)
    return windows


def test_a_window_grows_as_long_as_that_brings_something() -> None:
    reader = Reader(limit=256 * BLOCK)
    windows = read_on(reader, best=HUGE, count=1_500)
    assert windows == sorted(windows)
    assert windows[-1] == 256 * BLOCK


@pytest.mark.parametrize("best", [BLOCK, 8 * BLOCK, CHEAP])
def test_a_window_that_brings_nothing_is_taken_back(best: int) -> None:
    reader = Reader(limit=256 * BLOCK)
    windows = read_on(reader, best, 3_000)
    assert max(windows) == 2 * CHEAP
    assert windows[-1] == CHEAP
    tried = sum(a < b for a, b in pairwise(windows) if a >= CHEAP)
    assert 4 <= tried <= 6  # once in a while, as things may have changed
    assert sum(window > CHEAP for window in windows) < len(windows) / 4


def test_an_idle_processor_lets_a_window_grow_at_once() -> None:
    reader = Reader(limit=256 * BLOCK)
    reader.busy = False
    windows = read_on(reader, best=BLOCK, count=10)
    assert [window // BLOCK for window in windows] == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]


def test_a_large_window_has_to_be_worth_it_for_an_idle_processor_too() -> None:
    reader = Reader(limit=256 * BLOCK)
    reader.busy = False
    windows = read_on(reader, best=BLOCK, count=3_000)
    assert max(windows) == 128 * BLOCK
    assert windows[-1] == 64 * BLOCK


def test_it_grows_to_what_is_worth_it_and_no_further() -> None:
    reader = Reader(limit=1024 * BLOCK)
    windows = read_on(reader, 128 * BLOCK, 2_000)
    assert max(windows) == 256 * BLOCK
    assert windows[-1] == 128 * BLOCK


def test_what_was_not_worth_it_is_tried_again() -> None:
    reader = Reader(limit=256 * BLOCK)
    read_on(reader, BLOCK, 1_000)
    assert reader.window == CHEAP
    read_on(reader, HUGE, 3_000)
    assert reader.window == 256 * BLOCK


def test_the_limit_holds_whatever_it_would_be_worth() -> None:
    reader = Reader(limit=256 * BLOCK)
    read_on(reader, HUGE, 1_500)
    reader.limit = 16 * BLOCK
    assert max(read_on(reader, HUGE, 300)) == 16 * BLOCK


def test_who_jumps_in_gets_what_it_asks_for_until_it_goes_on() -> None:
    reader = Reader()
    assert reader.read(10 * BLOCK, 4 * KIB) == []
    assert reader.read(10 * BLOCK + 4 * KIB, 4 * KIB) != []
    assert reader.window == BLOCK


def test_random_reads_are_never_read_ahead() -> None:
    reader = Reader()
    shuffled = random.Random(1)
    for _ in range(500):
        reader.read(shuffled.randrange(1, HUGE // 4096) * 4096, 4 * KIB)
    assert reader.ahead == []


def test_a_small_jump_ahead_is_the_same_run_and_a_large_one_is_not() -> None:
    reader = Reader()
    for number in range(32):
        reader.read(number * BLOCK, BLOCK)
    (run,) = reader.runs
    assert isinstance(run, Run)
    reader.read(run.high + 4 * BLOCK, BLOCK)
    assert list(reader.runs) == [run]
    reader.read(run.high + run.window + 100 * BLOCK, BLOCK)
    assert len(list(reader.runs)) == 2


def test_reads_that_come_out_of_order_are_one_run() -> None:
    """The kernel has several READs of one reader under way, and sends them in any order."""
    reader = Reader()
    order = [0, 2, 1, 4, 3, 5, 8, 7, 6, 9]
    for number in order:
        reader.read(number * BLOCK, BLOCK)
    (run,) = reader.runs
    assert isinstance(run, Run)
    assert run.position == 10 * BLOCK
    asked = sorted(reader.ahead)
    assert all(a_end <= b for (_, a_end), (b, _) in pairwise(asked))


def test_a_range_that_could_not_be_had_is_asked_for_again() -> None:
    run = Run(0)
    for number in range(2):
        run.read(number * BLOCK, (number + 1) * BLOCK, Reading(True, LIMIT, 0.0, False))
    first = next(run.ahead(HUGE, LIMIT))
    again = list(run.ahead(HUGE, LIMIT))
    assert again[0] == first
    assert list(run.ahead(HUGE, LIMIT)) == []


def test_nothing_is_asked_for_beyond_the_end() -> None:
    reader = Reader(size=BLOCK + 1)
    assert reader.read(0, BLOCK) == [(BLOCK, BLOCK + 1)]
    assert reader.read(BLOCK, BLOCK) == []


# -- several programs in one open file ------------------------------------------------------------


def test_interleaved_readers_do_not_disturb_one_another() -> None:
    alone, together = Reader(), Reader()
    starts = [0, 1000 * BLOCK, 2000 * BLOCK, 3000 * BLOCK]
    for number in range(20):
        for start in starts:
            together.read(start + number * BLOCK, BLOCK)
        alone.read(number * BLOCK, BLOCK)
    assert [(a, b) for a, b in together.ahead if b <= 1000 * BLOCK] == alone.ahead
    assert {run.position for run in together.ways} == {start + 20 * BLOCK for start in starts}
    assert all(run.window == LIMIT for run in together.runs)


def test_a_sequential_reader_survives_among_a_few_random_ones() -> None:
    reader = Reader()
    shuffled = random.Random(2)
    for number in range(40):
        reader.read(number * BLOCK, BLOCK)
        for _ in range(10):
            reader.read(HUGE // 2 + shuffled.randrange(10**6) * 8 * BLOCK, 4 * KIB)
    assert max(run.window for run in reader.runs) == LIMIT


def test_the_run_that_rested_longest_makes_room() -> None:
    reader = Reader()
    for number in range(16):
        reader.read((number + 1) * 100 * BLOCK, BLOCK)
    first = reader.ways[-1]
    reader.read(first.position, BLOCK)  # now the second one rested longest
    reader.read(5000 * BLOCK, BLOCK)
    positions = {run.position // (100 * BLOCK) for run in reader.ways}
    assert len(list(reader.runs)) == 16
    assert 1 in positions
    assert 2 not in positions


# -- what is still wanted -------------------------------------------------------------------------


def test_what_a_run_has_passed_is_wanted_until_it_is_well_behind() -> None:
    reader = Reader()
    for number in range(10):
        reader.read(number * BLOCK, BLOCK)
    runs = reader.runs
    assert not runs.wanted(0, 6 * BLOCK)
    assert runs.wanted(0, 6 * BLOCK + 1)
    assert runs.wanted(10 * BLOCK, 11 * BLOCK)
    (run,) = reader.ways
    assert runs.wanted(run.high - 1, run.high + BLOCK)
    assert not runs.wanted(run.high + run.window, run.high + run.window + BLOCK)


def test_what_one_run_has_passed_another_may_want() -> None:
    reader = Reader()
    for number in range(100):
        reader.read(number * BLOCK, BLOCK)
    reader.read(50 * BLOCK, BLOCK)
    assert reader.runs.wanted(50 * BLOCK, 51 * BLOCK)
    assert not reader.runs.wanted(30 * BLOCK, 31 * BLOCK)


# -- in general -----------------------------------------------------------------------------------


def _end_of(run: Course) -> int:
    return run.position if isinstance(run, Run) else 0


READS = st.lists(
    st.tuples(
        st.integers(0, 40) | st.sampled_from([-1, -2, -3]),  # a place, or where a run goes on
        st.sampled_from([4 * KIB, 128 * KIB, BLOCK]),
        st.booleans(),
        st.sampled_from([2 * BLOCK, 8 * BLOCK, LIMIT]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(READS, st.integers(1, 50 * BLOCK))
def test_every_way_of_reading(reads: list[tuple[int, int, bool, int]], size: int) -> None:
    runs = Runs()
    asked: dict[Course, list[Range]] = {}
    most = 0
    for place, length, waits, limit in reads:
        known = list(runs)
        start = place * BLOCK
        if place < 0:
            start = _end_of(known[-place - 1]) if -place <= len(known) else 0
        if start >= size:
            continue
        most = max(most, limit, length)
        end = min(start + length, size)
        windows = {id(run): run.window for run in known}
        run = runs.read(start, end, Reading(waits, limit, 0.0, False))
        window, first = windows.get(id(run), 0), run not in known
        assert run.window <= max(window, limit, length)
        if run.window > window:
            # it grew because somebody waits, or because this is how a window begins
            assert waits or window == 0 or first
        assert run.window <= max(2 * window, length, BLOCK)
        fresh = list(run.ahead(size, limit))
        asked.setdefault(run, []).extend(fresh)
        assert all(0 <= a < b <= size for a, b in fresh)
        assert all(runs.wanted(a, b) for a, b in fresh)
        assert len(list(runs)) <= 16
        if isinstance(run, Run):
            assert total(fresh) <= max(run.window, limit) + BLOCK
            assert run.high <= max(size, run.position)
    for run, ranges in asked.items():
        in_order = sorted(ranges) if isinstance(run, Steps) else ranges
        assert all(a_end <= b for (_, a_end), (b, _) in pairwise(in_order))
    assert all(run.window <= most for run in runs)
