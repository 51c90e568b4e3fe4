"""Which process opened a file, to tell whose close(2) a FLUSH is.

The kernel sends FLUSH for every descriptor that is closed, also when a child that merely
inherited one exits. If that published the file, a shell script's output would be in the bucket
half written. So the FLUSH of another process than the opener's does not commit while the opener
still lives; the last close, RELEASE, does. FUSE tells a thread's id, /proc the process it is of.
"""

from pathlib import Path
from typing import NamedTuple

__all__ = ["Opener"]


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


def _process_of(thread: int) -> int:
    """Return the thread group that a thread belongs to; see proc(5), /proc/PID/status."""
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    return 0
