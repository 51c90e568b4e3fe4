"""Open directories."""

import errno
import itertools
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.inodes import DT_DIR, Inodes
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import InodeNumbers, Node

__all__ = ["Directories", "DirectoryEntry"]

_DOTS = 2  # "." and ".." come first, at offsets 0 and 1


class _OpenDirectory(NamedTuple):
    node: Node
    listing: Listing


class _LocalNodes:
    """The children of a node that exist because of this mount (fs.listing.Local)."""

    __slots__ = ("_children",)

    def __init__(self, node: Node) -> None:
        self._children = node.children

    def entry(self, name: str) -> Entry | None:
        """Return what there is of this name."""
        child = self._children.get(name)
        return Entry(child.is_directory, child.info) if child and child.local else None

    def entries(self) -> dict[str, Entry]:
        """Return all there is."""
        children = list(self._children)
        return {name: entry for name in children if (entry := self.entry(name)) is not None}


class DirectoryEntry(NamedTuple):
    """One record for readdir(3): `offset` is where the next one begins."""

    name: bytes
    offset: int
    ino: int
    kind: int  # DT_ of dirent.h

    @property
    def is_dot(self) -> bool:
        """Tell whether it is `.` or `..`, which bring no node."""
        return self.offset <= _DOTS


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

    def node_of(self, number: int) -> Node:
        """Return the directory that was opened."""
        opened = self._open.get(number)
        if opened is None:
            raise FileSystemError(errno.EBADF, f"no open directory {number}")
        return opened.node

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
        if offset == 0 and (len(opened.listing) or opened.listing.complete):
            opened.listing.close()
            opened = self._open[number] = _OpenDirectory(node, self._listing(node))
        parent = node.parent or node
        for at, (name, dot) in enumerate(((b".", node), (b"..", parent))):
            if offset <= at:
                yield DirectoryEntry(name, at + 1, dot.ino, DT_DIR)
        core, listing, inode = self._core, opened.listing, InodeNumbers(node.key)
        place = max(offset - _DOTS, 0)
        while True:
            await listing.reach(place)
            if place >= len(listing):
                return
            for record in _records(listing, inode, place, core.inodes):
                yield record
            place = len(listing)

    def take(self, number: int, record: DirectoryEntry) -> Found | None:
        """Return the node of a record, which the kernel will know from now on.

        What is known of the name by now counts, not what the listing said: this mount may have
        changed it since. None: it is not there any more, or not all is known of it.
        """
        node, listing = self._open[number]
        name = record.name.decode()
        if (local := self._core.local(node, name)) is not None:
            return self._core.found(local)
        place = record.offset - _DOTS - 1
        known = listing.known(place)
        if known is None:
            listed = listing.named(place)
            known = Known(listed[1] if listed else None, 0.0)
        ready = self._core.inodes.ready(node.key, name, known.entry, listed=True)
        if known.entry is None or not ready:
            return None
        return self._core.found(self._core.settle(node, name, known.entry), known.seconds_left)

    def _listing(self, node: Node) -> Listing:
        return Listing(self._core.store, self._core.metadata, node.key, _LocalNodes(node))


def _records(
    listing: Listing, inode: InodeNumbers, place: int, inodes: Inodes
) -> Iterator[DirectoryEntry]:
    """Yield the records of what was fetched, from one place on."""
    while place < len(listing):
        found = listing.peek(place)
        place += 1
        if found is not None:
            name, directory = found
            kind = inodes.kind(listing, place - 1, directory=directory)
            yield DirectoryEntry(name, place + _DOTS, inode.of(name, directory=directory), kind)
