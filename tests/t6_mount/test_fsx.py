"""One file, all that can be done to its bytes, and a mirror of them: fsx, as it is known.

Each operation is checked against the mirror, and on the way the whole file is, after it was closed
and opened again, in the bucket and through another mount. A failure names the seed and the last
operations.
"""

import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from support.mounts import Mount
from support.s3 import Bucket
from support.twins import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, copy_range, fallocate

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

MIB = 1 << 20
PART = 5 * MIB
_REMEMBERED = 25  # operations that a failure shows


class Shape(NamedTuple):
    """What kind of file it is.

    Attributes:
        size: of the file, at most.
        piece: of one operation, at most.
        mapped: whether it is read and written through memory maps, too.
    """

    size: int
    piece: int
    mapped: bool


SHAPES = {
    "small": Shape(256 << 10, 64 << 10, mapped=False),
    "small-mapped": Shape(256 << 10, 64 << 10, mapped=True),
    "parts": Shape(13 * MIB, 256 << 10, mapped=False),
    "parts-mapped": Shape(13 * MIB, 256 << 10, mapped=True),
}


class Fsx:
    """The file and its mirror."""

    def __init__(self, path: Path, shape: Shape, seed: int) -> None:
        self.path = path
        self.shape = shape
        self.mirror = bytearray()
        self._random = random.Random(seed)
        self._done: deque[str] = deque(maxlen=_REMEMBERED)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        mapped = [self.read_mapped, self.write_mapped] * 3 if shape.mapped else []
        # Closing stores the file, so it is the slowest; it is done every now and then.
        self._operations: list[Callable[[], None]] = (
            [self.read, self.write] * 10
            + [self.truncate, self.append, self.punch, self.zero, self.copy, self.seek] * 2
            + mapped * 2
        )

    def run(self, operations: int, *, reopen_every: int) -> None:
        """Do that many operations, and have the file stored after each `reopen_every` of them."""
        for number in range(1, operations + 1):
            self._random.choice(self._operations)()
            if number % reopen_every == 0:
                self._random.choice((self.reopen, self.fsync))()
        self.reopen()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    # -- places ---------------------------------------------------------------------------------

    def _range(self, size: int) -> tuple[int, int]:
        """Choose a range that begins below `size`, on page boundaries every third time."""
        start = self._random.randrange(max(size, 1))
        length = self._random.randint(1, self.shape.piece)
        if self._random.randrange(3) == 0:
            start, length = start & -4096, (length + 4095) & -4096
        return start, min(start + length, self.shape.size)

    def _data(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def _note(self, what: str, start: int = 0, end: int = 0) -> None:
        self._done.append(f"{what} {start:#x} {end:#x} of {len(self.mirror):#x}")

    def _check(self, start: int, found: bytes, expected: bytes) -> None:
        if found != expected:
            at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                      min(len(found), len(expected)))  # fmt: skip
            story = "\n".join(self._done)
            raise AssertionError(
                f"differs from {start + at:#x} on: {found[at : at + 8]!r} is not "
                f"{expected[at : at + 8]!r} ({len(found)} and {len(expected)} bytes), "
                f"after\n{story}"
            )

    def _mirror(self, start: int, data: bytes) -> None:
        self.mirror.extend(bytes(max(start - len(self.mirror), 0)))
        self.mirror[start : start + len(data)] = data

    # -- operations -----------------------------------------------------------------------------

    def read(self) -> None:
        start, end = self._range(len(self.mirror))
        self._note("read", start, end)
        found = os.pread(self._fd, end - start, start)
        self._check(start, found, bytes(self.mirror[start:end]))

    def write(self) -> None:
        start, end = self._range(self.shape.size)
        self._write("write", start, end)

    def append(self) -> None:
        _, length = self._range(1)
        start = len(self.mirror)
        self._write("append", start, min(start + length, self.shape.size))

    def _write(self, what: str, start: int, end: int) -> None:
        self._note(what, start, end)
        data = self._data(end - start)
        assert os.pwrite(self._fd, data, start) == len(data)
        if data:
            self._mirror(start, data)

    def truncate(self) -> None:
        size = self._random.randint(0, self.shape.size)
        self._note("truncate", size)
        os.ftruncate(self._fd, size)
        self.mirror.extend(bytes(max(size - len(self.mirror), 0)))
        del self.mirror[size:]
        self._size()

    def _size(self) -> None:
        for size in (os.fstat(self._fd).st_size, self.path.stat().st_size):
            self._check(0, b"%d" % size, b"%d" % len(self.mirror))

    def punch(self) -> None:
        start, end = self._range(self.shape.size)
        self._note("punch", start, end)
        fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, start, end - start)
        kept = min(end, len(self.mirror))
        if start < kept:
            self._mirror(start, bytes(kept - start))

    def zero(self) -> None:
        start, end = self._range(self.shape.size)
        self._note("zero", start, end)
        fallocate(self._fd, ZERO_RANGE, start, end - start)
        self._mirror(start, bytes(end - start))

    def copy(self) -> None:
        start, end = self._range(len(self.mirror))
        end = min(end, len(self.mirror))
        to = self._random.randrange(self.shape.size - (end - start) + 1)
        if start >= end or abs(to - start) < end - start:
            return
        self._note(f"copy to {to:#x}", start, end)
        assert copy_range(self._fd, self._fd, start, to, end - start) == end - start
        self._mirror(to, bytes(self.mirror[start:end]))

    def seek(self) -> None:
        start = self._random.randrange(len(self.mirror) + 1)
        self._note("seek", start)
        try:
            data = os.lseek(self._fd, start, os.SEEK_DATA)
        except OSError:
            data = len(self.mirror)
        self._check(start, bytes(self.mirror[start:data]), bytes(max(data - start, 0)))

    def read_mapped(self) -> None:
        start, end = self._range(len(self.mirror))
        end = min(end, len(self.mirror))
        if start < end:
            self._note("read mapped", start, end)
            base = start & -mmap.PAGESIZE
            with mmap.mmap(self._fd, end - base, prot=mmap.PROT_READ, offset=base) as mapped:
                self._check(start, mapped[start - base : end - base], bytes(self.mirror[start:end]))

    def write_mapped(self) -> None:
        start, end = self._range(len(self.mirror))
        end = min(end, len(self.mirror))
        if start < end:
            self._note("write mapped", start, end)
            base, data = start & -mmap.PAGESIZE, self._data(end - start)
            with mmap.mmap(self._fd, end - base, offset=base) as mapped:
                mapped[start - base : end - base] = data
                if self._random.randrange(2):
                    mapped.flush()  # otherwise the kernel writes it back when it likes
            self._mirror(start, data)

    def fsync(self) -> None:
        self._note("fsync")
        os.fsync(self._fd)

    def reopen(self) -> None:
        """Close it, and read all of it through a new descriptor."""
        self._note("reopen")
        os.close(self._fd)
        self._fd = os.open(self.path, os.O_RDWR)
        if self._random.randrange(4) == 0:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._size()
        self._check(0, os.pread(self._fd, self.shape.size + 1, 0), bytes(self.mirror))


def exercise(bucket: Bucket, *, operations: int, reopen_every: int, seed: int) -> None:
    """Run all shapes on one mount, and look at what came of them from everywhere."""
    mirrors: dict[str, bytes] = {}
    with Mount(bucket, f"part_size={PART // MIB}M") as mnt:
        for name, shape in SHAPES.items():
            fsx = Fsx(mnt / name, shape, seed)
            try:
                fsx.run(operations, reopen_every=reopen_every)
            finally:
                fsx.close()
            mirrors[name] = bytes(fsx.mirror)
            assert bucket.get(name) == mirrors[name], name
    with Mount(bucket) as fresh:
        for name, mirror in mirrors.items():
            assert (fresh / name).read_bytes() == mirror, name
    assert bucket.uploads() == []


@pytest.mark.parametrize("seed", [1])
def test_some_operations(bucket: Bucket, seed: int) -> None:
    exercise(bucket, operations=500, reopen_every=50, seed=seed)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_thousand_operations(bucket: Bucket, seed: int) -> None:
    exercise(bucket, operations=20_000, reopen_every=50, seed=seed)
