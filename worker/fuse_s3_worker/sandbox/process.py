"""What a process gives up before it has read a single byte; and the look in the mirror.

The helper took everything away before it started us; believing that is not enough, since whoever
starts a worker in another way may have forgotten it.
"""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

from fuse_s3_worker.sandbox.libc import process_control

__all__ = ["STEPS", "TooPowerfulError", "check", "close_all_but"]

# linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 4, 38, 65
_MDWE_REFUSE_EXEC_GAIN = 1

_LIMITS = {
    resource.RLIMIT_CORE: "a core file would have the credentials in it",
    resource.RLIMIT_MEMLOCK: "nothing here needs memory that cannot be swapped",
    resource.RLIMIT_MSGQUEUE: "nor queues of the kernel's",
    resource.RLIMIT_RTPRIO: "nor to be served before all others",
}


class TooPowerfulError(Exception):
    """This process could do more than a worker may; the message says what."""


def _no_new_privileges() -> None:
    process_control(_PR_SET_NO_NEW_PRIVS, 1)


def _not_dumpable() -> None:
    # /proc/PID/mem and ptrace would show credentials to other processes of the same user.
    process_control(_PR_SET_DUMPABLE, 0)


def _limits() -> None:
    for limit in _LIMITS:
        try:
            resource.setrlimit(limit, (0, 0))
        except ValueError:  # what this module makes of EPERM
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None


def _memory_deny_write_execute() -> None:
    process_control(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN)


STEPS: dict[str, Callable[[], None]] = {
    "no_new_privs": _no_new_privileges,
    "not_dumpable": _not_dumpable,
    "rlimits": _limits,
    "mdwe": _memory_deny_write_execute,
}
"""Layer name to what puts it in place; each raises OSError where the kernel does not have it."""


def check() -> None:
    """Verify that nothing is left of root's powers.

    Raises:
        TooPowerfulError: something is.
    """
    if 0 in os.getresuid() + os.getresgid() or 0 in os.getgroups():
        raise TooPowerfulError("the worker runs with root's user or group id")
    status = dict(line.split(":\t", 1) for line in _status().splitlines() if ":\t" in line)
    # Not the bounding set, which an ordinary user cannot empty: it bounds what a program gains
    # that is executed, and with no_new_privs that is nothing.
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
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
