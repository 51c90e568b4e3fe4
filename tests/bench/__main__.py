"""`make bench`: ours beside others, on one server, on this machine."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import FrameType

from bench import machine, processes, report
from bench.bench import Bench, Lasts
from bench.command import ROOT, parser, rows
from bench.content import Content
from bench.contestants import CONTESTANTS, OURS, Contestant
from bench.data import Data
from bench.memory import available, scratch
from bench.mounts import clean_up
from bench.plan import Row, Stage, stages
from bench.plot import draw
from bench.rounds import run, taking_part
from bench.server.configuration import SHAPES
from bench.server.nginx import Server
from bench.workloads import WORKLOADS
from support.install import installed

_SCRATCH = 6  # times the content: object, spool, parts and what is being joined
_SPARE = 2 << 30  # s3fs does not start with less than it may need one day; and many small files
_MEMORY = 8  # times the content, for everything
_BUSY = 0.2  # processors; above, figures are not worth much
_STOP = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return an exit status."""
    given = parser().parse_args(arguments)
    if os.geteuid() != 0:
        return _refuse("the benchmark mounts, which needs root: sudo make bench")
    wanted = rows(given)
    if not wanted:
        return _refuse("nothing is left to measure; make bench WORKLOADS=all has everything")
    names = dict.fromkeys(name for row in wanted for name in (OURS, *row.peers))
    contestants = [CONTESTANTS[name] for name in names]
    if subprocess.run([ROOT / "tools/need", *_packages(wanted)], check=False).returncode:
        return _refuse("see above")
    if not given.install and (reason := CONTESTANTS[OURS].missing()):
        return _refuse(f"{reason}: make install")
    if available() < _MEMORY * given.size:
        return _refuse(f"this takes {_MEMORY * given.size >> 20} MiB of free memory")
    for number in _STOP:
        signal.signal(number, _interrupt)
    processes.become_subreaper()
    try:
        with _product(install=given.install):
            return _run(given, wanted, _present(contestants))
    except KeyboardInterrupt:
        return _refuse("interrupted")


def _packages(wanted: Sequence[Row]) -> list[str]:
    """Return the Debian packages that this run takes."""
    found = {CONTESTANTS[name].package for row in wanted for name in row.peers} - {""}
    found |= {name for stage in stages(wanted) for name in SHAPES[stage.shape].packages}
    found |= {name for row in wanted for name in WORKLOADS[row.workload].packages}
    return sorted(found | {"openssl" for stage in stages(wanted) if stage.tls})


@contextlib.contextmanager
def _product(*, install: bool) -> Iterator[None]:
    """Have ours in the system: this tree's, or whatever is there."""
    if not install:
        yield
        return
    _say("having this tree's fuse-s3 installed; if tests run, this waits for their end")
    with installed():
        yield


def _refuse(why: str) -> int:
    sys.stderr.write(f"bench: {why}\n")
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)  # once is enough: now everything is taken away
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, flush=True)


def _present(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return those that can take part; say why the others cannot."""
    reasons = {row.name: row.missing() for row in contestants}
    for name, reason in reasons.items():
        if reason:
            _say(f"without {name}: {reason}")
    return [row for row in contestants if not reasons[row.name]]


def _run(
    given: argparse.Namespace, wanted: Sequence[Row], contestants: Sequence[Contestant]
) -> int:
    begin = time.monotonic()

    def say(text: str) -> None:
        _say(f"{time.monotonic() - begin:4.0f} s  {text}")

    facts = machine.describe(contestants) | {"content": given.size}
    facts["busy_with_something_else"] = load = machine.background_load()
    if load > _BUSY:
        _say(f"this machine is busy: {load:.1f} processors are in use before anything begins")
    if machine.installed_differs():
        _say("what is installed is not what this tree has: make install")
    measured: dict[Stage, report.Measured] = {}
    for stage in stages(wanted):
        say(f"the server {stage.title}")
        here = [row for row in wanted if row.stage == stage]
        measured[stage] = _measure(given, stage, here, contestants, say)
    by_name = {stage.name: tables for stage, tables in measured.items()}
    _say("".join(f"\n{stage.name}: the server {stage.title}" for stage in measured) + "\n")
    for line in report.tables(by_name):
        _say(line)
    path = given.output / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    report.as_json(facts, by_name, path)
    drawn = draw(path)
    _say(f"{time.monotonic() - begin:.0f} s; every sample is in {os.path.relpath(path)}{drawn}")
    failures = [results[OURS].failure for tables in measured.values() for _, results in tables]
    return int(any(failures))


def _measure(
    given: argparse.Namespace,
    stage: Stage,
    wanted: Sequence[Row],
    contestants: Sequence[Contestant],
    say: Callable[[str], None],
) -> report.Measured:
    """Measure everything that is to be measured on one server."""
    measured = []
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(scratch(_SCRATCH * given.size + _SPARE))
        stack.callback(clean_up, base)
        server = stack.enter_context(Server(base, shape=SHAPES[stage.shape], tls=stage.tls))
        lasts = Lasts(given.seconds, given.patience)
        bench = Bench(base, server, Data(server, Content(given.size)), lasts, say)
        stack.callback(bench.close)
        bench.data.begin()
        for row in wanted:
            workload = WORKLOADS[row.workload]
            beside = [one for one in contestants if one.name in (OURS, *row.peers)]
            results = run(bench, workload, taking_part(workload, beside), row.rounds)
            measured.append((workload, results))
    return measured


if __name__ == "__main__":
    sys.exit(main())
