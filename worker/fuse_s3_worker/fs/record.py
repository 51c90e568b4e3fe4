"""What is known and wanted of one node whose attributes are kept."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.posix.headers import Described, encode, for_new_bytes
from fuse_s3_worker.posix.inode import Inode

if TYPE_CHECKING:
    from fuse_s3_worker.fs.nodes import Node

__all__ = ["Record", "Snapshot", "inode_of"]


class Record:
    """The state that a node has for `posix`.

    Attributes:
        described: what the store has, or, before there is anything, what was made.
        until: until when that is believed (monotonic seconds).
        implicit: nothing is kept: it is a directory without a marker.
        changes: fields of the inode that were set and are not stored yet.
        times_set: when times were set last, in nanoseconds since the epoch; a later write goes
            before them.
        failed: why something that was set is gone, until somebody was told.
        pinned: whether the node is kept because of changes.
    """

    __slots__ = (
        "changes", "described", "failed", "implicit", "pinned", "times_set", "until"
    )  # fmt: skip

    def __init__(self, described: Described, until: float, *, implicit: bool = False) -> None:
        self.described = described
        self.until = until
        self.implicit = implicit
        self.changes: dict[str, Any] = {}
        self.times_set = 0
        self.failed: ServeError | None = None
        self.pinned = False

    def set(self, **fields: object) -> None:
        """Note what shall be, and that it was changed now."""
        now = time.time_ns()
        if "mtime" in fields:
            self.times_set = now
        self.changes |= {"ctime": now} | fields

    def take_back(self, stored: dict[str, Any]) -> None:
        """Forget changes that are stored; what was set again meanwhile stays."""
        for name, value in stored.items():
            if name in self.changes and self.changes[name] == value:
                del self.changes[name]


class Snapshot(NamedTuple):
    """What an object is stored with, as it was when the request was made.

    Attributes:
        headers: of the object.
        inode: what they say.
        rest: headers beside, that go along.
        changes: those that are in them.
        timed: whether they say times; otherwise Last-Modified does.
    """

    headers: dict[str, str]
    inode: Inode
    rest: dict[str, str]
    changes: dict[str, Any]
    timed: bool = True


def inode_of(node: "Node", record: Record) -> Inode:
    """Return the inode as it is now: stored, set, and written to."""
    inode = record.described.inode
    if record.changes:
        inode = inode._replace(**record.changes)
    upload = node.upload
    if upload is None or upload.failed is not None or not upload.dirty:
        return inode
    if upload.mtime <= record.times_set:
        return inode
    return inode._replace(
        mtime=upload.mtime, ctime=max(upload.mtime, record.changes.get("ctime", 0))
    )


def snapshot(node: "Node", record: Record, *, whole: bool = True) -> Snapshot:
    """Return what new bytes of a node are stored with.

    `whole` tells that they are complete: the time of the last write is known.
    """
    inode, rest = inode_of(node, record), for_new_bytes(record.described.rest)
    explicit = node.upload is None or node.upload.mtime <= record.times_set
    timed = whole or explicit
    headers = {} if record.implicit and not record.changes else encode(inode, rest, times=timed)
    return Snapshot(headers, inode, rest, dict(record.changes), timed)
