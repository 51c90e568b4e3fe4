"""Step 2: the mount point, looked up once and never by its path again."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_helper.errors import MountError
from fuse_s3_helper.syscalls import setns


class MountPoint(NamedTuple):
    """A directory held by an O_PATH descriptor, so that nobody can put another in its place."""

    fd: int
    path: str

    @property
    def link(self) -> bytes:
        """A name of the pinned directory itself, for calls that want a path."""
        return b"/proc/self/fd/%d" % self.fd


class MountEntry(NamedTuple):
    """What the mount table says of one mount; see proc(5), mountinfo."""

    device: str  # major:minor, in decimal
    fstype: str


def mount_entry(fd: int) -> MountEntry | None:
    """Return the entry of the mount that the descriptor `fd` lies on; None when it is detached.

    The mount is found by its id, which the kernel gives for the descriptor: nothing is asked of
    the file system, and nobody can pass off another mount by its name.
    """
    with open(f"/proc/self/fdinfo/{fd}") as info:
        fields = dict(line.split(":", 1) for line in info)
    mount_id = fields["mnt_id"].strip()
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        for line in table:
            # id parent major:minor root point options [optional ...] - type source superoptions
            words = line.split()
            if words[0] == mount_id:
                return MountEntry(words[2], words[words.index("-") + 1])
    return None


def pin(path: str) -> MountPoint:
    """Pin the directory at `path`.

    Raises:
        MountError: there is none.
    """
    real = os.path.realpath(path)
    # Safe: O_PATH opens nothing and asks the file system for nothing but the look-up; after
    # realpath a symbolic link can only be one that somebody put there just now, and is refused.
    try:
        fd = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        advice = f": mkdir -p {path}" if error.errno == errno.ENOENT else ""
        raise MountError(f"mount point {path}: {error.strerror}{advice}") from None
    return MountPoint(fd, real)


@contextlib.contextmanager
def inside(namespace: str | None) -> Iterator[None]:
    """Look up and attach within another mount namespace (mount -N); start workers outside of it."""
    paths = ("/proc/self/ns/mnt", namespace) if namespace else ()
    fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
    for fd in fds[1:]:
        # Safe: setns(2) itself demands CAP_SYS_ADMIN over that namespace.
        setns(fd)
    try:
        yield
    finally:
        for fd in fds[:1]:
            setns(fd)
