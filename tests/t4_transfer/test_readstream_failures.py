"""Reads that get no bytes: interrupted, closed, or failed; whoever waits is answered once."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import KIB
from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readstream import ReadStream
from support.gatedstore import unreachable
from support.reading import KEY, Reading, reading
from support.virtualtime import on_loop, run, settle

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
