"""What an earlier worker left in the cache directory: stored if it was closed, kept if it was not.

A file that was closed or fsynced is stored, in the place of the version that it was made from. It
may be that the worker before has done that and did not live to note it; then what is there is what
was written, and that is looked for. Half of a change is neither the old file nor the new one, and
nobody but the user can say what it is good for: it stays, and so does what cannot be understood.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.multipart import give_up
from fuse_s3_worker.store.ranges import ViewSink
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import Description, JournalError, State
from fuse_s3_worker.transfer.loading import fetch_version
from fuse_s3_worker.transfer.stage import DiskStage, Stage
from fuse_s3_worker.transfer.staged import StagedFile
from fuse_s3_worker.transfer.stagedir import Entry, EntryInUseError, StageDirectory
from fuse_s3_worker.transfer.staging import Staging

__all__ = ["Left", "OnStored", "Recovery", "load_left", "store_left", "what_is_left"]

_log = logging.getLogger(__name__)

OnStored = Callable[[ObjectInfo], Awaitable[None]]
"""Is told what was stored, before whoever waits for that goes on."""

_PIECE = 4 * MIB  # bytes that are compared at once


class Left(NamedTuple):
    """One staged file that is left; without a description its journal cannot be relied on.

    Attributes:
        entry_id: its name.
        known: what its journal tells.
        problem: why that is nothing.
    """

    entry_id: str
    known: Description | None
    problem: str


def what_is_left(directory: StageDirectory) -> list[Left]:
    """Return all staged files, oldest first; this blocks."""
    found = []
    for entry_id in directory.ids():
        try:
            found.append(Left(entry_id, directory.read(entry_id)[0], ""))
        except FileNotFoundError:
            continue  # it was stored in this moment
        except (JournalError, OSError) as error:
            found.append(Left(entry_id, None, str(error)))
    return found


class Recovery:
    """Stores what is left.

    Attributes:
        keys: what is to be stored and is not yet.
        stored: how many files were.
        kept: how many were not.
    """

    def __init__(self, staging: Staging, directory: StageDirectory) -> None:
        self._staging = staging
        self._directory = directory
        self._found = asyncio.Event()
        self._news = asyncio.Event()
        self.keys: set[str] = set()
        self.stored = 0
        self.kept = 0

    def may_store(self, key: str) -> bool:
        """Tell whether something may be left of `key` that is going to be stored."""
        return not self._found.is_set() or key in self.keys

    async def wait_found(self) -> None:
        """Wait until `keys` are all there are; from then on they become fewer."""
        await self._found.wait()

    async def wait_for(self, key: str) -> None:
        """Wait until what is left of `key`, if anything, is stored or kept for good."""
        await self._found.wait()
        while key in self.keys:
            await self._news.wait()

    async def wait_below(self, prefix: str) -> None:
        """Wait until what is left of all keys that begin with `prefix` is stored or kept."""
        await self._found.wait()
        while self.any_below(prefix):
            await self._news.wait()

    def any_below(self, prefix: str) -> bool:
        """Tell whether something that is left is known to be going to be stored below `prefix`."""
        return any(key.startswith(prefix) for key in self.keys)

    async def run(self, on_stored: OnStored) -> None:
        """Store what is to be stored; `on_stored` is told what was."""
        try:
            left = await self._find()
            self._found.set()
            for item in left:
                await self._one(item, on_stored)
        finally:
            self._done_with(*self.keys)
            self._found.set()

    def _done_with(self, *keys: str) -> None:
        self.keys -= set(keys)
        self._news.set()
        self._news = asyncio.Event()

    async def _find(self) -> list[Left]:
        try:
            left = await self._staging.threads.run(lambda: what_is_left(self._directory))
        except OSError as error:
            event(_log, logging.WARNING, "cache_failed", {
                "path": self._directory.path, "reason": error.strerror,
            })  # fmt: skip
            return []
        self.keys = {
            item.known.key for item in left if item.known and item.known.state is State.COMMITTING
        }
        return left

    async def _one(self, item: Left, on_stored: OnStored) -> None:
        try:
            entry, known = await self._staging.threads.run(
                lambda: self._directory.hold(item.entry_id)
            )
        except (EntryInUseError, FileNotFoundError):
            return  # another mount's, or done with
        except (JournalError, OSError) as error:
            self.kept += 1
            path = self._directory.path / f"{item.entry_id}.map"
            event(_log, logging.WARNING, "journal_refused", {"path": path, "reason": error})
            return
        if known.state is State.COMMITTING:
            await self._store(entry, known, on_stored)
        else:
            await self._leave(entry, known)

    async def _leave(self, entry: Entry, known: Description) -> None:
        """Keep half of a change, and what is in conflict; nothing, if it is no change at all."""
        details: dict[str, object] = {"key": known.key, "path": entry.path}
        with contextlib.suppress(OSError):
            if known.state is State.OPEN and not known.changed:
                await self._staging.threads.run(entry.remove)
                return
            await self._staging.threads.run(entry.close)
        self.kept += 1
        details["advice"] = "see fuse-s3 staged"
        conflict = known.state is State.CONFLICT
        event(_log, logging.INFO, "staged_conflict" if conflict else "staged_interrupted", details)

    async def _store(self, entry: Entry, known: Description, on_stored: OnStored) -> None:
        info = await store_left(self._staging, entry, known)
        if info is None:
            self.kept += 1
        else:
            self.stored += 1
            event(_log, logging.INFO, "staged_stored", {"key": info.key, "bytes": info.size})
            await on_stored(info)
        self._done_with(known.key)


async def store_left(
    staging: Staging, entry: Entry, known: Description, *, replace: bool = False
) -> ObjectInfo | None:
    """Store a file that was left; return what is there now, None when it had to be kept.

    With `replace`, it is stored whatever is there.
    """
    stage = DiskStage(entry, known, staging.threads)
    file: StagedFile | None = None
    try:
        info = await _stored_before(staging, stage)
        if info is None or replace:
            await _settle_base(staging, stage, replace=replace)
            file = StagedFile(staging, known, stage, headers=known.headers)
            info = await file.commit()
    except ServeError as error:
        if file is None or file.failed is None:
            conflict = isinstance(error, StoreError) and error.fault is Fault.CHANGED
            details: dict[str, object] = {"key": known.key, "path": entry.path, "reason": error}
            details |= error.details
            event(_log, logging.WARNING, "staged_conflict" if conflict else "staged_kept", details)
        await (file.close(keep=True) if file else _close(stage, keep=True))
        return None
    await (file.close() if file else _close(stage, keep=False))
    return info


async def load_left(staging: Staging, entry: Entry, known: Description) -> None:
    """Fetch what a file that was left lacks, so that all of it is on this machine; let go of it.

    Raises:
        ServeError: it cannot be had; CHANGED, its version is gone. Or there is no room for it.
    """
    stage = DiskStage(entry, known, staging.threads)
    try:
        for extent in known.extents.missing(0, known.size):
            for start in range(extent.start, extent.end, _PIECE):
                await _load(staging, stage, extent.clip(start, start + _PIECE))
    finally:
        await _close(stage, keep=True)


async def _load(staging: Staging, stage: Stage, piece: Extent) -> None:
    view, source = memoryview(bytearray(piece.size)), piece.source
    assert source is not None  # noqa: S101  it is missing, so it is of one
    await fetch_version(staging.store, source, piece.offset, view)
    await stage.write(piece.start, view, ("l", piece.start, piece.end))


async def _close(stage: Stage, *, keep: bool) -> None:
    with contextlib.suppress(FileSystemError):
        await stage.close(keep=keep)


async def _stored_before(staging: Staging, stage: Stage) -> ObjectInfo | None:
    """Return the object if it is what was to be stored already; end what was begun."""
    known = stage.known
    if known.upload_id:
        await give_up(staging.store, MultipartUpload(known.key, known.upload_id))
    try:
        found = await staging.store.head(known.key)
    except StoreError as error:
        if error.fault is not Fault.NOT_FOUND:
            raise
        return None
    if known.base is not None and found.etag == known.base.etag:
        return None
    if found.size != known.size:
        return None
    if known.expected and found.etag == known.expected:
        return found
    return found if await _has_all_that_was_written(staging, stage, found) else None


async def _has_all_that_was_written(staging: Staging, stage: Stage, found: ObjectInfo) -> bool:
    """Compare an object with what was written; the rest would be a copy of what was there."""
    at, compared = 0, False
    while at < found.size:
        extent = stage.known.extents.between(at, at + _PIECE)[0]
        at = extent.end
        if not extent.written:
            continue
        ours, theirs = (memoryview(bytearray(extent.size)) for _ in range(2))
        await stage.read(extent.start, [ours])
        sink = ViewSink(theirs)
        await staging.store.get_range(found.key, found.etag, extent.start, extent.end, sink)
        if ours != theirs:
            return False
        compared = True
    return compared


async def _settle_base(staging: Staging, stage: Stage, *, replace: bool) -> None:
    """Decide what a file without a base may replace: what was there when it was begun, or nothing.

    Raises:
        StoreError: CHANGED, another client has stored something since.
    """
    known = stage.known
    if known.base is not None and not replace:
        return
    try:
        found = await staging.store.head(known.key)
    except StoreError as error:
        if error.fault is not Fault.NOT_FOUND:
            raise
        found = None
    if replace:
        known.base = found
    elif found is not None:
        if known.seen is None or known.seen.etag != found.etag:
            text = f"{known.key!r} was stored by another client meanwhile"
            await stage.change(("s", "conflict"))
            raise StoreError(Fault.CHANGED, text)
        known.base = found
