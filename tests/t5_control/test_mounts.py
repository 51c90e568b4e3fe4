"""Finding mounts and their workers by the kernel's table, without a look at any of them."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_cli import mounts as module
from fuse_s3_cli.mounts import Mounted, NoMountError, Worker, find, mounts, worker_of, workers
from fuse_s3_control.places import ABOUT, CONTROL, RUNTIME, About
from support.controlled import runtime

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:60 / /mnt/a rw,nosuid,nodev - fuse.s3 bucket rw,user_id=0,group_id=0,default_permissions
41 22 0:61 / /mnt/with\040space\011tab ro,nosuid,nodev shared:7 - fuse.s3 s3://b/p ro,user_id=0,group_id=0
42 22 0:62 / /mnt/other rw - fuse.sshfs host: rw,user_id=0,group_id=0
43 40 0:63 / /mnt/a rw,nosuid,nodev - fuse.s3 upper rw,user_id=1000,group_id=0,allow_other
44 22 0:64 / /mnt/\134back rw shared:1 master:2 propagate_from:3 - fuse.s3 back\134slash rw,user_id=5
"""  # noqa: E501  lines of the kernel's


def about(directory: str, spec: str = "bucket", device: int = 0, since: float = 1.0) -> About:
    return About(spec=spec, directory=directory, device=device, pid=1, since=since)


def worker(what: About, home: str = str(RUNTIME), user: int = 999) -> Worker:
    return Worker(what, Path(home) / "1-x", user)


def test_the_table_is_read_as_the_kernel_writes_it() -> None:
    assert [*mounts(TABLE)] == [
        Mounted(60, "/mnt/a", "bucket", False, 0),
        Mounted(61, "/mnt/with space\ttab", "s3://b/p", True, 0),
        Mounted(63, "/mnt/a", "upper", False, 1000),
        Mounted(64, "/mnt/\\back", "back\\slash", False, 5),
    ]


def test_a_worker_is_known_by_the_device_of_its_mount() -> None:
    lower, _, upper, _ = mounts(TABLE)
    there = [
        worker(about("/somewhere", device=60)),
        worker(about("/mnt/a", device=63)),
        worker(about("/mnt/a", "bucket", device=99)),
    ]
    assert worker_of(lower, there) is there[0]
    assert worker_of(upper, there) is there[1]


def test_where_the_kernel_told_no_device_the_place_has_to_do() -> None:
    lower, _, upper, _ = mounts(TABLE)
    there = [worker(about("/mnt/a", "bucket")), worker(about("/mnt/a", "other"))]
    assert worker_of(lower, there) is there[0]
    assert worker_of(upper, there) is None


def test_the_youngest_counts() -> None:
    (lower, *_) = mounts(TABLE)
    there = [worker(about("/m", device=60, since=since)) for since in (3.0, 9.0, 5.0)]
    assert worker_of(lower, there) is there[1]


def test_what_lies_in_somebodys_own_directory_counts_for_own_mounts_alone() -> None:
    lower, _, upper, _ = mounts(TABLE)
    theirs = [
        worker(about("/m", device=device), "/run/user/1000/fuse-s3", 1000) for device in (60, 63)
    ]
    assert worker_of(lower, theirs) is None
    assert worker_of(upper, theirs) is theirs[1]


@pytest.fixture
def home() -> Iterator[Path]:
    with runtime() as path:
        yield path


def listening(home: Path, name: str, what: About) -> tuple[Path, socket.socket]:
    path = home / name
    path.mkdir()
    (path / ABOUT).write_text(what.model_dump_json())
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path / CONTROL))
    sock.listen(5)
    return path, sock


def test_the_dead_are_not_counted(home: Path) -> None:
    living, sock = listening(home, "1", about("/a"))
    dead, gone = listening(home, "2", about("/b"))
    gone.close()
    (home / "3").mkdir()
    found = [*workers((path, 999) for path in (living, dead, home / "3"))]
    assert [(one.about.directory, one.path) for one in found] == [("/a", living)]
    sock.close()


def test_a_mount_is_found_by_its_directory_however_it_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = home / "mnt"
    directory.mkdir()
    (home / "link").symlink_to(directory)
    table = home / "mountinfo"
    table.write_text(
        f"40 22 0:60 / {directory} rw - fuse.s3 bucket rw,user_id={os.geteuid()},group_id=0\n"
    )
    monkeypatch.setattr(module, "MOUNTINFO", table)
    path, sock = listening(home, "1", about("/elsewhere", device=60, since=time.time()))
    monkeypatch.setattr(module, "found", lambda: [(path, os.geteuid())])
    monkeypatch.chdir(home)
    for name in (str(directory), f"{directory}/", "mnt", "./mnt/../mnt", "link"):
        mounted, one = find(name)
        assert mounted.directory == str(directory)
        assert one.path == path
    with pytest.raises(NoMountError, match="no mounted bucket"):
        find("elsewhere")
    sock.close()
    with pytest.raises(NoMountError, match="no worker answers"):
        find("mnt")
