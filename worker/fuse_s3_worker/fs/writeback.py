"""Storing later: what was closed is on the disk as what is to be stored, and stored in a while.

Off unless `write_back=` says how long a while is. Whoever closes a file gets it back sooner, and
files that are closed again and again are stored once. fsync never waits here, nor does unmounting:
it hurries everything along.
"""

import asyncio
import logging
from typing import Protocol

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.log import event
from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["WriteBack"]

_log = logging.getLogger(__name__)

_AGAIN_AFTER = 30.0  # seconds, at least, until storing is tried again


class Storing(Protocol):
    """Who stores files."""

    async def store(self, node: Node) -> None:
        """Store what was written to a file."""

    async def end_upload(self, node: Node) -> None:
        """Let go of what was written."""


class WriteBack:
    """The files that were closed and are not stored yet."""

    def __init__(self, core: Core, seconds: float, storing: Storing) -> None:
        self._core = core
        self._seconds = seconds
        self._storing = storing
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def has(self, node: Node) -> bool:
        """Tell whether a file is to be stored later."""
        return node in self._tasks

    def nodes(self) -> set[Node]:
        """Return the files that are to be stored later."""
        return set(self._tasks)

    async def takes(self, node: Node, file: FileWriter) -> bool:
        """Take a file that was closed; False when it is to be stored at once, if at all.

        Raises:
            ServeError: storing it has failed already.
        """
        if not self._seconds or not file.dirty or self._hurry.is_set():
            return False
        if not await file.defer():
            return False
        if node not in self._tasks:
            node.pins += 1
            self._tasks[node] = asyncio.create_task(self._store_later(node))
        return True

    async def _store_later(self, node: Node) -> None:
        pause = self._seconds
        try:
            while _waits(node):
                await self._wait(pause)
                pause = max(self._seconds, _AGAIN_AFTER)
                if await self._stored(node) or self._hurry.is_set():
                    break
        finally:
            del self._tasks[node]
            if not node.writers:
                async with self._core.claims.changing(node):
                    await self._storing.end_upload(node)
            self._core.nodes.unpin(node)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _stored(self, node: Node) -> bool:
        """Store a file as it was closed; False when it is worth another try."""
        if not _waits(node):
            return True  # somebody else had it stored, and maybe goes on writing
        try:
            async with self._core.claims.changing(node):
                await self._storing.store(node)
        except ServeError as error:
            details: dict[str, object] = {"key": node.key, "reason": error} | error.details
            event(_log, logging.ERROR, "write_back_failed", details)
            return not _waits(node)
        return True

    def hurry(self) -> None:
        """Let nothing wait from now on."""
        self._hurry.set()

    async def close(self) -> None:
        """Store everything now."""
        self.hurry()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))


def _waits(node: Node) -> bool:
    """Tell whether a file is to be stored as it was closed, and can be."""
    return node.upload is not None and node.upload.sealed and node.upload.failed is None
