"""Results as tables for people and as JSON for programs."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.contestants import OURS
from bench.rounds import Result
from bench.workloads import Column, Workload

__all__ = ["Measured", "as_json", "ratio", "table", "tables"]

Measured = Sequence[tuple[Workload, Mapping[str, Result]]]
"""What was measured on one server: workloads, and each contestant's result in them."""

_NOT_MEASURED = "-"


def ratio(workload: Workload, results: Mapping[str, Result], name: str) -> float | None:
    """Return how many times better ours is than `name`; None where there is nothing to compare."""
    ours, theirs = results.get(OURS), results[name]
    if ours is None or not ours.samples or not theirs.samples:
        return None
    value = workload.columns[0].value
    better, worse = ours.median(value), theirs.median(value)
    if not (better and worse):
        return None
    return better / worse if workload.more_is_better else worse / better


def tables(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield for each workload, in lines: its title, and its table on every server it has."""
    found: dict[str, list[tuple[str, Workload, Mapping[str, Result]]]] = {}
    for server, rows in measured.items():
        for workload, results in rows:
            found.setdefault(workload.name, []).append((server, workload, results))
    for name, there in found.items():
        yield f"{name}: {there[0][1].title}"
        for server, workload, results in there:
            yield table(workload, results, server)
        yield ""


def table(workload: Workload, results: Mapping[str, Result], server: str) -> str:
    """Return a table of medians, and below it what was asked of the server."""
    first, *rest = workload.columns
    headings = [server, first.heading, "from - to", "ours is", *(column.heading for column in rest)]
    rows = [headings, *(_row(workload, results, name) for name in results)]
    lines = list(_aligned(rows))
    lines += [f"  {name}: {result.failure}" for name, result in results.items() if result.failure]
    for name, result in results.items():
        lines += [f"  {name}: {note}" for note in result.notes]
    for name, result in results.items():
        if result.samples and (asked := result.requests):
            kinds = ", ".join(f"{count} {kind}" for kind, count in asked.items())
            lines.append(f"  {name} asked for: {kinds}")
    return "\n".join(lines)


def _row(workload: Workload, results: Mapping[str, Result], name: str) -> list[str]:
    result = results[name]
    if not result.samples:
        return [name, "failed", *[_NOT_MEASURED] * (len(workload.columns) + 1)]
    first, *rest = workload.columns
    values = [sample.values[first.value] for sample in result.samples]
    times = ratio(workload, results, name)
    return [
        name,
        ("< " if result.bound else "") + format(result.median(first.value), first.format),
        f"{min(values):{first.format}} - {max(values):{first.format}}",
        _NOT_MEASURED if times is None else ("> " if result.bound else "") + f"x {times:.2f}",
        *(_cell(result, column) for column in rest),
    ]


def _cell(result: Result, column: Column) -> str:
    if column.value not in result.samples[0].values:
        return _NOT_MEASURED
    return format(result.median(column.value), column.format)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join(["", name.ljust(widths[0]), *right])


def as_json(machine: Mapping[str, object], measured: Mapping[str, Measured], path: Path) -> None:
    """Write every sample, the medians, and the ratios, by server and workload."""
    servers = {
        name: {workload.name: _workload(workload, results) for workload, results in rows}
        for name, rows in measured.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "servers": servers}, indent=1) + "\n")


def _workload(workload: Workload, results: Mapping[str, Result]) -> dict[str, object]:
    first = workload.columns[0]
    return {
        "title": workload.title,
        "decides": first.value,
        "unit": first.heading,
        "more_is_better": workload.more_is_better,
        "contestants": {
            name: {
                "failure": result.failure,
                "bound": result.bound,
                "median": {
                    value: result.median(value)
                    for value in (result.samples[0].values if result.samples else ())
                },
                "ours_is_times_better": ratio(workload, results, name),
                "samples": [vars(sample) for sample in result.samples],
            }
            for name, result in results.items()
        },
    }
