"""Which process opened a file, to tell whose close(2) a FLUSH is.

The kernel sends FLUSH for every descriptor that is closed, also when a child that merely
inherited one exits. If that published the file, a shell script's output would be in the bucket
half written. So the FLUSH of another process than the opener's does not commit while the opener
still lives; the last close, RELEASE, does. FUSE tells a thread's id, the kernel the process it is
of: since 6.13 by a descriptor, which needs no look into /proc, where all programs' command lines
are, and which works where /proc shows a user's own processes only (hidepid).
"""

import fcntl
import functools
import os
import struct
from pathlib import Path
from typing import NamedTuple

__all__ = ["Opener", "needs_proc"]


class Opener(NamedTuple):
    """A thread that opened a file, and its process; 0 when that could not be found out."""

    thread: int
    process: int

    @classmethod
    def of(cls, thread: int) -> "Opener":
        """Remember who opens a file for writing."""
        return cls(thread, _process_of(thread))

    def leaves_to(self, thread: int) -> bool:
        """Tell whether a FLUSH by `thread` can wait: it is another's, and the opener lives."""
        if thread == self.thread or not self.process:
            return False
        process = _process_of(thread)
        return process not in {0, self.process} and _process_of(self.process) != 0


# linux/pidfd.h: PIDFD_THREAD; PIDFD_GET_INFO of struct pidfd_info, which begins with mask,
# cgroupid, pid and tgid and has 64 bytes in its first version.
_PIDFD_THREAD = os.O_EXCL
_PIDFD_GET_INFO = 0xC040FF0B
_INFO_SIZE, _MASK_PID, _TGID_AT = 64, 1, 20


@functools.cache
def needs_proc() -> bool:
    """Tell whether this kernel has the answer in /proc alone."""
    try:
        return _by_descriptor(os.getpid()) != os.getpid()
    except OSError:
        return True


def _process_of(thread: int) -> int:
    """Return the thread group that a thread belongs to; 0 when there is no such thread."""
    if needs_proc():
        return _by_proc(thread)
    try:
        return _by_descriptor(thread)
    except (OSError, OverflowError):  # no thread has a number of more than 31 bits
        return 0


def _by_descriptor(thread: int) -> int:
    fd = os.pidfd_open(thread, _PIDFD_THREAD)
    try:
        info = bytearray(_INFO_SIZE)
        struct.pack_into("=Q", info, 0, _MASK_PID)
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
        return int(struct.unpack_from("=I", info, _TGID_AT)[0])
    finally:
        os.close(fd)


def _by_proc(thread: int) -> int:
    """See proc(5), /proc/PID/status."""
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    return 0
