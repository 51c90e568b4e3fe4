"""The memory of a part: the bytes are right at every size, and each is charged once."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fuse_s3_worker.transfer.blocks import BLOCK, Pool
from fuse_s3_worker.transfer.buffer import PartBuffer
from support.pattern import pattern
from support.virtualtime import Bench, on_loop, run, settle

KIB = 1024
STEPS = (16 * KIB, 64 * KIB, 256 * KIB)


def content(buffer: PartBuffer) -> bytes:
    return b"".join(buffer.pieces())


@pytest.mark.parametrize(
    ("size", "capacity"),
    [
        (0, 0),
        (1, STEPS[0]),
        (STEPS[0], STEPS[0]),
        (STEPS[0] + 1, STEPS[1]),
        (STEPS[1] + 1, STEPS[2]),
        (STEPS[2], STEPS[2]),
        (STEPS[2] + 1, BLOCK),
        (BLOCK, BLOCK),
        (BLOCK + 1, 2 * BLOCK),
        (5 * BLOCK, 5 * BLOCK),
    ],
)
def test_memory_grows_with_the_file(size: int, capacity: int) -> None:
    async def body() -> None:
        pool = Pool(8 * BLOCK)
        buffer = PartBuffer(pool)
        assert buffer.reserve_nowait(size)
        assert buffer.capacity == capacity
        assert pool.statistics().used == capacity
        assert buffer.size == 0
        buffer.free()
        assert pool.statistics().used == 0
        buffer.free()
        assert pool.statistics().used == 0

    run(body())


@on_loop()
async def test_growing_step_by_step_keeps_the_bytes_and_charges_no_step_twice() -> None:
    pool = Pool(8 * BLOCK)
    buffer = PartBuffer(pool)
    data = pattern(3 * BLOCK)
    for size in (1, *STEPS, STEPS[2] + 1, BLOCK, 2 * BLOCK + 1, 3 * BLOCK):
        assert buffer.reserve_nowait(size)
        buffer.write(buffer.size, data[buffer.size : size])
        assert content(buffer) == data[:size]
        assert pool.statistics().used == buffer.capacity
    assert buffer.capacity == 3 * BLOCK
    buffer.free()
    assert pool.statistics().used == 0


@on_loop()
async def test_what_was_reserved_before_memory_ran_out_is_kept() -> None:
    pool = Pool(2 * BLOCK)
    buffer = PartBuffer(pool)
    assert not buffer.reserve_nowait(3 * BLOCK)
    assert buffer.capacity == 2 * BLOCK
    assert pool.statistics().used == 2 * BLOCK
    buffer.free()
    assert pool.statistics().used == 0


@on_loop()
async def test_growing_out_of_the_small_steps_needs_a_block_beside_them_for_a_moment() -> None:
    pool = Pool(BLOCK + STEPS[2] - 1)
    buffer = PartBuffer(pool)
    data = pattern(STEPS[2])
    assert buffer.reserve_nowait(len(data))
    buffer.write(0, data)
    assert not buffer.reserve_nowait(BLOCK)
    assert content(buffer) == data
    assert pool.statistics().used == STEPS[2]
    buffer.free()


@pytest.mark.parametrize("size", [1, STEPS[1], STEPS[2] + 1, 3 * BLOCK])
def test_reserving_waits_for_memory(size: int) -> None:
    async def body() -> None:
        pool = Pool(4 * BLOCK)
        others = [await pool.take() for _ in range(4)]
        buffer = PartBuffer(pool)
        waiting = asyncio.create_task(buffer.reserve(size))
        await settle()
        assert not waiting.done()
        for block in others:
            pool.give_back(block)
        await waiting
        assert buffer.capacity >= size
        assert pool.statistics().used == buffer.capacity
        buffer.free()
        assert pool.statistics().used == 0

    run(body())


@pytest.mark.parametrize("size", [1, STEPS[1], 3 * BLOCK])
def test_giving_up_while_reserving_keeps_the_count_right(size: int) -> None:
    async def body() -> None:
        pool = Pool(2 * BLOCK)
        other = await pool.take()
        await pool.charge(BLOCK - 8)
        buffer = PartBuffer(pool)
        waiting = asyncio.create_task(buffer.reserve(size))
        await settle()
        waiting.cancel()
        pool.give_back(other)
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert pool.statistics().used == buffer.capacity + BLOCK - 8
        buffer.free()
        pool.uncharge(BLOCK - 8)
        assert pool.statistics()[1::2] == (0, 0)

    run(body())


@on_loop()
async def test_a_gap_is_zeros_even_where_other_bytes_were() -> None:
    pool = Pool(4 * BLOCK)
    buffer = PartBuffer(pool)
    assert buffer.reserve_nowait(2 * BLOCK)
    buffer.write(0, b"x" * (BLOCK + 100))
    buffer.truncate(10)
    buffer.write(BLOCK + 50, b"end")
    assert content(buffer) == b"x" * 10 + bytes(BLOCK + 40) + b"end"
    buffer.truncate(5)
    buffer.truncate(BLOCK + 60)
    assert content(buffer) == b"x" * 5 + bytes(BLOCK + 55)
    buffer.free()


@on_loop()
async def test_memory_that_was_used_before_does_not_show() -> None:
    pool = Pool(2 * BLOCK)
    first = PartBuffer(pool)
    assert first.reserve_nowait(BLOCK)
    first.write(0, b"secret" * 1000)
    first.free()
    second = PartBuffer(pool)
    assert second.reserve_nowait(BLOCK)
    second.write(5000, b"!")
    assert content(second) == bytes(5000) + b"!"
    assert b"".join(second.views(0, BLOCK)) == bytes(5000) + b"!"
    second.free()


@pytest.mark.parametrize("held", [10, STEPS[2] + 10])
def test_looking_at_bytes_does_not_keep_them_from_growing(held: int) -> None:
    async def body() -> None:
        pool = Pool(8 * BLOCK)
        buffer = PartBuffer(pool)
        assert buffer.reserve_nowait(held)
        buffer.write(0, pattern(held))
        views = buffer.views(0, held)
        for size in (held + 1, *STEPS, 2 * BLOCK):
            assert buffer.reserve_nowait(size)
        buffer.write(held, b"more")
        assert b"".join(views) == pattern(held)
        assert content(buffer) == pattern(held) + b"more"
        buffer.free()

    run(body())


@on_loop()
async def test_a_body_is_what_it_was_although_the_buffer_goes_on() -> None:
    """Small memory is copied for a request; blocks are not, and stay until they are freed."""
    pool = Pool(4 * BLOCK)
    buffer = PartBuffer(pool)
    assert buffer.reserve_nowait(10)
    buffer.write(0, b"0123456789")
    pieces = buffer.pieces()
    buffer.write(0, b"changed")
    buffer.free()
    assert b"".join(pieces) == b"0123456789"


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK), st.sampled_from([1000, BLOCK, 3 * BLOCK])
)
@example(0, 0, 1000)
@example(BLOCK, BLOCK + 1, 3 * BLOCK)
def test_views_are_the_bytes_asked_for_as_far_as_there_are(a: int, b: int, size: int) -> None:
    async def body() -> None:
        buffer = PartBuffer(Pool(4 * BLOCK))
        assert buffer.reserve_nowait(size)
        data = pattern(size)
        buffer.write(0, data)
        start, end = sorted((a, b))
        assert b"".join(buffer.views(start, end)) == data[start:end]
        buffer.free()

    run(body())


# -- against a model ------------------------------------------------------------------------------

ROOM = 3 * BLOCK
PLACES = st.integers(0, ROOM) | st.sampled_from([0, *STEPS, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])


class BufferMachine(RuleBasedStateMachine):
    """Writes and truncates at random, beside a bytearray that does the same."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.pool = Pool(ROOM + BLOCK)
        self.buffer = PartBuffer(self.pool)
        self.model = bytearray()
        self.writes = 0

    def _reserve(self, size: int) -> None:
        async def reserve() -> bool:
            return self.buffer.reserve_nowait(size)

        assert self.bench.run(reserve())

    @rule(at=PLACES, size=PLACES)
    def write(self, at: int, size: int) -> None:
        size = min(size, ROOM - at)
        self._reserve(at + size)
        self.writes += 1
        data = pattern(size, self.writes)
        self.buffer.write(at, data)
        if size or at > len(self.model):
            self.model.extend(bytes(max(at - len(self.model), 0)))
            self.model[at : at + size] = data

    @rule(size=PLACES)
    def truncate(self, size: int) -> None:
        self._reserve(size)
        self.buffer.truncate(size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    @rule()
    def free(self) -> None:
        async def free() -> None:
            self.buffer.free()

        self.bench.run(free())
        self.model.clear()

    @invariant()
    def agrees(self) -> None:
        assert self.buffer.size == len(self.model)
        assert content(self.buffer) == self.model
        assert self.pool.statistics().used == self.buffer.capacity >= self.buffer.size

    def teardown(self) -> None:
        self.free()
        assert self.pool.statistics().used == 0
        self.bench.close()


BufferMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
TestAgainstABytearray = BufferMachine.TestCase
