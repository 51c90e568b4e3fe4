"""How one file is written: in order, in a stage, or not at all yet; and going over to the other.

A new file, or one whose end goes on, is sent while it is written. As soon as a program wants more,
the file goes over to a stage, which takes any change. Whoever uses it sees neither.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import Description
from fuse_s3_worker.transfer.staged import StagedFile
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.upload import Upload
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writable import NeedsStagingError, WritableFile

__all__ = ["FileWriter", "Writers"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Writers:
    """What all files that are written have in common.

    Attributes:
        uploads: of those that are sent while they are written.
        staging: of the others.
        write_back: seconds that storing may wait after close; 0 for not at all.
    """

    def __init__(self, uploads: Uploads, staging: Staging, write_back: float = 0.0) -> None:
        self.uploads = uploads
        self.staging = staging
        self.write_back = write_back

    def begin(
        self,
        key: str,
        base: ObjectInfo | None = None,
        *,
        unlinked: bool = False,
        read_back: bool = False,
    ) -> "FileWriter":
        """Return the writing of a new file, or of one that is there.

        Args:
            key: what it is stored as.
            base: what is there.
            unlinked: whether it was removed, and is only here.
            read_back: whether somebody may read what is written.
        """
        return FileWriter(self, key, base, unlinked=unlinked, read_back=read_back)


class FileWriter:
    """The writing of one file (transfer.writable.WritableFile)."""

    def __init__(
        self,
        writers: Writers,
        key: str,
        base: ObjectInfo | None,
        *,
        unlinked: bool = False,
        read_back: bool = False,
    ) -> None:
        self._writers = writers
        self._key = key
        self._base = base  # while nothing is changed
        self._seen = base
        self._read_back = read_back
        self._discarding = unlinked
        new = base is None and not unlinked
        self._file: Upload | StagedFile | None = self._upload(None) if new else None
        self._promoting = asyncio.Lock()
        self._spilling: set[asyncio.Task[None]] = set()

    # -- what it is now -------------------------------------------------------------------------

    @property
    def base(self) -> ObjectInfo | None:
        """What the bucket has of it."""
        return self._file.base if self._file else self._base

    @property
    def size(self) -> int:
        """Bytes of the file as it is written."""
        if self._file is not None:
            return self._file.size
        return self._base.size if self._base else 0

    @property
    def mtime(self) -> int:
        """When it was last written to."""
        if self._file is not None:
            return self._file.mtime
        return self._base.mtime if self._base else 0

    @property
    def dirty(self) -> bool:
        """Tell whether there is something that the bucket does not have."""
        return self._file is not None and self._file.dirty

    @property
    def failed(self) -> ServeError | None:
        """Why nothing more will come of it."""
        return self._file.failed if self._file else None

    @property
    def readable(self) -> bool:
        """Tell whether it is read here, and not in the bucket."""
        return isinstance(self._file, StagedFile) or self.dirty

    @property
    def staged(self) -> bool:
        """Tell whether it is kept as a whole, and not sent while it is written."""
        return isinstance(self._file, StagedFile)

    @property
    def sealed(self) -> bool:
        """Tell whether it was closed, and is to be stored as it is now."""
        return isinstance(self._file, StagedFile) and self._file.sealed

    def expect_reads(self) -> None:
        """Take note that somebody may read what is written."""
        self._read_back = True
        if isinstance(self._file, Upload):
            self._file.read_back = self._writers.staging.directory is not None

    # -- going over -----------------------------------------------------------------------------

    def _upload(self, base: ObjectInfo | None, *, copies: bool = True) -> Upload:
        upload = Upload(self._writers.uploads, self._key, base, self._spill, copies=copies)
        upload.read_back = self._read_back and self._writers.staging.directory is not None
        return upload

    def _staged(self, base: ObjectInfo | None) -> StagedFile:
        known = Description.of(self._key, base, self._seen)
        return StagedFile(self._writers.staging, known, unlinked=self._discarding)

    async def _begin(self, offset: int | None) -> Upload | StagedFile:
        """Return what takes the first change: at `offset`, or of another kind."""
        base, uploads = self._base, self._writers.uploads
        if self._file is None and base and offset == base.size and not self._discarding:
            small = max(uploads.first_part, uploads.limits.part_min)  # is not copied in parts
            if base.size <= small:
                await self._go_on_from(base)
            elif uploads.store.copies_from(self._key):
                self._file = self._upload(base)
        if self._file is None:
            self._file = self._staged(base)
        return self._file

    async def _go_on_from(self, base: ObjectInfo) -> None:
        """Begin with the bytes of a small object: however much follows, it can be sent."""
        async with self._promoting:
            if self._begun():
                return
            upload = self._upload(base, copies=False)
            try:
                await upload.begin_with_base()
            except BaseException:
                await upload.close()
                raise
            if self._begun():  # somebody wants more than order, and has a stage by now
                await upload.close()
            else:
                self._file = upload

    def _begun(self) -> bool:
        return self._file is not None

    async def _do(
        self, deed: Callable[[Upload | StagedFile], Awaitable[_T]], offset: int | None = None
    ) -> _T:
        """Do something to the file, in a stage if it can be done in no other way."""
        while True:
            file = await self._begin(offset)
            try:
                return await deed(file)
            except NeedsStagingError:
                await self._promote(file)

    async def _in_stage(self, deed: Callable[[StagedFile], Awaitable[_T]]) -> _T:
        """Do what can be done in a stage alone.

        Raises:
            FileSystemError: EOPNOTSUPP, some of the file was sent and is not here any more.
        """
        while True:
            file = await self._begin(None)
            if isinstance(file, StagedFile):
                return await deed(file)
            await self._promote(file)

    async def _promote(self, file: Upload | StagedFile) -> None:
        """Have a stage take over from an upload, unless that is done with already."""
        async with self._promoting:
            if self._file is not file or not isinstance(file, Upload):
                return
            staged = self._staged(file.base)
            try:
                await file.move_into(staged)
            except BaseException:
                await staged.close()
                raise
            self._file = staged
        await file.close()

    def _spill(self, upload: Upload) -> None:
        """Memory is short: what may be read again goes to the disk."""
        task = asyncio.create_task(self._spill_or_forget(upload))
        self._spilling.add(task)
        task.add_done_callback(self._spilling.discard)

    async def _spill_or_forget(self, upload: Upload) -> None:
        try:
            await self._promote(upload)
        except ServeError as error:
            event(_log, logging.INFO, "not_staged", {"key": self._key, "reason": error})
            upload.forget_sent()

    # -- changing -------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: memoryview) -> int:
        """Take of `data` what needs no waiting."""
        if self._file is None:
            return 0
        try:
            return self._file.write_nowait(offset, data)
        except NeedsStagingError:
            return 0

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`."""
        await self._do(lambda file: file.write(offset, data), offset)

    async def truncate(self, size: int) -> None:
        """Set the size of the file; one that has none any more begins anew."""
        if size == self.size and self.failed is None:
            return
        if size == 0 and not self._discarding:
            await self._start_over()
        else:
            await self._do(lambda file: file.truncate(size))

    async def _start_over(self) -> None:
        before = self._file
        if before is not None and self.sealed:
            await before.commit()  # what was closed is stored as it was closed
        self._seen = self.base or self._seen
        self._file, self._base = self._upload(None), None
        if before is not None:
            await before.close()

    async def zero(self, start: int, end: int) -> None:
        """Make [start, end) zeros, also behind the end."""
        await self._in_stage(lambda file: file.zero(start, end))

    async def put(self, extents: Sequence[Extent]) -> None:
        """Make bytes of other objects, or zeros, a part of the file."""
        await self._in_stage(lambda file: file.put(extents))

    async def extents(self, start: int, end: int) -> list[Extent]:
        """Return what the file is made of.

        Raises:
            FileSystemError: EOPNOTSUPP, some of it was sent and is not here any more.
        """
        if self._file is None and self._base is not None:
            whole = Extent(0, self._base.size, self._base)
            return [whole.clip(start, end)] if start < min(end, whole.end) else []
        return await self._in_stage(lambda file: file.extents(start, end))

    def seek(self, offset: int, *, hole: bool) -> int:
        """Return where the next hole begins, or the next data; see `StagedFile.seek`."""
        if isinstance(self._file, StagedFile):
            return self._file.seek(offset, hole=hole)
        if offset >= self.size:
            raise FileSystemError(errno.ENXIO, f"nothing is at {offset}")
        return self.size if hole else offset

    # -- reading --------------------------------------------------------------------------------

    def read_nowait(self, offset: int, size: int) -> list[memoryview] | None:
        """Return bytes that are here."""
        if self._file is None:
            return None
        try:
            return self._file.read_nowait(offset, size)
        except NeedsStagingError:
            return None

    async def read(self, offset: int, size: int) -> memoryview:
        """Return bytes of the file."""
        return await self._do(lambda file: file.read(offset, size))

    # -- the end --------------------------------------------------------------------------------

    async def commit(self) -> ObjectInfo | None:
        """Store the file, if there is anything to be stored."""
        if self._file is None:
            return self._base
        file, info = await self._do(_committed)
        if isinstance(file, Upload) and self._file is file and not self._discarding:
            # Whatever is done to it next, it goes on from what is in the bucket.
            self._file, self._base, self._seen = None, info, info
            await file.close()
        return info

    async def defer(self) -> bool:
        """Have the file survive as what is to be stored; False when it must be stored now."""
        file = self._file
        if isinstance(file, Upload):
            if self._writers.staging.directory is None or file.begun or not file.can_be_staged:
                return False
            try:
                await self._promote(file)
            except FileSystemError:
                return False
        return isinstance(self._file, StagedFile) and await self._file.defer()

    async def take(self, limit: int) -> None:
        """The object is about to be removed: have all that the file is made of here.

        Raises:
            FileSystemError: EFBIG, that is more than `limit` bytes; or there is no room.
            StoreError: it cannot be fetched.
        """
        if self._file is None:
            self._file = self._staged(self._base)
        await self._stage_if_possible()
        if isinstance(self._file, StagedFile):
            await self._file.take(limit)

    async def carry(self) -> None:
        """What the object is to carry has changed: have it survive, if the file was closed."""
        if isinstance(self._file, StagedFile):
            await self._file.carry()

    async def discard(self) -> None:
        """The file was unlinked: what is here stays as long as it is open, and is not stored."""
        self._discarding = True
        await self._stage_if_possible()
        if self._file is not None:
            await self._file.discard()

    async def _stage_if_possible(self) -> None:
        file = self._file
        if isinstance(file, Upload) and file.can_be_staged:
            try:
                await self._promote(file)
            except ServeError as error:
                event(_log, logging.INFO, "not_staged", {"key": self._key, "reason": error})

    def fail(self, error: ServeError) -> None:
        """Have everybody be told that what was written is lost."""
        if self._file is not None:
            self._file.failed = error

    def succeed(self, old: ObjectInfo, new: ObjectInfo) -> None:
        """The version `old` is called `new` by now, with the same bytes."""
        if self._file is None and self._base == old:
            self._base = self._seen = new

    async def hold(self) -> None:
        """Begin nothing under the name that the file has, until `unhold`; see `retarget`.

        Whoever calls this keeps all others from changing and storing the file meanwhile.

        Raises:
            FileSystemError: EBUSY, it is being sent under this name.
            ServeError: storing it has failed.
        """
        file = self._file
        if isinstance(file, Upload) and file.begun:
            # In memory there is no room for all that may be written to it from now on.
            if self._writers.staging.directory is None or not file.can_be_staged:
                text = f"{self._key!r} is sent under this name already: rename it when it is closed"
                raise FileSystemError(errno.EBUSY, text, logging.WARNING)
            await self._promote(file)
        if isinstance(self._file, Upload):
            self._file.held = True

    def unhold(self) -> None:
        """Go on."""
        if isinstance(self._file, Upload):
            self._file.held = False

    async def retarget(self, key: str, base: ObjectInfo | None) -> None:
        """The file, which is held, was renamed: `base` is where its bytes are now, if anywhere.

        Raises:
            ServeError: storing it has failed.
        """
        self._key = key
        if self._file is None:
            # Where its bytes are gone, nothing has this version, and whoever goes on is told so.
            gone = self._base and self._base._replace(key=key)
            self._base = self._seen = base or gone
        elif isinstance(self._file, StagedFile):
            await self._file.retarget(key, base)
        else:
            before = self._file.base
            self._file.key, self._file.base = key, base or (before and before._replace(key=key))

    async def close(self, *, keep: bool = False) -> None:
        """Let go; what was not committed is given up, unless `keep` and it can be kept."""
        for task in list(self._spilling):
            await asyncio.wait([task])
        if self._file is not None:
            await self._file.close(keep=keep)


async def _committed(file: Upload | StagedFile) -> tuple[Upload | StagedFile, ObjectInfo | None]:
    return file, await file.commit()


def _conforms(file: FileWriter) -> WritableFile:
    """Have the type checker hold this class against the protocol."""
    return file
