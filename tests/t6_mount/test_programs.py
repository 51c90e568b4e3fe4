"""Programs that everybody has, working on a mount that keeps attributes."""

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import Mount, clean_environment
from support.process import ROOT
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

MIB = 1 << 20
OLD = 1_500_000_000
GIT = (
    "git -c safe.directory=* -c init.defaultBranch=main -c user.name=t -c user.email=t@example.org"
)


@pytest.fixture
def mnt(bucket: Bucket) -> Iterator[Mount]:
    with Mount(bucket, "posix") as mount:
        yield mount


def need(*programs: str) -> None:
    """Skip where a program is missing; the end of the test run says so."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")


def sh(where: Path, script: str) -> str:
    """Run a script that must succeed and have nothing to complain of; return what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=where,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env=clean_environment() | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, ""), script
    return done.stdout


def make_tree(root: Path) -> Path:
    """Make files, directories, links and a FIFO of several modes, owners and times."""
    tree = root / "tree"
    (tree / "sub/deep").mkdir(parents=True)
    for number, size in enumerate((0, 1, 4096, 70_000, 300_000)):
        path = tree / f"sub/file{number}"
        path.write_bytes(os.urandom(size))
        path.chmod(0o600 + number)
        os.chown(path, 1000 + number, 2000)
        os.utime(path, ns=(OLD * 10**9, OLD * 10**9 + number * 1001))
    (tree / "sub/deep/link").symlink_to("../file1")
    (tree / "setuid").write_bytes(b"#!/bin/sh\n")
    (tree / "setuid").chmod(0o4755)
    os.mkfifo(tree / "fifo", 0o640)
    (tree / "sub/deep").chmod(0o1770)
    for directory in (tree / "sub/deep", tree / "sub", tree):
        os.utime(directory, ns=(OLD * 10**9, OLD * 10**9 + 7))
    return tree


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything below a directory with its attributes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        size = None if stat.S_ISDIR(status.st_mode) else status.st_size
        target = os.readlink(path) if path.is_symlink() else None  # noqa: PTH115  as it is
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path.relative_to(root))] = (
            *(oct(status.st_mode), status.st_uid, status.st_gid, size, status.st_mtime_ns),
            *(target, content),
        )
    return found


def as_rsync_has_it(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Return the same without what rsync leaves as it is: in a second, times of what it has made
    that is neither file nor directory.
    """
    for name, (mode, uid, gid, size, mtime, *rest) in found.items():
        special = stat.S_IFMT(int(str(mode), 8)) not in {stat.S_IFREG, stat.S_IFDIR}
        if special:
            found[name] = (mode, uid, gid, size, int(str(mtime)) // 10**9, *rest)
    return found


def test_rsync_twice(bucket: Bucket, tmp_path: Path) -> None:
    """The second time it moves nothing, on another mount, too."""
    need("rsync")
    tree = make_tree(tmp_path)
    command = f"rsync -a --itemize-changes {tree}/ copy"
    with Mount(bucket, "posix") as mnt:
        assert len(sh(mnt.path, command).splitlines()) > 8
        assert sh(mnt.path, command) == ""
        assert as_rsync_has_it(described(mnt / "copy")) == as_rsync_has_it(described(tree))
    with Mount(bucket, "posix") as fresh:
        assert sh(fresh.path, command) == ""
        assert as_rsync_has_it(described(fresh / "copy")) == as_rsync_has_it(described(tree))


def test_tar_with_all_it_has(mnt: Mount, tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    sh(tmp_path, "tar --format=pax -cf tree.tar tree")
    sh(mnt.path, f"tar xpf {tmp_path}/tree.tar")
    assert described(mnt / "tree") == described(tree)
    sh(mnt.path, "tar --format=pax -cf again.tar tree && mkdir again && tar xpf again.tar -C again")
    assert described(mnt / "again/tree") == described(tree)


def test_git(mnt: Mount) -> None:
    need("git")
    sh(mnt.path, f"{GIT} init -q work && cd work && seq 1 500 >a && mkdir d && echo b >d/b")
    work = mnt / "work"
    sh(work, f"{GIT} add . && {GIT} commit -qm one && seq 1 600 >a && {GIT} commit -qam two")
    assert sh(work, f"{GIT} log --format=%s") == "two\none\n"
    assert sh(work, f"{GIT} status --porcelain") == ""
    sh(work, f"{GIT} checkout -q HEAD~ && {GIT} fsck --strict --no-progress")
    assert sh(work, "tail -1 a") == "500\n"


def test_sqlite3(bucket: Bucket, mnt: Mount) -> None:
    program = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("create table t (n integer primary key, text text)")
for number in range(5):
    with db:
        db.executemany("insert into t (text) values (?)", [(f"{number} " * 500,)] * 40)
with db:
    db.execute("update t set text = 'changed' where n % 3 = 0")
db.execute("begin"); db.execute("delete from t"); db.rollback()
print(db.execute("select count(*), sum(text = 'changed') from t").fetchone())
print(db.execute("pragma integrity_check").fetchone()[0])
"""
    (mnt / "make.py").write_text(program)
    assert sh(mnt.path, f"{sys.executable} make.py data.db") == "(200, 66)\nok\n"
    copy = mnt.path.parent / "copy.db"
    copy.write_bytes(bucket.get("data.db"))
    with contextlib.closing(sqlite3.connect(copy)) as stored:
        assert stored.execute("pragma integrity_check").fetchone() == ("ok",)
    assert mnt.names() == ["data.db", "make.py"], "the journal is gone"


def test_vim(bucket: Bucket, mnt: Mount) -> None:
    need("vim")
    (mnt / "file").write_text("one\ntwo\n")
    (mnt / "file").chmod(0o640)
    sh(mnt.path, "vim -u NONE -es -c '%s/two/three/' -c 'normal Gofour' -c wq file")
    sh(
        mnt.path,
        "vim -u NONE -es -c 'set backupcopy=no backup backupskip=' -c '%s/one/1/' -c wq file",
    )
    assert (mnt / "file").read_text() == "1\nthree\nfour\n"
    assert bucket.get("file") == b"1\nthree\nfour\n"
    assert stat.S_IMODE((mnt / "file").stat().st_mode) == 0o640
    assert mnt.names() == ["file", "file~"]


def test_pip(mnt: Mount, tmp_path: Path) -> None:
    """It installs into a directory of the mount, from a file: no registry is asked."""
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/__init__.py", "value = 42\n")
        archive.writestr("thing/data.bin", bytes(100_000))
        archive.writestr(
            "thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
        )
        archive.writestr(
            "thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    pip = f"{ROOT}/build/venv/bin/python -m pip --disable-pip-version-check --no-cache-dir"
    sh(mnt.path, f"{pip} install --root-user-action=ignore --no-index -q --target=lib {wheel}")
    assert (
        sh(mnt.path, f"PYTHONPATH=lib {sys.executable} -c 'import thing; print(thing.value)'")
        == "42\n"
    )
    sh(
        mnt.path,
        f"{pip} install --root-user-action=ignore --no-index -q --upgrade --target=lib {wheel}",
    )
    assert (mnt / "lib/thing/data.bin").stat().st_size == 100_000


def test_archives_and_copies(bucket: Bucket, mnt: Mount) -> None:
    """zipfile, gzip in place, cp --sparse, dd conv=notrunc."""
    data = os.urandom(200_000) + bytes(300_000)
    (mnt / "data").write_bytes(data)
    sh(mnt.path, f"{sys.executable} -m zipfile -c data.zip data && mkdir out")
    sh(mnt.path, f"{sys.executable} -m zipfile -t data.zip >/dev/null")
    sh(mnt.path, f"{sys.executable} -m zipfile -e data.zip out && cmp data out/data")
    sh(mnt.path, "gzip data && gzip -t data.gz && gzip -d data.gz && cmp data out/data")
    sh(mnt.path, "cp --sparse=always data sparse && cp --sparse=never sparse full && cmp data full")
    sh(mnt.path, "cp --reflink=auto data copy && cmp copy data")
    sh(mnt.path, "dd if=/dev/zero of=data bs=1000 seek=3 count=2 conv=notrunc status=none")
    sh(mnt.path, "dd if=/dev/zero of=large bs=1M seek=20 count=1 status=none")
    sh(mnt.path, "printf xyz | dd of=large bs=1 seek=10485760 conv=notrunc status=none")
    assert bucket.get("data") == data[:3000] + bytes(2000) + data[5000:]
    large = bucket.get("large")
    assert (len(large), large[10 * MIB : 10 * MIB + 4]) == (21 * MIB, b"xyz\0")
    assert bucket.get("sparse") == bucket.get("full") == bucket.get("copy") == data
