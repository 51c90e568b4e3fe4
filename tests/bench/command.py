"""The command line of `make bench`."""

import argparse
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.contestants import CONTESTANTS, OURS
from bench.server.configuration import SHAPES
from bench.workloads import GROUPS, WORKLOADS

__all__ = ["ROOT", "Stage", "parser", "stages"]

ROOT = Path(__file__).resolve().parent.parent.parent
_GIB = 1 << 30


class Stage(NamedTuple):
    """One server that everything is measured on."""

    shape: str
    tls: bool

    @property
    def name(self) -> str:
        """The key in the results."""
        return f"{self.shape}-tls" if self.tls else self.shape

    @property
    def title(self) -> str:
        """For people."""
        return f"{SHAPES[self.shape].description}, over HTTP{'S' if self.tls else ''}"


def stages(given: argparse.Namespace) -> list[Stage]:
    """Return the servers that the command line asks for."""
    kinds = (False, True) if given.tls else (False,)
    return [Stage(shape, tls) for shape in given.shape for tls in kinds]


def parser() -> argparse.ArgumentParser:
    """Return what reads it."""
    made = argparse.ArgumentParser(prog="make bench", description=__doc__)
    workloads = _names(WORKLOADS, GROUPS)
    made.add_argument("--workloads", type=workloads, default=GROUPS["core"])
    peers = [name for name in CONTESTANTS if name != OURS]
    made.add_argument("--peers", type=_names(peers), default=peers)
    made.add_argument("--shape", type=_names(SHAPES), default=["fast"])
    made.add_argument("--tls", action="store_true", help="over HTTPS too")
    made.add_argument("--rounds", type=_positive, default=3)
    made.add_argument(
        "--seconds", type=float, default=5.0, help="for each measurement without an end"
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


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
