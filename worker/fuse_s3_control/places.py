"""Where the control sockets of mounts are, and what lies beside each.

    /run/fuse-s3/control      of the worker's user, 0755: tmpfiles.d makes it, or make install
        2041-9f86d081/        one for each worker, 0311: who knows a name in it can get there
            control           the socket
            about             which mount this is, so that `fuse-s3 list` need not ask anybody

A worker under another account has /run/user/UID/fuse-s3 instead, if that user has such a directory.
"""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "ABOUT", "CONTROL", "RUNTIME", "USERS", "About", "found", "is_own", "listens", "read_about",
]  # fmt: skip

RUNTIME = Path("/run/fuse-s3/control")
USERS = Path("/run/user")
CONTROL, ABOUT = "control", "about"

_ABOUT_MAX = 64 * 1024  # bytes: two paths of 4,096 characters, escaped
_NOBODY_ELSES = stat.S_IWGRP | stat.S_IWOTH


class About(BaseModel):
    """What a worker says of itself to everybody; the mount table says no less.

    Attributes:
        device: minor number of the mount's st_dev; 0 when the kernel does not tell the worker.
        since: when it began to serve, in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    spec: str = Field(max_length=4096)
    directory: str = Field(max_length=4096)
    device: int = Field(ge=0)
    pid: int = Field(gt=0)
    since: float


def is_own(status: os.stat_result, uid: int) -> bool:
    """Tell whether this is a directory in which `uid` alone decides what there is."""
    mode = status.st_mode
    return stat.S_ISDIR(mode) and status.st_uid == uid and not mode & _NOBODY_ELSES


def found(runtime: Path = RUNTIME, users: Path = USERS) -> Iterator[tuple[Path, int]]:
    """Yield the directories of workers, dead ones too, each with the uid that made it."""
    for home in (runtime, *sorted(users.glob("*/fuse-s3"))):
        try:
            uid = home.stat(follow_symlinks=False).st_uid
            names = sorted(os.listdir(home))  # noqa: PTH208  names, and one error for them all
        except OSError:
            continue
        yield from ((home / name, uid) for name in names)


def listens(directory: Path) -> bool:
    """Tell whether a worker listens there; one who cannot take another connection does, too.

    It is left alone again before a word was said, which costs it nothing.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0)
        try:
            sock.connect(str(directory / CONTROL))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def read_about(directory: Path) -> About | None:
    """Read what a worker says of itself; None where there is nothing that can be believed.

    The directory is that of a worker's user, who may have put anything there.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(directory / ABOUT, flags)
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return About.model_validate_json(os.read(fd, _ABOUT_MAX)) if regular else None
    except (OSError, ValidationError):
        return None
    finally:
        os.close(fd)
