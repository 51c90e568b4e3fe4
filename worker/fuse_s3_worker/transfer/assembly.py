"""Carrying out a plan: parts are filled, sent and copied side by side, and made one object.

What is sent is read from the stage or fetched from the object it is of, into memory of the pool,
part by part. Only one part at a time takes memory, so that two which each have half of what they
need never wait for one another.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from fuse_s3_worker.config.units import KIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.checksums import md5_etag, multipart_etag
from fuse_s3_worker.store.multipart import give_up
from fuse_s3_worker.store.types import (
    Body,
    MultipartUpload,
    ObjectInfo,
    ObjectStore,
    PartResult,
)
from fuse_s3_worker.transfer.blocks import BLOCK, Pool
from fuse_s3_worker.transfer.buffer import PartBuffer
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.loading import fetch_version, of_a_version
from fuse_s3_worker.transfer.planner import Copied, CopyPlan, PartsPlan, Plan, PutPlan, Sent
from fuse_s3_worker.transfer.stage import Stage, Threads

__all__ = ["NO_COPY", "Assembly", "CopyRefusedError", "Progress"]

_T = TypeVar("_T")

_COPIES_AT_ONCE = 16
_PATIENCE = 60.0  # seconds that a part waits for memory, as a write does
_LITTLE = 256 * KIB  # fetched in vain rather than asked around, which costs a request
_ZEROS = memoryview(bytes(BLOCK))
# What a store says that does not copy, or not this, and would still take the bytes.
NO_COPY = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST, Fault.FORBIDDEN})


class Progress(Protocol):
    """What the file is told while it is being stored."""

    async def begun(self, upload_id: str) -> None:
        """A multipart upload was begun."""

    async def completing(self, etag: str) -> None:
        """It is about to become an object with this ETag, "" when that cannot be told."""

    async def fetched(self, extent: Extent, data: memoryview) -> None:
        """Bytes were fetched that may be wanted again; some may be others in the file by now."""


class CopyRefusedError(Exception):
    """The store does not copy: the bytes have to be sent."""


class Assembly:
    """Makes objects out of stages, for all files of a mount."""

    def __init__(self, store: ObjectStore, pool: Pool, threads: Threads) -> None:
        self._store = store
        self._pool = pool
        self._threads = threads
        self._turn = asyncio.Lock()  # who has it takes memory

    async def carry_out(
        self,
        plan: Plan,
        stage: Stage,
        replaces: ObjectInfo | None,
        progress: Progress,
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store what `stage` is as its key, in the place of `replaces` and no other version.

        Without `headers`, it carries what is known of the key.

        Raises:
            StoreError: it was not stored; CHANGED, something else is there, or a source is gone.
            CopyRefusedError: it was not stored, and may be by a plan without copies.
        """
        key = stage.known.key
        if isinstance(plan, CopyPlan):
            await progress.completing(plan.source.etag)
            return await _copied(self._store.copy(plan.source, key, headers=headers))
        if isinstance(plan, PutPlan):
            return await self._put(stage, plan.size, replaces, progress, headers)
        upload = await self._store.create_multipart(key, headers=headers)
        try:
            await progress.begun(upload.upload_id)
            parts = await self._all_parts(plan, _Making(upload, stage, progress))
            await self._check_sources(plan, replaces)
            await progress.completing(multipart_etag(parts))
            return await self._store.complete_multipart(upload, parts, replaces=replaces)
        except BaseException:
            await give_up(self._store, upload)
            raise

    async def _put(
        self,
        stage: Stage,
        size: int,
        replaces: ObjectInfo | None,
        progress: Progress,
        headers: Mapping[str, str] | None,
    ) -> ObjectInfo:
        key, put = stage.known.key, partial(self._store.put, replaces=replaces, headers=headers)
        if stage.known.extents.all_zeros(0, size):
            return await put(key, _zeros(size))
        buffer = PartBuffer(self._pool)
        try:
            await self._reserve(buffer, size, key)
            fetched = await self._fill(buffer, stage, 0, size)
            body = Body(buffer.pieces(), size)
            if stage.path:
                etag = await self._threads.run(lambda: md5_etag(body.pieces))
                await progress.completing(etag)
            info = await put(key, body)
            await _keep(buffer, 0, fetched, progress)
        finally:
            buffer.free()
        return info

    # -- parts ----------------------------------------------------------------------------------

    async def _all_parts(self, plan: PartsPlan, making: "_Making") -> list[PartResult]:
        """Send and copy all parts; the first that fails ends the others."""
        copies = asyncio.Semaphore(_COPIES_AT_ONCE)
        tasks: list[asyncio.Task[PartResult]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for number, part in enumerate(plan.parts, 1):
                    if isinstance(part, Copied):
                        work = self._copy(making.upload, number, part, copies)
                        tasks.append(group.create_task(work))
                        continue
                    buffer = PartBuffer(self._pool)
                    if not making.stage.known.extents.all_zeros(part.start, part.end):
                        await self._reserve(buffer, part.end - part.start, making.upload.key)
                    task = group.create_task(self._send(making, number, part, buffer))
                    task.add_done_callback(partial(_free, buffer))
                    tasks.append(task)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _copy(
        self, upload: MultipartUpload, number: int, part: Copied, copies: asyncio.Semaphore
    ) -> PartResult:
        end = part.offset + part.end - part.start
        async with copies:
            copy = self._store.copy_part(upload, number, part.source, part.offset, end)
            return await _copied(copy)

    async def _send(
        self, making: "_Making", number: int, part: Sent, buffer: PartBuffer
    ) -> PartResult:
        upload, stage, progress = making
        size = part.end - part.start
        if not buffer.capacity:
            return await self._store.upload_part(upload, number, _zeros(size))
        fetched = await self._fill(buffer, stage, part.start, part.end)
        result = await self._store.upload_part(upload, number, Body(buffer.pieces(), size))
        await _keep(buffer, part.start, fetched, progress)
        return result

    async def _reserve(self, buffer: PartBuffer, size: int, key: str) -> None:
        """Take memory for a part.

        Raises:
            StoreError: NO_MEMORY, there was none for a minute.
        """
        try:
            async with asyncio.timeout(_PATIENCE), self._turn:
                await buffer.reserve(size)
        except BaseException as error:
            buffer.free()
            if not isinstance(error, TimeoutError):
                raise
            text = f"no memory for {key!r} within {_PATIENCE:.0f} s: raise memory_target="
            raise StoreError(Fault.NO_MEMORY, text) from None

    async def _fill(self, buffer: PartBuffer, stage: Stage, start: int, end: int) -> list[Extent]:
        """Fill a part with bytes [start, end) of the file; return what was fetched for it."""
        buffer.truncate(end - start)
        extents, fetched = stage.known.extents, list[Extent]()
        # Looked up again: what the stage had may have had to go while others were fetched.
        while wanted := _runs(extents.missing(start, end), fetched):
            for run in wanted:
                await self._fetch(run, buffer.views(run.start - start, run.end - start))
            fetched += wanted
        for extent in extents.between(start, end):
            views = buffer.views(extent.start - start, extent.end - start)
            if extent.local:
                await stage.read(extent.start, views)
            elif extent.hole:
                buffer.fill(extent.start - start, extent.end - start)
        return fetched

    async def _fetch(self, extent: Extent, views: list[memoryview]) -> None:
        source = extent.source
        assert source is not None  # noqa: S101  whoever calls this has looked
        await fetch_version(self._store, source, extent.offset, *views)

    async def _check_sources(self, plan: PartsPlan, replaces: ObjectInfo | None) -> None:
        """See that what was copied is what should be.

        There is a header that demands it, which not all stores heed. That the version which is
        replaced is still there, is seen when it is.

        Raises:
            StoreError: CHANGED, a source was replaced or removed meanwhile.
        """
        sources = {part.source for part in plan.parts if isinstance(part, Copied)}
        for source in sources - {replaces}:
            try:
                etag = (await self._store.head(source.key)).etag
            except StoreError as error:
                raise of_a_version(error) from error
            if etag != source.etag:
                text = f"{source.key!r} was replaced by another client while it was copied"
                raise StoreError(Fault.CHANGED, text)


class _Making(NamedTuple):
    """An object that is being made."""

    upload: MultipartUpload
    stage: Stage
    progress: Progress


def _runs(missing: Sequence[Extent], fetched: Sequence[Extent]) -> list[Extent]:
    """Return what to fetch for what is missing: in few requests, with what is little between."""
    runs: list[Extent] = []
    for extent in missing:
        if any(f.start <= extent.start and extent.end <= f.end for f in fetched):
            continue
        last = runs[-1] if runs else None
        if last and last.same_bytes(extent) and extent.start - last.end <= _LITTLE:
            runs[-1] = last._replace(end=extent.end)
        else:
            runs.append(extent)
    return runs


async def _keep(
    buffer: PartBuffer, start: int, fetched: Sequence[Extent], progress: Progress
) -> None:
    """Hand over what was fetched for a part that begins at `start`."""
    for extent in fetched:
        at = extent.start
        for view in buffer.views(extent.start - start, extent.end - start):
            await progress.fetched(extent.clip(at, at + len(view)), view)
            at += len(view)


def _free(buffer: PartBuffer, _: asyncio.Task[PartResult]) -> None:
    """Give a part's memory back; its task may never have begun."""
    buffer.free()


def _zeros(size: int) -> Body:
    """Return a body of zeros, which needs hardly any memory."""
    whole, rest = divmod(size, BLOCK)
    return Body([_ZEROS] * whole + ([_ZEROS[:rest]] if rest else []), size)


async def _copied(copy: Awaitable[_T]) -> _T:
    """Wait for a copy.

    Raises:
        CopyRefusedError: the store does not make it.
        StoreError: it failed; CHANGED when its source is gone.
    """
    try:
        return await copy
    except StoreError as error:
        if error.fault in NO_COPY:
            raise CopyRefusedError(str(error)) from error
        raise of_a_version(error) from error
