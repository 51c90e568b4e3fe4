"""mount(8), umount(8) and findmnt(8) deal with a bucket as they do with any file system."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import faults
from support.mounts import (
    Mount,
    check_no_worker_is_left,
    clean_environment,
    entries_at,
    run,
    workers,
)
from support.process import ROOT, wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

ROADS = {
    "mount -t s3": "mount -t s3 SPEC DIR -o OPTIONS",
    "mount -t fuse.s3": "mount -t fuse.s3 SPEC DIR -o OPTIONS",
    "mount.s3": "mount.s3 SPEC DIR -o OPTIONS",
    "mount.s3, options first": "mount.s3 -n -o OPTIONS SPEC DIR",
    "mount.fuse.s3": "mount.fuse.s3 SPEC DIR -o OPTIONS -t fuse.s3",
    "fuse-s3 mount": "fuse-s3 mount SPEC DIR -o OPTIONS",
}


@pytest.mark.parametrize("road", ROADS)
def test_every_road_leads_to_the_same_mount(bucket: Bucket, road: str) -> None:
    bucket.put("there", b"since before")
    with Mount(bucket, command=ROADS[road]) as mnt:
        assert (mnt / "there").read_bytes() == b"since before"
        (mnt / "here").write_bytes(b"now")
        assert bucket.get("here") == b"now"
        (entry,) = entries_at(mnt.path)
        assert (entry.fstype, entry.source) == ("fuse.s3", bucket.name)


def test_mount_is_done_when_the_bucket_has_answered(bucket: Bucket, proxy: Proxy) -> None:
    """[S75] mount succeeds after the bucket has answered; otherwise it says why, and nothing is
    mounted.
    """
    mnt = Mount(bucket, store=bucket.store.at(proxy.endpoint))
    command = ("mount", "-t", "s3", "-o", mnt.options, bucket.name, mnt.path)
    environment = clean_environment(bucket.store)
    gate = faults.Gate()
    proxy.on("", gate.hold_before)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as mounting:
        wait_until(lambda: gate.waiting, "the question to the bucket")
        assert mounting.poll() is None
        assert not entries_at(mnt.path)
        gate.open()
        _, said = mounting.communicate(timeout=60)
        assert (mounting.returncode, said) == (0, "")
    mnt.watch()
    assert mnt.names() == []
    assert mnt.unmount().returncode == 0
    proxy.on("", faults.s3_error(403, "AccessDenied", "Not for you"), times=1000)
    refused = run(*command, environment=environment)
    assert refused.returncode == 32
    assert "Not for you" in refused.stderr
    assert not entries_at(mnt.path)
    mnt.allowed.append("refused reason=.*Not for you")
    assert not mnt.close()


@pytest.mark.parametrize("form", ["{}", "s3://{}", "s3://{}/p/", "{}:/p", "{}/p", "{}/p/"])
def test_the_source_is_shown_as_it_was_given(bucket: Bucket, form: str) -> None:
    bucket.put("p/below", b"1")
    bucket.put("beside", b"2")
    spec = form.format(bucket.name)
    with Mount(bucket, source=spec) as mnt:
        found = run("findmnt", "-n", "-t", "fuse.s3", "-o", "SOURCE,FSTYPE", mnt.path)
        assert found.stdout.split() == [spec, "fuse.s3"]
        names = ["below"] if "/p" in form else ["beside", "p"]
        assert mnt.names() == names
        listed = run("findmnt", "-n", "-t", "fuse.s3", "-o", "TARGET").stdout.split()
        assert str(mnt.path) in listed
        # The source finds the mount, too, as it does for other types.
        assert run("umount", spec).returncode == 0
        assert not entries_at(mnt.path)


def test_mount_all_is_done_once(bucket: Bucket, tmp_path: Path) -> None:
    """However often mount(8) goes through the table."""
    bucket.put("x", b"1")
    mnt = Mount(bucket)
    late = mnt.path.with_name("late")
    late.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"{bucket.name} {mnt.path} s3 _netdev,nofail,x-systemd.idle-timeout=1,{mnt.options} 0 0\n"
        f"{bucket.name} {late} s3 noauto,user,{mnt.options} 0 0\n"
    )

    def mount_all() -> None:
        done = run("mount", "-a", "-T", fstab, environment=clean_environment(bucket.store))
        assert (done.returncode, done.stderr) == (0, "")

    try:
        mount_all()
        mnt.watch()
        running = workers()
        mount_all()
        assert len(entries_at(mnt.path)) == 1
        assert workers() == running
        assert not entries_at(late)
        assert (mnt / "x").read_bytes() == b"1"
        # By its directory alone; mount(8) takes the rest from the table.
        done = run("mount", "-T", fstab, late, environment=clean_environment(bucket.store))
        assert done.returncode == 0, done.stderr
        assert (late / "x").read_bytes() == b"1"
        assert run("umount", late).returncode == 0
        wait_until(lambda: workers() == running, "the end of the second worker")
    finally:
        problems = mnt.close()
    assert not problems


def test_remount_read_only(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        path = mnt / "x"
        path.write_bytes(b"1")
        assert run("mount", "-o", "remount,ro", mnt.path).returncode == 0
        with pytest.raises(OSError, match="Read-only") as refused:
            path.write_bytes(b"2")
        assert refused.value.errno == errno.EROFS
        assert path.read_bytes() == b"1"
        # With the type and the source, as systemd does it.
        again = ("mount", "-t", "s3", bucket.name, mnt.path, "-o", "remount,rw,_netdev")
        assert run(*again).returncode == 0
        path.write_bytes(b"3")
        assert bucket.get("x") == b"3"
        assert len(entries_at(mnt.path)) == 1
        os.kill(mnt.pid, 0)


def test_remount_changes_the_flags_alone(bucket: Bucket) -> None:
    """[S80] remount changes ro, noexec, noatime and their like; it changes no option of the
    worker.
    """
    bucket.put("x", b"1")
    with Mount(bucket, "noatime", "metadata_ttl=600", "uid=12345") as mnt:
        assert (mnt / "x").stat().st_uid == 12345
        assert "noatime" in entries_at(mnt.path)[-1].options.split(",")
        words = "remount,ro,noexec,strictatime,metadata_ttl=0,uid=54321,file_mode=0600"
        assert run("mount", "-o", words, mnt.path).returncode == 0
        (entry,) = entries_at(mnt.path)
        flags = set(entry.options.split(","))
        assert {"ro", "noexec", "nosuid", "nodev"} <= flags
        assert "noatime" not in flags
        with Mount(bucket) as other:
            (other / "x").write_bytes(b"333")
        found = (mnt / "x").stat()
        assert (found.st_uid, found.st_mode & 0o777, found.st_size) == (12345, 0o644, 1)


def test_remount_of_something_else_is_refused() -> None:
    done = run("mount.s3", "/proc", "-o", "remount,ro")
    assert done.returncode == 32
    assert done.stderr == "mount.s3: /proc is on proc: remount needs a mounted bucket\n"
    assert "ro" not in entries_at("/proc")[-1].options.split(",")


# Everything that changes something, where `x` is a file and `d` an empty directory.
CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "y").write_bytes(b"2"),
    "open for writing": lambda root: (root / "x").open("r+b"),
    "empty": lambda root: (root / "x").write_bytes(b""),
    "truncate": lambda root: os.truncate(root / "x", 0),
    "unlink": lambda root: (root / "x").unlink(),
    "mkdir": lambda root: (root / "e").mkdir(),
    "rmdir": lambda root: (root / "d").rmdir(),
    "rename": lambda root: (root / "x").rename(root / "y"),
    "chmod": lambda root: (root / "x").chmod(0o600),
    "chown": lambda root: os.chown(root / "x", 1, 1),
    "utimens": lambda root: os.utime(root / "x", (1, 1)),
    "symlink": lambda root: (root / "y").symlink_to("x"),
    "link": lambda root: (root / "y").hardlink_to(root / "x"),
    "mkfifo": lambda root: os.mkfifo(root / "y"),
    "setxattr": lambda root: os.setxattr(root / "x", "user.a", b"1"),
}


@pytest.mark.parametrize("option", ["ro", "read-only"])
def test_read_only(bucket: Bucket, option: str) -> None:
    """[S78] A read-only mount gives EROFS for every change."""
    bucket.put_many([("x", b"1"), ("d/", b"")])
    with Mount(bucket, option) as mnt:
        assert (mnt / "x").read_bytes() == b"1"
        for name, change in CHANGES.items():
            with pytest.raises(OSError, match=r"\[Errno") as refused:
                change(mnt.path)
            assert refused.value.errno == errno.EROFS, name
        assert bucket.keys() == ["d/", "x"]
        assert bucket.get("x") == b"1"


def test_fake_mount_judges_the_options_and_touches_nothing(bucket: Bucket) -> None:
    before = workers()
    mnt = Mount(bucket, store=bucket.store.at("http://127.0.0.1:9"))
    words = ("mount", "-f", "-t", "s3", bucket.name, mnt.path, "-o")
    good = run(*words, mnt.options)
    bad = run(*words, mnt.options + ",part_size=1")
    assert (good.returncode, good.stderr) == (0, "")
    assert bad.returncode != 0
    assert "part_size" in bad.stderr
    assert not entries_at(mnt.path)
    check_no_worker_is_left(before)
    mnt.allowed.append("event refused|refused reason=.*part_size")
    assert not mnt.close()


def test_verbose_says_what_is_mounted_where(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        mnt.unmount()
        mnt.wait_for_worker()
        words = ("mount", "-v", "-t", "s3", bucket.name, mnt.path, "-o", mnt.options)
        done = run(*words, environment=clean_environment(bucket.store))
        mnt.watch()
        assert f"mount.s3: {bucket.name} is mounted on {mnt.path}" in done.stdout


def test_sloppy_tolerates_unknown_options_and_says_so(bucket: Bucket) -> None:
    command = "mount -s -t s3 SPEC DIR -o OPTIONS"
    with Mount(bucket, "no_such_thing=1", command=command) as mnt:
        (note,) = mnt.log.lines("option")
        assert "no_such_thing" in note.fields["note"]


def test_words_of_mount8_and_of_other_types_are_accepted(bucket: Bucket) -> None:
    words = (
        "defaults,auto,_netdev,nofail,user,users,group,owner,x-systemd.automount,X-mount.mkdir,"
        "comment=a,allow_other,nonempty,auto_unmount,default_permissions,exec,rw,async,loud"
    )
    with Mount(bucket, *words.split(",")) as mnt:
        (mnt / "x").write_bytes(b"1")


FLAGS = {
    "": {"rw", "nosuid", "nodev"},
    "suid,dev": {"rw", "nosuid", "nodev"},
    "noexec,noatime,nodiratime": {"noexec", "noatime", "nodiratime"},
    "noexec,exec": {"nosuid", "nodev"},
    "nosymfollow": {"nosymfollow"},
    "ro,noatime": {"ro", "noatime"},
    "user": {"nosuid", "nodev", "noexec"},
    "user,exec": {"nosuid", "nodev"},
}


@pytest.mark.parametrize("options", FLAGS)
def test_kernel_flags(bucket: Bucket, options: str) -> None:
    """[S79] nosuid and nodev are always on."""
    with Mount(bucket, *filter(None, options.split(","))) as mnt:
        shown = set(entries_at(mnt.path)[-1].options.split(","))
        assert {"nosuid", "nodev"} <= shown
        assert FLAGS[options] <= shown
        if options.endswith("exec") and not options.endswith("noexec"):
            assert "noexec" not in shown


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_old_mount_call_where_fsopen_is_refused(bucket: Bucket, number: int) -> None:
    bucket.put("x", b"1")
    wrapper = f"{sys.executable} {ROOT}/tests/support/seccomp.py fsopen {number}"
    with Mount(bucket, "noatime", command=f"{wrapper} mount.s3 SPEC DIR -o OPTIONS") as mnt:
        (entry,) = entries_at(mnt.path)
        assert (entry.fstype, entry.source) == ("fuse.s3", bucket.name)
        assert {"nosuid", "nodev", "noatime"} <= set(entry.options.split(","))
        assert (mnt / "x").read_bytes() == b"1"
        (mnt / "y").write_bytes(b"2")
        assert bucket.get("y") == b"2"


def test_mount_in_another_namespace(bucket: Bucket) -> None:
    before = workers()
    mnt = Mount(bucket)
    # Private: what is mounted there does not come back here.
    command = ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as other:
        try:
            there = Path(f"/proc/{other.pid}")
            here = os.readlink("/proc/self/ns/mnt")  # noqa: PTH115
            wait_until(lambda: os.readlink(there / "ns/mnt") != here, "unshare")  # noqa: PTH115
            words = ("mount", "-N", str(other.pid), "-t", "s3", bucket.name, mnt.path)
            done = run(*words, "-o", mnt.options, environment=clean_environment(bucket.store))
            assert done.returncode == 0, done.stderr
            assert not entries_at(mnt.path)
            assert f" {mnt.path} " in (there / "mountinfo").read_text()
            (there / f"root{mnt.path}/x").write_bytes(b"from here")
            assert bucket.get("x") == b"from here"
            mnt.log.wait_for("mounted")
        finally:
            other.kill()
    # The namespace went with its last process, the mount with it, and the worker with that.
    wait_until(lambda: workers() == before, "the worker's end")
    assert mnt.log.lines("unmounted")
    assert not mnt.close()


def test_log_file_is_appended_to(bucket: Bucket) -> None:
    with Mount(bucket, "log_level=debug") as mnt:
        assert mnt.log.path.stat().st_mode & 0o777 == 0o640
        assert mnt.unmount().returncode == 0
        mnt.wait_for_worker()
        mnt.mount()
        (mnt / "x").write_bytes(b"1")
        assert len(mnt.log.lines("mounted")) == 2
        (first, _) = mnt.log.lines("mounted")
        assert first.fields == {"spec": bucket.name, "directory": str(mnt.path)}
        assert mnt.log.lines("unmounted")


def test_help_and_version_need_no_bucket() -> None:
    for switch in ("-h", "--help"):
        done = run("mount.s3", switch)
        assert done.returncode == 0
        assert "usage: mount.s3" in done.stdout
        assert "part_size" in done.stdout
    done = run("mount.s3", "-V")
    assert done.stdout.startswith("mount.s3 ")
