"""Steps 6 and 7 for ordinary users: fusermount3, which is setuid, makes the mount.

It opens the device, checks that the mount point is the user's to mount on, and hands us a
descriptor; see fusermount3(1) and _FUSE_COMMFD in libfuse. Nothing here has privileges.
"""

import os
import socket

from fuse_s3_helper.argv import MountRequest
from fuse_s3_helper.errors import MountError, UsageError
from fuse_s3_helper.mount import SUBTYPE, Mount
from fuse_s3_helper.mountpoint import MountPoint
from fuse_s3_helper.words import FLAGS
from fuse_s3_shared.fdpass import receive_packet

_PROGRAMS = ("/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3")
_COMM_FD = 3


class UserMount(Mount):
    """A mount that fusermount3 has made."""

    def undo(self) -> None:
        """Take it away again, lazily, as whoever has made it may."""
        _fusermount("-u", "-z", "-q", "--", self.point.path)


def create_mount(request: MountRequest, only: tuple[int, int] | None, point: MountPoint) -> Mount:
    """Have a mount made. `only` says nothing new: an ordinary user is the only one let in.

    Raises:
        UsageError: there is no fusermount3.
        MountError: it refuses; its own words are on standard error.
    """
    names = {flag: word for word, flag in reversed(FLAGS.items())}  # ro, not read-only
    words = [names[flag] for flag in request.flags] + ["nosuid", "nodev", "default_permissions"]
    source = request.spec.replace("\\", "\\\\").replace(",", "\\,")
    options = ",".join([*words, f"subtype={SUBTYPE}", f"fsname={source}"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    status = _fusermount("-o", options, "--", point.path, comm=theirs.fileno())
    theirs.close()
    device = None if status else receive_packet(ours, 1)[1]
    if device is None:
        raise MountError("fusermount3 refuses the mount: its reason is in the line above")
    os.set_blocking(device, False)
    return UserMount(os.open(point.path, os.O_PATH | os.O_CLOEXEC), device, point)


def program() -> str:
    """Return where fusermount3 is.

    Raises:
        UsageError: nowhere.
    """
    for path in _PROGRAMS:
        if os.access(path, os.X_OK):
            return path
    raise UsageError("only root can mount, and others only where fusermount3 is: install fuse3")


def _fusermount(*words: str, comm: int = 2) -> int:
    environment = {"_FUSE_COMMFD": str(_COMM_FD), "PATH": "/usr/bin:/bin"}
    actions = [(os.POSIX_SPAWN_DUP2, comm, _COMM_FD)]
    pid = os.posix_spawn(program(), [program(), *words], environment, file_actions=actions)
    return os.waitpid(pid, 0)[1]
