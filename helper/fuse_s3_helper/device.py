"""Step 4: the FUSE device."""

import errno
import os

from fuse_s3_helper.errors import SystemFailure

_DEVICE = "/dev/fuse"

_ADVICE = {
    errno.ENOENT: "load the kernel module (modprobe fuse); in a container, pass --device /dev/fuse",
    errno.ENODEV: "the kernel has no FUSE: modprobe fuse",
    errno.ENXIO: "the kernel has no FUSE: modprobe fuse",
    errno.EACCES: "only root can mount this way; in a container, allow the device",
    errno.EPERM: "the container or a cgroup forbids the device: allow /dev/fuse",
}


def open_device() -> int:
    """Open a new, unconnected FUSE device; non-blocking, since the worker serves it from a loop.

    Raises:
        SystemFailure: it cannot be opened; the text says what to do.
    """
    # Safe: the descriptor has no file system behind it until the kernel mounts one with it, and
    # it does that only for the user namespace that opened it.
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "look into the kernel's log: dmesg")
        raise SystemFailure(f"{_DEVICE}: {error.strerror}: {advice}") from None
