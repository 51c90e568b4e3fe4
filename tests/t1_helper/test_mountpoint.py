"""The mount point: pinned once, and the mount it lies on."""

import ctypes
import os
import stat
from pathlib import Path

import pytest

from fuse_s3_helper import syscalls
from fuse_s3_helper.errors import MountError
from fuse_s3_helper.mountpoint import MountEntry, inside, mount_entry, pin
from support.isolation import in_child, needs_root, open_descriptors, with_own_mounts

HERE = Path("/proc/self/ns/mnt")

_CLONE_NEWNS = 0x20000


def test_a_directory_is_pinned(tmp_path: Path) -> None:
    point = pin(str(tmp_path))
    assert point.path == str(tmp_path)
    assert os.fstat(point.fd).st_ino == tmp_path.stat().st_ino
    assert point.link == b"/proc/self/fd/%d" % point.fd
    assert not os.get_inheritable(point.fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fchmod(point.fd, 0o700)  # O_PATH: it names the directory and opens nothing
    os.close(point.fd)


def test_a_link_to_a_directory_is_that_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    point = pin(f"{tmp_path}/link/../link/.")
    assert point.path == f"{tmp_path}/real"
    os.close(point.fd)


def test_what_is_pinned_stays_pinned(tmp_path: Path) -> None:
    """Whoever puts something else into its place afterwards gains nothing."""
    place = tmp_path / "mnt"
    place.mkdir()
    inode = place.stat().st_ino
    point = pin(str(place))
    place.rename(tmp_path / "moved")
    place.symlink_to("/etc")
    assert os.fstat(point.fd).st_ino == inode
    assert Path(os.fsdecode(point.link)).stat().st_ino == inode
    os.close(point.fd)


def test_a_link_put_there_after_the_look_up_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    monkeypatch.setattr(os.path, "realpath", str)
    with pytest.raises(MountError, match="Not a directory"):
        pin(f"{tmp_path}/link")


def test_a_missing_directory_comes_with_advice(tmp_path: Path) -> None:
    with pytest.raises(
        MountError, match=f"^mount point {tmp_path}/a: No .*: mkdir -p {tmp_path}/a$"
    ):
        pin(f"{tmp_path}/a")


@pytest.mark.parametrize("make", ["file", "fifo", "link to a file"])
def test_what_is_no_directory(tmp_path: Path, make: str) -> None:
    place = tmp_path / "place"
    if make == "fifo":
        os.mkfifo(place)
    elif make == "file":
        place.touch()
    else:
        (tmp_path / "file").touch()
        place.symlink_to("file")
    before = open_descriptors()
    with pytest.raises(MountError, match=f"mount point {place}: Not a directory$"):
        pin(str(place))
    assert open_descriptors() == before


# -- the table of mounts ---------------------------------------------------------------------------


def test_the_entry_of_a_mount() -> None:
    point = pin("/proc")
    device = os.stat("/proc").st_dev  # noqa: PTH116
    assert mount_entry(point.fd) == MountEntry(f"{os.major(device)}:{os.minor(device)}", "proc")
    os.close(point.fd)


@needs_root
def test_the_entry_is_found_by_the_descriptor_and_not_by_the_path(tmp_path: Path) -> None:
    """Names that look like fields, one mount above another, a mount that was moved away."""
    place = tmp_path / "a - proc\t\n\\040 b"
    place.mkdir()

    def look() -> list[str]:
        beneath = pin(str(place))
        found = []
        for source in (b"first - proc proc", b"second"):
            syscalls.mount(source, os.fsencode(place), b"tmpfs", 0, b"")
            point = pin(str(place))
            entry = mount_entry(point.fd)
            device = os.fstat(point.fd).st_dev
            assert entry is not None
            assert entry.device == f"{os.major(device)}:{os.minor(device)}"
            found.append(entry.fstype)
        entry = mount_entry(beneath.fd)
        assert entry is not None
        assert entry.fstype != "tmpfs"
        return found

    assert with_own_mounts(look) == ["tmpfs", "tmpfs"]


@needs_root
def test_a_detached_mount_has_no_entry() -> None:
    fs = syscalls.fsopen(b"tmpfs")
    syscalls.fsconfig_create(fs)
    mount_fd = syscalls.fsmount(fs, 0)
    assert stat.S_ISDIR(os.fstat(mount_fd).st_mode)
    assert mount_entry(mount_fd) is None
    os.close(mount_fd)
    os.close(fs)


# -- another namespace -----------------------------------------------------------------------------


def test_without_a_namespace_nothing_happens() -> None:
    before = HERE.readlink()
    with inside(None):
        assert HERE.readlink() == before


def test_a_namespace_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError), inside("/proc/self/ns/none"):
        pass


@needs_root
def test_looking_up_in_another_namespace(tmp_path: Path) -> None:
    """A directory of the other namespace is pinned there; the way back is taken in any case."""
    (tmp_path / "mnt").mkdir()
    outside = (tmp_path / "mnt").stat().st_ino

    def visit() -> tuple[int, int, bool, bool]:
        here = HERE.readlink()
        target = f"/proc/self/fd/{_namespace_with_tmpfs(tmp_path / 'mnt')}"
        with inside(target):
            point = pin(f"{tmp_path}/mnt")
        back = HERE.readlink() == here
        with pytest.raises(MountError), inside(target):
            pin("/nowhere")
        inode = os.fstat(point.fd).st_ino
        again = pin(f"{tmp_path}/mnt")
        return inode, os.fstat(again.fd).st_ino, back, HERE.readlink() == here

    inode, afterwards, back, back_after_an_error = in_child(visit)
    assert inode != outside
    assert afterwards == outside
    assert back
    assert back_after_an_error


def _namespace_with_tmpfs(place: Path) -> int:
    """Return a descriptor of a mount namespace that has a tmpfs at `place`."""
    origin = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    libc = ctypes.CDLL(None)
    assert libc.unshare(_CLONE_NEWNS) == 0
    assert libc.mount(b"", b"/", b"", 0x4000 | 0x40000, b"") == 0
    syscalls.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"")
    made = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    syscalls.setns(origin)
    return made
