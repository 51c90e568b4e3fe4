"""The part of a file that is being written: memory that grows with it.

A file of a few bytes must not take a whole block from a budget that thousands of open files
share, so a buffer begins with memory of its own, charged in steps, and goes over to blocks.
"""

from collections.abc import Iterator

from fuse_s3_worker.transfer.blocks import BLOCK, Block, Pool

__all__ = ["PartBuffer"]

_STEPS = (16 * 1024, 64 * 1024, 256 * 1024)

Buffer = bytes | bytearray | memoryview


class PartBuffer:
    """Bytes [0, size) of a part; room is reserved first and written then."""

    __slots__ = ("_blocks", "_pool", "_small", "size")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._small = bytearray()
        self._blocks: list[Block] = []
        self.size = 0

    @property
    def capacity(self) -> int:
        """Bytes for which there is room."""
        return len(self._blocks) * BLOCK or len(self._small)

    def reserve_nowait(self, size: int) -> bool:
        """Make room for `size` bytes, if memory can be had now; what was reserved is kept."""
        while self.capacity < size:
            step = self._next_step(size)
            if step:
                if not self._pool.charge_nowait(step - len(self._small)):
                    return False
                self._grow(step)
                continue
            block = self._pool.take_nowait()
            if block is None:
                return False
            self._add(block)
        return True

    async def reserve(self, size: int) -> None:
        """Make room for `size` bytes, as memory comes free."""
        while not self.reserve_nowait(size):
            step = self._next_step(size)
            if step:
                await self._pool.charge(step - len(self._small))
                self._grow(step)
            else:
                self._add(await self._pool.take())

    def _next_step(self, size: int) -> int:
        """Return the next size of the small memory; 0 when it is time for blocks."""
        if self._blocks or size > _STEPS[-1]:
            return 0
        return next(step for step in _STEPS if step >= size)

    def _grow(self, step: int) -> None:
        # Not extended in place, which fails while anybody still looks at a view of it.
        grown = bytearray(step)
        grown[: len(self._small)] = self._small
        self._small = grown

    def _add(self, block: Block) -> None:
        self._blocks.append(block)
        if self._small:
            block.view[: len(self._small)] = self._small
            self._pool.uncharge(len(self._small))
            self._small = bytearray()

    def write(self, at: int, data: Buffer) -> None:
        """Put `data` at `at`, which is inside the reserved room; a gap before it becomes zeros."""
        if at > self.size:
            self.fill(self.size, at)
        view = memoryview(data)
        for target in self._views(at, at + len(view)):
            target[:] = view[: len(target)]
            view = view[len(target) :]
        self.size = max(self.size, at + len(data))

    def truncate(self, size: int) -> None:
        """Set the size, inside the reserved room; what is added is zeros."""
        if size > self.size:
            self.fill(self.size, size)
        self.size = size

    def fill(self, start: int, end: int) -> None:
        """Make bytes [start, end), inside the reserved room, zeros."""
        for target in self._views(start, end):
            target[:] = bytes(len(target))

    def views(self, start: int, end: int) -> list[memoryview]:
        """Return bytes [start, end) without copying them."""
        return list(self._views(start, min(end, self.size)))

    def _views(self, start: int, end: int) -> Iterator[memoryview]:
        if self._small:
            yield memoryview(self._small)[start:end]
            return
        while start < end:
            index, at = divmod(start, BLOCK)
            take = min(BLOCK - at, end - start)
            yield self._blocks[index].view[at : at + take]
            start += take

    def pieces_from(self, start: int) -> Iterator[tuple[int, memoryview]]:
        """Yield all bytes with their places in the file, in which they begin at `start`."""
        for view in self.views(0, self.size):
            yield start, view
            start += len(view)

    def pieces(self) -> list[Buffer]:
        """Return all bytes for a request's body; they must not change until it is done."""
        if self._blocks:
            return list(self.views(0, self.size))
        return [bytes(self._small[: self.size])]

    def free(self) -> None:
        """Give the memory back; nobody may look at it any more."""
        if self._small:
            self._pool.uncharge(len(self._small))
        for block in self._blocks:
            self._pool.give_back(block)
        self._small, self._blocks, self.size = bytearray(), [], 0
