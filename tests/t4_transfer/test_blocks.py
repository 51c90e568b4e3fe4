"""The memory pool: its budget is hard, waiting is in order, and nothing is lost by giving up."""

import asyncio
import mmap
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from fuse_s3_worker.transfer import blocks
from fuse_s3_worker.transfer.blocks import BLOCK, Block, Pool, PoolStatistics
from support.virtualtime import Bench, on_loop, settle

KIB = 1024


def test_a_block_is_one_request_of_writable_memory() -> None:
    for count in (1, 2):
        made = Block.make(count)
        for number, block in enumerate(made):
            assert len(block.view) == BLOCK
            block.view[BLOCK - 3 :] = b"end"
            block.view[:1] = b"%d" % number
        assert [bytes(block.view[:2]) for block in made] == [b"%d\0" % n for n in range(count)]
        assert all(bytes(block.view[BLOCK - 4 :]) == b"\0end" for block in made)


def test_a_block_that_is_dropped_leaves_its_pair_alone() -> None:
    first, second = Block.make(2)
    first.view[:5] = second.view[:5] = b"bytes"
    first.drop()
    assert bytes(first.view[:5]) == bytes(5)
    assert bytes(second.view[:5]) == b"bytes"


def test_a_kernel_without_huge_pages_has_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_POPULATE_WRITE", 12345)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12346)
    (block,) = Block.make(1)
    block.view[:] = bytes(BLOCK)


def _resident(pid: str = "self") -> int:
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123  it is no file of a path's kind
        return int(file.read().split()[1]) * mmap.PAGESIZE


@on_loop()
async def test_what_is_resident_is_what_is_used_and_kept() -> None:
    """Also where one of each pair is used: the other's memory does not stay behind."""
    pool = Pool(64 * BLOCK)
    before = _resident()
    held = await _full(pool)
    for block in held:
        block.view[:] = b"x" * BLOCK
    for block in held[::2]:
        pool.give_back(block)
    assert _resident() - before > 60 * BLOCK
    pool.charge_nowait(32 * BLOCK)  # memory of somebody's own, which the kept blocks make room for
    assert pool.statistics().kept == 0
    assert _resident() - before < 36 * BLOCK
    assert all(block.view[BLOCK - 1] == ord("x") for block in held[1::2])
    for block in held[1::2]:
        pool.give_back(block)
    pool.uncharge(32 * BLOCK)
    await asyncio.sleep(blocks._KEEP_IDLE * 3)
    held.clear()
    assert _resident() - before < 4 * BLOCK


@on_loop()
async def test_statistics_are_of_the_moment() -> None:
    pool = Pool(4 * BLOCK)
    first, second = await pool.take(), await pool.take()
    await pool.charge(100)
    pool.give_back(second)
    assert pool.statistics() == PoolStatistics(4 * BLOCK, BLOCK + 100, BLOCK, 0)
    large = asyncio.create_task(pool.charge(3 * BLOCK))
    await settle()
    assert pool.statistics() == PoolStatistics(4 * BLOCK, BLOCK + 100, BLOCK, 1)
    assert pool.budget == 4 * BLOCK
    assert pool.available == 0
    pool.uncharge(100)
    await large
    assert pool.statistics() == PoolStatistics(4 * BLOCK, 4 * BLOCK, 0, 0)
    pool.uncharge(3 * BLOCK)
    pool.give_back(first)
    assert pool.available == 4 * BLOCK


@on_loop()
async def test_a_block_is_used_again_and_not_by_two() -> None:
    pool = Pool(2 * BLOCK)
    first, second = await pool.take(), pool.take_nowait()
    assert second is not None
    assert first is not second
    pool.give_back(first)
    assert await pool.take() is first
    for block in (first, second):
        pool.give_back(block)


@on_loop()
async def test_who_can_do_without_does_not_overtake_who_waits() -> None:
    pool = Pool(2 * BLOCK)
    first = await pool.take()
    waiter = asyncio.create_task(pool.charge(2 * BLOCK))
    await settle()
    assert pool.take_nowait() is None
    assert not pool.charge_nowait(1)
    pool.give_back(first)
    await waiter
    pool.uncharge(2 * BLOCK)
    assert pool.charge_nowait(1)
    pool.uncharge(1)


@on_loop()
async def test_waiting_is_in_order_even_when_a_later_one_would_fit() -> None:
    pool = Pool(2 * BLOCK)
    blocks_held = [await pool.take(), await pool.take()]
    order: list[str] = []

    async def wait(name: str, size: int) -> None:
        await pool.charge(size)
        order.append(name)

    tasks = [asyncio.create_task(wait("large", 2 * BLOCK))]
    await settle()
    tasks.append(asyncio.create_task(wait("small", 1)))
    await settle()
    pool.give_back(blocks_held[0])
    await settle()
    assert order == []
    pool.give_back(blocks_held[1])
    await settle()
    assert order == ["large"]
    pool.uncharge(2 * BLOCK)
    await settle()
    assert order == ["large", "small"]
    await asyncio.gather(*tasks)
    pool.uncharge(1)
    assert pool.statistics().used == 0


# -- giving up waiting ----------------------------------------------------------------------------


async def _full(pool: Pool) -> list[Block]:
    return [await pool.take() for _ in range(pool.budget // BLOCK)]


@on_loop()
async def test_who_gives_up_while_waiting_takes_nothing_along() -> None:
    pool = Pool(BLOCK)
    (block,) = await _full(pool)
    waiter = asyncio.create_task(pool.take())
    await settle()
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    assert pool.statistics()[1:] == (BLOCK, 0, 0)
    pool.give_back(block)
    assert pool.statistics().used == 0


@on_loop()
async def test_room_that_was_made_for_one_who_gave_up_goes_to_the_next() -> None:
    pool = Pool(BLOCK)
    (block,) = await _full(pool)
    first, second = (asyncio.create_task(pool.take()) for _ in range(2))
    await settle()
    pool.give_back(block)  # the turn is the first one's now, but it has not run yet
    first.cancel()
    assert await second is block
    assert first.cancelled()
    assert pool.statistics()[1:] == (BLOCK, 0, 0)
    pool.give_back(block)


@on_loop()
async def test_giving_up_in_the_moment_before_room_is_made_is_giving_up() -> None:
    pool = Pool(BLOCK)
    (block,) = await _full(pool)
    waiter = asyncio.create_task(pool.take())
    await settle()
    waiter.cancel()  # it has not run since
    pool.give_back(block)
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert pool.statistics().used == 0


@on_loop()
async def test_who_waited_behind_one_that_gave_up_gets_what_is_there() -> None:
    pool = Pool(2 * BLOCK)
    block = await pool.take()
    large = asyncio.create_task(pool.charge(2 * BLOCK))
    await settle()
    small = asyncio.create_task(pool.charge(KIB))
    await settle()
    assert not small.done()
    large.cancel()
    await small
    assert pool.statistics().used == BLOCK + KIB
    pool.uncharge(KIB)
    pool.give_back(block)


# -- under pressure -------------------------------------------------------------------------------


class _Owner:
    """Holds memory that it can do without."""

    def __init__(self, pool: Pool, size: int, asked: list["_Owner"]) -> None:
        self.pool = pool
        self.size = size
        self.asked = asked
        assert pool.charge_nowait(size)
        pool.add_reclaimer(self, self.reclaim)

    def reclaim(self) -> int:
        self.asked.append(self)
        self.pool.remove_reclaimer(self)
        self.pool.uncharge(self.size)
        return self.size


@on_loop()
async def test_reclaimers_are_asked_the_oldest_first_and_no_more_than_needed() -> None:
    pool = Pool(4 * BLOCK)
    asked: list[_Owner] = []
    owners = [_Owner(pool, BLOCK, asked) for _ in range(4)]
    pool.touch_reclaimer(owners[0])
    pool.remove_reclaimer(owners[1])
    await pool.charge(BLOCK + 1)
    assert asked == [owners[2], owners[3]]
    await pool.charge(BLOCK - 1)
    assert asked == [owners[2], owners[3]]
    await pool.charge(1)
    assert asked == [owners[2], owners[3], owners[0]]
    # touching or removing who is not known is harmless
    pool.touch_reclaimer(owners[1])
    pool.remove_reclaimer(owners[1])
    pool.uncharge(2 * BLOCK + 1)
    owners[1].reclaim()
    assert pool.statistics().used == 0


@on_loop()
async def test_nobody_is_asked_while_there_is_room() -> None:
    pool = Pool(2 * BLOCK)
    asked: list[_Owner] = []
    owner = _Owner(pool, BLOCK, asked)
    block = await pool.take()
    assert pool.take_nowait() is None
    assert not pool.charge_nowait(1)
    assert asked == []
    pool.give_back(block)
    owner.reclaim()


@on_loop()
async def test_an_owner_may_go_away_while_all_are_asked() -> None:
    pool = Pool(2 * BLOCK)

    def go() -> int:
        pool.remove_reclaimer("me")
        pool.remove_reclaimer("other")
        pool.uncharge(2 * BLOCK)
        return 2 * BLOCK

    pool.add_reclaimer("me", go)
    pool.add_reclaimer("other", lambda: 0)
    assert pool.charge_nowait(2 * BLOCK)
    await pool.charge(BLOCK)
    pool.uncharge(BLOCK)
    assert pool.statistics().used == 0


# -- when idle ------------------------------------------------------------------------------------


@on_loop()
async def test_free_memory_goes_back_to_the_system_when_there_is_no_work() -> None:
    pool = Pool(8 * BLOCK)
    for block in await _full(pool):
        pool.give_back(block)
    assert pool.statistics().kept == 8 * BLOCK
    await asyncio.sleep(blocks._KEEP_IDLE * 3)
    assert pool.statistics() == PoolStatistics(8 * BLOCK, 0, 0, 0)


@on_loop()
async def test_free_memory_is_kept_while_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_KEEP_IDLE", 100.0)
    pool = Pool(8 * BLOCK)
    for block in await _full(pool):
        pool.give_back(block)
    await asyncio.sleep(99)
    assert pool.statistics().kept == 8 * BLOCK
    await asyncio.sleep(200)
    assert pool.statistics().kept == 0


@on_loop()
async def test_what_a_peak_has_left_goes_by_and_by_although_there_is_work() -> None:
    pool = Pool(16 * BLOCK)
    for block in await _full(pool):
        pool.give_back(block)
    counts = []
    for turn in range(30):
        await pool.charge(turn + 1)  # something else each time: this is not idling
        counts.append(pool.statistics().kept)
        await asyncio.sleep(blocks._KEEP_IDLE)
    assert counts[0] > counts[3] > 0
    assert counts[-1] <= BLOCK
    pool.uncharge(sum(range(31)))


@on_loop()
async def test_the_budget_counts_what_is_kept_for_later() -> None:
    pool = Pool(4 * BLOCK)
    for block in await _full(pool):
        pool.give_back(block)
    await pool.charge(3 * BLOCK)
    assert pool.statistics().kept <= BLOCK
    pool.uncharge(3 * BLOCK)


# -- against a model ------------------------------------------------------------------------------

BUDGET = 3 * BLOCK + 300 * KIB
SIZES = st.sampled_from([1, 16 * KIB, 256 * KIB, 300 * KIB, BLOCK, BLOCK + 1, BUDGET])


class _Waiter:
    """Somebody who waits for a block or for room; `size` is what it gets."""

    def __init__(self, pool: Pool, size: int) -> None:
        self.size = size
        work: Any = pool.take() if size == BLOCK else pool.charge(size)
        self.task: asyncio.Task[Block | None] = asyncio.create_task(work)


class PoolMachine(RuleBasedStateMachine):
    """Takes and gives back in any order, beside a model that knows only sizes and a queue."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.pool = Pool(BUDGET)
        self.used = 0
        self.blocks: set[int] = set()
        self.waiting: deque[_Waiter] = deque()
        self.reclaimable = 0

    def _own(self, got: Block | None, size: int) -> Block | int:
        if got is None:
            return size
        assert id(got) not in self.blocks
        self.blocks.add(id(got))
        return got

    def _model_grants(self) -> None:
        while self.waiting and self.used + self.waiting[0].size <= BUDGET:
            self.used += self.waiting.popleft().size

    @rule(target=held)
    def take_nowait(self) -> Block | int:
        block = self.pool.take_nowait()
        room = not self.waiting and self.used + BLOCK <= BUDGET
        assert (block is not None) == room
        self.used += BLOCK if room else 0
        return self._own(block, 0)

    @rule(target=held, size=SIZES)
    def charge_nowait(self, size: int) -> int:
        room = not self.waiting and self.used + size <= BUDGET
        assert self.pool.charge_nowait(size) == room
        self.used += size if room else 0
        return size if room else 0

    @rule(target=held, size=SIZES)
    def wait(self, size: int) -> _Waiter:
        async def start() -> _Waiter:
            waiter = _Waiter(self.pool, size)
            await settle(5)
            return waiter

        waiter = self.bench.run(start())
        self.waiting.append(waiter)
        self._model_grants()
        while self.reclaimable and self.used + sum(one.size for one in self.waiting) > BUDGET:
            self.used -= BLOCK
            self.reclaimable -= BLOCK
            self._model_grants()
        return waiter

    @rule(thing=consumes(held), first=st.booleans(), other=consumes(held))
    def give_back(self, thing: object, other: object, *, first: bool) -> None:
        """Two at a time, without a turn of the loop between them; who waits gives up."""

        async def both() -> None:
            for one in (thing, other) if first else (other, thing):
                self._give_back(one)
            await settle(5)

        self.bench.run(both())

    def _give_back(self, thing: object) -> None:
        if isinstance(thing, _Waiter):
            if thing.task.done():
                self._give_back(self._own(thing.task.result(), thing.size))
                return
            thing.task.cancel()
            if thing in self.waiting:
                self.waiting.remove(thing)
            else:
                self.used -= thing.size  # it has its turn already
        elif isinstance(thing, Block):
            self.blocks.discard(id(thing))
            self.pool.give_back(thing)
            self.used -= BLOCK
        elif isinstance(thing, int):
            self.pool.uncharge(thing)
            self.used -= thing
        self._model_grants()

    @precondition(lambda self: not self.waiting and self.used + 2 * BLOCK <= BUDGET)
    @rule()
    def own_what_can_be_reclaimed(self) -> None:
        assert self.pool.charge_nowait(BLOCK)
        self.used += BLOCK
        self.reclaimable += BLOCK

        def reclaim() -> int:
            self.pool.remove_reclaimer(reclaim)
            self.pool.uncharge(BLOCK)
            return BLOCK

        self.pool.add_reclaimer(reclaim, reclaim)

    @rule(seconds=st.sampled_from([1.0, blocks._KEEP_IDLE]))
    def time_passes(self, seconds: float) -> None:
        self.bench.run(asyncio.sleep(seconds))

    @invariant()
    def agrees(self) -> None:
        counts = self.pool.statistics()
        assert counts.used == self.used
        assert counts.waiting == len(self.waiting)
        assert counts.used + counts.kept <= BUDGET
        assert all(not waiter.task.done() for waiter in self.waiting)

    def teardown(self) -> None:
        for waiter in self.waiting:
            waiter.task.cancel()
        self.bench.close()


PoolMachine.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)
TestAgainstTheModel = PoolMachine.TestCase
