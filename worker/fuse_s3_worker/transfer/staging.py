"""What all staged files of a mount share: where stages are made, and who borrows from whom.

A file can be made of bytes of another object, which nobody has moved yet. Before this mount changes
or removes that object, whoever borrows from it takes what it needs.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.assembly import Assembly
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.journal import Description
from fuse_s3_worker.transfer.planner import Limits
from fuse_s3_worker.transfer.stage import DiskStage, MemoryStage, Stage, StageMemory, Threads
from fuse_s3_worker.transfer.stagedir import StageDirectory

__all__ = ["Borrower", "Carried", "Staging"]

Carried = Callable[[str], Mapping[str, str] | None]
"""What the object of a key shall carry, where somebody knows; see `Description.headers`."""

_THREADS = 4  # a disk that is waited for in more places gets no faster


class Borrower(Protocol):
    """A file that is made of other objects' bytes."""

    async def detach(self, key: str) -> None:
        """Take what is borrowed from `key`."""


class Staging:
    """Makes stages.

    Attributes:
        limits: what parts may be like.
        size_limit: bytes of a file at most, where they have to be sent.
        directory: where stages are on disk; None when they are in memory.
        threads: who works with that.
        carried: tells what an object shall carry that is stored by the next worker.
    """

    def __init__(
        self,
        store: ObjectStore,
        pool: Pool,
        limits: Limits,
        size_limit: int,
        directory: StageDirectory | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.store = store
        self.pool = pool
        self.limits = limits
        self.size_limit = size_limit
        self.directory = directory
        self.threads = Threads(executor or ThreadPoolExecutor(_THREADS, "staging"))
        self.assembly = Assembly(store, pool, self.threads)
        self.carried: Carried = lambda _: None
        self._memory = StageMemory(pool)
        self._borrowers: dict[str, set[Borrower]] = {}

    async def stage(self, known: Description) -> Stage:
        """Make a stage for a file.

        Raises:
            FileSystemError: the disk is full, or fails.
        """
        directory = self.directory
        if directory is None:
            return MemoryStage(known, self._memory)
        try:
            entry = await self.threads.run(lambda: directory.create(known))
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise FileSystemError(
                errno.ENOSPC if full else errno.EIO,
                f"{directory.path}: {error.strerror}",
                logging.WARNING if full else logging.ERROR,
            ) from error
        return DiskStage(entry, known, self.threads)

    # -- memory ---------------------------------------------------------------------------------

    def add_reclaimer(self, owner: object, reclaim: Callable[[], int]) -> None:
        """Register who has memory that it can do without."""
        if self.directory is None:
            self.pool.add_reclaimer(owner, reclaim)
            self._memory.add_reclaimer(owner, reclaim)

    def remove_reclaimer(self, owner: object) -> None:
        """Forget it."""
        self.pool.remove_reclaimer(owner)
        self._memory.remove_reclaimer(owner)

    # -- who borrows from whom ------------------------------------------------------------------

    def borrow(self, key: str, file: Borrower) -> None:
        """Take note that `file` is made of bytes of `key`."""
        self._borrowers.setdefault(key, set()).add(file)

    def give_back(self, key: str, file: Borrower) -> None:
        """Take note that it is not any more."""
        borrowers = self._borrowers.get(key, set())
        borrowers.discard(file)
        if not borrowers:
            self._borrowers.pop(key, None)

    def give_back_all(self, file: Borrower) -> None:
        """Take note that it borrows from nobody any more."""
        for key in list(self._borrowers):
            self.give_back(key, file)

    async def about_to_change(self, key: str, changer: Borrower | None = None) -> None:
        """See that nobody but `changer` borrows from `key`.

        Raises:
            ServeError: somebody does, and cannot take it.
        """
        while borrowers := self._borrowers.get(key, set()) - {changer}:
            await asyncio.gather(*(file.detach(key) for file in borrowers))

    async def about_to_change_below(self, prefix: str) -> None:
        """See that nobody borrows from a key that begins with `prefix`.

        Raises:
            ServeError: somebody does, and cannot take it.
        """
        for key in [key for key in self._borrowers if key.startswith(prefix)]:
            await self.about_to_change(key)
