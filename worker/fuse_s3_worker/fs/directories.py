"""Open directories."""

import errno
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.inodes import DT_DIR, Inodes
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import InodeNumbers, Node
from fuse_s3_worker.fs.recording import DirectoryRecord, Remains
from fuse_s3_worker.fs.walks import Walks

__all__ = ["Directories", "DirectoryEntry"]

_DOTS = 2  # "." and ".." come first, at offsets 0 and 1


class _OpenDirectory:
    """One open directory.

    Attributes:
        record: how far its reader has come.
        shift: how many more entries are before a place than were there for a predecessor, whose
            places the reader has; None as long as nobody has looked.
        begun: whether something of it was read.
    """

    __slots__ = ("begun", "listing", "node", "record", "shift")

    def __init__(self, node: Node, listing: Listing, record: DirectoryRecord) -> None:
        self.node = node
        self.listing = listing
        self.record = record
        self.shift: int | None = 0
        self.begun = False


class _LocalNodes:
    """What of a directory exists because of this mount (fs.listing.Local).

    These are the children of its node, and what an earlier worker has left to be stored there.
    """

    __slots__ = ("_core", "_node")

    def __init__(self, core: Core, node: Node) -> None:
        self._core = core
        self._node = node

    def node(self) -> Node | None:
        """Return the directory's node."""
        return self._node

    def key(self) -> str:
        """Return its key."""
        return self._node.key

    def entry(self, name: str) -> Entry | None:
        """Return what there is of this name."""
        node = self.node()
        child = node.children.get(name) if node is not None else None
        return Entry(child.is_directory, child.info) if child and child.local else None

    def entries(self) -> dict[str, Entry]:
        """Return all there is."""
        node = self.node()
        children = list(node.children) if node is not None else []
        made = {name: entry for name in children if (entry := self.entry(name)) is not None}
        return self._core.left_in(self.key()) | made


class _LocalNodesOf(_LocalNodes):
    """The same for a directory that may not have a node yet: the `name` in `parent`."""

    __slots__ = ("_name",)

    def __init__(self, core: Core, parent: Node, name: str) -> None:
        super().__init__(core, parent)
        self._name = name

    def node(self) -> Node | None:
        """Return the directory's node, if there is one."""
        return self._node.children.get(self._name)

    def key(self) -> str:
        """Return its key."""
        return f"{self._node.key}{self._name}/"


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
        self._walks = Walks(core.metadata, self._listing_of)

    def __len__(self) -> int:
        return len(self._open)

    def opendir(self, node_id: int) -> int:
        """Open a directory; of that one, nothing is asked of the store yet."""
        node = self._core.directory(node_id)
        record = DirectoryRecord(self.next_number, node_id)
        self._add(node, record, self._walks.take(node.key))
        self._core.recorder.opened_directory(record)
        self._walks.opened(node)
        return record.number

    def _add(
        self, node: Node, record: DirectoryRecord, listing: Listing | None = None
    ) -> _OpenDirectory:
        node.pins += 1
        self.next_number = max(self.next_number, record.number + 1)
        if listing is None:
            listing = self._listing(node)
        opened = _OpenDirectory(node, listing, record)
        self._open[record.number] = opened
        return opened

    def releasedir(self, number: int) -> None:
        """Close it."""
        opened = self._open.pop(number, None)
        if opened is not None:
            opened.listing.close()
            self._core.nodes.unpin(opened.node)
            self._core.recorder.released_directory(number)

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
        if offset == 0 and opened.begun and (len(opened.listing) or opened.listing.complete):
            opened.listing.close()
            opened.listing, opened.shift = self._listing(node), 0
        opened.begun = True
        parent = node.parent or node
        for at, (name, dot) in enumerate(((b".", node), (b"..", parent))):
            if offset <= at:
                yield DirectoryEntry(name, at + 1, dot.ino, DT_DIR)
        core, listing, inode = self._core, opened.listing, InodeNumbers(node.key)
        await core.left_found()
        before = _DOTS - await _shift_of(opened)
        place = max(offset - before, 0)
        while True:
            await listing.reach(place)
            if place >= len(listing):
                return
            for record in _records(listing, inode, place, (before, core.inodes)):
                yield record
            place = len(listing)

    def take(self, number: int, record: DirectoryEntry) -> Found | None:
        """Return the node of a record, which the kernel will know from now on.

        What is known of the name by now counts, not what the listing said: this mount may have
        changed it since. None: it is not there any more, or not all is known of it.
        """
        opened = self._open[number]
        node, listing = opened.node, opened.listing
        name = record.name.decode()
        if self._core.unsettled(node.key + name):
            return None  # who asks for it waits
        if (local := self._core.local(node, name)) is not None:
            return self._core.found(local)
        place = record.offset - _DOTS - 1 + (opened.shift or 0)
        known = listing.known(place)
        if known is None:
            listed = listing.named(place)
            known = Known(listed[1] if listed else None, 0.0)
        entry = known.entry
        if entry is None or not (entry.directory or entry.info):
            return None
        if not self._core.inodes.ready(node.key, name, entry, listed=True):
            return None
        return self._core.found(self._core.settle(node, name, entry), known.seconds_left)

    # -- another name ---------------------------------------------------------------------------

    async def complete_below(self, node: Node) -> None:
        """Fetch what is missing of the listings at and below `node`: its keys go away."""
        while missing := [one for one in self._below(node) if not one.listing.complete]:
            for opened in missing:
                await opened.listing.reach(sys.maxsize)

    def moved(self, node: Node) -> None:
        """Take note that all at and below `node` have other keys by now."""
        for opened in self._below(node):
            opened.listing.move(opened.node.key)

    def _below(self, node: Node) -> list[_OpenDirectory]:
        return [opened for opened in self._open.values() if opened.node.is_below((node,))]

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
        local = _LocalNodes(self._core, node)
        return Listing(self._core.store, self._core.metadata, node.key, local)

    def _listing_of(self, parent: Node, name: str) -> Listing:
        local = _LocalNodesOf(self._core, parent, name)
        return Listing(self._core.store, self._core.metadata, local.key(), local)

    def close(self) -> None:
        """Stop what is listed ahead."""
        self._walks.close()


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
    listing: Listing, inode: InodeNumbers, place: int, shown: tuple[int, Inodes]
) -> Iterator[DirectoryEntry]:
    """Yield the records of what was fetched, from one place on.

    `shown` says how many entries precede it all, and what kind each is.
    """
    before, inodes = shown
    while place < len(listing):
        found = listing.peek(place)
        place += 1
        if found is not None:
            name, directory = found
            kind = inodes.kind(listing, place - 1, directory=directory)
            yield DirectoryEntry(name, place + before, inode.of(name, directory=directory), kind)
