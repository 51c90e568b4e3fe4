"""What was set and is not stored yet: put off for a moment, so that a burst costs one request.

A program that copies a file with all that it has sets its owner, mode and times one after another.
Each is shown at once. They are stored together, a moment after the last of them, with the bytes if
there are any to be stored, or when somebody asks for them to be safe.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.log import event

__all__ = ["Pending"]

_log = logging.getLogger(__name__)

QUIET = 0.2  # seconds without another change
_LONGEST = 1.0  # seconds after the first, whatever comes


class Pending:
    """Nodes with changes, and when they are stored.

    Args:
        core: of the file system.
        store: stores the changes of a node; does nothing when there are none.
    """

    def __init__(self, core: Core, store: Callable[[Node], Awaitable[None]]) -> None:
        self._core = core
        self._store = store
        self._waiting: dict[Node, tuple[asyncio.TimerHandle, float]] = {}
        self._storing: dict[Node, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._storing)

    def add(self, node: Node) -> None:
        """Have the changes of a node stored soon."""
        loop = asyncio.get_running_loop()
        timer, first = self._waiting.get(node, (None, loop.time()))
        if timer is None:
            node.pins += 1
        else:
            timer.cancel()
        at = min(loop.time() + QUIET, first + _LONGEST)
        self._waiting[node] = loop.call_at(at, self._due, node), first

    def drop(self, node: Node) -> None:
        """Have nothing stored: there is nothing any more."""
        waiting = self._waiting.pop(node, None)
        if waiting is not None:
            waiting[0].cancel()
            self._core.nodes.unpin(node)

    def _due(self, node: Node) -> None:
        task = asyncio.create_task(self._store_late(node))
        self._storing[node] = task
        task.add_done_callback(lambda task: self._ended(node, task))
        self.drop(node)

    def _ended(self, node: Node, task: asyncio.Task[None]) -> None:
        if self._storing.get(node) is task:
            del self._storing[node]

    async def _store_late(self, node: Node) -> None:
        """Store changes that nobody waits for any more; failures are logged and kept in mind."""
        node.pins += 1
        try:
            async with self._core.claims.changing(node):
                await self._store(node)
        except ServeError as error:
            details: dict[str, object] = {"key": node.key, "reason": error}
            event(_log, logging.ERROR, "metadata_failed", details | error.details)
            if node.record is not None and (node.readers or node.writers):
                node.record.failed = error
            if self._core.kernel is not None:
                self._core.kernel.invalidate(node.id)
        finally:
            self._core.nodes.unpin(node)

    async def flush(self, node: Node) -> None:
        """Store the changes of a node now; those that are being stored are waited for by their key.

        Whoever may be waited for by a rename has a claim, and this asks for none.

        Raises:
            ServeError: that cannot be, and they are gone.
        """
        self.drop(node)
        node.pins += 1
        try:
            await self._store(node)
        finally:
            self._core.nodes.unpin(node)

    async def close(self) -> None:
        """Store everything; what fails is logged."""
        for node in list(self._waiting):
            self._due(node)
        while self._storing:
            await asyncio.wait(list(self._storing.values()))
