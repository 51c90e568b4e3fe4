"""Records what a successor needs, as it happens (fs.recording.Recorder).

This is on the way of every lookup: a node that the kernel knows already costs one store to memory,
a new one a record. What has no meaning any more stays in the log until that is worth writing
another generation, which is done a little at a time, between requests.
"""

import asyncio
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from fuse_s3_shared import handoff
from fuse_s3_worker.fs.nodes import ROOT_ID, Node
from fuse_s3_worker.fs.recording import DirectoryRecord, HandleRecord
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo
from fuse_s3_worker.survival import state
from fuse_s3_worker.survival.records import Log, Record
from fuse_s3_worker.survival.state import Kind, State

__all__ = ["StateRecorder", "Subject"]

_log = logging.getLogger(__name__)

_GARBAGE_MIN = 1 << 20  # bytes: what is not worth another generation
_SLICE = 500  # records of a new generation that are written before requests get their turn
_NODE_BYTES = 33  # of a record, without the name, and a cell


class Subject(Protocol):
    """What is recorded: asked for what counts now."""

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes, parents first."""

    def open_files(self) -> Iterator[tuple[HandleRecord, Node]]:
        """Yield the open files."""

    def open_directories(self) -> Iterator[DirectoryRecord]:
        """Yield the open directories."""

    def next_numbers(self) -> tuple[int, int]:
        """Return a node id and a handle that were never used."""


class StateRecorder:
    """Writes to one log, and while a new generation is made, to both.

    Attributes:
        log: the one that counts.
    """

    def __init__(self, log: Log, other: Log, left: State | None = None) -> None:
        """Go on with `log`, in which a predecessor has `left` this."""
        self.log = log
        self._other = other
        self._slots = len(left.remains.nodes) if left else 0
        self._garbage = 0
        self._fixed: list[Record] = list(left.fixed) if left else []
        multiparts = left.multiparts if left else []
        self._multiparts = {state.multipart_body(upload): None for upload in multiparts}
        self._begun = dict.fromkeys(left.remains.begun if left else ())
        self._subject: Subject | None = None
        self._next: _Next | None = None
        self._work: Iterator[None] = iter(())

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a successor needs."""
        return self.log.fd, self._other.fd

    def attach(self, subject: Subject) -> None:
        """Say whose state this is."""
        self._subject = subject

    # -- of the mount ---------------------------------------------------------------------------

    def keep(self, kind: Kind, body: bytes) -> None:
        """Record something that always counts."""
        self._fixed.append((kind, body))
        self._append(kind, body)

    def settled(self, mounting: state.Mounting) -> None:
        """Record what was settled."""
        self.keep(Kind.MOUNTING, state.mounting_body(mounting))

    def start(self, at: float) -> None:
        """Record that a worker started."""
        self.keep(Kind.START, state.start_body(at))

    def mounted(self, directory: str) -> None:
        """Record where the mount is."""
        self.keep(Kind.DIRECTORY, handoff.encode(handoff.Mounted(directory)))

    def handed_over(self) -> None:
        """Record that this worker ends on purpose."""
        self.keep(Kind.HANDED_OVER, b"")

    def multipart(self, upload: MultipartUpload) -> None:
        """A multipart upload was begun."""
        body = state.multipart_body(upload)
        self._multiparts[body] = None
        self._append(Kind.MULTIPART, body)

    def multipart_ended(self, upload: MultipartUpload) -> None:
        """It was completed or aborted."""
        body = state.multipart_body(upload)
        self._multiparts.pop(body, None)
        self._append(Kind.MULTIPART_ENDED, body)

    # -- of the file system ---------------------------------------------------------------------

    def looked_up(self, node: Node) -> None:
        """Record a reference of the kernel, and at the first one the node."""
        slot = node.slot
        if slot < 0:
            slot = self._new(node)
        self.log.set_cell(slot, node.nlookup)
        if self._next is not None:
            self._next.count(node)

    def _new(self, node: Node) -> int:
        parent = node.parent
        if parent is None:
            return 0  # the root: its references are never given back
        if parent.slot < 0 and parent.id != ROOT_ID:
            self._new(parent)
            self.log.set_cell(parent.slot, parent.nlookup)
        body = state.node_body(node.id, parent.id, node.name, directory=node.is_directory)
        self.log.append(Kind.NODE, body)
        if self._next is not None:
            self._next.add(node, body)
        node.slot = self._slots
        self._slots += 1
        if node.gone:
            self.detached(node)
        return node.slot

    def forgotten(self, node: Node) -> None:
        """Record that references were given back."""
        if node.slot < 0:
            return
        self.log.set_cell(node.slot, node.nlookup)
        if self._next is not None:
            self._next.count(node)
        if not node.nlookup:
            self._waste(_NODE_BYTES + len(node.name))

    def detached(self, node: Node) -> None:
        """Record that a node has no place any more."""
        if node.slot >= 0:
            self._append(Kind.DETACHED, state.NUMBER.pack(node.id))

    def moved(self, node: Node) -> None:
        """Record another place of a node that is known."""
        parent = node.parent
        if node.slot < 0 or parent is None:
            return
        if parent.slot < 0 and parent.id != ROOT_ID:
            self._new(parent)
            self.log.set_cell(parent.slot, parent.nlookup)
        body = state.node_body(node.id, parent.id, node.name, directory=node.is_directory)
        self._append(Kind.MOVED, body)
        self._waste(_NODE_BYTES + len(node.name))

    def opened(self, handle: HandleRecord, version: ObjectInfo | None) -> None:
        """Record an open file."""
        self._append(Kind.OPENED, state.handle_body(handle, version))

    def released(self, number: int) -> None:
        """Record that it was closed."""
        self._append(Kind.RELEASED, state.NUMBER.pack(number))
        self._waste(160)

    def opened_directory(self, directory: DirectoryRecord) -> None:
        """Record an open directory, and where its reader is."""
        self._append(Kind.OPENED_DIRECTORY, state.directory_body(directory))

    def released_directory(self, number: int) -> None:
        """Record that it was closed."""
        self._append(Kind.RELEASED_DIRECTORY, state.NUMBER.pack(number))
        self._waste(100)

    def reads(self, node: Node) -> None:
        """Record which version is read."""
        if node.info is not None:
            self._append(Kind.READS, state.version_body(node.id, node.info))

    def changes(self, node: Node) -> None:
        """Record that a node has what the bucket does not have."""
        self._append(Kind.CHANGES, state.NUMBER.pack(node.id))

    def stored(self, node: Node) -> None:
        """Record which version the bucket has of it now."""
        if node.info is not None:
            self._append(Kind.STORED, state.version_body(node.id, node.info))
            self._waste(100)

    def begun(self, change: str) -> None:
        """Record what the store is going to be asked for."""
        self._begun[change] = None
        self._append(Kind.BEGUN, change.encode())

    def ended(self, change: str) -> None:
        """Record that it was answered."""
        if change in self._begun:
            del self._begun[change]
            self._append(Kind.ENDED, change.encode())
            self._waste(2 * len(change))

    # -- generations ----------------------------------------------------------------------------

    def _append(self, kind: Kind, body: bytes) -> None:
        self.log.append(kind, body)
        if self._next is not None:
            self._next.log.append(kind, body)

    def _waste(self, size: int) -> None:
        """Count bytes that mean nothing any more; begin anew when they are most of all."""
        self._garbage += size
        if self._garbage > max(_GARBAGE_MIN, self.log.end // 2) and self._next is None:
            self.renew()

    def renew(self) -> None:
        """Begin to write the next generation."""
        if self._subject is None:
            return
        self._other.begin()
        self._next = _Next(self._other, self._subject)
        for kind, body in self._fixed:
            self._other.append(kind, body)
        for change in self._begun:
            self._other.append(Kind.BEGUN, change.encode())
        self._work = self._next.write(list(self._multiparts))
        self._garbage = 0
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Write a part of the next generation; let it count once it is whole."""
        if self._next is None or self._subject is None:
            return
        if sum(1 for _ in islice(self._work, _SLICE)):
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self._next.log.append(Kind.NEXT, state.TWO_NUMBERS.pack(*self._subject.next_numbers()))
        self._next.log.publish(self.log.generation + 1)
        self.log, self._other = self._next.log, self.log
        for node in self._subject.nodes():
            node.slot = self._next.slots.get(node.id, -1)
        self._slots = len(self._next.slots)
        self._next = None
        self._other.begin()
        event(_log, logging.DEBUG, "state_renewed", {"bytes": self.log.end, "nodes": self._slots})


class _Next:
    """The generation that is being made.

    Attributes:
        slots: by node id, the cell that it has there.
    """

    def __init__(self, log: Log, subject: Subject) -> None:
        self.log = log
        self.slots: dict[int, int] = {}
        self._subject = subject

    def write(self, multiparts: list[bytes]) -> Iterator[None]:
        """Write everything that counts, a record at a time."""
        for body in multiparts:
            self.log.append(Kind.MULTIPART, body)
        for node in list(self._subject.nodes()):
            known = node.slot >= 0 and node.id not in self.slots
            # What nobody refers to any more when its turn comes is left out.
            if known and (node.nlookup or node.pins or node.children):
                self._copy(node)
            yield
        for handle, node in list(self._subject.open_files()):
            self.log.append(Kind.OPENED, state.handle_body(handle, node.info))
            if node.cached_etag is not None and node.info is not None:
                self.log.append(Kind.READS, state.version_body(node.id, node.info))
            if node.changed:
                self.log.append(Kind.CHANGES, state.NUMBER.pack(node.id))
            yield
        for directory in list(self._subject.open_directories()):
            self.log.append(Kind.OPENED_DIRECTORY, state.directory_body(directory))
            yield

    def _copy(self, node: Node) -> None:
        parent = node.parent.id if node.parent else ROOT_ID
        body = state.node_body(node.id, parent, node.name, directory=node.is_directory)
        self.add(node, body)
        self.count(node)
        if node.gone:
            self.log.append(Kind.DETACHED, state.NUMBER.pack(node.id))

    def add(self, node: Node, body: bytes) -> None:
        """Write a node that has just become known."""
        self.log.append(Kind.NODE, body)
        self.slots[node.id] = len(self.slots)

    def count(self, node: Node) -> None:
        """Write its references."""
        slot = self.slots.get(node.id)
        if slot is not None:
            self.log.set_cell(slot, node.nlookup)
