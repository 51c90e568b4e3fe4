"""Listing ahead of a program that walks through a tree.

`find`, `ls -R` or a backup opens the directories of a directory one after the other, in the order
in which they were listed, and waits for each. After some it is clear which ones will be next: their
first pages are asked for side by side. Only as many as are opened while a page is believed, so that
none is asked for twice; who stops walking has cost a few requests in vain.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import Node

__all__ = ["Walks"]

_EVIDENCE = 2  # directories after the first one that were opened in order
_AHEAD_MAX = 16  # listings at once, of all walks together
_WALKS_MAX = 16
_LOOK = 1_000  # rows that are looked at for the next directory


class _Walk:
    """Which directories of one directory were opened.

    Attributes:
        row: of the last one, among all that was listed.
        at: when that was.
        steps: how many in a row were each the next one.
    """

    __slots__ = ("at", "row", "steps")

    def __init__(self, row: int, at: float) -> None:
        self.row = row
        self.at = at
        self.steps = 0


class Walks:
    """All walks of a mount, and what was listed ahead of them."""

    def __init__(self, metadata: Metadata, make: Callable[[Node, str], Listing]) -> None:
        """Keep watch; `make` makes the listing of a name in a directory, asking for nothing yet."""
        self._metadata = metadata
        self._make = make
        self._walks: OrderedDict[int, _Walk] = OrderedDict()
        self._ahead: dict[str, tuple[Listing, asyncio.Task[None]]] = {}

    def take(self, key: str) -> Listing | None:
        """Return the listing of a directory that was begun ahead, and is believed.

        One that is complete is remembered, and does not know what was changed here since.
        """
        listing, task = self._ahead.pop(key, (None, None))
        if listing is None or task is None:
            return None
        if listing.complete or not self._usable(listing, task):
            listing.close()
            return None
        return listing

    def _usable(self, listing: Listing, task: asyncio.Task[None]) -> bool:
        return not task.done() or listing.believed_until > self._metadata.now()

    def opened(self, node: Node) -> None:
        """Take note that a directory was opened; list ahead where that is worth it."""
        parent = node.parent
        rows = self._metadata.rows(parent.key) if parent is not None else None
        row = rows.find(node.name) if rows is not None else None
        if parent is None or rows is None or row is None:
            return
        now = self._metadata.now()
        walk = self._walks.pop(parent.id, None) or _Walk(row, now)
        self._walks[parent.id] = walk
        if len(self._walks) > _WALKS_MAX:
            self._walks.popitem(last=False)
        walk.steps = walk.steps + 1 if row == _next_directory(rows, walk.row) else 0
        pause, walk.at, walk.row = now - walk.at, now, row
        if walk.steps >= _EVIDENCE:
            self._list_ahead(parent, rows, walk, pause)

    def _list_ahead(self, parent: Node, rows: Columns, walk: _Walk, pause: float) -> None:
        if self._forget_unused():
            walk.steps = _EVIDENCE  # it was too far ahead
        # Half of the time, as the next ones may take longer.
        in_time = self._metadata.lifetime / 2 / max(pause, 1e-6)
        row: int | None = walk.row
        for _ in range(int(min(2 ** (walk.steps - 1), in_time, _AHEAD_MAX))):
            row = _next_directory(rows, row)
            if row is None or len(self._ahead) >= _AHEAD_MAX:
                return
            name = rows.name(row).decode()
            key = f"{parent.key}{name}/"
            if key not in self._ahead and self._metadata.listing(key) is None:
                self._begin(key, self._make(parent, name))

    def _begin(self, key: str, listing: Listing) -> None:
        task = asyncio.create_task(_first_page(listing))
        self._ahead[key] = listing, task

    def _forget_unused(self) -> bool:
        """Drop what nobody opened while it was believed; tell whether there was something."""
        ahead = self._ahead.items()
        unused = [key for key, (listing, task) in ahead if not self._usable(listing, task)]
        for key in unused:
            self._ahead.pop(key)[0].close()
        return bool(unused)

    def close(self) -> None:
        """Stop everything."""
        for listing, task in self._ahead.values():
            task.cancel()
            listing.close()
        self._ahead.clear()


async def _first_page(listing: Listing) -> None:
    with contextlib.suppress(StoreError):  # who opens the directory asks again, and is told why
        await listing.begin()


def _next_directory(rows: Columns, row: int | None) -> int | None:
    """Return the row of the next directory behind `row`, None if there is none nearby."""
    if row is None:
        return None
    behind = range(row + 1, min(row + 1 + _LOOK, len(rows)))
    return next((at for at in behind if rows.is_directory(at)), None)
