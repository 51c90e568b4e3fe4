"""The worker's log, read back: `time LEVEL fuse-s3[pid] event key=value ...`."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from support.process import wait_until

__all__ = ["Line", "WorkerLog"]

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}) (?P<level>[A-Z]+) "
    r"fuse-s3\[(?P<pid>\d+)\] (?P<event>\S+)(?P<rest>.*)"
)
_FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|\S+)')
_QUIET = ("DEBUG", "INFO")


class Line(NamedTuple):
    """One event."""

    level: str
    pid: int
    event: str
    fields: dict[str, str]
    text: str


class WorkerLog:
    """A file that workers append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def text(self) -> str:
        """Everything so far."""
        return self.path.read_text() if self.path.exists() else ""

    def lines(self, event: str = "") -> list[Line]:
        """Return the events of a name, or all that are well-formed."""
        parsed = (parse(text) for text in self.text.splitlines())
        return [line for line in parsed if line and event in {"", line.event}]

    def wait_for(self, event: str) -> list[Line]:
        """Return the events of a name when there is one; a program hears of an error first."""
        wait_until(lambda: self.lines(event), f"the worker's word about {event}")
        return self.lines(event)

    def unexpected(self, allowed: Iterable[str]) -> list[str]:
        """Return the lines that no test should be silent about.

        That is: warnings and errors that none of the `allowed` patterns is found in, and whatever
        is not a line of ours, such as a traceback.
        """
        patterns = [re.compile(pattern) for pattern in allowed]
        found = []
        for text in self.text.splitlines():
            line = parse(text)
            loud = line is None or line.level not in _QUIET
            if loud and not any(pattern.search(text) for pattern in patterns):
                found.append(text)
        return found


def parse(text: str) -> Line | None:
    """Return the event in a line; None when it is not one of ours."""
    match = _LINE.fullmatch(text)
    if not match:
        return None
    fields = {
        name: str(ast.literal_eval(value)) if value.startswith('"') else value
        for name, value in _FIELD.findall(match["rest"])
    }
    return Line(match["level"], int(match["pid"]), match["event"], fields, text)
