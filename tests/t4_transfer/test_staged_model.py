"""Random programs of a writer beside a bytearray: any write, any read, and stores that fail."""

import errno
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.staged import StagedFile
from support.pattern import pattern
from support.staging import KEY, LIMITS, PART_MIN, Staged
from support.virtualtime import Bench, settle

_T = TypeVar("_T")

SIZES = st.integers(0, 3 * PART_MIN) | st.sampled_from([1, PART_MIN - 1, PART_MIN, LIMITS.send])
PLACES = st.integers(0, 1000)
FAILURES = st.sampled_from(
    "put copy create_multipart upload_part copy_part complete_multipart get_range head".split()
)
REFUSED = StoreError(Fault.UNAVAILABLE, "not now")


class StagedMachine(RuleBasedStateMachine):
    """One file, changed in every way, read, stored, closed and opened again."""

    on_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.cache = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.s = self.run(self._set_up())
        self.other = self.s.base(pattern(5 * PART_MIN, 99), "other")
        self.file: StagedFile = self.s.begin()
        self.stored: bytes | None = None
        self.model = bytearray()
        self.dirty = True  # it does not exist
        self.failing = False
        self.theirs = False  # another client has replaced the object
        self.seed = 0

    async def _set_up(self) -> Staged:
        return Staged(self.cache)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.bench.run(work)

    def _data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def _at(self, place: int) -> int:
        return len(self.model) * place // 1000

    def _changed(self) -> None:
        self.dirty = True

    # -- the program ----------------------------------------------------------------------------

    @initialize(size=SIZES | st.integers(0, 12 * PART_MIN) | st.none())
    def begin(self, size: int | None) -> None:
        if size is None:
            return
        self.stored = self._data(size)
        self.file = self.s.begin(self.s.base(self.stored))
        self.model = bytearray(self.stored)
        self.dirty = False

    @rule(place=PLACES, beyond=st.just(0) | SIZES, size=SIZES)
    def write(self, place: int, beyond: int, size: int) -> None:
        offset, data = self._at(place) + beyond, self._data(size)
        view = memoryview(data)
        if not self.file.write_nowait(offset, view):
            self.run(self.file.write(offset, view))
        if data:
            self.model.extend(bytes(max(offset - len(self.model), 0)))
            self.model[offset : offset + size] = data
            self._changed()

    @rule(size=SIZES, place=PLACES)
    def truncate(self, size: int, place: int) -> None:
        size = min(size, self._at(place)) if place else size
        self.run(self.file.truncate(size))
        if size != len(self.model):
            self._changed()
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    @rule(place=PLACES, size=SIZES)
    def zero(self, place: int, size: int) -> None:
        start = self._at(place)
        if size:
            self.run(self.file.zero(start, start + size))
            self.model[start : start + size] = bytes(size)
            self._changed()

    @rule(place=PLACES, size=st.integers(1, 4 * PART_MIN), offset=st.integers(0, PART_MIN))
    def copy_from_another(self, place: int, size: int, offset: int) -> None:
        start = self._at(place)
        self.run(self.file.put([Extent(start, start + size, self.other, offset)]))
        self.model[start : start + size] = pattern(5 * PART_MIN, 99)[offset : offset + size]
        self._changed()

    @rule(place=PLACES, size=st.integers(1, 3 * PART_MIN))
    def read(self, place: int, size: int) -> None:
        offset = self._at(place)
        found = self.run(self._outcome(self._read(offset, size)))
        if isinstance(found, ServeError):
            assert found is REFUSED or (self.theirs and found.errno == errno.ESTALE)
        else:
            assert found == self.model[offset : offset + size]

    async def _outcome(self, work: Coroutine[Any, Any, _T]) -> _T | ServeError:
        try:
            return await work
        except ServeError as error:
            return error

    async def _read(self, offset: int, size: int) -> bytes:
        views = self.file.read_nowait(offset, size)
        return b"".join(views) if views is not None else bytes(await self.file.read(offset, size))

    @rule(place=PLACES)
    def seek(self, place: int) -> None:
        offset = self._at(place)
        for hole in (False, True):
            try:
                found = self.file.seek(offset, hole=hole)
            except ServeError:
                assert not hole or offset >= len(self.model)
                found = len(self.model)
            if hole:
                assert offset <= found <= len(self.model)
            else:
                assert not any(self.model[offset:found]), "what is passed over is zeros"

    @rule()
    def commit(self) -> None:
        info = self.run(self._outcome(self.file.commit()))
        if isinstance(info, ServeError):
            assert self.failing or self.theirs
            assert self.file.failed is info
            self._check_failed()
            return
        was_dirty, self.dirty = self.dirty, False
        if not was_dirty or (self.theirs and not self.model):
            return  # empty as it was: there is nothing to be stored
        assert not self.theirs
        self.stored = bytes(self.model)
        assert self.s.stored() == self.stored
        assert info is not None
        assert (info.size, info.etag) == (len(self.stored), self._info().etag)
        assert self.file.base == info

    def _info(self) -> ObjectInfo:
        found = self.s.store.stored(KEY)
        assert found is not None
        return found.info

    def _check_failed(self) -> None:
        """The bucket is as it was; what was written is kept where it can be."""
        self.run(settle())
        assert self.s.stored() == self.stored
        path = self.file.path
        assert bool(path) == self.on_disk
        self._reopen()
        assert not path or Path(path).exists()

    @rule(keep=st.booleans())
    def close_and_open(self, keep: bool) -> None:
        """Without a commit: what was not stored is given up, or kept."""
        path = self.file.path
        self._reopen(keep=keep)
        if path and Path(path).exists():
            assert keep or self.dirty is False

    def _reopen(self, *, keep: bool = False) -> None:
        self.run(self.file.close(keep=keep))
        self.s.store.mend()
        found = self.s.store.stored(KEY)
        self.file = self.s.begin(found.info if found else None)
        self.model = bytearray(self.stored or b"")
        self.dirty = found is None
        self.failing = self.theirs = False

    # -- the store ------------------------------------------------------------------------------

    @rule(operation=FAILURES, nth=st.integers(1, 3))
    def fail(self, operation: str, nth: int) -> None:
        self.s.store.fail(operation, REFUSED, nth=nth)
        self.failing = True

    @rule(copying=st.booleans())
    def copy_or_not(self, copying: bool) -> None:
        self.s.store.copying = copying

    @rule(size=SIZES)
    def another_client_stores(self, size: int) -> None:
        if self.file.base is None:
            return
        self.stored = self._data(size)
        self.theirs = self.s.base(self.stored).etag != self.file.base.etag

    @rule()
    def memory_is_short(self) -> None:
        self.file._reclaim()

    @invariant()
    def agrees(self) -> None:
        assert self.s.stored() == self.stored
        assert self.file.size == len(self.model)
        assert self.file.dirty == self.dirty

    def teardown(self) -> None:
        self.s.store.mend()
        self.run(self.s.finish())
        self.bench.close(may_log=["staged_conflict", "staged_kept"])
        if self.cache:
            shutil.rmtree(self.cache)


class OnDisk(StagedMachine):
    """The same with the stage on disk."""

    on_disk = True


_SETTINGS = settings(deadline=None, max_examples=120, stateful_step_count=30)
StagedMachine.TestCase.settings = _SETTINGS
OnDisk.TestCase.settings = _SETTINGS
TestInMemory = pytest.mark.timeout(900)(StagedMachine.TestCase)
TestOnDisk = pytest.mark.timeout(900)(OnDisk.TestCase)
