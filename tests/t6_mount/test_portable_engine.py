"""The portable engine: what it promises beside the list of behaviours, and what it cannot do."""

import contextlib
import ctypes
import mmap
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from ctypes import c_long
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path

import pytest

from fuse_s3_worker.sandbox import LAYERS
from support import faults
from support.confined import needs_sandbox
from support.conformance import errno_of
from support.isolation import with_own_mounts
from support.mounts import Mount, MountFailedError, run
from support.pattern import pattern
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

LIBFUSE = "engine=libfuse"
AT_FDCWD, RENAME_NOREPLACE, KEEP_AND_PUNCH = -100, 1, 3  # fcntl.h, linux/fs.h, linux/falloc.h
BOTH = pytest.mark.parametrize("engine", ["native", "libfuse"])
MIB = 1 << 20
PART = 5 * MIB


# -- errors, the same by both ----------------------------------------------------------------------


@BOTH
def test_what_cannot_be_stored_is_told(bucket: Bucket, proxy: Proxy, engine: str) -> None:
    """[S30] When storing fails, fsync or close gives the error, and the bucket has what it had
    before.
    """
    bucket.put("old", b"before")
    refusal = faults.s3_error(403, "AccessDenied")
    with Mount(
        bucket,
        f"engine={engine}",
        "part_size=5M",
        store=bucket.store.at(proxy.endpoint),
        allowed=["request_failed", "abort_failed"],
    ) as mnt:
        for operation, size in (("PutObject", 10), ("UploadPart", 2 * PART)):
            proxy.on(operation, refusal, times=1000)
            for call in (os.close, os.fsync):
                descriptor = os.open(mnt / "old", os.O_WRONLY | os.O_TRUNC)
                with contextlib.suppress(PermissionError):  # the error may be there already
                    os.write(descriptor, b"x" * size)
                assert errno_of(call, descriptor) == "EACCES"
                if call is os.fsync:
                    assert errno_of(os.write, descriptor, b"more") == "EACCES"
                    assert errno_of(os.close, descriptor) == "EACCES"
            proxy.heal()
        changes: tuple[Callable[[], object], ...] = ((mnt / "new").mkdir, (mnt / "old").unlink)
        for change in changes:
            for operation in ("PutObject", "DeleteObject", "DeleteObjects"):
                proxy.on(operation, refusal, times=1000)
            assert errno_of(change) == "EACCES"
            proxy.heal()
        (mnt / "old").write_bytes(b"after")
        assert mnt.names() == ["old"]
    assert (bucket.keys(), bucket.get("old"), bucket.uploads()) == (["old"], b"after", [])


@pytest.fixture
def small_disk(public: Path) -> Iterator[Path]:
    """A cache directory on a disk of 8 MiB."""
    user = pwd.getpwnam("fuse-s3")
    words = f"size=8M,mode=700,uid={user.pw_uid},gid={user.pw_gid}"
    assert run("mount", "-t", "tmpfs", "-o", words, "none", public).returncode == 0
    yield public
    assert run("umount", "-l", public).returncode == 0


@BOTH
def test_a_full_disk(bucket: Bucket, small_disk: Path, engine: str) -> None:
    """Whoever writes is told, and what was there before is still what is there."""
    bucket.put("large", pattern(24 * MIB))
    allowed = ["request_failed", "stag"]
    with Mount(bucket, f"engine={engine}", f"cache={small_disk}", allowed=allowed) as mnt:
        descriptor = os.open(mnt / "large", os.O_RDWR)
        seen = [
            errno_of(os.pwrite, descriptor, b"x" * MIB, (23 - at) * MIB) for at in range(0, 24, 2)
        ]
        assert seen[0] == "ok"
        assert "ENOSPC" in seen
        assert set(seen) <= {"ok", "ENOSPC"}
        errno_of(os.close, descriptor)
    found = bucket.get("large")
    assert len(found) == 24 * MIB
    untouched = slice(0, MIB)
    assert found[untouched] == pattern(24 * MIB)[untouched]


# -- one version of a file -------------------------------------------------------------------------


def test_versions_do_not_mix(bucket: Bucket) -> None:
    """[S16] One open file shows one version of what others store: once something of it was read, a
    read that would need bytes of another version gives ESTALE. Who opens it anew reads the new one.
    """
    old, new = pattern(12 * MIB), b"new, and shorter"
    bucket.put("x", old)
    with Mount(bucket, LIBFUSE, "metadata_ttl=0", allowed=["request_failed", "retry"]) as mnt:
        descriptor = os.open(mnt / "x", os.O_RDONLY)
        assert os.pread(descriptor, 4096, 0) == old[:4096]
        bucket.put("x", new)
        assert (mnt / "x").read_bytes() == new
        assert (mnt / "x").stat().st_size == len(new)
        # Behind the end that the new one has, and nothing of the new one before it.
        assert errno_of(os.pread, descriptor, 4096, 11 * MIB) == "ESTALE"
        with contextlib.suppress(OSError):
            assert os.pread(descriptor, 4, 0) == old[:4]
        os.close(descriptor)


# -- the end ---------------------------------------------------------------------------------------


def _leave(path: Path, leave: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * (PART + 1))
        leave()
    os.waitpid(child, 0)


def test_unmount_right_after_the_last_close(bucket: Bucket) -> None:
    """[S81] The worker ends when everything that was closed is stored, after the unmount; SIGTERM,
    SIGINT and SIGHUP do not end it.
    """
    ways: dict[str, Callable[[Path], object]] = {
        "close": lambda path: path.write_bytes(b"x" * (PART + 1)),
        "kill": lambda path: _leave(path, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    }
    for name, way in ways.items():
        with Mount(bucket, LIBFUSE, "part_size=5M") as mnt:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(mnt.pid, number)
            way(mnt / name)
            assert mnt.unmount().returncode == 0
            assert mnt.wait_for_worker()
            assert [line.event for line in mnt.log.lines()][-1] == "unmounted"
        assert bucket.get(name) == b"x" * (PART + 1)
    assert bucket.uploads() == []


def test_forced_unmount_and_killed_worker(bucket: Bucket) -> None:
    """It has no successor, which would not know libfuse's numbers: nothing hangs, all is told."""
    with Mount(bucket, LIBFUSE) as mnt:
        file = (mnt / "x").open("wb", buffering=0)
        file.write(b"x" * 10)
        mnt.unmount("-f")
        with pytest.raises(OSError, match=r"not connected|aborted"):
            file.close()
        assert mnt.wait_for_worker()
        assert (bucket.keys(), bucket.uploads()) == ([], [])
        mnt.unmount("-l")
        mnt.mount()
        os.kill(mnt.pid, signal.SIGKILL)
        assert mnt.wait_for_worker()
        assert errno_of(os.stat, mnt / "anything") == "ENOTCONN"


def test_who_waits_can_be_interrupted(bucket: Bucket, proxy: Proxy) -> None:
    """[S74] A program that waits while it looks up, opens, lists or reads can be interrupted by a
    signal; storing and deleting are finished.
    """
    bucket.put("x", pattern(MIB))
    store = bucket.store.at(proxy.endpoint)
    with Mount(bucket, LIBFUSE, store=store) as mnt:
        gate = faults.Gate()
        proxy.on("GetObject", gate.hold_before, times=1000)
        with subprocess.Popen(("cat", "x"), cwd=mnt.path, stdout=subprocess.DEVNULL) as reader:
            wait_until(lambda: gate.waiting, "a request at the gate")
            (mnt / "y").write_bytes(b"nobody else waits")
            reader.send_signal(signal.SIGINT)
            assert reader.wait(30) == -signal.SIGINT
        proxy.heal()
        gate.open()
        assert (mnt / "x").read_bytes() == pattern(MIB)


# -- confinement, and what is missing --------------------------------------------------------------


@needs_sandbox
def test_it_runs_in_the_whole_sandbox(bucket: Bucket) -> None:
    """Nothing more is allowed for its sake: libfuse has what it needs from the descriptor."""
    with Mount(bucket, LIBFUSE, "sandbox=strict") as mnt:
        (mnt / "d").mkdir()
        (mnt / "d/x").write_bytes(pattern(2 * MIB))
        assert (mnt / "d/x").read_bytes() == pattern(2 * MIB)
        (line,) = mnt.log.lines("sandbox")
        assert line.fields == {"mode": "strict", "layers": ",".join(LAYERS)}
        tasks = list(Path(f"/proc/{mnt.pid}/task").iterdir())
        assert len(tasks) > 2
        for task in tasks:
            assert re.search(r"^Seccomp:\t2$", (task / "status").read_text(), re.MULTILINE)


@pytest.mark.keeper
def test_without_the_library(bucket: Bucket) -> None:
    def attempt() -> tuple[int, str]:
        for path in Path("/usr/lib").glob("*-linux-gnu/libfuse.so.2.*"):
            assert run("mount", "--bind", "/dev/null", path).returncode == 0
        try:
            with Mount(bucket, LIBFUSE):
                return 0, ""
        except MountFailedError as error:
            return error.status, error.text

    status, text = with_own_mounts(attempt)
    assert status == 32
    assert "engine=libfuse needs libfuse.so.2" in text
    assert "install the package libfuse2 (libfuse2t64 on Debian 13" in text
    with (
        pytest.raises(MountFailedError, match=r"engine.*native.*libfuse"),
        Mount(bucket, "engine=x"),
    ):
        pass


def call(name: str, *arguments: object) -> int:
    """Make a call that Python has no name for; return the errno, 0 for success."""
    failed = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    return ctypes.get_errno() if failed else 0


def test_what_it_cannot_do(bucket: Bucket) -> None:
    """[S105] With `engine=libfuse`, a file that is read again is fetched again and cannot be mapped
    as shared (ENODEV), fstat of an unlinked one gives ENOENT, the flags of renameat2 give EINVAL,
    fallocate EOPNOTSUPP, and when the worker dies, the mount gives ENOTCONN until it is unmounted.
    """
    with Mount(bucket, LIBFUSE) as mnt, (mnt / "x").open("w+b", buffering=0) as file:
        descriptor = file.fileno()
        file.write(b"x" * 4096)
        os.truncate(mnt / "x", MIB)
        # Memory maps that are shared, since the kernel keeps no pages; private ones work.
        with pytest.raises(OSError, match="No such device"):
            mmap.mmap(descriptor, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
        with mmap.mmap(descriptor, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
            assert view[:4] == b"xxxx"
        # fallocate, holes that can be found, and copies by the store.
        assert call("fallocate", descriptor, KEEP_AND_PUNCH, c_long(0), c_long(9)) == EOPNOTSUPP
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == MIB
        # Flags of rename; mv -n, when it is told so, looks by itself.
        names = AT_FDCWD, bytes(mnt / "x"), AT_FDCWD, bytes(mnt / "new")
        assert call("renameat2", *names, RENAME_NOREPLACE) == EINVAL
        (mnt / "y").touch()
        run("mv", "-n", mnt / "x", mnt / "y")
        assert mnt.names() == ["x", "y"]
        # fstat(2) of what has no name any more: the kernel asks for a path.
        (mnt / "x").unlink()
        assert errno_of(os.fstat, descriptor) == "ENOENT"
