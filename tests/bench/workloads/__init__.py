"""What is measured: one row for each workload."""

from bench.workloads.base import Column, Workload
from bench.workloads.idle import IDLE_MEMORY
from bench.workloads.sequential import SEQ_READ, SEQ_WRITE
from bench.workloads.startup import MOUNT_TO_LS

__all__ = ["WORKLOADS", "Column", "Workload"]

WORKLOADS = {row.name: row for row in (SEQ_READ, SEQ_WRITE, MOUNT_TO_LS, IDLE_MEMORY)}
