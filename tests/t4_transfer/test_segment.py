"""One range and its memory, as the connection fills it and the reader empties it."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.transfer.blocks import BLOCK, Pool
from fuse_s3_worker.transfer.segment import SMALL, Segment
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle

HEAD = ReplyHead(206, {}, keep_alive=True)


def fill(segment: Segment, data: bytes) -> None:
    """Write as a connection does: as much as one buffer takes at a time."""
    while data:
        memory = segment.buffer()
        assert 0 < len(memory) <= segment.size - segment.filled
        taken = min(len(memory), len(data))
        memory[:taken] = data[:taken]
        segment.advance(taken)
        data = data[taken:]


@pytest.mark.parametrize(
    ("size", "charged"),
    [
        (1, 1),
        (4096, 4096),
        (128 * 1024, 128 * 1024),
        (128 * 1024 + 1, BLOCK),
        (BLOCK, BLOCK),
        (BLOCK + 1, 2 * BLOCK),
        (8 * BLOCK, 8 * BLOCK),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_small_range_takes_no_block(size: int, charged: int, *, waits: bool) -> None:
    async def body() -> None:
        pool = Pool(8 * BLOCK)
        segment = Segment(pool, 5, 5 + size)
        if waits:
            await segment.allocate()
        else:
            assert segment.allocate_nowait()
        assert pool.statistics().used == charged
        assert segment.begin(HEAD)
        fill(segment, pattern(size))
        assert segment.filled == segment.size == size
        assert b"".join(segment.views(5, 5 + size)) == pattern(size)
        segment.free()
        segment.free()
        assert pool.statistics().used == 0

    run(body())


@on_loop()
async def test_all_or_nothing_is_taken_when_nobody_waits() -> None:
    pool = Pool(3 * BLOCK)
    assert not Segment(pool, 0, 4 * BLOCK).allocate_nowait()
    assert pool.statistics().used == 0
    assert pool.charge_nowait(3 * BLOCK - 10)
    assert not Segment(pool, 0, 11).allocate_nowait()
    assert pool.statistics().used == 3 * BLOCK - 10
    small = Segment(pool, 0, 10)
    assert small.allocate_nowait()
    small.free()
    pool.uncharge(3 * BLOCK - 10)


@pytest.mark.parametrize("size", [100, 3 * BLOCK])
def test_what_was_had_when_waiting_ends_early_goes_back(size: int) -> None:
    async def body() -> None:
        pool = Pool(3 * BLOCK)
        others = [await pool.take() for _ in range(3)]
        segment = Segment(pool, 0, size)
        waiting = asyncio.create_task(segment.allocate())
        await settle()
        if size > BLOCK:
            pool.give_back(others.pop())
            await settle()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        segment.free()
        for block in others:
            pool.give_back(block)
        assert pool.statistics()[1::2] == (0, 0)

    run(body())


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 1 << 40),
    st.sampled_from([1, 1000, SMALL, SMALL + 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1]),
    st.data(),
)
def test_bytes_are_there_as_far_as_they_have_arrived(
    start: int, size: int, data: st.DataObject
) -> None:
    async def body() -> None:
        content = pattern(size)
        segment = Segment(Pool(8 * BLOCK), start, start + size)
        assert segment.allocate_nowait()
        arrived = data.draw(st.integers(0, size))
        fill(segment, content[:arrived])
        low = data.draw(st.integers(max(start - 10, 0), start + size - 1))
        high = data.draw(st.integers(max(low, start) + 1, start + size + 20))
        here = min(high, start + size) <= start + arrived
        assert segment.has(low, high) == here
        if here:
            belongs = content[max(low - start, 0) : max(high - start, 0)]
            assert b"".join(segment.views(low, high)) == belongs
        segment.free()

    run(body())


@on_loop()
async def test_busy_is_a_transfer_under_way() -> None:
    segment = Segment(Pool(BLOCK), 0, 10)
    states = [segment.busy]
    segment.task = asyncio.create_task(asyncio.sleep(1))
    states.append(segment.busy)
    await segment.task
    assert [*states, segment.busy] == [False, True, False]
