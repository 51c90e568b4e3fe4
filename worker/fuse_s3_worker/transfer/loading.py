"""Fetching what a staged file lacks: range by range, each once, and some ahead of who reads on.

A random read brings the 64 KiB around it, since the next one is often near. One that goes on where
the last one ended has more fetched behind it, the more often it does, in several requests side by
side. Everybody who wants bytes that are on their way waits for the same request.
"""

import asyncio
from collections.abc import Awaitable, Callable

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.ranges import ViewSink
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.extents import Extent, ExtentMap

__all__ = ["Loading", "fetch_version", "of_a_version"]

_GRAIN = 64 * KIB  # a random read brings so much around it
_CHUNK = 4 * MIB  # bytes of one request when several go side by side
_WINDOW_MAX = 32 * MIB

_Load = tuple[Extent, asyncio.Task[memoryview]]

Keep = Callable[[Extent, memoryview], Awaitable[None]]
"""Takes bytes that have arrived for a part of the file."""


class Loading:
    """What is on its way for one file."""

    def __init__(self, store: ObjectStore, pool: Pool, extents: ExtentMap, keep: Keep) -> None:
        self._store = store
        self._pool = pool
        self._extents = extents
        self._keep = keep
        self._loads: list[_Load] = []  # on their way
        self._goes_on_at = 0
        self._window = 0

    def note_read(self, start: int, end: int) -> None:
        """Take note of what is read, which tells what will be."""
        goes_on = start == self._goes_on_at and start > 0
        self._window = min(max(self._window * 2, MIB), _WINDOW_MAX) if goes_on else 0
        self._goes_on_at = end

    async def fetch(self, wanted: Extent, view: memoryview) -> None:
        """Fill `view` with an extent that is missing.

        Raises:
            StoreError: it cannot be fetched; CHANGED when its version is gone.
        """
        start, end = wanted.start, wanted.end
        tasks = [*self._under_way_of(wanted), *self._begin(wanted)]
        self._ahead(end)
        for extent, task in tasks:
            # Shielded: whoever gives up waiting must not take it from the others.
            data = await asyncio.shield(task)
            low, high = max(start, extent.start), min(end, extent.end)
            view[low - start : high - start] = data[low - extent.start : high - extent.start]

    def _under_way_of(self, extent: Extent) -> list[_Load]:
        """Return what is on its way of an extent: of the same bytes, not only of the same place."""
        return [
            (found, task)
            for found, task in self._loads
            if found.end > extent.start and found.start < extent.end and found.same_bytes(extent)
        ]

    def _begin(self, wanted: Extent) -> list[_Load]:
        """Ask for what is not on its way, and a bit around it.

        What was changed in between is fetched along, and left where it is when it arrives: many
        small changes must not make as many requests.
        """
        low, high = wanted.start // _GRAIN * _GRAIN, -(-wanted.end // _GRAIN) * _GRAIN
        around = [e for e in self._extents.missing(low, high) if e.same_bytes(wanted)]
        whole = around[0]._replace(end=around[-1].end)
        return [
            (gap, self._start(gap))
            for gap in self._gaps(whole)
            if gap.end > wanted.start and gap.start < wanted.end
        ]

    def _ahead(self, end: int) -> None:
        """Ask for what will be read next, where there is memory to spare."""
        for extent in self._extents.missing(end, end + self._window):
            for gap in self._gaps(extent):
                for at in range(gap.start, gap.end, _CHUNK):
                    if self._pool.available < self._pool.budget // 2:
                        return
                    _ = self._start(gap.clip(at, at + _CHUNK))

    def _gaps(self, extent: Extent) -> list[Extent]:
        """Return what of an extent is not on its way."""
        gaps, at = [], extent.start
        for found, _ in sorted(self._under_way_of(extent), key=lambda load: load[0].start):
            if at < found.start:
                gaps.append(extent.clip(at, found.start))
            at = max(at, found.end)
        return [*gaps, extent.clip(at, extent.end)] if at < extent.end else gaps

    def _start(self, extent: Extent) -> asyncio.Task[memoryview]:
        task = asyncio.create_task(self._load(extent))
        self._loads.append((extent, task))
        task.add_done_callback(lambda task: self._ended(extent, task))
        return task

    def _ended(self, extent: Extent, task: asyncio.Task[memoryview]) -> None:
        self._loads.remove((extent, task))
        if not task.cancelled():
            task.exception()  # maybe nobody waits for it

    async def _load(self, extent: Extent) -> memoryview:
        source = extent.source
        assert source is not None  # noqa: S101  nothing else is missing
        await self._pool.charge(extent.size)
        try:
            view = memoryview(bytearray(extent.size))
            await fetch_version(self._store, source, extent.offset, view)
            await self._keep(extent, view)
        finally:
            self._pool.uncharge(extent.size)
        return view

    async def close(self) -> None:
        """End everything that is on its way."""
        tasks = [task for _, task in self._loads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def of_a_version(error: StoreError) -> StoreError:
    """Return the error of a version: that there is none any more is no answer about a name."""
    if error.fault is not Fault.NOT_FOUND:
        return error
    return StoreError(
        Fault.CHANGED,
        f"removed while it was written: {error}",
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )


async def fetch_version(
    store: ObjectStore, version: ObjectInfo, start: int, *into: memoryview
) -> None:
    """Fetch bytes of a version, from `start` on, as many as there is room for in `into`.

    Raises:
        StoreError: they cannot be had; CHANGED, there is no such version any more.
    """
    end = start + sum(map(len, into))
    try:
        await store.get_range(version.key, version.etag, start, end, ViewSink(*into))
    except StoreError as error:
        raise of_a_version(error) from error
