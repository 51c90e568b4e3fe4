"""An open directory: entries in the order of the bucket, page by page, each name once.

S3 sorts by bytes, so the file `a` comes before `a-b` and the directory `a/` after it, maybe pages
later. A name that may still turn out to be a directory is therefore held back until the listing
has passed the place where the directory would be; there are never more of these than the last key
has characters.

What the bucket says is kept in rows, and becomes what this mount remembers of the directory. What
this mount itself has changed since is looked up when a row is read.
"""

import asyncio
import logging
from typing import Protocol

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.fs.names import above, nameable
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ListPage, ObjectInfo, ObjectStore

__all__ = ["Listing", "Local", "Named"]

_log = logging.getLogger(__name__)

Named = tuple[str, Entry]

_ALL = -1  # in place of a number of changes: there were some since

_Page = asyncio.Task[tuple[ListPage, float]]
"""A page on its way, and until when it is believed."""


class Local(Protocol):
    """What exists in a directory because of this mount, whatever the bucket says."""

    def entry(self, name: str) -> Entry | None:
        """Return what there is of this name."""

    def entries(self) -> dict[str, Entry]:
        """Return all there is."""


class Listing:
    """The entries of one directory, fetched as they are read.

    Entries have numbers, which stay theirs until the directory is closed, so that a program can
    go back to any place it has been at; an entry that is removed leaves its number behind.

    Attributes:
        complete: whether there will be no more entries.
    """

    def __init__(self, store: ObjectStore, metadata: Metadata, key: str, local: Local) -> None:
        self.complete = False
        self._store = store
        self._metadata = metadata
        self._key = key
        self._local = local
        self._above = above(key)
        self._rows = Columns(key)
        self._changes = metadata.changes(key)
        self._behind: list[Named] = []  # what is in no row
        self._held: dict[str, tuple[ObjectInfo | None, float]] = {}
        self._skipped = 0
        self._token: str | None = None
        self._next: _Page | None = None
        self._after_next: tuple[str, _Page] | None = None
        self._waited_for = False
        self._begun = False
        self._remembered = metadata.listing(key)
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        """Return how many numbers are given away."""
        return len(self._rows) + len(self._behind)

    @property
    def believed_until(self) -> float:
        """Until when all that was heard so far is believed; inf when nothing was."""
        return self._rows.oldest

    # -- reading --------------------------------------------------------------------------------

    def peek(self, number: int) -> tuple[bytes, bool] | None:
        """Return a name and whether it is a directory's; None when it is not there any more."""
        rows = self._rows
        if number >= len(rows):
            name, entry = self._behind[number - len(rows)]
            return name.encode(), entry.directory
        encoded = rows.name(number)
        newer = self._newer(encoded.decode())
        if newer is None:
            return encoded, rows.is_directory(number)
        return None if newer.entry is None else (encoded, newer.entry.directory)

    def known(self, number: int) -> Known | None:
        """Return what is known of the name by now; None when its row is out of date."""
        rows = self._rows
        if number >= len(rows):
            return self._metadata.get(self._key, self._behind[number - len(rows)][0])
        name = rows.name(number).decode()
        if self._metadata.changes(self._key) == self._changes:
            return self._metadata.get_row(self._key, rows, number, name)
        return self._metadata.get(self._key, name)

    def named(self, number: int) -> Named | None:
        """Return a name and what it stands for."""
        rows = self._rows
        if number >= len(rows):
            return self._behind[number - len(rows)]
        name = rows.name(number).decode()
        newer = self._newer(name)
        entry = rows.entry(number) if newer is None else newer.entry
        return None if entry is None else (name, entry)

    def _newer(self, name: str) -> Known | None:
        """Return what is known of a name better than by its row."""
        if (entry := self._local.entry(name)) is not None:
            return Known(entry, 0.0)
        if self._metadata.changes(self._key) == self._changes:
            return None
        return self._metadata.get(self._key, name)

    # -- fetching -------------------------------------------------------------------------------

    async def reach(self, number: int) -> None:
        """Fetch until there is an entry `number`, or no more.

        Raises:
            StoreError: a page cannot be had; asking again goes on where it failed.
        """
        async with self._turn:
            while not self.complete and len(self) <= number:
                if self._remembered is not None:
                    self._rows, self._changes = self._remembered
                    self._finish()
                else:
                    await self._fetch_page()

    def move(self, key: str) -> None:
        """Have another key; everything there is must have been fetched."""
        self._key = key
        self._rows = self._rows.under(key)
        self._changes = _ALL  # what is known of a name goes before its row

    def close(self) -> None:
        """Stop fetching."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._drop_after_next()

    async def begin(self) -> None:
        """Fetch the first page and none ahead, if nobody has begun by now."""
        async with self._turn:
            if not self._begun:
                await self._fetch_page(ahead=False)

    async def next_page(self) -> None:
        """Fetch a page and none ahead."""
        async with self._turn:
            await self._fetch_page(ahead=False)

    async def _fetch_page(self, *, ahead: bool = True) -> None:
        task = self._next = self._next or asyncio.create_task(self._receive(self._token))
        self._waited_for = ahead
        try:
            page, until = await asyncio.shield(task)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._next = None
            self._drop_after_next()
            raise
        finally:
            self._waited_for = False
        self._begun = True
        self._token = page.token
        self._next = self._page_after(page.token) if ahead and page.token is not None else None
        self._take(page, until)
        complete = page.token is None
        self._metadata.learn_listing(self._key, self._rows, self._changes, complete=complete)
        if complete:
            self._finish()

    def _page_after(self, token: str) -> _Page:
        """Return the next page, which is on its way while the program looks at this one."""
        if self._after_next is not None and self._after_next[0] == token:
            _, task = self._after_next
            self._after_next = None
            return task
        self._drop_after_next()
        return asyncio.create_task(self._receive(token))

    def _drop_after_next(self) -> None:
        if self._after_next is not None:
            self._after_next[1].cancel()
            self._after_next = None

    async def _receive(self, token: str | None) -> tuple[ListPage, float]:
        """Return a page and until when it is believed, which may be long before it is read."""
        metadata = self._metadata
        changes = [metadata.changes(key) for key, _ in self._above]
        page = await self._store.list_page(
            self._key, delimiter="/", token=token, on_token=self._ask_after
        )
        if page.objects or page.prefixes:
            # Who goes through a large directory looks it up again and again meanwhile.
            for (key, name), number in zip(self._above, changes, strict=True):
                known = metadata.get(key, name)
                marked = known is not None and known.entry is not None and known.entry.directory
                entry = known.entry if known is not None and marked else Entry.folder()
                metadata.learn(key, name, entry, number)
        return page, metadata.until()

    def _ask_after(self, token: str) -> None:
        """Ask for the page behind one that has come, before that is read, if a program waits."""
        if self._waited_for and self._after_next is None:
            self._after_next = token, asyncio.create_task(self._receive(token))

    def _take(self, page: ListPage, until: float) -> None:
        """Sort a page's objects and prefixes into entries, which are believed `until` then."""
        held, start, last = self._held, len(self._key), ""
        for info in page.objects:
            key = info.key
            last = max(last, key)
            name = key[start:]
            # With the delimiter, a key that ends with a slash is the directory's own marker.
            if nameable(name):
                held[name] = info, until
            elif name:
                self._skipped += 1
        for prefix in page.prefixes:
            last = max(last, prefix)
            name = prefix[start:].removesuffix("/")
            if nameable(name):
                held[name] = None, until
            elif prefix == "/":
                pass  # where attributes of a bucket's root are kept
            else:
                self._skipped += 1
        self._rows.hear(until)
        self._release(None if page.token is None else last[start:])

    def _release(self, last: str | None) -> None:
        """Make final what cannot change any more, now that the listing has come to `last`."""
        held, append = self._held, self._rows.append
        # Text compares like its UTF-8, which is what the bucket is sorted by.
        final = sorted(
            place
            for name, (info, _) in held.items()
            if (place := f"{name}/") and (last is None or info is None or place <= last)
        )
        for place in final:
            name = place[:-1]
            append(name, *held.pop(name))

    def _finish(self) -> None:
        """Add what the bucket did not list when it was asked."""
        behind = {name: entry for name, entry in self._changed().items() if entry is not None}
        behind |= self._local.entries()
        self._behind = [item for item in behind.items() if self._rows.find(item[0]) is None]
        self.complete = True
        if self._skipped:
            details = {"directory": self._key, "keys": self._skipped}
            event(_log, logging.INFO, "keys_without_a_path", details)

    def _changed(self) -> dict[str, Entry | None]:
        if self._metadata.changes(self._key) == self._changes:
            return {}
        return self._metadata.changed(self._key)
