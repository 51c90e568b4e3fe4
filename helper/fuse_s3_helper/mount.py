"""Steps 6 and 7: a mount that nobody sees until it serves.

fsopen(2) and its kin make the mount detached: it can be tried out, and only then attached to the
pinned directory, without looking up a path. Where the kernel or a container's seccomp filter
does not have them, or SPEC is too long for them, mount(2) attaches at once, and a mount that then
fails is taken away again.
"""

import errno
import os
from typing import NamedTuple

from fuse_s3_helper import syscalls
from fuse_s3_helper.argv import MountRequest
from fuse_s3_helper.device import open_device
from fuse_s3_helper.errors import MountError, UsageError
from fuse_s3_helper.mountpoint import MountPoint, inside, mount_entry, pin
from fuse_s3_helper.process import end_of
from fuse_s3_helper.words import ATTR_NODEV, ATTR_NOSUID, MS_NODEV, MS_NOSUID, MS_REMOUNT
from fuse_s3_shared.limits import READ_AHEAD_KIB

SUBTYPE = "s3"
_TYPE, _NAME = "fuse", f"fuse.{SUBTYPE}"
_S_IFDIR = 0o040000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_STRING_MAX = 255  # bytes of a value that fsconfig(2) takes; the source of mount(2) may be longer


class Mount(NamedTuple):
    """A mount, by a descriptor of its root, and the device that a worker has to serve.

    A detached one is in no table of mounts, and ends with its descriptor.
    """

    root: int
    device: int
    point: MountPoint

    def serves(self, seconds: float) -> bool:
        """Tell whether the root's attributes come from the worker within so many seconds.

        A child looks, since a look at a mount that nobody serves cannot be interrupted. EACCES is
        the kernel's own: root is not let in where somebody else is the only user who is.
        """
        pid = os.fork()
        if not pid:
            try:
                os.fstat(self.root)
            except OSError as error:
                os._exit(error.errno != errno.EACCES)
            os._exit(0)
        # Without an answer the child ends with the connection, as an orphan.
        return end_of(pid, seconds) == 0

    def attach(self) -> None:
        """Put the mount onto the pinned directory, and let the kernel read ahead of its readers."""
        if not mount_entry(self.root):
            # Safe: both ends are descriptors. The mount is the one made below, the directory is
            # the one that was pinned, whatever either of their names means by now.
            syscalls.move_mount(self.root, self.point.fd)
        entry = mount_entry(self.root)
        if entry:
            _raise_read_ahead(entry.device)

    def undo(self) -> None:
        """Take away what was attached."""
        if mount_entry(self.root):
            # Safe: lazily, and without following links, what this process mounted a moment ago.
            syscalls.umount(os.fsencode(self.point.path), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def create_mount(request: MountRequest, only: tuple[int, int] | None, point: MountPoint) -> Mount:
    """Connect a new FUSE device to a new mount.

    `only` is the uid and gid of the one user who is let in, None for everybody; `point` is where
    it will be attached. The source is the request's SPEC, letter by letter.

    Raises:
        SystemFailure: there is no device.
        MountError: the kernel refuses; the text has its reason.
    """
    device = open_device()
    # linux/fs/fuse/inode.c, fuse_fs_parameters. The kernel checks modes, owner and group.
    parameters = [f"fd={device}", f"rootmode={_S_IFDIR:o}", "default_permissions"]
    uid, gid = only or (os.geteuid(), os.getegid())
    parameters += [f"user_id={uid}", f"group_id={gid}"] + ([] if only else ["allow_other"])
    if len(os.fsencode(request.spec)) > _STRING_MAX:
        return Mount(_mount_attached(request, parameters, point), device, point)
    try:
        fs = syscalls.fsopen(_TYPE.encode())
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        return Mount(_mount_attached(request, parameters, point), device, point)
    try:
        return Mount(_mount_detached(request, parameters, fs), device, point)
    except OSError as error:
        reason = _kernel_messages(fs) or error.strerror
        raise MountError(f"the kernel refuses the mount: {reason}") from None
    finally:
        os.close(fs)


def remount(request: MountRequest) -> None:
    """Change the flags of an existing mount of ours; FUSE's own options cannot change.

    Raises:
        UsageError: whoever asks may not.
        MountError: it is no mount of ours.
    """
    if os.geteuid():
        raise UsageError("only root can remount")
    with inside(request.given.get("-N")):
        point = pin(request.directory)
        entry = mount_entry(point.fd)
        if entry is None or entry.fstype != _NAME:
            found = entry.fstype if entry else "nothing"
            raise MountError(f"{point.path} is on {found}: remount needs a mounted bucket")
        if "-f" not in request.given:
            # Safe: flags only, on the mount whose root is pinned; nosuid and nodev stay.
            syscalls.mount(b"", point.link, b"", MS_REMOUNT | _ms_flags(request), b"")


def _ms_flags(request: MountRequest) -> int:
    return MS_NOSUID | MS_NODEV | sum(flag.ms for flag in request.flags)


def _mount_detached(request: MountRequest, parameters: list[str], fs: int) -> int:
    words = [f"source={request.spec}", f"subtype={SUBTYPE}", *parameters, *_lsm(request, "")]
    for word in words + [flag.word for flag in request.flags if flag.word]:
        key, equals, value = os.fsencode(word).partition(b"=")
        syscalls.fsconfig_set(fs, key, value if equals else None)
    # Safe: creates a superblock that nobody can reach yet, with a server that holds no power;
    # nosuid and nodev are not negotiable, so nothing in a bucket can become a privilege.
    syscalls.fsconfig_create(fs)
    attributes = ATTR_NOSUID | ATTR_NODEV | sum(flag.attr for flag in request.flags)
    return syscalls.fsmount(fs, attributes)


def _lsm(request: MountRequest, quote: str) -> list[str]:
    return [key if value is None else f"{key}={quote}{value}{quote}" for key, value in request.lsm]


def _mount_attached(request: MountRequest, parameters: list[str], point: MountPoint) -> int:
    source, data = os.fsencode(request.spec), ",".join(parameters + _lsm(request, '"')).encode()
    try:
        # Safe: as above; the link names the pinned directory itself, not a path to it.
        syscalls.mount(source, point.link, _NAME.encode(), _ms_flags(request), data)
    except OSError as error:
        raise MountError(f"the kernel refuses the mount: {error.strerror}") from None
    # The pinned descriptor is of the directory beneath; the mount's root has to be opened anew.
    return os.open(point.path, os.O_PATH | os.O_CLOEXEC)


def _kernel_messages(fs: int) -> str:
    """Read what the kernel logged into the configuration: lines such as `e fuse: Bad value`."""
    try:
        return os.read(fs, 1024).decode(errors="replace").strip().removeprefix("e ")
    except OSError:
        return ""  # ENODATA: it said nothing


def _raise_read_ahead(device: str) -> None:
    """Let the kernel read ahead in requests of a full FUSE_REQUEST_MAX; the worker may not."""
    try:
        # Safe: one number, into the entry of the device that this mount was just given. Not "w":
        # that would create the file, and ask for the right to write to the directory.
        with open(f"/sys/class/bdi/{device}/read_ahead_kb", "r+") as entry:
            entry.write(str(READ_AHEAD_KIB))
    except OSError:
        pass  # read-only /sys of a container: slower, not wrong
