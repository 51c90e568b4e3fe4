"""The cache directory: what a killed worker left, and what the next one makes of it."""

import errno
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import faults
from support.cachedir import LATER, CacheDirectory, kill_worker
from support.changing import change, fails, patched
from support.mounts import Mount
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20


def tops(bucket: Bucket) -> set[str]:
    """Return the first component of every key."""
    keys = bucket.keys()
    return {key.partition("/")[0] for key in keys}


def test_what_a_killed_worker_left(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """[S46] What was closed or fsynced and not stored when a worker was killed is stored by its
    successor, or by the next mount of that bucket and prefix with that `cache=`: its name is listed
    at once, and who asks for it waits. What was not closed is kept there, for `fuse-s3 staged` to
    show.
    """
    before = os.urandom(MIB)
    for key in ("closed", "half", "synced"):
        bucket.put(f"p/{key}", before)
    gate = faults.Gate()
    proxy.on("PutObject", gate.hold_before, key="p/synced")
    through = bucket.store.at(proxy.endpoint)
    mnt = Mount(bucket, cache.option, LATER, source=f"{bucket.name}/p", store=through)
    with mnt:
        os.close(change(mnt / "closed", 1000, b"closed"))
        half = change(mnt / "half", 2000, b"half")
        synced = change(mnt / "synced", 3000, b"synced")
        syncing = threading.Thread(target=fails, args=(errno.ECONNABORTED, os.fsync, synced))
        syncing.start()
        wait_until(lambda: gate.waiting, "the upload")
        kill_worker(mnt)
        syncing.join()
        for fd in (half, synced):
            fails(errno.ENOTCONN, os.close, fd)
        assert [bucket.get(f"p/{key}") for key in ("closed", "half", "synced")] == [before] * 3
        assert cache.states() == {
            "p/closed": "waiting", "p/half": "interrupted", "p/synced": "waiting",
        }  # fmt: skip
        # A mount of another part of the bucket leaves them alone.
        with Mount(bucket, cache.option):
            pass
        assert len(cache.left()) == 3
        proxy.heal()
        mnt.mount()
        # Whoever reads waits for what is to be stored.
        assert (mnt / "closed").read_bytes() == patched(before, 1000, b"closed")
        assert (mnt / "synced").read_bytes() == patched(before, 3000, b"synced")
        assert (mnt / "half").read_bytes() == before
        stored = {line.fields["key"] for line in mnt.log.lines("staged_stored")}
        assert stored == {"p/closed", "p/synced"}
        (line,) = mnt.log.lines("staged_interrupted")
        assert line.fields["key"] == "p/half"
    gate.open()
    assert bucket.get("p/closed") == patched(before, 1000, b"closed")
    assert bucket.get("p/synced") == patched(before, 3000, b"synced")
    assert cache.states() == {"p/half": "interrupted"}
    assert "p/half" in cache.succeed()
    # What to do with it is for the user to say.
    assert "stored" in cache.succeed("upload", "p/half")
    assert bucket.get("p/half") == patched(before, 2000, b"half")
    assert cache.left() == []


@pytest.mark.parametrize("by", ["successor", "next mount"])
def test_what_is_not_stored_yet_is_there(
    bucket: Bucket, proxy: Proxy, cache: CacheDirectory, by: str
) -> None:
    """[S46] What was closed or fsynced and not stored when a worker was killed is stored by its
    successor, or by the next mount of that bucket and prefix with that `cache=`: its name is listed
    at once, and who asks for it waits. What was not closed is kept there, for `fuse-s3 staged` to
    show.
    """
    bucket.put("d/stored", b"stored")
    gate = faults.Gate()
    proxy.on("PutObject", gate.hold_before, key="d/new")
    through = bucket.store.at(proxy.endpoint)
    with Mount(bucket, cache.option, LATER, store=through) as mnt:
        (mnt / "d/new").write_bytes(b"new")
        if by == "successor":
            os.kill(mnt.pid, signal.SIGKILL)
            mnt.worker_after(mnt.pid)
        else:
            kill_worker(mnt)
            mnt.mount()
        wait_until(lambda: gate.waiting, "the upload")
        assert mnt.names("d") == ["new", "stored"]
        assert not bucket.has("d/new")
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit((mnt / "d/new").read_bytes)
            gate.open()
            assert reading.result() == b"new"


@pytest.mark.parametrize("how", ["fsync", "close"])
def test_storing_goes_on_where_a_worker_has_died(
    bucket: Bucket, proxy: Proxy, cache: CacheDirectory, how: str
) -> None:
    """The program that waits for it waits a little longer, and goes on."""
    bucket.put("f", bytes(MIB))
    first, second = faults.Gate(), faults.Gate()
    for gate in (first, second):
        proxy.on("PutObject", gate.hold_before, key="f")
    with Mount(bucket, cache.option, store=bucket.store.at(proxy.endpoint)) as mnt:
        fd = change(mnt / "f", 5, b"before")
        with ThreadPoolExecutor(1) as thread:
            storing = thread.submit(os.fsync if how == "fsync" else os.close, fd)
            wait_until(lambda: first.waiting, "the upload")
            os.kill(mnt.pid, signal.SIGKILL)
            mnt.worker_after(mnt.pid)
            wait_until(lambda: second.waiting, "the upload of the next worker")
            second.open()
            storing.result()
        assert bucket.get("f") == patched(bytes(MIB), 5, b"before")
        if how == "fsync":
            os.pwrite(fd, b"after", 20)
            os.close(fd)
            assert bucket.get("f") == patched(patched(bytes(MIB), 5, b"before"), 20, b"after")
    assert cache.left() == []
    first.open()


def test_who_has_it_open_goes_on(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """A file that was closed and is to be stored later, and that is open all the same."""
    gate = faults.Gate()
    proxy.on("PutObject", gate.hold_before, key="f")
    with Mount(bucket, cache.option, LATER, store=bucket.store.at(proxy.endpoint)) as mnt:
        (mnt / "f").write_bytes(b"0123456789")
        reader, writer = os.open(mnt / "f", os.O_RDONLY), os.open(mnt / "f", os.O_RDWR)
        os.kill(mnt.pid, signal.SIGKILL)
        mnt.worker_after(mnt.pid)
        wait_until(lambda: gate.waiting, "the upload")
        with ThreadPoolExecutor(2) as threads:
            reading = threads.submit(os.pread, reader, 100, 3)
            writing = threads.submit(os.pwrite, writer, b"abc", 5)
            gate.open()
            assert writing.result() == 3
            assert reading.result() in {b"3456789", b"34abc89"}
        assert os.pread(reader, 100, 0) == os.pread(writer, 100, 0) == b"01234abc89"
        os.fsync(writer)
        assert bucket.get("f") == b"01234abc89"
        os.close(writer)
        os.close(reader)
    assert cache.left() == []


def test_a_successor_stores_what_was_closed(bucket: Bucket, cache: CacheDirectory) -> None:
    """Programs see a pause; what they had open and had changed is an error to them, and kept."""
    bucket.put("open", b"before")
    bucket.put("closed", b"before")
    with Mount(bucket, cache.option, LATER, allowed=[r"errno=EIO"]) as mnt:
        os.close(change(mnt / "closed", 0, b"C"))
        fd = change(mnt / "open", 0, b"O")
        os.kill(mnt.pid, signal.SIGKILL)
        mnt.worker_after(mnt.pid)
        assert (mnt / "closed").read_bytes() == b"Cefore"
        assert bucket.get("closed") == b"Cefore"
        fails(errno.EIO, os.close, fd)
        assert (mnt / "open").read_bytes() == b"before"
        mnt.log.wait_for("staged_interrupted")
    assert cache.states() == {"open": "interrupted"}


def test_a_killed_worker_loses_no_attributes(bucket: Bucket, cache: CacheDirectory) -> None:
    """What was closed is stored by the next mount with its mode, owner and times."""
    options = (cache.option, LATER, "posix")
    bucket.put("old", b"before")
    with Mount(bucket, *options) as mnt:
        (mnt / "new").write_bytes(b"new")
        (mnt / "new").chmod(0o640)  # after the close
        os.chown(mnt / "new", 1234, 2345)
        os.utime(mnt / "new", ns=(1_500_000_000_000_000_001, 1_400_000_000_123_456_789))
        with (mnt / "old").open("r+b") as file:
            file.write(b"B")
            os.fchown(file.fileno(), 8, 9)
        wait_until(lambda: set(cache.states().values()) == {"waiting"}, "both to be closed")
        expected = {name: (mnt / name).stat() for name in ("new", "old")}
        wait_until(
            lambda: all(b"1400000000" in path.read_bytes() for path in cache.files("map")[:1]),
            "the journal to have what was set last",
        )
        kill_worker(mnt)
        assert bucket.keys() == ["old"]
        mnt.mount()
        for name, then in expected.items():
            now = (mnt / name).stat()
            for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size"):
                assert getattr(now, field) == getattr(then, field), (name, field)
    assert bucket.get("old") == b"Before"
    assert bucket.head("new")["Metadata"]["uid"] == "1234"


def test_a_rename_that_a_worker_did_not_live_to_finish(
    bucket: Bucket, proxy: Proxy, cache: CacheDirectory
) -> None:
    """[S60] With `cache=`, a rename of a directory that a worker did not live to finish is finished
    by the next mount, or taken back.
    """
    contents = {f"{number:02}": b"%d" % number for number in range(30)}
    bucket.put_many([(f"old/{name}", content) for name, content in contents.items()])
    gate = faults.Gate()
    proxy.on("CopyObject", gate.hold_before, first=10, times=1 << 30)
    through = bucket.store.at(proxy.endpoint)
    with Mount(bucket, cache.option, store=through, allowed=["rename_resumed"]) as mnt:
        script = f"mv {mnt.path}/old {mnt.path}/new"
        program = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
        wait_until(lambda: gate.waiting, "copies under way")
        kill_worker(mnt)
        assert program.wait(60) != 0
        proxy.heal()
        mnt.mount()
        wait_until(lambda: len(tops(bucket)) == 1, "one of both names")
        (name,) = mnt.names()
        found = {path.name: path.read_bytes() for path in (mnt / name).iterdir()}
        assert {key: value for key, value in found.items() if value} == contents
    gate.open()
    assert len(bucket.keys()) in {len(contents), len(contents) + 1}  # with a marker


def test_journals_that_cannot_be_relied_on(bucket: Bucket, cache: CacheDirectory) -> None:
    """The mount comes up, says so, and leaves the files as they are."""
    names = ["cut", "flipped", "later", "whole"]
    with Mount(bucket, cache.option, LATER, allowed=["journal_refused"]) as mnt:
        for name in names:
            (mnt / name).write_bytes(name.encode())
        kill_worker(mnt)
        cut, flipped, later, _ = cache.files("map")
        cut.write_bytes(cut.read_bytes()[:-20])
        damaged = bytearray(flipped.read_bytes())
        damaged[40] ^= 4
        flipped.write_bytes(damaged)
        later.write_bytes(b'6fa70b5e {"fuse-s3-staged":9}\n')
        before = {path: path.read_bytes() for path in (cut, flipped, later)}
        mnt.mount()
        assert (mnt / "whole").read_bytes() == b"whole"
        wait_until(lambda: len(mnt.log.lines("journal_refused")) == 3, "the log's word about them")
        refused = {line.fields["path"] for line in mnt.log.lines("journal_refused")}
        assert refused == {str(path) for path in before}
        assert mnt.names() == ["whole"]
    assert {path: path.read_bytes() for path in before} == before
    assert [one["state"] for one in cache.left()] == ["damaged"] * 3
    assert [bool(one["problem"]) for one in cache.left()] == [True] * 3
    for path in before:
        cache.succeed("discard", path.stem, "--yes")
    assert cache.files("map") + cache.files("data") == []
