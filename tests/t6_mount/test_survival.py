"""A mount outlives its worker, whose death programs see as a short pause, if at all."""

import contextlib
import errno
import os
import random
import signal
import statistics
import threading
import time
from pathlib import Path

import pytest

from support.mounts import Mount
from support.pattern import pattern
from support.process import wait_until
from support.readers import Pause, fill, reading
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20
PART = 5 * MIB
SMALL_PARTS = "part_size=5M"
LOST = r"request_failed op=(WRITE|FSYNC|FLUSH|RELEASE) .*errno=EIO"


def kill(mnt: Mount) -> int:
    """Kill the worker; return the one that goes on."""
    old = mnt.pid
    os.kill(old, signal.SIGKILL)
    return mnt.worker_after(old)


def test_killed_worker(bucket: Bucket) -> None:
    """[S82] When the worker dies, however it dies, the next one goes on within a moment: what
    waits is answered, with success where the store has done it already, open files and listings
    stay open, and readers stay in the version they began with.
    """
    content = pattern(3 * MIB)
    bucket.put("x", content)
    bucket.put_many((f"many/{number:04}", b"") for number in range(300))
    with Mount(bucket) as mnt:
        with (mnt / "x").open("rb", buffering=0) as file, os.scandir(mnt / "many") as listing:
            assert os.pread(file.fileno(), 100, 0) == content[:100]
            names = [next(listing).name]
            first = mnt.pid
            assert kill(mnt) != first
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file.fileno(), 2 * MIB, MIB) == content[MIB:]
            names += [entry.name for entry in listing]
            assert sorted(names) == [f"{number:04}" for number in range(300)]
        # However it dies: with an exit status of a fault, too.
        os.kill(mnt.pid, signal.SIGABRT)
        mnt.worker_after(mnt.pid)
        (mnt / "y").write_bytes(b"new")
        assert bucket.get("y") == b"new"


def test_a_file_keeps_what_it_has(bucket: Bucket) -> None:
    """It is changed through a descriptor that is older than the worker, and looked at by it."""
    with Mount(bucket, "posix", "metadata_ttl=0") as mnt:
        path, link = mnt / "file", mnt / "link"
        path.write_bytes(b"content")
        os.chown(path, 1234, 2345)
        path.chmod(0o640)
        os.setxattr(path, "user.color", b"red")
        link.symlink_to("file")
        with path.open("r+b", buffering=0) as file:
            os.fsync(file.fileno())
            before = bucket.head("file")["Metadata"]
            kill(mnt)
            assert os.pwrite(file.fileno(), b"CON", 0) == 3
            assert link.readlink() == Path("file")
            shown = os.fstat(file.fileno())
            assert (shown.st_mode, shown.st_uid, shown.st_size) == (0o100640, 1234, 7)
        after = bucket.head("file")["Metadata"]
        assert bucket.get("file") == b"CONtent"
        assert {**before, "mtime": "", "ctime": ""} == {**after, "mtime": "", "ctime": ""}
        assert os.getxattr(path, "user.color") == b"red"


def test_what_was_being_written_is_lost_and_says_so(bucket: Bucket) -> None:
    """[S83] A file that is being written when the worker dies is lost: its next write, fsync or
    close gives EIO, and the bucket keeps what it had, or has all of it if it had just been stored.
    """
    bucket.put("old", b"before")
    with Mount(bucket, SMALL_PARTS, allowed=[LOST]) as mnt:
        files = {name: (mnt / name).open("wb", buffering=0) for name in ("old", "b", "c", "d")}
        for file in files.values():
            file.write(b"x" * (2 * PART + 1))
        # A part tells that the worker has heard the upload's name, and so its successor.
        wait_until(lambda: len([n for n in bucket.parts() if n]) == len(files), "parts")
        kill(mnt)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            files["old"].write(b"y")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.fsync(files["b"].fileno())
        for name in ("c", "d"):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                files[name].close()
        for name in ("old", "b"):
            with contextlib.suppress(OSError):
                files[name].close()
        wait_until(lambda: not bucket.uploads(), "the uploads to be aborted")
        assert bucket.keys() == ["old"]
        assert bucket.get("old") == b"before"
        (mnt / "old").write_bytes(b"after")
        assert bucket.get("old") == b"after"


def test_failures_are_counted(bucket: Bucket) -> None:
    """[S84] When workers have failed more than `restart_limit` times in a minute, the mount gives
    EIO at once until it is made anew.
    """
    bucket.put("x", b"1")
    with Mount(bucket, "restart_limit=2", allowed=["event refusing|refusing reason"]) as mnt:
        for _ in range(2):
            kill(mnt)
            assert (mnt / "x").read_bytes() == b"1"
        os.kill(mnt.pid, signal.SIGKILL)
        mnt.log.wait_for("refusing")
        for name in ("x", "y"):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                (mnt / name).read_bytes()
        (line,) = mnt.log.lines("refusing")
        assert "failed 3 times" in line.fields["reason"]
        assert mnt.unmount().returncode == 0
        mnt.mount()
        assert (mnt / "x").read_bytes() == b"1"


def descriptor(pid: int, name: str) -> Path:
    """Return the place of a process's descriptor."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            if name in str(link.readlink()):
                return link
    raise FileNotFoundError(name)


def test_a_state_that_is_damaged_is_not_used(bucket: Bucket) -> None:
    """Wrong bytes would be worse than an error: the log says what is wrong, umount works."""
    bucket.put("x", b"1")
    with Mount(bucket, allowed=["refusing reason"]) as mnt:
        assert (mnt / "x").read_bytes() == b"1"
        with descriptor(mnt.pid, "memfd:state-a").open("r+b", buffering=0) as file:
            content = os.pread(file.fileno(), 5000, 0)
            os.pwrite(file.fileno(), bytes([content[4096 + 20] ^ 1]), 4096 + 20)
        os.kill(mnt.pid, signal.SIGKILL)
        (line,) = mnt.log.wait_for("refusing")
        assert "does not check" in line.fields["reason"]
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mnt / "x").read_bytes()
        assert mnt.unmount().returncode == 0


# -- readers and writers ---------------------------------------------------------------------------


@pytest.mark.parametrize("times", [8, pytest.param(50, marks=pytest.mark.long)])
def test_readers_see_nothing_of_it(bucket: Bucket, times: int) -> None:
    fill(bucket)
    chance, kills = random.Random(times), list[Pause]()
    with Mount(bucket, "restart_limit=1000", "metadata_ttl=0.1") as mnt:
        with reading(mnt.path) as readers:
            for _ in range(times):
                time.sleep(chance.uniform(0.0, 0.5))  # a moment that nothing here depends on
                began = time.monotonic()
                kill(mnt)
                kills.append(Pause(began, time.monotonic()))
            ended = [reader.end() for reader in readers]
        print(*(last for _, last in ended), sep=", ")
        assert not any(last.endswith(": 0 rounds") for _, last in ended)
    told_of([pause for pauses, _ in ended for pause in pauses], kills)


def told_of(seen: list[Pause], kills: list[Pause]) -> None:
    """Print how long programs waited for each of the successors."""
    pauses = [
        max(
            (one.ended - max(one.began, kill.began) for one in seen if overlap(one, kill)),
            default=0.0,
        )
        for kill in kills
    ]
    print(
        f"{len(kills)} kills: programs waited {statistics.median(pauses):.2f} s (median), "
        f"{max(pauses):.2f} s (most)"
    )


def overlap(one: Pause, kill: Pause) -> bool:
    return one.began < kill.ended and one.ended > kill.began


@pytest.mark.parametrize("times", [3])
def test_nothing_is_lost_when_a_worker_hands_over(bucket: Bucket, times: int) -> None:
    """[S85] A worker that is told to hand over, by SIGUSR1, has everything stored before the next
    one goes on, and nothing is lost.
    """
    written: dict[str, bytes] = {}
    problems: list[OSError] = []
    over = threading.Event()

    def write(root: Path, writer: int) -> None:
        number = 0
        while not over.is_set():
            name, content = f"{writer}.{number}", pattern((3 + number % 5) * MIB, number % 5)
            try:
                with (root / name).open("wb", buffering=0) as file:
                    for at in range(0, len(content), 200_000):
                        file.write(content[at : at + 200_000])
            except OSError as error:
                problems.append(error)
                return
            written[name] = content
            number += 1

    with Mount(bucket, SMALL_PARTS) as mnt:
        writers = [
            threading.Thread(target=write, args=(mnt.path, writer), daemon=True)
            for writer in range(4)
        ]
        for thread in writers:
            thread.start()
        for _ in range(times):
            before = len(written)
            wait_until(lambda before=before: len(written) > before, "another file")  # type: ignore[misc]
            old = mnt.pid
            os.kill(old, signal.SIGUSR1)
            mnt.worker_after(old)
        over.set()
        for thread in writers:
            thread.join()
        assert problems == []
        assert len(mnt.log.lines("handed_over")) == times
    assert sorted(bucket.keys()) == sorted(written)
    assert all(bucket.get(name) == content for name, content in written.items())
