"""Renaming through a real mount: programs that do it all the time, and what the store sees."""

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import faults
from support.mounts import Mount, run
from support.proxy import Proxy
from support.s3 import Bucket, Store

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
GIB = 1 << 30
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")
GIT = ("git", "-c", "safe.directory=*", "-c", "init.defaultBranch=main", *IDENTITY)

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def succeed(*command: object, where: Path | None = None) -> str:
    """Run a program that must succeed and have nothing to complain of; return what it printed."""
    words = [str(word) for word in command]
    done = run("env", f"--chdir={where or '/'}", *words)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def renameat2(old: Path, new: Path, flags: int) -> int:
    """Call renameat2(2); return the errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(AT_FDCWD, bytes(old), AT_FDCWD, bytes(new), flags)
    return ctypes.get_errno() if failed else 0


@pytest.fixture
def mnt(bucket: Bucket, proxy: Proxy) -> Iterator[Mount]:
    """A mount behind the proxy, which believes what it knows for a long time."""
    with Mount(bucket, "metadata_ttl=600", store=bucket.store.at(proxy.endpoint)) as mount:
        yield mount


# -- programs -------------------------------------------------------------------------------------


@pytest.mark.one_store
def test_git(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        work = mnt / "work"
        work.mkdir()
        succeed(*GIT, "init", "-q", where=work)
        for number in range(12):
            (work / f"file{number}").write_text(f"{number}\n" * number)
        succeed(*GIT, "add", ".", where=work)
        succeed(*GIT, "commit", "-q", "-m", "first", where=work)
        (work / "file3").write_text("changed\n")
        succeed(*GIT, "mv", "file4", "renamed", where=work)
        succeed(*GIT, "commit", "-qam", "second", where=work)
        assert succeed(*GIT, "log", "--format=%s", where=work) == "second\nfirst\n"
        assert succeed(*GIT, "status", "--porcelain", where=work) == ""
        succeed(*GIT, "gc", "-q", where=work)
        succeed(*GIT, "fsck", "--strict", "--no-progress", where=work)
        assert succeed(*GIT, "show", "HEAD~:file3", where=work) == "3\n3\n3\n"
    with Mount(bucket) as fresh:
        assert succeed(*GIT, "log", "--format=%s", where=fresh / "work") == "second\nfirst\n"
    assert not [key for key in _keys(bucket) if ".lock" in key or "tmp_" in key]


def _keys(bucket: Bucket) -> list[str]:
    return bucket.keys()


@pytest.mark.one_store
def test_programs_that_save_by_renaming(bucket: Bucket, tmp_path: Path) -> None:
    with Mount(bucket) as mnt:
        file = mnt / "file"
        file.write_text("one\ntwo\n")
        succeed("sed", "-i", "s/two/three/", file)
        assert file.read_text() == "one\nthree\n"
        succeed("sed", "-i.bak", "s/one/1/", file)
        assert (file.read_text(), (mnt / "file.bak").read_text()) == ("1\nthree\n", "one\nthree\n")
        # As vim saves with backupcopy=no: the old file is moved away, the new one written.
        (mnt / "file").rename(mnt / "file~")
        file.write_text("saved by vim\n")
        (mnt / "file~").unlink()
        assert succeed("cat", file) == "saved by vim\n"
        succeed("gzip", file)
        succeed("gzip", "-d", mnt / "file.gz")
        assert mnt.names() == ["file", "file.bak"]
        succeed("python3", "-c", SAVE, mnt / "state.json")
        # rsync writes another name and renames it.
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        for number in range(20):
            (source / f"sub/{number}").write_bytes(os.urandom(number * 1000))
        for size in (5000, 6000):
            (source / "sub/7").write_bytes(os.urandom(size))
            succeed("rsync", "-a", f"{source}/", mnt / "copy")
            succeed("diff", "-r", source, mnt / "copy")
        succeed("mv", mnt / "copy", mnt / "moved")
        succeed("mv", "-n", mnt / "moved/sub/1", mnt / "moved/sub/2")
        succeed("mv", "-T", mnt / "moved/sub", mnt / "sub")
        succeed("diff", "-r", source / "sub", mnt / "sub")
        assert mnt.names("moved") == []
    assert _keys(bucket)[:3] == ["file", "file.bak", "moved/"]


# Written, fsynced, renamed, and looked at in the same moment: what careful programs do.
SAVE = """
import json, os, sys
path = sys.argv[1]
for number in range(10):
    with open(path + ".new", "w") as file:
        json.dump({"number": number}, file)
        os.fsync(file.fileno())
    size = os.stat(path + ".new").st_size
    os.replace(path + ".new", path)
    assert os.stat(path).st_size == size
    assert os.listdir(os.path.dirname(path)).count(os.path.basename(path)) == 1
    assert json.load(open(path)) == {"number": number}
    assert not os.path.exists(path + ".new")
"""


# -- what rename(2) says --------------------------------------------------------------------------


def test_every_refusal_and_every_permission(bucket: Bucket) -> None:
    """[S62] A directory takes the place of an empty directory, and a file that of a file; anything
    else gives EISDIR, ENOTDIR, ENOTEMPTY, or EINVAL for a directory below itself.

    [S57] With RENAME_NOREPLACE a name that is taken gives EEXIST.

    [S58] Two names cannot be exchanged: RENAME_EXCHANGE gives EINVAL.
    """
    bucket.put_many([("file", b"1"), ("d/x", b"2"), ("e/y", b"3"), ("empty/", b"")])
    with Mount(bucket) as mnt:
        refused: dict[tuple[str, str], int] = {
            ("file", "d"): errno.EISDIR,
            ("d", "file"): errno.ENOTDIR,
            ("d", "e"): errno.ENOTEMPTY,
            ("d", "d/sub"): errno.EINVAL,
            ("nothing", "new"): errno.ENOENT,
        }
        for (old, new), number in refused.items():
            with pytest.raises(OSError) as error:
                (mnt / old).rename(mnt / new)
            assert error.value.errno == number, (old, new)
        assert renameat2(mnt / "file", mnt / "d/x", RENAME_NOREPLACE) == errno.EEXIST
        assert renameat2(mnt / "d", mnt / "empty", RENAME_NOREPLACE) == errno.EEXIST
        assert renameat2(mnt / "file", mnt / "d/x", RENAME_EXCHANGE) == errno.EINVAL
        assert renameat2(mnt / "file", mnt / "d/x", 0) == 0
        assert renameat2(mnt / "d", mnt / "empty", 0) == 0
        assert renameat2(mnt / "e", mnt / "new", RENAME_NOREPLACE) == 0
        (mnt / "new").rename(mnt / "new")
        assert {name: mnt.names(name) for name in mnt.names()} == {"empty": ["x"], "new": ["y"]}
    assert {key: bucket.get(key) for key in _keys(bucket)} == {
        "empty/": b"",
        "empty/x": b"1",
        "new/y": b"3",
    }


ODD = ("sp ace", "pl+us", "100%", "a%41b", "ünï/cöde", "q?versionId=1", "a&b;c#d", "tab\tbed")


def test_odd_names(bucket: Bucket) -> None:
    contents = {f"d/{name}": name.encode() for name in ODD}
    bucket.put_many(contents.items())
    with Mount(bucket) as mnt:
        for name in ODD:
            (mnt / f"d/{name}").rename(mnt / f"d/{name}.moved")
        (mnt / "d").rename(mnt / "é % +")
        for name in ODD:
            assert (mnt / f"é % +/{name}.moved").read_bytes() == name.encode()
    expected = {f"é % +/{name}.moved": name.encode() for name in ODD}
    assert {key: bucket.get(key) for key in _keys(bucket)} == expected


# -- what the store sees --------------------------------------------------------------------------


def test_requests_and_what_goes_along(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    """[S54] A file is renamed by a copy that the store makes, which is looked at before the
    original is deleted; nothing of it comes through this machine.

    [S55] Content type, metadata and storage class go with a file; its modification time becomes
    that of the rename, and its inode number that of the new name.
    """
    bucket.put("a", b"x" * 5 * MIB, ContentType="text/x-a", Metadata={"k": "v"})  # type: ignore[arg-type]
    old = (mnt / "a").stat()
    assert not (mnt / "b").exists()
    bucket.wait_until_old("a")
    with proxy.counting() as counted:
        (mnt / "a").rename(mnt / "b")
    looks = counted.pop("HeadObject")
    assert counted == {"CopyObject": 1, "DeleteObject": 1}
    assert looks <= 2, "the copy, and where the server ignores conditions the original"
    found, new = bucket.head("b"), (mnt / "b").stat()
    assert (found["ContentType"], found["Metadata"]) == ("text/x-a", {"k": "v"})
    assert new.st_mtime == found["LastModified"].timestamp() > old.st_mtime
    assert new.st_ino != old.st_ino
    (mnt / "d").mkdir()
    for number in range(5):
        (mnt / f"d/{number}").write_bytes(b"1")
    assert not (mnt / "e").exists()
    with proxy.counting() as counted:
        (mnt / "d").rename(mnt / "e")
    # Whether the place is free, what there is, the copies, and the originals once more.
    assert counted == {"CopyObject": 6, "DeleteObjects": 1, "ListObjectsV2": 4}


def test_a_gibibyte_moves_no_byte_through_here(rgw: Store) -> None:
    """Counted in front of the server."""
    with Bucket(rgw) as bucket, Proxy(rgw.endpoint) as proxy:
        _make_gibibyte(bucket, "large")
        with Mount(bucket, store=rgw.at(proxy.endpoint)) as mnt:
            with (mnt / "large").open("rb") as file:
                file.seek(GIB - 5)
                assert file.read() == b"\0" * 5
                proxy.seen.clear()
                (mnt / "large").rename(mnt / "renamed")
                seen = proxy.seen[:]
                # And who has it open reads on.
                file.seek(GIB // 2)
                assert file.read(5) == b"\0" * 5
            assert (mnt / "renamed").stat().st_size == GIB
        assert {exchange.target.operation for exchange in seen} <= {
            "CopyObject",
            "DeleteObject",
            "HeadObject",
            "ListObjectsV2",
        }
        assert sum(exchange.request.length or 0 for exchange in seen) == 0
        assert _keys(bucket) == ["renamed"]


def _make_gibibyte(bucket: Bucket, key: str) -> None:
    """Make an object of 1 GiB out of copies of a small one."""
    seed, count = 64 * MIB, GIB // (64 * MIB)
    bucket.put("seed", bytes(seed))
    where = {"Bucket": bucket.name, "Key": key}
    upload = bucket.client.create_multipart_upload(**where)["UploadId"]
    source = {"Bucket": bucket.name, "Key": "seed"}
    parts = []
    for number in range(1, count + 1):
        made = bucket.client.upload_part_copy(
            **where, UploadId=upload, PartNumber=number, CopySource=source
        )
        parts.append({"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]})
    bucket.client.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    bucket.delete("seed")


def test_what_the_store_refuses_is_not_done(bucket: Bucket, proxy: Proxy) -> None:
    """An error inside of 200 is one; and what may not be deleted stays, and has its name."""
    bucket.put_many([("a", b"1"), ("d/x", b"2"), ("d/y", b"3")])
    store = bucket.store.at(proxy.endpoint)
    allowed = ("request_failed", "retry", "rename_failed")
    with Mount(bucket, store=store, allowed=allowed) as mnt:
        late = faults.s3_error(200, "AccessDenied")
        for operation, name in (("CopyObject", "a"), ("CopyObject", "d"), ("DeleteObject", "a")):
            rule = proxy.on(operation, late)
            with pytest.raises(PermissionError):
                (mnt / name).rename(mnt / "new")
            assert rule.applied == 1
            proxy.heal()
            assert mnt.names() == ["a", "d"]
            assert (mnt / "a").read_bytes() + (mnt / "d/x").read_bytes() == b"12"
        assert _keys(bucket) == ["a", "d/x", "d/y"]
        (mnt / "a").rename(mnt / "b")
        (mnt / "d").rename(mnt / "e")
    assert _keys(bucket) == ["b", "e/x", "e/y"]


def test_limit(bucket: Bucket, proxy: Proxy) -> None:
    """[S61] A directory with more than `rename_dir_limit` keys below it gives EXDEV, so that mv
    copies it by itself.
    """
    bucket.put_many((f"d/{number}", b"1") for number in range(6))
    with Mount(bucket, "rename_dir_limit=5", store=bucket.store.at(proxy.endpoint)) as mnt:
        with pytest.raises(OSError, match="cross-device") as refused:
            (mnt / "d").rename(mnt / "e")
        assert refused.value.errno == errno.EXDEV
        succeed("mv", mnt / "d", mnt / "e")
        assert proxy.counts()["DeleteObjects"] == 0
        (mnt / "e/5").unlink()
        (mnt / "e/4").unlink()
        (mnt / "e").rename(mnt / "f")
        assert mnt.names("f") == ["0", "1", "2", "3"]
    assert _keys(bucket) == ["f/", *(f"f/{number}" for number in range(4))]


# -- those who have it open -----------------------------------------------------------------------


def test_open_files_and_directories_go_along(bucket: Bucket) -> None:
    """[S63] Who has a file or a directory open, or works in it, goes on with it under its new
    name.
    """
    content = os.urandom(9 * MIB)
    bucket.put_many([("d/large", content), ("d/sub/x", b"1"), ("d/sub/y", b"2")])
    with Mount(bucket) as mnt:
        reader = os.open(mnt / "d/large", os.O_RDONLY)
        listing = os.open(mnt / "d/sub", os.O_RDONLY | os.O_DIRECTORY)
        writer = os.open(mnt / "d/new", os.O_RDWR | os.O_CREAT)
        try:
            assert os.pread(reader, 10, 0) == content[:10]
            os.write(writer, b"before")
            (mnt / "d").rename(mnt / "e")
            os.write(writer, b", after")
            assert os.pread(writer, 99, 0) == b"before, after"
            assert os.pread(reader, 10, 8 * MIB) == content[8 * MIB :][:10]
            assert sorted(os.listdir(listing)) == ["x", "y"]  # noqa: PTH208  by its descriptor
            inside = os.open("x", os.O_RDONLY, dir_fd=listing)
            assert os.read(inside, 9) == b"1"
            os.close(inside)
            assert mnt.names("e") == ["large", "new", "sub"]
            (mnt / "e/large").rename(mnt / "elsewhere")
            assert os.pread(reader, 10, 4 * MIB) == content[4 * MIB :][:10]
        finally:
            for fd in (reader, listing, writer):
                os.close(fd)
        assert succeed("sh", "-c", "cd e/sub && mv ../../e ../../f && cat x", where=mnt.path) == "1"
        assert (mnt / "f/new").read_bytes() == b"before, after"
    assert _keys(bucket) == ["elsewhere", "f/new", "f/sub/x", "f/sub/y"]


@pytest.mark.one_store
def test_a_large_file_that_is_being_written(bucket: Bucket) -> None:
    """[S64] A file that is being written, and of which more than one part was written, cannot be
    renamed until it is closed: EBUSY; with `cache=` it can.
    """
    with Mount(bucket, allowed=["request_failed"]) as mnt:
        with (mnt / "a").open("wb") as file:
            file.write(bytes(9 * MIB))
            file.flush()
            with pytest.raises(OSError) as busy:
                (mnt / "a").rename(mnt / "b")
            assert busy.value.errno == errno.EBUSY
        (mnt / "a").rename(mnt / "b")
    assert _keys(bucket) == ["b"]


@pytest.mark.one_store
def test_readers_meanwhile(bucket: Bucket) -> None:
    """[S56] A file takes the place of another in one step: no program on this mount finds the name
    missing, or anything but the whole of one of the two.
    """
    contents = [bytes([65 + number]) * (3000 * number + 1) for number in range(12)]
    bucket.put("file", contents[0])
    with Mount(bucket, "metadata_ttl=0") as mnt, _Looking(mnt / "file", threads=3) as looking:
        for content in contents[1:]:
            (mnt / "file.new").write_bytes(content)
            (mnt / "file.new").rename(mnt / "file")
            assert (mnt / "file").read_bytes() == content
    assert looking.problems == []
    assert looking.seen <= set(contents)
    assert len(looking.seen) > 1


class _Looking:
    """Looks at a file again and again, in several threads."""

    def __init__(self, path: Path, threads: int) -> None:
        self.seen: set[bytes] = set()
        self.problems: list[str] = []
        self._path = path
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._look) for _ in range(threads)]

    def __enter__(self) -> "_Looking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        while not self._done.is_set():
            try:
                with self._path.open("rb") as file:
                    self.seen.add(file.read())
            except OSError as error:
                if error.errno != errno.ESTALE:  # replaced between open and the first read
                    self.problems.append(repr(error))
            if self._path.name not in os.listdir(self._path.parent):  # noqa: PTH208  only names
                self.problems.append("it is not listed")


def test_what_others_see(bucket: Bucket, proxy: Proxy, mnt: Mount) -> None:
    """[S59] A directory is renamed key by key: all are copied before the first original is
    deleted, so each is at its old place or at its new one, whatever happens.

    [S65] Other clients see the old name, the new one, and for a moment both.

    [S66] What another client stores at the old name once it is copied stays there.
    """
    bucket.put_many((f"d/{number}", str(number).encode()) for number in range(5))
    gate = faults.Gate()
    proxy.on("DeleteObjects", gate.hold_before)
    renaming = threading.Thread(target=(mnt / "d").rename, args=(mnt / "e",))
    renaming.start()
    try:
        _wait_for(lambda: gate.waiting == 1)
        assert _keys(bucket) == [f"{d}/{number}" for d in "de" for number in range(5)]
        bucket.put("d/theirs", b"after the copy")
    finally:
        gate.open()
        renaming.join()
    assert _keys(bucket) == ["d/theirs", *(f"e/{number}" for number in range(5))]
    assert mnt.names() == ["d", "e"]
    assert (mnt / "d/theirs").read_bytes() == b"after the copy"


def _wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise TimeoutError
