"""What a worker was having the store do when it died.

The kernel asks the next worker again for whatever was not answered (NOTIFY_RESEND), and the one
before may have had its way already: the name that is to be removed is gone, the one that is to be
made is there. To a program that would be an error about its own success. So a worker records what
it is about to do, and where a request that comes again finds its work done, it looks there.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from fuse_s3_worker.fs.nodes import Nodes

__all__ = ["Attempts", "Change"]


class Change(StrEnum):
    """What is done to a key, or from one to another.

    COPY is recorded for a rename that may replace nothing, and RENAME, with the node's id, when the
    original may be gone from now on, or a directory be in two places. KEEP is for a directory that
    is to get a marker if it is empty in a moment: nobody asks for that, the next worker does it.
    """

    MAKE = "make"
    REMOVE = "remove"
    COPY = "copy"
    RENAME = "rename"
    KEEP = "keep"


class Attempts:
    """Tells the recorder of `nodes` what is under way, and knows what a predecessor has begun."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._before: set[str] = set()

    @contextmanager
    def doing(self, change: Change, *details: str) -> Iterator[None]:
        """Record that the store is asked for a change, and when that is over."""
        self.begin(change, *details)
        try:
            yield
        finally:
            self.end(change, *details)

    def begin(self, change: Change, *details: str) -> None:
        """Record that the store is going to be asked for a change."""
        self._nodes.recorder.begun(_text(change, details))

    def end(self, change: Change, *details: str) -> None:
        """Record that nobody will ask for it again: not now, but when it is answered."""
        text = _text(change, details)
        self._before.discard(text)
        asyncio.get_running_loop().call_soon(self._nodes.recorder.ended, text)

    def restore(self, begun: Iterable[str]) -> None:
        """Take over what a predecessor has recorded."""
        self._before = set(begun)

    def before(self, change: Change, *details: str) -> bool:
        """Tell whether a predecessor has begun a change, and nobody here has ended it."""
        return _text(change, details) in self._before

    def left(self, change: Change) -> list[str]:
        """Return the keys for which a predecessor has begun a change, and not ended it."""
        found = (text.split("\0") for text in sorted(self._before))
        return [details[0] for begun, *details in found if begun == change]


def _text(change: Change, details: tuple[str, ...]) -> str:
    return "\0".join((change, *details))
