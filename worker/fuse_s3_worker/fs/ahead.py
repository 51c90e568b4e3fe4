"""HEADs ahead of a program that looks at one name after another, as `ls -l` does.

A listing tells nothing of modes and owners; each object has to be asked, and one after another a
thousand would take a thousand times as long as a store takes to answer. So once names are looked at
in the order of a listing that is known, the names behind are asked for as well, in windows that
double while they are used, many at a time, and behind everything that somebody waits for.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.describer import Describer

__all__ = ["AT_ONCE", "Ahead"]

Learn = Callable[[str, str, Entry], Awaitable[object]]

AT_ONCE = 128  # requests; the pool has fewer connections, and keeps some for who waits
_FIRST_WINDOW = 16  # names
_LARGEST_WINDOW = 1024
_DIRECTORIES_MAX = 64  # that somebody goes through at the same time


class _Run:
    """Somebody who goes through a directory.

    Attributes:
        row: of the listing that was looked at last.
        window: how many names are asked for ahead; 0 before anything looks like an order.
        high: the row behind the last that was asked for.
    """

    __slots__ = ("high", "row", "window")

    def __init__(self, row: int) -> None:
        self.row = row
        self.window = 0
        self.high = 0


class Ahead:
    """Asks ahead.

    Args:
        metadata: has the listings.
        describer: knows what need not be asked for.
        learn: asks for a name in a directory.
    """

    def __init__(self, metadata: Metadata, describer: Describer, learn: Learn) -> None:
        self._metadata = metadata
        self._describer = describer
        self._learn = learn
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    def looked(self, key: str, name: str, *, begin: bool = True) -> None:
        """Take note that `name` in the directory `key` is looked at.

        `begin` tells that it is asked for by itself; a listing that brings attributes along, which
        the kernel always tries with the first names, is no reason to ask for any.
        """
        run = self._runs.get(key)
        if run is None and not begin:
            return
        row = self._metadata.row(key, name)
        if row is None:
            return
        if run is None:
            self._begin(key, row)
        elif begin or run.window:
            self._goes_on(key, run, row)

    def _begin(self, key: str, row: int) -> None:
        self._runs[key] = _Run(row)
        if len(self._runs) > _DIRECTORIES_MAX:
            self._runs.popitem(last=False)

    def _goes_on(self, key: str, run: _Run, row: int) -> None:
        self._runs.move_to_end(key)
        step, run.row = row - run.row, row
        if step < 0 or step > max(run.window, _FIRST_WINDOW):
            run.window = run.high = 0  # elsewhere, or from the beginning
        elif step and row + run.window // 2 >= run.high:
            run.window = min(max(run.window * 2, _FIRST_WINDOW), _LARGEST_WINDOW)
            start, run.high = max(row + 1, run.high), row + 1 + run.window
            self._spawn(self._ask(key, start, run.high))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, key: str, start: int, end: int) -> None:
        """Ask for the names in rows [start, end), after looking what is on disk."""
        wanted = list(self._metadata.names_in(key, start, end))
        await self._describer.load([entry.info for _, entry in wanted if entry.info is not None])
        for name, entry in wanted:
            if entry.info is None or self._describer.known(entry.info) is None:
                self._spawn(self._ask_one(key, name, entry))

    async def _ask_one(self, key: str, name: str, entry: Entry) -> None:
        async with self._turns:
            with contextlib.suppress(ServeError):  # whoever looks at it is told
                await self._learn(key, name, entry)

    async def close(self) -> None:
        """Ask for nothing more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
