"""`make bench`: ours beside others, on one server, on this machine."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench import machine, processes, report, sockets
from bench.bench import SMALL_FILES, Bench
from bench.content import Content
from bench.contestants import CONTESTANTS, OURS, Contestant
from bench.memory import available, scratch
from bench.mounts import clean_up
from bench.rounds import Result, run, taking_part
from bench.server.nginx import Server
from bench.workloads import WORKLOADS, Workload
from support.install import installed

_ROOT = Path(__file__).resolve().parent.parent.parent
_GIB = 1 << 30
_SCRATCH = 6  # times the content: object, spool, parts and what is being joined
_SPARE = 1 << 30  # s3fs does not start with less than it may need one day
_MEMORY = 8  # times the content, for everything
_BUSY = 0.2  # processors; above, figures are not worth much
_STOP = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return an exit status."""
    given = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        return _refuse("the benchmark mounts, which needs root: sudo make bench")
    contestants = [CONTESTANTS[name] for name in (OURS, *given.peers)]
    packages = sorted({"nginx", *(row.package for row in contestants if row.package)})
    if subprocess.run([_ROOT / "tools/need", *packages], check=False).returncode:
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
            return _run(given, _present(contestants))
    except KeyboardInterrupt:
        return _refuse("interrupted")


@contextlib.contextmanager
def _product(*, install: bool) -> Iterator[None]:
    """Have ours in the system: this tree's, or whatever is there."""
    if not install:
        yield
        return
    _say("having this tree's fuse-s3 installed; if tests run, this waits for their end")
    with installed():
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS))
    peers = [name for name in CONTESTANTS if name != OURS]
    parser.add_argument("--peers", type=_names(peers), default=peers)
    parser.add_argument("--rounds", type=_positive, default=3)
    parser.add_argument("--size", type=int, default=_GIB, help="for trying the benchmark out")
    parser.add_argument(
        "--install", action="store_true", help="install this tree's product for as long as it lasts"
    )
    parser.add_argument("--output", type=Path, default=_ROOT / "build/bench")
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what argparse reads a list of names with, apart by spaces or commas."""

    def read(text: str) -> list[str]:
        names = text.replace(",", " ").split()
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(known)}"
            )
        return names

    return read


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


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


def _run(given: argparse.Namespace, contestants: list[Contestant]) -> int:
    begin = time.monotonic()
    facts = machine.describe(contestants) | {"content": given.size, "rounds": given.rounds}
    facts["busy_with_something_else"] = load = machine.background_load()
    if load > _BUSY:
        _say(f"this machine is busy: {load:.1f} processors are in use before anything begins")
    if machine.installed_differs():
        _say("what is installed is not what this tree has: make install")
    measured: list[tuple[Workload, dict[str, Result]]] = []
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(scratch(_SCRATCH * given.size + _SPARE))
        stack.callback(clean_up, base)
        server = stack.enter_context(Server(base))
        bench = Bench(base, server, Content(given.size), _say)
        stack.callback(bench.close)
        _fill(bench)
        for name in given.workloads:
            workload = WORKLOADS[name]
            rows = taking_part(workload, contestants)
            measured.append((workload, run(bench, workload, rows, given.rounds)))
    for workload, results in measured:
        _say(f"\n{report.table(workload, results)}")
    path = given.output / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    report.as_json(facts, measured, path)
    _say(f"\n{time.monotonic() - begin:.0f} s; every sample is in {os.path.relpath(path)}")
    return int(any(results[OURS].failure for _, results in measured))


def _fill(bench: Bench) -> None:
    """Put the objects into the bucket that are there from the beginning."""
    port, content = bench.server.port, bench.content
    sockets.upload(port, bench.object_path(bench.big), content.size, content.chunks())
    for number in range(SMALL_FILES):
        sockets.upload(port, bench.object_path(f"small-{number:03}"), 0, ())


if __name__ == "__main__":
    sys.exit(main())
