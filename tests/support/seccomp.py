"""Runs a program that may not open a new file system's configuration, as in older containers.

    python seccomp.py ERRNO PROGRAM [ARGUMENT ...]

fsopen(2) fails with ERRNO there, so that whatever wants to mount has to use mount(2).
"""

import ctypes
import os
import struct
import sys

_SYS_FSOPEN = 430  # asm-generic/unistd.h: the same on every architecture
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000

# linux/bpf_common.h: load a word of seccomp_data, jump if equal, return.
_LD_W_ABS, _JEQ_K, _RET_K = 0x20, 0x15, 0x06


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (  # type: ignore[mutable-override]  # a list's type is too narrow as well
        ("length", ctypes.c_ushort),
        ("filter", ctypes.c_void_p),
    )


def forbid_fsopen(number: int) -> None:
    """Make fsopen(2) fail with errno `number`, here and in every program started from here."""
    instructions = [
        (_LD_W_ABS, 0, 0, 0),  # the number of the system call is the first word
        (_JEQ_K, 0, 1, _SYS_FSOPEN),
        (_RET_K, 0, 0, _RET_ERRNO | number),
        (_RET_K, 0, 0, _RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
    # A filter that does not bite would let a test pass for nothing.
    if libc.syscall(_SYS_FSOPEN, b"fuse", 0) >= 0 or ctypes.get_errno() != number:
        raise OSError("fsopen(2) is not forbidden")


if __name__ == "__main__":
    forbid_fsopen(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
