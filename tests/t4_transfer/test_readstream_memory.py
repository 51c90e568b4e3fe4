"""Read streams and the memory they share: within the budget always, and nobody starves."""

import asyncio
import errno

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.transfer.blocks import BLOCK
from fuse_s3_worker.transfer.readstream import ReadStream
from support.gatedstore import unreachable
from support.reading import SIZE, Reading, reading
from support.virtualtime import on_loop, run, settle

KIB = 1024


# -- sharing --------------------------------------------------------------------------------------


@on_loop()
async def test_the_window_is_bounded_by_connections_and_by_memory() -> None:
    async with reading(budget=64 * BLOCK) as s:
        assert s.readers.window_limit == 48 * BLOCK
    async with reading(budget=64 * BLOCK, connections=2) as s:
        assert s.readers.window_limit == 16 * BLOCK


@on_loop()
async def test_streams_that_read_share_the_window_and_those_that_rest_do_not() -> None:
    async with reading(budget=64 * BLOCK) as s:
        s.store.by_hand = True
        for stream in (s.open() for _ in range(3)):
            s.read(stream, 0, BLOCK)
        s.open()  # rests
        await settle()
        assert s.readers.window_limit == 16 * BLOCK
        for _ in range(100):
            s.open().read(1000 + len(s.streams), 0, 4096)
        assert s.readers.window_limit == 2 * BLOCK


@on_loop()
async def test_reading_ahead_leaves_room_for_those_who_wait() -> None:
    async with reading(budget=16 * BLOCK) as s:
        streams = [s.open() for _ in range(20)]
        for number in range(3):
            for stream in streams:
                await s.read_now(stream, number * BLOCK, BLOCK)
                await settle()
                assert s.pool.available >= 2 * BLOCK


@pytest.mark.parametrize("budget", [2 * BLOCK, 5 * BLOCK, 16 * BLOCK])
def test_many_readers_of_little_memory_all_come_to_the_end(budget: int) -> None:
    async def read_all(s: Reading, stream: ReadStream, start: int) -> None:
        for offset in range(start, start + 2 * BLOCK, 128 * KIB):
            assert await s.read_now(stream, offset, 128 * KIB) == s.content[offset:][: 128 * KIB]
            counts = s.pool.statistics()
            assert counts.used + counts.kept <= budget

    async def body() -> None:
        async with reading(budget=budget) as s:
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    group.create_task(read_all(s, s.open(), number * BLOCK))
            assert s.answers.errors == {}

    run(body())


# -- who waits gets what others have read ahead ---------------------------------------------------


async def _fill_with_read_ahead(s: Reading, stream: ReadStream) -> None:
    """Read on until most of the memory is read ahead, or is going to be."""
    for number in range(8):
        unique = s.read(stream, number * BLOCK, BLOCK)
        await settle(20)
        while unique not in s.answers:
            min(s.store.arrivals, key=lambda arrival: arrival.start).feed(BLOCK)
            await settle(20)
    assert s.pool.available <= 4 * BLOCK


@on_loop()
async def test_what_was_read_ahead_makes_room_for_a_reader_that_waits() -> None:
    async with reading(budget=16 * BLOCK) as s:
        s.store.by_hand = True
        paused = s.open()
        await _fill_with_read_ahead(s, paused)
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        assert s.pool.charge_nowait(s.pool.available)
        taken = s.pool.statistics().used
        s.store.by_hand = False
        assert await s.read_now(s.open(), 20 * BLOCK, BLOCK) == s.content[20 * BLOCK : 21 * BLOCK]
        # and the one that was paused reads on as if nothing had been
        for number in range(8, 30):
            data = await s.read_now(paused, number * BLOCK, BLOCK)
            assert data == s.content[number * BLOCK : (number + 1) * BLOCK]
        for stream in s.streams:
            stream.close()
        await settle()
        s.pool.uncharge(s.pool.statistics().used)
        assert taken == 16 * BLOCK


@pytest.mark.parametrize("last", [0, 1])
def test_what_rested_longest_makes_room_first(last: int) -> None:
    async def body() -> None:
        async with reading(budget=16 * BLOCK) as s:
            streams = [s.open(), s.open()]
            for stream in (*streams, streams[last]):
                for number in range(2):
                    place = (20 * (stream is streams[last]) + number) * BLOCK
                    await s.read_now(stream, place, BLOCK)
                await settle()
            held = [_held(stream) for stream in streams]
            assert all(held)
            block = s.pool.charge_nowait(s.pool.available)
            assert block
            waiter = asyncio.create_task(s.pool.take())
            await settle()
            assert _held(streams[1 - last]) < held[1 - last]
            assert _held(streams[last]) == held[last]
            s.pool.give_back(await waiter)
            for stream in streams:
                stream.close()
            await settle()
            s.pool.uncharge(s.pool.statistics().used)

    run(body())


def _held(stream: ReadStream) -> int:
    return sum(segment.size for segment in stream._segments)


@on_loop()
async def test_what_is_still_on_its_way_makes_room_when_it_has_arrived() -> None:
    """While it is under way its memory cannot be had; a writer must not wait for a reader."""
    async with reading(budget=16 * BLOCK) as s:
        s.store.by_hand = True
        paused = s.open()
        await _fill_with_read_ahead(s, paused)
        mine = s.pool.available
        assert s.pool.charge_nowait(mine)
        writer = asyncio.create_task(s.pool.take())
        await settle()
        assert not writer.done()
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        assert writer.done()
        s.pool.give_back(writer.result())
        s.pool.uncharge(mine)
        place = 8 * BLOCK
        s.store.by_hand = False
        assert await s.read_now(paused, place, BLOCK) == s.content[place : place + BLOCK]


@on_loop()
async def test_nothing_that_somebody_waits_for_is_taken_away() -> None:
    async with reading(budget=8 * BLOCK) as s:
        s.store.by_hand = True
        stream = s.open()
        start = 20 * BLOCK
        given_up = s.read(stream, start, BLOCK)
        await settle()
        across = s.read(stream, start + BLOCK // 2, BLOCK)
        await settle()
        assert stream.interrupt(given_up)
        s.arrival(start).feed()  # half of it is for the one that waits
        await settle()
        others = [asyncio.create_task(s.pool.take()) for _ in range(8)]
        await settle()
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        assert s.answers.data[across] == s.content[start + BLOCK // 2 :][:BLOCK]
        for other in others:
            s.pool.give_back(await other)


@on_loop()
async def test_what_was_taken_away_is_read_ahead_again() -> None:
    async with reading(budget=16 * BLOCK) as s:
        s.store.by_hand = True
        stream = s.open()
        await _fill_with_read_ahead(s, stream)
        s.store.by_hand = False
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        for block in [await s.pool.take() for _ in range(16)]:
            s.pool.give_back(block)
        asked = len(s.asked)
        await s.read_now(stream, 8 * BLOCK, BLOCK)
        await settle()
        for number in range(9, 12):
            unique = s.read(stream, number * BLOCK, BLOCK)
            assert unique in s.answers  # it is here already
            await settle()
        assert max(end for _, end in s.asked[asked:]) > 13 * BLOCK


# -- in general -----------------------------------------------------------------------------------

PLACES = st.integers(0, 8 * 16).map(lambda n: n * 64 * KIB) | st.integers(0, SIZE)
LENGTHS = st.sampled_from([1, 4 * KIB, 128 * KIB, 300_000, BLOCK])
ACTIONS = st.one_of(
    st.tuples(st.just("read"), PLACES, LENGTHS),
    st.tuples(st.just("go on"), st.integers(0, 3), LENGTHS),
    st.tuples(
        st.just("feed"), st.integers(0, 30), st.sampled_from([1, 5000, 64 * KIB, BLOCK, 8 * BLOCK])
    ),
    st.tuples(st.just("fail"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("interrupt"), st.integers(0, 10), st.just(0)),
    st.tuples(st.just("let things happen"), st.just(0), st.just(0)),
)


class _Program:
    """READs of two programs with one open file each, and a network that does as it likes.

    With `patient`, a program sends a READ when it has the answer to the one before.
    """

    def __init__(self, s: Reading, *, patient: bool) -> None:
        self.s = s
        self.patient = patient
        self.streams = [s.open(), s.open()]
        self.reads: dict[int, tuple[ReadStream, int, int]] = {}
        self.last_end = 0
        self.failed: list[tuple[int, int]] = []
        self.interrupted: set[int] = set()

    async def step(self, action: str, a: int, b: int) -> None:
        arrivals, waiting = self.s.store.arrivals, self._waiting()
        if action == "read":
            self._read(self.streams[a % 2], a, b)
        elif action == "go on":
            self._read(self.streams[a % 2], self.last_end, b)
        elif action == "feed" and arrivals:
            arrivals[a % len(arrivals)].feed(b)
        elif action == "fail" and arrivals:
            arrival = arrivals[a % len(arrivals)]
            if not arrival.done.done():
                self.failed.append((arrival.start, arrival.end))
                arrival.fail(unreachable())
        elif action == "interrupt" and waiting:
            unique = waiting[a % len(waiting)]
            assert any(stream.interrupt(unique) for stream in self.streams)
            self.interrupted.add(unique)
        if action != "read":
            await settle(5)

    def _read(self, stream: ReadStream, offset: int, length: int) -> None:
        if self.patient and any(self.reads[unique][0] is stream for unique in self._waiting()):
            return
        unique = self.s.read(stream, offset, length)
        self.reads[unique] = (stream, offset, length)
        self.last_end = offset + length

    def _waiting(self) -> list[int]:
        return [unique for unique in self.reads if unique not in self.s.answers]

    async def finish(self) -> None:
        """Bring everything that is still waited for."""
        while self._waiting():
            arrivals = self.s.store.arrivals
            if not arrivals:
                await asyncio.sleep(1)  # nothing of this kind may be needed: it would be stuck
                assert self.s.store.arrivals or not self._waiting()
                continue
            arrivals[0].feed()
            await settle(5)

    def check(self) -> None:
        for unique, (_, offset, length) in self.reads.items():
            if unique in self.interrupted:
                assert self.s.answers.errnos[unique] == errno.EINTR
            elif unique in self.s.answers.errors:
                assert self.s.answers.errnos[unique] == errno.EIO
                assert any(start < offset + length and offset < end for start, end in self.failed)
            else:
                assert self.s.answers.data[unique] == self.s.content[offset : offset + length]


@settings(deadline=None, max_examples=120)
@given(
    st.lists(ACTIONS, max_size=60),
    st.sampled_from([20 * BLOCK, 64 * BLOCK]),
    st.sampled_from([0, 1, 100_000, BLOCK, 8 * BLOCK + 17, SIZE]),
)
@example([("go on", 0, 1), ("read", 0, 4096)], 20 * BLOCK, 100_000)
def test_every_read_gets_its_bytes_whatever_happens(
    actions: list[tuple[str, int, int]], budget: int, size: int
) -> None:
    async def body() -> None:
        async with reading(size, budget=budget) as s:
            s.store.by_hand = True
            program = _Program(s, patient=budget < 64 * BLOCK)
            for action in actions:
                await program.step(*action)
                assert s.pool.statistics().used <= budget
            await program.finish()
            program.check()

    run(body())


@on_loop()
async def test_a_reader_that_was_given_up_does_not_starve_another() -> None:
    """It was interrupted, its bytes arrive all the same, and it never comes back for them."""
    async with reading(BLOCK, budget=2 * BLOCK) as s:
        s.store.by_hand = True
        gone, other = s.open(), s.open()
        interrupted = s.read(gone, 0, 300_000)
        waiting = s.read(other, 300_000, 1)
        await settle()
        assert gone.interrupt(interrupted)
        while waiting not in s.answers:
            s.store.arrivals[0].feed()
            await settle()
        assert s.answers.data[waiting] == s.content[300_000:300_001]
