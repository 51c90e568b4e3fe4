"""Renaming directories: what `treemove` does to keys, done to nodes, open files and listings.

While everything is copied, all goes on under the old keys; who would change something below waits.
When every copy is there, and before the first original is deleted, this mount changes its mind
about all names in one step: nodes have their new keys, streams read on at the new ones, and what
was remembered of either place is forgotten or known anew.
"""

import asyncio
import errno
import logging
from typing import NamedTuple

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import ABSENT, Entry
from fuse_s3_worker.errors import FileSystemError, ServeError, StoreError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.directories import Directories
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.movejournal import Journals, Unfinished
from fuse_s3_worker.fs.moveplan import Plan
from fuse_s3_worker.fs.names import DIRECTORY_TYPE, KEY_MAX, nameable
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.places import Move, Place
from fuse_s3_worker.fs.treemove import Progress, TooManyKeysError, TreeMove
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import Body, ObjectInfo, same_version
from fuse_s3_worker.transfer.copying import Copier
from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["Moving", "TreeRenames"]

_log = logging.getLogger(__name__)

_EMPTY = Body((), 0)
_LEARN_MAX = 10_000  # keys of a new place that are remembered; more would be out of date at once
_LONG = 10.0  # seconds, after which it is worth a line that a rename is done


class Moving(NamedTuple):
    """The terms of renames.

    Attributes:
        limit: keys of a directory that is renamed at most.
        connections: copies that are made at once.
        journals: where renames are written down, so that the next mount can finish them.
    """

    limit: int = 100_000
    connections: int = 32
    journals: Journals | None = None


class TreeRenames:
    """Renames of directories.

    Attributes:
        under_way: how far those are that are being done.
        resumed: set as long as none of a worker before this one is being finished.
    """

    def __init__(
        self,
        core: Core,
        files: Files,
        directories: Directories,
        copier: Copier,
        terms: Moving,
    ) -> None:
        self.under_way: list[Progress] = []
        self.resumed = asyncio.Event()
        self.resumed.set()
        self._core = core
        self._files = files
        self._directories = directories
        self._copier = copier
        self._limit = terms.limit
        self._journals = terms.journals

    async def move(self, move: Move) -> None:
        """Rename a directory; nobody changes anything below it, or at its new place, meanwhile.

        Raises:
            FileSystemError: ENOTEMPTY, EXDEV, EBUSY, ENAMETOOLONG, ENOENT; EIO, see the log.
            StoreError: it cannot be done, and has not been.
        """
        target = f"{move.target.key}/"
        if not move.begun:
            await self._see_empty(target, move.there)
        tree = TreeMove(self._core.store, self._copier, Plan(move.node.key, target))
        writing = [node for node in move.node.tree() if node.upload is not None]
        self.under_way.append(tree.progress)
        try:
            for node in writing:
                await _upload_of(node).hold()
            await self._core.writers.staging.about_to_change_below(move.node.key)
            for node in move.node.tree():
                await self._core.inodes.flush(node)
            await self._look(tree, move)
            self._core.attempts.begin(*move.change)
            until = await self._copy(tree)
            await self._directories.complete_below(move.node)
            await self._switch(move, tree, until)
            await self._delete(tree)
        finally:
            for node in writing:
                _upload_of(node).unhold()
            self.under_way.remove(tree.progress)
        if tree.progress.left:  # other clients have made the directory anew
            self._core.metadata.forget(move.source.parent.key, move.source.name)

    async def _see_empty(self, target: str, there: Node | None) -> None:
        """See that nothing but a marker is at the new place.

        Raises:
            FileSystemError: ENOTEMPTY.
        """
        page = await self._core.store.list_page(target, max_keys=2)
        inside = there is not None and any(child.local for child in there.children.values())
        if inside or any(info.key != target for info in page.objects):
            raise FileSystemError(errno.ENOTEMPTY, f"{target!r} is not empty")

    async def _look(self, tree: TreeMove, move: Move) -> None:
        """Find out what there is to be moved, and write it down."""
        try:
            await tree.look(self._limit)
        except TooManyKeysError:
            text = f"more than {self._limit} keys below {tree.plan.source!r}: rename_dir_limit="
            raise FileSystemError(errno.EXDEV, text, logging.INFO) from None
        names = (tree.plan.name(row) for row in range(len(tree.plan)))
        if any(len((tree.plan.target + name).encode()) > KEY_MAX for name in names):
            text = f"a key below {tree.plan.target!r} would have more than 1,024 bytes"
            raise FileSystemError(errno.ENAMETOOLONG, text)
        if not len(tree.plan):
            await self._make_marker(tree.plan.target, move)
        elif self._journals is not None:
            tree.journal = await asyncio.to_thread(self._journals.create)
            if tree.journal is not None:
                await tree.journal.begin(tree.plan)

    async def _make_marker(self, target: str, move: Move) -> None:
        """Have something at the new place of a directory that exists on this mount alone."""
        if not any(node.local for node in move.node.tree()):
            self._core.metadata.forget(move.source.parent.key, move.source.name)
            raise FileSystemError(errno.ENOENT, f"{move.node.key!r} does not exist any more")
        await self._core.store.put(target, _EMPTY, content_type=DIRECTORY_TYPE)

    async def _copy(self, tree: TreeMove) -> float:
        """Make the copies, or none; return until when what is at the new place is believed."""
        try:
            await tree.copy()
            until = self._core.metadata.until()
            await tree.check()
        except ServeError as error:
            self._tell("rename_failed", tree.progress, error)
            await tree.undo()
            raise _as_failure(error) from error
        return until

    async def _switch(self, move: Move, tree: TreeMove, until: float) -> None:
        """Have all nodes, and all who have them open, at the new place."""
        core, node, plan = self._core, move.node, tree.plan
        core.nodes.move(node, move.target.parent, move.target.name)
        core.metadata.forget_below(plan.source)
        core.metadata.forget_below(plan.target)
        retargeted = [self._node_moved(below, tree) for below in node.tree()]
        self._directories.moved(node)
        if len(tree.made) <= _LEARN_MAX:
            self._learn(tree, until)
        core.metadata.change(move.source.parent.key, move.source.name, ABSENT)
        entry = Entry.folder(node.info)
        core.metadata.change(move.target.parent.key, move.target.name, entry)
        for below, base in retargeted:
            if below.upload is not None:
                await below.upload.retarget(below.key, base)

    def _node_moved(self, node: Node, tree: TreeMove) -> tuple[Node, ObjectInfo | None]:
        """Give a node that has another key the object of that key.

        Returns:
            The node, and what the object that its upload goes on from has become.
        """
        original, base = node.info, None
        if original is None:
            return node, None
        row = tree.made.find(node.key.removeprefix(tree.plan.target))
        made = tree.made.entry(row).info if row is not None else None
        made = made or original._replace(key=node.key)
        if node.is_directory:
            node.info = made
            self._core.inodes.moved(node)
            return node, None
        if node.upload is not None and node.upload.base is not None:
            base = made if same_version(node.upload.base, original) else None
        self._files.moved(node, original, made)
        if self._core.kernel is not None:
            self._core.kernel.invalidate(node.id)
        return node, base

    def _learn(self, tree: TreeMove, until: float) -> None:
        """Remember what is at the new place as if each directory had been listed."""
        metadata = self._core.metadata
        if metadata.lifetime <= 0:
            return
        for key, entries in _by_directory(tree.made).items():
            columns = Columns(key)
            columns.hear(until)
            for name in sorted(entries, key=lambda name: f"{name}/"):
                entry = entries[name]
                columns.append(name, None if entry.directory else entry.info, until)
            metadata.learn_listing(key, columns, metadata.changes(key), complete=True)

    async def _delete(self, tree: TreeMove) -> None:
        """Delete the originals; everything is at the new place, whatever comes of it."""
        try:
            await tree.delete()
        except StoreError as error:
            self._tell("rename_left_originals", tree.progress, error)
            if tree.journal is not None:
                tree.journal.close()  # it stays, for the next mount
            raise _as_failure(error) from error
        await tree.finish()
        details = tree.progress.details()
        level = logging.INFO if tree.progress.seconds >= _LONG else logging.DEBUG
        event(_log, level, "renamed", details)

    def _tell(self, what: str, progress: Progress, error: ServeError) -> None:
        event(_log, logging.ERROR, what, progress.details() | {"reason": error} | error.details)

    def take_back(self, node: Node, source: Place) -> None:
        """Have all nodes at the old place again, where some of the keys still are.

        Not what is listed: all of that is at the new one.
        """
        core = self._core
        core.metadata.forget_below(node.key)
        core.nodes.move(node, source.parent, source.name)
        core.metadata.forget_below(node.key)

    # -- what others have left undone -----------------------------------------------------------

    async def resume(self) -> None:
        """Finish the renames that a worker before this one has begun."""
        if self._journals is None:
            return
        self.resumed.clear()
        try:
            await self._core.settled_below("")  # what is stored under an old key is moved, too
            for unfinished in await asyncio.to_thread(self._journals.unfinished):
                await self._resume(unfinished)
        finally:
            self.resumed.set()

    async def _resume(self, unfinished: Unfinished) -> None:
        core, plan = self._core, unfinished.plan
        source, target = self._directory(plan.source), self._directory(plan.target)
        if source is None or target is None:
            unfinished.journal.close()  # it is of another prefix
            return
        tree = TreeMove(core.store, self._copier, plan)
        tree.journal = unfinished.journal
        self.under_way.append(tree.progress)
        try:
            async with core.claims.moving(source, target, within=()):
                await self._finish(tree, undo=unfinished.undo)
        except ServeError as error:
            self._tell("rename_not_resumed", tree.progress, error)
            unfinished.journal.close()
        finally:
            self.under_way.remove(tree.progress)
            for node in (source, target):
                core.metadata.forget_below(node.key)
                if node.parent is not None:
                    core.metadata.forget(node.parent.key, node.name)
                core.nodes.unpin(node)

    async def _finish(self, tree: TreeMove, *, undo: bool) -> None:
        await tree.resume()
        event(_log, logging.WARNING, "rename_resumed", tree.progress.details() | {"undo": undo})
        if undo:
            await tree.undo()
            return
        await tree.copy()
        await tree.check()
        await tree.delete()
        await tree.finish()

    def _directory(self, key: str) -> Node | None:
        """Return the node of a directory's key, pinned; None when this mount does not have it."""
        node = self._core.nodes.root
        if not key.startswith(node.key) or key == node.key:
            return None
        for name in key.removeprefix(node.key).removesuffix("/").split("/"):
            node = self._core.nodes.child(node, name, directory=True)
        node.pins += 1
        return node


def _upload_of(node: Node) -> FileWriter:
    upload = node.upload
    assert upload is not None  # noqa: S101  whoever would end it waits for the rename
    return upload


def _as_failure(error: ServeError) -> ServeError:
    """Return what a program is told of a rename that failed on its way."""
    # ESTALE would have the kernel try again at once, and ENOENT is not about the directory.
    if error.errno in {errno.ESTALE, errno.ENOENT}:
        return FileSystemError(errno.EIO, str(error), logging.DEBUG)
    return error


def _by_directory(made: Columns) -> dict[str, dict[str, Entry]]:
    """Sort objects into directories, by their keys; see `names` for what has no path."""
    found: dict[str, dict[str, Entry]] = {made.key: {}}
    for row in range(len(made)):
        *above, name = made.name(row).decode("utf-8", "surrogatepass").split("/")
        if not all(map(nameable, above)):
            continue
        key = made.key
        for part in above:
            found[key][part] = Entry.folder()
            key += f"{part}/"
            found.setdefault(key, {})
        if nameable(name):
            found[key].setdefault(name, made.entry(row))
    return found
