"""Results as pictures: for each server one page, with a row of bars for each workload."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from bench.contestants import OURS

__all__ = ["bars", "draw"]

_CACHE = Path(__file__).resolve().parent.parent.parent / "build/matplotlib"
_WIDTH, _BAR, _MARGIN = 9.0, 0.28, 0.75  # inches
_OURS, _OTHERS = "#0b6e4f", "#9aa5b1"


def draw(results: Path) -> str:
    """Draw every server's results beside their JSON, as PNG and SVG; say so, or nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        return ""
    servers = json.loads(results.read_text())["servers"]
    for name, workloads in [row for row in servers.items() if row[1]]:
        _page(f"the server {name}", workloads, results.with_name(f"{results.stem}-{name}"))
    return ", with a PNG and an SVG for each server"


def _page(title: str, workloads: dict[str, Any], path: Path) -> None:
    os.environ.setdefault("MPLCONFIGDIR", str(_CACHE))  # not in the home of whoever measures
    # Imported here: it takes a second, and a run without it is a run.
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = [bars(workload) for workload in workloads.values()]
    heights = [len(row) * _BAR + _MARGIN for row in rows]
    figure = Figure(figsize=(_WIDTH, sum(heights) + _MARGIN), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, workload, row in zip(axes, workloads.values(), rows, strict=True):
        names, medians, below, above = zip(*row, strict=True)
        colours = [_OURS if name == OURS else _OTHERS for name in names]
        axis.barh(names, medians, xerr=(below, above), color=colours, ecolor="#333333")
        axis.invert_yaxis()
        better = "more" if workload["more_is_better"] else "less"
        axis.set_title(
            f"{workload['title']}: {workload['unit']}, {better} is better", fontsize=9, loc="left"
        )
    figure.suptitle(title)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_name(path.name + suffix))


def bars(workload: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """Return names, medians, and how far samples lie below and above them."""
    value = workload["decides"]
    found = []
    for name, result in workload["contestants"].items():
        samples = [sample["values"][value] for sample in result["samples"]]
        middle = result["median"].get(value, 0.0)
        low, high = min(samples, default=middle), max(samples, default=middle)
        found.append((name, middle, middle - low, high - middle))
    return found
