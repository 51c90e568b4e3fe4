"""What a worker does to itself before it serves, and the check that it holds no power.

The helper took everything away before it started us; believing that is not enough, since whoever
starts a worker in another way may have forgotten it. Landlock and seccomp have their place here.
"""

import ctypes
import os
import resource
from pathlib import Path

__all__ = ["TooPowerfulError", "check", "close_all_but", "confine"]

_PR_SET_DUMPABLE = 4


class TooPowerfulError(Exception):
    """This process could do more than a worker may; the message says what."""


def confine() -> None:
    """Give up what a worker has no use for: core dumps, and being looked into by its own user."""
    # Both would show credentials: a core file, /proc/PID/mem and ptrace of the same user.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def check() -> None:
    """Verify that nothing is left of root's powers.

    Raises:
        TooPowerfulError: something is.
    """
    if 0 in os.getresuid() + os.getresgid() or 0 in os.getgroups():
        raise TooPowerfulError("the worker runs with root's user or group id")
    status = dict(line.split(":\t", 1) for line in _status().splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status.get(name, "0"), 16):
            raise TooPowerfulError(f"the worker has capabilities: {name} {status[name]}")
    if status.get("NoNewPrivs") != "1":
        raise TooPowerfulError("the worker may gain privileges: no_new_privs is not set")


def _status() -> str:
    return Path("/proc/self/status").read_text()


def close_all_but(*fds: int) -> None:
    """Close every descriptor above the standard three that is not named."""
    first = 3
    for fd in sorted(fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
