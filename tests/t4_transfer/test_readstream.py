"""Reading an open file: the right bytes, in few requests, within the memory, from one version."""

import asyncio
import errno
import random
from itertools import pairwise

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readstream import ReadStream
from support.gatedstore import Arrival, unreachable
from support.pattern import pattern
from support.reading import KEY, SIZE, Reading, reading
from support.virtualtime import on_loop, run, settle

KIB = 1024


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


# -- giving up ------------------------------------------------------------------------------------


@on_loop()
async def test_an_interrupted_read_is_answered_and_its_bytes_still_come() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        unique = s.read(stream, 0, 1000)
        other = s.read(stream, 0, 500)
        await settle()
        assert stream.interrupt(unique)
        assert s.answers.errnos == {unique: errno.EINTR}
        assert not stream.interrupt(unique)
        assert not stream.interrupt(4711)
        s.arrival(0).feed()
        assert s.answers.data[other] == s.content[:500]
        assert not stream.interrupt(other)


async def _before_the_transfer_begins(s: Reading, stream: ReadStream) -> None:
    s.read(stream, 0, BLOCK)


async def _while_it_waits_for_memory(s: Reading, stream: ReadStream) -> None:
    assert s.pool.charge_nowait(s.pool.budget)
    s.read(stream, 0, BLOCK)
    await settle()
    asyncio.get_running_loop().call_later(1, s.pool.uncharge, s.pool.budget)


async def _while_bytes_arrive(s: Reading, stream: ReadStream) -> None:
    s.read(stream, 0, BLOCK)
    await settle()
    s.arrival(0).feed(1000)


async def _when_it_is_ahead(s: Reading, stream: ReadStream) -> None:
    s.store.by_hand = False
    for number in range(4):
        await s.read_now(stream, number * BLOCK, BLOCK)
    await settle()
    s.read(stream, 30 * BLOCK, BLOCK)


async def _in_the_moment_of_the_last_byte(s: Reading, stream: ReadStream) -> None:
    s.read(stream, 0, 1000)
    s.read(stream, 10 * BLOCK, 1000)
    await settle()
    s.arrival(0).feed()


async def _while_it_is_opened_anew(s: Reading, stream: ReadStream) -> None:
    s.store.hold("head")
    s.store.write(KEY, b"new")
    s.read(stream, 0, BLOCK)
    await settle()
    assert s.reopened == 1


@pytest.mark.parametrize(
    "state",
    [
        _before_the_transfer_begins,
        _while_it_waits_for_memory,
        _while_bytes_arrive,
        _when_it_is_ahead,
        _in_the_moment_of_the_last_byte,
        _while_it_is_opened_anew,
    ],
)
def test_closing_answers_everybody_and_gives_all_memory_back(state: object) -> None:
    assert callable(state)

    async def body() -> None:
        async with reading() as s:
            s.store.by_hand = True
            stream = s.open()
            await state(s, stream)
            stream.close()
            assert all(unique in s.answers for unique in range(1, s.uniques + 1))
            assert set(s.answers.errnos.values()) <= {errno.EBADF}
            await asyncio.sleep(2)
            assert s.pool.statistics().used == 0

    run(body())


# -- failures -------------------------------------------------------------------------------------


@on_loop()
async def test_an_error_reaches_the_reads_that_need_the_bytes_and_no_others() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        near, far = s.read(stream, 0, 1000), s.read(stream, 20 * BLOCK, 1000)
        across = s.read(stream, 900, 200)
        await settle()
        s.arrival(0).feed(500)
        s.arrival(0).fail(unreachable())
        await settle()
        assert s.answers.errnos == {near: errno.EIO, across: errno.EIO}
        s.arrival(20 * BLOCK).feed()
        assert s.answers.data[far] == s.content[20 * BLOCK :][:1000]


@on_loop()
async def test_after_an_error_the_same_bytes_can_be_asked_for_again() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.fail("get_range")
        unique = s.read(stream, 0, 1000)
        await settle()
        assert s.answers.errnos == {unique: errno.EIO}
        assert await s.read_now(stream, 0, 1000) == s.content[:1000]


@on_loop()
async def test_read_ahead_that_fails_is_nobodys_error() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.fail("get_range", nth=2)
        await s.read_now(stream, 0, 128 * KIB)
        await settle()
        assert len(s.asked) > 1
        assert s.answers.errors == {}
        data = await s.read_now(stream, 128 * KIB, 128 * KIB)
        assert data == s.content[128 * KIB : 256 * KIB]


@on_loop("bug")
async def test_a_mistake_of_ours_is_an_error_and_not_a_hang() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.get_range = None  # type: ignore[method-assign, assignment]
        unique = s.read(stream, 0, 1000)
        await settle()
        assert s.answers.errnos == {unique: errno.EIO}


# -- versions -------------------------------------------------------------------------------------


@on_loop()
async def test_a_file_replaced_before_its_first_byte_is_read_as_it_is_now() -> None:
    async with reading() as s:
        stream = s.open()
        new = pattern(3 * BLOCK, seed=1)
        info = s.store.write(KEY, new)
        uniques = [s.read(stream, offset, BLOCK) for offset in range(0, 4 * BLOCK, BLOCK)]
        await settle()
        assert [s.answers.data[unique] for unique in uniques] == [
            new[:BLOCK],
            new[BLOCK : 2 * BLOCK],
            new[2 * BLOCK :],
            b"",
        ]
        assert s.reopened == 1
        assert stream.info == info


@on_loop()
async def test_a_read_that_the_new_version_has_more_bytes_for_gets_them() -> None:
    """The rest of the page would be taken for zeros."""
    async with reading(3) as s:
        stream = s.open()
        s.store.write(KEY, b"longer than it was")
        assert await s.read_now(stream, 0, 4096) == b"longer than it was"


@on_loop()
async def test_a_file_replaced_after_its_first_byte_is_stale() -> None:
    async with reading() as s:
        stream = s.open()
        await s.read_now(stream, 0, 4096)
        s.store.write(KEY, pattern(SIZE, seed=1))
        unique = s.read(stream, 30 * BLOCK, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        assert s.reopened == 0


@on_loop()
async def test_a_file_replaced_again_and_again_is_stale_the_second_time() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, pattern(SIZE, seed=1))
        s.store.hold("head")
        unique = s.read(stream, 0, 4096)
        await settle()
        assert s.reopened == 1
        s.store.let_go("head")
        s.store.hold("get_range")
        await settle()
        s.store.write(KEY, pattern(SIZE, seed=2))
        s.store.let_go("get_range")
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        assert s.reopened == 1


@on_loop()
async def test_a_file_that_is_gone_before_its_first_byte_gives_what_opening_it_gives() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.remove(KEY)
        unique = s.read(stream, 0, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ENOENT}  # of the HEAD that was to find it


@on_loop()
async def test_a_file_that_is_deleted_while_it_is_read_is_stale() -> None:
    async with reading() as s:
        stream = s.open()
        await s.read_now(stream, 0, 4096)
        s.store.remove(KEY)
        unique = s.read(stream, 30 * BLOCK, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        error = s.answers.errors[unique]
        assert isinstance(error, StoreError)
        assert error.fault is Fault.CHANGED
        assert error.status == 404


@pytest.mark.parametrize("gone", [False, True])
def test_reads_after_a_failed_reopening_fail_too_instead_of_waiting(*, gone: bool) -> None:
    """The kernel sends another READ of the same page when one has failed."""

    async def body() -> None:
        async with reading() as s:
            stream = s.open()
            if gone:
                s.store.remove(KEY)
            else:
                s.store.write(KEY, b"new")
                s.store.fail("head")
            for _ in range(3):
                unique = s.read(stream, 0, 4096)
                await settle()
                assert unique in s.answers.errors

    run(body())


@on_loop()
async def test_reads_sent_while_it_is_opened_anew_get_the_new_version() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, b"a new version")
        s.store.hold("head")
        first = s.read(stream, 0, 4096)
        await settle()
        second = s.read(stream, 2, 3)
        await settle()
        s.store.let_go("head")
        await settle()
        assert s.answers.data == {first: b"a new version", second: b"new"}


@on_loop()
async def test_a_late_failure_of_the_old_version_does_not_reach_reads_of_the_new_one() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        first, second = s.read(stream, 0, BLOCK), s.read(stream, 20 * BLOCK, BLOCK)
        await settle()
        replaced = StoreError(Fault.CHANGED, "replaced")
        new = s.store.write(KEY, pattern(SIZE, seed=1))
        woken: asyncio.Future[ObjectInfo] = asyncio.get_running_loop().create_future()

        async def reopen() -> ObjectInfo:
            return await woken

        s.reopen = reopen  # type: ignore[method-assign]
        old = s.arrival(20 * BLOCK)
        s.arrival(0).fail(replaced)
        await settle()
        # both in one turn of the loop: the answer about today's version, and the second refusal
        old.fail(replaced)
        woken.set_result(new)
        await settle()
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        assert s.answers.errors == {}
        assert s.answers.data[second] == pattern(SIZE, seed=1)[20 * BLOCK : 21 * BLOCK]
        assert s.answers.data[first] == pattern(SIZE, seed=1)[:BLOCK]


@on_loop()
async def test_what_finding_the_new_version_raises_is_told() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, b"new")

        async def reopen() -> ObjectInfo:
            raise FileSystemError(errno.ESTALE, "it is a directory now")

        s.reopen = reopen  # type: ignore[method-assign]
        unique = s.read(stream, 0, 10)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
