"""Open directories."""

import errno
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import InodeNumbers, Node
from fuse_s3_worker.fs.recording import DirectoryRecord, Remains

__all__ = ["Directories", "DirectoryEntry"]

_DOTS = 2  # "." and ".." come first, at offsets 0 and 1
_DT_REG, _DT_DIR = 8, 4  # dirent.h


class _OpenDirectory:
    """One open directory.

    Attributes:
        record: how far its reader has come.
        shift: how many more entries are before a place than were there for a predecessor, whose
            places the reader has; None as long as nobody has looked.
    """

    __slots__ = ("listing", "node", "record", "shift")

    def __init__(self, node: Node, listing: Listing, record: DirectoryRecord) -> None:
        self.node = node
        self.listing = listing
        self.record = record
        self.shift: int | None = 0


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
        self.next_number = 1

    def opendir(self, node_id: int) -> int:
        """Open a directory; nothing is asked of the store yet."""
        record = DirectoryRecord(self.next_number, node_id)
        self._add(self._core.directory(node_id), record)
        self._core.recorder.opened_directory(record)
        return record.number

    def _add(self, node: Node, record: DirectoryRecord) -> _OpenDirectory:
        node.pins += 1
        self.next_number = max(self.next_number, record.number + 1)
        opened = self._open[record.number] = _OpenDirectory(node, self._listing(node), record)
        return opened

    def releasedir(self, number: int) -> None:
        """Close it."""
        opened = self._open.pop(number, None)
        if opened is not None:
            opened.listing.close()
            self._core.nodes.unpin(opened.node)
            self._core.recorder.released_directory(number)

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
            opened.listing, opened.shift = self._listing(node), 0
        parent = node.parent or node
        for at, (name, dot) in enumerate(((b".", node), (b"..", parent))):
            if offset <= at:
                yield DirectoryEntry(name, at + 1, dot.ino, _DT_DIR)
        listing, inode = opened.listing, InodeNumbers(node.key)
        before = _DOTS - await _shift_of(opened)
        place = max(offset - before, 0)
        while True:
            await listing.reach(place)
            if place >= len(listing):
                return
            for record in _records(listing, inode, place, before):
                yield record
            place = len(listing)

    def take(self, number: int, record: DirectoryEntry) -> Found | None:
        """Return the node of a record, which the kernel will know from now on.

        What is known of the name by now counts, not what the listing said: this mount may have
        changed it since. None: it is not there any more.
        """
        opened = self._open[number]
        node, listing = opened.node, opened.listing
        name = record.name.decode()
        if (local := self._core.local(node, name)) is not None:
            return self._core.found(local)
        place = record.offset - _DOTS - 1 + (opened.shift or 0)
        known = listing.known(place)
        if known is None:
            listed = listing.named(place)
            known = Known(listed[1] if listed else None, 0.0)
        if known.entry is None:
            return None
        return self._core.found(self._core.settle(node, name, known.entry), known.seconds_left)

    def reached(self, number: int, record: DirectoryEntry) -> None:
        """Take note of the last record that a reader was given: a successor goes on behind it."""
        opened = self._open.get(number)
        if opened is not None:
            opened.record = opened.record._replace(offset=record.offset, name=record.name)
            self._core.recorder.opened_directory(opened.record)

    def open_directories(self) -> Iterator[DirectoryRecord]:
        """Yield what is open."""
        return (opened.record for opened in self._open.values())

    def restore(self, remains: Remains) -> None:
        """Open what a predecessor had open."""
        self.next_number = remains.next_handle
        for record in remains.directories:
            node = self._core.nodes.get(record.node)
            if node is not None:
                opened = self._add(node, record)
                opened.shift = None if record.offset > _DOTS else 0

    def _listing(self, node: Node) -> Listing:
        return Listing(self._core.store, self._core.metadata, node.key, _LocalNodes(node))


async def _shift_of(opened: _OpenDirectory) -> int:
    if opened.shift is None:
        opened.shift = await _find_shift(opened.listing, opened.record)
    return opened.shift


async def _find_shift(listing: Listing, record: DirectoryRecord) -> int:
    """Find the place behind `record.name`, and how much farther it is than for a predecessor.

    Entries come in the order of their names with a slash behind them. Counted from here on, no
    name is skipped and none comes twice, whatever was made or removed before this place since.
    """
    place, name = 0, record.name + b"/"
    while True:
        await listing.reach(place)
        found = listing.peek(place) if place < len(listing) else (b"\xff", False)
        if found is not None and found[0] + b"/" >= name:
            place += found[0] == record.name
            return place - (record.offset - _DOTS)
        place += 1


def _records(
    listing: Listing, inode: InodeNumbers, place: int, before: int
) -> Iterator[DirectoryEntry]:
    """Yield the records of what was fetched, from one place on; `before` entries precede it all."""
    while place < len(listing):
        found = listing.peek(place)
        place += 1
        if found is not None:
            name, directory = found
            kind = _DT_DIR if directory else _DT_REG
            yield DirectoryEntry(name, place + before, inode.of(name, directory=directory), kind)
