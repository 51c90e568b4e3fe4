"""Copying an object through this worker, where the store does not copy by itself.

Its bytes are fetched and sent again, with what belongs to it, in parts that wait for their share
of the memory as a whole: several that had half of what they need would wait for each other.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.store.multipart import Target, assemble
from fuse_s3_worker.store.types import (
    Body,
    MultipartUpload,
    ObjectInfo,
    ObjectStore,
    PartResult,
    same_version,
)
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.buffer import PartBuffer
from fuse_s3_worker.transfer.partsize import even_size

__all__ = ["Relay"]

_SHARE = 4  # of the memory, this part of it


class Relay:
    """Fetches objects and sends them again."""

    def __init__(self, store: ObjectStore, pool: Pool, part_size: int) -> None:
        self._store = store
        self._pool = pool
        self._part_size = part_size
        self._gate = _Gate(pool.budget // _SHARE)

    async def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Make `source` another object.

        Raises:
            StoreError: CHANGED, it is not this version any more; or whatever went wrong.
        """
        found = await self._store.headers_to_copy(source.key)
        if not same_version(found.info, source):
            raise StoreError(Fault.CHANGED, f"{source.key!r} was replaced before it was copied")
        if source.size <= self._part_size:
            async with self._fetched(source, 0, source.size) as body:
                return await self._store.put(key, body, headers=found.headers)
        size = even_size(source.size, self._part_size)
        if size > self._gate.limit:
            text = f"{source.key!r} is too large to be copied with this memory_target="
            raise StoreError(Fault.TOO_LARGE, text)

        async def send(upload: MultipartUpload, number: int, start: int, end: int) -> PartResult:
            async with self._fetched(source, start, end) as body:
                return await self._store.upload_part(upload, number, body)

        bounds = [*range(0, source.size, size), source.size]
        return await assemble(self._store, Target(key, found.headers), bounds, send)

    @contextlib.asynccontextmanager
    async def _fetched(self, source: ObjectInfo, start: int, end: int) -> AsyncIterator[Body]:
        """Hold bytes [start, end) in memory."""
        size = end - start
        if not size:
            yield Body((), 0)
            return
        async with self._gate.taking(size):
            buffer = PartBuffer(self._pool)
            try:
                await buffer.reserve(size)
                sink = _Sink(buffer, size)
                await self._store.get_range(source.key, source.etag, start, end, sink)
                yield Body(buffer.pieces(), size)
            finally:
                buffer.free()


class _Gate:
    """Lets through as many bytes as there may be at once; `limit` is how many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._inside = 0
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def taking(self, size: int) -> AsyncIterator[None]:
        """Be inside with so many bytes."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside + size <= self.limit)
            self._inside += size
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= size
                self._changed.notify_all()


class _Sink:
    """Takes a range into a part's buffer."""

    def __init__(self, buffer: PartBuffer, size: int) -> None:
        self._buffer = buffer
        self._scratch = memoryview(bytearray(min(size, MIB)))
        self.filled = 0

    def begin(self, head: ReplyHead) -> bool:
        """Take it."""
        del head
        return True

    def buffer(self) -> memoryview:
        """Return where the next bytes go."""
        return self._scratch

    def advance(self, count: int) -> None:
        """Put them into the buffer."""
        self._buffer.write(self.filled, self._scratch[:count])
        self.filled += count
