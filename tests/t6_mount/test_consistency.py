"""What is seen when, and how few requests it takes."""

import concurrent.futures
import itertools
import os
import random
import re
import time
from collections.abc import Iterator

import pytest

from support import faults
from support.mounts import Mount, run
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
FOR_LONG = "metadata_ttl=600"


@pytest.fixture
def mnt(bucket: Bucket, proxy: Proxy) -> Iterator[Mount]:
    """A mount behind the proxy that believes what it was told for a long time."""
    with Mount(bucket, FOR_LONG, store=bucket.store.at(proxy.endpoint)) as mount:
        yield mount


# -- what others do --------------------------------------------------------------------------------


def test_changes_of_others_are_seen_after_the_lifetime(bucket: Bucket) -> None:
    """[S14] Names, sizes and times are believed for `metadata_ttl` seconds, and so is a name's
    absence; then the bucket is asked again.

    [S15] An open that comes more than `metadata_ttl` seconds after another client stored a file
    sees all of what it stored.
    """
    bucket.put_many([("changes", b"1"), ("goes", b"1")])
    with Mount(bucket, "metadata_ttl=1") as mnt:
        assert (mnt / "changes").stat().st_size == 1
        assert (mnt / "goes").exists()
        assert not (mnt / "comes").exists()
        bucket.put_many([("changes", b"22"), ("comes", b"1")])
        bucket.delete("goes")
        time.sleep(1.1)
        assert (mnt / "changes").read_bytes() == b"22"
        assert (mnt / "changes").stat().st_size == 2
        assert not (mnt / "goes").exists()
        assert (mnt / "comes").read_bytes() == b"1"
        assert mnt.names() == ["changes", "comes"]


@pytest.mark.parametrize("lifetime", ["indefinite", "600"])
def test_changes_of_others_are_not_seen_before(bucket: Bucket, lifetime: str) -> None:
    bucket.put_many([("changes", b"1"), ("d/goes", b"1")])
    with Mount(bucket, f"metadata_ttl={lifetime}") as mnt:
        before = (mnt / "changes").stat()
        assert not (mnt / "comes").exists()
        assert mnt.names("d") == ["goes"]
        bucket.put_many([("changes", b"22"), ("comes", b"1"), ("d/comes", b"1")])
        bucket.delete("d/goes")
        time.sleep(1.2)  # longer than without the option
        assert (mnt / "changes").stat() == before
        assert not (mnt / "comes").exists()
        assert mnt.names("d") == ["goes"]


def test_nothing_is_believed_without_a_lifetime(bucket: Bucket) -> None:
    bucket.put("x", b"1")
    with Mount(bucket, "metadata_ttl=0") as mnt:
        for size in range(1, 6):
            bucket.put("x", b"x" * size)
            assert (mnt / "x").stat().st_size == size
            assert (mnt / "x").read_bytes() == b"x" * size
            bucket.put(f"y{size}", b"")
            assert len(mnt.names()) == size + 1


@pytest.mark.parametrize("lifetime", ["0", "1", "indefinite"])
def test_own_changes_are_seen_at_once(bucket: Bucket, lifetime: str) -> None:
    with Mount(bucket, f"metadata_ttl={lifetime}") as mnt:
        assert not (mnt / "x").exists()
        assert mnt.names() == []
        for size in (1, 5, 3):
            (mnt / "x").write_bytes(b"x" * size)
            assert (mnt / "x").stat().st_size == size
            assert (mnt / "x").read_bytes() == b"x" * size
        os.truncate(mnt / "x", 2)
        assert (mnt / "x").read_bytes() == b"xx"
        (mnt / "d").mkdir()
        (mnt / "d/y").write_bytes(b"1")
        assert mnt.names() == ["d", "x"]
        assert mnt.names("d") == ["y"]
        (mnt / "x").unlink()
        (mnt / "d/y").unlink()
        assert not (mnt / "x").exists()
        assert mnt.names("d") == []
        (mnt / "d").rmdir()
        assert mnt.names() == []


@pytest.mark.one_store
def test_two_mounts_of_one_bucket(bucket: Bucket) -> None:
    with Mount(bucket) as one, Mount(bucket) as other:
        for number in range(3):
            (one / "x").write_bytes(b"x" * number)
            time.sleep(1.1)
            assert (other / "x").read_bytes() == b"x" * number
        (other / "x").unlink()
        time.sleep(1.1)
        assert not (one / "x").exists()


# -- how many requests -----------------------------------------------------------------------------


def test_a_look_at_a_name(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    bucket.put("x", b"1")
    for name, exists in (("x", True), ("absent", False)):
        with proxy.counting() as first:
            assert (mnt / name).exists() == exists
        with proxy.counting() as second:
            for _ in range(10):
                assert (mnt / name).exists() == exists
        assert first == {"HeadObject": 1, "ListObjectsV2": 1}
        assert second == {}


def test_many_looks_at_one_name_are_one(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    bucket.put("x", b"1")
    gate = faults.Gate()
    proxy.on("HeadObject", gate.hold_before)
    with concurrent.futures.ThreadPoolExecutor(20) as threads, proxy.counting() as counted:
        looks = [threads.submit((mnt / "x").stat) for _ in range(20)]
        wait_until(lambda: gate.waiting, "the request")
        gate.open()
        assert {look.result().st_size for look in looks} == {1}
    assert counted == {"HeadObject": 1, "ListObjectsV2": 1}


def test_a_long_listing(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    """[S22] A listing asks the bucket once for every 1,000 names, and brings sizes and times
    along.
    """
    bucket.put_many((f"d/{n:04}", b"x" * (n % 7)) for n in range(1500))
    with proxy.counting() as counted:
        listed = run("ls", "-l", mnt / "d")
    assert listed.stdout.count("\n") == 1501
    # The directory itself is a name that was looked up; the rest are the pages.
    assert counted == {"HeadObject": 1, "ListObjectsV2": 3}
    with proxy.counting() as again:
        assert run("ls", "-l", mnt / "d").stdout == listed.stdout
        assert run("find", mnt / "d", "-size", "6c").stdout.count("\n") == 1500 // 7
        assert not (mnt / "d/absent").exists()
    assert again == {}


def test_a_small_file(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    with proxy.counting() as counted:
        (mnt / "x").write_bytes(b"1" * 10_000)
    assert counted == {"HeadObject": 1, "ListObjectsV2": 1, "PutObject": 1}
    with proxy.counting() as counted:
        assert (mnt / "x").read_bytes() == b"1" * 10_000
    assert counted == {"GetObject": 1}
    bucket.put("y", b"2" * 10_000)
    with proxy.counting() as counted:
        assert (mnt / "y").read_bytes() == b"2" * 10_000
    assert counted == {"HeadObject": 1, "ListObjectsV2": 1, "GetObject": 1}


def test_a_directory_of_small_files(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    bucket.put_many((f"d/{n}", b"1") for n in range(30))
    with proxy.counting() as counted:
        assert run("sh", "-c", f"cat {mnt.path}/d/*").stdout == "1" * 30
    assert counted["GetObject"] == 30
    assert counted["HeadObject"] + counted["ListObjectsV2"] <= 3
    with proxy.counting() as counted:
        assert run("rm", "-r", mnt / "d").returncode == 0
    assert counted["DeleteObject"] == 30
    # It makes sure that nothing has come meanwhile; that is all it asks.
    assert counted["HeadObject"] + counted["ListObjectsV2"] <= 3


def test_opening_again_fetches_nothing(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    """[S20] Opening a file again fetches nothing while its ETag is the same and the kernel has its
    pages.
    """
    content = random.Random(1).randbytes(3 * MIB)
    bucket.put("x", content)
    assert (mnt / "x").read_bytes() == content
    with proxy.counting() as again:
        for _ in range(3):
            assert (mnt / "x").read_bytes() == content
    assert again == {}
    with Mount(bucket, "metadata_ttl=0", store=bucket.store.at(proxy.endpoint)) as other:
        assert (other / "x").read_bytes() == content
        with proxy.counting() as revalidated:
            assert (other / "x").read_bytes() == content
        assert revalidated["GetObject"] == 0
        assert revalidated["HeadObject"] >= 1
        bucket.put("x", content[::-1])
        assert (other / "x").read_bytes() == content[::-1]


def fetched(proxy: Proxy) -> list[tuple[int, int]]:
    """Return the ranges that were asked for, by start."""
    ranges = (exchange.request.headers.get("range", "") for exchange in proxy.seen)
    matches = (re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in ranges)
    return sorted((int(match[1]), int(match[2]) + 1) for match in matches if match)


def test_reading_on_fetches_each_byte_once(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    content = random.Random(2).randbytes(20 * MIB)
    bucket.put("x", content)
    assert (mnt / "x").read_bytes() == content
    ranges = fetched(proxy)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(content)
    for (_, end), (start, _) in itertools.pairwise(ranges):
        assert end == start


def test_reading_here_and_there_fetches_little_more(
    bucket: Bucket, proxy: Proxy, mnt: Mount
) -> None:
    chance = random.Random(3)
    content = chance.randbytes(20 * MIB)
    bucket.put("x", content)
    fd = os.open(mnt / "x", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel is not to read ahead
        for _ in range(30):
            at = chance.randrange(MIB, len(content) - 4096)
            assert os.pread(fd, 4096, at) == content[at : at + 4096]
    finally:
        os.close(fd)
    # A page or two each, and nothing beside.
    assert sum(end - start for start, end in fetched(proxy)) <= 30 * 2 * 4096


def test_tree_that_is_written_asks_for_nothing_it_knows(
    bucket: Bucket, proxy: Proxy, mnt: Mount
) -> None:
    """A directory that this mount has made is known to be empty; files in it need no look."""
    (mnt / "d").mkdir()
    assert mnt.names("d") == []
    with proxy.counting() as counted:
        for number in range(20):
            (mnt / f"d/{number}").write_bytes(b"1")
    assert counted == {"PutObject": 20}
    assert len(bucket.keys("d/")) == 21
