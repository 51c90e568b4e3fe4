"""`make bench-compare`: two results side by side.

Times of two runs say little, on machines that do other things meanwhile. Costs in CPU time do,
and so does how ours stands to another one within the same run; so those are what is compared.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.contestants import OURS

__all__ = ["compare", "main"]

_COSTS = (("cpu", "CPU"), ("own_cpu", "CPU"), ("peak", "peak"), ("asked", "requests"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two files of results, by default the last two; return an exit status."""
    parser = argparse.ArgumentParser(prog="make bench-compare", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, help="two files, the older one first")
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    given = parser.parse_args(arguments)
    files = given.results or sorted(given.output.glob("*.json"))[-2:]
    if len(files) != 2:
        sys.stderr.write("bench-compare: two files of results are needed: A=... B=...\n")
        return 1
    old, new = (json.loads(file.read_text()) for file in files)
    if "servers" not in old or "servers" not in new:
        sys.stderr.write("bench-compare: these are not results of this benchmark\n")
        return 1
    print("\n".join(compare(old, new)))
    return 0


def compare(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield lines: for every workload of both, what became of it."""
    for name, text in _machines(old["machine"], new["machine"]):
        yield f"{name}: {text}"
    for server, workloads in new["servers"].items():
        before = old["servers"].get(server, {})
        for workload in [name for name in workloads if name in before]:
            yield f"\n{server}, {workload}: {workloads[workload]['title']}"
            yield from _contestants(before[workload], workloads[workload])


def _machines(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in old.keys() | new.keys():
        if old.get(name) != new.get(name):
            yield name, f"{old.get(name)} -> {new.get(name)}"


def _contestants(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    value, unit = new["decides"], new["unit"]
    if old["decides"] != value:
        yield f"  it was decided by {old['unit']}, and is by {unit}"
        return
    for name in [name for name in new["contestants"] if name in old["contestants"]]:
        then, now = old["contestants"][name], new["contestants"][name]
        if not (then["samples"] and now["samples"]):
            yield f"  {name}: failed, {then['failure'] or 'then not'} -> {now['failure'] or 'not'}"
            continue
        parts = [_change(unit, then["median"][value], now["median"][value])]
        parts += [
            _change(label, then["median"][cost], now["median"][cost])
            for cost, label in _COSTS
            if cost in then["median"] and cost in now["median"]
        ]
        if name != OURS and then["ours_is_times_better"] and now["ours_is_times_better"]:
            times = then["ours_is_times_better"], now["ours_is_times_better"]
            parts.append(f"ours is x {times[0]:.2f} -> x {times[1]:.2f}")
        yield f"  {name}: {'; '.join(parts)}"


def _change(label: str, old: float, new: float) -> str:
    percent = f" ({new / old - 1:+.0%})" if old else ""
    return f"{label} {old:.3g} -> {new:.3g}{percent}"


if __name__ == "__main__":
    sys.exit(main())
