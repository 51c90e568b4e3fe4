"""Putting an object together of parts that are made side by side."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo, ObjectStore, PartResult
from fuse_s3_worker.transfer.partsize import PARTS_MAX

__all__ = ["MakePart", "assemble", "even_size"]

_log = logging.getLogger(__name__)

MakePart = Callable[[MultipartUpload, int, int, int], Awaitable[PartResult]]
"""Makes a part: of an upload, with a number, of bytes [start, end)."""


def even_size(size: int, least: int) -> int:
    """Return the size of equal parts that an object of `size` bytes can be made of."""
    return max(least, -(-size // (PARTS_MAX * MIB)) * MIB)


async def assemble(
    store: ObjectStore,
    key: str,
    headers: Mapping[str, str],
    bounds: Sequence[int],
    make: MakePart,
    check: Callable[[], Awaitable[None]] | None = None,
) -> ObjectInfo:
    """Make an object out of the parts between `bounds`, and give it up when anything fails.

    Args:
        store: where.
        key: its key.
        headers: its headers; see `ObjectStore.put`.
        bounds: where parts begin and end: the first is 0, the last the size of the object.
        make: makes a part.
        check: looks, in the last moment before the object is there, whether it shall be.

    Raises:
        StoreError: it is not there.
    """
    upload = await store.create_multipart(key, headers=headers)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_made(make, upload, number, start, end))
                for number, (start, end) in enumerate(itertools.pairwise(bounds), 1)
            ]
        if check is not None:
            await check()
        return await store.complete_multipart(upload, [task.result() for task in tasks])
    except BaseException as error:
        await _give_up(store, upload)
        if isinstance(error, ExceptionGroup):
            raise error.exceptions[0] from None
        raise


async def _made(
    make: MakePart, upload: MultipartUpload, number: int, start: int, end: int
) -> PartResult:
    return await make(upload, number, start, end)


async def _give_up(store: ObjectStore, upload: MultipartUpload) -> None:
    try:
        await store.abort_multipart(upload)
    except StoreError as error:
        details: dict[str, object] = {"key": upload.key, "reason": error}
        event(_log, logging.WARNING, "abort_failed", details | error.details)
