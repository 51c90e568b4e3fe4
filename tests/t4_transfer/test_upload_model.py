"""Random programs of a writer beside a bytearray, in whichever way their file is written.

Little memory, so that files go over to stages, or cannot any more; in memory and on disk. What may
be refused is only what cannot be done at all, and then nothing was changed.
"""

import errno
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer import upload as upload_module
from fuse_s3_worker.transfer.upload import Upload
from fuse_s3_worker.transfer.writer import FileWriter
from support.pattern import pattern
from support.virtualtime import Bench, settle
from support.writing import KEY, Writing, append, read, write

_T = TypeVar("_T")

FIRST_PART = 300 * KIB
PART_MIN = 64 * KIB

SIZES = st.integers(0, 2 * FIRST_PART) | st.sampled_from([1, FIRST_PART - 1, FIRST_PART])
FAILURES = st.sampled_from(
    "put create_multipart upload_part copy_part complete_multipart get_range".split()
)
REFUSED = StoreError(Fault.UNAVAILABLE, "no")


class WriterMachine(RuleBasedStateMachine):
    """One file, written, cut, read, stored, closed and opened again."""

    on_disk = False
    read_back = False

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(upload_module, "PART_MIN", PART_MIN)
        self.bench = Bench()
        self.cache = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.w = self.run(self._set_up())
        self.stored: bytes | None = None
        self.model = bytearray()
        self.failing = False
        self.seed = 0
        self.file = self._begin(None)

    async def _set_up(self) -> Writing:
        return Writing(12 * MIB, FIRST_PART, PART_MIN, self.cache)

    def _begin(self, base: ObjectInfo | None) -> FileWriter:
        file = self.run(self._writer(base))
        if self.read_back:
            file.expect_reads()
        return file

    async def _writer(self, base: ObjectInfo | None) -> FileWriter:
        return self.w.begin(base)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.bench.run(work)

    def _data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def _try(self, work: Coroutine[Any, Any, object], *, always: bool = False) -> bool:
        """Tell whether `work` was done; with `always`, only a store that fails may refuse it."""
        gone = isinstance(self.file._file, Upload) and not self.file._file._keeping
        try:
            self.run(work)
        except FileSystemError as error:
            self._check_refused(error, gone=gone, always=always)
            return False
        except ServeError:
            assert self.failing
            self._check_failed()
            return False
        return True

    def _check_refused(self, error: FileSystemError, *, gone: bool, always: bool) -> None:
        """What was sent and let go, or more changes than memory may hold: nothing else."""
        assert not self.on_disk or gone
        if error.errno == errno.ENOSPC:
            assert not self.on_disk
            assert len(self.model) > MIB
        else:
            assert error.errno in {errno.EOPNOTSUPP, errno.EBUSY}
            assert gone
            assert not self.read_back or not self.on_disk
            assert not always

    def _check_failed(self) -> None:
        """Everything as before, or nothing of it any more."""
        if self.file.failed is None:
            return  # fetching failed: the next try may work
        self.run(settle())
        assert self.w.stored() == self.stored
        self._open_again()

    def _open_again(self) -> None:
        self.run(self.file.close())
        found = self.w.store.stored(KEY)
        self.file = self._begin(found.info if found else None)
        self.model = bytearray(self.stored or b"")
        self.w.store.mend()
        self.failing = False

    # -- the program ----------------------------------------------------------------------------

    @initialize(size=SIZES | st.integers(0, 4 * FIRST_PART) | st.none())
    def begin(self, size: int | None) -> None:
        if size is not None:
            self.stored = self._data(size)
            self.w.base(self.stored)
            self._open_again()

    @rule(size=SIZES, piece=st.sampled_from([10 * KIB, 128 * KIB, MIB]))
    def append(self, size: int, piece: int) -> None:
        data, before = self._data(size), self.file.size
        self._try(append(self.file, data, piece))
        # What was taken before it failed is there.
        if self.file.size >= before:
            self.model += data[: self.file.size - before]

    @rule(place=st.integers(0, 1000), size=SIZES)
    def overwrite(self, place: int, size: int) -> None:
        self._write(len(self.model) * place // 1000, self._data(size))

    @rule(beyond=SIZES, size=st.integers(1, 1000))
    def write_behind_the_end(self, beyond: int, size: int) -> None:
        self._write(len(self.model) + beyond, self._data(size))

    def _write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if self._try(write(self.file, offset, data)) and data:
            self.model.extend(bytes(max(offset - len(self.model), 0)))
            self.model[offset:end] = data

    @rule(size=SIZES | st.just(0))
    def truncate(self, size: int) -> None:
        if self._try(self.file.truncate(size), always=size in {0, len(self.model)}):
            del self.model[size:]
            self.model.extend(bytes(size - len(self.model)))

    @rule(place=st.integers(0, 1000), size=SIZES)
    def zero(self, place: int, size: int) -> None:
        start = len(self.model) * place // 1000
        if size and self._try(self.file.zero(start, start + size)):
            self.model[start : start + size] = bytes(size)

    @rule()
    def commit(self) -> None:
        self._hand_off()
        if self._try(self.file.commit(), always=True):
            self.stored = bytes(self.model)
            assert self.w.stored() == self.stored
            assert not self.file.dirty
            assert self.file.base is not None
            assert self.file.base.size == len(self.stored)

    @rule()
    def close_and_open(self) -> None:
        """Without a commit: what was not stored is given up."""
        self._hand_off()
        self._open_again()

    @rule(place=st.integers(0, 1000), size=SIZES)
    def read(self, place: int, size: int) -> None:
        if not self.file.readable:
            return
        offset, found = len(self.model) * place // 1000, list[bytes]()

        async def reading() -> None:
            found.append(await read(self.file, offset, size))

        if self._try(reading()):
            assert found == [self.model[offset : offset + size]]

    # -- the store ------------------------------------------------------------------------------

    @rule(operation=FAILURES, nth=st.integers(1, 3))
    def fail(self, operation: str, nth: int) -> None:
        self.w.store.fail(operation, REFUSED, nth=nth)
        self.failing = True

    @rule(copying=st.booleans())
    def copy_or_not(self, copying: bool) -> None:
        self.w.store.copying = copying

    @precondition(lambda self: "upload_part" not in self.w.store._gates)
    @rule()
    def hold_parts(self) -> None:
        self.w.store.hold("upload_part")

    @rule()
    def let_parts_go(self) -> None:
        self._hand_off()
        self.run(settle(10))

    @rule()
    def memory_is_short(self) -> None:
        """Somebody else needs some, and gets it for a moment."""
        self._hand_off()
        self.run(self._need(2 * MIB))

    async def _need(self, size: int) -> None:
        await self.w.pool.charge(size)
        await settle(20)
        self.w.pool.uncharge(size)

    def _hand_off(self) -> None:
        if "upload_part" in self.w.store._gates:
            self.w.store.let_go("upload_part")

    @invariant()
    def agrees(self) -> None:
        assert self.w.stored() == self.stored
        if self.file.failed is None:
            assert self.file.size == len(self.model)
        assert len(self.w.store.uploads) <= 1
        used = self.w.pool.statistics().used
        assert used <= 12 * MIB

    def teardown(self) -> None:
        self._hand_off()
        self.w.store.mend()
        self.run(self.file.close())
        assert self.w.store.uploads == {}
        assert self.w.pool.statistics().used == 0
        self.patch.undo()
        self.bench.close(may_log=["staged_kept"])
        if self.cache:
            shutil.rmtree(self.cache)


class OnDisk(WriterMachine):
    """What is staged is on disk."""

    on_disk = True


class ReadBack(WriterMachine):
    """And somebody reads what is written, so that it is never let go."""

    on_disk = True
    read_back = True


_SETTINGS = settings(deadline=None, max_examples=120, stateful_step_count=25)
WriterMachine.TestCase.settings = _SETTINGS
OnDisk.TestCase.settings = _SETTINGS
ReadBack.TestCase.settings = _SETTINGS
TestInMemory = WriterMachine.TestCase
TestOnDisk = OnDisk.TestCase
TestReadBack = ReadBack.TestCase
