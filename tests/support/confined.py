"""Acts in a child process that gave up what a worker gives up, and what becomes of them."""

import os
import pwd
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import pytest

from fuse_s3_helper.process import become
from fuse_s3_worker import sandbox
from fuse_s3_worker.sandbox import seccomp
from fuse_s3_worker.sandbox.bpf import Instruction
from fuse_s3_worker.sandbox.level import Mode
from fuse_s3_worker.sandbox.libc import process_control
from fuse_s3_worker.sandbox.syscalls import ARCHITECTURES
from support.isolation import in_child

__all__ = ["DONE", "Outcome", "become_worker", "enter", "lacking", "needs_sandbox", "outcome_of"]

_FAULT = 255
_ACCOUNT = "nobody"
_PR_SET_NO_NEW_PRIVS = 38


class Outcome(NamedTuple):
    """How an act ended: done, refused with an errno, or the end of who tried it."""

    errno: int = 0
    signal: int = 0

    def __str__(self) -> str:
        if self.signal:
            return signal.Signals(self.signal).name
        return os.strerror(self.errno) if self.errno else "done"


DONE = Outcome()


def outcome_of(*steps: Callable[[], object]) -> Outcome:
    """Take the steps in a child; return what became of the last one.

    Raises:
        AssertionError: something else than OSError was raised; its traceback is printed.
    """
    pid = os.fork()
    if not pid:
        _play(steps)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome(signal=os.WTERMSIG(status))
    code = os.WEXITSTATUS(status)
    assert code != _FAULT, "the child failed: see above"
    return Outcome(errno=code)


def _play(steps: tuple[Callable[[], object], ...]) -> NoReturn:
    try:
        for step in steps[:-1]:
            step()
    except BaseException:  # noqa: BLE001  a step on the way is no act: it must succeed
        _fail()
    try:
        steps[-1]()
    except OSError as error:
        os._exit(error.errno or _FAULT)
    except BaseException:  # noqa: BLE001
        _fail()
    os._exit(0)


def _fail() -> NoReturn:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(_FAULT)


def become_worker() -> None:
    """Lose what the helper takes from a worker: ids, groups, capabilities."""
    os.setsid()
    become(pwd.getpwnam(_ACCOUNT))


def enter(needs: sandbox.Needs | None = None, mode: Mode = "strict") -> sandbox.Level:
    """Confine this process as a worker confines itself; strictly, unless told otherwise."""
    return sandbox.enter(sandbox.confine(), mode, needs or sandbox.Needs())


def lacking(call: str, number: int) -> Callable[[], None]:
    """Return a step to a kernel where `call` fails with errno `number`."""

    def step() -> None:
        process_control(_PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(
            [  # linux/bpf_common.h, linux/seccomp.h
                Instruction(0x20, 0, 0, 0),  # load the number
                Instruction(0x15, 0, 1, ARCHITECTURES[os.uname().machine].numbers[call]),
                Instruction(0x06, 0, 0, 0x00050000 | number),
                Instruction(0x06, 0, 0, 0x7FFF0000),
            ]
        )

    return step


def _missing() -> str:
    level = in_child(lambda: enter(mode="best-effort"))
    return "; ".join(f"{name}: {why}" for name, why in level.missing.items())


_MISSING = _missing()

needs_sandbox = pytest.mark.skipif(
    bool(_MISSING), reason=f"the whole sandbox cannot be had here: {_MISSING}"
)
