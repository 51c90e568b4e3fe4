"""Many readers and writers at once: memory stays bounded, and everybody gets on."""

import os
import random
import resource
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from support.mounts import Mount
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20
READERS, WRITERS = 64, 16
TARGET = 128 * MIB
OWN = 90 * MIB  # what a worker may take beside its buffers
READ_SIZE, WRITE_SIZE = 6 * MIB, 20 * MIB


def _peak(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes; see proc(5), VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        digest = sha256()
        while piece := file.read(128 * 1024):
            digest.update(piece)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(content), 128 * 1024):
            file.write(content[at : at + 128 * 1024])


def test_readers_and_writers_share_what_memory_there_is(bucket: Bucket) -> None:
    """[S87] The buffers of all open files together take no more than `memory_target` bytes; who
    needs more waits, and nobody waits for ever.
    """
    content = random.Random(3).randbytes(WRITE_SIZE)
    bucket.put_many([(f"r{n}", content[n * 1000 :][:READ_SIZE]) for n in range(READERS)])
    with Mount(bucket, "memory_target=128M") as mnt, ThreadPoolExecutor(READERS + WRITERS) as pool:
        reads = [pool.submit(_digest, mnt / f"r{n}") for n in range(READERS)]
        writes = [pool.submit(_write, mnt / f"w{n}", content) for n in range(WRITERS)]
        expected = [sha256(content[n * 1000 :][:READ_SIZE]).hexdigest() for n in range(READERS)]
        assert [read.result() for read in reads] == expected
        for write in writes:
            write.result()
        assert _peak(mnt.pid) < TARGET + OWN
    for number in range(WRITERS):
        assert bucket.get(f"w{number}") == content
    assert bucket.uploads() == []


def test_two_thousand_open_files(bucket: Bucket) -> None:
    """Opened and read, opened and not read: those that wait for nothing hold nothing."""
    count = 2_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    bucket.put_many([(f"f{n}", b"%d" % n * 1000) for n in range(count)])
    try:
        with Mount(bucket, "memory_target=64M") as mnt:
            files = [os.open(mnt / f"f{n}", os.O_RDONLY) for n in range(count)]
            try:
                for number, file in enumerate(files):
                    if number % 2:
                        assert os.pread(file, 100, 0) == (b"%d" % number * 1000)[:100]
                assert _peak(mnt.pid) < 64 * MIB + OWN
                # The last of them all gets its bytes although all others are still open.
                assert os.read(files[-2], 100) == (b"%d" % (count - 2) * 1000)[:100]
            finally:
                for file in files:
                    os.close(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_costs_how_many_requests(bucket: Bucket) -> None:
    """These numbers do not vary, and programs wait for each of them."""
    bucket.put_many([(f"d/{n:04}", b"x" * 100) for n in range(2_500)])
    with (
        Proxy(bucket.store.endpoint) as proxy,
        Mount(bucket, "metadata_ttl=300", store=bucket.store.at(proxy.endpoint)) as mnt,
    ):
        assert len(list((mnt / "d").iterdir())) == 2_500
        before = sum(proxy.counts().values())
        # ls -l, a second look at a name, and a name that is not there
        assert {entry.stat().st_size for entry in os.scandir(mnt / "d")} == {100}
        assert (mnt / "d/1234").stat().st_size == 100
        assert not (mnt / "d/absent").exists()
        assert sum(proxy.counts().values()) == before
        # cold, but listed: one request for each file
        for number in range(5):
            assert (mnt / f"d/{number:04}").read_bytes() == b"x" * 100
        # and one for each new one
        for number in range(5):
            (mnt / f"d/new{number}").write_bytes(b"1")
        asked = proxy.counts()
        assert (asked["GetObject"], asked["PutObject"]) == (5, 5)
        assert sum(asked.values()) == before + 10
        assert asked["HeadObject"] == 1  # for d itself
    with (
        Proxy(bucket.store.endpoint) as proxy,
        Mount(bucket, "metadata_ttl=300", store=bucket.store.at(proxy.endpoint)) as mnt,
    ):
        (mnt / "d").stat()
        before = sum(proxy.counts().values())
        with os.scandir(mnt / "d") as entries:  # each looked at while the listing goes on
            assert sum(entry.stat().st_size for entry in entries) == 100 * 2_500 + 5
        asked = proxy.counts()
        assert sum(asked.values()) - before == 3, asked
