"""Names: looking them up, making and removing directories, removing files."""

import asyncio
import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from fuse_s3_worker.cache.entries import ABSENT, Entry
from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.fs.attempts import Change
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.lasting import lasting
from fuse_s3_worker.fs.names import DIRECTORY_TYPE, can_be_directory
from fuse_s3_worker.fs.nodes import ROOT_ID, Node
from fuse_s3_worker.store.types import Body, ObjectInfo

__all__ = ["Namespace", "keys_stay"]

_T = TypeVar("_T")
_P = ParamSpec("_P")

_KEEP_AFTER = 1.0  # seconds until a directory that may have become empty is looked after
_EMPTY = Body((), 0)


class _Keeper(NamedTuple):
    """Who looks after a directory that may have become empty.

    `decision` tells whether it is to go on, and is done when that is settled.
    """

    decision: asyncio.Future[bool]
    ended: asyncio.Event


class _HasCore(Protocol):
    _core: Core


_H = TypeVar("_H", bound=_HasCore)
_Change = Callable[Concatenate[_H, int, _P], Coroutine[Any, Any, _T]]


def keys_stay(change: _Change[_H, _P, _T]) -> _Change[_H, _P, _T]:
    """Have the directory that a change is made in keep its key meanwhile; see `claims`."""

    async def claimed(self: _H, parent_id: int, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        core = self._core
        async with core.claims.changing(core.directory(parent_id)):
            return await change(self, parent_id, *args, **kwargs)

    functools.update_wrapper(claimed, change)
    return claimed


class Namespace:
    """Operations on names."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._keepers: dict[int, _Keeper] = {}

    # -- looking up -----------------------------------------------------------------------------

    def lookup_nowait(self, parent_id: int, name: bytes) -> Found | float | None:
        """Look `name` up without asking the store.

        Returns:
            The node; or for how many seconds it is known that there is none; or None, nothing
            is known.
        """
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        if (node := core.local(parent, text)) is not None:
            return core.found(node) if core.inodes.known(node) else None
        if core.unsettled(parent.key + text):
            return None
        known = core.resolver.known(parent.key, text)
        if known is None or not core.inodes.ready(parent.key, text, known.entry):
            return None
        if known.entry is None and core.unsettled_below(f"{parent.key}{text}/"):
            return None
        return self._settled(parent, text, known.entry, known.seconds_left)

    async def lookup(self, parent_id: int, name: bytes) -> Found | float:
        """Look `name` up; the same, but it always knows.

        Raises:
            StoreError: the store cannot be asked.
        """
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        await core.settled(parent.key + text)
        known = await core.look(parent, text)
        if known.entry is None and core.unsettled_below(f"{parent.key}{text}/"):
            await core.settled_below(f"{parent.key}{text}/")  # which makes it a directory
            known = await core.look(parent, text, fresh=True)
        known = await core.inodes.learn(parent.key, text, known)
        if (node := core.local(parent, text)) is not None:
            await core.know(node)
            return core.found(node)  # made while the store was asked
        return self._settled(parent, text, known.entry, known.seconds_left)

    def _settled(self, parent: Node, name: str, entry: Entry | None, left: float) -> Found | float:
        if entry is not None:
            return self._core.found(self._core.settle(parent, name, entry), left)
        if (stale := parent.children.get(name)) is not None:
            self._core.nodes.detach(stale)
        return left

    # -- making ---------------------------------------------------------------------------------

    @keys_stay
    async def mkdir(
        self, parent_id: int, name: bytes, made: Made | None = None, *, resent: bool = False
    ) -> Found:
        """Make a directory: write its marker.

        Here and below, `resent` tells that an earlier worker was asked for it and has not answered;
        if it has done it, that is no error.

        Raises:
            FileSystemError: EEXIST.
            StoreError: the marker cannot be written.
        """
        core = self._core
        if resent and (found := await self.made_before(parent_id, name, directory=True)):
            return found
        parent, text, vacant_until = await self.vacant(parent_id, name)
        if not can_be_directory(parent.key + text):
            raise FileSystemError(errno.ENAMETOOLONG, "no room for a slash behind this key")
        node = core.nodes.child(parent, text, directory=True)
        if made is not None:
            core.inodes.made(node, parent, made)
        changes = core.metadata.changes(node.key)
        try:
            with core.attempts.doing(Change.MAKE, node.key):
                await self._write_marker(node)
        except BaseException:
            core.nodes.drop_unused(node)
            raise
        # Whoever makes a directory mostly fills it next, and would ask for each name first.
        core.metadata.learn_empty(node.key, vacant_until, changes)
        return core.found(node)

    @keys_stay
    async def mknod(self, parent_id: int, name: bytes, *, resent: bool = False) -> Found:
        """Make an empty file."""
        core = self._core
        if resent and (found := await self.made_before(parent_id, name)):
            return found
        parent, text, _ = await self.vacant(parent_id, name)
        with core.attempts.doing(Change.MAKE, parent.key + text):
            info = await core.store.put(parent.key + text, _EMPTY)
        core.metadata.change(parent.key, text, Entry.file(info))
        return core.found(core.settle(parent, text, Entry.file(info)))

    async def vacant(self, parent_id: int, name: bytes) -> tuple[Node, str, float]:
        """Return a place for a new node that is free, and until when that is believed."""
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        known = None if core.local(parent, text) else await core.look(parent, text)
        if known is None or known.entry is not None:
            raise FileSystemError(errno.EEXIST, f"{parent.key + text!r} exists")
        return parent, text, core.metadata.now() + known.seconds_left

    async def made_before(
        self, parent_id: int, name: bytes, *, directory: bool = False
    ) -> Found | None:
        """Return what an earlier worker was asked to make, if it has."""
        core = self._core
        parent = core.directory(parent_id)
        key = parent.key + core.name(parent, name) + ("/" if directory else "")
        if not core.attempts.before(Change.MAKE, key):
            return None
        found = await self.lookup(parent_id, name)
        core.attempts.end(Change.MAKE, key)
        if isinstance(found, Found) and found.node.is_directory == directory:
            return found
        return None

    async def _write_marker(self, node: Node) -> ObjectInfo:
        info = await self._core.store.put(node.key, _EMPTY, content_type=DIRECTORY_TYPE)
        node.info = info
        if node.parent is not None:
            self._core.metadata.change(node.parent.key, node.name, Entry.folder(info))
        return info

    # -- removing -------------------------------------------------------------------------------

    @keys_stay
    async def unlink(self, parent_id: int, name: bytes, *, resent: bool = False) -> None:
        """Remove a file. One that is being written is there for those who have it open.

        Raises:
            FileSystemError: ENOENT, EISDIR.
            StoreError: the object cannot be deleted.
        """
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        await core.settled(parent.key + text)
        node = core.local(parent, text)
        entry = None if node else (await core.look(parent, text)).entry
        if node is None and entry is None:
            self._see_removed(parent, text, parent.key + text, resent=resent)
            return
        if (node and node.is_directory) or (entry and entry.directory):
            raise FileSystemError(errno.EISDIR, f"{parent.key + text!r} is a directory")
        await core.writers.staging.about_to_change(parent.key + text)
        async with lasting(core, parent.children.get(text)):
            with core.attempts.doing(Change.REMOVE, parent.key + text):
                await self._delete(parent, text)
            self._removed(parent, text)

    async def _delete(self, parent: Node, name: str) -> None:
        """Delete the object of a file; nothing that is written to it will be stored."""
        node = parent.children.get(name)
        upload = node.upload if node else None
        if upload is not None:
            await upload.discard()
        try:
            await self._core.store.delete(parent.key + name)
        except ServeError as error:
            if upload is not None:
                upload.fail(error)  # it stays, and what was written is lost: close(2) tells
            raise

    @keys_stay
    async def rmdir(self, parent_id: int, name: bytes, *, resent: bool = False) -> None:
        """Remove an empty directory, which means its marker.

        Raises:
            FileSystemError: ENOENT, ENOTDIR, ENOTEMPTY.
            StoreError: the marker cannot be deleted.
        """
        core = self._core
        parent = core.directory(parent_id)
        text = core.name(parent, name)
        node = core.local(parent, text)
        entry = Entry.folder() if node else (await core.look(parent, text)).entry
        if entry is None:
            self._see_removed(parent, text, f"{parent.key}{text}/", resent=resent)
            return
        if not entry.directory or (node and not node.is_directory):
            raise FileSystemError(errno.ENOTDIR, f"{parent.key + text!r} is no directory")
        key = f"{parent.key}{text}/"
        await core.settled_below(key)
        page = await core.store.list_page(key, max_keys=2)
        inside = parent.children.get(text)
        if any(info.key != key for info in page.objects) or (inside and _has_local(inside)):
            raise FileSystemError(errno.ENOTEMPTY, f"{key!r} is not empty")
        marked = bool(page.objects)
        if inside and await self._stop_keeping(inside):
            marked = True
        if marked:
            with core.attempts.doing(Change.REMOVE, key):
                await core.store.delete(key)
        self._removed(parent, text)

    def _see_removed(self, parent: Node, name: str, key: str, *, resent: bool) -> None:
        """See whether it was an earlier worker that removed what is not there.

        Raises:
            FileSystemError: ENOENT, it was not.
        """
        if not (resent and self._core.attempts.before(Change.REMOVE, key)):
            raise FileSystemError(errno.ENOENT, f"{parent.key + name!r} does not exist")
        self._core.attempts.end(Change.REMOVE, key)
        self._removed(parent, name)

    def _removed(self, parent: Node, name: str) -> None:
        core = self._core
        core.metadata.change(parent.key, name, ABSENT)
        if (node := parent.children.get(name)) is not None:
            node.unlinked = True
            core.nodes.detach(node)
        self.keep(parent)

    # -- directories that only their content made -----------------------------------------------

    def keep(self, directory: Node) -> None:
        """See to it that a directory does not vanish with the last thing in it.

        An implicit directory ends with its last key, which no program expects of a directory. It
        goes on here at once, and a moment later gets a marker if it is empty indeed; a moment,
        because whoever removed its content mostly removes it too.
        """
        if directory.id == ROOT_ID or directory.info is not None:
            return
        if directory.id in self._keepers or self._core.metadata.populated(directory.key):
            return
        line = _implicit_line(directory)
        for node in line:
            node.kept += 1
            node.pins += 1
        keeper = _Keeper(asyncio.get_running_loop().create_future(), asyncio.Event())
        self._keepers[directory.id] = keeper
        self._core.attempts.begin(Change.KEEP, directory.key)
        self._core.spawn(self._keep_for_good(line, keeper), "marker_failed", directory)

    def keep_left(self) -> None:
        """Do the same for those that a worker before this one has not lived to give a marker."""
        for key in self._core.attempts.left(Change.KEEP):
            node = self._core.nodes.at(key)
            if node is not None:
                self.keep(node)
            if node is None or node.id not in self._keepers:
                self._core.attempts.end(Change.KEEP, key)

    async def _keep_for_good(self, line: list[Node], keeper: _Keeper) -> None:
        """Write a marker if nothing is left, unless it is decided otherwise in the meantime."""
        directory, (decision, ended) = line[0], keeper
        begun = directory.key  # which may be another one by the end
        try:
            await asyncio.wait([decision], timeout=_KEEP_AFTER)
            if not decision.done() or decision.result():
                async with self._core.claims.changing(directory):
                    await self._keep_now(directory, decision)
        finally:
            ended.set()
            self._core.attempts.end(Change.KEEP, begun)
            del self._keepers[directory.id]
            for node in line:
                node.kept = max(node.kept - 1, 0)
                self._core.nodes.unpin(node)

    async def _keep_now(self, directory: Node, decision: asyncio.Future[bool]) -> None:
        if not decision.done():
            decision.set_result(True)
        if decision.result() and not (await self._first_key(directory)):
            await self._write_marker(directory)

    async def _first_key(self, directory: Node) -> bool:
        return bool((await self._core.store.list_page(directory.key, max_keys=1)).objects)

    async def _stop_keeping(self, directory: Node) -> bool:
        """Let a directory go that is removed; tell whether it may have got a marker by now."""
        keeper = self._keepers.get(directory.id)
        if keeper is None:
            return False
        if not keeper.decision.done():
            keeper.decision.set_result(False)
            return False
        await keeper.ended.wait()
        return True

    def replaced(self, directory: Node) -> None:
        """Let a directory go whose place another one has taken."""
        keeper = self._keepers.get(directory.id)
        if keeper is not None and not keeper.decision.done():
            keeper.decision.set_result(False)

    def hurry(self) -> None:
        """Look after all such directories now: the mount ends."""
        for decision, _ in self._keepers.values():
            if not decision.done():
                decision.set_result(True)


def _implicit_line(directory: Node) -> list[Node]:
    """Return a directory and those above that only exist because of it, as far as is known."""
    line, node = [directory], directory.parent
    while node is not None and node.id != ROOT_ID and node.info is None:
        line.append(node)
        node = node.parent
    return line


def _has_local(directory: Node) -> bool:
    """Tell whether something in a directory exists only here yet."""
    return any(child.local for child in directory.children.values())
