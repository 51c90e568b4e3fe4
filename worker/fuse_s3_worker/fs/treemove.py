"""Giving everything below one key another one, without a moment in which a key is at neither.

Everything is listed, then everything is copied, then the copies are listed and held against what
was to be copied, and only then the originals are deleted. A failure before that is undone: copies
are removed whose originals are there. From then on the new place is whole, and what may be left
of the old one is there twice.

Other clients may be at work in both places. What they store at the old one after it was listed is
theirs and stays there, as if it had come after the rename; so an original is deleted only as the
version that was copied, and the old place is listed once more, page by page, right before.

A journal, where there is one, has the list before the first copy is made. With it, whoever comes
next goes on: what is there as it should be is not copied again, and what another client has
stored meanwhile is left alone.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from time import monotonic

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.movejournal import Journal
from fuse_s3_worker.fs.moveplan import Plan, Rows
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo, ObjectStore, same_version
from fuse_s3_worker.transfer.copying import Copier

__all__ = ["Phase", "Progress", "TooManyKeysError", "TreeMove"]

_log = logging.getLogger(__name__)

_GONE = frozenset({Fault.CHANGED, Fault.NOT_FOUND})
_TELL_EVERY = 10.0  # seconds


class TooManyKeysError(Exception):
    """There are more keys than may be moved."""


class Phase(StrEnum):
    """What is being done."""

    LISTING = "listing"
    COPYING = "copying"
    CHECKING = "checking"
    DELETING = "deleting"
    UNDOING = "undoing"


@dataclass(slots=True)
class Progress:
    """How far a rename has come; whoever holds it sees it change.

    Attributes:
        source: what all keys begin with.
        target: what they begin with afterwards.
        phase: what is being done.
        keys: how many there are, as far as they were listed.
        size: bytes of them.
        copied: keys of which there is a copy.
        deleted: keys whose original is gone.
        left: keys that stay, because another client has stored something there.
        begun: when, by the monotonic clock, in seconds.
    """

    source: str
    target: str
    phase: Phase = Phase.LISTING
    keys: int = 0
    size: int = 0
    copied: int = 0
    deleted: int = 0
    left: int = 0
    begun: float = field(default_factory=monotonic)
    _told: float = field(default_factory=monotonic)

    @property
    def seconds(self) -> float:
        """How long it takes up to now."""
        return monotonic() - self.begun

    def details(self) -> dict[str, object]:
        """Return what the log says of it."""
        return {
            "from": self.source,
            "to": self.target,
            "phase": str(self.phase),
            "keys": self.keys,
            "copied": self.copied,
            "deleted": self.deleted,
            "left": self.left,
            "seconds": round(self.seconds, 1),
        }

    def step(self) -> None:
        """Say something now and then."""
        if monotonic() - self._told >= _TELL_EVERY:
            self._told = monotonic()
            event(_log, logging.INFO, "renaming", self.details())


class _State(IntEnum):
    """What is known of a key."""

    LISTED = 0
    COPIED = 1
    GONE = 2  # another client removed or replaced the original
    THEIRS = 3  # another client stored what is at the new place


class TreeMove:
    """One rename: `look`, `copy`, `check`, `delete`; `undo` after a failure of the first three.

    Attributes:
        plan: what is moved.
        progress: how far it is.
        made: what is at the new place, once it was checked.
    """

    def __init__(self, store: ObjectStore, copier: Copier, plan: Plan) -> None:
        self.plan = plan
        self.progress = Progress(plan.source, plan.target)
        self.made = Columns(plan.target)
        self.journal: Journal | None = None
        self._store = store
        self._copier = copier
        self._states = bytearray(len(plan))

    async def look(self, limit: int) -> None:
        """Take note of everything there is.

        Raises:
            TooManyKeysError: it is more than `limit` keys.
        """

        async def take(page: list[ObjectInfo]) -> None:
            for info in page:
                self.plan.add(info)
                self.progress.size += info.size
            self.progress.keys = len(self.plan)
            if len(self.plan) > limit:
                raise TooManyKeysError

        await self._each_page(self.plan.source, take)
        self._states = bytearray(len(self.plan))

    async def copy(self) -> None:
        """Make all copies.

        Raises:
            StoreError: one of them cannot be made; those that were under way have ended.
        """
        self.progress.phase = Phase.COPYING
        rows = iter(range(len(self.plan)))
        failures: list[StoreError] = []

        async def work() -> None:
            for row in rows:
                if failures:
                    return
                try:
                    await self._copy(row)
                except StoreError as error:
                    failures.append(error)
                self.progress.step()

        # Those under way when one fails are waited for: nobody could tell what became of them.
        await asyncio.gather(*(work() for _ in range(self._copier.connections)))
        if failures:
            raise failures[0]

    async def check(self) -> None:
        """See that every copy is there as it was made.

        Raises:
            StoreError: one is not (BAD_REPLY), or the store cannot be asked.
        """
        self.progress.phase = Phase.CHECKING
        rows, seen = Rows(self.plan, self.plan.target), 0

        async def look(page: list[ObjectInfo]) -> None:
            nonlocal seen
            for info in page:
                name = info.key.removeprefix(self.plan.target)
                self.made.append(name, info, math.inf)
                row = rows.find(info)
                if row is None or self._states[row] != _State.COPIED:
                    continue
                if not self.plan.is_copy(row, info):
                    text = f"the copy {info.key!r} is not what was copied"
                    raise StoreError(Fault.BAD_REPLY, text)
                seen += 1

        await self._each_page(self.plan.target, look)
        copied = Counter(self._states)[_State.COPIED]
        if seen != copied:
            text = f"{copied - seen} of {copied} copies are not at {self.plan.target!r}"
            raise StoreError(Fault.BAD_REPLY, text)

    async def delete(self) -> None:
        """Delete the originals.

        Raises:
            StoreError: some cannot be deleted. Everything is at the new place all the same.
        """
        self.progress.phase = Phase.DELETING
        rows = Rows(self.plan, self.plan.source)

        async def remove(page: list[ObjectInfo]) -> None:
            found = ((info, rows.find(info)) for info in page)
            doomed = [info for info, row in found if row is not None and self._may_go(row, info)]
            stay = await self._remove(doomed)
            self.progress.deleted += len(doomed) - stay
            self.progress.left += len(page) - len(doomed) + stay

        await self._each_page(self.plan.source, remove)

    def _may_go(self, row: int, info: ObjectInfo) -> bool:
        return self._states[row] == _State.COPIED and self.plan.is_original(row, info)

    async def undo(self) -> None:
        """Remove copies whose originals are there; what cannot be removed is logged."""
        self.progress.phase = Phase.UNDOING
        rows = Rows(self.plan, self.plan.target)

        async def remove(page: list[ObjectInfo]) -> None:
            found = [(info, row) for info in page if (row := rows.find(info)) is not None]
            doomed = [info for info, row in found if self._is_ours(row, info)]
            stay = await self._remove(doomed)
            self.progress.left += len(found) - len(doomed) + stay

        if self.journal is not None:
            await self.journal.undo()
        try:
            await self._each_page(self.plan.target, remove)
        except StoreError as error:
            self._tell_not_undone({"reason": error} | error.details)
            return
        if self.progress.left:
            self._tell_not_undone({"reason": "these may be copies, or another client's"})
        await self.finish()

    def _tell_not_undone(self, details: dict[str, object]) -> None:
        advice = {"advice": "the originals are all there: look at what is at the new place"}
        event(_log, logging.ERROR, "rename_not_undone", self.progress.details() | details | advice)

    def _is_ours(self, row: int, info: ObjectInfo) -> bool:
        """Tell whether an object at the new place is the copy of one at the old place."""
        has_original = self._states[row] in {_State.LISTED, _State.COPIED}
        return has_original and bool(info.etag) and self.plan.is_copy(row, info)

    async def resume(self) -> None:
        """Find out how far it had come when it was broken off."""
        self._states = bytearray([_State.GONE] * len(self.plan))
        self.progress.keys = len(self.plan)
        originals, copies = (Rows(self.plan, p) for p in (self.plan.source, self.plan.target))

        async def see_original(page: list[ObjectInfo]) -> None:
            for info in page:
                row = originals.find(info)
                if row is not None and self.plan.is_original(row, info):
                    self._states[row] = _State.LISTED

        async def see_copy(page: list[ObjectInfo]) -> None:
            for info in page:
                row = copies.find(info)
                if row is not None and self._states[row] == _State.LISTED:
                    copied = self.plan.is_copy(row, info)
                    self._states[row] = _State.COPIED if copied else _State.THEIRS

        await self._each_page(self.plan.source, see_original)
        await self._each_page(self.plan.target, see_copy)
        counts = Counter(self._states)
        self.progress.copied = counts[_State.COPIED]
        if theirs := counts[_State.THEIRS]:
            details = self.progress.details() | {"theirs": theirs}
            details["advice"] = "what is at both places differs: see which is the right one"
            event(_log, logging.WARNING, "rename_leaves_both", details)

    async def finish(self) -> None:
        """Forget that there was anything to be done."""
        if self.journal is not None:
            await self.journal.remove()

    # -- details --------------------------------------------------------------------------------

    async def _each_page(
        self, prefix: str, take: Callable[[list[ObjectInfo]], Awaitable[None]]
    ) -> None:
        token: str | None = None
        while True:
            page = await self._store.list_page(prefix, token=token)
            await take(page.objects)
            self.progress.step()
            token = page.token
            if token is None:
                return

    async def _remove(self, doomed: list[ObjectInfo]) -> int:
        """Delete objects; return how many are another version by now, and stay.

        Raises:
            StoreError: one cannot be deleted.
        """
        refused = await self._store.delete_many(doomed) if doomed else {}
        for error in refused.values():
            if error.fault is not Fault.CHANGED:
                raise error
        return len(refused)

    async def _copy(self, row: int) -> None:
        if self._states[row] != _State.LISTED:
            return
        source = self.plan.version(row)
        key = self.plan.target + self.plan.name(row)
        try:
            made = await self._copy_version(source, key)
        except StoreError as error:
            if error.fault not in _GONE:
                raise
            newer = await self._head(source.key)
            if newer is None:
                self._states[row] = _State.GONE
                return
            self.plan.versions[row] = source = newer
            made = await self._copy_version(source, key)
        if made.etag != source.etag:
            self.plan.etags[row] = made.etag
            if self.journal is not None:
                await self.journal.note(row, made.etag)
        self._states[row] = _State.COPIED
        self.progress.copied += 1

    async def _copy_version(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Copy a version and no other.

        Raises:
            StoreError: CHANGED, it is another one by now.
        """
        made = await self._copier.copy(source, key)
        if not (self._store.heeds_conditions or same_version(made, source)):
            now = await self._head(source.key)
            if now is None or not same_version(now, source):
                raise StoreError(Fault.CHANGED, f"{source.key!r} changed while it was copied")
        return made

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return None
            raise
