"""`-o posix`: modes, owners, times, types and attributes are kept in the metadata of objects.

A node's record has what the store keeps and what was set since. Listings tell nothing of it, so a
name is known in full only when its object was looked at; what was heard is believed as long as the
object is the same version.
"""

import errno
import logging
import stat
import time
from typing import Any

from fuse_s3_worker.cache.descriptions import FOREVER, Believed
from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.fs.ahead import Ahead
from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.describer import Describer, Results
from fuse_s3_worker.fs.inodes import DT_DIR, DT_REG, DT_UNKNOWN, Inodes, Made
from fuse_s3_worker.fs.keepingstore import Keeper, KeepingStore
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.pending import Pending
from fuse_s3_worker.fs.permissions import inherited, without_privileges
from fuse_s3_worker.fs.record import Record, Snapshot, inode_of, snapshot
from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.headers import METADATA_MAX, Described, encode, largest_size
from fuse_s3_worker.posix.inode import Defaults, Inode
from fuse_s3_worker.store.types import ObjectHead, ObjectInfo, ObjectStore

__all__ = ["Posix"]

# linux/limits.h, with the NUL: what is larger no kernel has made, so it need not be looked at to
# tell programs that list a directory that it is a file.
_PATH_MAX = 4096
_NO_TRACK = 1  # links of a directory whose directories are not counted, as btrfs has it


class Posix:
    """Keeps attributes (fs.inodes.Inodes, fs.keepingstore.Keeper).

    Attributes:
        store: what everything that is written has to go through.
    """

    late = True

    def __init__(
        self,
        store: ObjectStore,
        defaults: Defaults,
        mounted_at: int,
        results: Results | None = None,
    ) -> None:
        self.store = KeepingStore(store)
        self.store.attach(self)
        self._unkept = store
        self._defaults = defaults
        self._mounted_at = mounted_at
        self._results = results
        self._core: Core
        self._describer: Describer
        self._ahead: Ahead
        self._pending: Pending

    def attach(self, core: Core) -> None:
        """Tell what the file system is."""
        self._core = core
        self._describer = Describer(self._unkept, self._defaults, core.metadata, self._results)
        self._pending = Pending(core, self._store_changes)
        self._ahead = Ahead(core.metadata, self._describer, self._learn_ahead)

    # -- knowing --------------------------------------------------------------------------------

    def _is_known(self, entry: Entry) -> bool:
        if entry.info is None:
            return entry.unmarked
        return self._describer.known(entry.info) is not None

    def ready(self, key: str, name: str, entry: Entry | None, *, listed: bool = False) -> bool:
        """Tell whether all is known of what `name` in the directory `key` stands for."""
        if entry is None:
            return True
        if not self._is_known(entry):
            return False
        self._ahead.looked(key, name, begin=not listed)
        return True

    async def learn(self, key: str, name: str, known: Known) -> Known:
        """Look at the object behind a name, if need be."""
        if known.entry is None or self._is_known(known.entry):
            return known
        self._ahead.looked(key, name)
        return await self._learn(key, name, known.entry, known.seconds_left)

    async def _learn_ahead(self, key: str, name: str, entry: Entry) -> None:
        await self._learn(key, name, entry, 0.0, urgent=False)

    async def _learn(
        self, key: str, name: str, entry: Entry, seconds_left: float, *, urgent: bool = True
    ) -> Known:
        metadata = self._core.metadata
        changes = metadata.changes(key)
        where = f"{key}{name}/" if entry.directory else key + name
        found = await self._describer.describe(where, entry.info, urgent=urgent)
        if found is not None:
            now: Entry | None = Entry(entry.directory, found.info)
        else:
            now = Entry.folder(unmarked=True) if entry.directory else ABSENT
        if now == entry:
            return Known(entry, seconds_left)
        if not metadata.learn(key, name, now, changes):
            # This mount changed something meanwhile, perhaps this name: what it knows is newer.
            return metadata.get(key, name) or Known(now, 0.0)
        return Known(now, metadata.lifetime)

    def known(self, node: Node) -> bool:
        """Tell whether there is a record; of what is gone, nobody knows any more."""
        return node.record is not None or node.gone

    def root_ready(self, root: Node) -> bool:
        """Tell whether all is known of the root."""
        return self.is_fresh(root)

    async def learn_root(self, root: Node) -> None:
        """Look at the root's own object."""
        if not self.root_ready(root):
            found = await self._describer.describe(self._key_of(root))
            root.info = found.info if found else None
            self.settled(root)

    def heard(self, head: ObjectHead) -> None:
        """Take note of what an object carries."""
        self._describer.heard(head)

    def _key_of(self, node: Node) -> str:
        """Return the key of a node's object; that of a bucket's root is s3fs's."""
        return node.key or "/"

    # -- showing --------------------------------------------------------------------------------

    def fits(self, node: Node, entry: Entry) -> bool:
        """Tell whether a node can be what `entry` stands for.

        A node is of one type as long as it lives, and the kernel keeps where a link leads for good.
        """
        if node.record is None or node.info is None or entry.directory or entry.info is None:
            return True
        believed = self._describer.last(entry.info)
        if believed is None:
            return True
        old, new = node.record.described, believed.described
        if stat.S_IFMT(old.inode.mode) != stat.S_IFMT(new.inode.mode):
            return False
        same = node.info.etag == entry.info.etag and old.target == new.target
        return same or not stat.S_ISLNK(new.inode.mode)

    def settled(self, node: Node) -> None:
        """Take note that `node.info` is what the bucket has now."""
        if node.info is not None:
            believed = self._describer.last(node.info)
        elif node.is_directory:
            believed = self._describer.unkept(self._mounted_at, directory=True)
        else:
            return
        if believed is None:
            return  # whoever got here did not need it
        self._note(node, believed, implicit=node.info is None)

    def _note(self, node: Node, believed: Believed, *, implicit: bool = False) -> None:
        described, until = believed
        if node.record is None:
            node.record = Record(described, until, implicit=implicit)
        else:
            node.record.described, node.record.until = described, until
            node.record.implicit = implicit

    def of(self, node: Node, now: float) -> Attributes:
        """Return what is kept, and was set, and the size."""
        del now
        record = node.record
        if record is None:  # which is not to be stored
            unkept = self._describer.unkept(self._mounted_at, directory=node.is_directory)
            record = Record(unkept.described, unkept.until, implicit=True)
        inode = inode_of(node, record)
        info = None if node.is_directory else node.info
        size, mode = (info.size if info else 0), inode.mode
        if info is not None and info.archived:
            mode = stat.S_IFMT(mode)  # nobody can read it before it is restored
        if node.upload is not None and node.upload.failed is None:
            size = node.upload.size
        return Attributes(
            ino=node.ino,
            size=size,
            mode=mode,
            nlink=self._links(node),
            uid=inode.uid,
            gid=inode.gid,
            atime=inode.atime,
            mtime=inode.mtime,
            ctime=inode.ctime,
            rdev=inode.rdev,
        )

    def _links(self, node: Node) -> int:
        if not node.is_directory:
            return 1
        inside = self._core.metadata.subdirectories(node.key)
        return _NO_TRACK if inside is None else 2 + inside

    def seconds(self, node: Node, seconds: float, now: float) -> float:
        """Return for how much of `seconds` the record is believed, too."""
        del now
        record = node.record
        if record is None or record.changes or node.local:
            return seconds
        return max(min(seconds, record.until - self._core.metadata.now()), 0.0)

    def kind(self, listing: Listing, number: int, *, directory: bool) -> int:
        """Return DT_* of what is known; programs that need to know the rest ask."""
        if directory:
            return DT_DIR
        named = listing.named(number)
        info = named[1].info if named else None
        if info is None:
            return DT_REG  # it is being written here
        if (believed := self._describer.known(info)) is not None:
            return stat.S_IFMT(believed.described.inode.mode) >> 12
        return DT_REG if info.size >= _PATH_MAX else DT_UNKNOWN

    # -- setting --------------------------------------------------------------------------------

    def is_fresh(self, node: Node) -> bool:
        """Tell whether what is known of a node needs no new look."""
        record = node.record
        if record is None or record.changes or node.local or node.gone:
            return record is not None
        return record.until > self._core.metadata.now()

    def record(self, node: Node) -> Record:
        """Return the record of a node that the kernel knows."""
        if node.record is None:
            raise FileSystemError(errno.ESTALE, f"nothing is known of {node.key!r}")
        return node.record

    def inode(self, node: Node) -> Inode:
        """Return the inode of a node as it is now."""
        return inode_of(node, self.record(node))

    async def change(self, node: Node, overrides: Overrides) -> None:
        """Set mode, owner and times.

        Raises:
            FileSystemError: EACCES, it is archived, and an archived object cannot be copied;
                ENOSPC, S3 has no room for it.
        """
        await self._core.know(node)
        inode = self.inode(node)
        wanted: dict[str, Any] = {
            name: value
            for name, value in overrides._asdict().items()
            if value is not None and name != "until"
        }
        if "mode" in wanted:
            wanted["mode"] = stat.S_IFMT(inode.mode) | stat.S_IMODE(wanted["mode"])
        elif wanted.keys() & {"uid", "gid"}:
            wanted = without_privileges(inode) | wanted
        self.set(node, **wanted)

    def set(self, node: Node, **fields: Any) -> None:  # noqa: ANN401  the fields of an Inode
        """Set fields of an inode; the same errors.

        What is so already is not set again: it would cost a request, and change nothing but the
        time of the change.
        """
        record, inode = self.record(node), self.inode(node)
        wanted = inode._replace(**fields)
        lists = wanted.xattrs.get(acl.ACCESS)
        if lists is not None and "xattrs" not in fields and wanted.mode != inode.mode:
            changed = {**wanted.xattrs, acl.ACCESS: acl.chmod(lists, wanted.mode)}
            wanted, fields = wanted._replace(xattrs=changed), fields | {"xattrs": changed}
        if wanted == inode:
            return
        if node.info is not None and node.info.archived and not self._goes_along(node):
            advice = self._core.advice(node.info)
            raise FileSystemError(errno.EACCES, advice, logging.WARNING)
        self._check_room(node, wanted, record)
        record.set(**fields)
        upload = node.upload
        if not (node.gone or self._goes_along(node)) or (upload is not None and upload.sealed):
            self._pending.add(node)

    def _check_room(self, node: Node, wanted: Inode, record: Record) -> None:
        size = largest_size(wanted, record.described.rest)
        if size > METADATA_MAX:
            text = f"{node.key!r} would have {size} bytes of metadata; S3 takes {METADATA_MAX}"
            raise FileSystemError(errno.ENOSPC, text, logging.INFO)

    def kill_privileges(self, node: Node) -> None:
        """Take setuid, setgid and capabilities away."""
        if node.record is None:  # it was opened with a worker before this one
            self._core.spawn(self._look_and_kill_privileges(node), "metadata_failed", node)
        elif less := without_privileges(self.inode(node)):
            self.set(node, **less)

    async def _look_and_kill_privileges(self, node: Node) -> None:
        with self._core.nodes.pinned(node):
            await self._core.know(node)
            if node.record is not None:
                self.kill_privileges(node)

    def made(self, node: Node, parent: Node, made: Made) -> None:
        """Note what a new node is; the store gets it with the node's first bytes."""
        node.record = Record(Described(self.inherited(parent, made), {}), FOREVER)

    def inherited(self, parent: Node, made: Made) -> Inode:
        """Return the inode of what is made in a directory."""
        above = None if parent.record is None else inode_of(parent, parent.record)
        return inherited(above, made, time.time_ns())

    def became(self, node: Node, info: ObjectInfo, described: Described) -> None:
        """Take note that a node was stored as `info` and carries what is `described`."""
        self._note(node, self._describer.stored(info, described))

    def learned(self, info: ObjectInfo, described: Described, node: Node | None = None) -> None:
        """Take note of what a version carries, and `node`, if there is one yet, that is it."""
        self._describer.learned(info, described)
        if node is not None and node.record is not None:
            node.record.described = described

    # -- keeping --------------------------------------------------------------------------------

    @staticmethod
    def _goes_along(node: Node) -> bool:
        """Tell whether bytes are going to be stored, which take changes along."""
        upload = node.upload
        return upload is not None and upload.failed is None and upload.dirty

    def moved(self, node: Node) -> None:
        """Remember that the object of another key carries the same."""
        if node.info is not None and node.record is not None:
            self._describer.stored(node.info, node.record.described)

    def upload_ended(self, node: Node) -> None:
        """Store by themselves what did not go along with bytes."""
        if node.record is not None and node.record.changes and not node.gone:
            self._pending.add(node)

    async def flush(self, node: Node) -> None:
        """Return when the store has what was set."""
        await self._pending.flush(node)

    def check(self, node: Node) -> None:
        """Raise what failed since somebody has asked, once."""
        record = node.record
        if record is not None and record.failed is not None:
            failed, record.failed = record.failed, None
            raise failed

    async def close(self) -> None:
        """Store everything that was set, and ask for nothing more."""
        await self._ahead.close()
        await self._pending.close()
        await self._describer.close()

    async def _store_changes(self, node: Node) -> None:
        """Store what was set of a node, if nothing else does."""
        record = node.record
        if record is not None and record.changes and node.upload is not None:
            await node.upload.carry()  # it may be stored by the next worker
        async with self.store.turns.of(self._key_of(node)):
            if record is None or not record.changes or self._goes_along(node):
                return
            changes = dict(record.changes)
            try:
                await self._send(node, record)
            except ServeError as error:
                self._lost(node, error)
                raise
            finally:
                record.take_back(changes)
        if record.changes:
            self._pending.add(node)

    async def _send(self, node: Node, record: Record) -> None:
        if node.gone:
            if not node.unlinked:
                raise FileSystemError(errno.ESTALE, f"{node.key!r} is another one by now")
            return
        # Somebody may look at the object meanwhile, and learn more of it: as it was before this.
        inode, described = inode_of(node, record), record.described
        headers = encode(inode, described.rest)
        if node.is_directory and (node.info is None or not node.info.size):
            info = await self.store.put_in_turn(self._key_of(node), headers)
        elif node.info is not None:
            info = await self.store.set_headers(node.info, headers)
        else:
            return  # it was never stored, and its bytes are lost
        rest = {name: headers[name] for name in described.rest}
        self.became(node, info, described._replace(inode=inode, rest=rest))
        self._is_now(node, info)

    def _is_now(self, node: Node, info: ObjectInfo) -> None:
        """Let a node be another version with the same bytes."""
        old, node.info = node.info, info
        if old is not None and node.cached_etag == old.etag:
            node.cached_etag = info.etag
        upload = node.upload
        if upload is not None and old is not None:
            upload.succeed(old, info)
        if node.parent is not None:
            entry = Entry(node.is_directory, info)
            self._core.metadata.change(node.parent.key, node.name, entry)

    def _lost(self, node: Node, error: ServeError) -> None:
        """See to it that what is shown is what is there."""
        if isinstance(error, StoreError) and error.fault in {Fault.CHANGED, Fault.NOT_FOUND}:
            self._describer.forget(self._key_of(node))
            if node.parent is not None and not node.gone:
                self._core.metadata.forget(node.parent.key, node.name)

    # -- what is written by others (fs.keepingstore.Keeper) -------------------------------------

    def snapshot(self, key: str, *, whole: bool) -> Snapshot | None:
        """Return what an object shall carry that gets other bytes."""
        node = self._core.nodes.at(key)
        if node is None or node.record is None:
            return None
        return snapshot(node, node.record, whole=whole)

    def carried(self, key: str) -> dict[str, str] | None:
        """Return what the whole of a file is to be stored with, if that is known."""
        kept = self.snapshot(key, whole=True)
        return kept.headers if kept is not None else None

    def stored(self, key: str, info: ObjectInfo, kept: Snapshot) -> None:
        """Take note that an object was stored with a snapshot."""
        node = self._core.nodes.at(key)
        if node is None or node.record is None:
            return
        inode = kept.inode
        if not kept.timed:
            inode = inode._replace(atime=info.mtime, mtime=info.mtime, ctime=info.mtime)
        rest = {name: kept.headers[name] for name in kept.rest if name in kept.headers}
        self.became(node, info, node.record.described._replace(inode=inode, rest=rest))
        node.record.take_back(kept.changes)
        if node.record.changes:
            self._pending.add(node)
        else:
            self._pending.drop(node)

    def deleted(self, key: str) -> None:
        """Take note that an object is gone."""
        self._describer.forget(key)
        node = self._core.nodes.at(key)
        if node is not None and node.record is not None:
            node.record.changes.clear()
            self._pending.drop(node)


def _conforms(posix: Posix) -> tuple[Inodes, Keeper]:
    """Have the type checker hold this class against the protocols."""
    return posix, posix
