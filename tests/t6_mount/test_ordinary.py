"""Mounts that ordinary users make for themselves: fusermount3 in place of root."""

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import Mount, MountFailedError, clean_environment, entries_at, run
from support.s3 import Bucket
from support.users import NOBODY, SOMEBODY, run_as

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

_DEVICE = Path("/dev/fuse")
AS_NOBODY = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
BY_HAND = f"{AS_NOBODY} mount.s3 SPEC DIR -o OPTIONS"
needs_fusermount = pytest.mark.skipif(
    not Path("/usr/bin/fusermount3").exists(), reason="fusermount3 (fuse3) is not installed"
)


class OwnMount(Mount):
    """A mount on a directory of the user's, with a log of the user's."""

    def mount(self) -> None:
        """Mount it."""
        for path in (self.path, self.path.parent):
            os.chown(path, NOBODY, NOBODY)
        super().mount()


@pytest.fixture
def device(public: Path) -> Iterator[None]:
    """A /dev/fuse that everybody may open, as udev makes it; fusermount3 opens it as its user."""
    if _DEVICE.stat().st_mode & 0o006 == 0o006:
        yield
        return
    node = public / "fuse"
    with contextlib.ExitStack() as undo:
        assert run("mount", "-t", "tmpfs", "-o", "dev", "tmpfs", public).returncode == 0
        undo.callback(run, "umount", public)
        os.mknod(node, stat.S_IFCHR, _DEVICE.stat().st_rdev)
        node.chmod(0o666)
        assert run("mount", "--bind", node, _DEVICE).returncode == 0
        undo.callback(run, "umount", _DEVICE)
        yield


@pytest.fixture
def own(bucket: Bucket, device: None) -> Iterator[Mount]:
    """A bucket that an ordinary user has mounted."""
    bucket.put("x", b"1")
    with OwnMount(bucket, command=BY_HAND) as mnt:
        yield mnt


@needs_fusermount
def test_an_ordinary_user(bucket: Bucket, own: Mount) -> None:
    """[S86] An ordinary user mounts with fusermount3: the worker is theirs, and nobody else is let
    in.
    """
    (entry,) = entries_at(own.path)
    assert (entry.fstype, entry.source) == ("fuse.s3", bucket.name)
    assert {"nosuid", "nodev"} <= set(entry.options.split(","))
    status = Path(f"/proc/{own.pid}/status").read_text()
    assert f"\nUid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert run_as(NOBODY, "cat", own / "x").stdout == "1"
    assert run_as(NOBODY, "cp", own / "x", own / "y").stderr == ""
    assert bucket.get("y") == b"1"
    assert "Permission denied" in run_as(SOMEBODY, "cat", own / "x").stderr
    with pytest.raises(PermissionError):
        (own / "x").read_bytes()  # not even root
    done = run_as(NOBODY, "fusermount3", "-u", own.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert own.wait_for_worker()


@needs_fusermount
def test_their_worker_is_replaced_as_well(own: Mount) -> None:
    run_as(NOBODY, "kill", "-9", str(own.pid))
    own.worker_after(own.pid)
    assert run_as(NOBODY, "cat", own / "x").stdout == "1"


@needs_fusermount
def test_a_line_of_fstab_with_user(bucket: Bucket, device: None) -> None:
    """mount(8) gives up its privileges for it, and runs the helper as the user."""
    fstab = Path("/etc/fstab")
    before = fstab.read_text() if fstab.exists() else None
    mnt = OwnMount(bucket, command=f"{AS_NOBODY} mount DIR")
    line = f"{bucket.name} {mnt.path} s3 noauto,user,{mnt.options} 0 0\n"
    try:
        fstab.write_text((before or "") + line)
        bucket.put("x", b"1")
        with mnt:
            assert run_as(NOBODY, "cat", mnt / "x").stdout == "1"
            assert f"\nUid:\t{NOBODY}\t" in Path(f"/proc/{mnt.pid}/status").read_text()
            assert "noexec" in entries_at(mnt.path)[-1].options.split(",")
    finally:
        if before is None:
            fstab.unlink()
        else:
            fstab.write_text(before)


@needs_fusermount
def test_what_fusermount3_refuses(bucket: Bucket, device: None) -> None:
    """A directory of somebody else's, with its reason and ours in two lines."""
    mnt = Mount(bucket, command=BY_HAND)
    os.chown(mnt.path.parent, NOBODY, NOBODY)
    with pytest.raises(MountFailedError) as refused:
        mnt.mount()
    first, last = refused.value.text.splitlines()
    assert first.startswith("/usr/bin/fusermount3: user has no write access to mountpoint")
    assert last.startswith("mount.s3: fusermount3 refuses the mount")
    assert refused.value.status == 32
    assert not mnt.close()


def test_nobody_elses_worker(bucket: Bucket) -> None:
    account = pwd.getpwnam("fuse-s3").pw_name
    mnt = OwnMount(bucket, f"worker_user={account}", command=BY_HAND)
    with pytest.raises(MountFailedError, match="only root can start it as somebody else"):
        mnt.mount()
    assert not mnt.close()


def test_without_fusermount3(bucket: Bucket) -> None:
    """In a view of the machine where it is hidden."""
    hide = "for f in /usr/bin/fusermount3 /usr/local/bin/fusermount3; do "
    hide += 'if [ -e "$f" ]; then mount --bind /dev/null "$f"; fi; done'
    script = f"{hide}; exec {AS_NOBODY} mount.s3 {bucket.name} /mnt"
    done = run("unshare", "--mount", "sh", "-c", script, environment=clean_environment())
    assert done.stderr == (
        "mount.s3: only root can mount, and others only where fusermount3 is: install fuse3\n"
    )
    assert done.returncode == 1
