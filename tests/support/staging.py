"""Staged files over the bucket in memory, in memory themselves or on a disk that fails at will."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.journal import Description
from fuse_s3_worker.transfer.planner import Limits
from fuse_s3_worker.transfer.staged import StagedFile
from fuse_s3_worker.transfer.stagedir import Place, StageDirectory
from fuse_s3_worker.transfer.staging import Staging
from support.gatedstore import GatedStore
from support.pattern import pattern
from support.virtualtime import settle

__all__ = [
    "BIG",
    "KEY",
    "LIMITS",
    "PART_MIN",
    "PLACE",
    "WHERE",
    "AtOnce",
    "Staged",
    "cache",
    "changed",
    "full_disk",
    "staged",
]

_T = TypeVar("_T")

KEY = "dir/file"
PART_MIN = 64 * KIB
LIMITS = Limits(send=100 * KIB, send_max=200 * KIB, part_min=PART_MIN, copy=300 * KIB)
PLACE = Place("http://127.0.0.1:1", "bucket", "")

BIG = pattern(20 * PART_MIN, 1)
"""Of many parts, so that it shows which of them move."""

WHERE = pytest.mark.parametrize("where", ["memory", "disk"])
"""Staged in either place: see `cache`."""


def cache(tmp_path: Path, where: str) -> Path | None:
    """Return the cache directory of a place that WHERE names."""
    return tmp_path if where == "disk" else None


def changed(data: bytes, offset: int, new: bytes) -> bytes:
    """Return `data` with `new` written over it at `offset`."""
    return data[:offset] + new + data[offset + len(new) :]


class AtOnce(Executor):
    """Does what threads would do, at once: time is virtual here, and a thread is not."""

    def submit(  # type: ignore[override]  # nobody here gives arguments
        self, work: Callable[[], _T], /
    ) -> "Future[_T]":
        done: Future[_T] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  whoever waits for it gets it
            done.set_exception(error)
        return done


class Staged:
    """One mount's staged files.

    Attributes:
        cache: the cache directory; None for memory.
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        store: GatedStore | None = None,
        budget: int = 64 * MIB,
        limits: Limits = LIMITS,
    ) -> None:
        self.store = store or GatedStore(part_min=limits.part_min)
        self.pool = Pool(budget)
        self.cache = cache
        directory = None
        if cache is not None:
            directory = StageDirectory.open(str(cache), PLACE, {"spec": "bucket"})
        self.staging = Staging(self.store, self.pool, limits, 1 << 40, directory, AtOnce())
        self.opened: list[StagedFile] = []

    def begin(self, base: ObjectInfo | None = None, key: str = KEY) -> StagedFile:
        """Open a file for writing."""
        file = StagedFile(self.staging, Description.of(key, base))
        self.opened.append(file)
        return file

    def base(self, data: bytes, key: str = KEY) -> ObjectInfo:
        """Put an object into the bucket that a file goes on from."""
        return self.store.write(key, data)

    def stored(self, key: str = KEY) -> bytes | None:
        """Return what is in the bucket."""
        found = self.store.stored(key)
        return found.data if found else None

    @property
    def requests(self) -> list[str]:
        """What was asked of the store, in order."""
        return [operation for operation, _ in self.store.requests]

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that were sent and fetched."""
        return self.store.sent, self.store.fetched

    @property
    def directory(self) -> StageDirectory:
        """Where stages are on disk."""
        assert self.staging.directory is not None
        return self.staging.directory

    @property
    def left(self) -> list[str]:
        """The names of the files in the cache directory."""
        directory = self.staging.directory
        names = os.listdir(directory.path) if directory else []  # noqa: PTH208
        return sorted(name for name in names if name != "bucket.json")

    async def finish(self) -> None:
        """Close everything: all memory is back, and nothing is left in the bucket half done."""
        for file in self.opened:
            await file.close()
        await settle()
        assert self.pool.statistics().used == 0
        assert self.pool.statistics().waiting == 0
        assert self.pool._reclaimers == {}
        assert self.staging._memory.used == 0
        assert self.staging._borrowers == {}
        assert self.store.uploads == {}
        if self.staging.directory:
            self.staging.directory.close()


@asynccontextmanager
async def staged(
    cache: Path | None = None, *, budget: int = 64 * MIB, limits: Limits = LIMITS
) -> AsyncIterator[Staged]:
    """Set up; in the end nothing may be left."""
    made = Staged(cache, budget=budget, limits=limits)
    yield made
    await made.finish()


def full_disk(*_: object, **__: object) -> int:
    """Fail as a write to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
