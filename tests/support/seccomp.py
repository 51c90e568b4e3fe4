"""Runs a program that may not open a new file system's configuration, as in older containers.

    python seccomp.py ERRNO PROGRAM [ARGUMENT ...]

fsopen(2) fails with ERRNO there, so that whatever wants to mount has to use mount(2).
"""

import ctypes

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
