"""What the control service is about: the parts of a mount, and what is true of it as a whole."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import time

from fuse_s3_worker import sandbox
from fuse_s3_worker.config.parse import Configuration
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.statistics import KernelStatistics
from fuse_s3_worker.store.client import S3Store

__all__ = ["Facts", "device_number"]

_MINOR_BITS = 20  # of the kernel's dev_t, linux/kdev_t.h; the major number of these mounts is 0
_CONNECTION = "fuse_connection:"


@dataclass
class Facts:
    """One mount.

    Attributes:
        spec: as it was given.
        options: as they were given, without the helper's.
        configuration: what that was understood as.
        level: of the sandbox.
        device: the descriptor of the connection.
        channel: where the kernel is told something; None where it keeps nothing.
        directory: where it is mounted; "" when that is not known.
        restarts: how many workers it had before this one.
        hand_over: begins to hand over to the next worker; None where there would be none.
        since: when this worker began to serve, in seconds since the epoch.
    """

    spec: str
    options: str
    configuration: Configuration
    level: sandbox.Level
    fs: FileSystem
    store: S3Store
    device: int
    channel: Channel | None
    kernel: KernelStatistics
    directory: str = ""
    restarts: int = 0
    hand_over: Callable[[], None] | None = None
    since: float = field(default_factory=time)


def device_number(fd: int) -> int:
    """Return the minor number of the mount behind a FUSE device; 0 where the kernel is silent.

    Since Linux 6.4 or so it says so beside the descriptor. The mount itself must not be asked by
    the one who would have to answer.
    """
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(_CONNECTION):
            return int(line.removeprefix(_CONNECTION)) & ((1 << _MINOR_BITS) - 1)
    return 0
