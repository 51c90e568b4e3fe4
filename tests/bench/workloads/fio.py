"""What fio measures: several readers at once, O_DIRECT, and places at random.

The parameters are those of Mountpoint for Amazon S3's own benchmarks: 256 KiB at a time for
sequential reads, psync, every job with a descriptor of its own.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.bench import Bench, Meter, Sample
from bench.contestants import Contestant
from bench.data import BIG
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import COLUMNS, read_bare

__all__ = ["FIO", "FioError"]

_KIB = 1 << 10
_PATIENCE = 90.0
_READ_MEMORY = 1.25  # contents: the kernel's pages
_NANOSECONDS = 1e6  # in a millisecond


class FioError(Exception):
    """fio failed."""


def _fio(bench: Bench, path: Path, *options: str) -> list[dict[str, Any]]:
    """Read `path` with fio; return what it says of each job, or of all if they are one group."""
    command = ["fio", "--name=bench", f"--filename={path}", "--readonly", "--ioengine=psync"]
    # Its own file is large enough, and dropping caches is for who is root on a machine of his own.
    command += [f"--size={bench.content.size}", "--invalidate=0", "--thread"]
    done = subprocess.run(
        [*command, "--output-format=json", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    if done.returncode:
        raise FioError((done.stderr or done.stdout).strip()[-500:])
    document = json.loads(done.stdout[done.stdout.index("{") :])
    found: list[dict[str, Any]] = [job["read"] for job in document["jobs"]]
    return found


def _sequentially(bench: Bench, contestant: Contestant, *options: str) -> Sample:
    with bench.mounted(contestant, "read") as mount:
        pids = mount.pids
        with bench.lent(_READ_MEMORY), Meter(bench.server, pids) as meter:
            bound = f"--runtime={bench.patience}"
            jobs = _fio(bench, mount.directory / BIG, bound, *options)
        sample = meter.sample(sum(job["io_bytes"] for job in jobs), of=bench.content.size)
    # fio's own clock: it leaves out how long fio takes to start and to write its report.
    seconds = max(job["runtime"] for job in jobs) / 1000
    sample.values["rate"] = sum(job["io_bytes"] for job in jobs) / seconds / 1e9
    rates = [job["bw_bytes"] for job in jobs]
    sample.values["fair"] = min(rates) * len(rates) / sum(rates)
    return sample


def _at_random(bench: Bench, contestant: Contestant, *options: str) -> Sample:
    with bench.mounted(contestant, "read") as mount:
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            (read,) = _fio(bench, mount.directory / BIG, "--group_reporting", *options)
        sample = meter.sample(read["io_bytes"])
    sample.values["rate"] = read["bw_bytes"] / 1e9
    sample.values["megabytes"] = read["bw_bytes"] / 1e6
    sample.values["operations"] = read["iops"]
    sample.values["times"] = sample.values["fetched"] * 1e6 / read["io_bytes"]
    for percent, name in (("50.000000", "half"), ("99.000000", "slowest")):
        sample.values[name] = read["clat_ns"]["percentile"][percent] / _NANOSECONDS
    return sample


# -- the rows --------------------------------------------------------------------------------------


def _sequential(name: str, title: str, jobs: int, *options: str) -> Workload:
    fair = (Column("fair", "slowest job, of its share", ".0%"),) if jobs > 1 else ()

    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        share = bench.content.size // jobs
        ways = [f"--numjobs={jobs}", f"--offset_increment={share}", f"--io_size={share}"]
        return _sequentially(bench, contestant, "--rw=read", "--bs=256k", *ways, *options)

    return Workload(
        name=name,
        title=title,
        kind="read",
        columns=(COLUMNS[0], *fair, *COLUMNS[1:]),
        measure=one_by_one(measure),
        more_is_better=True,
        yardsticks=(("bare socket", read_bare),) if jobs == 1 else (),
        packages=("fio",),
    )


def _random(size: int, label: str, jobs: int) -> Workload:
    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        ways = [f"--numjobs={jobs}", f"--bs={size}", "--direct=1", "--norandommap"]
        # Bounded in time; and in bytes, so that a fast one has not read everything twice.
        bounds = [f"--runtime={bench.seconds}", f"--io_size={bench.content.size // jobs}"]
        sample = _at_random(bench, contestant, "--rw=randread", *ways, *bounds)
        if least := bench.server.shape.waiting(size):
            sample.values["limit"] = sample.values["operations"] * least / jobs
        return sample

    return Workload(
        name=f"rand_read_{label}_{jobs}",
        title=f"read {label} at places at random with O_DIRECT, {jobs} jobs",
        kind="read",
        columns=(
            Column("operations", "reads/s", ".0f"),
            Column("limit", "of the limit", ".0%"),
            Column("megabytes", "MB/s", ".1f"),
            Column("half", "p50 ms", ".2f"),
            Column("slowest", "p99 ms", ".2f"),
            Column("times", "fetched/asked", ".2f"),
            *COLUMNS[1:],
        ),
        measure=one_by_one(measure),
        more_is_better=True,
        packages=("fio",),
    )


_SIZES = ((4 * _KIB, "4k"), (256 * _KIB, "256k"), (1024 * _KIB, "1m"))

FIO = (
    _sequential("seq_read_4_jobs", "read a quarter of 1 GiB with each of 4 jobs", 4),
    _sequential("seq_read_direct", "read 1 GiB with O_DIRECT, 256 KiB at a time", 1, "--direct=1"),
    *(_random(size, label, jobs) for size, label in _SIZES for jobs in (1, 4, 16)),
)
