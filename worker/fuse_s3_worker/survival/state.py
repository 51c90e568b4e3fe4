"""What is recorded of a mount: bytes of record bodies, and a state read out of them.

Records are not tied to an order, but that a later one about the same thing counts: two logs are
written side by side while one generation takes over from the other.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import NamedTuple

from fuse_s3_shared import handoff
from fuse_s3_worker.fs.recording import DirectoryRecord, HandleRecord, NodeRecord, Remains
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo
from fuse_s3_worker.survival.records import DamagedError, Log, Record

__all__ = ["Kind", "Mounting", "Start", "State", "read_state"]


class Kind(IntEnum):
    """Kinds of records. A number is never used for anything else again."""

    ORDER = 1  # handoff.Mount, as it came
    FILE = 2  # handoff.File, as it came
    DIRECTORY = 3  # handoff.Mounted, as it came
    MOUNTING = 4
    START = 5  # of a worker
    HANDED_OVER = 6  # by a worker that ended on purpose
    NEXT = 7  # numbers that were never used
    NODE = 16
    DETACHED = 17
    OPENED = 18
    RELEASED = 19
    OPENED_DIRECTORY = 20
    RELEASED_DIRECTORY = 21
    READS = 22  # a version, of which something was read
    CHANGES = 23
    STORED = 24  # a version
    MULTIPART = 25
    MULTIPART_ENDED = 26
    MOVED = 27  # a node; the body is that of NODE
    BEGUN = 28  # a change of names
    ENDED = 29  # the same one


NUMBER = struct.Struct("<Q")
TWO_NUMBERS = struct.Struct("<QQ")
_NODE = struct.Struct("<QQB")  # id, parent, whether it is a directory; then the name
_HANDLE = struct.Struct("<QQII")  # number, node, flags, pid; then a version
_OPEN_DIRECTORY = struct.Struct("<QQQ")  # number, node, offset; then the name
_VERSION = struct.Struct("<qQB")  # mtime, size, bytes of ETag; then ETag, storage class
_MOUNTING = struct.Struct("<IIqIQ")  # uid, gid, time, minor version and flags of INIT


class Mounting(NamedTuple):
    """What was settled when the mount was made.

    `uid` and `gid` own the files, `time` is when, in nanoseconds since the epoch, `minor` and
    `flags` are what INIT agreed on.
    """

    uid: int
    gid: int
    time: int
    minor: int
    flags: int


class Start(NamedTuple):
    """When a worker started, in seconds of CLOCK_BOOTTIME, and whether one had handed over."""

    time: float
    orderly: bool


class State(NamedTuple):
    """All that a worker has left behind.

    Attributes:
        starts: of all workers, the first one's first.
        handed_over: whether the last one ended on purpose.
        fixed: the records that always count.
    """

    order: handoff.Mount
    files: list[handoff.File]
    mounting: Mounting
    directory: str
    starts: list[Start]
    handed_over: bool
    fixed: list[Record]
    multiparts: list[MultipartUpload]
    remains: Remains


# -- bodies ----------------------------------------------------------------------------------------


def node_body(node_id: int, parent: int, name: str, *, directory: bool) -> bytes:
    """Return the body of NODE; the n-th of a log has cell n for its references."""
    return _NODE.pack(node_id, parent, directory) + name.encode()


def handle_body(handle: HandleRecord, version: ObjectInfo | None) -> bytes:
    """Return the body of OPENED."""
    return _HANDLE.pack(*handle) + (_version_body(version) if version else b"")


def directory_body(directory: DirectoryRecord) -> bytes:
    """Return the body of OPENED_DIRECTORY."""
    return _OPEN_DIRECTORY.pack(*directory[:3]) + directory.name


def version_body(node_id: int, version: ObjectInfo) -> bytes:
    """Return the body of READS or STORED."""
    return NUMBER.pack(node_id) + _version_body(version)


def _version_body(version: ObjectInfo) -> bytes:
    etag = version.etag.encode()
    numbers = _VERSION.pack(version.mtime, version.size, len(etag))
    return numbers + etag + version.storage_class.encode()


def mounting_body(mounting: Mounting) -> bytes:
    """Return the body of MOUNTING."""
    return _MOUNTING.pack(*mounting)


def start_body(time: float) -> bytes:
    """Return the body of START."""
    return NUMBER.pack(int(time * 1_000_000))


def multipart_body(upload: MultipartUpload) -> bytes:
    """Return the body of MULTIPART and MULTIPART_ENDED."""
    return f"{upload.key}\0{upload.upload_id}".encode()


# -- a state ---------------------------------------------------------------------------------------


class _Reading:
    """Takes one record after the other; the names of the methods are those of the kinds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.order: handoff.Mount | None = None
        self.files: list[handoff.File] = []
        self.mounting: Mounting | None = None
        self.place = ""
        self.starts: list[Start] = []
        self.multiparts: dict[bytes, MultipartUpload] = {}
        self.nodes: list[NodeRecord] = []
        self.gone: set[int] = set()
        self.handles: dict[int, HandleRecord] = {}
        self.directories: dict[int, DirectoryRecord] = {}
        self.versions: dict[int, ObjectInfo] = {}
        self.read: set[int] = set()
        self.changed: set[int] = set()
        self.begun: dict[str, None] = {}
        self.next = [2, 1]
        self.fixed: list[Record] = []
        self.orderly = False
        self._users = Counter[int]()  # handles of a node
        self._places: dict[int, int] | None = None  # of nodes, by id

    def node(self, body: bytes) -> None:
        node_id, parent, directory = _NODE.unpack_from(body)
        slot = len(self.nodes)
        name, nlookup = body[_NODE.size :].decode(), self._log.cell(slot)
        self.nodes.append(NodeRecord(node_id, parent, name, bool(directory), nlookup, slot))
        if self._places is not None:
            self._places[node_id] = slot
        self._used(0, node_id)

    def detached(self, body: bytes) -> None:
        self.gone.add(_number(body))

    def moved(self, body: bytes) -> None:
        node_id, parent, _ = _NODE.unpack_from(body)
        if self._places is None:  # most mounts see no rename
            self._places = {record.id: record.slot for record in self.nodes}
        slot = self._places.get(node_id)
        if slot is None:
            return  # in this log it comes later, with the place it has then
        name = body[_NODE.size :].decode()
        self.nodes[slot] = self.nodes[slot]._replace(parent=parent, name=name)
        self.gone.discard(node_id)

    def opened(self, body: bytes) -> None:
        handle = HandleRecord._make(_HANDLE.unpack_from(body))
        self._users[handle.node] += handle.number not in self.handles
        self.handles[handle.number] = handle
        if len(body) > _HANDLE.size:
            self.versions.setdefault(handle.node, _version(body[_HANDLE.size :]))
        self._used(1, handle.number)

    def released(self, body: bytes) -> None:
        handle = self.handles.pop(_number(body), None)
        if handle is None:
            return
        self._users[handle.node] -= 1
        if not self._users[handle.node]:  # who opens it next may find another version
            self.versions.pop(handle.node, None)
            self.read.discard(handle.node)
            self.changed.discard(handle.node)

    def opened_directory(self, body: bytes) -> None:
        number, node, offset = _OPEN_DIRECTORY.unpack_from(body)
        name = body[_OPEN_DIRECTORY.size :]
        self.directories[number] = DirectoryRecord(number, node, offset, name)
        self._used(1, number)

    def released_directory(self, body: bytes) -> None:
        self.directories.pop(_number(body), None)

    def reads(self, body: bytes) -> None:
        node_id = _number(body)
        self.versions[node_id] = _version(body[NUMBER.size :])
        self.read.add(node_id)

    def changes(self, body: bytes) -> None:
        self.changed.add(_number(body))

    def stored(self, body: bytes) -> None:
        self.reads(body)
        self.changed.discard(_number(body))

    def multipart(self, body: bytes) -> None:
        self.multiparts[body] = MultipartUpload(*body.decode().split("\0"))

    def multipart_ended(self, body: bytes) -> None:
        self.multiparts.pop(body, None)

    def began(self, body: bytes) -> None:
        self.begun[body.decode()] = None

    def ended(self, body: bytes) -> None:
        self.begun.pop(body.decode(), None)

    def start(self, body: bytes) -> None:
        self.starts.append(Start(_number(body) / 1_000_000, self.orderly))
        self.orderly = False

    def handed_over(self, _: bytes) -> None:
        self.orderly = True

    def next_numbers(self, body: bytes) -> None:
        for which, number in enumerate(TWO_NUMBERS.unpack(body)):
            self._used(which, number - 1)

    def took_order(self, body: bytes) -> None:
        message = handoff.decode(body, handoff.HELPER_SENDS, has_fd=False)
        if isinstance(message, handoff.Mount):
            self.order = message

    def took_file(self, body: bytes) -> None:
        message = handoff.decode(body, handoff.HELPER_SENDS, has_fd=True)
        if isinstance(message, handoff.File):
            self.files.append(message)

    def mounted(self, body: bytes) -> None:
        message = handoff.decode(body, handoff.HELPER_SENDS, has_fd=False)
        if isinstance(message, handoff.Mounted):
            self.place = message.directory

    def settled(self, body: bytes) -> None:
        self.mounting = Mounting._make(_MOUNTING.unpack(body))

    def _used(self, which: int, number: int) -> None:
        self.next[which] = max(self.next[which], number + 1)


_TAKES: dict[int, Callable[[_Reading, bytes], None]] = {
    Kind.ORDER: _Reading.took_order,
    Kind.FILE: _Reading.took_file,
    Kind.DIRECTORY: _Reading.mounted,
    Kind.MOUNTING: _Reading.settled,
    Kind.START: _Reading.start,
    Kind.HANDED_OVER: _Reading.handed_over,
    Kind.NEXT: _Reading.next_numbers,
    Kind.NODE: _Reading.node,
    Kind.DETACHED: _Reading.detached,
    Kind.OPENED: _Reading.opened,
    Kind.RELEASED: _Reading.released,
    Kind.OPENED_DIRECTORY: _Reading.opened_directory,
    Kind.RELEASED_DIRECTORY: _Reading.released_directory,
    Kind.READS: _Reading.reads,
    Kind.CHANGES: _Reading.changes,
    Kind.STORED: _Reading.stored,
    Kind.MULTIPART: _Reading.multipart,
    Kind.MULTIPART_ENDED: _Reading.multipart_ended,
    Kind.MOVED: _Reading.moved,
    Kind.BEGUN: _Reading.began,
    Kind.ENDED: _Reading.ended,
}


_FIXED = {Kind.ORDER, Kind.FILE, Kind.DIRECTORY, Kind.MOUNTING, Kind.START, Kind.HANDED_OVER}


def read_state(log: Log) -> State:
    """Read all that is recorded.

    Raises:
        DamagedError: it makes no sense.
    """
    reading = _Reading(log)
    _take(reading, log.records())
    if reading.order is None or reading.mounting is None:
        raise DamagedError("a state without a mount")
    remains = Remains(
        reading.nodes,
        reading.gone,
        list(reading.handles.values()),
        list(reading.directories.values()),
        reading.versions,
        reading.read,
        reading.changed,
        next_node=reading.next[0],
        next_handle=reading.next[1],
        begun=tuple(reading.begun),
    )
    return State(
        reading.order,
        reading.files,
        reading.mounting,
        reading.place,
        reading.starts,
        reading.orderly,
        reading.fixed,
        list(reading.multiparts.values()),
        remains,
    )


def _take(reading: _Reading, records: Iterable[Record]) -> None:
    for kind, body in records:
        take = _TAKES.get(kind)
        if take is None:
            raise DamagedError(f"a record of the unknown kind {kind}")
        try:
            take(reading, body)
            if kind in _FIXED:
                reading.fixed.append((kind, body))
        except (struct.error, ValueError, TypeError, handoff.HandoffError) as error:
            raise DamagedError(f"a record of kind {kind} of a wrong shape: {error}") from None


def _number(body: bytes) -> int:
    """Return the number that a body begins with."""
    return int(NUMBER.unpack_from(body)[0])


def _version(body: bytes) -> ObjectInfo:
    mtime, size, length = _VERSION.unpack_from(body)
    etag, storage_class = body[_VERSION.size :][:length], body[_VERSION.size + length :]
    return ObjectInfo("", size, mtime, etag.decode(), storage_class.decode())
