"""The FUSE device, and what is said when it cannot be had; the exit codes of mount(8)."""

import errno
import fcntl
import os

import pytest

from fuse_s3_helper import errors
from fuse_s3_helper.device import open_device
from fuse_s3_helper.errors import SystemFailure
from support.isolation import open_descriptors

ADVICE = {
    errno.ENOENT: "No such file or directory: load the kernel module .*--device /dev/fuse",
    errno.ENODEV: "No such device: .*modprobe fuse",
    errno.ENXIO: "No such device or address: .*modprobe fuse",
    errno.EACCES: "Permission denied: only root can mount this way",
    errno.EPERM: "Operation not permitted: the container or a cgroup forbids",
    errno.EMFILE: "Too many open files: .*dmesg",
}


@pytest.mark.parametrize("number", ADVICE)
def test_advice(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SystemFailure, match=f"^/dev/fuse: {ADVICE[number]}"):
        open_device()


@pytest.mark.mount
def test_the_device_is_fit_for_a_loop() -> None:
    fd = open_device()
    assert open_descriptors()[fd] == "/dev/fuse"
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == os.O_RDWR
    assert flags & os.O_NONBLOCK
    assert not os.get_inheritable(fd)
    with pytest.raises(PermissionError):
        os.read(fd, 1 << 21)  # EPERM: no mount behind it yet
    os.close(fd)


def test_exit_codes() -> None:
    """mount(8), "EXIT STATUS"."""
    assert {
        errors.UsageError.code: "incorrect invocation or permissions",
        errors.SystemFailure.code: "system error",
        errors.WorkerError.code: "internal mount bug",
        errors.INTERRUPTED: "user interrupt",
        errors.MountError.code: "mount failure",
    } == {
        1: "incorrect invocation or permissions",
        2: "system error",
        4: "internal mount bug",
        8: "user interrupt",
        32: "mount failure",
    }
