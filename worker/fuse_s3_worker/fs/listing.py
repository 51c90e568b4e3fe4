"""An open directory: entries in the order of the bucket, page by page, each name once.

S3 sorts by bytes, so the file `a` comes before `a-b` and the directory `a/` after it, maybe pages
later. A name that may still turn out to be a directory is therefore held back until the listing
has passed the place where the directory would be; there are never more of these than the last key
has characters.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from fuse_s3_worker.cache.metadata import Entry, Metadata
from fuse_s3_worker.fs.names import child_name
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ListPage, ObjectStore

__all__ = ["Listing", "Named"]

_log = logging.getLogger(__name__)

Named = tuple[str, Entry]
Overlay = Callable[[], dict[str, Entry]]
"""What exists in a directory because of this mount, whatever the bucket says."""


class Listing:
    """The entries of one directory, fetched as they are read.

    Attributes:
        entries: those that are final, in order. They stay until the directory is closed, so that
            a program can go back to any place it has been at.
        complete: whether these are all.
    """

    def __init__(self, store: ObjectStore, metadata: Metadata, key: str, overlay: Overlay) -> None:
        self.entries: list[Named] = []
        self.complete = False
        self._store = store
        self._metadata = metadata
        self._key = key
        self._overlay = overlay
        self._changes = metadata.changes(key)
        self._held: dict[str, Entry] = {}
        self._seen: list[Named] = []  # by the bucket alone
        self._skipped = 0
        self._token: str | None = None
        self._next: asyncio.Task[ListPage] | None = None
        self._remembered = metadata.listing(key)
        self._turn = asyncio.Lock()

    async def reach(self, index: int) -> None:
        """Fetch until there is an entry `index`, or no more.

        Raises:
            StoreError: a page cannot be had; asking again goes on where it failed.
        """
        async with self._turn:
            while not self.complete and len(self.entries) <= index:
                if self._remembered is not None:
                    self._add(self._remembered)
                    self._finish()
                else:
                    await self._fetch_page()

    def close(self) -> None:
        """Stop fetching."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    async def _fetch_page(self) -> None:
        task = self._next or self._ask(None)
        self._next = task
        try:
            page = await asyncio.shield(task)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._next = None
            raise
        # The next page is asked for while the program looks at this one.
        self._next = self._ask(page.token) if page.token is not None else None
        self._take(page)
        if page.token is None:
            self._add(self._held.items())
            self._held = {}
            self._metadata.learn_listing(self._key, self._seen, self._changes)
            self._finish()

    def _ask(self, token: str | None) -> asyncio.Task[ListPage]:
        if token is not None:
            self._token = token
        request: Awaitable[ListPage] = self._store.list_page(
            self._key, delimiter="/", token=self._token
        )
        return asyncio.ensure_future(request)

    def _take(self, page: ListPage) -> None:
        """Sort a page's objects and prefixes into entries."""
        fresh: dict[str, Entry] = {}
        last = ""
        for info in page.objects:
            last = max(last, info.key)
            name = child_name(info.key, self._key)
            # With the delimiter, a key that ends with a slash is the directory's own marker.
            if name is not None and not info.key.endswith("/"):
                fresh[name] = Entry.file(info)
            elif info.key != self._key:
                self._skipped += 1
        for prefix in page.prefixes:
            last = max(last, prefix)
            name = child_name(prefix, self._key)
            if name is None:
                self._skipped += 1
            else:
                fresh[name] = Entry.folder()
                self._held.pop(name, None)
        self._held |= fresh
        self._release(last)

    def _release(self, last: str) -> None:
        """Make final what cannot change any more, now that the listing has come to `last`."""
        final = [
            name
            for name, entry in self._held.items()
            # Text compares like its UTF-8, which is what the bucket is sorted by.
            if entry.directory or f"{self._key}{name}/" <= last
        ]
        self._add([(name, self._held.pop(name)) for name in final])

    def _add(self, named: Iterable[Named]) -> None:
        """Append entries, as this mount has changed them since the listing began."""
        overlay = self._overlay()
        changed = self._metadata.changes(self._key) != self._changes
        for name, listed in named:
            self._seen.append((name, listed))
            entry: Entry | None = overlay.get(name, listed)
            if changed and name not in overlay:
                known = self._metadata.get(self._key, name)
                entry = known.entry if known else listed
            if entry is not None:
                self.entries.append((name, entry))

    def _finish(self) -> None:
        names = {name for name, _ in self._seen}
        self.entries += [item for item in self._overlay().items() if item[0] not in names]
        self.complete = True
        if self._skipped:
            details = {"directory": self._key, "keys": self._skipped}
            event(_log, logging.INFO, "keys_without_a_path", details)
