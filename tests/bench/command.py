"""The command line of `make bench`."""

import argparse
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench.contestants import CONTESTANTS, OURS
from bench.plan import PLAN, Row, Stage, stages
from bench.server.configuration import SHAPES
from bench.workloads import GROUPS, WORKLOADS

__all__ = ["ROOT", "parser", "rows"]

ROOT = Path(__file__).resolve().parent.parent.parent
_GIB = 1 << 30
_ROUNDS = 3  # of what is not in the plan
_PEERS = ("s3fs", "rclone")


def rows(given: argparse.Namespace) -> list[Row]:
    """Return what is to be measured: the plan, or what the command line makes of it.

    Workloads that are named are measured where the plan does, or on the fast server.
    """
    names = given.workloads or list(dict.fromkeys(row.workload for row in PLAN))
    found = [row for name in names for row in _rows_of(name, given)]
    order = stages(PLAN) + stages(found)
    return sorted(found, key=lambda row: order.index(row.stage))


def _rows_of(name: str, given: argparse.Namespace) -> list[Row]:
    planned = [row for row in PLAN if row.workload == name]
    usual = Row(Stage("fast"), name, _ROUNDS, _PEERS)
    if given.workloads and (given.shape or given.tls is not None):
        shapes, kinds = given.shape or ["fast"], (False, True) if given.tls else (False,)
        wanted = [Stage(shape, tls) for shape in shapes for tls in kinds]
        by_stage = {row.stage: row for row in planned}
        found = [by_stage.get(stage, usual._replace(stage=stage)) for stage in wanted]
    else:
        found = [row for row in planned or [usual] if _is_wanted(row.stage, given)]
    return [_changed(row, given) for row in found]


def _is_wanted(stage: Stage, given: argparse.Namespace) -> bool:
    """Tell whether a row of the plan is left when it is narrowed."""
    right_shape = not given.shape or stage.shape in given.shape
    return right_shape and (given.tls is None or stage.tls == given.tls)


def _changed(row: Row, given: argparse.Namespace) -> Row:
    peers = row.peers if given.peers is None else given.peers
    return row._replace(rounds=given.rounds or row.rounds, peers=peers)


def parser() -> argparse.ArgumentParser:
    """Return what reads it."""
    made = argparse.ArgumentParser(prog="make bench", description=__doc__)
    workloads = _names(WORKLOADS, GROUPS)
    made.add_argument("--workloads", type=workloads, help="by default, what plan.py has")
    peers = [name for name in CONTESTANTS if name != OURS]
    made.add_argument("--peers", type=_names(peers, {"all": peers}))
    made.add_argument("--shape", type=_names(SHAPES))
    made.add_argument(
        "--tls", type=_flag, help="1: over HTTPS; with --workloads, both ways; 0: HTTP alone"
    )
    made.add_argument("--rounds", type=_positive)
    made.add_argument(
        "--seconds", type=float, default=3.0, help="for each measurement without an end"
    )
    made.add_argument(
        "--patience", type=float, default=6.0, help="seconds; who needs longer is not done"
    )
    made.add_argument("--size", type=int, default=_GIB, help="for trying the benchmark out")
    made.add_argument(
        "--install", action="store_true", help="install this tree's product for as long as it lasts"
    )
    made.add_argument("--output", type=Path, default=ROOT / "build/bench")
    return made


def _names(
    known: Iterable[str], groups: Mapping[str, list[str]] | None = None
) -> Callable[[str], list[str]]:
    """Return what argparse reads names with, apart by spaces or commas: * stands for anything."""
    rows = list(known)

    def read(text: str) -> list[str]:
        found: dict[str, None] = {}
        for word in text.replace(",", " ").split():
            matching = (groups or {}).get(word) or fnmatch.filter(rows, word)
            if not matching:
                there = ", ".join([*(groups or {}), *rows])
                raise argparse.ArgumentTypeError(f"unknown: {word}; there are: {there}")
            found |= dict.fromkeys(matching)
        return list(found)

    return read


def _flag(text: str) -> bool:
    if text not in {"0", "1"}:
        raise argparse.ArgumentTypeError("0 or 1")
    return text == "1"


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
