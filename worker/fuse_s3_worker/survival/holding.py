"""What a mount needs to go on: its device, its state, its files, each kept under a name.

A worker stores them with its supervisor before it says that it serves; a successor finds them. Only
one worker at a time may have them: whoever has the state holds a lock on it, which ends with the
process and not with its descriptors, of which the supervisor has copies.
"""

import fcntl
import time
from collections.abc import Mapping

from fuse_s3_shared import handoff
from fuse_s3_worker.conversation import LOG_FILE, Order
from fuse_s3_worker.survival.recorder import StateRecorder
from fuse_s3_worker.survival.records import DamagedError, Log, newest
from fuse_s3_worker.survival.state import Kind, State, read_state
from fuse_s3_worker.survival.supervisor import Supervisor

__all__ = [
    "DEVICE",
    "SecondWorkerError",
    "begin",
    "failures",
    "inherit",
    "log_of",
    "order_of",
    "store",
]

DEVICE = "fuse"
_LOGS = ("state-a", "state-b")
_FILE = "file."
_MINUTE = 60.0  # seconds


class SecondWorkerError(Exception):
    """Another worker serves this mount, and lives."""


def begin(order: Order) -> StateRecorder:
    """Return the recorder of a new mount."""
    log, other = (Log.create(name) for name in _LOGS)
    log.begin()
    other.begin()
    _lock(log)
    recorder = StateRecorder(log, other)
    recorder.keep(Kind.ORDER, handoff.encode(order.mount))
    for file, _ in order.files.values():
        recorder.keep(Kind.FILE, handoff.encode(file))
    recorder.start(now())
    log.publish(1)
    return recorder


def store(supervisor: Supervisor, device: int, order: Order, recorder: StateRecorder) -> None:
    """Have everything kept."""
    supervisor.store(DEVICE, device)
    for name, fd in zip(_LOGS, recorder.descriptors, strict=True):
        supervisor.store(name, fd)
    for name, (_, fd) in order.files.items():
        supervisor.store(_FILE + name, fd)


def inherit(stored: Mapping[str, int]) -> tuple[State, StateRecorder]:
    """Take over what a predecessor has left.

    Raises:
        SecondWorkerError: it is not left yet.
        DamagedError: it is of no use.
    """
    if not stored.keys() >= set(_LOGS):
        raise DamagedError("there is none")
    logs = [Log(stored[name]) for name in _LOGS]
    _lock(logs[0])
    log = newest(logs)
    state = read_state(log)
    other = next(other for other in logs if other is not log)
    return state, StateRecorder(log, other, state)


def order_of(state: State, stored: Mapping[str, int]) -> Order:
    """Return what was ordered once.

    Raises:
        DamagedError: a file for it is missing.
    """
    try:
        files = {file.option: (file, stored[_FILE + file.option]) for file in state.files}
    except KeyError as error:
        raise DamagedError(f"{error} is missing") from None
    return Order(state.order, files)


def log_of(stored: Mapping[str, int]) -> int | None:
    """Return the file to log to, if there is one, where nothing else is known of the mount."""
    return stored.get(_FILE + LOG_FILE)


def failures(state: State, at: float) -> int:
    """Return how many workers failed in the minute before `at`, the predecessor included."""
    later = sum(not start.orderly and at - start.time < _MINUTE for start in state.starts[1:])
    return later + (not state.handed_over)


def now() -> float:
    """Return the time in seconds, which also passes while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _lock(log: Log) -> None:
    # Nothing else may ever open and close this memory: that would end the lock.
    try:
        fcntl.lockf(log.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SecondWorkerError("another worker serves this mount") from None
