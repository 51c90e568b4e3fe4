"""What a successor has to know of a file system whose worker died, and who is told of it.

The kernel goes on to speak of nodes and handles by number. Whatever it may still name is recorded
before it learns of it; what it has given back is recorded afterwards: a successor knows too much
rather than too little.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from fuse_s3_worker.store.types import ObjectInfo

if TYPE_CHECKING:
    from fuse_s3_worker.fs.nodes import Node

__all__ = [
    "DirectoryRecord",
    "HandleRecord",
    "NodeRecord",
    "NothingRecorded",
    "Recorder",
    "Remains",
]


class Recorder(Protocol):
    """Is told of everything that the kernel may name later."""

    def looked_up(self, node: "Node") -> None:
        """The kernel gets a reference: `nlookup` has grown."""

    def forgotten(self, node: "Node") -> None:
        """The kernel gave references back: `nlookup` has shrunk."""

    def detached(self, node: "Node") -> None:
        """The node lost its name."""

    def moved(self, node: "Node") -> None:
        """The node got another place."""

    def opened(self, handle: "HandleRecord", version: ObjectInfo | None) -> None:
        """A file was opened; `version` is what it has to read, if that is in the bucket."""

    def released(self, number: int) -> None:
        """It was closed."""

    def opened_directory(self, directory: "DirectoryRecord") -> None:
        """A directory was opened, or read on: a later record of the same number counts."""

    def released_directory(self, number: int) -> None:
        """It was closed."""

    def reads(self, node: "Node") -> None:
        """From now on programs have something of the version that the node has."""

    def changes(self, node: "Node") -> None:
        """From now on the node has something that the bucket does not have."""

    def stored(self, node: "Node") -> None:
        """The bucket has all of it, as the version that the node has now."""

    def begun(self, change: str) -> None:
        """The store is going to be asked for a change of names; see `fs.attempts`."""

    def ended(self, change: str) -> None:
        """That is over, and whoever asked for it has an answer."""


class NodeRecord(NamedTuple):
    """A node, and how many references to it the kernel has."""

    id: int
    parent: int
    name: str
    directory: bool
    nlookup: int
    slot: int


class HandleRecord(NamedTuple):
    """An open file: `flags` of open(2), and the thread that opened it."""

    number: int
    node: int
    flags: int
    pid: int


class DirectoryRecord(NamedTuple):
    """An open directory. The last record that was given out is `name`, and ends at `offset`."""

    number: int
    node: int
    offset: int = 0
    name: bytes = b""


class Remains(NamedTuple):
    """What a worker leaves behind.

    Attributes:
        versions: by node, what open files read; `read` has those of which something was read.
        changed: nodes with something that the bucket does not have, which is lost.
        next_node, next_handle: numbers that were never used.
        begun: what was being asked of the store; see `fs.attempts`.
    """

    nodes: list[NodeRecord]
    detached: set[int]
    handles: list[HandleRecord]
    directories: list[DirectoryRecord]
    versions: dict[int, ObjectInfo]
    read: set[int]
    changed: set[int]
    next_node: int
    next_handle: int
    begun: tuple[str, ...] = ()


class NothingRecorded:
    """For file systems that end with their process."""

    def looked_up(self, node: "Node") -> None:
        """Do nothing."""

    def forgotten(self, node: "Node") -> None:
        """Do nothing."""

    def detached(self, node: "Node") -> None:
        """Do nothing."""

    def moved(self, node: "Node") -> None:
        """Do nothing."""

    def opened(self, handle: HandleRecord, version: ObjectInfo | None) -> None:
        """Do nothing."""

    def released(self, number: int) -> None:
        """Do nothing."""

    def opened_directory(self, directory: DirectoryRecord) -> None:
        """Do nothing."""

    def released_directory(self, number: int) -> None:
        """Do nothing."""

    def reads(self, node: "Node") -> None:
        """Do nothing."""

    def changes(self, node: "Node") -> None:
        """Do nothing."""

    def stored(self, node: "Node") -> None:
        """Do nothing."""

    def begun(self, change: str) -> None:
        """Do nothing."""

    def ended(self, change: str) -> None:
        """Do nothing."""
