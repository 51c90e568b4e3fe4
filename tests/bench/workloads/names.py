"""Names and attributes: listings of many, and one after the other."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import processes, sockets
from bench.bench import Bench, Deadline, Meter, Sample
from bench.contestants import Contestant
from bench.data import Data, flat, nested
from bench.workloads.base import Column, Workload, one_by_one
from bench.workloads.sequential import WrongContentError

__all__ = ["NAMES"]

_THOUSAND = 1000.0
_STATS = 1000
_MILLION = 1_000_000
_WIDTH = 100  # names in each directory of a nested tree

Make = Callable[[Data, Path], Iterator[Path]]

_COMMANDS = {"ls_f": ["ls", "-f"], "ls_l": ["ls", "-l"], "find": ["find"]}
_TREES: dict[str, Make] = {
    "flat_1k": flat(1000),
    "flat_100k": flat(100_000),
    "nested_1k": nested(1000),
    "nested_10k": nested(10_000),
    "nested_100k": nested(100_000),
}


# -- ls and find -----------------------------------------------------------------------------------


def _run(command: list[str], deadline: Deadline) -> int:
    """Run a command; return how many names it printed before it ended, or time was over."""
    # Not sorted by C's strcoll, which would take longer than some of the listings.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, errors = child.communicate(timeout=max(deadline.left, 0.1))
    except subprocess.TimeoutExpired as late:
        child.kill()  # not waited for: it ends when the file system answers, or is abandoned
        return (late.output or b"").count(b"name-")
    if child.returncode:
        raise WrongContentError(errors.decode(errors="replace").strip()[-300:])
    return output.count(b"name-")


def _listing(command: list[str], tree: str, *, warm: bool = False) -> Workload:
    words = [*command, "-R"] if "nested" in tree and command[0] == "ls" else command

    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        keys = bench.data.need(tree, _TREES[tree])
        with bench.mounted(contestant, "known" if warm else "names") as mount:
            pids = mount.pids
            called = [*words, str(mount.directory / tree)]
            if warm:
                _run(called, bench.deadline())
            with Meter(bench.server, pids) as meter:
                deadline = bench.deadline()
                found = _run(called, deadline)
            sample = _sample(meter, found, len(keys))
            if deadline.over:
                mount.abandon()
        if found != len(keys) and not deadline.over:
            raise WrongContentError(f"{found} of {len(keys)} names")
        return sample

    when = "for the second time" if warm else "just mounted"
    return Workload(
        name=f"{'_'.join(command).replace('-', '')}_{tree}{'_warm' if warm else ''}",
        title=f"{' '.join(words)} over {tree.replace('_', ', ')} keys, {when}",
        kind="known" if warm else "names",
        columns=_COLUMNS,
        measure=one_by_one(measure),
        more_is_better=True,
        yardsticks=(("LIST, one by one", _pages(tree)),) if command == _COMMANDS["ls_f"] else (),
    )


def _sample(meter: Meter, found: int, total: int) -> Sample:
    """Add the rate of names, or one that was not reached: a command may show all or nothing."""
    sample = meter.sample(found, _THOUSAND, of=total)
    sample.values["names"] = (found or total) / meter.seconds
    return sample


def _pages(tree: str) -> Callable[[Bench], Sample]:
    """Return what lists the same keys over a socket: pages can follow one another no faster."""

    def measure(bench: Bench) -> Sample:
        total = len(bench.data.need(tree, _TREES[tree]))
        with Meter(bench.server) as meter:
            deadline = bench.deadline()
            found = sockets.list_pages(
                bench.server.connect, bench.server.bucket, f"{tree}/", lambda: deadline.over
            )
        return _sample(meter, found, total)

    return measure


# -- a million -------------------------------------------------------------------------------------


def _million(name: str, width: int) -> Workload:
    def measure(bench: Bench, contestant: Contestant, _: bool) -> Sample:
        total = bench.data.imagine(name, _MILLION, width)
        with bench.mounted(contestant, "known") as mount:
            pids = mount.pids
            before = processes.memory(pids).rss
            with Meter(bench.server, pids) as meter:
                # More names than anything else: whoever lists them is not in a hurry.
                deadline = Deadline(6 * bench.patience)
                found, first = _walk(mount.directory / name, deadline)
            sample = _sample(meter, found, total)
            sample.values["held"] = (processes.memory(pids).rss - before) / max(found, 1)
        if found != total and not deadline.over:
            raise WrongContentError(f"{found} of {total} names")
        sample.values["first"] = first * 1000
        return sample

    shape = f"{width} in each directory" if width else "in one directory"
    return Workload(
        name=f"list_1m_{name.split('_', maxsplit=1)[0]}",
        title=f"list a million keys, {shape}, for the first time, and believe them",
        kind="known",
        columns=(
            Column("names", "names/s", ".0f"),
            Column("held", "bytes held for a key", ".0f"),
            Column("first", "first name ms", ".0f"),
            *_COSTS,
        ),
        measure=one_by_one(measure),
        more_is_better=True,
        rounds=1,
    )


def _walk(directory: Path, deadline: Deadline) -> tuple[int, float]:
    """Go through a tree; return how many files it has, and when the first came, in seconds."""
    begin, first, found = time.perf_counter(), 0.0, 0
    waiting = [str(directory)]
    while waiting and not deadline.over:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                first = first or time.perf_counter() - begin
                found += 1
                if deadline.left < 0:
                    break
    return found, first


# -- one after the other ---------------------------------------------------------------------------


def _stats(bench: Bench, contestant: Contestant, _: bool) -> Sample:
    """Look at names one after the other, twice, that were never listed."""
    keys = bench.data.need("flat_1k", _TREES["flat_1k"])[:_STATS]
    with bench.mounted(contestant, "known") as mount:
        paths = [str(mount.directory / key) for key in keys]
        pids = mount.pids
        with Meter(bench.server, pids) as meter:
            cold, seen = _look(paths, bench.deadline())
            warm, _seen = _look(paths[:seen], bench.deadline())
        sample = meter.sample(seen, _THOUSAND, of=len(paths))
    sample.values["cold"] = seen / cold
    sample.values["warm"] = seen / warm
    return sample


def _look(paths: list[str], deadline: Deadline) -> tuple[float, int]:
    begin, seen = time.perf_counter(), 0
    for path in paths:
        if deadline.over:
            break
        os.stat(path)  # noqa: PTH116  nothing but the call
        seen += 1
    return time.perf_counter() - begin, seen


_COSTS = (
    Column("cpu", "CPU s/1000", ".3f"),
    Column("machine_cpu", "machine", ".3f"),
    Column("server_cpu", "server", ".3f"),
    Column("peak", "peak MB", ".0f"),
    Column("asked", "requests", ".0f"),
)
_COLUMNS = (Column("names", "names/s", ".0f"), Column("seconds", "s", ".3f"), *_COSTS)

NAMES = (
    *(_listing(command, tree) for tree in _TREES for command in _COMMANDS.values()),
    *(_listing(_COMMANDS[name], "flat_100k", warm=True) for name in ("ls_f", "ls_l")),
    _million("flat_1m", 0),
    _million("nested_1m", _WIDTH),
    Workload(
        name="stat_storm",
        title=f"stat {_STATS} names one after the other, never listed, and all again",
        kind="known",
        columns=(Column("cold", "cold/s", ".0f"), Column("warm", "warm/s", ".0f"), *_COSTS),
        measure=one_by_one(_stats),
        more_is_better=True,
    ),
)
