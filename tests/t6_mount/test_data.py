"""Bytes go in and come out the same: every size around a part's edge, in pieces of any size."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from support.mounts import Mount, run
from support.s3 import Bucket
from support.trees import digest_of

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
PART = 5 * MIB  # the smallest that S3 takes
SIZES = (0, 1, PART - 1, PART, PART + 1, 3 * PART + 7)
CHUNKS = (4095, 128 * 1024, MIB + 1)
EDGE = 200  # bytes on both sides of a part's edge

# Without a period, so that no piece could be mistaken for another.
CONTENT = random.Random(7).randbytes(max(SIZES))


def write(path: Path, content: bytes, chunk: int) -> None:
    """Write in pieces of `chunk` bytes, each a write(2) of its own."""
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(content), chunk):
            assert file.write(content[at : at + chunk]) == len(content[at : at + chunk])


def read(path: Path, chunk: int) -> bytes:
    """Read in pieces of `chunk` bytes."""
    with path.open("rb", buffering=0) as file:
        pieces = []
        while piece := file.read(chunk):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_sizes_around_the_edges_of_parts(bucket: Bucket, chunk: int) -> None:
    """[S34] A file of at most `part_size` bytes is stored with one PUT; a longer one is a multipart
    upload whose parts are sent while the program still writes.
    """
    with Mount(bucket, "part_size=5M") as mnt:
        for size in SIZES:
            write(mnt / f"{size}", CONTENT[:size], chunk)
            assert (mnt / f"{size}").stat().st_size == size
            assert bucket.get(f"{size}") == CONTENT[:size]
            parts = f"-{-(-size // PART)}" if size > PART else ""
            assert bucket.head(f"{size}")["ETag"].strip('"')[32:] == parts
    with Mount(bucket) as fresh:
        for size in SIZES:
            path = fresh / f"{size}"
            assert path.stat().st_size == size
            assert read(path, chunk) == CONTENT[:size], size
    assert bucket.uploads() == []


def test_one_byte_at_a_time(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        for size in (1, 2, 4097, 20_001):
            write(mnt / f"{size}", CONTENT[:size], 1)
            assert bucket.get(f"{size}") == CONTENT[:size]
            assert read(mnt / f"{size}", 1) == CONTENT[:size]


def test_one_byte_at_a_time_over_the_edges_of_parts(bucket: Bucket) -> None:
    """Up to near an edge in large pieces: a call for each of so many bytes would take an hour."""
    with Mount(bucket, "part_size=5M") as mnt:
        for size in SIZES[2:]:
            with (mnt / f"{size}").open("wb", buffering=0) as file:
                while (at := file.tell()) < size:
                    to_edge = min(PART - at % PART, size - at)
                    near = to_edge <= EDGE or at % PART < EDGE
                    length = 1 if near else min(MIB, to_edge - EDGE)
                    assert file.write(CONTENT[at : at + length]) == length
            assert (mnt / f"{size}").stat().st_size == size
            assert bucket.get(f"{size}") == CONTENT[:size]
    with Mount(bucket) as fresh:
        for size in SIZES[2:]:
            assert digest_of(fresh / f"{size}") == hashlib.sha256(CONTENT[:size]).hexdigest()


def test_pieces_of_random_size_and_place(bucket: Bucket) -> None:
    chance = random.Random(11)
    size = 3 * PART + 7
    bucket.put("x", CONTENT[:size])
    with Mount(bucket) as mnt, (mnt / "x").open("rb", buffering=0) as file:
        for _ in range(120):
            at = chance.choice((chance.randrange(size), size - chance.randrange(1, 9), size, 0))
            length = chance.choice((1, 511, 4096, 70_000, MIB, 2 * MIB + 3))
            assert os.pread(file.fileno(), length, at) == CONTENT[at : min(at + length, size)]
        for beyond in (size, size + 1, size + 3 * PART, 1 << 60):
            assert os.pread(file.fileno(), 10, beyond) == b""


@pytest.mark.parametrize("flag", [os.O_DIRECT, os.O_SYNC, os.O_DSYNC])
def test_open_flags(bucket: Bucket, flag: int) -> None:
    """What asks the kernel for other ways of caching changes nothing of the content."""
    content = CONTENT[:100_000]
    with Mount(bucket) as mnt:
        fd = os.open(mnt / "x", os.O_CREAT | os.O_WRONLY | flag)
        try:
            assert os.write(fd, content) == len(content)
        finally:
            os.close(fd)
        assert bucket.get("x") == content
        fd = os.open(mnt / "x", os.O_RDONLY | flag)
        try:
            assert os.read(fd, len(content)) == content
        finally:
            os.close(fd)


@pytest.mark.parametrize("options", ["max_connections=2", "memory_target=32M,part_size=5M"])
def test_little_to_work_with(bucket: Bucket, options: str) -> None:
    """Scarce memory or connections make it slower, not wrong, and nothing waits for ever."""
    content = CONTENT[: 2 * PART + 3]
    with Mount(bucket, *options.split(",")) as mnt:
        copies = [
            f"cat {mnt.path}/in >{mnt.path}/{number} || touch {mnt.path}/failed &"
            for number in range(4)
        ]
        write(mnt / "in", content, MIB)
        done = run("sh", "-c", " ".join(copies) + " wait")
        assert (done.returncode, done.stderr) == (0, "")
        assert mnt.names() == ["0", "1", "2", "3", "in"]
        for number in range(4):
            assert bucket.get(f"{number}") == content
    assert bucket.uploads() == []


def test_many_readers_at_once(bucket: Bucket) -> None:
    content = CONTENT[: 2 * PART]
    bucket.put("x", content)
    digest = hashlib.sha256(content).hexdigest()
    with Mount(bucket) as mnt:
        command = " ".join([f"sha256sum <{mnt.path}/x &"] * 8) + " wait"
        done = run("sh", "-c", command)
        assert done.stdout == f"{digest}  -\n" * 8


# One server, and not the one that answers a range in the time of the whole object.
@pytest.mark.one_store
def test_reading_a_gibibyte_and_writing_it(bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for number in range(1024):
            # Each mebibyte is like no other, for the price of one.
            file.write(number.to_bytes(8, "big") + CONTENT[number : number + MIB - 8])
    digest = digest_of(source)
    with Mount(bucket) as mnt:
        done = run("dd", f"if={source}", f"of={mnt.path}/x", "bs=1M", "status=none")
        assert (done.returncode, done.stderr) == (0, "")
        assert (mnt / "x").stat().st_size == 1 << 30
    source.unlink()
    with Mount(bucket) as fresh:
        back = run("sh", "-c", f"dd if={fresh.path}/x bs=1M status=none | sha256sum")
        assert back.stdout == f"{digest}  -\n"
    assert bucket.uploads() == []
