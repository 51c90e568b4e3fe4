"""Finding out what a name stands for, in as few requests as possible.

A fresh answer is in the cache, or in a fresh listing of the parent. Otherwise two requests run
side by side: HEAD for an object of that name, LIST for anything below it. What is below makes it
a directory, whatever HEAD says: a directory shadows a file. Lookups of one name that come
together share one pair of requests.
"""

import asyncio

from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore

__all__ = ["Resolver"]


class Resolver:
    """Looks names up in the bucket."""

    def __init__(self, store: ObjectStore, metadata: Metadata) -> None:
        self._store = store
        self._metadata = metadata
        self._under_way: dict[tuple[str, str], asyncio.Task[Known]] = {}

    def known(self, directory_key: str, name: str) -> Known | None:
        """Return what is known without asking."""
        return self._metadata.get(directory_key, name)

    async def resolve(self, directory_key: str, name: str, *, fresh: bool = False) -> Known:
        """Return what `name` is; `fresh` asks the store even when something is known.

        Raises:
            StoreError: the store cannot be asked.
        """
        known = None if fresh else self.known(directory_key, name)
        if known is not None:
            return known
        where = (directory_key, name)
        task = self._under_way.get(where)
        if task is None:
            task = asyncio.create_task(self._ask(directory_key, name))
            self._under_way[where] = task
            task.add_done_callback(lambda task: self._asked(where, task))
        # Shielded: a caller that is interrupted must not take the others' answer along.
        return await asyncio.shield(task)

    def _asked(self, where: tuple[str, str], task: asyncio.Task[Known]) -> None:
        del self._under_way[where]
        if not task.cancelled():
            task.exception()  # everybody who waited for it may have given up

    async def _ask(self, directory_key: str, name: str) -> Known:
        metadata, key = self._metadata, directory_key + name
        changes = metadata.changes(directory_key)
        try:
            async with asyncio.TaskGroup() as group:
                head = group.create_task(self._head(key))
                below = group.create_task(self._first_below(f"{key}/"))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        entry = ABSENT
        if (first := below.result()) is not None:
            entry = Entry.folder(first if first.key == f"{key}/" else None)
        elif (info := head.result()) is not None:
            entry = Entry.file(info)
        if not metadata.learn(directory_key, name, entry, changes):
            # This mount changed something meanwhile, perhaps this name: what it knows is newer.
            return metadata.get(directory_key, name) or Known(entry, 0.0)
        return Known(entry, metadata.lifetime)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return None
            raise

    async def _first_below(self, prefix: str) -> ObjectInfo | None:
        page = await self._store.list_page(prefix, max_keys=1)
        return page.objects[0] if page.objects else None
