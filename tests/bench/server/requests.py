"""Counting what a server was asked, from nginx's log."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench.server.operations import operation, split_target

__all__ = ["LOG_FORMAT", "Count", "RequestLog", "count"]

LOG_FORMAT = (
    r"$request_method\t$request_uri\t$status\t$body_bytes_sent\t$request_length"
    r"\t$request_time\t$http_x_amz_copy_source\t$msec"
)

_SUCCESS = range(200, 300)


class Count(NamedTuple):
    """What was asked between two moments.

    Attributes:
        operations: how many of each; one that failed is counted with its status, "HeadObject 404".
        completing: seconds that completing multipart uploads took: the server's work alone.
        fetched: bytes of objects that were sent.
        busy: seconds in which the server had at least one request to answer.
        received: bytes of all requests, their heads included.
        sent: bytes of all replies.
    """

    operations: dict[str, int]
    completing: float
    fetched: int = 0
    busy: float = 0.0
    received: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.operations.values())


def count(text: str) -> Count:
    """Count the lines of a log."""
    operations: Counter[str] = Counter()
    completing, fetched, received, replied = 0.0, 0, 0, 0
    spans: list[tuple[float, float]] = []
    for line in text.splitlines():
        method, target, status, sent, asked, seconds, source, ended = line.split("\t")
        received, replied = received + int(asked), replied + int(sent)
        spans.append((float(ended) - float(seconds), float(ended)))
        name = operation(method, split_target(target), copies=bool(source))
        if name == "CompleteMultipartUpload":
            completing += float(seconds)
        if name == "GetObject":
            fetched += int(sent)
        operations[name if int(status) in _SUCCESS else f"{name} {status}"] += 1
    named = dict(sorted(operations.items()))
    return Count(named, completing, fetched, _together(spans), received, replied)


def _together(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasted."""
    total, until = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total


class RequestLog:
    """The log of a running server, read from where it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def skip(self) -> None:
        """Forget what was asked so far."""
        self.take()

    def take(self) -> Count:
        """Count what was asked since the last time.

        A line is written when a reply is on its way, which may be after its reader has it: who
        wants the last one waits a moment first.
        """
        with self._path.open() as log:
            log.seek(self._at)
            text = log.read()
            whole = text[: text.rfind("\n") + 1]
            self._at += len(whole.encode())
        return count(whole)
