"""Programs that everybody uses do with a bucket what they do with a disk."""

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import Mount, run
from support.s3 import Bucket
from support.trees import copy_part, digest_of, listing_of

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

PART = 600  # files; moto takes its time over each


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the standard library."""
    target = tmp_path_factory.mktemp("part")
    assert copy_part(target, PART) == PART
    return target


@pytest.fixture
def tree(bucket: Bucket, part: Path) -> Iterator[tuple[Mount, Path]]:
    """A mount that has the part in `lib/`, put there by somebody else, and the part."""
    assert bucket.put_tree(part, "lib/") == PART
    with Mount(bucket) as mnt:
        yield mnt, part


def succeed(*command: object) -> str:
    """Run a program that must succeed and have nothing to complain of; return what it printed."""
    done = run(*map(str, command))
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def test_cp_and_diff(bucket: Bucket, part: Path) -> None:
    whole = bucket.store.name != "moto"
    source = part.with_name("whole") if whole else part
    if whole:
        assert copy_part(source) > PART
    with Mount(bucket) as mnt:
        succeed("cp", "-r", source, mnt / "lib")
        succeed("diff", "-r", source, mnt / "lib")
    # And for everybody else: a mount that has seen nothing of it, and the bucket itself.
    expected = listing_of(source)
    with Mount(bucket) as fresh:
        succeed("diff", "-r", source, fresh / "lib")
        assert listing_of(fresh / "lib") == expected
    files = sorted(f"lib/{name}" for name, size in expected.items() if size >= 0)
    stored = bucket.keys()
    assert sorted(key for key in stored if not key.endswith("/")) == files


def test_cp_keeping_attributes_is_silent(tree: tuple[Mount, Path]) -> None:
    mnt, part = tree
    succeed("cp", "-a", part / "json", mnt / "json")
    succeed("diff", "-r", part / "json", mnt / "json")


def test_read_what_somebody_else_put_there(tree: tuple[Mount, Path]) -> None:
    mnt, part = tree
    succeed("diff", "-r", part, mnt / "lib")
    assert listing_of(mnt / "lib") == listing_of(part)


@pytest.mark.one_store
def test_tar(tree: tuple[Mount, Path], tmp_path: Path) -> None:
    mnt, part = tree
    archive = tmp_path / "part.tar"
    succeed("tar", "cf", archive, "-C", part, ".")
    (mnt / "out").mkdir()
    succeed("tar", "xf", archive, "-C", mnt / "out")
    succeed("diff", "-r", part, mnt / "out")
    # And an archive on the mount, of files on the mount.
    succeed("tar", "czf", mnt / "back.tar.gz", "-C", mnt / "lib", ".")
    back = tmp_path / "back"
    back.mkdir()
    succeed("tar", "xf", mnt / "back.tar.gz", "-C", back)
    succeed("diff", "-r", part, back)


@pytest.mark.one_store
def test_rsync(tree: tuple[Mount, Path], tmp_path: Path) -> None:
    mnt, part = tree
    succeed("rsync", "-a", "--inplace", f"{part}/", mnt / "in")
    succeed("diff", "-r", part, mnt / "in")
    # By its own choice it makes a file of another name, which cannot be renamed, so it copies.
    succeed("rsync", "-a", f"{part}/json/", mnt / "json")
    succeed("diff", "-r", part / "json", mnt / "json")
    succeed("rsync", "-a", f"{mnt.path}/lib/", tmp_path / "out")
    succeed("diff", "-r", part, tmp_path / "out")
    # What was deleted at the source goes, and nothing else; times are not kept, so sizes count.
    stale = tmp_path / "out/json/decoder.py"
    stale.unlink()
    listed = ("rsync", "-ain", "--size-only", "--delete", f"{tmp_path}/out/", mnt / "lib")
    changes = [line for line in succeed(*listed).splitlines() if line.startswith(("*", "<", ">"))]
    assert changes == ["*deleting   json/decoder.py"]


def test_grep_and_find(tree: tuple[Mount, Path]) -> None:
    mnt, part = tree
    for command in (
        ("grep", "-rl", "import os", "."),
        ("find", ".", "-type", "f", "-size", "+20k"),
        ("find", ".", "-type", "d", "-name", "j*"),
        ("du", "-ab", "--exclude=.", "json/decoder.py"),
    ):
        there, here = (
            sorted(
                subprocess.run(
                    command, cwd=where, check=True, capture_output=True, text=True
                ).stdout.splitlines()
            )
            for where in (part, mnt / "lib")
        )
        assert there == here
        assert there


@pytest.mark.one_store
def test_checksums_of_two_thousand_files(bucket: Bucket, tmp_path: Path) -> None:
    contents = {f"d{n % 7}/file-{n:04}": f"content {n}\n".encode() * (n % 50) for n in range(2000)}
    bucket.put_many(contents.items())
    local = tmp_path / "local"
    for name, content in contents.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    sums = succeed("sh", "-c", f"cd {local} && find . -type f | sort | xargs md5sum")
    (tmp_path / "sums").write_text(sums)
    with Mount(bucket) as mnt:
        checked = succeed(
            "sh", "-c", f"cd {mnt.path} && md5sum -c --quiet {tmp_path}/sums; echo $?"
        )
        assert checked == "0\n"
    assert sums.count("\n") == len(contents)


def test_git(bucket: Bucket, tmp_path: Path) -> None:
    work, clone = tmp_path / "work", tmp_path / "clone"
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    git = ("git", "-c", "safe.directory=*", "-c", "init.defaultBranch=main")
    succeed(*git, "init", "-q", work)
    for number in range(30):
        (work / f"file{number}").write_text(f"{number}\n" * number)
    succeed(*git, "-C", work, "add", ".")
    succeed(*git, "-C", work, *identity, "commit", "-q", "-m", "first")
    succeed(*git, "-C", work, "repack", "-adq")
    succeed("cp", "-r", work / ".git", tmp_path / "bare.git")
    with Mount(bucket) as mnt:
        succeed("cp", "-r", tmp_path / "bare.git", mnt / "repository.git")
        succeed(*git, "clone", "-q", mnt / "repository.git", clone)
        succeed(*git, "-C", clone, "fsck", "--strict", "--no-progress")
        assert succeed(*git, "-C", mnt / "repository.git", "log", "--format=%s") == "first\n"
        succeed("diff", "-r", "--exclude=.git", work, clone)


def test_mapped_reads(bucket: Bucket) -> None:
    content = os.urandom(3 << 20)
    bucket.put("x", content)
    with (
        Mount(bucket) as mnt,
        (mnt / "x").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        assert view[-5:] == content[-5:]
        assert view[1_234_567:1_300_000] == content[1_234_567:1_300_000]
        assert view[:] == content


def test_python_runs_from_it(bucket: Bucket) -> None:
    bucket.put("app/package/__init__.py", b"VALUE = 42\n")
    bucket.put("app/__main__.py", b"import package; print(package.VALUE)\n")
    with Mount(bucket) as mnt:
        assert succeed("python3", mnt / "app") == "42\n"
        assert succeed("python3", mnt / "app") == "42\n"
        # It puts byte code in its place by a rename.
        (compiled,) = mnt.names("app/package/__pycache__")
        assert compiled.endswith(".pyc")


def test_sqlite_reads(bucket: Bucket, tmp_path: Path) -> None:
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], uri=True)\n"
        "print(c.execute('select sum(n), count(*) from t').fetchone())\n"
    )
    make = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('create table t (n integer, s text)')\n"
        "c.executemany('insert into t values (?, ?)', ((n, 'x' * 100) for n in range(20000)))\n"
        "c.commit()\n"
    )
    succeed("python3", "-c", make, tmp_path / "db")
    with Mount(bucket) as mnt:
        succeed("cp", tmp_path / "db", mnt / "db")
        printed = succeed("python3", "-c", script, f"file:{mnt.path}/db?immutable=1")
        assert printed == "(199990000, 20000)\n"
        assert digest_of(mnt / "db") == digest_of(tmp_path / "db")


def test_remove_a_tree(tree: tuple[Mount, Path], bucket: Bucket) -> None:
    mnt, _ = tree
    succeed("rm", "-r", mnt / "lib")
    assert mnt.names() == []
    assert bucket.keys() == []
