"""Reading an open file: the right bytes, in few requests, and nothing kept that was delivered."""

import random
from itertools import pairwise

import pytest

from fuse_s3_worker.config.units import KIB
from fuse_s3_worker.transfer.blocks import BLOCK
from support.gatedstore import Arrival
from support.reading import SIZE, reading
from support.virtualtime import on_loop, run, settle

# -- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_size", [4 * KIB, 100_000, 128 * KIB, BLOCK, 3 * BLOCK])
def test_a_file_read_from_end_to_end(request_size: int) -> None:
    async def body() -> None:
        async with reading(5 * BLOCK + 777) as s:
            stream = s.open()
            had = b""
            while part := await s.read_now(stream, len(had), request_size):
                had += part
                assert len(part) == request_size or had == s.content
            assert had == s.content

    run(body())


@on_loop()
async def test_the_end_of_the_file() -> None:
    async with reading(1000) as s:
        stream = s.open()
        assert await s.read_now(stream, 990, 4096) == s.content[990:]
        assert await s.read_now(stream, 999, 1) == s.content[999:]
        before = s.store.count("GetObject")
        unique = s.read(stream, 1000, 4096)
        assert s.answers.data[unique] == b""
        assert s.answers.data[s.read(stream, 10**15, 4096)] == b""
        assert s.store.count("GetObject") == before


@on_loop()
async def test_an_empty_file_needs_no_request() -> None:
    async with reading(0) as s:
        unique = s.read(s.open(), 0, 4096)
        assert s.answers.data[unique] == b""
        await settle()
        assert s.store.requests == []


@on_loop()
async def test_a_waiting_read_is_answered_in_the_callback_that_brings_its_last_byte() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        first = s.read(stream, 0, 100_000)
        await settle()
        get = s.arrival(0)
        get.feed(99_999)
        assert first not in s.answers
        get.feed(1)  # no turn of the loop in between
        assert s.answers.data[first] == s.content[:100_000]


@on_loop()
async def test_a_read_that_needs_two_requests_waits_for_both() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        s.read(stream, 0, BLOCK)
        across = s.read(stream, BLOCK - 10, BLOCK + 30)
        await settle()
        ends = {a.start: a.end for a in s.store.arrivals}
        assert ends[0] == BLOCK
        s.arrival(BLOCK).feed()
        assert across not in s.answers
        for arrival in s.store.arrivals[:]:
            if arrival.missing and arrival.start <= 2 * BLOCK + 20:
                arrival.feed()
        assert s.answers.data[across] == s.content[BLOCK - 10 : 2 * BLOCK + 20]


@on_loop()
async def test_what_was_read_ahead_is_answered_at_once() -> None:
    async with reading() as s:
        stream = s.open()
        await s.read_now(stream, 0, 128 * KIB)
        await settle()
        unique = s.read(stream, 128 * KIB, 128 * KIB)
        assert s.answers.data[unique] == s.content[128 * KIB : 256 * KIB]


# -- few requests ---------------------------------------------------------------------------------


@on_loop()
async def test_a_file_read_to_its_end_is_asked_for_once() -> None:
    async with reading() as s:
        stream = s.open()
        for offset in range(0, SIZE, 128 * KIB):
            await s.read_now(stream, offset, 128 * KIB)
        assert min(s.asked)[0] == 0
        assert s.bytes_asked == SIZE
        assert len(s.asked) < 40


@on_loop()
async def test_what_is_on_its_way_already_is_left_out_of_the_read_ahead() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        place = 6 * BLOCK + 8 * KIB
        middle = s.read(stream, place, 4 * KIB)
        await settle()
        for number in range(6):
            unique = s.read(stream, number * BLOCK, BLOCK)
            await settle()
            while unique not in s.answers:
                min((a for a in s.store.arrivals if a.start != place), key=_start).feed(BLOCK)
                await settle()
        asked = sorted(s.asked)
        assert all(end == start for (_, end), (start, _) in pairwise(asked))
        assert asked[0][0] == 0
        assert asked[-1][1] > 7 * BLOCK
        s.arrival(place).feed()
        assert s.answers.data[middle] == s.content[place : place + 4 * KIB]


def _start(arrival: Arrival) -> int:
    return arrival.start


@on_loop()
async def test_what_was_read_is_not_kept_in_memory() -> None:
    """Neither when it was delivered as it came, nor when it had arrived long before."""
    async with reading(8 * BLOCK) as s:
        stream = s.open()
        await s.read_now(stream, 0, BLOCK)
        await settle()
        assert s.pool.statistics().used > 0
        for number in range(1, 8):
            await s.read_now(stream, number * BLOCK, BLOCK)
            await settle()
        assert s.bytes_asked == 8 * BLOCK
        assert s.pool.statistics().used == 0


@on_loop()
async def test_who_stops_early_has_not_had_more_read_than_a_window() -> None:
    async with reading() as s:
        stream = s.open()
        for number in range(4):
            await s.read_now(stream, number * BLOCK, BLOCK)
        await settle()
        assert s.bytes_asked <= 4 * BLOCK + 8 * BLOCK


@on_loop()
async def test_random_reads_ask_for_what_they_want() -> None:
    async with reading(budget=16 * BLOCK) as s:
        stream = s.open()
        shuffled = random.Random(3)
        places = [shuffled.randrange(1, SIZE // 4096 - 1) * 4096 for _ in range(300)]
        for place in places:
            assert await s.read_now(stream, place, 4096) == s.content[place : place + 4096]
        # some meet by chance where another has just read, and go on from there
        assert s.bytes_asked < 2 * 300 * 4096 + 2 * BLOCK
        assert s.pool.statistics().used < 4 * BLOCK


@on_loop()
async def test_the_middle_of_a_file_is_read_ahead_once_the_program_goes_on() -> None:
    async with reading() as s:
        stream = s.open()
        start = 20 * BLOCK
        for number in range(8):
            await s.read_now(stream, start + number * BLOCK, BLOCK)
        await settle()
        assert s.bytes_asked > 8 * BLOCK
        assert min(s.asked)[0] == start


@on_loop()
async def test_requests_go_side_by_side() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        for number in range(6):
            unique = s.read(stream, number * BLOCK, BLOCK)
            await settle()
            while unique not in s.answers:
                s.store.arrivals[0].feed()
                await settle(10)
        assert len(s.store.arrivals) >= 4


@on_loop()
async def test_several_readers_of_one_file_get_a_window_each() -> None:
    async with reading() as s:
        stream = s.open()
        for number in range(6):
            for start in (0, 15 * BLOCK, 28 * BLOCK):
                place = start + number * BLOCK
                assert await s.read_now(stream, place, BLOCK) == s.content[place : place + BLOCK]
        await settle()
        asked = sorted(s.asked)
        assert all(a_end <= b for (_, a_end), (b, _) in pairwise(asked))
