"""Many small files: copied out of the bucket, and into it, by 16 processes at once."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from bench.bench import Bench, Meter, Sample
from bench.content import CHUNK, Content
from bench.contestants import Contestant
from bench.data import small
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS, WrongContentError

__all__ = ["SMALL"]

_FILES, _SIZE = 5000, 64 << 10
_PROCESSES = 16
_STORED_WITHIN = 120.0  # seconds after the last close
_POLL = 0.01
_SET, _TARGET = "small", "written"


def _read_all(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    keys = bench.data.need(_SET, small(_FILES))
    with bench.mounted(contestant, "read") as mount:
        paths = [str(mount.directory / key) for key in keys]
        originals = [bench.server.file(key) for key in keys]
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            sizes = _side_by_side(_read, paths)
        if set(sizes) != {_SIZE}:
            raise WrongContentError(f"{sizes.count(_SIZE)} of {len(keys)} files have their size")
        if check:
            _compare(originals, [Path(path) for path in paths])
        return _sample(meter, len(paths))


def _write_all(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    count = bench.data.scaled(_FILES)
    keys = [f"{_TARGET}/{number:05}" for number in range(count)]
    stored = [bench.server.file(key) for key in keys]
    try:
        with bench.mounted(contestant, "write") as mount:
            (mount.directory / _TARGET).mkdir()
            paths = [str(mount.directory / key) for key in keys]
            pids = mount.pids
            _content()  # once, not in every process
            with Meter(bench.server, pids) as meter:
                _side_by_side(_write, paths)
                _wait_for(stored)
            if check:
                _compare(stored, stored[:1] * count)
            return _sample(meter, count)
    finally:
        bench.data.discard(f"{_TARGET}/")


def _side_by_side(work: Callable[[str], int], paths: list[str]) -> list[int]:
    """Have processes work on one file each, until all are done."""
    # Forked: what they need is there. There are no threads, and they come and go within.
    with multiprocessing.get_context("fork").Pool(_PROCESSES, _alone) as pool:
        return pool.map(work, paths, chunksize=8)


def _alone() -> None:
    """Let signals mean what they usually do: the handlers of the parent were forked, too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(path: str) -> int:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  nothing but the calls
        return sum(map(len, iter(partial(file.read, CHUNK), b"")))


def _write(path: str) -> int:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        return file.write(_content())


@cache
def _content() -> memoryview:
    return next(Content(_SIZE).chunks())


def _wait_for(files: list[Path]) -> None:
    """Wait until all are in the bucket: the server's own files, which appear complete."""
    until = time.monotonic() + _STORED_WITHIN
    for file in files:
        while not file.exists() or file.stat().st_size != _SIZE:
            if time.monotonic() > until:
                raise WrongContentError("not all objects became complete")
            time.sleep(_POLL)


def _compare(files: list[Path], others: list[Path]) -> None:
    for file, other in zip(files, others, strict=True):
        if file.read_bytes() != other.read_bytes():
            raise WrongContentError(f"{other.name} is not what {file.name} is")


def _sample(meter: Meter, count: int) -> Sample:
    sample = meter.sample(count * _SIZE)
    sample.values["files"] = count / meter.seconds
    return sample


_COLUMNS = (Column("files", "files/s", ".0f"), *COLUMNS)
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
)
