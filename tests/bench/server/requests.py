"""Counting what a server was asked, from nginx's log."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench.server.operations import operation, split_target

__all__ = ["LOG_FORMAT", "Count", "RequestLog", "count"]

LOG_FORMAT = (
    r"$request_method\t$request_uri\t$status\t$bytes_sent\t$request_length"
    r"\t$request_time\t$http_x_amz_copy_source"
)

_SUCCESS = range(200, 300)


class Count(NamedTuple):
    """What was asked between two moments.

    Attributes:
        operations: how many of each; one that failed is counted with its status, "HeadObject 404".
        completing: seconds that completing multipart uploads took, the server's work alone.
        received: bytes of all requests, their heads included.
        sent: bytes of all replies.
    """

    operations: dict[str, int]
    completing: float
    received: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.operations.values())


def count(text: str) -> Count:
    """Count the lines of a log."""
    operations: Counter[str] = Counter()
    completing, received, sent = 0.0, 0, 0
    for line in text.splitlines():
        method, target, status, replied, asked, seconds, source = line.split("\t")
        received, sent = received + int(asked), sent + int(replied)
        name = operation(method, split_target(target), copies=bool(source))
        if name == "CompleteMultipartUpload":
            completing += float(seconds)
        operations[name if int(status) in _SUCCESS else f"{name} {status}"] += 1
    return Count(dict(sorted(operations.items())), completing, received, sent)


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
