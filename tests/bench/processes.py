"""Whose processes are whose, and what they use.

Programs that mount put themselves into the background. As a subreaper this process becomes the
parent of every orphan below it, so that none gets lost: neither while measuring nor at the end.
"""

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Memory",
    "become_subreaper",
    "cpu_seconds",
    "descendants",
    "end",
    "ended_cpu_seconds",
    "machine_cpu_seconds",
    "memory",
    "peak_memory",
    "reset_peak",
    "wait_for_end",
]

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_CPU_CLOCK = 2  # CPUCLOCK_SCHED, of a process: see clock_getcpuclockid(3)
_TICK = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS = (3, 4)  # of the first line of /proc/stat: idle and iowait
_PEAK = "5"  # proc(5), clear_refs: forget the peak
_POLL = 0.01  # seconds


class Memory(NamedTuple):
    """Bytes: resident, and resident with shared pages divided among those who share them."""

    rss: int
    pss: int


def become_subreaper() -> None:
    """Adopt orphans from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> set[int]:
    """Return all processes below this one."""
    parents: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain anything, parentheses too.
            after_name = (directory / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(after_name[1]), []).append(int(directory.name))
    found: set[int] = set()
    wanted = [os.getpid()]
    while wanted:
        children = parents.get(wanted.pop(), [])
        found.update(children)
        wanted += children
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have had so far, all their threads together."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    return total


def ended_cpu_seconds() -> float:
    """Return the CPU time that children had which have ended, with what they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_cpu_seconds() -> float:
    """Return the CPU time that the whole machine has spent on anything."""
    with Path("/proc/stat").open() as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    busy = sum(value for place, value in enumerate(fields) if place not in _IDLE_FIELDS)
    return busy / _TICK


def memory(pids: Iterable[int]) -> Memory:
    """Return what processes have in memory."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rolled = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
            rss, pss = rss + rolled["Rss"], pss + rolled["Pss"]
    return Memory(rss * 1024, pss * 1024)


def reset_peak(pids: Iterable[int]) -> None:
    """Let peaks begin anew."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text(_PEAK)


def peak_memory(pids: Iterable[int]) -> int:
    """Return the bytes that processes had resident at most, each at its own time."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _kilobytes(Path(f"/proc/{pid}/status"))["VmHWM"]
    return total * 1024


def _kilobytes(path: Path) -> dict[str, int]:
    found = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].removesuffix(":")] = int(words[1])
    return found


def wait_for_end(pids: Iterable[int], patience: float) -> set[int]:
    """Wait until processes have ended; return those that have not within `patience` seconds."""
    left = set(pids)
    until = time.monotonic() + patience
    while True:
        left = {pid for pid in left if not _reap(pid)}
        if not left or time.monotonic() > until:
            return left
        time.sleep(_POLL)


def end(pids: Iterable[int], patience: float = 5.0) -> None:
    """End processes: ask, and kill those that have not gone after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        pids = wait_for_end(pids, seconds)


def _reap(pid: int) -> bool:
    """Tell whether a process is gone; take it from the process table if it is ours to take."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return not Path(f"/proc/{pid}").exists()
