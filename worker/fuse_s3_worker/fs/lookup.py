"""Finding out what a name stands for, in as few requests as possible.

A fresh answer is in the cache, or in a fresh listing of the parent. Otherwise two requests run
side by side: HEAD for an object of that name, LIST for anything below it. What is below makes it
a directory, whatever HEAD says: a directory shadows a file. Lookups of one name that come
together share one pair of requests.

A program that goes through a directory name by name, as one that unpacks into it does, would make
two requests for each. After a few names the directory is listed instead, which tells of all names
at once; unless that takes more than a page.
"""

import asyncio
import math
from collections import OrderedDict

from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore

__all__ = ["Resolver"]

_NAMES_FIRST = 2  # names of a directory that are asked for before it is listed
_LARGE_FOR = 60.0  # seconds for which a directory of many pages is not tried again
_DIRECTORIES_MAX = 1_000


class _NothingLocal:
    """Listings are for what the bucket has; what this mount has is known (fs.listing.Local)."""

    def entry(self, name: str) -> None:
        """Return nothing."""
        del name

    def entries(self) -> dict[str, Entry]:
        """Return nothing."""
        return {}


class _Asked:
    """How often names of one directory had to be asked for.

    Attributes:
        count: in a row, with no more than a lifetime between them.
        last: when the last time was.
        large_until: until when the directory is taken for too large.
        listing: the listing that is under way.
    """

    __slots__ = ("count", "large_until", "last", "listing")

    def __init__(self) -> None:
        self.count = 0
        self.last = -math.inf
        self.large_until = -math.inf
        self.listing: asyncio.Task[None] | None = None


class Resolver:
    """Looks names up in the bucket."""

    def __init__(self, store: ObjectStore, metadata: Metadata) -> None:
        self._store = store
        self._metadata = metadata
        self._under_way: dict[tuple[str, str], asyncio.Task[Known]] = {}
        self._asked: OrderedDict[str, _Asked] = OrderedDict()

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
            ask = self._ask if fresh else self._find
            task = asyncio.create_task(ask(directory_key, name))
            self._under_way[where] = task
            task.add_done_callback(lambda task: self._answered(where, task))
        # Shielded: a caller that is interrupted must not take the others' answer along.
        return await asyncio.shield(task)

    def _answered(self, where: tuple[str, str], task: asyncio.Task[Known]) -> None:
        del self._under_way[where]
        if not task.cancelled():
            task.exception()  # everybody who waited for it may have given up

    async def _find(self, directory_key: str, name: str) -> Known:
        """Ask for a name, or for all names of its directory."""
        if (asked := self._worth_listing(directory_key)) is not None:
            if asked.listing is None:
                asked.listing = asyncio.create_task(self._list(directory_key, asked))
            # Whoever waits may be interrupted, and another one may be waiting, too.
            await asyncio.shield(asked.listing)
            if (known := self.known(directory_key, name)) is not None:
                return known
        return await self._ask(directory_key, name)

    def _worth_listing(self, directory_key: str) -> _Asked | None:
        now, lifetime = self._metadata.now(), self._metadata.lifetime
        asked = self._asked.setdefault(directory_key, _Asked())
        self._asked.move_to_end(directory_key)
        if len(self._asked) > _DIRECTORIES_MAX:
            self._asked.popitem(last=False)
        asked.count = asked.count + 1 if now - asked.last <= lifetime else 1
        asked.last = now
        worth = lifetime > 0 and asked.count > _NAMES_FIRST and now >= asked.large_until
        return asked if worth else None

    async def _list(self, directory_key: str, asked: _Asked) -> None:
        """Learn what a page tells of a directory."""
        listing = Listing(self._store, self._metadata, directory_key, _NothingLocal())
        try:
            await listing.first_page()
        except StoreError:
            pass  # who asks for a name alone is told why
        else:
            if not listing.complete:
                asked.large_until = self._metadata.now() + _LARGE_FOR
        finally:
            listing.close()
            asked.listing = None

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
