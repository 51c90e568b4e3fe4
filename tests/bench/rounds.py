"""Who runs when: contestants take turns within a round, and nobody is always the first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.bench import Bench, Sample
from bench.contestants import Contestant
from bench.workloads import Workload

__all__ = ["Result", "run", "taking_part"]


@dataclass
class Result:
    """One contestant's samples in one workload; `failure` ends its part in it."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def median(self, value: str) -> float:
        """Return the median of a value."""
        return median(sample.values[value] for sample in self.samples)

    @property
    def bound(self) -> bool:
        """Tell whether it is not known how good it is, only that it is no better."""
        return any(sample.bound for sample in self.samples)

    @property
    def notes(self) -> list[str]:
        """What was not done in time."""
        return list(dict.fromkeys(sample.note for sample in self.samples if sample.note))

    @property
    def requests(self) -> dict[str, int]:
        """What the last round asked the server for."""
        return self.samples[-1].requests


def taking_part(workload: Workload, contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return those whose options make a difference here."""
    return [row for row in contestants if workload.kind in row.kinds]


def run(
    bench: Bench, workload: Workload, contestants: Sequence[Contestant], rounds: int
) -> dict[str, Result]:
    """Measure a workload so many times; return each contestant's result, the yardsticks' last.

    The last round checks what was read or stored.
    """
    rounds = workload.rounds or rounds
    results = {row.name: Result() for row in contestants}
    yardsticks = {name: Result() for name, _ in workload.yardsticks}
    for number in range(rounds):
        label = f"{workload.name} {number + 1}/{rounds}"
        turn = rotated([row for row in contestants if not results[row.name].failure], number)
        for name, outcome in workload.measure(bench, turn, number == rounds - 1):
            _note(bench, label, workload, name, results[name], outcome)
        for name, measure in workload.yardsticks:
            if sample := measure(bench):
                _note(bench, label, workload, name, yardsticks[name], sample)
    return results | {name: result for name, result in yardsticks.items() if result.samples}


def rotated(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Return the order of round `number`."""
    first = number % max(len(contestants), 1)
    return [*contestants[first:], *contestants[:first]]


def _note(
    bench: Bench,
    label: str,
    workload: Workload,
    name: str,
    result: Result,
    outcome: Sample | Exception,
) -> None:
    if isinstance(outcome, Exception):
        result.failure = f"{type(outcome).__name__}: {outcome}"
        bench.say(f"{label}  {name:15} failed: {result.failure}")
        return
    result.samples.append(outcome)
    column = workload.columns[0]
    shown = format(outcome.values[column.value], column.format)
    less = "less than " if outcome.bound else ""
    note = f"  ({outcome.note})" if outcome.note else ""
    bench.say(f"{label}  {name:15} {less}{shown:>7} {column.heading}{note}")
