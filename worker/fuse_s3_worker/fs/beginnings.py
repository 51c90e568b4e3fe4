"""Small files that come along with their lookup.

Who goes through a directory's files, looking up, opening and reading one after another, waits for
two answers of the store for each: what the file is, and what is in it. A GET gives both. So where
the last files of a directory were small and were read, the lookup of the next one brings its first
bytes too, and they are kept until it is opened. Where that was in vain, it ends until others were
read.
"""

import asyncio
from collections import OrderedDict

from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.segment import SMALL

__all__ = ["Beginnings"]

_EVIDENCE = 2  # files of a directory that were read in a row
_KEPT_MAX = 64  # at once; as many as programs look up side by side
_DIRECTORIES_MAX = 1_000
_KEEP = 1.0  # seconds until an open file is none that was looked up for it


class Beginnings:
    """The first bytes of files that were looked up and are about to be opened."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: OrderedDict[str, tuple[str, memoryview, float]] = OrderedDict()
        self._read: OrderedDict[str, int] = OrderedDict()  # files in a row, by directory
        self._timer: asyncio.TimerHandle | None = None
        pool.add_reclaimer(self, self._reclaim)

    def expected(self, directory_key: str) -> bool:
        """Tell whether a file that is looked up in a directory is going to be read."""
        return self._read.get(directory_key, 0) >= _EVIDENCE

    def opened(self, info: ObjectInfo) -> None:
        """Take note that a file is opened to be read."""
        directory_key = _directory_of(info.key)
        small = 0 < info.size <= SMALL
        self._read[directory_key] = self._read.pop(directory_key, 0) + 1 if small else 0
        if len(self._read) > _DIRECTORIES_MAX:
            self._read.popitem(last=False)

    def keep(self, info: ObjectInfo, data: memoryview) -> None:
        """Keep what came with a lookup, if there is memory for it."""
        self._drop(info.key)
        if len(self._kept) >= _KEPT_MAX:
            self._in_vain(next(iter(self._kept)))
        if not self._pool.charge_nowait(len(data)):
            return
        loop = asyncio.get_running_loop()
        self._kept[info.key] = info.etag, data, loop.time() + _KEEP
        if self._timer is None:
            self._timer = loop.call_later(_KEEP, self._expire)

    def take(self, info: ObjectInfo) -> memoryview | None:
        """Return the first bytes of a version, charged to the pool; the caller uncharges them."""
        etag, data, _ = self._kept.get(info.key, ("", None, 0.0))
        if data is None:
            return None
        if etag != info.etag:
            self._drop(info.key)
            return None
        del self._kept[info.key]
        return data

    def _drop(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._pool.uncharge(len(kept[1]))

    def _in_vain(self, key: str) -> None:
        self._drop(key)
        self._read[_directory_of(key)] = 0

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._kept:
            key, (_, _, until) = next(iter(self._kept.items()))
            if until > now:
                self._timer = loop.call_at(until, self._expire)
                return
            self._in_vain(key)

    def _reclaim(self) -> int:
        """Give back what nobody has opened; called when memory is short."""
        freed = sum(len(data) for _, data, _ in self._kept.values())
        for key in list(self._kept):
            self._in_vain(key)
        return freed

    def close(self) -> None:
        """Give everything back."""
        self._pool.remove_reclaimer(self)
        if self._timer is not None:
            self._timer.cancel()
        for key in list(self._kept):
            self._drop(key)


def _directory_of(key: str) -> str:
    return key[: key.rfind("/") + 1]
