"""Who may do what: owner, group and modes come from options, and the kernel holds to them."""

import os
from collections.abc import Callable

import pytest

from support.mounts import Mount
from support.s3 import Bucket
from support.users import NOBODY, SOMEBODY, run_as

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]


def _reads(mnt: Mount, user: int, group: int) -> bool:
    return run_as(user, "cat", mnt / "d/x", group=group).returncode == 0


def _lists(mnt: Mount, user: int, group: int) -> bool:
    return run_as(user, "ls", mnt / "d", group=group).returncode == 0


def _overwrites(mnt: Mount, user: int, group: int) -> bool:
    return run_as(user, "tee", mnt / "d/x", group=group).returncode == 0


def _creates(mnt: Mount, user: int, group: int) -> bool:
    return run_as(user, "touch", mnt / f"d/new{user}.{group}", group=group).returncode == 0


DEEDS: dict[str, Callable[[Mount, int, int], bool]] = {
    "read": _reads,
    "list": _lists,
    "overwrite": _overwrites,
    "create": _creates,
}

NOTHING: set[str] = set()
LOOK = {"read", "list"}
ALL = set(DEEDS)

# Options; then what somebody may do as nobody in particular, as owner, and in the group.
RIGHTS = {
    "": (LOOK, LOOK, LOOK),
    "uid=12345,gid=12345": (LOOK, ALL, LOOK),
    "uid=12345,gid=777,umask=0077": (NOTHING, ALL, NOTHING),
    "uid=1,gid=777,umask=0007": (NOTHING, NOTHING, ALL),
    "umask=0": (ALL, ALL, ALL),
    "file_mode=0600": ({"list"}, {"list"}, {"list"}),
    "file_mode=0666": ({"read", "list", "overwrite"},) * 3,
    "dir_mode=0711": ({"read"}, {"read"}, {"read"}),
    "dir_mode=0700": (NOTHING, NOTHING, NOTHING),
    "gid=777,file_mode=0640,dir_mode=0750": (NOTHING, NOTHING, LOOK),
}


@pytest.mark.parametrize("options", RIGHTS)
def test_options_decide_who_may_do_what(bucket: Bucket, options: str) -> None:
    """[S11] The kernel checks permissions against the owner and mode that it is shown."""
    bucket.put("d/x", b"1")
    who = ((NOBODY, NOBODY), (SOMEBODY, SOMEBODY), (NOBODY, 777))
    with Mount(bucket, *filter(None, options.split(","))) as mnt:
        # Overwriting comes last: tee empties the file before anybody else reads it.
        for (user, group), expected in zip(who, RIGHTS[options], strict=True):
            allowed = {name for name, deed in DEEDS.items() if deed(mnt, user, group)}
            assert allowed == expected, (user, group)


def test_attributes_of_options(bucket: Bucket) -> None:
    bucket.put("d/x", b"123")
    options = ("uid=nobody", "gid=777", "file_mode=0604", "dir_mode=0715")
    with Mount(bucket, *options) as mnt:
        found, directory = (mnt / "d/x").stat(), (mnt / "d").stat()
        assert (found.st_uid, found.st_gid, found.st_size) == (NOBODY, 777, 3)
        assert oct(found.st_mode) == oct(0o100604)
        assert oct(directory.st_mode) == oct(0o040715)
        assert (directory.st_uid, directory.st_gid) == (NOBODY, 777)
        assert int(found.st_mtime) == int(bucket.head("d/x")["LastModified"].timestamp())
        # What s3fs users expect: these succeed, and are not kept.
        (mnt / "d/x").chmod(0o600)
        os.utime(mnt / "d/x", (1, 2))
        os.chown(mnt / "d/x", 1, 1)


def test_defaults_belong_to_root(bucket: Bucket) -> None:
    bucket.put("d/x", b"1")
    with Mount(bucket) as mnt:
        found, directory = (mnt / "d/x").stat(), (mnt / "d").stat()
        assert (oct(found.st_mode), found.st_uid, found.st_gid) == (oct(0o100644), 0, 0)
        assert (oct(directory.st_mode), directory.st_uid) == (oct(0o040755), 0)


# [S12] With `owner_only`, only the owner of the files is let in; root is not, unless it is the
# owner.
@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_owner_only(bucket: Bucket, owner: int) -> None:
    bucket.put("x", b"1")
    with Mount(bucket, "owner_only", "umask=0", f"uid={owner}", f"gid={owner}") as mnt:
        for user in (0, SOMEBODY, NOBODY):
            done = run_as(user, "cat", mnt / "x")
            looked = run_as(user, "stat", mnt.path)  # not even a look from outside
            if user == owner:
                assert (done.stdout, done.stderr, looked.returncode) == ("1", "", 0)
            else:
                assert "Permission denied" in done.stderr
                assert "Permission denied" in looked.stderr


def test_files_of_an_ordinary_owner(bucket: Bucket) -> None:
    owner = (f"uid={SOMEBODY}", f"gid={SOMEBODY}")
    with Mount(bucket, *owner) as mnt:
        done = run_as(SOMEBODY, "sh", "-c", f"cd {mnt.path} && mkdir d && echo 1 >d/x && cat d/x")
        assert (done.stdout, done.stderr) == ("1\n", "")
        assert bucket.get("d/x") == b"1\n"
        assert run_as(NOBODY, "rm", "-f", mnt / "d/x").returncode != 0
        assert run_as(SOMEBODY, "rm", "-r", mnt / "d").returncode == 0
        assert bucket.keys() == []
