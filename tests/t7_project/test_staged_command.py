"""`fuse-s3 staged` without a mount: where it looks, who looks, what a worker is asked to do."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuse_s3_cli import caches, staged
from fuse_s3_cli.caches import CommandError, Staged
from fuse_s3_shared.handoff import Mount
from fuse_s3_shared.mountopts import split_options
from fuse_s3_worker import errand
from fuse_s3_worker.conversation import Order
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import Description
from fuse_s3_worker.transfer.stagedir import Place, StageDirectory
from support.process import ROOT

PLACE = Place("http://127.0.0.1:1", "bucket", "")
ABOUT = {"spec": "bucket/p", "options": "cache=/c,region=x", "files": "passwd_file=/p", "more": "?"}
BASE = ObjectInfo("key", 10_000, 5, '"e"')

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def one(**fields: object) -> Staged:
    """A staged file, with these fields."""
    plain: dict[str, Any] = {
        "cache": "/c", "id": "0123456789abcdef-01234567", "state": "committing", "in_use": False,
        "key": "k", "problem": "", "path": "/c/bucket-1/x.data", "size": 2048, "written": 1,
        "missing": 0, "mtime": 0, "spec": "bucket", "options": "", "files": "", "endpoint": "",
    }  # fmt: skip
    plain.update(fields)
    return Staged(**plain)


@pytest.fixture
def cache(public: Path) -> Path:
    """A cache directory of somebody who is not root, with one staged file."""
    path = public / "cache"
    path.mkdir(mode=0o700)
    directory = StageDirectory.open(str(path), PLACE, ABOUT)
    known = Description.of("key", BASE)
    entry = directory.create(known)
    os.pwrite(entry.fd, b"changed", 5000)
    entry.add(("w", 5000, 5007, 1_700_000_000_000_000_000))
    entry.add(("p", [Extent(6000, 7000)], 1_700_000_000_000_000_000))
    entry.close()
    directory.close()
    nobody = pwd.getpwnam("nobody")
    for found in [path, *path.rglob("*")]:
        os.chown(found, nobody.pw_uid, nobody.pw_gid)
    return path


# -- where it looks --------------------------------------------------------------------------------


def test_directories_are_found_in_fstab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["plain", "with,comma", "other type", "commented"]
    for name in names:
        (tmp_path / name).mkdir()
    escaped = str(tmp_path / "with,comma").replace(",", "\\,")
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"bucket /mnt s3 rw,cache={tmp_path}/plain,_netdev 0 0\n"
        f"b2 /m2 fuse.s3 cache={escaped}\n"
        f"# b3 /m3 s3 cache={tmp_path}/commented\n"
        f"b4 /m4 ext4 cache={tmp_path}/commented\n"
        f"b5 /m5 s3 cache={tmp_path}/none\n"
        'b6 /m6 s3 broken="\nshort line\n\n'
    )
    monkeypatch.setattr(caches, "_FSTAB", fstab)
    monkeypatch.setattr(caches, "_USUAL", str(tmp_path / "usual"))
    found = [path for path in caches.known_caches() if path.startswith(str(tmp_path))]
    assert found == [f"{tmp_path}/plain", f"{tmp_path}/with,comma"]
    monkeypatch.setattr(caches, "_FSTAB", tmp_path / "none")
    (tmp_path / "usual").mkdir()
    assert str(tmp_path / "usual") in caches.known_caches()


# -- who looks -------------------------------------------------------------------------------------


@as_root
def test_it_is_looked_into_with_the_owners_rights(cache: Path) -> None:
    (found,) = caches.staged_in(str(cache))
    assert (found.key, found.state, found.in_use, found.problem) == ("key", "open", False, "")
    assert (found.size, found.written, found.missing) == (10_000, 7, 8_993)
    assert (found.spec, found.options, found.files) == tuple(
        ABOUT[name] for name in ("spec", "options", "files")
    )
    # What its owner cannot read, this cannot either.
    for path in cache.glob("*/*.map"):
        os.chown(path, 0, 0)
    (found,) = caches.staged_in(str(cache))
    assert (found.state, "Permission denied" in found.problem) == ("damaged", True)


@as_root
def test_what_is_not_a_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="belongs to root"):
        caches.staged_in(str(tmp_path))
    with pytest.raises(CommandError, match="No such file"):
        caches.staged_in(str(tmp_path / "none"))
    (tmp_path / "link").symlink_to("/tmp")  # whoever made it may lead root astray
    with pytest.raises(CommandError, match="belongs to root"):
        caches.staged_in(str(tmp_path / "link"))


@as_root
def test_a_copy_has_zeros_where_it_may(cache: Path, tmp_path: Path) -> None:
    (found,) = caches.staged_in(str(cache))
    path = tmp_path / "copy"
    with path.open("wb") as file, pytest.raises(CommandError, match="8993 of its 10000 bytes"):
        caches.do_there(str(cache), "save", found.id, output=file)
    with path.open("wb") as file:
        caches.do_there(str(cache), "save", found.id, "--partial", output=file)
    assert path.read_bytes() == bytes(5000) + b"changed" + bytes(4993)


@as_root
def test_what_is_discarded_is_gone(cache: Path) -> None:
    (found,) = caches.staged_in(str(cache))
    with pytest.raises(CommandError, match="has no staged file aa"):
        caches.do_there(str(cache), "discard", "aa", found.id)
    assert caches.staged_in(str(cache)) == []


def test_a_hostile_journal_is_text_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [one(key="\x1b[2Jgone\n", state="conflict"), one(id="b", in_use=True, size=3 << 20)]
    monkeypatch.setattr(staged, "staged_in", lambda _: left)
    assert staged.run(["--cache", "/c"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    first, second, third = shown.splitlines()
    assert first.split() == ["id", "state", "size", "written", "changed", "bucket", "key"]
    assert "conflict" in second
    assert "\\x1b[2Jgone\\n" in second
    assert ("in use" in third, "3.0 MiB" in third) == (True, True)
    assert staged.run(["--cache", "/c", "--json", "list", "b"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "waiting"


# -- what a worker is asked to do ------------------------------------------------------------------


def test_options_lead_to_the_same_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_worker_user", lambda _: [])
    found = one(
        cache="/new, place", options="url=http://old,cache=/old", files='passwd_file="/a,b"',
        endpoint="http://127.0.0.1:9",
    )  # fmt: skip
    options = split_options(caches._options(found, "upload:aa:bb"))
    assert [option.name for option in options[:3]] == ["url", "cache", "passwd_file"]
    last = dict(options)
    assert (last["cache"], last["endpoint_url"]) == ("/new, place", "http://127.0.0.1:9")
    assert (last["passwd_file"], last["errand"]) == ("/a,b", "upload:aa:bb")
    assert last["foreground"] is None


@as_root
def test_the_worker_runs_as_the_owner(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_SERVICE_USERS", ("nobody",))
    assert caches._worker_user(str(cache)) == []
    monkeypatch.setattr(caches, "_SERVICE_USERS", ("no such user", "daemon", "nobody"))
    assert caches._worker_user(str(cache)) == [("worker_user", "nobody")]
    os.chown(cache, 54321, 54321)
    with pytest.raises(CommandError, match="without a name"):
        caches._worker_user(str(cache))


def test_what_nothing_is_known_of_cannot_be_reached() -> None:
    with pytest.raises(CommandError, match=r"mount it with cache=/c|only root|make install"):
        caches.run_errand("upload", [one(spec="")])


def order(options: str, *, dry_run: bool = True) -> Order:
    mount = Mount(1, "bucket", options, 0, 0, False, False, dry_run, True)
    return Order(mount, {})


def test_an_errand_is_taken_out_of_the_options() -> None:
    task, rest = errand.taken(order("region=x,errand=replace:a:b,cache=/c"))
    assert task == errand.Errand("replace", ("a", "b"))
    assert (rest.mount.options, rest.mount.dry_run) == ("region=x,cache=/c", False)


@pytest.mark.parametrize(
    ("options", "dry_run"),
    [
        ("errand=upload:a", False),
        ("errand=dance:a", True),
        ("errand", True),
        ("", True),
        ('"', True),
    ],
)
def test_what_is_no_errand_is_left_alone(options: str, *, dry_run: bool) -> None:
    given = order(options, dry_run=dry_run)
    assert errand.taken(given) == (None, given)


# -- asking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("Yes ", 0), ("", 1), ("n", 1)])
def test_nothing_is_discarded_without_a_yes(
    monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    done: list[str] = []

    def do_there(_cache: str, action: str, *words: str) -> str:
        done.extend((action, *words))
        return ""

    monkeypatch.setattr(staged, "staged_in", lambda _: [one(id="a"), one(id="b", key="other")])
    monkeypatch.setattr(staged, "do_there", do_there)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert staged.run(["--cache", "/c", "discard", "a"]) == status
    assert done == ([] if status else ["discard", "a"])


def _two_of_one_name() -> list[str]:
    return ["save", "k", "/nowhere"]


def _a_file_that_is_there() -> list[str]:
    return ["save", "a", "/etc/hostname"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (_two_of_one_name, "more than one"),
        (_a_file_that_is_there, "path of a new file"),
        (lambda: ["discard", "a"], "say --yes"),
        (lambda: ["upload", "zz"], "nothing is left of 'zz'"),
    ],
)
def test_what_is_not_clear_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Callable[[], list[str]],
    said: str,
) -> None:
    monkeypatch.setattr(staged, "staged_in", lambda _: [one(id="a"), one(id="b")])
    assert staged.run(["--cache", "/c", *words()]) == 1
    assert said in capsys.readouterr().err


def test_the_verb_is_there() -> None:
    command = [sys.executable, "-m", "fuse_s3_cli.main", "staged", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "--replace" in done.stdout
