"""A bucket with one file, and read streams over it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fuse_s3_worker.store.types import ObjectInfo, RangeSink
from fuse_s3_worker.transfer.blocks import BLOCK, Pool
from fuse_s3_worker.transfer.readstream import Readers, ReadStream
from support.answers import Answers
from support.gatedstore import Arrival, GatedStore
from support.pattern import pattern
from support.virtualtime import settle

__all__ = ["KEY", "SIZE", "Reading", "reading"]

KEY = "dir/file"
SIZE = 40 * BLOCK + 12_345


class _NotingStore(GatedStore):
    """Notes the ranges that are asked for."""

    def __init__(self, content: bytes) -> None:
        super().__init__({KEY: content})
        self.ranges: list[tuple[int, int]] = []

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        self.ranges.append((start, end))
        await super().get_range(key, etag, start, end, sink)


class Reading:
    """The file, its streams, and what they answered.

    Attributes:
        reopened: how often today's version was looked for.
        times_outdated: how often it was said that there is another one.
    """

    def __init__(self, size: int, budget: int, connections: int) -> None:
        self.content = pattern(size)
        self.store = _NotingStore(self.content)
        self.pool = Pool(budget)
        self.readers = Readers(self.store, self.pool, connections)
        self.answers = Answers()
        self.streams: list[ReadStream] = []
        self.reopened = 0
        self.times_outdated = 0
        self.uniques = 0

    @property
    def asked(self) -> list[tuple[int, int]]:
        """The ranges that were asked for."""
        return self.store.ranges

    @property
    def bytes_asked(self) -> int:
        """How much that is."""
        return sum(end - start for start, end in self.asked)

    def info(self) -> ObjectInfo:
        """Return today's version."""
        stored = self.store.stored(KEY)
        assert stored is not None
        return stored.info

    async def reopen(self) -> ObjectInfo:
        """Return today's version (transfer.readstream.Source)."""
        self.reopened += 1
        return await self.store.head(KEY)

    def outdated(self) -> None:
        """Count (transfer.readstream.Source)."""
        self.times_outdated += 1

    def open(self) -> ReadStream:
        """Open the file once more."""
        stream = self.readers.open(self.info(), self.answers, self)
        self.streams.append(stream)
        return stream

    def read(self, stream: ReadStream, offset: int, size: int) -> int:
        """Send a READ; return its unique number."""
        self.uniques += 1
        stream.read(self.uniques, offset, size)
        return self.uniques

    async def read_now(self, stream: ReadStream, offset: int, size: int) -> bytes:
        """Send a READ and wait for the bytes."""
        return await self.answers.bytes_of(self.read(stream, offset, size))

    def arrival(self, start: int) -> Arrival:
        """Return the GET that begins at `start`."""
        (found,) = [a for a in self.store.arrivals if a.start == start]
        return found


@asynccontextmanager
async def reading(
    size: int = SIZE, *, budget: int = 64 * BLOCK, connections: int = 32
) -> AsyncIterator[Reading]:
    """Set up; in the end everything is closed, all memory back, and no GET under way."""
    made = Reading(size, budget, connections)
    idle = made.readers.window_limit
    yield made
    for stream in made.streams:
        stream.close()
    await settle()
    await asyncio.sleep(1)
    assert made.store.arrivals == []
    assert made.pool.statistics().used == 0
    assert made.pool.statistics().waiting == 0
    assert made.readers.window_limit == idle
    assert made.pool._reclaimers == {}
