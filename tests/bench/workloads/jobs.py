"""Several programs at once: readers and writers, each with files of its own."""

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

from bench import crew
from bench.bench import Bench, Deadline, Meter, Sample
from bench.content import CHUNK, Content
from bench.contestants import Contestant
from bench.data import BIG, links, medium
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS, WrongContentError

__all__ = ["JOBS"]

_FILES, _READERS = 128, 4
_WRITTEN = "written"
_PIECE = 64  # parts of the content that a writer of a mixed crowd makes a file of: 16 MiB
_MEMORY = 1.25  # contents: the kernel's pages
_WRITE_MEMORY = 4.0
_POLL = 0.002


# -- what one of them does -------------------------------------------------------------------------


def _read(paths: Iterator[Path], deadline: Deadline, start: int = 0) -> int:
    """Read files one after the other, the first from `start` on; return how many bytes."""
    buffer = memoryview(bytearray(CHUNK))
    total = 0
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.lseek(file, start, os.SEEK_SET)
            while not deadline.over and (size := os.readv(file, [buffer])):
                total += size
        finally:
            os.close(file)
        if deadline.over:
            break
        start = 0
    return total


def _write(paths: Iterator[Path], size: int, deadline: Deadline) -> int:
    """Write files one after the other; return how many bytes, of files that were closed."""
    total = 0
    for path in paths:
        if deadline.over:
            break
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for chunk in Content(size).chunks():
                os.write(file, chunk)
        finally:
            os.close(file)
        total += size
    return total


def _names(directory: Path, writer: int) -> Iterator[Path]:
    """Yield names that only this writer has."""
    for number in count():
        yield directory / f"{writer:03}-{number:05}"


def _stored(bench: Bench, deadline: Deadline, expected: int) -> int:
    """Return how many bytes are in the bucket, waiting for those that are expected."""
    directory = bench.server.file(_WRITTEN)
    while True:
        total = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        if total >= expected or deadline.over:
            return total
        time.sleep(_POLL)


# -- many files of 5 MiB ---------------------------------------------------------------------------


def _read_medium(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    keys = bench.data.need("medium", medium(_FILES))
    total = sum(bench.server.file(key).stat().st_size for key in keys)
    with bench.mounted(contestant, "read") as mount:
        pids, paths = mount.pids, [mount.directory / key for key in keys]
        with bench.lent(_MEMORY), Meter(bench.server, pids) as meter:
            deadline = bench.deadline()
            done = crew.work(
                [partial(_read, iter(paths[n::_READERS]), deadline) for n in range(_READERS)]
            )
        read = sum(one.amount for one in done)
        if read != total and not deadline.over:
            raise WrongContentError(f"{read} bytes instead of {total}")
        return meter.sample(read, of=total)


# -- one file each ---------------------------------------------------------------------------------


def _write_four(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    share = bench.content.size // _READERS
    try:
        with bench.mounted(contestant, "write") as mount:
            pids, directory = mount.pids, mount.directory / _WRITTEN
            directory.mkdir()
            with bench.lent(_WRITE_MEMORY), Meter(bench.server, pids) as meter:
                deadline = bench.deadline()
                crew.work(
                    [
                        partial(_write, iter([directory / f"{n}"]), share, deadline)
                        for n in range(_READERS)
                    ]
                )
                stored = _stored(bench, deadline, _READERS * share)
            return meter.sample(stored, of=_READERS * share)
    finally:
        bench.data.discard(f"{_WRITTEN}/")


# -- readers and writers ---------------------------------------------------------------------------


def _mixed(readers: int, writers: int) -> Workload:
    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        keys = [BIG, *bench.data.need("links", links)]
        piece = max(bench.content.size // _PIECE, 4096)
        try:
            with bench.mounted(contestant, "write") as mount:
                pids, directory = mount.pids, mount.directory / _WRITTEN
                directory.mkdir()
                with bench.lent(_MEMORY), Meter(bench.server, pids) as meter:
                    deadline = Deadline(bench.seconds)
                    jobs = []
                    for n in range(readers):
                        # Each from another place of another file, and round them all.
                        paths = islice(cycle(mount.directory / key for key in keys), n, None)
                        start = n // len(keys) * bench.content.size // (1 + readers // len(keys))
                        jobs.append(partial(_read, paths, deadline, start))
                    jobs += [
                        partial(_write, _names(directory, n), piece, deadline)
                        for n in range(writers)
                    ]
                    done = crew.work(jobs)
                    stored = _stored(bench, deadline, 1 << 62)
                read = [one.amount for one in done[:readers]]
                sample = meter.sample(sum(read) + stored)
        finally:
            bench.data.discard(f"{_WRITTEN}/")
        sample.values["read"] = sum(read) / meter.seconds / 1e6
        sample.values["written"] = stored / meter.seconds / 1e6
        sample.values["fair"] = min(read) / max(sum(read) / readers, 1.0)
        return sample

    return Workload(
        name=f"mixed_{readers}r{writers}w",
        title=f"{readers} read and {writers} write at once, files of their own",
        kind="write",
        columns=(
            COLUMNS[0],
            Column("read", "read MB/s", ".0f"),
            Column("written", "written MB/s", ".0f"),
            Column("fair", "slowest reader, of its share", ".0%"),
            *COLUMNS[1:],
        ),
        measure=one_by_one(measure),
        more_is_better=True,
    )


JOBS = (
    Workload(
        name="seq_read_5m",
        title=f"read {_FILES} files of 5 MiB with {_READERS} processes",
        kind="read",
        columns=COLUMNS,
        measure=one_by_one(_read_medium),
        more_is_better=True,
    ),
    Workload(
        name="seq_write_4_jobs",
        title="write a quarter of 1 GiB with each of 4 jobs, until all are in the bucket",
        kind="write",
        columns=COLUMNS,
        measure=one_by_one(_write_four),
        more_is_better=True,
    ),
    *(_mixed(readers, writers) for readers, writers in ((2, 2), (16, 4), (64, 16))),
)
