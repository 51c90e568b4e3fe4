"""s3fs and fuse-s3 on one bucket: each shows what the other wrote."""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.attributes import Seen, describe
from support.mounts import Mount
from support.s3 import Bucket
from support.s3fsmount import S3fs

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

MIB = 1 << 20
TIMES = (987_654_321_123_456_789, 1_234_567_890_987_654_321)
EVEN = 1_111_111_111_000_000_000  # a time without a fraction is written in another way
Program = Callable[[Bucket], contextlib.AbstractContextManager[Mount | S3fs]]


@pytest.fixture(autouse=True)
def _there_is_s3fs() -> None:
    if shutil.which("s3fs") is None:
        pytest.skip("there is no s3fs")


def ours(bucket: Bucket) -> Mount:
    return Mount(bucket, "posix", "metadata_ttl=0")


def fill(top: Path) -> None:
    """Make what both can keep."""
    (top / "dir/sub").mkdir(parents=True)
    (top / "dir/sub/file").write_bytes(b"content")
    (top / "empty").touch()
    (top / "large").write_bytes(os.urandom(12 * MIB))
    (top / "text.html").write_bytes(b"<p>")
    (top / "name with \xfc & +%").write_bytes(b"odd")
    (top / "link").symlink_to("dir/sub/file")
    (top / "link to dir").symlink_to("dir")
    os.mkfifo(top / "fifo", 0o640)
    os.setxattr(top / "empty", "user.name", b"value\0\xff")
    os.setxattr(top / "empty", "user.other", b"+/= %")
    os.setxattr(top / "dir", "user.dir", b"1")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.chown(path, 1000 + number, 3_000_000 + number, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod((0o4711, 0o2755, 0o1777, 0o600, 0o640, 0o3777)[number % 6])
        os.utime(path, ns=(TIMES[0], (TIMES[1], EVEN)[number % 2]), follow_symlinks=False)


def change(top: Path) -> None:
    """Change what the other made."""
    (top / "dir/sub/file").chmod(0o611)
    os.chown(top / "dir", 5, 6)
    os.setxattr(top / "empty", "user.name", b"new")
    os.removexattr(top / "empty", "user.other")
    with (top / "text.html").open("ab") as file:
        file.write(b"more</p>")
    (top / "link").unlink()
    (top / "link").symlink_to("empty")
    (top / "fifo").unlink()
    (top / "dir/sub/file").rename(top / "dir/moved")
    os.utime(top / "dir/moved", ns=TIMES)
    os.utime(top / "text.html", ns=TIMES)


def contents(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def comparable(seen: dict[str, Seen]) -> dict[str, Seen]:
    """Leave out what one of them has its own idea of: the root, and the length of a link."""
    return {
        name: what._replace(size=0, mode=stat.S_IFLNK) if what.target else what
        for name, what in seen.items()
        if name != "."
    }


def agree(bucket: Bucket) -> dict[str, Seen]:
    """Both show the same; return it."""
    with ours(bucket) as one, S3fs(bucket) as other:
        seen = [comparable(describe(top / "tree")) for top in (one, other)]
        assert seen[0] == seen[1]
        assert contents(one / "tree") == contents(other / "tree")
        return seen[0]


@pytest.mark.parametrize(("writer", "changer"), [(ours, S3fs), (S3fs, ours)], ids=["ours", "s3fs"])
def test_each_shows_what_the_other_wrote(
    bucket: Bucket, writer: Program, changer: Program, tmp_path: Path
) -> None:
    """[S98] s3fs and fuse-s3 show the same of what either wrote: content, modes, owners, times,
    links, extended attributes and directories.
    """
    fill(tmp_path / "local")
    with writer(bucket) as mnt:
        fill(mnt / "tree")
    written = agree(bucket)
    local = comparable(describe(tmp_path / "local"))
    if writer is ours:  # s3fs has whole seconds of some times, and a mode of its own for links
        assert {**written, "large": None} == {**local, "large": None}
    assert written.keys() == local.keys()
    assert written["fifo"].mode == local["fifo"].mode
    with changer(bucket) as mnt:
        change(mnt / "tree")
    changed = agree(bucket)
    assert "fifo" not in changed
    assert changed["dir/moved"].mode == stat.S_IFREG | 0o611
    assert changed["dir/moved"].mtime == changed["text.html"].mtime == TIMES[1]
    assert changed["dir"][1:3] == (5, 6)
    assert changed["empty"].xattrs == {"user.name": b"new"}
    assert changed["link"].target == b"empty"
    assert changed["text.html"].size == len("<p>more</p>")
