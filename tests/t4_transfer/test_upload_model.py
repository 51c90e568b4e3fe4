"""Random programs of a writer beside a bytearray: what a commit promises is what is stored."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.transfer import upload as upload_module
from fuse_s3_worker.transfer.upload import Upload
from support.pattern import pattern
from support.virtualtime import Bench, settle
from support.writing import KEY, Writing, append, write

_T = TypeVar("_T")

FIRST_PART = 300 * KIB
PART_MIN = 64 * KIB

SIZES = st.integers(0, 2 * FIRST_PART) | st.sampled_from([1, FIRST_PART - 1, FIRST_PART])
FAILURES = st.sampled_from(
    "put create_multipart upload_part copy_part complete_multipart get_range".split()
)
REFUSED = StoreError(Fault.FORBIDDEN, "no")


class UploadMachine(RuleBasedStateMachine):
    """One file, written, cut, stored, closed and opened again.

    What may be refused is only what the writer cannot do at all: a change in front of a part
    that is on its way. It is refused with nothing changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(upload_module, "PART_MIN", PART_MIN)
        self.bench = Bench()
        self.w = self.run(self._set_up())
        self.upload: Upload = self.w.begin()
        self.stored: bytes | None = None
        self.model = bytearray()
        self.whole = True  # it never was more than a first part: everything can be changed
        self.failing = False
        self.seed = 0

    async def _set_up(self) -> Writing:
        return Writing(64 * MIB, FIRST_PART, PART_MIN)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.bench.run(work)

    def _data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def _try(self, work: Coroutine[Any, Any, object], *, always: bool) -> bool:
        """Tell whether `work` was done; with `always`, only a store that fails may refuse it."""
        try:
            self.run(work)
        except FileSystemError:
            assert not always
            return False
        except ServeError:
            assert self.failing
            self._check_failed()
            return False
        return True

    def _check_failed(self) -> None:
        """Everything as before, or nothing of it any more."""
        if self.upload.failed is None:
            return  # fetching back failed: the next try may work
        self.run(settle())
        assert self.w.stored() == self.stored
        self._open_again()

    def _open_again(self) -> None:
        self.run(self.upload.close())
        found = self.w.store.stored(KEY)
        self.upload = self.w.begin(found.info if found else None)
        self.model = bytearray(self.stored or b"")
        self.whole = len(self.model) <= FIRST_PART
        self.w.store.mend()
        self.failing = False

    # -- the program ----------------------------------------------------------------------------

    @initialize(size=SIZES | st.none())
    def begin(self, size: int | None) -> None:
        if size is not None:
            self.stored = self._data(size)
            self.w.base(self.stored)
            self._open_again()

    @rule(size=SIZES, piece=st.sampled_from([10 * KIB, 128 * KIB, MIB]))
    def append(self, size: int, piece: int) -> None:
        data = self._data(size)
        if self._try(append(self.upload, data, piece), always=True):
            self.model += data
            self._grown()

    @rule(place=st.integers(0, 1000), size=SIZES)
    def overwrite(self, place: int, size: int) -> None:
        offset = len(self.model) * place // 1000
        self._write(offset, self._data(size))

    @rule(beyond=SIZES, size=st.integers(1, 1000))
    def write_behind_the_end(self, beyond: int, size: int) -> None:
        self._write(len(self.model) + beyond, self._data(size))

    def _write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        fits = self.whole and max(len(self.model), end) <= FIRST_PART
        if self._try(write(self.upload, offset, data), always=fits or offset == len(self.model)):
            if data:
                self.model.extend(bytes(max(offset - len(self.model), 0)))
            self.model[offset:end] = data
            self._grown()

    @rule(size=SIZES)
    def truncate(self, size: int) -> None:
        fits = self.whole and max(len(self.model), size) <= FIRST_PART
        if self._try(self.upload.truncate(size), always=fits or size in {0, len(self.model)}):
            del self.model[size:]
            self.model.extend(bytes(size - len(self.model)))
            self._grown()

    def _grown(self) -> None:
        if not self.model:
            self.whole = True
        elif len(self.model) > FIRST_PART:
            self.whole = False

    @rule()
    def commit(self) -> None:
        self._hand_off()
        if self._try(self.upload.commit(), always=True):
            self.stored = bytes(self.model)
            assert self.w.stored() == self.stored
            assert not self.upload.dirty
            assert self.upload.base is not None
            assert self.upload.base.size == len(self.stored)
            self.whole = len(self.model) <= FIRST_PART

    @rule()
    def close_and_open(self) -> None:
        """Without a commit: what was not stored is given up."""
        self._hand_off()
        self._open_again()

    @rule()
    def read_back(self) -> None:
        if self.upload.in_memory:
            assert b"".join(self.upload.read(0, len(self.model) + 10)) == self.model
            middle = len(self.model) // 2
            assert b"".join(self.upload.read(middle, 5)) == self.model[middle : middle + 5]

    # -- the store ------------------------------------------------------------------------------

    @rule(operation=FAILURES, nth=st.integers(1, 3))
    def fail(self, operation: str, nth: int) -> None:
        self.w.store.fail(operation, REFUSED, nth=nth)
        self.failing = True

    @precondition(lambda self: "upload_part" not in self.w.store._gates)
    @rule()
    def hold_parts(self) -> None:
        self.w.store.hold("upload_part")

    @rule()
    def let_parts_go(self) -> None:
        self._hand_off()
        self.run(settle(10))

    def _hand_off(self) -> None:
        if "upload_part" in self.w.store._gates:
            self.w.store.let_go("upload_part")

    @invariant()
    def agrees(self) -> None:
        assert self.w.stored() == self.stored
        if self.upload.failed is None:
            assert self.upload.size == len(self.model)
        assert len(self.w.store.uploads) <= 1

    def teardown(self) -> None:
        self._hand_off()
        self.w.store.mend()
        self.run(self.upload.close())
        assert self.w.store.uploads == {}
        assert self.w.pool.statistics().used == 0
        self.patch.undo()
        self.bench.close()


UploadMachine.TestCase.settings = settings(deadline=None, max_examples=300, stateful_step_count=25)
TestAgainstABytearray = UploadMachine.TestCase
