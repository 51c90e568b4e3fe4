"""Finding out what a name stands for, in as few requests as possible.

A fresh answer is in the cache, or in a fresh listing of the parent. Otherwise two requests run
side by side: HEAD for an object of that name, LIST for anything below it. What is below makes it
a directory, whatever HEAD says: a directory shadows a file. Lookups of one name that come
together share one pair of requests.

A program that goes through a directory name by name, as one that unpacks into it does, would make
two requests for each. After a few names the directory is listed instead, which tells of all names
at once. A directory of several pages is listed when so many names were asked for that pages are no
more than a quarter of them in all, and meanwhile names are asked for as before.
"""

import asyncio
import math
from collections import OrderedDict

from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.beginnings import Beginnings
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.names import can_be_directory
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore
from fuse_s3_worker.transfer.segment import SMALL

__all__ = ["Resolver"]

_NAMES_FIRST = 2  # names of a directory that are asked for before it is listed
_NAMES_A_PAGE = 8
_PAGES_MAX = 16  # of a larger directory, too much would be out of date before it is used
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
        pages: at least so many has the directory, as far as is known.
        listing: the listing that is under way.
    """

    __slots__ = ("count", "last", "listing", "pages")

    def __init__(self) -> None:
        self.count = 0
        self.last = -math.inf
        self.pages = 1
        self.listing: asyncio.Task[None] | None = None


class Resolver:
    """Looks names up in the bucket."""

    def __init__(self, store: ObjectStore, metadata: Metadata, beginnings: Beginnings) -> None:
        self._store = store
        self._metadata = metadata
        self._beginnings = beginnings
        self._under_way: dict[tuple[str, str], asyncio.Task[Known]] = {}
        self._asked: OrderedDict[str, _Asked] = OrderedDict()

    def known(self, directory_key: str, name: str) -> Known | None:
        """Return what is known without asking."""
        return self._metadata.get(directory_key, name)

    async def resolve(
        self, directory_key: str, name: str, *, fresh: bool = False, reads: bool = False
    ) -> Known:
        """Return what `name` is.

        Args:
            directory_key: the directory.
            name: the name in it.
            fresh: ask the store even when something is known.
            reads: a file is going to be read now.

        Raises:
            StoreError: the store cannot be asked.
        """
        known = None if fresh else self.known(directory_key, name)
        if known is not None:
            return known
        where = (directory_key, name)
        task = self._under_way.get(where)
        if task is None:
            if fresh or reads:
                work = self._ask(directory_key, name, reads=reads)
            else:
                work = self._find(directory_key, name)
            task = asyncio.create_task(work)
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
        asked = self._note(directory_key)
        if asked.listing is None and self._worth_listing(asked):
            asked.listing = asyncio.create_task(self._list(directory_key, asked))
        if asked.listing is not None and asked.pages == 1:
            # Whoever waits may be interrupted, and another one may be waiting, too.
            await asyncio.shield(asked.listing)
            if (known := self.known(directory_key, name)) is not None:
                return known
        return await self._ask(directory_key, name)

    def _note(self, directory_key: str) -> _Asked:
        """Count a name of a directory that is not known."""
        now, lifetime = self._metadata.now(), self._metadata.lifetime
        asked = self._asked.setdefault(directory_key, _Asked())
        self._asked.move_to_end(directory_key)
        if len(self._asked) > _DIRECTORIES_MAX:
            self._asked.popitem(last=False)
        asked.count = asked.count + 1 if now - asked.last <= lifetime else 1
        asked.last = now
        return asked

    def _worth_listing(self, asked: _Asked) -> bool:
        if self._metadata.lifetime <= 0 or asked.pages > _PAGES_MAX:
            return False
        return asked.count > (_NAMES_FIRST if asked.pages == 1 else asked.pages * _NAMES_A_PAGE)

    async def _list(self, directory_key: str, asked: _Asked) -> None:
        """Learn what as many pages tell of a directory as it was taken for."""
        listing = Listing(self._store, self._metadata, directory_key, _NothingLocal())
        try:
            fetched = 0
            while fetched < asked.pages and not listing.complete:
                await listing.next_page()
                fetched += 1
            asked.pages = fetched if listing.complete else fetched * 2
        except StoreError:
            pass  # who asks for a name alone is told why
        finally:
            listing.close()
            asked.listing = None

    async def _ask(self, directory_key: str, name: str, *, reads: bool = False) -> Known:
        metadata, key = self._metadata, directory_key + name
        changes = metadata.changes(directory_key)
        hint = metadata.hint(directory_key, name)
        wanted = reads or self._beginnings.expected(directory_key)
        alone = wanted and hint is not None and _is_small(hint)
        # What was a file and still is one has most probably nothing below it.
        info = await self._peek(key) if alone else None
        if info is not None:
            entry: Entry | None = Entry.file(info)
        else:
            alone = False
            entry = await self._look(key, peek=wanted and hint is None)
        if not metadata.learn(directory_key, name, entry, changes, alone=alone):
            # This mount changed something meanwhile, perhaps this name: what it knows is newer.
            return metadata.get(directory_key, name) or Known(entry, 0.0)
        return Known(entry, metadata.lifetime)

    async def _look(self, key: str, *, peek: bool) -> Entry | None:
        """Ask what a key stands for; `peek` brings a file's first bytes along."""
        look = self._peek if peek else self._head
        try:
            async with asyncio.TaskGroup() as group:
                head = group.create_task(look(key))
                below = group.create_task(self._first_below(f"{key}/"))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if (first := below.result()) is not None:
            marked = first.key == f"{key}/"
            return Entry.folder(first if marked else None, unmarked=not marked)
        info = head.result()
        return ABSENT if info is None else Entry.file(info)

    async def _peek(self, key: str) -> ObjectInfo | None:
        """Describe an object and keep its first bytes, which are going to be read."""
        try:
            head, data = await self._store.peek(key, SMALL)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return None
            return await self._head(key)  # it is empty, or archived, or has no permission to read
        self._beginnings.keep(head.info, data)
        return head.info

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return None
            raise

    async def _first_below(self, prefix: str) -> ObjectInfo | None:
        if not can_be_directory(prefix[:-1]):
            return None
        page = await self._store.list_page(prefix, max_keys=1)
        return page.objects[0] if page.objects else None


def _is_small(entry: Entry) -> bool:
    info = entry.info
    return not entry.directory and info is not None and 0 < info.size <= SMALL
