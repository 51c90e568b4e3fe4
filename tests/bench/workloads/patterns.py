"""Reading here and there in large files, as programs do that know what they look for."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.bench import Bench, Deadline, Meter, Sample
from bench.contestants import Contestant
from bench.data import BIG, links
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS, WrongContentError

__all__ = ["PATTERNS"]

_KIB, _MIB = 1 << 10, 1 << 20
_SET = "links"

Places = Callable[[int], Iterator[tuple[int, int]]]
"""From a file's size to offsets and lengths, in the order in which they are read."""


def _backward(size: int) -> Iterator[tuple[int, int]]:
    """A quarter of the file in steps of 1 MiB, from its end."""
    for at in range(size - _MIB, size - size // 4 - 1, -_MIB):
        yield at, _MIB


def _strided(size: int) -> Iterator[tuple[int, int]]:
    """128 KiB of every 4 MiB."""
    for at in range(0, size, 4 * _MIB):
        yield at, 128 * _KIB


def _columns(size: int) -> Iterator[tuple[int, int]]:
    """A table of 8 groups of rows and 16 columns: its footer, then 3 columns of each group."""
    yield size - 8, 8
    yield size - 64 * _KIB, 64 * _KIB
    chunk = size // 8 // 16
    for group in range(8):
        for column in (1, 6, 12):
            start = (group * 16 + column) * chunk
            for at in range(start, start + chunk, _MIB):
                yield at, min(_MIB, start + chunk - at)


def _pattern(name: str, title: str, places: Places) -> Workload:
    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        with bench.mounted(contestant, "read") as mount:
            pids = mount.pids
            total = sum(length for _, length in places(bench.content.size))
            with Meter(bench.server, pids) as meter:
                size = _read(mount.directory / BIG, places(bench.content.size), bench.deadline())
            sample = meter.sample(size, of=total)
        sample.values["megabytes"] = sample.values["rate"] * 1000
        sample.values["times"] = sample.values["fetched"] * 1e6 / max(size, 1)
        return sample

    return Workload(
        name=name,
        title=title,
        kind="read",
        columns=(
            Column("megabytes", "MB/s", ".0f"),
            Column("seconds", "s", ".3f"),
            Column("times", "fetched/asked", ".2f"),
            *COLUMNS[1:],
        ),
        measure=one_by_one(measure),
        more_is_better=True,
    )


def _read(path: Path, places: Iterator[tuple[int, int]], deadline: Deadline) -> int:
    total = 0
    file = os.open(path, os.O_RDONLY)
    try:
        for at, length in places:
            if deadline.over:
                break
            if len(os.pread(file, length, at)) != length:
                raise WrongContentError(f"fewer than {length} bytes at {at}")
            total += length
    finally:
        os.close(file)
    return total


def _first_bytes(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    """Open files that nobody has looked at yet, and read the first 4 KiB of each."""
    keys = bench.data.need(_SET, links)
    with bench.mounted(contestant, "read") as mount:
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            deadline = bench.deadline()
            taken = [_first_byte(mount.directory / key) for key in keys if not deadline.over]
        sample = meter.sample(len(taken), 1.0, of=len(keys))
    sample.values["half"] = statistics.median(taken) * 1000
    sample.values["slowest"] = max(taken) * 1000
    return sample


def _first_byte(path: Path) -> float:
    begin = time.perf_counter()
    file = os.open(path, os.O_RDONLY)
    try:
        if not os.pread(file, 4 * _KIB, 0):
            raise WrongContentError(f"{path.name} is empty")
        return time.perf_counter() - begin
    finally:
        os.close(file)


PATTERNS = (
    Workload(
        name="first_byte",
        title="open a large file that was never looked at, and read its first 4 KiB",
        kind="read",
        columns=(
            Column("half", "p50 ms", ".1f"),
            Column("slowest", "slowest", ".1f"),
            Column("cpu", "CPU s/file", ".4f"),
            Column("asked", "requests", ".0f"),
        ),
        measure=one_by_one(_first_bytes),
    ),
    _pattern("backward", "read 256 MiB of 1 GiB backward, 1 MiB at a time", _backward),
    _pattern("strided", "read 128 KiB of every 4 MiB of 1 GiB", _strided),
    _pattern("parquet", "read the end of 1 GiB, then 24 pieces of 8 MiB in it", _columns),
)
