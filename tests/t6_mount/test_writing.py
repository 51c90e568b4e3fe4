"""Writing as programs do it, and when the bucket has what was written."""

import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, entries_at, run
from support.process import wait_until
from support.proxy import Exchange, Proxy
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
PART = 5 * MIB
SMALL_PARTS = "part_size=5M"
LOST = r"request_failed op=(FLUSH|RELEASE) .*errno=ESTALE"
OUT_OF_PLACE = r"request_failed op=(WRITE|SETATTR) .*errno=E(OPNOTSUPP|NOTSUP)"  # one number


def shell(mnt: Mount, script: str) -> str:
    """Run a shell script in the mount's root; return what it printed."""
    done = run("sh", "-ec", f"cd {mnt.path}\n{script}")
    assert (done.returncode, done.stderr) == (0, ""), script
    return done.stdout


# -- when it is seen -------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(bucket: Bucket) -> None:
    """[S28] A new file shows in its directory at once; the bucket has it, whole, when it is closed
    or fsynced.

    [S29] Until then the bucket has what it had before: nothing half written is ever seen there.

    [S19] What is changed through a mount is seen through it at once, by programs that have the
    file open too.
    """
    bucket.put("old", b"before")
    with Mount(bucket, SMALL_PARTS) as mnt:
        with (mnt / "new").open("wb") as new, (mnt / "old").open("wb") as old:
            for file in (new, old):
                file.write(b"x" * (2 * PART))
                file.flush()
            assert mnt.names() == ["new", "old"]
            assert (mnt / "new").stat().st_size == 2 * PART
            assert bucket.keys() == ["old"]
            assert bucket.get("old") == b"before"
        assert bucket.head("new")["ContentLength"] == 2 * PART
        assert bucket.get("old") == b"x" * (2 * PART)
        with (mnt / "new").open("rb") as reader, (mnt / "new").open("ab") as writer:
            assert reader.read() == b"x" * (2 * PART)
            writer.write(b"more")
            writer.flush()
            os.fsync(writer.fileno())
            assert reader.read() == b"more"
        (mnt / "new").unlink()
        assert mnt.names() == ["old"]


def test_fsync_stores_and_writing_goes_on(bucket: Bucket) -> None:
    """[S31] fsync returns when the store has everything that was written before it."""
    with Mount(bucket, SMALL_PARTS) as mnt:
        for name, first in (("small", b"a" * 1000), ("large", b"a" * (PART + 5))):
            with (mnt / name).open("wb", buffering=0) as file:
                file.write(first)
                os.fsync(file.fileno())
                assert bucket.get(name) == first
                file.write(b"more")
                assert bucket.get(name) == first
                os.fdatasync(file.fileno())
                assert bucket.get(name) == first + b"more"
                file.write(b" and more")
            assert bucket.get(name) == first + b"more and more"
    assert bucket.uploads() == []


def test_opening_to_replace(bucket: Bucket) -> None:
    """[S33] Opening with O_TRUNC replaces the object at close, by an empty one if nothing was
    written; a program that was reading the file goes on reading what it was.
    """
    bucket.put_many([("a", b"before"), ("b", b"before")])
    with Mount(bucket) as mnt:
        fd = os.open(mnt / "a", os.O_WRONLY | os.O_TRUNC)
        assert (mnt / "a").stat().st_size == 0
        assert bucket.get("a") == b"before"
        os.close(fd)
        assert bucket.get("a") == b""
        with (mnt / "b").open("rb") as reader:
            assert reader.read(3) == b"bef"
            (mnt / "b").write_bytes(b"after!")
            assert (mnt / "b").read_bytes() == b"after!"
            assert reader.read() == b"ore"
            assert os.pread(reader.fileno(), 6, 0) == b"before"
        # Without O_TRUNC an open alone changes nothing.
        modified = bucket.head("b")["LastModified"]
        os.close(os.open(mnt / "b", os.O_WRONLY))
        assert bucket.head("b")["LastModified"] == modified


def test_exclusive_creation(bucket: Bucket) -> None:
    bucket.put("theirs", b"1")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with Mount(bucket) as mnt:
        fd = os.open(mnt / "ours", flags)
        for taken in ("ours", "theirs"):
            with pytest.raises(FileExistsError):
                os.open(mnt / taken, flags)
        os.close(fd)
        assert bucket.get("ours") == b""
        assert bucket.get("theirs") == b"1"


def test_touch_and_empty_files(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        shell(mnt, "touch a b; : >c; truncate -s 5 d; mkdir e; touch e/f")
        assert bucket.keys() == ["a", "b", "c", "d", "e/", "e/f"]
        for key in ("a", "b", "c", "e/f"):
            assert bucket.get(key) == b""
        assert bucket.get("d") == bytes(5)


# -- descriptors -----------------------------------------------------------------------------------


def test_shell_redirections(bucket: Bucket) -> None:
    """[S35] A child that inherits a descriptor and closes it does not store the file while the
    process that opened it lives; the last close does.
    """
    with Mount(bucket) as mnt:
        shell(mnt, "{ echo a; /bin/echo b; } >braces; (echo a; /bin/echo b) >subshell")
        shell(mnt, "for n in 1 2 3; do /bin/echo $n >>appended; done")
        shell(mnt, "exec 3>kept; echo a >&3; (/bin/echo b >&3); echo c >&3; exec 3>&-")
        assert bucket.get("braces") == bucket.get("subshell") == b"a\nb\n"
        assert bucket.get("appended") == b"1\n2\n3\n"
        assert bucket.get("kept") == b"a\nb\nc\n"


def test_child_that_ends_does_not_publish(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        with (mnt / "x").open("wb", buffering=0) as file:
            file.write(b"first ")
            child = os.fork()
            if not child:
                os.write(file.fileno(), b"child ")
                os._exit(0)  # which closes its descriptor
            assert os.waitpid(child, 0)[1] == 0
            assert bucket.keys() == []
            file.write(b"last")
        assert bucket.get("x") == b"first child last"


def test_file_handed_over_to_a_child(bucket: Bucket) -> None:
    """The opener is gone long before the writer is done: `sh -c 'slow >file &'`."""
    with Mount(bucket) as mnt:
        shell(mnt, "(sleep 0.3; echo late) >x & exit 0")
        wait_until(lambda: bucket.has("x") and bucket.get("x") == b"late\n", "the late line")


def test_duplicates_of_a_descriptor(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        fd = os.open(mnt / "x", os.O_CREAT | os.O_WRONLY)
        other = os.dup(fd)
        os.write(fd, b"one ")
        os.close(fd)
        # The same process closed a descriptor: that much is stored, and no error.
        assert bucket.get("x") == b"one "
        os.write(other, b"two")
        os.close(other)
        assert bucket.get("x") == b"one two"


def test_two_writers_make_one_version(bucket: Bucket) -> None:
    """[S47] All descriptors that write one file write one new version of it."""
    with Mount(bucket) as mnt:
        with (mnt / "x").open("wb", buffering=0) as one:
            one.write(b"aaaa")
            with (mnt / "x").open("r+b", buffering=0) as two:
                assert two.read() == b"aaaa"
                two.seek(2)
                two.write(b"bbbb")
                one.write(b"a")
        assert bucket.get("x") == b"aaabbb"[:2] + b"bb" + b"ab"


def test_reading_and_changing_what_is_sent_while_it_is_written(bucket: Bucket) -> None:
    """[S40] A new file that is written in order is sent while it is written, without a copy on this
    machine. What was sent can be read and changed as long as it is in memory; after that a read
    gives EBUSY and a change EOPNOTSUPP, until the file is stored.
    """
    allowed = ["op=READ .*EBUSY", OUT_OF_PLACE]
    with Mount(bucket, SMALL_PARTS, "memory_target=64M", allowed=allowed) as mnt:
        with (mnt / "x").open("wb", buffering=0) as file:
            file.write(b"x" * (2 * PART))
            wait_until(lambda: bucket.uploads() != [], "a multipart upload")
            assert (mnt / "x").read_bytes() == b"x" * (2 * PART)
            for _ in range(16):
                file.write(b"y" * PART)
            with pytest.raises(OSError, match="busy") as busy:
                (mnt / "x").read_bytes()
            assert busy.value.errno == errno.EBUSY
            with pytest.raises(OSError, match="not supported") as refused:
                os.pwrite(file.fileno(), b"z", 5)
            assert refused.value.errno == errno.EOPNOTSUPP
            os.fsync(file.fileno())
            os.pwrite(file.fileno(), b"z", 5)
            assert (mnt / "x").stat().st_size == 18 * PART
        content = (mnt / "x").read_bytes()
        assert content == bucket.get("x")
        assert content == b"xxxxxz" + b"x" * (2 * PART - 6) + b"y" * (16 * PART)
        with (mnt / "kept").open("wb", buffering=0) as file:
            file.write(b"x" * (2 * PART))
            os.pwrite(file.fileno(), b"z", 5)
        assert bucket.get("kept") == content[: 2 * PART]
    assert bucket.uploads() == []


def test_locks_among_programs_of_this_machine(bucket: Bucket) -> None:
    """[S69] Locks hold among the programs of one machine, not between machines."""
    bucket.put("x", b"1")
    with Mount(bucket) as mnt, (mnt / "x").open("rb") as one, (mnt / "x").open("rb") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- changing what is there ------------------------------------------------------------------------


def test_what_changes_is_sent_and_no_more(bucket: Bucket) -> None:
    """[S37] Of a file that is changed or appended to, what changes is sent, with as much around it
    as S3 needs for a part; the store copies the rest, if it can.
    """
    large = os.urandom(6 * PART)
    bucket.put_many([("append", large), ("change", large), ("cut", large), ("100%41%", large)])
    with (
        Proxy(bucket.store.endpoint) as proxy,
        Mount(bucket, SMALL_PARTS, store=bucket.store.at(proxy.endpoint)) as mnt,
    ):
        with (mnt / "append").open("ab") as file:
            file.write(b"more")
        with (mnt / "change").open("r+b") as file:
            file.seek(3 * PART)
            file.write(b"!")
        os.truncate(mnt / "cut", 4 * PART + 1)
        for name in ("append", "change", "cut"):
            sent = sum(seen.request.length or 0 for seen in proxy.seen if _is_part(seen, name))
            assert sent <= 2 * PART, name
            assert proxy.counts(name)["UploadPartCopy"] >= 1
        with (mnt / "100%41%").open("ab") as file:
            file.write(b"more")
    assert bucket.get("append") == bucket.get("100%41%") == large + b"more"
    assert bucket.get("change") == large[: 3 * PART] + b"!" + large[3 * PART + 1 :]
    assert bucket.get("cut") == large[: 4 * PART + 1]
    assert bucket.uploads() == []


def _is_part(seen: Exchange, key: str) -> bool:
    return seen.target.key == key and seen.target.operation in {"UploadPart", "PutObject"}


@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
def test_another_client_is_first(bucket: Bucket, size: int) -> None:
    """[S38] If another client has replaced an object that a change goes on from, fsync and close
    give ESTALE, and the bucket keeps what that client stored.
    """
    bucket.put_many([("append", os.urandom(size)), ("change", os.urandom(size))])
    allowed = [LOST, r"request_failed op=FSYNC .*errno=ESTALE"]
    with Mount(bucket, SMALL_PARTS, allowed=allowed) as mnt:
        for name, mode in (("append", "ab"), ("change", "r+b")):
            lost = (mnt / name).open(mode, buffering=0)
            lost.write(b"more")
            bucket.put(name, b"theirs")
            with pytest.raises(OSError, match="Stale") as stale:
                os.fsync(lost.fileno()) if mode == "ab" else os.close(os.dup(lost.fileno()))
            assert stale.value.errno == errno.ESTALE
            with pytest.raises(OSError, match="Stale"):
                lost.close()
            assert bucket.get(name) == b"theirs"
    assert bucket.uploads() == []


def test_changing_anything_anywhere(bucket: Bucket) -> None:
    """[S36] A file can be written anywhere, truncated to any size and mapped into memory for
    reading and writing; what was not written of it stays what it was, and gaps are zeros.
    """
    for size in (100_000, 2 * PART + 1):
        model = bytearray(os.urandom(size))
        bucket.put("x", bytes(model))
        with Mount(bucket, SMALL_PARTS) as mnt:
            for at, length in ((size // 2, 10), (0, 1), (size - 1, 5), (2 * size, 3)):
                with (mnt / "x").open("r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), b"\xee" * length, at)
                model.extend(bytes(max(0, at + length - len(model))))
                model[at : at + length] = b"\xee" * length
                assert bucket.get("x") == model
            for new in (size + 50_000, size // 2, PART, 7, 3 * PART, 0, 3):
                os.truncate(mnt / "x", new)
                model = model[:new].ljust(new, b"\0")
                assert bucket.get("x") == model
                assert (mnt / "x").stat().st_size == new
            with (mnt / "x").open("r+b", buffering=0) as file:
                file.write(b"abcdef")
                file.truncate(2)
                file.seek(4)
                file.write(b"x")
            assert bucket.get("x") == b"ab\0\0x"


def test_mapped_changes(bucket: Bucket) -> None:
    content = os.urandom(2 * PART + 12_345)
    bucket.put("x", content)
    with Mount(bucket, SMALL_PARTS) as mnt:
        with (
            (mnt / "x").open("r+b", buffering=0) as file,
            mmap.mmap(file.fileno(), 0) as view,
        ):
            assert view[-5:] == content[-5:]
            view[PART : PART + 3] = b"abc"
            view[-1:] = b"!"
            view.flush()
        assert bucket.get("x") == content[:PART] + b"abc" + content[PART + 3 : -1] + b"!"


def test_files_that_no_object_can_hold(bucket: Bucket) -> None:
    """[S49] A write that would make a file larger than 10,000 parts can be gives EFBIG."""
    with Mount(bucket, allowed=["op=(WRITE|SETATTR) .*errno=EFBIG"]) as mnt:
        with (mnt / "x").open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="too large") as refused:
                os.pwrite(file.fileno(), b"x", 5 << 40)
            assert refused.value.errno == errno.EFBIG
            with pytest.raises(OSError, match="too large"):
                os.truncate(file.fileno(), 6 << 40)
            file.write(b"good")
        assert bucket.get("x") == b"good"


# -- removing --------------------------------------------------------------------------------------


def test_unlink(bucket: Bucket) -> None:
    """[S51] unlink deletes the object before it returns.

    [S53] unlink gives EISDIR for a directory and ENOENT for a name that does not exist.
    """
    bucket.put_many([("x", b"1"), ("d/x", b"1")])
    with Mount(bucket) as mnt:
        (mnt / "x").unlink()
        assert not bucket.has("x")
        with pytest.raises(IsADirectoryError):
            (mnt / "d").unlink()
        with pytest.raises(FileNotFoundError):
            (mnt / "x").unlink()


def test_unlink_of_a_file_that_is_being_written(bucket: Bucket) -> None:
    """[S52] A file that is unlinked or replaced while it is open goes on for those who have it
    open, and nothing of it stays in the bucket; what is not here of it is fetched before, unless
    that is more than 64 MiB.
    """
    with Mount(bucket, SMALL_PARTS) as mnt:
        for size in (10, 2 * PART):
            with (mnt / "x").open("w+b", buffering=0) as file:
                file.write(b"x" * size)
                (mnt / "x").unlink()
                assert mnt.names() == []
                file.write(b"y" * size)
                os.fsync(file.fileno())
                assert os.pread(file.fileno(), 2 * size, 0) == b"x" * size + b"y" * size
            assert bucket.keys() == []
            assert bucket.uploads() == []
        content = os.urandom(2 * PART)
        for name in ("x", "y"):
            (mnt / name).write_bytes(content)
        with (mnt / "x").open("rb") as removed, (mnt / "y").open("rb") as replaced:
            for fd in (removed.fileno(), replaced.fileno()):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            (mnt / "x").unlink()
            (mnt / "new").write_bytes(b"new")
            (mnt / "new").rename(mnt / "y")
            assert removed.read() == replaced.read() == content
        assert bucket.keys() == ["y"]
        (mnt / "y").unlink()
        # And the name is free for another file meanwhile.
        with (mnt / "x").open("wb", buffering=0) as first:
            first.write(b"first")
            (mnt / "x").unlink()
            (mnt / "x").write_bytes(b"second")
            first.write(b"first")
        assert bucket.get("x") == b"second"


def test_unlink_of_a_file_that_is_being_read(bucket: Bucket) -> None:
    """[S18] A file that another client deleted while it was open gives ESTALE for whatever was not
    fetched.
    """
    content = os.urandom(2 * PART)
    bucket.put("x", content)
    with (
        Mount(bucket, allowed=["op=READ errno=ESTALE", "retry"]) as mnt,
        (mnt / "x").open("rb", buffering=0) as file,
    ):
        assert os.pread(file.fileno(), 4096, 0) == content[:4096]
        bucket.delete("x")
        with pytest.raises(OSError, match="Stale") as stale:
            os.pread(file.fileno(), 4096, 2 * PART - 4096)
        assert stale.value.errno == errno.ESTALE


# -- unmounting ------------------------------------------------------------------------------------


def test_unmount_while_a_file_is_being_written(bucket: Bucket) -> None:
    """[S81] The worker ends when everything that was closed is stored, after the unmount; SIGTERM,
    SIGINT and SIGHUP do not end it.
    """
    with Mount(bucket, SMALL_PARTS) as mnt:
        with (mnt / "x").open("wb", buffering=0) as file:
            file.write(b"x" * PART)
            busy = mnt.unmount()
            assert busy.returncode != 0
            assert "busy" in busy.stderr
            assert mnt.unmount("-l").returncode == 0
            assert not entries_at(mnt.path)
            os.kill(mnt.pid, signal.SIGTERM)
            file.write(b"y" * PART)
            assert bucket.keys() == []
        assert bucket.get("x") == b"x" * PART + b"y" * PART
        assert mnt.wait_for_worker()
        assert bucket.uploads() == []


@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_forced_unmount_leaves_nothing_half_done(bucket: Bucket, size: int) -> None:
    bucket.put("old", b"before")
    with Mount(bucket, SMALL_PARTS) as mnt:
        files = [(mnt / name).open("wb", buffering=0) for name in ("new", "old")]
        for file in files:
            file.write(b"x" * size)
        mnt.unmount("-f")
        for file in files:
            with pytest.raises(OSError, match=r"not connected|aborted"):
                file.write(b"y")
            with pytest.raises(OSError, match=r"not connected|aborted"):
                file.close()
        assert mnt.wait_for_worker()
        assert bucket.keys() == ["old"]
        assert bucket.get("old") == b"before"
        assert bucket.uploads() == []


_LAST_CLOSES: dict[str, Callable[[Path], object]] = {
    "close": lambda path: path.write_bytes(b"x" * (PART + 1)),
    "exit": lambda path: _write_and_exit(path, os._exit),
    "kill": lambda path: _write_and_exit(path, lambda _: os.kill(os.getpid(), signal.SIGKILL)),
}


def _write_and_exit(path: Path, leave: Callable[[int], None]) -> None:
    child = os.fork()
    if not child:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * (PART + 1))
        leave(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("way", _LAST_CLOSES)
def test_unmount_right_after_the_last_close(bucket: Bucket, way: str) -> None:
    """However a program closes its files, what it wrote is stored when the worker has ended."""
    with Mount(bucket, SMALL_PARTS) as mnt:
        _LAST_CLOSES[way](mnt / "x")
        assert mnt.unmount().returncode == 0
        assert mnt.wait_for_worker()
        assert bucket.get("x") == b"x" * (PART + 1)
        assert bucket.uploads() == []
