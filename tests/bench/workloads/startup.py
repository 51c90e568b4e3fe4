"""From the command to mount until a program sees the bucket's names, or a file's bytes."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import processes
from bench.bench import Bench, Sample
from bench.contestants import Contestant
from bench.data import BIG, SMALL_FILES
from bench.workloads.base import Column, Workload, one_by_one

__all__ = ["STARTUP", "IncompleteListingError"]

_LAST_LINES = 0.1  # seconds until nginx has logged what was answered
_PATIENCE = 60.0
_FIRST = 4096  # bytes


class IncompleteListingError(Exception):
    """ls did not show what is in the bucket, or a file had no bytes."""


def _ls(directory: Path) -> None:
    done = subprocess.run(
        ["ls", str(directory)], capture_output=True, timeout=_PATIENCE, check=True
    )
    if (found := len(done.stdout.split())) < SMALL_FILES:
        raise IncompleteListingError(f"ls shows {found} of {SMALL_FILES} names")


def _read(directory: Path) -> None:
    file = os.open(directory / BIG, os.O_RDONLY)
    try:
        if len(os.pread(file, _FIRST, 0)) != _FIRST:
            raise IncompleteListingError("the file has no bytes")
    finally:
        os.close(file)


def _until(use: Callable[[Path], None]) -> Callable[[Bench, Contestant, bool], Sample]:
    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        bench.server.requests.take()
        ended = processes.ended_cpu_seconds()
        with bench.mounted(contestant, "names") as mount:
            ended = processes.ended_cpu_seconds() - ended  # mount(8) and the helper, not ls
            use(mount.directory)
            seconds = time.perf_counter() - mount.started
            own = ended + processes.cpu_seconds(mount.pids)
            time.sleep(_LAST_LINES)
            asked = bench.server.requests.take()
        values = {
            "seconds": seconds * 1000,
            "less_server": (seconds - asked.busy) * 1000,
            "own_cpu": own * 1000,
            "asked": asked.total,
        }
        return Sample(values, asked.operations)

    return measure


_COLUMNS = (
    Column("seconds", "ms", ".0f"),
    Column("less_server", "less the server's", ".0f"),
    Column("own_cpu", "own CPU ms", ".0f"),
    Column("asked", "requests", ".0f"),
)

STARTUP = (
    Workload(
        name="mount_to_ls",
        title=f"mount, then ls: until the names of {SMALL_FILES} objects are on the terminal",
        kind="names",
        columns=_COLUMNS,
        measure=one_by_one(_until(_ls)),
    ),
    Workload(
        name="mount_to_read",
        title="mount, then read: until the first 4 KiB of a file of 1 GiB are there",
        kind="names",
        columns=_COLUMNS,
        measure=one_by_one(_until(_read)),
    ),
)
