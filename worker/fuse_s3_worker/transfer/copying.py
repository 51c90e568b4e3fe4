"""One object becomes another, whole, by whatever way the store has.

The store copies it in one request. What is larger than it takes, or than it copies well, becomes
an object of parts that are copied side by side. Where it does not copy, or takes the name of the
source for another, the bytes go through this worker.

An answer that says that there is a copy is not enough to delete the original. So the copy is
looked at, and the original too, unless the store is known to have copied the version it was told.
"""

import asyncio

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.multipart import Target, assemble
from fuse_s3_worker.store.types import (
    MultipartUpload,
    ObjectInfo,
    ObjectStore,
    PartResult,
    same_version,
)
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.partsize import even_size
from fuse_s3_worker.transfer.relay import Relay

__all__ = ["Copier"]

_PART_LEAST = 128 * MIB  # of a copy in parts: few requests, and many enough to go side by side
_DOES_NOT_COPY = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST})


class Copier:
    """Copies objects of one bucket.

    Attributes:
        connections: how many copies are made at once.
    """

    def __init__(self, store: ObjectStore, pool: Pool, *, connections: int, part_size: int) -> None:
        self.connections = connections
        self._store = store
        self._relay = Relay(store, pool, part_size)
        self._places = asyncio.Semaphore(connections)

    async def copy_checked(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """Copy `source`, and look whether it is there; return what is there.

        Raises:
            StoreError: CHANGED, the source is not this version any more, or, with `exclusive`,
                there is something at `key`. BAD_REPLY, the copy is not what it should be.
        """
        made = await self.copy(source, key, exclusive=exclusive)
        looks = [self._store.head(key)]
        if not self._store.heeds_conditions:
            looks.append(self._store.head(source.key))
        found, *still = await asyncio.gather(*looks)
        if not all(same_version(info, source) for info in still):
            raise StoreError(Fault.CHANGED, f"{source.key!r} was replaced while it was copied")
        if found.size != source.size or not same_version(found, made):
            text = f"the copy of {source.key!r} is not what was copied: {found}, not {made}"
            raise StoreError(Fault.BAD_REPLY, text)
        return found

    async def copy(self, source: ObjectInfo, key: str, *, exclusive: bool = False) -> ObjectInfo:
        """Copy `source`; return what the store says of the copy, which nobody has looked at."""
        try:
            if source.size > self._store.copy_max and self._store.copies_from(source.key):
                return await self._copy_in_parts(source, key, exclusive=exclusive)
            async with self._places:
                made = await self._store.duplicate(source, key, exclusive=exclusive)
        except StoreError as error:
            if not await self._cannot_be_copied(source, error):
                raise
        else:
            if not self._is_doubtful(source, made):
                return made
        return await self._relay.copy(source, key)

    async def _cannot_be_copied(self, source: ObjectInfo, error: StoreError) -> bool:
        """Tell whether an error is about copying, and not about this object."""
        if error.fault is not Fault.NOT_FOUND:
            return error.fault in _DOES_NOT_COPY
        try:
            await self._store.head(source.key)
        except StoreError as missing:
            if missing.fault is Fault.NOT_FOUND:
                return False
            raise
        return True  # it is there; but the store reads the name of a source in its own way

    def _is_doubtful(self, source: ObjectInfo, made: ObjectInfo) -> bool:
        """Tell whether another object may have been copied, whose name reads like this one's."""
        return not (self._store.copies_from(source.key) or same_version(made, source))

    async def _copy_in_parts(self, source: ObjectInfo, key: str, *, exclusive: bool) -> ObjectInfo:
        found = await self._store.headers_to_copy(source.key)
        if not same_version(found.info, source):
            raise StoreError(Fault.CHANGED, f"{source.key!r} was replaced before it was copied")

        async def copy(upload: MultipartUpload, number: int, start: int, end: int) -> PartResult:
            async with self._places:
                return await self._store.copy_part(upload, number, source, start, end)

        async def check() -> None:
            if exclusive:
                await self._see_nothing_at(key)

        size = even_size(source.size, _PART_LEAST)
        bounds = [*range(0, source.size, size), source.size]
        return await assemble(self._store, Target(key, found.headers), bounds, copy, check)

    async def _see_nothing_at(self, key: str) -> None:
        try:
            await self._store.head(key)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return
            raise
        raise StoreError(Fault.CHANGED, f"there is something at {key!r} by now")
