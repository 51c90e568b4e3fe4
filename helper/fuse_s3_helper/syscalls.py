"""The system calls that Python has no name for: thin, typed, and raising OSError.

Numbers of fsopen(2) and its kin are the same on every architecture (asm-generic/unistd.h).
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 429, 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_CLONE_NEWNS = 0x20000
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(*words: int | bytes | None) -> int:
    # A variadic C function takes integers as they come: make each a full machine word.
    return _checked(_libc.syscall(*(ctypes.c_long(w) if isinstance(w, int) else w for w in words)))


def set_process(option: int, argument: int) -> None:
    """Change this process by one option of prctl(2) and its argument."""
    _checked(_libc.prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))


def empty_capabilities() -> None:
    """Empty the capability sets of this process; see capset(2)."""
    this_process = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(this_process, (ctypes.c_uint32 * 6)()))


def fsopen(fstype: bytes) -> int:
    """Open a configuration of a new `fstype` file system."""
    return _syscall(_SYS_FSOPEN, fstype, _FSOPEN_CLOEXEC)


def fsconfig_set(fs: int, key: bytes, value: bytes | None) -> None:
    """Set a flag (without a value) or a string of the configuration."""
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    _syscall(_SYS_FSCONFIG, fs, command, key, value, 0)


def fsconfig_create(fs: int) -> None:
    """Create the superblock that was configured."""
    _syscall(_SYS_FSCONFIG, fs, _FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fs: int, attributes: int) -> int:
    """Return a descriptor of the new, still detached mount."""
    return _syscall(_SYS_FSMOUNT, fs, _FSMOUNT_CLOEXEC, attributes)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach the detached mount `mount_fd` at the directory `target_fd`."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _syscall(_SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
    """Attach a file system, or change the flags of one, by path: the old call."""
    _checked(_libc.mount(source, target, fstype, ctypes.c_ulong(flags), data))


def umount(target: bytes, flags: int) -> None:
    """Unmount; see umount2(2)."""
    _checked(_libc.umount2(target, flags))


def setns(fd: int) -> None:
    """Enter the mount namespace behind `fd`."""
    _checked(_libc.setns(fd, _CLONE_NEWNS))
