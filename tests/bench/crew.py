"""Processes that do something at once, and what each of them has done.

Forked: what they need is there. There are no threads in this process, and they come and go within
a measurement.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["CrewError", "Done", "work"]

_PATIENCE = 60.0  # seconds that somebody may be late


class CrewError(Exception):
    """One of them failed; the message has its reason."""


class Done(NamedTuple):
    """What one of them has done, by its own count, and in how many seconds."""

    amount: int
    seconds: float


Job = Callable[[], int]


def work(jobs: Sequence[Job]) -> list[Done]:
    """Do all jobs at once, each in a process; return what each did.

    Raises:
        CrewError: one failed, or did not come to an end.
    """
    context = multiprocessing.get_context("fork")
    ends = []
    for job in jobs:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_alone, args=(job, there))
        process.start()
        there.close()
        ends.append((process, here))
    try:
        return [_told(here) for _, here in ends]
    finally:
        for process, here in ends:
            here.close()
            process.join(_PATIENCE)
            process.kill()
            process.join()


def _told(here: "multiprocessing.connection.Connection") -> Done:
    if not here.poll(2 * _PATIENCE):
        raise CrewError("a process does not come to an end")
    try:
        told = here.recv()
    except EOFError:
        raise CrewError("a process ended without a word") from None
    if isinstance(told, str):
        raise CrewError(told)
    return Done(*told)


def _alone(job: Job, there: "multiprocessing.connection.Connection") -> None:
    """Let signals mean what they usually do: the handlers of the parent were forked, too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin = time.perf_counter()
    try:
        amount = job()
    except BaseException:  # noqa: BLE001  whatever it is, it is the result
        there.send(traceback.format_exc(limit=-1).strip())
    else:
        there.send((amount, time.perf_counter() - begin))
