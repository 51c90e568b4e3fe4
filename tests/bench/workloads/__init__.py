"""What is measured: a table, in modules by what it is about."""

from bench.workloads.base import Column, Workload
from bench.workloads.fio import FIO
from bench.workloads.idle import IDLE_MEMORY
from bench.workloads.jobs import JOBS
from bench.workloads.names import NAMES
from bench.workloads.patterns import PATTERNS
from bench.workloads.scattered import RANDOM
from bench.workloads.sequential import SEQ_READ, SEQ_WRITE
from bench.workloads.small import SMALL
from bench.workloads.startup import STARTUP

__all__ = ["GROUPS", "WORKLOADS", "Column", "Workload"]

_GROUPS = {
    "core": (SEQ_READ, SEQ_WRITE, *STARTUP, IDLE_MEMORY),
    "fio": FIO,
    "jobs": JOBS,
    "random": RANDOM,
    "small": SMALL,
    "names": NAMES,
    "patterns": PATTERNS,
}

WORKLOADS = {row.name: row for rows in _GROUPS.values() for row in rows}

# What takes minutes, by the names that stand for several workloads on the command line.
GROUPS = {name: [row.name for row in rows] for name, rows in _GROUPS.items()}
GROUPS["all"] = list(WORKLOADS)
