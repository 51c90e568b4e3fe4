"""Putting the filter in place, for every thread of this process and for good."""

import errno
import os
import struct

from fuse_s3_worker.sandbox.bpf import Instruction, encode, filter_for
from fuse_s3_worker.sandbox.libc import address_of, system_call
from fuse_s3_worker.sandbox.syscalls import ARCHITECTURES

__all__ = ["apply", "install"]

# linux/seccomp.h. SPEC_ALLOW: until 5.16, kernels take a filter for a reason to slow down a
# process's memory, against code of strangers in it that a worker does not have.
_SET_MODE_FILTER, _FLAG_TSYNC, _FLAG_SPEC_ALLOW = 1, 1, 4

_REASONS = {
    errno.ENOSYS: "this kernel has no seccomp",
    errno.EINVAL: "this kernel has no seccomp filters",
    errno.EACCES: "no_new_privs is not set",
}


def apply() -> str:
    """Refuse every system call that is not in the table; return why not, empty if so."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        return f"no list of system calls for {machine}"
    try:
        install(filter_for(ARCHITECTURES[machine], os.getpid()))
    except OSError as error:
        return _REASONS.get(error.errno or 0, str(error.strerror))
    return ""


def install(program: list[Instruction]) -> None:
    """Load a filter into all threads.

    Raises:
        OSError: the kernel will not; ESRCH: a thread has a filter of its own.
    """
    code, owner = address_of(encode(program))
    header, also = address_of(struct.pack("@HP", len(program), code))  # struct sock_fprog
    number = ARCHITECTURES[os.uname().machine].numbers["seccomp"]
    thread = system_call(number, _SET_MODE_FILTER, _FLAG_TSYNC | _FLAG_SPEC_ALLOW, header)
    del owner, also
    if thread:
        raise OSError(errno.ESRCH, f"thread {thread} does not take the filter")
