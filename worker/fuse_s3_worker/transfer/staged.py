"""A file that is changed anywhere: what was changed is in a stage, the rest where it was.

Any write is taken, at any place. What is read and not here is fetched, what is stored goes by the
cheapest plan. It is stored in the place of the version that was opened and of no other; when
another client was faster, the stage is kept, if it is on disk.

Two locks, taken in this order: who has the turn changes the file, or stores it; who has the stage
changes the stage. Reading needs neither: what arrives for a reader is put into the stage while the
file is being stored.
"""

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.assembly import CopyRefusedError
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import Description, Record
from fuse_s3_worker.transfer.loading import Loading
from fuse_s3_worker.transfer.partsize import OBJECT_MAX
from fuse_s3_worker.transfer.planner import Plan, TooManyPartsError, plan
from fuse_s3_worker.transfer.stage import MemoryStage, Stage
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.writable import WritableFile, as_serve_error, check_size

__all__ = ["StagedFile"]

_log = logging.getLogger(__name__)

_PIECE = 4 * MIB  # bytes that are fetched at once for a file whose source is about to go


class StagedFile:
    """One file (transfer.writable.WritableFile).

    Attributes:
        dirty: whether there is something that the bucket does not have.
        failed: why nothing more will come of it.
        sealed: whether it was closed, and is to be stored as it is now.
    """

    def __init__(
        self,
        staging: Staging,
        known: Description,
        stage: Stage | None = None,
        *,
        unlinked: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe it; without a `stage` it gets one with its first change.

        `headers` are those that its object carries, where nobody here knows better.
        """
        self.dirty = known.changed and not unlinked
        self.failed: ServeError | None = None
        self._staging = staging
        self._known = known
        self._stage = stage
        self._headers = headers
        self.sealed = False
        self._discarding = unlinked
        self._turn = asyncio.Lock()
        self._stage_turn = asyncio.Lock()
        self._loading = Loading(staging.store, staging.pool, known.extents, self._keep_loaded)

    @property
    def base(self) -> ObjectInfo | None:
        """The version that it goes on from."""
        return self._known.base

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._known.size

    @property
    def mtime(self) -> int:
        """When it was last written to."""
        return self._known.mtime

    @property
    def path(self) -> str:
        """Where what was changed is; "" when that is in memory."""
        return self._stage.path if self._stage else ""

    # -- changing -------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: memoryview) -> int:
        """Take all of `data`, or nothing."""
        self._check(offset + len(data))
        stage = self._stage
        if stage is None or self.sealed or self._turn.locked() or self._stage_turn.locked():
            return 0
        now = time.time_ns()
        if not data or not stage.write_nowait(offset, data, ("w", offset, offset + len(data), now)):
            return 0
        self.dirty = True
        return len(data)

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`."""
        end = offset + len(data)
        if not data:
            self._check(end)
            return
        async with self._changing(end) as stage:
            await stage.write(offset, data, ("w", offset, end, time.time_ns()))

    async def truncate(self, size: int) -> None:
        """Set the size of the file; what is added is a hole."""
        if size == self.size:
            self._check(size)
            return
        async with self._changing(size) as stage:
            await stage.change(("t", size, time.time_ns()), [(size, self.size)])

    async def zero(self, start: int, end: int) -> None:
        """Make [start, end) zeros, also behind the end."""
        async with self._changing(end) as stage:
            await stage.change(("z", start, end, time.time_ns()), [(start, end)])

    async def put(self, extents: Sequence[Extent]) -> None:
        """Make bytes of objects, or zeros, a part of the file."""
        for extent in extents:
            if extent.source and extent.source.key != self._known.key:
                self._staging.borrow(extent.source.key, self)
        start, end = extents[0].start, extents[-1].end
        async with self._changing(end) as stage:
            await stage.change(("p", list(extents), time.time_ns()), [(start, end)])

    @contextlib.asynccontextmanager
    async def _changing(self, end: int) -> AsyncIterator[Stage]:
        """Have the turn and the stage for a change that makes the file end at `end` or before."""
        async with self._turn:
            self._check(end)
            if self.sealed:
                await self._commit()  # what was closed is stored as it was closed
            stage = await self._staged()
            async with self._stage_turn:
                yield stage
                self.dirty = True

    async def _staged(self) -> Stage:
        """Return the stage, which there is from the first change on."""
        if self._stage is None:
            self._stage = await self._staging.stage(self._known)
            self._staging.add_reclaimer(self, self._reclaim)
            if self._discarding:
                await self._stage.forget_name()
        return self._stage

    def _check(self, end: int) -> None:
        if self.failed is not None:
            raise self.failed
        base, limit = self._known.base, self._staging.size_limit
        large = base is not None and base.size > limit  # its parts are copied, not sent
        check_size(end, OBJECT_MAX if large else limit)

    # -- reading --------------------------------------------------------------------------------

    def read_nowait(self, offset: int, size: int) -> list[memoryview] | None:
        """Return bytes that are here."""
        if self.failed is not None:
            raise self.failed
        end = min(offset + size, self.size)
        self._loading.note_read(offset, max(end, offset))
        buffer = memoryview(bytearray(max(end - offset, 0)))
        for extent in self._known.extents.between(offset, end):
            view = buffer[extent.start - offset : extent.end - offset]
            if extent.missing:
                return None
            if extent.local and not (self._stage and self._stage.read_nowait(extent.start, [view])):
                return None
        return [buffer]

    async def read(self, offset: int, size: int) -> memoryview:
        """Return bytes of the file, fetched where they are not here."""
        end = min(offset + size, self.size)
        buffer, at = memoryview(bytearray(max(end - offset, 0))), offset
        while at < end and (found := self._known.extents.between(at, end)):
            extent = found[0]
            view = buffer[extent.start - offset : extent.end - offset]
            if extent.local and self._stage is not None:
                await self._stage.read(extent.start, [view])
            elif extent.missing and not await self._fetched(extent, view):
                continue
            at = extent.end
        return buffer

    async def _fetched(self, extent: Extent, view: memoryview) -> bool:
        """Fetch an extent; False when it is another one by now, which the caller looks up."""
        try:
            await self._loading.fetch(extent, view)
        except StoreError as error:
            now = self._known.extents.between(extent.start, extent.end)
            if error.fault is not Fault.CHANGED or now == [extent]:
                raise
            return False
        return True

    async def _keep_loaded(self, extent: Extent, data: memoryview) -> None:
        """Put what has arrived into the stage, as far as it is still what it was fetched for."""
        async with self._stage_turn:
            for piece in self._known.extents.missing(extent.start, extent.end):
                view = data[piece.start - extent.start : piece.end - extent.start]
                if piece.same_bytes(extent) and not await self._load(piece, view):
                    return

    async def _load(self, piece: Extent, view: memoryview) -> bool:
        """Put bytes of an object into the stage if there is room."""
        record: Record = ("l", piece.start, piece.end)
        stage = self._stage
        if stage is None:
            return False
        if isinstance(stage, MemoryStage):
            return stage.write_nowait(piece.start, view, record)
        try:
            await stage.write(piece.start, view, record)
        except FileSystemError:
            return False
        return True

    def seek(self, offset: int, *, hole: bool) -> int:
        """Return where the next hole begins, or the next data, from `offset` on.

        Raises:
            FileSystemError: ENXIO, `offset` is at the end or behind it, or only a hole follows.
        """
        if offset >= self.size:
            raise FileSystemError(errno.ENXIO, f"nothing is at {offset}")
        for extent in self._known.extents.between(offset, self.size):
            if extent.hole == hole:
                return extent.start
        if hole:
            return self.size
        raise FileSystemError(errno.ENXIO, f"no data is behind {offset}")

    async def extents(self, start: int, end: int) -> list[Extent]:
        """Return what the file is made of, when it is not being stored just now."""
        async with self._turn:
            return self._known.extents.between(start, end)

    # -- memory ---------------------------------------------------------------------------------

    def _reclaim(self) -> int:
        """Give back what can be fetched again."""
        stage = self._stage
        if not isinstance(stage, MemoryStage):
            return 0
        loaded = self._known.extents.loaded(0, self.size)
        ranges = [(extent.start, extent.end) for extent in loaded]
        if ranges:
            stage.change_nowait(("u", 0, self.size), ranges)
        return sum(end - start for start, end in ranges)

    async def detach(self, key: str) -> None:
        """The object `key` is about to be changed or removed: take what is borrowed from it.

        Raises:
            ServeError: it cannot be had, or there is no room for it.
        """
        async with self._turn:
            at = 0
            while self._stage is not None and at < self.size:
                extent = self._known.extents.between(at, at + _PIECE)[0]
                if extent.source is not None and extent.source.key == key != self._known.key:
                    await self._take(extent, self._stage)
                at = extent.end
            self._staging.give_back(key, self)

    async def take(self, limit: int) -> None:
        """The object is about to be removed: have all that the file is made of here.

        Raises:
            FileSystemError: EFBIG, more than `limit` bytes are missing; or there is no room.
            StoreError: they cannot be fetched.
        """
        async with self._turn:
            missing = sum(extent.size for extent in self._known.extents.missing(0, self.size))
            if missing > limit:
                raise FileSystemError(errno.EFBIG, f"{missing} bytes would have to be fetched")
            at = 0
            while at < self.size:
                extent = self._known.extents.between(at, at + _PIECE)[0]
                if extent.source is not None:
                    await self._take(extent, await self._staged())
                at = extent.end

    async def _take(self, extent: Extent, stage: Stage) -> None:
        """Make bytes of an object bytes of our own."""
        view = memoryview(bytearray(extent.size))
        if extent.missing:
            await self._loading.fetch(extent, view)
        else:
            await stage.read(extent.start, [view])
        async with self._stage_turn:
            await stage.write(extent.start, view, ("w", extent.start, extent.end, self.mtime))

    # -- the end --------------------------------------------------------------------------------

    async def commit(self) -> ObjectInfo | None:
        """Store the file, if there is anything to be stored."""
        if self.dirty and self.failed is None and not self._discarding:
            await self._staging.about_to_change(self._known.key, self)
        async with self._turn:
            return await self._commit()

    async def _commit(self) -> ObjectInfo | None:
        if self.failed is not None:
            raise self.failed
        if self._discarding:
            return self.base
        if self.dirty and self._known.changed:
            stage = await self._staged()
            try:
                info = await self._store(stage)
            except BaseException as error:
                failure = as_serve_error(error)
                if not (self.sealed and _temporary(failure)):  # it can be tried again
                    self.failed = failure
                    await self._not_stored(stage, failure)
                raise failure from error
            async with self._stage_turn:
                await stage.stored(info)
            self._staging.give_back_all(self)
        self.dirty = self.sealed = False
        return self.base

    async def _store(self, stage: Stage) -> ObjectInfo:
        """Store it; meanwhile have it on the disk as what is to be stored."""
        sealing = asyncio.create_task(self._seal(stage))
        try:
            return await self._by_plan(stage)
        finally:
            await sealing

    def _note_carried(self) -> None:
        """Have the next worker know what the object is to carry, too."""
        if self._headers is None:
            carried = self._staging.carried(self._known.key)
            self._known.headers = None if carried is None else dict(carried)

    async def _seal(self, stage: Stage) -> None:
        async with self._stage_turn:
            self._note_carried()
            try:
                await stage.seal()
            except FileSystemError as error:
                # It is stored all the same, unless this worker ends before.
                event(_log, logging.INFO, "not_sealed", {"path": stage.path, "reason": error})

    async def _by_plan(self, stage: Stage) -> ObjectInfo:
        """Carry out the best plan, and one without copies where the store makes none."""
        assembly = self._staging.assembly
        for copying in (True, False):
            with contextlib.suppress(CopyRefusedError):
                made = self._plan(copying=copying)
                return await assembly.carry_out(made, stage, self.base, self, self._headers)
        raise StoreError(Fault.NOT_IMPLEMENTED, f"{self._known.key!r} can be stored in no way")

    def _plan(self, *, copying: bool) -> Plan:
        def can_copy(source: ObjectInfo) -> bool:
            return copying and self._staging.store.copies_from(source.key)

        extents, limits = list(self._known.extents), self._staging.limits
        try:
            return plan(extents, limits, can_copy, in_place=self.base is not None)
        except TooManyPartsError as error:
            text = f"{self._known.key!r}: {error}: raise memory_target="
            raise FileSystemError(errno.EFBIG, text, logging.WARNING) from None

    async def begun(self, upload_id: str) -> None:
        """Have the next worker know what to abort (assembly.Progress)."""
        await self._note("m", upload_id)

    async def completing(self, etag: str) -> None:
        """Have the next worker know whether this one has succeeded (assembly.Progress)."""
        await self._note("c", etag)

    async def fetched(self, extent: Extent, data: memoryview) -> None:
        """Keep what was fetched (assembly.Progress)."""
        await self._keep_loaded(extent, data)

    async def _note(self, letter: str, value: str) -> None:
        stage = await self._staged()
        async with self._stage_turn:
            with contextlib.suppress(FileSystemError):
                await stage.change((letter, value))
                if letter == "c":
                    await stage.flush_journal()

    async def _not_stored(self, stage: Stage, error: ServeError) -> None:
        """Keep what could not be stored, where it can be kept."""
        if not stage.path:
            return
        conflict = isinstance(error, StoreError) and error.fault is Fault.CHANGED
        if conflict:
            async with self._stage_turn:
                with contextlib.suppress(FileSystemError):
                    await stage.change(("s", "conflict"))
                    await stage.flush_journal()
        event(_log, logging.WARNING, "staged_conflict" if conflict else "staged_kept", {
            "key": self._known.key, "path": stage.path, "reason": error,
            "advice": "see fuse-s3 staged",
        })  # fmt: skip

    async def defer(self) -> bool:
        """Have the file survive as what is to be stored; False when it must be stored now.

        Raises:
            ServeError: storing it has failed already.
        """
        async with self._turn:
            if self.failed is not None:
                raise self.failed
            if self._stage is None or not self._stage.path or self._discarding:
                return False
            if self.dirty and not self.sealed:
                try:
                    async with self._stage_turn:
                        self._note_carried()
                        await self._stage.seal()
                except FileSystemError:
                    return False
                self.sealed = True
            return self.sealed

    async def carry(self) -> None:
        """What the object is to carry has changed: have it survive, if the file was closed."""
        async with self._turn:
            if not self.sealed or self._stage is None:
                return
            async with self._stage_turn:
                with contextlib.suppress(FileSystemError):  # it is stored all the same
                    await self._stage.change(("h", self._staging.carried(self._known.key)))
                    await self._stage.flush_journal()

    async def retarget(self, key: str, base: ObjectInfo | None) -> None:
        """The file was renamed: `base` is where its bytes are now, None when nowhere.

        Raises:
            ServeError: it cannot be noted, or storing the file has failed.
        """
        async with self._turn:
            if self.failed is not None:
                raise self.failed
            if self._stage is None:
                self._known.retarget(key, base)
                return
            async with self._stage_turn:
                await self._stage.change(("n", key, base))

    async def discard(self) -> None:
        """The file was unlinked: what is here stays as long as it is open, and is not stored."""
        self._discarding = True
        async with self._turn:
            if self._stage is not None:
                await self._stage.forget_name()
        self._staging.give_back_all(self)
        self.dirty = self.sealed = False

    async def close(self, *, keep: bool = False) -> None:
        """Let go; what was closed and could not be stored is kept, and with `keep` all else."""
        self._staging.give_back_all(self)
        self._staging.remove_reclaimer(self)
        await self._loading.close()
        async with self._turn:
            stage, self._stage = self._stage, None
            if stage is not None:
                unfinished = self.failed is not None or self.sealed or (keep and self.dirty)
                with contextlib.suppress(FileSystemError):
                    await stage.close(keep=unfinished and not self._discarding)


def _temporary(error: ServeError) -> bool:
    return isinstance(error, StoreError) and error.temporary


def _conforms(file: StagedFile) -> WritableFile:
    """Have the type checker hold this class against the protocol."""
    return file
