"""Open directories."""

import errno
import itertools
from collections.abc import AsyncGenerator
from typing import NamedTuple

from fuse_s3_worker.cache.metadata import Entry
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import Node, inode_number

__all__ = ["Directories", "DirectoryEntry"]

_DOTS = 2  # "." and ".." come first, at offsets 0 and 1
_DT_REG, _DT_DIR = 8, 4  # dirent.h


class _OpenDirectory:
    __slots__ = ("listing", "node")

    def __init__(self, node: Node, listing: Listing) -> None:
        self.node = node
        self.listing = listing


class DirectoryEntry(NamedTuple):
    """One record for readdir(3): `offset` is where the next one begins."""

    name: bytes
    offset: int
    ino: int
    kind: int  # DT_ of dirent.h
    entry: Entry | None  # None for "." and ".."


class Directories:
    """Operations on open directories."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: dict[int, _OpenDirectory] = {}
        self._numbers = itertools.count(1)

    def opendir(self, node_id: int) -> int:
        """Open a directory; nothing is asked of the store yet."""
        node = self._core.directory(node_id)
        node.pins += 1
        number = next(self._numbers)
        self._open[number] = _OpenDirectory(node, self._listing(node))
        return number

    def releasedir(self, number: int) -> None:
        """Close it."""
        opened = self._open.pop(number, None)
        if opened is not None:
            opened.listing.close()
            self._core.nodes.unpin(opened.node)

    async def entries(self, number: int, offset: int) -> AsyncGenerator[DirectoryEntry, None]:
        """Yield records from `offset` on, fetching as it goes; stop when there is enough.

        Offset 0 is the beginning: a program that rewinds sees the directory as it is then.

        Raises:
            FileSystemError: EBADF.
            StoreError: the store cannot be asked.
        """
        opened = self._open.get(number)
        if opened is None:
            raise FileSystemError(errno.EBADF, f"no open directory {number}")
        node = opened.node
        if offset == 0 and (opened.listing.entries or opened.listing.complete):
            opened.listing.close()
            opened.listing = self._listing(node)
        parent = node.parent or node
        for at, (name, dot) in enumerate(((b".", node), (b"..", parent))):
            if offset <= at:
                yield DirectoryEntry(name, at + 1, dot.ino, _DT_DIR, None)
        listing = opened.listing
        for index in itertools.count(max(offset - _DOTS, 0)):
            if index >= len(listing.entries):
                await listing.reach(index)
                if index >= len(listing.entries):
                    return
            name_text, entry = listing.entries[index]
            yield self._record(node, name_text, entry, index + _DOTS + 1)

    def take(self, number: int, record: DirectoryEntry) -> Found | None:
        """Return the node of a record, which the kernel will know from now on.

        What is known of the name by now counts, not what the listing said: this mount may have
        changed it since. None: it is not there any more.
        """
        node = self._open[number].node
        name = record.name.decode()
        if (local := self._core.local(node, name)) is not None:
            return self._core.found(local)
        assert record.entry is not None  # noqa: S101  dots have no node to take
        known = self._core.resolver.known(node.key, name)
        entry, seconds = known or (record.entry, 0.0)
        if entry is None:
            return None
        return self._core.found(self._core.settle(node, name, entry), seconds)

    def _record(self, node: Node, name: str, entry: Entry, offset: int) -> DirectoryEntry:
        key = f"{node.key}{name}/" if entry.directory else node.key + name
        kind = _DT_DIR if entry.directory else _DT_REG
        return DirectoryEntry(name.encode(), offset, inode_number(key), kind, entry)

    def _listing(self, node: Node) -> Listing:
        core = self._core

        def overlay() -> dict[str, Entry]:
            return {
                name: Entry(child.is_directory, child.info)
                for name, child in node.children.items()
                if child.local
            }

        return Listing(core.store, core.metadata, node.key, overlay)
