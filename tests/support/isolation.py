"""Work that must not touch this process or this machine: in a child, with mounts of its own."""

import ctypes
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

__all__ = [
    "ChildFailedError",
    "ignore_only",
    "in_child",
    "needs_root",
    "open_descriptors",
    "signals_of",
    "with_own_mounts",
]

_T = TypeVar("_T")

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000

# The C library's own. It lets nobody change them, and whoever is started by posix_spawn(3), as
# make(1) and many runners do it, ignores them for good.
_OF_THE_C_LIBRARY = {32, 33}

# A mark, not a fixture, so that the reason is in the list of what could not run.
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: ids, capabilities and mounts of its own"
)


class ChildFailedError(AssertionError):
    """Something was raised in the child; the message is its traceback."""


def in_child(work: Callable[[], _T]) -> _T:
    """Return what `work` returns in a forked child; it may do to its process what it likes."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        _play(work, write_end)
    os.close(write_end)
    with open(read_end, "rb") as pipe:  # noqa: PTH123  a descriptor
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise ChildFailedError("the child ended without an answer")
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        raise ChildFailedError(result)
    answered: _T = result
    return answered


def _play(work: Callable[[], object], write_end: int) -> NoReturn:
    answer: tuple[bool, object]
    try:
        answer = True, work()
    except BaseException:  # noqa: BLE001  the parent raises it
        answer = False, traceback.format_exc()
    with open(write_end, "wb") as pipe:
        pipe.write(pickle.dumps(answer))
    os._exit(0)


def with_own_mounts(work: Callable[[], _T]) -> _T:
    """Return what `work` returns in a mount namespace of its own, which ends with it."""

    def alone() -> _T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) or libc.mount(b"", b"/", b"", _MS_REC_PRIVATE, b""):
            raise OSError(ctypes.get_errno(), "no mount namespace")
        return work()

    return in_child(alone)


def open_descriptors() -> dict[int, str]:
    """Return the descriptors of this process and what each is."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that lists them
    return found


def ignore_only(numbers: Iterable[signal.Signals]) -> None:
    """Ignore these signals, and none that whoever started this process had it ignore."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def signals_of(mask: str) -> set[int]:
    """Return the signals of a mask in /proc/PID/status that a program can do something about."""
    bits = int(mask, 16)
    return {number for number in range(1, 65) if bits >> number - 1 & 1} - _OF_THE_C_LIBRARY
