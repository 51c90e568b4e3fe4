"""Where the bytes of a staged file are, and what is known of them: on the cache disk, or in memory.

Each byte is at its place in the file; what is known of it changes when the bytes are there. On
disk, bytes and journal are written by a few threads, since a disk may take its time. In memory it
is a file all the same, a sparse one that no directory has, and what it takes is charged to the pool
that all buffers share.

Whoever changes a stage does so alone; reading goes on beside it.
"""

import asyncio
import ctypes
import errno
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.journal import Description, Record, State, apply
from fuse_s3_worker.transfer.stagedir import Entry

__all__ = ["DiskStage", "MemoryStage", "Stage", "StageMemory", "Threads"]

_T = TypeVar("_T")

_PAGE = os.sysconf("SC_PAGESIZE")
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PATIENCE = 60.0  # seconds that a write waits for memory, as everywhere

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]

Buffer = bytes | bytearray | memoryview


class Stage(Protocol):
    """The bytes of one staged file.

    Attributes:
        known: what it is made of.
    """

    known: Description

    @property
    def path(self) -> str:
        """Where people find the bytes; "" where they are in memory."""

    def write_nowait(self, start: int, data: memoryview, record: Record) -> bool:
        """Put bytes there, and what `record` says of them; False when that has to wait."""

    async def write(self, start: int, data: Buffer, record: Record) -> None:
        """Put bytes there, and what `record` says of them.

        Raises:
            FileSystemError: ENOSPC, or the disk failed; nothing was changed.
        """

    async def change(self, record: Record, unneeded: Sequence[tuple[int, int]] = ()) -> None:
        """Note what `record` says; give back the room of the ranges that are not needed then."""

    def read_nowait(self, start: int, views: Sequence[memoryview]) -> bool:
        """Fill `views` with the bytes from `start` on; False when that has to wait."""

    async def read(self, start: int, views: Sequence[memoryview]) -> None:
        """Fill `views` with the bytes from `start` on."""

    async def seal(self) -> None:
        """Have everything survive a power cut, as what is to be stored."""

    async def stored(self, info: ObjectInfo) -> None:
        """Note that all of it is in the bucket."""

    async def flush_journal(self) -> None:
        """Have what was noted survive a power cut."""

    async def forget_name(self) -> None:
        """The file was removed: what is here ends with whoever has it open."""

    async def close(self, *, keep: bool) -> None:
        """Let go; with `keep`, what is on disk stays there."""


def punch(fd: int, start: int, end: int) -> None:
    """Give back the room of bytes [start, end), where the file system knows how."""
    if start < end:
        _libc.fallocate(fd, _PUNCH_HOLE, start, end - start)


def _fill(fd: int, start: int, views: Sequence[memoryview]) -> None:
    """Read from `start` on until `views` are full.

    Raises:
        OSError: they cannot be.
    """
    left = [view for view in views if view]
    while left:
        taken = os.preadv(fd, left[:64], start)
        if not taken:
            raise OSError(errno.EIO, "bytes are missing")
        start += taken
        while left and taken >= len(left[0]):
            taken -= len(left.pop(0))
        if taken:
            left[0] = left[0][taken:]


def _put(fd: int, start: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        taken = os.pwrite(fd, view, start)
        start, view = start + taken, view[taken:]


# -- on disk ---------------------------------------------------------------------------------------


class Threads:
    """Runs what blocks."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def run(self, work: Callable[[], _T], then: Callable[[_T], None] | None = None) -> _T:
        """Return what `work` returns, after `then` was told it.

        A thread cannot be stopped: whoever gives up waiting waits all the same, so that memory
        that it works with is not another's by then, and `then` is told in any case.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        result = future.result()
        if then is not None:
            then(result)
        if cancelled is not None:
            raise cancelled
        return result


class DiskStage:
    """A file in the cache directory, with its journal."""

    def __init__(self, entry: Entry, known: Description, threads: Threads) -> None:
        self.known = known
        self._entry = entry
        self._threads = threads
        self._outdated = False  # whether the journal says more than is so
        self._to_be_synced = False

    @property
    def path(self) -> str:
        """Where the file is."""
        return str(self._entry.path)

    def write_nowait(self, start: int, data: memoryview, record: Record) -> bool:
        """A disk may always take its time."""
        del start, data, record
        return False

    async def write(self, start: int, data: Buffer, record: Record) -> None:
        """Write the bytes, then the record."""

        def work() -> None:
            self._bring_up_to_date()
            _put(self._entry.fd, start, data)
            self._entry.add(record)

        try:
            await self._run(work, lambda _: apply(self.known, record))
        except FileSystemError:
            # Some of it may be there by now: what was loaded there is not to be relied on.
            end = start + len(data)
            apply(self.known, ("u", start, end))
            self._outdated = True
            raise

    async def change(self, record: Record, unneeded: Sequence[tuple[int, int]] = ()) -> None:
        """Write the record; then the bytes are not needed any more."""

        def work() -> None:
            self._bring_up_to_date()
            self._entry.add(record)
            for start, end in unneeded:
                punch(self._entry.fd, start, end)

        await self._run(work, lambda _: apply(self.known, record))

    def _bring_up_to_date(self) -> None:
        """See that the journal does not say more than is so, before anything is changed."""
        if self._outdated or self._entry.worth_a_snapshot:
            to_be_stored = self._to_be_synced or self.known.state is State.COMMITTING
            self._entry.snapshot(self.known, durable=to_be_stored)
            self._outdated = False
        if self._to_be_synced:
            # It said that the file is to be stored. What is stored as it was then must not be
            # changed before the disk knows better, or a power cut would leave a mixture.
            self._entry.sync_journal()
            self._to_be_synced = False

    def read_nowait(self, start: int, views: Sequence[memoryview]) -> bool:
        """A disk may always take its time."""
        del start, views
        return False

    async def read(self, start: int, views: Sequence[memoryview]) -> None:
        """Read the bytes."""
        await self._run(lambda: _fill(self._entry.fd, start, views))

    async def seal(self) -> None:
        """Sync the bytes, then a journal that says what shall become of them."""
        state, self.known.state = self.known.state, State.COMMITTING
        try:
            await self._run(lambda: self._entry.seal(self.known))
        except BaseException:
            self.known.state = state
            raise

    async def stored(self, info: ObjectInfo) -> None:
        """Note it, in the journal as soon as that can be."""
        record = ("r", info)
        try:
            await self._run(lambda: self._entry.add(record))
        except FileSystemError:
            self._outdated = True
        self._to_be_synced = True
        apply(self.known, record)

    async def flush_journal(self) -> None:
        """Sync the journal."""
        await self._run(self._entry.sync_journal)

    async def forget_name(self) -> None:
        """Remove both files; the bytes are there as long as they are held."""
        await self._run(self._entry.unlink)

    async def close(self, *, keep: bool) -> None:
        """Let go of the files, and remove them unless they are to be kept."""
        await self._run(self._entry.close if keep else self._entry.remove)

    async def _run(self, work: Callable[[], _T], then: Callable[[_T], None] | None = None) -> _T:
        try:
            return await self._threads.run(work, then)
        except OSError as error:
            full = error.errno in _FULL
            raise FileSystemError(
                errno.ENOSPC if full else errno.EIO,
                f"{self.path}: {error.strerror or error}",
                logging.WARNING if full else logging.ERROR,
            ) from error


# -- in memory -------------------------------------------------------------------------------------


class StageMemory:
    """The memory of all staged files of a mount: part of the pool's, so that others get some."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.limit = pool.budget // 2
        self.used = 0
        self._reclaimers: dict[object, Callable[[], int]] = {}

    def add_reclaimer(self, owner: object, reclaim: Callable[[], int]) -> None:
        """Register who can do with less."""
        self._reclaimers[owner] = reclaim

    def remove_reclaimer(self, owner: object) -> None:
        """Forget an owner."""
        self._reclaimers.pop(owner, None)

    def take_nowait(self, size: int) -> bool:
        """Take memory, if there is room."""
        if self.used + size > self.limit or not self.pool.charge_nowait(size):
            return False
        self.used += size
        return True

    async def take(self, size: int, what: str) -> None:
        """Take memory as it comes free.

        Raises:
            FileSystemError: ENOSPC, staged files have all that they may have.
            StoreError: there was none for a minute.
        """
        if self.used + size > self.limit:
            for reclaim in list(self._reclaimers.values()):
                reclaim()
        if self.used + size > self.limit:
            raise FileSystemError(
                errno.ENOSPC,
                f"no room for what was changed of {what!r}: without cache= it is kept in memory, "
                f"{self.limit} bytes for all files: give cache=DIRECTORY",
                logging.WARNING,
            )
        self.used += size
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.pool.charge(size)
        except BaseException as error:
            self.used -= size
            if not isinstance(error, TimeoutError):
                raise
            text = f"no memory for {what!r} within {_PATIENCE:.0f} s: raise memory_target="
            raise StoreError(Fault.NO_MEMORY, text) from None

    def adopt(self, size: int) -> None:
        """Take over memory that is charged to the pool already."""
        self.used += size

    def give_back(self, size: int) -> None:
        """Give memory back."""
        self.used -= size
        self.pool.uncharge(size)


class MemoryStage:
    """A file that no directory has."""

    def __init__(self, known: Description, memory: StageMemory) -> None:
        self.known = known
        self._memory = memory
        self._fd = os.memfd_create("fuse-s3-staged", os.MFD_CLOEXEC)
        self._charged = 0

    @property
    def path(self) -> str:
        """Nobody finds it."""
        return ""

    def write_nowait(self, start: int, data: memoryview, record: Record) -> bool:
        """Write, if there is room."""
        size = self._lacking(start, start + len(data))
        if size and not self._memory.take_nowait(size):
            return False
        self._charged += size
        _put(self._fd, start, data)
        apply(self.known, record)
        return True

    async def write(self, start: int, data: Buffer, record: Record) -> None:
        """Write as room comes free."""
        taken = 0
        try:
            # Again: to make room, pages of this very file may have been given back.
            while (size := self._lacking(start, start + len(data)) - taken) > 0:
                await self._memory.take(size, self.known.key)
                taken += size
        except BaseException:
            self._memory.give_back(taken)
            raise
        self._charged += taken
        _put(self._fd, start, data)
        apply(self.known, record)

    def _lacking(self, start: int, end: int) -> int:
        """Return how much memory the pages of [start, end) lack; see memfd_create(2), lseek(2)."""
        at, end = start // _PAGE * _PAGE, -(-end // _PAGE) * _PAGE
        lacking = 0
        while at < end:
            try:
                data = min(os.lseek(self._fd, at, os.SEEK_DATA), end)
            except OSError:  # ENXIO: nothing from here on
                data = end
            lacking += data - at
            # The end of the file is a hole, too, and may be in the middle of a page.
            at = -(-os.lseek(self._fd, data, os.SEEK_HOLE) // _PAGE) * _PAGE if data < end else end
        return lacking

    async def change(self, record: Record, unneeded: Sequence[tuple[int, int]] = ()) -> None:
        """Note it, and give pages back."""
        self.change_nowait(record, unneeded)

    def change_nowait(self, record: Record, unneeded: Sequence[tuple[int, int]] = ()) -> None:
        """Note it, and give pages back."""
        apply(self.known, record)
        for start, end in unneeded:
            punch(self._fd, start, end)
        self._settle()

    def _settle(self) -> None:
        """Charge what is taken, not what was."""
        taken = os.fstat(self._fd).st_blocks * 512
        freed, self._charged = self._charged - taken, taken
        if freed:
            self._memory.give_back(freed)

    def read_nowait(self, start: int, views: Sequence[memoryview]) -> bool:
        """Read the bytes."""
        _fill(self._fd, start, views)
        return True

    async def read(self, start: int, views: Sequence[memoryview]) -> None:
        """Read the bytes."""
        _fill(self._fd, start, views)

    async def seal(self) -> None:
        """Nothing of it survives anything."""

    async def stored(self, info: ObjectInfo) -> None:
        """Note it."""
        apply(self.known, ("r", info))

    async def flush_journal(self) -> None:
        """There is none."""

    async def forget_name(self) -> None:
        """It has none."""

    async def close(self, *, keep: bool) -> None:
        """Give everything back."""
        del keep
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._memory.give_back(self._charged)
        self._charged = 0
