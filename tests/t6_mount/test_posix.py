"""`-o posix` through real mounts: what programs see, what the bucket keeps, what it costs."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_helper.worker import identity
from support.attributes import Seen, describe, see
from support.mounts import Mount, run
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket
from support.users import NOBODY, SOMEBODY, run_as

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

SECOND = 1_000_000_000
MIB = 1 << 20
TIMES = (987_654_321_123_456_789, 1_234_567_890_987_654_321)  # atime, mtime
LONG = "metadata_ttl=600"
MODE = "mode"


@pytest.fixture
def cache() -> Iterator[str]:
    """A directory of the worker's own, as an option."""
    with tempfile.TemporaryDirectory(prefix="fuse-s3-test-") as path:
        account = identity(None)
        os.chown(path, account.pw_uid, account.pw_gid)
        yield f"cache={path}"


@pytest.fixture
def far(bucket: Bucket, proxy: Proxy) -> Callable[..., Mount]:
    """Return a mount behind the proxy."""
    return lambda *options: Mount(
        bucket, "posix", LONG, *options, store=bucket.store.at(proxy.endpoint)
    )


def succeed(*command: object) -> str:
    """Run a program that must succeed and have nothing to complain of; return what it printed."""
    done = run(*map(str, command))
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def make_tree(top: Path) -> None:
    """Make one of everything, with odd values everywhere."""
    top.mkdir(exist_ok=True)
    (top / "dir/sub").mkdir(parents=True)
    (top / "file").write_bytes(b"content")
    (top / "empty").touch()
    (top / "dir/file").write_bytes(b"x" * 5000)
    (top / "link").symlink_to("dir/file")
    (top / "dir/odd link").symlink_to("/no such/place \udcff\n")
    os.mkfifo(top / "fifo")
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(5, 300))
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(250, 70_000))
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    os.setxattr(top / "file", "user.name", b"value\0\xff")
    os.setxattr(top / "file", "user.empty", b"")
    os.setxattr(top / "dir", "trusted.\xfc", b"1")
    succeed("setfacl", "-m", "u:12345:rw,g:77:r", top / "dir/file")
    succeed("setfacl", "-d", "-m", "u:12345:rwx", top / "dir/sub")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.chown(path, 1000 + number, 2**32 - 2 - number, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod((0o4711, 0o2755, 0o1777, 0o600, 0o4, 0o3777)[number % 6])
        os.utime(path, ns=(TIMES[0], TIMES[1] + number), follow_symlinks=False)


def test_everything_that_is_kept_is_there_at_once_and_after_a_remount(
    bucket: Bucket, tmp_path: Path
) -> None:
    """[S89] Modes, owners, modification and access times in nanoseconds, symbolic links, FIFOs,
    sockets, device nodes, extended attributes and access control lists are kept in the metadata of
    objects, and are there after a remount, in other mounts, and for s3fs.
    """
    local = tmp_path / "local"
    make_tree(local)
    with Mount(bucket, "posix", LONG) as mnt:
        succeed("cp", "-a", f"{local}/.", mnt / "copied")
        make_tree(mnt / "made")
        assert describe(mnt / "copied") == describe(local)
        made = describe(mnt / "made")
        assert without_top(made) == without_top(describe(local))
        numbers = inodes(mnt.path)
    with Mount(bucket, "posix") as again:
        assert describe(again / "copied") == describe(local)
        assert describe(again / "made") == made
        assert inodes(again.path) == numbers
        for name in ("dir/file", "dir/sub"):
            lists = [succeed("getfacl", "-npc", top / name) for top in (local, again / "made")]
            assert lists[0] == lists[1]
            assert ":12345:rw" in lists[0]
        atimes = {path.lstat().st_atime_ns for path in (again / "made").rglob("*")}
        assert atimes == {TIMES[0]}
    assert bucket.get("made/link") == b"dir/file"


def without_top(seen: dict[str, Seen]) -> dict[str, Seen]:
    """Leave out the root, which has the time of the mount unless something is set of it."""
    return {name: what for name, what in seen.items() if name != "."}


def inodes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.lstat().st_ino for path in top.rglob("*")}


def test_what_programs_are_told_that_is_not_kept(bucket: Bucket) -> None:
    """[S91] Hard links cannot be made: EOPNOTSUPP.

    [S92] What does not fit into the 2 KiB of metadata that S3 keeps of an object gives ENOSPC.

    [S93] A directory has as many links as it has directories in it and two, or one as long as that
    is not known.
    """
    with Mount(bucket, "posix", LONG) as mnt:
        (mnt / "d/e").mkdir(parents=True)
        (mnt / "d/f").mkdir()
        (mnt / "file").touch()
        refused: dict[int, Callable[[], object]] = {
            errno.EOPNOTSUPP: lambda: (mnt / "second").hardlink_to(mnt / "file"),
            errno.ENOSPC: lambda: os.setxattr(mnt / "file", "user.big", b"x" * 1700),
            errno.ENAMETOOLONG: lambda: (mnt / "far").symlink_to("x" * 5000),
            errno.ENODATA: lambda: os.getxattr(mnt / "file", "user.none"),
            errno.EEXIST: lambda: os.setxattr(mnt / "file", "user.a", b"2", os.XATTR_CREATE),
            errno.EPERM: lambda: os.setxattr(mnt / "fifo", "user.a", b""),
        }
        os.mkfifo(mnt / "fifo")
        os.setxattr(mnt / "file", "user.a", b"1")
        for number, act in refused.items():
            with pytest.raises(OSError, match=r".") as caught:
                act()
            assert caught.value.errno == number
        assert mnt.names("d") == ["e", "f"]
        assert (mnt / "d").stat().st_nlink in {1, 4}
        assert (mnt / "d/e").stat().st_nlink in {1, 2}
        assert (mnt / "file").stat().st_nlink == 1
        assert mnt.names() == ["d", "fifo", "file"]


def test_permissions_are_what_the_kernel_checks(bucket: Bucket) -> None:
    """[S90] The kernel checks access by mode, owner and access control list, as on a local disk.

    [S94] Changing the owner of a file takes setuid and setgid away, and so does writing to it,
    unless root writes.
    """
    with Mount(bucket, "posix", LONG) as mnt:
        mnt.path.chmod(0o755)
        secret, shared, theirs = mnt / "secret", mnt / "shared", mnt / "theirs"
        for path in (secret, theirs):
            path.write_bytes(b"content")
        secret.chmod(0o600)
        assert run_as(NOBODY, "cat", secret).returncode == 1
        succeed("setfacl", "-m", f"u:{SOMEBODY}:r", secret)
        assert run_as(SOMEBODY, "cat", secret).stdout == "content"
        assert run_as(NOBODY, "cat", secret).returncode == 1
        # Sticky: everybody may make files, nobody may remove another's.
        shared.mkdir()
        shared.chmod(0o1777)
        assert run_as(NOBODY, "touch", shared / "file").returncode == 0
        assert (shared / "file").stat().st_uid == NOBODY
        assert "not permitted" in run_as(SOMEBODY, "rm", "-f", shared / "file").stderr
        assert run_as(NOBODY, "rm", shared / "file").returncode == 0
        # setgid: what is made inside is of the directory's group, and a directory hands it on.
        group = mnt / "group"
        group.mkdir()
        os.chown(group, 0, 77)
        group.chmod(0o2777)
        assert run_as(NOBODY, "mkdir", group / "sub").returncode == 0
        found = (group / "sub").stat()
        assert (found.st_gid, found.st_mode & stat.S_ISGID) == (77, stat.S_ISGID)
        # A default list goes before the umask.
        succeed("setfacl", "-d", "-m", "g:88:rw", group)
        assert run_as(NOBODY, "sh", "-c", f"umask 077; touch {group}/file").returncode == 0
        assert "group:88:rw-" in succeed("getfacl", "-npc", group / "file")
        theirs.chmod(0o6777)
        with theirs.open("ab") as file:
            file.write(b"root's")
        assert stat.S_IMODE(theirs.stat().st_mode) == 0o6777
        assert run_as(NOBODY, "sh", "-c", f"echo more >>{theirs}").returncode == 0
        assert stat.S_IMODE(theirs.stat().st_mode) == 0o777
        theirs.chmod(0o6777)
        os.chown(theirs, 1, 1)
        assert stat.S_IMODE(theirs.stat().st_mode) == 0o777
    with Mount(bucket, "posix") as again:
        assert stat.S_IMODE((again / "theirs").stat().st_mode) == 0o777
        assert (again / "theirs").read_bytes() == b"contentroot'smore\n"


# -- what it costs ---------------------------------------------------------------------------------


def test_a_burst_costs_one_request_for_a_file(
    bucket: Bucket, proxy: Proxy, far: Callable[..., Mount], tmp_path: Path
) -> None:
    """[S95] What is set of a file that is being written is stored with its content, and several
    changes to a file shortly one after another in one request.
    """
    local, files = tmp_path / "local", 20
    local.mkdir()
    for number in range(files):
        path = local / f"{number:02}"
        path.write_bytes(b"x" * number)
        os.chown(path, 1000 + number, 7)
        path.chmod(0o640)
        os.setxattr(path, "user.n", b"%d" % number)
        os.utime(path, ns=TIMES)
    archive = tmp_path / "tar"
    succeed("tar", "--format=posix", "-C", tmp_path, "-cf", archive, "local")
    with far() as mnt:
        with proxy.counting() as copied:
            succeed("cp", "-pr", "--preserve=all", local, mnt / "copied")
            wait_until(lambda: proxy.counts("copied/")["PutObject"] == 2, "the directory's times")
        with proxy.counting() as unpacked:
            succeed("tar", "-C", mnt.path, "-xpf", archive)
            wait_until(lambda: proxy.counts("local/")["PutObject"] == 2, "the directory's times")
        assert describe(mnt / "copied") == describe(local)
        plain = {name: seen._replace(xattrs={}) for name, seen in describe(local).items()}
        assert describe(mnt / "local") == plain
        with proxy.counting() as changed:
            for number in range(files):
                path = mnt / f"local/{number:02}"
                os.utime(path, ns=TIMES[::-1])
                os.chown(path, 3, 4)
                os.setxattr(path, "user.n", b"2")
                path.chmod(0o604)
            for number in range(files):  # they are stored side by side, in any order
                _wait_for_metadata(bucket, f"local/{number:02}", mode="33156")
    with Mount(bucket, "posix") as again:
        assert describe(again / "copied") == describe(local)
    # The directory itself is made, and its times are set in the end.
    for counted in (copied, unpacked):
        assert (counted["PutObject"], counted["CopyObject"]) == (files + 2, 0)
    assert changed["CopyObject"] == files
    assert not changed["PutObject"]


def _wait_for_metadata(bucket: Bucket, key: str, **metadata: str) -> None:
    def is_there() -> bool:
        return bool(bucket.head(key)["Metadata"].items() >= metadata.items())

    wait_until(is_there, f"{metadata} of {key}")


def test_looking_at_a_directory_after_a_remount_costs_its_listing(
    bucket: Bucket, proxy: Proxy, far: Callable[..., Mount], cache: str
) -> None:
    """[S96] With `cache=`, what was heard of objects is kept on disk: to look at all files of a
    directory costs a HEAD for each the first time, and after a remount the listing only.
    """
    files = 150
    for number in range(3):
        bucket.put(f"d/{number:03}", b"", Metadata={"mode": "33188"})  # type: ignore[arg-type]
    bucket.put_many((f"d/{number:03}", b"x") for number in range(3, files))
    bucket.wait_until_old(f"d/{files - 1:03}", 3.0)
    counts = []
    for _ in range(2):
        with far(cache) as mnt:
            with proxy.counting() as looked:
                listed = succeed("ls", "-ln", mnt / "d")
            assert len(listed.splitlines()) == files + 1
            counts.append(looked)
    first, second = counts
    assert first["HeadObject"] >= files
    assert second["ListObjectsV2"] == first["ListObjectsV2"] >= 1
    # The directory's own object, and the root's, may be asked for: not one of the files.
    assert second["HeadObject"] <= 2
    assert not [
        exchange.target.key
        for exchange in proxy.seen[-20:]
        if exchange.target.operation == "HeadObject" and exchange.target.key.startswith("d/0")
    ]


# -- while other things go on ----------------------------------------------------------------------


def test_what_was_set_goes_along_with_a_rename(bucket: Bucket, cache: str) -> None:
    """[S97] What was set of a file is there after a rename, of the file or of a directory above
    it, however short a time before.
    """
    with Mount(bucket, "posix", LONG, cache) as mnt:
        (mnt / "tree/sub").mkdir(parents=True)
        for name in ("file", "tree/sub/file", "open"):
            (mnt / name).write_bytes(b"content")
        for name, new in (("file", "moved"), ("tree/sub/file", "tree/moved")):
            path = mnt / name
            path.chmod(0o4701)
            os.utime(path, ns=TIMES)
            os.setxattr(path, "user.a", b"1")
            path.rename(mnt / new)
        (mnt / "tree/moved").chmod(0o705)
        os.chown(mnt / "tree/sub", 5, 6)
        (mnt / "tree").rename(mnt / "wood")
        with (mnt / "open").open("r+b") as file:
            file.seek(3)
            file.write(b"X")
            os.fchmod(file.fileno(), 0o604)
            (mnt / "open").rename(mnt / "renamed")
            os.fchown(file.fileno(), 8, 9)
        (mnt / "link").symlink_to("moved")
        os.mkfifo(mnt / "fifo")
        (mnt / "link").rename(mnt / "wood/link")
        (mnt / "fifo").rename(mnt / "wood/fifo")
        before = without_top(describe(mnt.path))
    with Mount(bucket, "posix") as again:
        assert without_top(describe(again.path)) == before
        outer, inner = see(again / "moved"), see(again / "wood/moved")
        assert (outer.mode, inner.mode) == (0o104701, 0o100705)
        assert outer.xattrs == inner.xattrs == {"user.a": b"1"}
        assert outer.mtime == inner.mtime == TIMES[1]
        assert see(again / "wood/sub")[1:3] == (5, 6)
        assert see(again / "renamed")[:3] == (0o100604, 8, 9)
        assert (again / "renamed").read_bytes() == b"conXent"
        assert (again / "wood/link").readlink() == Path("moved")
        assert (again / "wood/fifo").is_fifo()


@pytest.mark.parametrize("write_back", ["write_back=0", "write_back=60"])
def test_what_is_set_of_a_file_that_is_written_is_stored_with_it(
    bucket: Bucket, cache: str, write_back: str
) -> None:
    """As a stage is, in parts, and after the descriptor that wrote is closed."""
    bucket.put("old", b"x" * (6 * MIB))
    with Mount(bucket, "posix", LONG, cache, write_back, "part_size=5M") as mnt:
        with (mnt / "old").open("r+b") as file:
            os.fchmod(file.fileno(), 0o711)
            file.seek(4 * MIB)
            file.write(b"in the middle")
            file.flush()
            os.setxattr(file.fileno(), "user.a", b"1")
            os.fchown(file.fileno(), 5, 6)
        os.utime(mnt / "old", ns=TIMES)
        with (mnt / "new").open("wb") as file:
            file.write(b"y" * (12 * MIB))
            file.flush()
            os.fchmod(file.fileno(), 0o4750)
            os.utime(file.fileno(), ns=TIMES)
        (mnt / "new").chmod(0o640)
        before = without_top(describe(mnt.path))
    with Mount(bucket, "posix") as again:
        assert without_top(describe(again.path)) == before
        assert see(again / "old")[:5] == (0o100711, 5, 6, 6 * MIB, TIMES[1])
        new = see(again / "new")
        assert (new.mode, new.size, new.mtime) == (0o100640, 12 * MIB, TIMES[1])
        content = (again / "old").read_bytes()
        assert content[4 * MIB :].startswith(b"in the middlexxx")
        assert len(content) == 6 * MIB
    assert bucket.uploads() == []
