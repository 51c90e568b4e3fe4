"""One ranged GET of a stream and the memory it fills."""

import asyncio
from collections.abc import Iterator

from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.transfer.blocks import BLOCK, Block, Pool

__all__ = ["SMALL", "Segment"]

SMALL = 128 * 1024  # up to this, memory of the very size: random reads must not take blocks


class Segment:
    """Bytes [start, end) of an object, arriving from the front.

    A segment is the sink of its GET: the connection writes into its blocks, and the reply to the
    kernel is written out of them. It is given back whole, by `free`, when its reader had all of
    it or has passed it, and never while a transfer may still write into it.
    """

    __slots__ = ("_blocks", "_pool", "_small", "delivered", "end", "filled", "start", "task")

    def __init__(self, pool: Pool, start: int, end: int) -> None:
        self._pool = pool
        self._blocks: list[Block] = []
        self._small: memoryview | None = None
        self.start = start
        self.end = end
        self.filled = 0
        self.delivered = 0
        self.task: asyncio.Task[None] | None = None

    @classmethod
    def of_bytes(cls, pool: Pool, start: int, data: memoryview) -> "Segment":
        """Return one whose bytes are here, and charged to the pool."""
        made = cls(pool, start, start + len(data))
        made._small, made.filled = data, len(data)
        return made

    def __repr__(self) -> str:
        return f"Segment({self.start}..{self.end}, {self.filled} here)"

    @property
    def place(self) -> tuple[int, int]:
        """Where it begins and ends."""
        return self.start, self.end

    @property
    def size(self) -> int:
        """Bytes from `start` to `end`."""
        return self.end - self.start

    @property
    def busy(self) -> bool:
        """Tell whether a transfer is under way."""
        return self.task is not None and not self.task.done()

    # -- memory ---------------------------------------------------------------------------------

    def allocate_nowait(self) -> bool:
        """Take the memory if there is enough of it now; otherwise take none."""
        if self.size <= SMALL:
            if not self._pool.charge_nowait(self.size):
                return False
            self._small = memoryview(bytearray(self.size))
            return True
        needed = -(-self.size // BLOCK)
        if self._pool.available < needed * BLOCK:
            return False
        self._blocks = [b for _ in range(needed) if (b := self._pool.take_nowait())]
        return True

    async def allocate(self) -> None:
        """Take the memory as it comes free."""
        if self.size <= SMALL:
            await self._pool.charge(self.size)
            self._small = memoryview(bytearray(self.size))
            return
        while len(self._blocks) * BLOCK < self.size:
            self._blocks.append(await self._pool.take())

    def free(self) -> None:
        """Give everything back; only when no transfer can write here any more."""
        if self._small is not None:
            self._small = None
            self._pool.uncharge(self.size)
        for block in self._blocks:
            self._pool.give_back(block)
        self._blocks = []

    # -- the transfer's side: RangeSink ---------------------------------------------------------

    def begin(self, head: ReplyHead) -> bool:
        """Take whatever the range's receiver let through."""
        del head
        return True

    def buffer(self) -> memoryview:
        """Return where the next bytes go."""
        if self._small is not None:
            return self._small[self.filled :]
        index, at = divmod(self.filled, BLOCK)
        return self._blocks[index].view[at : self.size - index * BLOCK]

    def advance(self, count: int) -> None:
        """Count bytes that arrived."""
        self.filled += count

    # -- the reader's side ----------------------------------------------------------------------

    def has(self, start: int, end: int) -> bool:
        """Tell whether bytes [start, end), as far as they belong here, have arrived."""
        return start >= self.end or min(end, self.end) <= self.start + self.filled

    def views(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield bytes [start, end), as far as they belong here, without copying them."""
        low, high = max(start, self.start) - self.start, min(end, self.end) - self.start
        if self._small is not None:
            yield self._small[low:high]
            return
        while low < high:
            index, at = divmod(low, BLOCK)
            take = min(BLOCK - at, high - low)
            yield self._blocks[index].view[at : at + take]
            low += take
