"""Places at random in many files, and in one that several threads read with one descriptor."""

import mmap
import os
import random
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import crew
from bench.bench import Bench, Deadline, Meter, Sample
from bench.contestants import Contestant
from bench.data import BIG, medium
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS

__all__ = ["RANDOM"]

_SIZE = 256 << 10
_JOBS = 16
_FILES = 128


class _Places:
    """Reads pieces at random, past the kernel's pages; counts them."""

    def __init__(self, seed: int) -> None:
        self.count = 0
        self._random = random.Random(seed)
        self._buffer = mmap.mmap(-1, _SIZE)  # which O_DIRECT wants aligned

    def read(self, file: int, size: int) -> None:
        """Read one piece of a file."""
        at = self._random.randrange(size // _SIZE) * _SIZE
        if os.preadv(file, [self._buffer], at) != _SIZE:
            raise EOFError(f"nothing at {at}")
        self.count += 1

    def choice(self, files: Sequence[int]) -> int:
        """Return one of them."""
        return self._random.choice(files)


def _in_files(paths: Sequence[Path], deadline: Deadline, seed: int) -> int:
    """Read pieces of any of the files; return how many."""
    places = _Places(seed)
    files = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths]
    size = os.fstat(files[0]).st_size
    while not deadline.over:
        places.read(places.choice(files), size)
    for file in files:
        os.close(file)
    return places.count


def _with_threads(path: Path, deadline: Deadline) -> int:
    """Have threads read pieces of one file with one descriptor; return how many."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size = os.fstat(file).st_size
    readers = [_Places(seed) for seed in range(_JOBS)]

    def read(places: _Places) -> None:
        while not deadline.over:
            places.read(file, size)

    threads = [threading.Thread(target=read, args=(places,)) for places in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(file)
    return sum(places.count for places in readers)


def _measured(
    bench: Bench, contestant: Contestant, keys: Sequence[str], *, threads: bool
) -> Sample:
    with bench.mounted(contestant, "read") as mount:
        pids, paths = mount.pids, [mount.directory / key for key in keys]
        begin = time.perf_counter()
        with Meter(bench.server, pids) as meter:
            deadline = Deadline(bench.seconds)
            if threads:
                jobs = [partial(_with_threads, paths[0], deadline)]
            else:
                # Each has some of its own, and opens them first, as who reads a data set does.
                # Of a small content there are not enough for that.
                shares = [paths[n::_JOBS] or paths for n in range(_JOBS)]
                jobs = [partial(_in_files, share, deadline, n) for n, share in enumerate(shares)]
            count = sum(one.amount for one in crew.work(jobs))
            seconds = time.perf_counter() - begin
        sample = meter.sample(count * _SIZE)
    sample.values["operations"] = count / seconds
    if least := bench.server.shape.waiting(_SIZE):
        sample.values["limit"] = count / seconds * least / _JOBS
    sample.values["megabytes"] = count * _SIZE / seconds / 1e6
    sample.values["times"] = sample.values["fetched"] * 1e6 / max(count * _SIZE, 1)
    return sample


def _files(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    return _measured(bench, contestant, bench.data.need("medium", medium(_FILES)), threads=False)


def _threads(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    return _measured(bench, contestant, [BIG], threads=True)


_COLUMNS = (
    Column("operations", "reads/s", ".0f"),
    Column("limit", "of the limit", ".0%"),
    Column("megabytes", "MB/s", ".1f"),
    Column("times", "fetched/asked", ".2f"),
    *COLUMNS[1:],
)

RANDOM = (
    Workload(
        name="rand_read_files",
        title=f"read 256 KiB at places at random of {_FILES} files of 5 MiB, {_JOBS} processes",
        kind="read",
        columns=_COLUMNS,
        measure=one_by_one(_files),
        more_is_better=True,
    ),
    Workload(
        name="rand_read_threads",
        title=f"read 256 KiB at places at random with {_JOBS} threads and one descriptor",
        kind="read",
        columns=_COLUMNS,
        measure=one_by_one(_threads),
        more_is_better=True,
    ),
)
