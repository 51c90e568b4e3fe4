"""Runs a program on a kernel, or in a container, that lacks a system call: it fails with ERRNO.

    python seccomp.py CALL ERRNO PROGRAM [ARGUMENT ...]

Without fsopen, whatever wants to mount has to use mount(2); without landlock_create_ruleset or
seccomp, a worker has to do with less of a sandbox.
"""

import ctypes
import os
import struct
import sys

# asm-generic/unistd.h; the newer ones are the same on every machine
_NUMBERS = {
    "fsopen": 430,
    "landlock_create_ruleset": 444,
    "seccomp": {"x86_64": 317, "aarch64": 277}[os.uname().machine],
}
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


def forbid(call: str, number: int) -> None:
    """Make `call` fail with errno `number`, here and in every program started from here."""
    instructions = [
        (_LD_W_ABS, 0, 0, 0),  # the number of the system call is the first word
        (_JEQ_K, 0, 1, _NUMBERS[call]),
        (_RET_K, 0, 0, _RET_ERRNO | number),
        (_RET_K, 0, 0, _RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
    # A filter that does not bite would let a test pass for nothing. No call takes these words.
    if libc.syscall(_NUMBERS[call], -1, -1, -1) >= 0 or ctypes.get_errno() != number:
        raise OSError(f"{call}(2) is not forbidden")


if __name__ == "__main__":
    forbid(sys.argv[1], int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
