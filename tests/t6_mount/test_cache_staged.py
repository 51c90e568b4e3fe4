"""The cache directory: conflicts that are kept there, and what `fuse-s3 staged` makes of them."""

import errno
import os
from pathlib import Path

import pytest

from support.cachedir import TAKEN, CacheDirectory, kill_worker
from support.changing import change, fails, patched
from support.mounts import Mount, clean_environment, run
from support.process import wait_until
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20


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
