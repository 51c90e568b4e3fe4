"""What all parts of the file system share: the store, what is known of it, and the nodes."""

import asyncio
import errno
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.fs.attempts import Attempts
from fuse_s3_worker.fs.attributes import Attributes
from fuse_s3_worker.fs.beginnings import Beginnings
from fuse_s3_worker.fs.claims import Claims
from fuse_s3_worker.fs.inodes import Inodes
from fuse_s3_worker.fs.lookup import Resolver
from fuse_s3_worker.fs.names import decode_name
from fuse_s3_worker.fs.nodes import ROOT_ID, Node, Nodes
from fuse_s3_worker.fs.recording import Recorder
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.recovery import OnStored, Recovery
from fuse_s3_worker.transfer.writer import Writers

__all__ = ["Core", "Found", "Kernel"]

_log = logging.getLogger(__name__)

_TOLD_MAX = 1_000  # directories of which it was told that they have archived objects


class Kernel(Protocol):
    """What the file system may tell the kernel without being asked."""

    def invalidate(self, node_id: int) -> None:
        """Attributes and cached pages of a node are out of date."""


class Found(NamedTuple):
    """A node with its attributes and for how long, in seconds, they hold; inf is for ever."""

    node: Node
    attributes: Attributes
    seconds: float


class Core:
    """The shared state of one mount; everything runs on one loop, so nothing is locked."""

    def __init__(
        self,
        store: ObjectStore,
        metadata: Metadata,
        inodes: Inodes,
        readers: Readers,
        writers: Writers,
        prefix: str,
    ) -> None:
        self.store = store
        self.metadata = metadata
        self.inodes = inodes
        self.readers = readers
        self.writers = writers
        self.beginnings = Beginnings(readers.pool)
        self.resolver = Resolver(store, metadata, self.beginnings)
        self.nodes = Nodes(prefix)
        self.attempts = Attempts(self.nodes)
        self.claims = Claims()
        self.recovery: Recovery | None = None
        self.kernel: Kernel | None = None
        self._told: OrderedDict[str, None] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def recorder(self) -> Recorder:
        """Who is told what a successor has to know."""
        return self.nodes.recorder

    # -- what an earlier worker left ------------------------------------------------------------

    def recover(self, on_stored: OnStored) -> None:
        """Begin to store what an earlier worker has not; `on_stored` is told what was."""
        staging = self.writers.staging
        if staging.directory is not None:
            self.recovery = Recovery(staging, staging.directory)
            self.spawn(self.recovery.run(on_stored), "recovery_failed", self.nodes.root)

    def unsettled(self, key: str) -> bool:
        """Tell whether something of an earlier worker may be going to be stored as `key`."""
        return self.recovery is not None and self.recovery.may_store(key)

    async def settled(self, key: str) -> None:
        """Wait until nothing of an earlier worker is going to be stored as `key`."""
        if self.recovery is not None:
            await self.recovery.wait_for(key)

    async def settled_below(self, key: str) -> None:
        """Wait until nothing of an earlier worker is going to be stored below `key`."""
        if self.recovery is not None:
            await self.recovery.wait_below(key)

    def unsettled_below(self, key: str) -> bool:
        """Tell whether something of an earlier worker is known to be going to be stored there."""
        return self.recovery is not None and self.recovery.any_below(key)

    async def left_found(self) -> None:
        """Wait until `left_in` tells all."""
        if self.recovery is not None:
            await self.recovery.wait_found()

    def left_in(self, key: str) -> dict[str, Entry]:
        """Return what the directory `key` will have because of an earlier worker."""
        entries: dict[str, Entry] = {}
        for left in self.recovery.keys if self.recovery is not None else ():
            if left.startswith(key):
                name, below, _ = left[len(key) :].partition("/")
                if below or name not in entries:
                    entries[name] = Entry(bool(below), None)
        return entries

    # -- nodes ----------------------------------------------------------------------------------

    def node(self, node_id: int) -> Node:
        """Return the node `node_id`.

        Raises:
            FileSystemError: ESTALE, there is none, or something else has its place.
        """
        node = self.nodes.get(node_id)
        if node is None or (node.gone and node.is_directory):
            raise FileSystemError(errno.ESTALE, f"node {node_id} is gone")
        return node

    def directory(self, node_id: int) -> Node:
        """Return the node `node_id`, which must be a directory."""
        node = self.node(node_id)
        if not node.is_directory:
            raise FileSystemError(errno.ENOTDIR, f"{node.key!r} is no directory")
        return node

    def name(self, parent: Node, name: bytes) -> str:
        """Return a name in `parent` as text, checked."""
        return decode_name(name, parent.key)

    def found(self, node: Node, seconds: float | None = None) -> Found:
        """Describe `node`; by default for a whole lifetime."""
        now = time.monotonic()
        attributes = self.inodes.of(node, now)
        if node.info is not None and node.info.archived:
            self.note_archived(node)
        seconds = self.metadata.lifetime if seconds is None else seconds
        return Found(node, attributes, self.inodes.seconds(node, seconds, now))

    def settle(self, parent: Node, name: str, entry: Entry) -> Node:
        """Return the node of `name` as `entry` describes it now."""
        node = self.nodes.child(parent, name, directory=entry.directory)
        if node.local:
            return node
        if not self.inodes.fits(node, entry):
            self.nodes.detach(node)
            node = self.nodes.child(parent, name, directory=entry.directory)
        if not self.update(node, entry.info):
            node = self.nodes.child(parent, name, directory=entry.directory)
            self.update(node, entry.info)
        return node

    def update(self, node: Node, info: ObjectInfo | None) -> bool:
        """Let `node` be what the bucket has now; False when it cannot be that any more.

        All who have a node open share its pages, so a node that is being read in one version
        stays that version's: it loses its name, and who comes next gets a node of its own.
        """
        if info is not None and node.being_read and node.cached_etag != info.etag:
            self.nodes.detach(node)
            return False
        node.info = info
        self.inodes.settled(node)
        return True

    def local(self, parent: Node, name: str) -> Node | None:
        """Return the node of `name` if it exists because of this mount."""
        node = parent.children.get(name)
        return node if node is not None and node.local else None

    async def look(
        self, parent: Node, name: str, *, fresh: bool = False, reads: bool = False
    ) -> Known:
        """Return what the bucket has under `name`; see `Resolver.resolve`."""
        while True:
            key = parent.key
            known = await self.resolver.resolve(key, name, fresh=fresh, reads=reads)
            if parent.key == key:  # and not another one's by now
                return known

    async def look_at(self, node: Node, *, fresh: bool = False, reads: bool = False) -> Known:
        """Return what the bucket has under the name of a node, whatever that is by now."""
        while True:
            parent, key = node.parent, node.key
            assert parent is not None  # noqa: S101  the root has no name to look at
            known = await self.look(parent, node.name, fresh=fresh, reads=reads)
            if node.key == key:
                return known

    async def refresh(self, node: Node, *, reads: bool = False) -> Found:
        """Describe `node` from fresh knowledge; with `reads` it is going to be read now.

        Raises:
            FileSystemError: ESTALE, it is not there any more, or has become something else.
        """
        if node.id == ROOT_ID:
            await self.inodes.learn_root(node)
        if node.parent is None or node.gone or (node.local and self.inodes.known(node)):
            return self.found(node)
        known = await self.look_at(node, reads=reads)
        known = await self.inodes.learn(node.parent.key, node.name, known)
        if node.local:
            if known.entry is not None and known.entry.directory and node.is_directory:
                self.update(node, known.entry.info)
            return self.found(node)
        if known.entry is None or known.entry.directory != node.is_directory:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} is gone, or became something else")
        before, info = node.info, known.entry.info
        found = self.found_as(node, info, known.seconds_left)
        if self.kernel is not None and before is not None and node.info not in {None, before}:
            # An answer to OPEN has no size, and the kernel may believe the one before for a while.
            self.kernel.invalidate(node.id)
        return found

    async def know(self, node: Node) -> None:
        """See to it that it is known what is kept of a node; the same errors."""
        if not self.inodes.known(node):
            await self.refresh(node)

    def found_as(self, node: Node, info: ObjectInfo | None, seconds: float) -> Found:
        """Describe `node`, of which the bucket says `info` for so many `seconds`."""
        if node.local or self.update(node, info):
            return self.found(node, seconds)
        return self.found(node)  # what it was, to those who have it open

    def check_not_archived(self, node: Node) -> None:
        """See that a file can be read.

        Raises:
            FileSystemError: EACCES, it has to be restored first; the message says how.
        """
        if node.info is not None and node.upload is None:
            self.check_not_archived_info(node.info)

    def check_not_archived_info(self, info: ObjectInfo) -> None:
        """Do the same for an object."""
        if info.archived:
            raise FileSystemError(errno.EACCES, self.advice(info), logging.WARNING)

    def note_archived(self, node: Node) -> None:
        """Say once for a directory, by an example, why files in it have no permissions."""
        info, parent = node.info, node.parent
        if info is None or not info.archived or parent is None or parent.key in self._told:
            return
        self._told[parent.key] = None
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)
        event(_log, logging.WARNING, "archived", {"key": info.key, "advice": self.advice(info)})

    def advice(self, info: ObjectInfo) -> str:
        """Say how an object is brought back from an archive."""
        return f"{info.key!r} is archived, restore it: {self.store.how_to_restore(info.key)}"

    # -- work in the background -----------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None], what: str, node: Node) -> None:
        """Run `work` without anybody waiting for it; that it fails is logged."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(lambda task: self._spawned_done(task, what, node))

    def _spawned_done(self, task: asyncio.Task[None], what: str, node: Node) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            details: dict[str, object] = {"key": node.key, "reason": error}
            details |= error.details if isinstance(error, ServeError) else {}
            event(_log, logging.ERROR, what, details)

    async def drain(self) -> None:
        """Wait for everything in the background."""
        while self._background:
            await asyncio.wait(self._background)
