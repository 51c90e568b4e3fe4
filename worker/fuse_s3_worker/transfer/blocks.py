"""The memory that data passes through: blocks of one FUSE request, under one hard budget.

Every stream and every upload borrows from here. A block is anonymous memory, used again and again
while there is work (a fresh page costs a fault and a clearing), and given back to the system when
there has been none for a while. Small buffers are charged by their size.

Blocks are made in pairs, as large as a huge page. The kernel looks up every page that it copies to
or from; in huge pages that is quicker, and where a virtual machine's memory has to come from its
host first, there are 512 times fewer to come.
"""

import asyncio
import contextlib
import mmap
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fuse_s3_shared.limits import FUSE_REQUEST_MAX

__all__ = ["BLOCK", "Block", "Pool", "PoolStatistics"]

BLOCK = FUSE_REQUEST_MAX

_KEEP_IDLE = 5.0  # seconds that free blocks are kept
_PAIR = 2  # blocks in a huge page
_POPULATE_WRITE = 23  # linux/mman.h, MADV_POPULATE_WRITE


class Block:
    """BLOCK bytes of memory."""

    __slots__ = ("_at", "_memory", "view")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at
        self.view = memoryview(memory)[at : at + BLOCK]

    @classmethod
    def make(cls, count: int) -> "list[Block]":
        """Return blocks that lie in one piece of memory."""
        memory = mmap.mmap(-1, count * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # All pages at once: a fault for each took a tenth of the time that a first read takes.
        for advice in (mmap.MADV_HUGEPAGE, _POPULATE_WRITE):
            with contextlib.suppress(OSError):  # a kernel that does not have it
                memory.madvise(advice)
        return [cls(memory, number * BLOCK) for number in range(count)]

    def drop(self) -> None:
        """Give the memory back; the other of the pair may be in use."""
        self._memory.madvise(mmap.MADV_DONTNEED, self._at, BLOCK)


class PoolStatistics(NamedTuple):
    """A moment's counts, in bytes."""

    budget: int
    used: int
    kept: int
    waiting: int


class Pool:
    """Hands out memory up to `budget` bytes; beyond that, who needs some waits or does without.

    Who can do without (read-ahead) asks with `take_nowait`; who cannot (a reader that waits, a
    writer) awaits `take`. When the budget is used up, the reclaimers are asked to let go of what
    was read ahead and not wanted yet, oldest streams first.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._free: list[Block] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._reclaimers: dict[object, Callable[[], int]] = {}
        self._trimmer: asyncio.TimerHandle | None = None

    @property
    def budget(self) -> int:
        """The most bytes in use at once."""
        return self._budget

    @property
    def available(self) -> int:
        """Bytes that can be had right now."""
        return 0 if self._waiting else self._budget - self._used

    def statistics(self) -> PoolStatistics:
        """Return the counts of this moment."""
        return PoolStatistics(self._budget, self._used, len(self._free) * BLOCK, len(self._waiting))

    def take_nowait(self) -> Block | None:
        """Return a block if there is room and nobody is waiting for it."""
        if self.available < BLOCK:
            return None
        self._used += BLOCK
        return self._block()

    async def take(self) -> Block:
        """Return a block, as soon as there is room."""
        await self._room(BLOCK)
        return self._block()

    def _block(self) -> Block:
        """Return a free block; there is room for it."""
        if not self._free:
            self._free = Block.make(_PAIR if self._used + BLOCK <= self._budget else 1)
        return self._free.pop()

    def give_back(self, block: Block) -> None:
        """Return a block that nobody looks at any more."""
        self._free.append(block)
        self.uncharge(BLOCK)
        self._trim_later()

    def charge_nowait(self, size: int) -> bool:
        """Count `size` bytes of the caller's own memory, if there is room."""
        if self.available < size:
            return False
        self._used += size
        self._bound_free()
        return True

    async def charge(self, size: int) -> None:
        """Count `size` bytes of the caller's own memory, as soon as there is room."""
        await self._room(size)
        self._bound_free()

    async def _room(self, size: int) -> None:
        if self.available >= size:
            self._used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._reclaim()
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.uncharge(size)  # room was made in the same moment
                raise
            with contextlib.suppress(ValueError):  # it was passed over in the same moment
                self._waiting.remove((size, turn))
            self._wake()  # whoever waited behind it may need less
            raise

    def uncharge(self, size: int) -> None:
        """Give room back."""
        self._used -= size
        self._wake()

    # -- under pressure -------------------------------------------------------------------------

    def add_reclaimer(self, owner: object, reclaim: Callable[[], int]) -> None:
        """Register who can give back memory; `reclaim` returns how many bytes it gave back."""
        self._reclaimers[owner] = reclaim

    def remove_reclaimer(self, owner: object) -> None:
        """Forget an owner."""
        self._reclaimers.pop(owner, None)

    def touch_reclaimer(self, owner: object) -> None:
        """Make `owner` the last one to be asked: it is in use."""
        if owner in self._reclaimers:
            self._reclaimers[owner] = self._reclaimers.pop(owner)

    def relieve(self) -> None:
        """Ask again if anybody waits: what was in use when it was asked for may not be now."""
        if self._waiting:
            self._reclaim()

    def _reclaim(self) -> None:
        for reclaim in list(self._reclaimers.values()):
            # What is given back goes to those who wait at once: who still waits, still needs it.
            if self._budget - self._used >= sum(size for size, _ in self._waiting):
                return
            reclaim()

    def _wake(self) -> None:
        while self._waiting and self._budget - self._used >= self._waiting[0][0]:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._used += size
                turn.set_result(None)

    # -- when idle ------------------------------------------------------------------------------

    def _bound_free(self) -> None:
        """Let free blocks go that would not fit into the budget any more."""
        self._drop(len(self._free) - max(self._budget - self._used, 0) // BLOCK)

    def _drop(self, count: int) -> None:
        """Let so many free blocks go, those first that were used longest ago."""
        for block in self._free[: max(count, 0)]:
            block.drop()
        del self._free[: max(count, 0)]

    def _trim_later(self) -> None:
        if self._trimmer is None:
            loop = asyncio.get_running_loop()
            self._trimmer = loop.call_later(_KEEP_IDLE, self._trim, self._used)

    def _trim(self, used_then: int) -> None:
        """Let free blocks go; while something is going on, only what stands above its peak."""
        self._trimmer = None
        idle = self._used == used_then or not self._used
        self._drop(len(self._free) if idle else len(self._free) // 2)
        if self._free:
            self._trim_later()
