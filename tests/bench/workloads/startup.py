"""From the command to mount until a program sees the bucket's names."""

import subprocess
import time

from bench import processes
from bench.bench import Bench, Sample
from bench.contestants import Contestant
from bench.data import SMALL_FILES
from bench.workloads.base import Column, Workload, one_by_one

__all__ = ["MOUNT_TO_LS", "IncompleteListingError"]

_LAST_LINES = 0.1  # seconds until nginx has logged what was answered
_PATIENCE = 60.0


class IncompleteListingError(Exception):
    """ls did not show what is in the bucket."""


def _mount_to_ls(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    server = bench.server
    server.requests.take()
    pids = server.pids
    before, ended = processes.cpu_seconds(pids), processes.ended_cpu_seconds()
    with bench.mounted(contestant, "names") as mount:
        ended = processes.ended_cpu_seconds() - ended  # mount(8) and the helper, not ls
        done = subprocess.run(
            ["ls", str(mount.directory)], capture_output=True, timeout=_PATIENCE, check=True
        )
        seconds = time.perf_counter() - mount.started
        # Nothing else happens meanwhile, so the server's CPU time is the time that it took.
        server_seconds = processes.cpu_seconds(pids) - before
        own = ended + processes.cpu_seconds(mount.pids)
        time.sleep(_LAST_LINES)
        asked = server.requests.take()
    if (found := len(done.stdout.split())) < SMALL_FILES:
        raise IncompleteListingError(f"ls shows {found} of {SMALL_FILES} names")
    values = {
        "seconds": seconds * 1000,
        "less_server": (seconds - server_seconds) * 1000,
        "own_cpu": own * 1000,
        "asked": asked.total,
    }
    return Sample(values, asked.operations)


MOUNT_TO_LS = Workload(
    name="mount_to_ls",
    title=f"mount, then ls: until the names of {SMALL_FILES} objects are on the terminal",
    kind="names",
    columns=(
        Column("seconds", "ms", ".0f"),
        Column("less_server", "less the server's", ".0f"),
        Column("own_cpu", "own CPU ms", ".0f"),
        Column("asked", "requests", ".0f"),
    ),
    measure=one_by_one(_mount_to_ls),
)
