"""Names and attributes: listings of many, and one after the other."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.bench import Bench, Meter, Sample
from bench.contestants import Contestant
from bench.data import Data, flat, nested
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import WrongContentError

__all__ = ["NAMES"]

_PATIENCE = 120.0  # seconds: who needs longer has failed
_THOUSAND = 1000.0
_STATS = 1000

Make = Callable[[Data, Path], Iterator[Path]]

_COMMANDS = {"ls_f": ["ls", "-f"], "ls_l": ["ls", "-l"], "find": ["find"]}
_TREES: dict[str, Make] = {
    "flat_1k": flat(1000),
    "flat_100k": flat(100_000),
    "nested_1k": nested(1000),
    "nested_100k": nested(100_000),
}


def _listing(command: list[str], tree: str) -> Workload:
    words = [*command, "-R"] if "nested" in tree and command[0] == "ls" else command

    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        keys = bench.data.need(tree, _TREES[tree])
        with bench.mounted(contestant, "names") as mount:
            pids = mount.pids
            with Meter(bench.server, pids) as meter:
                # Not sorted by C's strcoll, which would take longer than some of the listings.
                done = subprocess.run(
                    [*words, str(mount.directory / tree)],
                    check=True,
                    capture_output=True,
                    timeout=_PATIENCE,
                    env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                )
            sample = meter.sample(len(keys), _THOUSAND)
        if (found := done.stdout.count(b"name-")) != len(keys):
            raise WrongContentError(f"{found} of {len(keys)} names")
        return sample

    return Workload(
        name=f"{'_'.join(command).replace('-', '')}_{tree}",
        title=f"{' '.join(words)} over {tree.replace('_', ', ')} keys, just mounted",
        kind="names",
        columns=_COLUMNS,
        measure=one_by_one(measure),
    )


def _stats(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    """Look at names one after the other, twice, that were never listed."""
    keys = bench.data.need("flat_1k", _TREES["flat_1k"])[:_STATS]
    with bench.mounted(contestant, "names") as mount:
        paths = [str(mount.directory / key) for key in keys]
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            cold = _look(paths)
            warm = _look(paths)
        sample = meter.sample(2 * len(paths), _THOUSAND)
    sample.values["cold"] = len(paths) / cold
    sample.values["warm"] = len(paths) / warm
    return sample


def _look(paths: list[str]) -> float:
    begin = time.perf_counter()
    for path in paths:
        os.stat(path)  # noqa: PTH116  nothing but the call
    return time.perf_counter() - begin


_COSTS = (
    Column("cpu", "CPU s/1000", ".3f"),
    Column("machine_cpu", "machine", ".3f"),
    Column("server_cpu", "server", ".3f"),
    Column("peak", "peak MB", ".0f"),
    Column("asked", "requests", ".0f"),
)
_COLUMNS = (Column("seconds", "s", ".3f"), *_COSTS)

NAMES = (
    *(_listing(command, tree) for tree in _TREES for command in _COMMANDS.values()),
    Workload(
        name="stat_storm",
        title=f"stat {_STATS} names one after the other, never listed, and all again",
        kind="names",
        columns=(Column("cold", "cold/s", ".0f"), Column("warm", "warm/s", ".0f"), *_COSTS),
        measure=one_by_one(_stats),
        more_is_better=True,
    ),
)
