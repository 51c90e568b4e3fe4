"""Renaming: what may take whose place, and how a file does.

S3 gives nothing another key, so a file is copied to its new key, the copy is looked at, and then
the original is deleted. Right before that this mount changes its mind about the names, in one
step, so that no program finds a name without a file: the node moves with all who have it open,
and those who read it go on reading the same bytes at the new key.

Directories are in `treerename`.
"""

import contextlib
import errno
import logging
from typing import NamedTuple

from fuse_s3_worker.cache.entries import ABSENT, Entry
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.lasting import lasting
from fuse_s3_worker.fs.names import can_be_directory
from fuse_s3_worker.fs.namespace import Namespace
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.places import Move, Place, renaming
from fuse_s3_worker.fs.treerename import TreeRenames
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo, same_version
from fuse_s3_worker.transfer.copying import Copier

__all__ = ["RENAME_NOREPLACE", "Renames"]

_log = logging.getLogger(__name__)

RENAME_NOREPLACE = 1  # linux/fs.h
_GONE = frozenset({Fault.CHANGED, Fault.NOT_FOUND})


class _Copied(NamedTuple):
    """An original and its copy; None for both when nothing of a file is stored.

    `alone` tells that the original is gone already.
    """

    original: ObjectInfo | None
    made: ObjectInfo | None
    alone: bool = False


_NOTHING = _Copied(None, None)


class Renames:
    """The operation rename.

    Attributes:
        trees: renames of directories, and how far those are that are under way.
    """

    def __init__(
        self, core: Core, files: Files, names: Namespace, copier: Copier, trees: TreeRenames
    ) -> None:
        self.trees = trees
        self._core = core
        self._files = files
        self._names = names
        self._copier = copier

    async def rename(
        self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int, *, resent: bool = False
    ) -> None:
        """Give a name (a directory's node id, and the name in it) another one.

        `resent` tells that an earlier worker was asked for it and has not answered.

        Raises:
            FileSystemError: ENOENT; EEXIST, with RENAME_NOREPLACE; EINVAL for other flags, and
                for a directory below itself; EISDIR, ENOTDIR, ENOTEMPTY; EBUSY, parts of the
                file are sent already; EXDEV, there are too many keys below.
            StoreError: it cannot be done; CHANGED, another client has changed the file.
        """
        if flags & ~RENAME_NOREPLACE:
            raise FileSystemError(errno.EINVAL, f"rename with the flags {flags:#x}")
        source, target = self._place(*old), self._place(*new)
        if resent:
            await self.trees.resumed.wait()
        for place in (source, target):
            await self._core.settled(place.key)
            await self._core.settled_below(f"{place.key}/")
        with contextlib.ExitStack() as stack:
            for parent in (source.parent, target.parent):
                stack.enter_context(self._core.nodes.pinned(parent))
            if resent and await self._is_done(source, target):
                return
            node = await self._find(*old)
            if node is None:
                raise FileSystemError(errno.ENOENT, f"{source.key!r} does not exist")
            stack.enter_context(self._core.nodes.pinned(node))
            exclusive = bool(flags & RENAME_NOREPLACE)
            there = await self._find(*new, fresh=exclusive)
            move = Move(node, source, target, there, exclusive)
            if resent and self._has_begun(move):
                move = move._replace(exclusive=False, begun=True)
            await self._rename(move)

    async def _rename(self, move: Move) -> None:
        with self._core.nodes.pinned(move.there or move.node):
            if move.there is not move.node or move.exclusive:
                _check(move)
                await self._claim_and_move(move)

    def _place(self, parent_id: int, name: bytes) -> Place:
        parent = self._core.directory(parent_id)
        return Place(parent, self._core.name(parent, name))

    async def _find(self, parent_id: int, name: bytes, *, fresh: bool = False) -> Node | None:
        if fresh:
            await self._core.look(*self._place(parent_id, name), fresh=True)
        found = self._names.lookup_nowait(parent_id, name)
        if found is None:
            found = await self._names.lookup(parent_id, name)
        return found.node if isinstance(found, Found) else None

    # -- again ----------------------------------------------------------------------------------

    async def _is_done(self, source: Place, target: Place) -> bool:
        """See how far an earlier worker has come; if it has done it, do what comes after the keys.

        If it has not, the node is where it was.
        """
        core, node = self._core, self._begun(source, target)
        if node is None:
            return False
        left, made = [(await core.look(*place, fresh=True)).entry for place in (source, target)]
        if left is None and made is None:
            return False
        within = (source.parent, target.parent)
        async with core.claims.moving(node, within=within):
            if left is not None:
                await self._take_back(node, source, target, left)
            else:
                await self._follow(node, source, target, made)
        if left is not None:
            return False
        core.attempts.end(*renaming(node, source, target))
        self._names.keep(source.parent)
        return True

    def _begun(self, source: Place, target: Place) -> Node | None:
        """Return the node that an earlier worker has begun to rename, wherever it is now."""
        for node in (source.node, target.node):
            if node is not None and self._core.attempts.before(*renaming(node, source, target)):
                return node
        return None

    async def _follow(self, node: Node, source: Place, target: Place, made: Entry | None) -> None:
        """Move a node whose key is moved.

        As a rule that was done before the original was deleted, but not where the store renames.
        """
        self._core.metadata.change(source.parent.key, source.name, ABSENT)
        there = target.node
        if there is not node:
            self._core.nodes.move(node, target.parent, target.name)
            self._core.update(node, made.info if made is not None else None)
            await self._settle_replaced(there)

    async def _take_back(self, node: Node, source: Place, target: Place, left: Entry) -> None:
        """Move a node back whose key is not moved."""
        if node is source.node:
            return
        if node.is_directory:
            self.trees.take_back(node, source)
        elif left.info is not None:
            made = node.info or left.info._replace(key=target.key)
            await self._switch(target, source, node, _Copied(made, left.info))
        self._core.metadata.forget(target.parent.key, target.name)

    def _has_begun(self, move: Move) -> bool:
        """Tell whether what is at the new place may be what an earlier worker has put there."""
        node, there, before = move.node, move.there, self._core.attempts.before
        if node.is_directory:
            return before(*move.change)
        if there is None or there.info is None or node.info is None:
            return False
        same = there.info.size == node.info.size
        return same and before(*move.copy)

    async def _claim_and_move(self, move: Move) -> None:
        node, there = move.node, move.there
        moving = (node,) if there is None else (node, there)
        within = (move.source.parent, move.target.parent)
        async with self._core.claims.moving(*moving, within=within):
            if move.source.node is not node or move.target.node is not there:
                text = f"{move.source.key!r} or {move.target.key!r} is another one by now"
                raise FileSystemError(errno.ESTALE, text)  # the kernel looks, and tries again
            try:
                if node.is_directory:
                    await self.trees.move(move)
                else:
                    async with lasting(self._core, there):
                        await self._move_file(move)
            finally:
                for change in (move.change, move.copy):
                    self._core.attempts.end(*change)
            await self._settle_replaced(there)
        self._names.keep(move.source.parent)

    async def _settle_replaced(self, there: Node | None) -> None:
        """What had the name is gone: what is still written to it leads nowhere."""
        if there is None:
            return
        there.unlinked = there.replaced = True
        self._names.replaced(there)
        if there.upload is not None:
            await there.upload.discard()

    # -- a file ---------------------------------------------------------------------------------

    async def _move_file(self, move: Move) -> None:
        node, upload = move.node, move.node.upload
        streams = self._files.streams_below(node)
        for stream in streams:
            stream.begin_move()
        try:
            if upload is not None:
                await upload.hold()
            await self._let_borrowers_take(move)
            await self._core.inodes.flush(node)
            if move.exclusive:
                self._core.attempts.begin(*move.copy)
            copied = await self._copy(move)
            await self._switch(move.source, move.target, node, copied)
            await self._delete_original(move, copied)
        finally:
            for stream in streams:
                stream.end_move()
            if upload is not None:
                upload.unhold()

    async def _let_borrowers_take(self, move: Move) -> None:
        """Have files that are made of bytes of either object take them before they are gone."""
        for place in (move.source, move.target):
            await self._core.writers.staging.about_to_change(place.key)

    async def _copy(self, move: Move) -> _Copied:
        """Make the copy, of whatever there is of the file in the bucket."""
        node, store = move.node, self._core.store
        if node.info is not None:
            return await self._copy_newest(move, node.info)
        if node.covers:  # what it has replaced by an earlier rename is not to come back
            await store.delete(move.source.key)
        return _NOTHING

    async def _copy_newest(self, move: Move, info: ObjectInfo) -> _Copied:
        store = self._core.store
        try:
            return await self._copy_version(move, info)
        except StoreError as error:
            if error.fault not in _GONE:
                raise
            if move.exclusive:
                await self._see_vacant(move.target)
            if not move.node.local:
                self._core.metadata.forget(move.source.parent.key, move.source.name)
                raise
        # It is being written here, so whatever another client made of it will be replaced.
        try:
            newer = await store.head(move.source.key)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return _NOTHING
            raise
        return await self._copy_version(move, newer)

    async def _copy_version(self, move: Move, info: ObjectInfo) -> _Copied:
        store, key = self._core.store, move.target.key
        if store.renames:
            self._core.attempts.begin(*move.change)
            try:
                made = await store.rename_object(info, key, exclusive=move.exclusive)
            except StoreError as error:
                if error.fault is not Fault.NOT_IMPLEMENTED:  # as in a Dedicated Local Zone
                    raise
            else:
                return _Copied(info, made, alone=True)
        made = await self._copier.copy_checked(info, key, exclusive=move.exclusive)
        return _Copied(info, made)

    async def _see_vacant(self, target: Place) -> None:
        known = await self._core.look(target.parent, target.name, fresh=True)
        if known.entry is not None:
            raise FileSystemError(errno.EEXIST, f"{target.key!r} exists by now")

    async def _switch(self, source: Place, target: Place, node: Node, copied: _Copied) -> None:
        """Have the node, and all who have it open, at its new place."""
        core, (original, made, _) = self._core, copied
        there = target.node
        core.metadata.change(source.parent.key, source.name, ABSENT)
        if made is not None:
            core.metadata.change(target.parent.key, target.name, Entry.file(made))
        core.nodes.move(node, target.parent, target.name)
        if original is None or made is None:
            node.info, node.covers = None, there is not None
        else:
            self._files.moved(node, original, made)
        if node.upload is not None:
            base, followed = node.upload.base, None
            if base is not None and original is not None and same_version(base, original):
                followed = made
            await node.upload.retarget(target.key, followed)

    async def _delete_original(self, move: Move, copied: _Copied) -> None:
        """Delete the original; if that cannot be, everything is as it was, as far as can be."""
        original, made, alone = copied
        if original is None or made is None or alone:
            return
        self._core.attempts.begin(*move.change)
        try:
            theirs = not await self._core.store.delete_version(original)
        except StoreError as error:
            theirs = await self._undo(move, original, made, error)
        if theirs:
            # Another client has stored a new one there meanwhile, which is a file of its own.
            self._core.metadata.forget(move.source.parent.key, move.source.name)

    async def _undo(
        self, move: Move, original: ObjectInfo, made: ObjectInfo, error: StoreError
    ) -> bool:
        """Take a rename back whose original cannot be deleted, if it is there indeed.

        The request may have done its work, and only the reply be lost; to remove the copy as well
        would be the end of the file.

        Returns:
            Whether there is another client's file at the old place; False when there is none.

        Raises:
            StoreError: `error`, the original is there, or nobody knows.
        """
        try:
            found = await self._core.store.head(original.key)
        except StoreError as unknown:
            if unknown.fault is Fault.NOT_FOUND:
                return False
            self._core.metadata.forget(move.source.parent.key, move.source.name)
            self._tell_not_undone(move, error)
            raise error from unknown
        if not same_version(found, original):
            return True
        await self._switch(move.target, move.source, move.node, _Copied(made, original))
        self._core.metadata.forget(move.target.parent.key, move.target.name)
        await self._remove_copy(move, made, error)
        raise error

    async def _remove_copy(self, move: Move, made: ObjectInfo, error: StoreError) -> None:
        """Remove a copy in vain, unless it has replaced something."""
        try:
            if move.there is None:
                await self._core.store.delete_version(made)
                return
        except StoreError:
            pass  # for the same reason, as a rule
        self._tell_not_undone(move, error)

    def _tell_not_undone(self, move: Move, error: StoreError) -> None:
        details: dict[str, object] = {"from": move.source.key, "to": move.target.key}
        details |= {"reason": error, "advice": "the file may have both names: see which to remove"}
        event(_log, logging.ERROR, "rename_not_undone", details | error.details)


def _check(move: Move) -> None:
    """See that the one may take the place of the other; see rename(2).

    Raises:
        FileSystemError: it may not.
    """
    node, there, key = move.node, move.there, move.target.key
    if move.exclusive and there is not None:
        raise FileSystemError(errno.EEXIST, f"{key!r} exists")
    if not node.is_directory:
        if there is not None and there.is_directory:
            raise FileSystemError(errno.EISDIR, f"{key!r} is a directory")
        return
    if move.target.parent.is_below((node,)):
        raise FileSystemError(errno.EINVAL, f"{key!r} is below {node.key!r}")
    if there is not None and not there.is_directory:
        raise FileSystemError(errno.ENOTDIR, f"{key!r} is no directory")
    if not can_be_directory(key):
        raise FileSystemError(errno.ENAMETOOLONG, "no room for a slash behind this key")
