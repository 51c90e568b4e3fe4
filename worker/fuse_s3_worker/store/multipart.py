"""Multipart uploads from beginning to end: parts made side by side, and none left behind."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo, ObjectStore, PartResult

__all__ = ["MakePart", "Target", "assemble", "give_up"]

_log = logging.getLogger(__name__)

MakePart = Callable[[MultipartUpload, int, int, int], Awaitable[PartResult]]
"""Makes a part: of an upload, with a number, of bytes [start, end)."""


class Target(NamedTuple):
    """What parts become.

    Attributes:
        headers: see `ObjectStore.put`.
        replaces: the only version that it may take the place of, if there is one.
    """

    key: str
    headers: Mapping[str, str]
    replaces: ObjectInfo | None = None


async def assemble(
    store: ObjectStore,
    target: Target,
    bounds: Sequence[int],
    make: MakePart,
    check: Callable[[], Awaitable[None]] | None = None,
) -> ObjectInfo:
    """Make an object out of the parts between `bounds`, and give it up when anything fails.

    Args:
        store: where.
        target: which one, and what it carries.
        bounds: where parts begin and end: the first is 0, the last the size of the object.
        make: makes a part.
        check: looks, in the last moment before the object is there, whether it shall be.

    Raises:
        StoreError: it is not there.
    """
    upload = await store.create_multipart(target.key, headers=target.headers)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_made(make, upload, number, start, end))
                for number, (start, end) in enumerate(itertools.pairwise(bounds), 1)
            ]
        if check is not None:
            await check()
        parts = [task.result() for task in tasks]
        return await store.complete_multipart(upload, parts, replaces=target.replaces)
    except BaseException as error:
        await give_up(store, upload)
        if isinstance(error, ExceptionGroup):
            raise error.exceptions[0] from None
        raise


async def _made(
    make: MakePart, upload: MultipartUpload, number: int, start: int, end: int
) -> PartResult:
    return await make(upload, number, start, end)


async def give_up(store: ObjectStore, upload: MultipartUpload) -> None:
    """Leave no orphan in the bucket; that this failed is told, and hides no other failure."""
    try:
        await store.abort_multipart(upload)
    except StoreError as error:
        details: dict[str, object] = {"key": upload.key, "reason": error}
        event(_log, logging.WARNING, "abort_failed", details | error.details)
