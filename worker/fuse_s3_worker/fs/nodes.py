"""The nodes that the kernel knows: an id, a place in the tree, and what is true of it now."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from fuse_s3_worker.fs.attributes import Overrides
from fuse_s3_worker.fs.recording import NodeRecord, NothingRecorded, Recorder
from fuse_s3_worker.store.types import ObjectInfo

if TYPE_CHECKING:
    from fuse_s3_worker.fs.record import Record
    from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["ROOT_ID", "InodeNumbers", "Node", "Nodes", "inode_number"]

ROOT_ID = 1  # FUSE_ROOT_ID


class InodeNumbers:
    """st_ino of what is in one directory: the same in every mount of the bucket, never 0 or 1."""

    def __init__(self, directory_key: str) -> None:
        self._hash = blake2b(directory_key.encode("utf-8", "surrogatepass"), digest_size=8)

    def of(self, name: bytes, *, directory: bool = False) -> int:
        """Return the number that the name has."""
        own = self._hash.copy()
        own.update(name)
        if directory:
            own.update(b"/")
        return int.from_bytes(own.digest(), "little") | 2


def inode_number(key: str) -> int:
    """Return st_ino for a key."""
    return InodeNumbers(key).of(b"")


class Node:
    """A file or directory by its place; what it holds may change, what it is may not.

    Attributes:
        info: the object, or a directory's marker; None for an implicit directory and for a file
            that was never in the bucket.
        upload: what is being written to it, by all handles together.
        cached_etag: the version whose pages the kernel may hold; None when it has none.
        nlookup: references of the kernel.
        slot: where they are recorded; -1 for nowhere.
        readers: how many handles can read.
        writers: how many handles can write.
        pins: reasons of ours to keep it: open handles, work under way.
        kept: how often a directory is looked after that exists here although, maybe, no key says
            so any more.
        covers: it was never stored, and its name is still another's in the bucket, which it has
            replaced.
        gone: it was removed, or replaced by something that is not the same file any more.
        record: what is kept of it beside its bytes, where such things are kept.
        unlinked: it was removed by this mount: what is still written to it leads nowhere.
        replaced: it was removed by a rename of another one to its name.
    """

    __slots__ = (
        "cached_etag", "children", "covers", "gone", "id", "info", "is_directory", "kept", "key",
        "name", "nlookup", "overrides", "parent", "pins", "readers", "record", "replaced", "slot",
        "unlinked", "upload", "writers",
    )  # fmt: skip

    def __init__(self, node_id: int, parent: "Node | None", name: str, *, directory: bool) -> None:
        self.id = node_id
        self.parent = parent
        self.name = name
        self.is_directory = directory
        self.key: str = name if parent is None else self.key_in(parent)
        self.children: dict[str, Node] = {}
        self.info: ObjectInfo | None = None
        self.upload: FileWriter | None = None
        self.overrides: Overrides | None = None
        self.record: Record | None = None
        self.cached_etag: str | None = None
        self.nlookup = 0
        self.slot = -1
        self.pins = 0
        self.readers = 0
        self.writers = 0
        self.kept = 0
        self.covers = False
        self.gone = False
        self.unlinked = False
        self.replaced = False

    def __repr__(self) -> str:
        return f"Node({self.id}, {self.key!r})"

    def key_in(self, parent: "Node") -> str:
        """Return the key that it has, or would have, in a directory."""
        return f"{parent.key}{self.name}/" if self.is_directory else parent.key + self.name

    def is_below(self, nodes: "Collection[Node]") -> bool:
        """Tell whether this is one of `nodes`, or below one of them."""
        node: Node | None = self
        while node is not None:
            if node in nodes:
                return True
            node = node.parent
        return False

    def tree(self) -> "Iterator[Node]":
        """Yield this node and all below it, each after its parent."""
        found = [self]
        while found:
            node = found.pop()
            yield node
            found += node.children.values()

    def place(self, parent: "Node", name: str) -> None:
        """Take another place in the tree, with everything below."""
        self.parent, self.name = parent, name
        for node in self.tree():
            if node.parent is not None:
                node.key = node.key_in(node.parent)

    @property
    def ino(self) -> int:
        """The inode number that programs see."""
        return ROOT_ID if self.id == ROOT_ID else inode_number(self.key)

    @property
    def local(self) -> bool:
        """Tell whether it exists because of this mount, whatever the bucket says."""
        return bool(self.kept) or (self.upload is not None and self.upload.failed is None)

    @property
    def changed(self) -> bool:
        """Tell whether it has something that the bucket does not have."""
        return self.upload is not None and (self.upload.dirty or self.upload.failed is not None)

    @property
    def being_read(self) -> bool:
        """Tell whether it is open and programs have, or the kernel has, pages of one version."""
        return bool(self.readers) and self.cached_etag is not None


class Nodes:
    """The table of nodes.

    Attributes:
        next_id: never used until now.
        recorder: is told what happens to them.
    """

    def __init__(self, prefix: str) -> None:
        self.root = Node(ROOT_ID, None, prefix, directory=True)
        self.root.nlookup = 1
        self.next_id = ROOT_ID + 1
        self.recorder: Recorder = NothingRecorded()
        self._by_id = {ROOT_ID: self.root}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Node]:
        """Go through all nodes, in the order in which they were made."""
        return iter(list(self._by_id.values()))

    def get(self, node_id: int) -> Node | None:
        """Return the node with this id."""
        return self._by_id.get(node_id)

    def at(self, key: str) -> Node | None:
        """Return the node that has the name of a key now; "/" is the root of a bucket."""
        prefix = self.root.key
        if key in {prefix, prefix or "/"}:
            return self.root
        if not key.startswith(prefix):
            return None
        node: Node | None = self.root
        for name in key[len(prefix) :].removesuffix("/").split("/"):
            node = node.children.get(name) if node is not None else None
        return node if node is not None and node.key == key else None

    def child(self, parent: Node, name: str, *, directory: bool) -> Node:
        """Return the node of `name` in `parent`, a new one if there is none of that kind."""
        node = parent.children.get(name)
        if node is not None and node.is_directory == directory:
            return node
        if node is not None:
            self.detach(node)
        node = Node(self.next_id, parent, name, directory=directory)
        self.next_id += 1
        parent.children[name] = node
        self._by_id[node.id] = node
        return node

    def detach(self, node: Node) -> None:
        """Take a node out of the tree: its name is free. The kernel may still refer to its id."""
        node.gone = True
        node.kept = 0
        self.recorder.detached(node)
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        self.drop_unused(node)

    def move(self, node: Node, parent: Node, name: str) -> None:
        """Give a node another place, with everything below; what was there loses its name."""
        there = parent.children.get(name)
        before = node.parent
        if before is not None and before.children.get(node.name) is node:
            del before.children[node.name]
        node.place(parent, name)
        node.gone = False
        parent.children[name] = node
        self.recorder.moved(node)
        if there is not None and there is not node:
            self.detach(there)
        if before is not None:
            self.drop_unused(before)

    def forget(self, node_id: int, nlookup: int) -> None:
        """Take back references of the kernel."""
        node = self._by_id.get(node_id)
        if node is not None and node.id != ROOT_ID:
            node.nlookup = max(node.nlookup - nlookup, 0)
            self.recorder.forgotten(node)
            self.drop_unused(node)

    def restore(self, records: Iterable[NodeRecord], gone: set[int], next_id: int) -> None:
        """Make the nodes of a predecessor, those whose parents are unknown excepted."""
        self.next_id = next_id
        # By id: a child's is higher than its parent's, unless one of the two was renamed.
        waiting = sorted(records)
        while waiting:
            left = [record for record in waiting if not self._restore(record, gone)]
            if len(left) == len(waiting):
                break
            waiting = left
        for node in reversed(list(self._by_id.values())):
            self.drop_unused(node)

    def _restore(self, record: NodeRecord, gone: set[int]) -> bool:
        """Make one node; False when its parent is not there."""
        node_id, parent_id, name, directory, nlookup, slot = record
        parent = self._by_id.get(parent_id)
        if parent is None:
            return False
        node = Node(node_id, parent, name, directory=directory)
        node.nlookup, node.slot, node.gone = nlookup, slot, node_id in gone
        self._by_id[node_id] = node
        if not node.gone:
            parent.children[name] = node
        return True

    @contextlib.contextmanager
    def pinned(self, node: Node) -> Iterator[None]:
        """Keep a node for a while."""
        node.pins += 1
        try:
            yield
        finally:
            self.unpin(node)

    def unpin(self, node: Node) -> None:
        """Take back a reason of ours."""
        node.pins -= 1
        self.drop_unused(node)

    def drop_unused(self, node: Node) -> None:
        """Remove a node that neither the kernel nor we nor a child refers to; then its parent."""
        while (
            node.id != ROOT_ID
            and not (node.nlookup or node.pins or node.children)
            and self._by_id.pop(node.id, None) is not None
        ):
            parent = node.parent
            if parent is None:
                return
            if parent.children.get(node.name) is node:
                del parent.children[node.name]
            node = parent
