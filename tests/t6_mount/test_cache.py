"""The cache directory: what is kept there, what survives, and what `fuse-s3 staged` makes of it."""

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import faults
from support.cachedir import CacheDirectory, cache_directory, kill_worker
from support.confined import needs_sandbox
from support.mounts import Mount, clean_environment, run
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
LATER = "write_back=3600"
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
TAKEN = r"request_failed op=(FLUSH|RELEASE) .*errno=ESTALE", "staged_conflict"


@pytest.fixture
def cache(bucket: Bucket, public: Path) -> Iterator[CacheDirectory]:
    with cache_directory(public / "cache", bucket.store) as made:
        yield made


def change(path: Path, offset: int, data: bytes) -> int:
    """Write in the midst of a file; return the descriptor."""
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, offset)
    return fd


def fill(fd: int, first: int, end: int) -> int:
    """Write mebibyte after mebibyte, each with its number; return the errno that ends it."""
    try:
        for number in range(first, end):
            os.pwrite(fd, bytes([number]) * MIB, number * MIB)
    except OSError as error:
        return error.errno or 0
    return 0


def fails(number: int, call: Callable[[int], object], fd: int) -> None:
    """See that a call fails with this errno."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call(fd)
    assert caught.value.errno == number


def tops(bucket: Bucket) -> set[str]:
    """Return the first component of every key."""
    keys = bucket.keys()
    return {key.partition("/")[0] for key in keys}


def patched(content: bytes, offset: int, data: bytes) -> bytes:
    return content[:offset] + data + content[offset + len(data) :]


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


def test_copying_moves_nothing(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """[S43] copy_file_range between files of one mount moves nothing of what the bucket has of
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
    """[S44] With `write_back`, close returns when what was written is on the disk, and the bucket
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


def test_what_a_killed_worker_left(bucket: Bucket, proxy: Proxy, cache: CacheDirectory) -> None:
    """[S45] What was closed or fsynced and not stored when a worker was killed is stored by its
    successor, or by the next mount of that bucket and prefix with that `cache=`; what was not
    closed is kept there, for `fuse-s3 staged` to show.
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
    """[S59] With `cache=`, a rename of a directory that a worker did not live to finish is finished
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
            os.close(change(mnt / "large", 0, b"again"))
            assert sorted(cache.states().values()) == ["waiting", "waiting"]
        assert bucket.get("synced") == patched(patched(before, 0, b"synced"), 100, b"closed")
        assert bucket.get("large")[:5] == b"again"
        assert cache.left() == []
    finally:
        run("umount", public / "cache")


# -- conflicts, and the command --------------------------------------------------------------------


def test_a_conflict_is_kept_for_its_owner(bucket: Bucket, cache: CacheDirectory) -> None:
    for key in ("a", "b", "c"):
        bucket.put(key, b"before " + key.encode())
    with Mount(bucket, cache.option, allowed=TAKEN) as mnt:
        for key in ("a", "b", "c"):
            fd = change(mnt / key, 0, b"OURS " if key == "c" else b"OURS ALL")
            bucket.put(key, b"theirs " + key.encode())
            fails(errno.ESTALE, os.close, fd)
        wait_until(lambda: len(mnt.log.lines("staged_conflict")) == 3, "the log's word about them")
        paths = [line.fields["path"] for line in mnt.log.lines("staged_conflict")]
    assert paths == [str(path) for path in cache.files("data")]
    assert cache.states() == dict.fromkeys("abc", "conflict")
    table = cache.succeed().splitlines()
    assert table[0].split()[:2] == ["id", "state"]
    assert [line.split()[1] for line in table[1:]] == ["conflict"] * 3
    # Not over what others stored, unless that is what is wanted.
    done = cache.command("upload", "a")
    assert (done.returncode, done.stdout.split()[0]) == (1, "kept")
    assert "staged_conflict" in done.stderr
    assert bucket.get("a") == b"theirs a"
    assert cache.succeed("upload", "--replace", "b").split()[0] == "stored"
    assert bucket.get("b") == b"OURS ALL"
    # What is missing of it was in a version that nobody has any more.
    done = cache.command("upload", "--replace", "c")
    assert (done.returncode, done.stdout.split()[0]) == (1, "kept")
    assert cache.states() == dict.fromkeys("ac", "conflict")
    nobody = cache.command("discard", "c")
    assert (nobody.returncode, cache.states()) == (1, dict.fromkeys("ac", "conflict"))
    assert "--yes" in nobody.stderr
    cache.succeed("discard", "c", "--yes")
    assert cache.states() == {"a": "conflict"}
    assert bucket.get("c") == b"theirs c"


def test_a_copy_of_what_is_left(bucket: Bucket, cache: CacheDirectory, tmp_path: Path) -> None:
    """It is whole: what only the bucket has is fetched; and where that is gone, it says so."""
    before = os.urandom(3 * MIB)
    bucket.put("whole", before)
    bucket.put("gone", before)
    with Mount(bucket, cache.option) as mnt:
        fds = [change(mnt / name, MIB, b"changed") for name in ("whole", "gone")]
        bucket.put("gone", b"theirs")
        kill_worker(mnt)
        for fd in fds:
            fails(errno.ENOTCONN, os.close, fd)
    copy = tmp_path / "copy"
    cache.succeed("save", "whole", copy)
    assert copy.read_bytes() == patched(before, MIB, b"changed")
    assert (copy.stat().st_uid, copy.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
    again = cache.command("save", "whole", copy)
    assert (again.returncode, "new file" in again.stderr) == (1, True)
    other = tmp_path / "other"
    done = cache.command("save", "gone", other)
    assert (done.returncode, other.exists()) == (1, False)
    assert "staged_not_whole" in done.stderr
    assert "--partial" in done.stderr
    cache.succeed("save", "gone", other, "--partial")
    zeros = bytearray(3 * MIB)
    assert patched(other.read_bytes(), MIB, bytes(7))[MIB : MIB + 7] == zeros[:7]
    assert other.read_bytes()[MIB : MIB + 7] == b"changed"
    assert other.stat().st_size == 3 * MIB
    cache.succeed("discard", "--all", "--yes")
    assert cache.left() == []


def test_two_mounts_that_change_one_file(bucket: Bucket, cache: CacheDirectory) -> None:
    """Each has a staged file of its own; who is later is told, and loses nothing."""
    bucket.put("file", b"before")
    with Mount(bucket, cache.option) as one, Mount(bucket, cache.option, allowed=TAKEN) as two:
        first, second = change(one / "file", 0, b"ONE"), change(two / "file", 3, b"TWO")
        left = cache.left()
        assert [(item["key"], item["in_use"]) for item in left] == [("file", True)] * 2
        busy = cache.command("discard", "--all", "--yes")
        assert (busy.returncode, busy.stderr.count("in use")) == (1, 2)
        os.close(first)
        fails(errno.ESTALE, os.close, second)
    assert bucket.get("file") == b"ONEore"
    assert cache.states() == {"file": "conflict"}


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


# -- the command's bad weather ---------------------------------------------------------------------


def test_what_the_command_refuses(bucket: Bucket, cache: CacheDirectory, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        done = cache.command(*words)
        assert (done.returncode, done.stdout) == (1, ""), words
        return done.stderr

    assert cache.succeed() == ""
    assert "nothing is left of 'x'" in refused("upload", "x")
    assert "say --all" in refused("discard")
    assert "save ID PATH" in refused("save", "x")
    done = run("fuse-s3", "staged", "--cache", tmp_path / "none")
    assert (done.returncode, "No such file" in done.stderr) == (1, True)
    done = run("fuse-s3", "staged", "--cache", tmp_path)
    assert (done.returncode, "belongs to root" in done.stderr) == (1, True)
    bucket.put("file", b"before")
    with Mount(bucket, cache.option) as mnt:
        fd = change(mnt / "file", 1, b"x")
        # Found without being named: a mount has it.
        found = run("fuse-s3", "staged", "--json", environment=clean_environment(bucket.store))
        assert '"key": "file"' in found.stdout
        kill_worker(mnt)
        fails(errno.ENOTCONN, os.close, fd)
    # Without the key of the mount there is nobody to ask.
    words = ("fuse-s3", "staged", "--cache", cache.path, "upload", "file")
    done = run(*words, environment=clean_environment() | {"AWS_EC2_METADATA_DISABLED": "true"})
    assert done.returncode == 1
    assert "mount.s3: " in done.stderr
    assert cache.states() == {"file": "interrupted"}
    assert "stored" in cache.succeed("upload", cache.left()[0]["id"])
    assert bucket.get("file") == b"bxfore"
