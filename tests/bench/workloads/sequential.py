"""One large file, from its beginning to its end."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench import sockets
from bench.bench import Bench, Deadline, Meter, Sample
from bench.content import CHUNK
from bench.contestants import Contestant
from bench.data import BIG
from bench.workloads.base import Column, Workload, one_by_one

__all__ = [
    "COLUMNS",
    "SEQ_READ",
    "SEQ_WRITE",
    "WrongContentError",
    "read_bare",
    "read_through",
]

_KEY = "written"
_WRITE_PATIENCE = 2.5  # times that of others: what was written in part is in the bucket not at all
_POLL = 0.001

# In contents: the kernel's pages; and spool file, parts and object on the way.
_READ_MEMORY, _WRITE_MEMORY = 1.25, 4.0


class WrongContentError(Exception):
    """What was read or stored is not what it should be."""


# -- reading ---------------------------------------------------------------------------------------


def _read(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    with bench.mounted(contestant, "read") as mount:
        path, pids = mount.directory / BIG, mount.pids
        with bench.lent(_READ_MEMORY), Meter(bench.server, pids) as meter:
            deadline = bench.deadline()
            size = read_through(path, deadline)
        if size != bench.content.size and not deadline.over:
            raise WrongContentError(f"{size} bytes instead of {bench.content.size}")
        sample = meter.sample(size, of=bench.content.size)
        if check and not sample.note:
            _compare(bench, path)  # out of the kernel's pages: the very bytes that were read
        return sample


def read_through(path: Path, deadline: Deadline | None = None) -> int:
    """Read a file into nothing, or as much of it as there is time for; return how much."""
    total = 0
    for piece in _pieces(path):
        total += len(piece)
        if deadline is not None and deadline.over:
            break
    return total


def _pieces(path: Path) -> Iterator[memoryview]:
    """Yield the content of a file, in memory that is used again and again."""
    buffer = memoryview(bytearray(CHUNK))
    file = os.open(path, os.O_RDONLY)
    try:
        while count := os.readv(file, [buffer]):
            yield buffer[:count]
    finally:
        os.close(file)


def read_bare(bench: Bench) -> Sample | None:
    """Download BIG over a socket, with no file system."""
    if bench.server.shape.rate:
        return None  # it is that
    with bench.lent(_READ_MEMORY), Meter(bench.server) as meter:
        deadline = bench.deadline()
        size = sockets.download(bench.server.connect, bench.big_path, lambda: deadline.over)
    return meter.sample(size, of=bench.content.size)


def _read_tmpfs(bench: Bench) -> Sample | None:
    if bench.server.shape.rate:
        return None  # and this has nothing to do with it
    with Meter(bench.server) as meter:
        size = read_through(bench.server.file(BIG))
    return meter.sample(size)


def _compare(bench: Bench, path: Path) -> None:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    if digest.hexdigest() != bench.content.sha256:
        raise WrongContentError(f"the SHA-256 of {path.name} is not that of what was written")


# -- writing ---------------------------------------------------------------------------------------


def _write(bench: Bench, contestant: Contestant, check: bool) -> Sample:
    with bench.mounted(contestant, "write") as mount:
        pids = mount.pids
        # A name of its own: who was too slow for one may store it while the next one writes.
        key = f"{_KEY}-{contestant.name}"
        try:
            with bench.lent(_WRITE_MEMORY), Meter(bench.server, pids) as meter:
                stored = _write_file(bench, mount.directory / key, bench.server.file(key))
            sample = meter.sample(bench.content.size * stored, of=bench.content.size)
            if check and stored:
                _compare(bench, bench.server.file(key))
            return sample
        finally:
            sockets.delete(bench.server.connect, bench.object_path(key))


def _write_file(bench: Bench, path: Path, stored: Path) -> bool:
    """Write, close, and wait until the object is complete in the bucket; tell whether it is."""
    deadline = Deadline(_WRITE_PATIENCE * bench.patience)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for chunk in bench.content.chunks():
            if os.write(file, chunk) != len(chunk):
                raise WrongContentError("write(2) took less than it was given")
            if deadline.over:
                break
    finally:
        os.close(file)
    # The server's own file, which appears complete: asking for it would be a request more.
    while not (done := stored.exists() and stored.stat().st_size == bench.content.size):
        if deadline.over:
            break
        time.sleep(_POLL)
    return done


def _write_bare(bench: Bench) -> Sample | None:
    if bench.server.shape.rate:
        return None
    path = bench.object_path(_KEY)
    try:
        with bench.lent(_WRITE_MEMORY), Meter(bench.server) as meter:
            sockets.upload(bench.server.connect, path, bench.content.size, bench.content.chunks())
        return meter.sample(bench.content.size)
    finally:
        sockets.delete(bench.server.connect, path)


def _write_tmpfs(bench: Bench) -> Sample | None:
    if bench.server.shape.rate:
        return None
    path = bench.server.file("").parent / "yardstick"
    try:
        with bench.lent(_WRITE_MEMORY), Meter(bench.server) as meter, path.open("xb") as file:
            for chunk in bench.content.chunks():
                file.write(chunk)
        return meter.sample(bench.content.size)
    finally:
        path.unlink(missing_ok=True)


# -- the rows --------------------------------------------------------------------------------------

COLUMNS = (
    Column("rate", "GB/s", ".2f"),
    Column("cpu", "CPU s/GB", ".2f"),
    Column("machine_cpu", "machine", ".2f"),
    Column("server_cpu", "server", ".2f"),
    Column("peak", "peak MB", ".0f"),
    Column("asked", "requests", ".0f"),
)

SEQ_READ = Workload(
    name="seq_read_1g",
    title="read a file of 1 GiB that nobody has read yet, 1 MiB at a time",
    kind="read",
    columns=COLUMNS,
    measure=one_by_one(_read),
    more_is_better=True,
    yardsticks=(("bare socket", read_bare), ("tmpfs", _read_tmpfs)),
)

SEQ_WRITE = Workload(
    name="seq_write_1g",
    title="write a file of 1 GiB, 1 MiB at a time, until it is in the bucket",
    kind="write",
    columns=(*COLUMNS, Column("completing", "joining s", ".2f")),
    measure=one_by_one(_write),
    more_is_better=True,
    yardsticks=(("bare socket", _write_bare), ("tmpfs", _write_tmpfs)),
)
