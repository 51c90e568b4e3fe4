"""What a workload is."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench.bench import Bench, Sample
from bench.contestants import Contestant, Kind

__all__ = ["Column", "Measure", "Outcome", "Workload", "Yardstick", "one_by_one"]

Outcome = tuple[str, Sample | Exception]
"""A contestant's name, and what was measured or why not."""

Measure = Callable[[Bench, Sequence[Contestant], bool], Iterator[Outcome]]
"""Measures each contestant once; True has it check, afterwards, that the content is right."""

Yardstick = Callable[[Bench], Sample | None]
"""Does the same without this kind of file system; None where that says nothing."""


class Column(NamedTuple):
    """A column of a table: the name of a value, its heading, its format."""

    value: str
    heading: str
    format: str


class Workload(NamedTuple):
    """One row.

    Attributes:
        name: for the command line and the files.
        title: what happens, in a line.
        kind: what it is about; see Contestant.
        columns: what the table shows; the first one decides who wins.
        measure: one round.
        more_is_better: of the first column.
        rounds: None for as many as are asked for.
        yardsticks: by name.
        packages: Debian's, which it takes.
    """

    name: str
    title: str
    kind: Kind
    columns: tuple[Column, ...]
    measure: Measure
    more_is_better: bool = False
    rounds: int | None = None
    yardsticks: tuple[tuple[str, Yardstick], ...] = ()
    packages: tuple[str, ...] = ()


def one_by_one(measure: Callable[[Bench, Contestant, bool], Sample]) -> Measure:
    """Make a round of what measures one contestant; one that fails does not stop the others."""

    def round_(bench: Bench, contestants: Sequence[Contestant], check: bool) -> Iterator[Outcome]:
        for contestant in contestants:
            try:
                yield contestant.name, measure(bench, contestant, check)
            except Exception as error:  # noqa: BLE001  whatever it is, it is the result
                yield contestant.name, error

    return round_
