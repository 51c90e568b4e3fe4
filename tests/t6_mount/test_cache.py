"""The cache directory: what is changed is kept there until it is stored, at once or later."""

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import faults
from support.cachedir import LATER, TAKEN, CacheDirectory
from support.changing import change, fails, patched
from support.confined import needs_sandbox
from support.mounts import Mount, run
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20
PART = 5 * MIB
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16


def fill(fd: int, first: int, end: int) -> int:
    """Write mebibyte after mebibyte, each with its number; return the errno that ends it."""
    try:
        for number in range(first, end):
            os.pwrite(fd, bytes([number]) * MIB, number * MIB)
    except OSError as error:
        return error.errno or 0
    return 0


# -- what is kept there ----------------------------------------------------------------------------


@needs_sandbox
def test_what_is_changed_is_kept_until_it_is_stored(bucket: Bucket, cache: CacheDirectory) -> None:
    """[S39] What is changed is kept in the directory that `cache=` names until it is stored.
    Without one it is kept in memory, in half of `memory_target` for all files; a write that needs
    more gives ENOSPC.
    """
    before = bytes(range(256)) * 8192
    bucket.put("file", before)
    bucket.put("other", b"before")
    with Mount(bucket, cache.option, "sandbox=strict") as mnt:
        fd = change(mnt / "file", MIB, b"changed")
        (data,) = cache.files("data")
        assert data.read_bytes()[MIB : MIB + 7] == b"changed"
        assert data.stat().st_blocks * 512 < MIB  # and not what nobody has asked for
        assert data.stat().st_mode & 0o777 == 0o600
        assert bucket.get("file") == before
        os.fsync(fd)
        assert bucket.get("file") == patched(before, MIB, b"changed")
        os.pwrite(fd, b"again", 0)
        os.close(fd)
        assert bucket.get("file") == patched(patched(before, MIB, b"changed"), 0, b"again")
        wait_until(lambda: not cache.files("data"), "the staged file to go")
        assert cache.left() == []
    options = ("memory_target=32M", "part_size=5M")
    with Mount(bucket, *options, allowed=[r"op=WRITE .*errno=ENOSPC"]) as mnt:
        fds = [change(mnt / name, 0, b"x" * (8 * MIB)) for name in ("file", "other")]
        assert fill(fds[0], 8, 40) == errno.ENOSPC
        for fd in fds:
            os.close(fd)
        (line,) = mnt.log.lines("request_failed")
        assert "give cache=DIRECTORY" in line.text
    assert bucket.get("other") == b"x" * (8 * MIB)


APPEND = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(50):
    os.write(fd, f"{sys.argv[2]} {number} {'.' * 900}\\n".encode())
os.close(fd)
"""


def test_several_programs_append(bucket: Bucket, cache: CacheDirectory) -> None:
    """[S41] Writes with O_APPEND go to the end of the file, those of several programs one behind
    the other.
    """
    bucket.put("log", b"first\n")
    with Mount(bucket, cache.option) as mnt:
        keeper = os.open(mnt / "log", os.O_WRONLY)  # so that none of them stores it in between
        command = [sys.executable, "-c", APPEND, str(mnt / "log")]
        programs = [subprocess.Popen([*command, str(number)]) for number in range(4)]
        assert [program.wait(60) for program in programs] == [0] * 4
        os.close(keeper)
    first, *lines = bucket.get("log").decode().splitlines()
    assert first == "first"
    assert all(line.endswith(f" {'.' * 900}") for line in lines)
    written = [tuple(map(int, line.split()[:2])) for line in lines]
    for number in range(4):
        assert [n for program, n in written if program == number] == list(range(50))
    assert len(written) == 200


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    assert done == 0, os.strerror(ctypes.get_errno())


def holes(fd: int) -> list[tuple[int, int]]:
    """Return where data begins and ends, as lseek(2) finds it."""
    found, at = [], 0
    with contextlib.suppress(OSError):  # ENXIO: a hole up to the end
        while at < os.fstat(fd).st_size:
            data = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, data, os.SEEK_HOLE)
            found.append((data, at))
    return found


def test_holes(bucket: Bucket, cache: CacheDirectory) -> None:
    """[S42] lseek finds the holes and the data of a file that is being changed. fallocate makes a
    file longer, makes zeros and punches holes.
    """
    bucket.put("file", b"x" * MIB)
    expected = bytearray(b"x" * MIB + bytes(3 * MIB))
    with Mount(bucket, cache.option) as mnt:
        fd = os.open(mnt / "file", os.O_RDWR)
        fallocate(fd, 0, 0, 4 * MIB)
        assert os.fstat(fd).st_size == 4 * MIB
        assert holes(fd) == [(0, MIB)]
        os.pwrite(fd, b"data", 2 * MIB)
        assert holes(fd) == [(0, MIB), (2 * MIB, 2 * MIB + 4)]
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192)
        fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, MIB - 100, 100)
        assert holes(fd) == [(0, 4096), (12288, MIB - 100), (2 * MIB, 2 * MIB + 4)]
        assert os.lseek(fd, 5000, os.SEEK_HOLE) == 5000
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, 3 * MIB, os.SEEK_DATA)
        expected[4096:12288] = bytes(8192)
        expected[MIB - 100 : MIB] = bytes(100)
        expected[2 * MIB : 2 * MIB + 4] = b"data"
        assert os.pread(fd, 4 * MIB, 0) == expected
        os.close(fd)
    assert bucket.get("file") == expected


def test_what_changes_nothing_is_not_stored(bucket: Bucket, cache: CacheDirectory) -> None:
    """[S43] What changes neither a byte nor the size, as truncating to the size that a file has, or
    making room in it, leaves the object and its time alone.
    """
    bucket.put("file", b"x" * MIB)
    before = bucket.client.head_object(Bucket=bucket.name, Key="file")
    with Mount(bucket, cache.option, "posix") as mnt:
        shown = (mnt / "file").stat().st_mtime_ns
        os.truncate(mnt / "file", MIB)
        with (mnt / "file").open("r+b") as file:
            fallocate(file.fileno(), 0, 100, 1000)
            fallocate(file.fileno(), FALLOC_FL_KEEP_SIZE, MIB, MIB)
            fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, MIB)
        assert (mnt / "file").stat().st_mtime_ns == shown
    after = bucket.client.head_object(Bucket=bucket.name, Key="file")
    assert (after["ETag"], after["LastModified"]) == (before["ETag"], before["LastModified"])


def test_copying_moves_nothing(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """[S44] copy_file_range between files of one mount moves nothing of what the bucket has of
    them: the store copies it when the file is closed.
    """
    content = os.urandom(2 * PART + 1000)
    bucket.put("source", content)
    store = bucket.store.at(proxy.endpoint)
    with Mount(bucket, cache.option, "part_size=5M", store=store) as mnt:
        source = os.open(mnt / "source", os.O_RDONLY)
        for name in ("whole", "twice"):
            target = os.open(mnt / name, os.O_RDWR | os.O_CREAT)
            for start in range(0, len(content), MIB) if name == "twice" else [0]:
                os.copy_file_range(source, target, len(content) if name == "whole" else MIB, start)
            if name == "twice":
                os.lseek(target, len(content), os.SEEK_SET)
                copied = os.copy_file_range(source, target, len(content), 0)
                assert copied == len(content)
            os.close(target)
        os.close(source)
        asked = proxy.counts()
        assert asked["CopyObject"] == 1
        assert asked["UploadPartCopy"] >= 2
        assert not asked.keys() & {"GetObject", "PutObject", "UploadPart"}
    assert bucket.get("whole") == content
    assert bucket.get("twice") == content * 2


ALWAYS = 1 << 30
NOT_HERE = faults.s3_error(501, "NotImplemented")


def test_a_server_that_can_do_little(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """It is asked once, and the log says what is done instead; a 412 in the end is a conflict."""
    content = os.urandom(3 * PART)
    bucket.put("file", content)
    copies = proxy.on("UploadPartCopy CopyObject", NOT_HERE, times=ALWAYS)
    checksums = proxy.on("UploadPart", faults.s3_error(400, "InvalidRequest", "x-amz-checksum-crc"))
    through = bucket.store.at(proxy.endpoint)
    allowed = [*TAKEN, "upload_checksum_refused"]
    with Mount(bucket, cache.option, "part_size=5M", store=through, allowed=allowed) as mnt:
        for number in range(3):
            at = number * PART + 10
            os.close(change(mnt / "file", at, b"changed"))
            content = patched(content, at, b"changed")
            assert bucket.get("file") == content
        assert len(mnt.log.lines("copy_refused")) == 1
        # Those that were under way together when the first was refused, and none after them.
        assert copies.applied == proxy.counts()["UploadPartCopy"] <= 2
        assert checksums.applied == 1
        proxy.on("CompleteMultipartUpload", faults.s3_error(412, "PreconditionFailed"))
        fails(errno.ESTALE, os.close, change(mnt / "file", 0, b"lost?"))
        assert bucket.get("file") == content
    assert bucket.uploads() == []
    assert cache.states() == {"file": "conflict"}


# -- storing later ---------------------------------------------------------------------------------


def test_storing_later(bucket: Bucket, cache: CacheDirectory) -> None:
    """[S45] With `write_back`, close returns when what was written is on the disk, and the bucket
    has it so many seconds later; fsync and unmounting do not wait that long.
    """
    bucket.put("changed", b"before")
    with Mount(bucket, cache.option, "write_back=2") as mnt:
        (mnt / "soon").write_bytes(b"soon")
        wait_until(lambda: bucket.has("soon"), "the bucket to have it")
        assert bucket.get("soon") == b"soon"
        wait_until(lambda: not cache.left(), "the staged file to go")
    with Mount(bucket, cache.option, LATER) as mnt:
        (mnt / "new").write_bytes(b"new")
        os.close(change(mnt / "changed", 1, b"E"))
        assert (bucket.has("new"), bucket.get("changed")) == (False, b"before")
        left = {one["key"]: one for one in cache.left()}
        assert left.keys() == {"new", "changed"}
        assert all((one["state"], one["in_use"]) == ("waiting", True) for one in left.values())
        assert (mnt / "new").read_bytes() == b"new"
        with (mnt / "synced").open("wb") as file:
            file.write(b"synced")
            file.flush()
            os.fsync(file.fileno())
            assert bucket.get("synced") == b"synced"
        assert not bucket.has("new")
    assert (bucket.get("new"), bucket.get("changed")) == (b"new", b"bEfore")
    assert cache.left() == []


# -- full disks ------------------------------------------------------------------------------------


def test_a_full_cache_disk(bucket: Bucket, public: Path) -> None:
    """The writer gets ENOSPC, and nothing that was acknowledged is harmed by that."""
    before = os.urandom(MIB)
    for key in ("synced", "large"):
        bucket.put(key, before)
    (public / "cache").mkdir()
    done = run("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", public / "cache")
    assert done.returncode == 0, done.stderr
    try:
        cache = CacheDirectory(public / "cache", bucket.store)
        allowed = [r"op=WRITE .*errno=ENOSPC"]
        with Mount(bucket, cache.option, LATER, allowed=allowed) as mnt:
            synced = change(mnt / "synced", 0, b"synced")
            os.fsync(synced)
            os.pwrite(synced, b"closed", 100)
            os.close(synced)
            large = os.open(mnt / "large", os.O_RDWR)
            assert fill(large, 0, 20) == errno.ENOSPC
            taken = os.fstat(large).st_size
            assert 4 * MIB <= taken < 8 * MIB
            assert bucket.get("synced") == patched(before, 0, b"synced")
            # What was taken is there, and is stored, and there is room again.
            os.fsync(large)
            assert bucket.get("large")[: 4 * MIB] == b"".join(bytes([n]) * MIB for n in range(4))
            os.close(large)
            # close has returned before the kernel lets go of the file.
            wait_until(lambda: len(cache.files("data")) == 1, "the room of what is stored")
            os.close(change(mnt / "large", 0, b"again"))
            assert sorted(cache.states().values()) == ["waiting", "waiting"]
        assert bucket.get("synced") == patched(patched(before, 0, b"synced"), 100, b"closed")
        assert bucket.get("large")[:5] == b"again"
        assert cache.left() == []
    finally:
        run("umount", public / "cache")
