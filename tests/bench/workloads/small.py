"""Many small files: copied out of the bucket, and into it, by 16 processes at once."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from bench import crew
from bench.bench import Bench, Deadline, Meter, Sample
from bench.content import CHUNK, Content
from bench.contestants import Contestant
from bench.data import small
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS, WrongContentError

__all__ = ["SMALL"]

_FILES, _SIZE = 5000, 64 << 10
_PROCESSES = 16
_CREATED = 50
_POLL = 0.002
_MORE = 2.0  # times the patience: 16 processes that wait 20 ms for each need nearly that long
_SET, _TARGET = "small", "written"


def _read_all(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    keys = bench.data.need(_SET, small(_FILES))
    with bench.mounted(contestant, "read") as mount:
        paths = [mount.directory / key for key in keys]
        originals = [bench.server.file(key) for key in keys]
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            deadline = Deadline(_MORE * bench.patience)
            done = sum(one.amount for one in crew.work(_shares(partial(_read, deadline), paths)))
        if done != len(paths) and not deadline.over:
            raise WrongContentError(f"{done} of {len(keys)} files have their size")
        sample = _sample(meter, done, len(paths))
        if delay := bench.server.shape.delay:
            least = sample.values["asked_each"] * delay / _PROCESSES
            sample.values["limit"] = sample.values["files"] * least
        if check and not sample.note:
            # Together: one process would wait for the server for minutes.
            crew.work(_shares(_compare, originals, paths))
        return sample


def _write_all(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    count = bench.data.scaled(_FILES)
    keys = [f"{_TARGET}/{number:05}" for number in range(count)]
    stored = [bench.server.file(key) for key in keys]
    try:
        with bench.mounted(contestant, "write") as mount:
            (mount.directory / _TARGET).mkdir()
            paths = [mount.directory / key for key in keys]
            pids = mount.pids
            _content()  # once, not in every process
            with Meter(bench.server, pids) as meter:
                deadline = Deadline(_MORE * bench.patience)
                crew.work(_shares(partial(_write, deadline), paths))
                done = _wait_for(stored, deadline)
            if check and done == count:
                _compare(stored, stored[:1] * count)
            return _sample(meter, done, count)
    finally:
        bench.data.discard(f"{_TARGET}/")


def _shares(work: Callable[..., int], *lists: Sequence[Path]) -> "list[partial[int]]":
    """Give each process every sixteenth file, so that all go through the same directories."""
    turns = [slice(number, None, _PROCESSES) for number in range(_PROCESSES)]
    return [partial(work, *(paths[turn] for paths in lists)) for turn in turns]


def _read(deadline: Deadline, paths: Sequence[Path]) -> int:
    """Read files as long as there is time; return how many had their size."""
    right = 0
    for path in paths:
        if deadline.over:
            break
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  nothing but the calls
            right += sum(map(len, iter(partial(file.read, CHUNK), b""))) == _SIZE
    return right


def _write(deadline: Deadline, paths: Sequence[Path]) -> int:
    """Write files as long as there is time; return how many."""
    for number, path in enumerate(paths):
        if deadline.over:
            return number
        with open(path, "wb", buffering=0) as file:  # noqa: PTH123
            file.write(_content())
    return len(paths)


@cache
def _content() -> memoryview:
    return next(Content(_SIZE).chunks())


def _wait_for(files: Sequence[Path], deadline: Deadline) -> int:
    """Return how many are in the bucket in time: the server's own files, which appear complete."""
    waiting = list(files)
    while True:
        waiting = [path for path in waiting if not _is_stored(path, _SIZE)]
        if not waiting or deadline.over:
            return len(files) - len(waiting)
        time.sleep(_POLL)


def _is_stored(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _compare(files: Sequence[Path], others: Sequence[Path]) -> int:
    """Raise unless files are the same as others; return how many."""
    for file, other in zip(files, others, strict=True):
        if file.read_bytes() != other.read_bytes():
            raise WrongContentError(f"{other.name} is not what {file.name} is")
    return len(files)


def _sample(meter: Meter, done: int, count: int) -> Sample:
    sample = meter.sample(done * _SIZE, of=count * _SIZE)
    sample.values["files"] = (done or count) / meter.seconds
    sample.values["asked_each"] = sample.values["asked"] / max(done, 1)
    return sample


# -- one byte --------------------------------------------------------------------------------------


def _create(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    """Make files of one byte, one after the other, each until it is in the bucket."""
    count = bench.data.scaled(_CREATED)
    try:
        with bench.mounted(contestant, "write") as mount:
            directory, pids = mount.directory / _TARGET, mount.pids
            directory.mkdir()
            deadline = bench.deadline()
            taken = []
            with Meter(bench.server, pids) as meter:
                for number in range(count):
                    if deadline.over:
                        break
                    begin = time.perf_counter()
                    _write_byte(directory / f"{number}")
                    _wait_for_byte(bench.server.file(f"{_TARGET}/{number}"), deadline)
                    taken.append(time.perf_counter() - begin)
            sample = meter.sample(len(taken), 1.0, of=count)
    finally:
        bench.data.discard(f"{_TARGET}/")
    sample.values["half"] = statistics.median(taken) * 1000
    sample.values["slowest"] = max(taken) * 1000
    return sample


def _write_byte(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(file, b"x")
    finally:
        os.close(file)


def _wait_for_byte(file: Path, deadline: Deadline) -> None:
    while not (_is_stored(file, 1) or deadline.over):
        time.sleep(_POLL / 10)


# -- the rows --------------------------------------------------------------------------------------

_COLUMNS = (
    Column("files", "files/s", ".0f"),
    Column("asked_each", "requests a file", ".2f"),
    Column("limit", "of the limit", ".0%"),
    *COLUMNS,
)
_WHAT = f"{_FILES} files of 64 KiB with {_PROCESSES} processes"

SMALL = (
    Workload(
        name="small_read",
        title=f"read {_WHAT}",
        kind="read",
        columns=_COLUMNS,
        measure=one_by_one(_read_all),
        more_is_better=True,
    ),
    Workload(
        name="small_write",
        title=f"write {_WHAT}, until they are in the bucket",
        kind="write",
        columns=_COLUMNS,
        measure=one_by_one(_write_all),
        more_is_better=True,
    ),
    Workload(
        name="create_1b",
        title="create, write and close a file of one byte, until it is in the bucket",
        kind="write",
        columns=(
            Column("half", "p50 ms", ".1f"),
            Column("slowest", "slowest", ".1f"),
            Column("cpu", "CPU s/file", ".4f"),
            Column("asked", "requests", ".0f"),
        ),
        measure=one_by_one(_create),
    ),
)
