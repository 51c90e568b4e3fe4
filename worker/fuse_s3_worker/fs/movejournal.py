"""Renames of directories on disk, for the worker that comes after one that ended too soon.

A journal is a file of lines, `CHECKSUM RECORD`; the checksum goes on from the line before, so that
no line can be changed, left out or moved. First comes the list of what is moved, which ends with a
line that says so; only then the first copy is made, so a list without its end tells of nothing
that was done. Behind it stands what cannot be found out by looking at the bucket. There the power
may have failed in the middle of a line, so reading ends where that shows.

Who writes a journal holds a lock on it; a second mount of the same bucket leaves it alone. When
everything is done the file is removed. A disk that fails costs the journal, and not the rename.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fuse_s3_worker.fs.moveplan import Plan
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.stagedir import write_all

__all__ = ["Journal", "Journals", "Unfinished"]

_log = logging.getLogger(__name__)

_NAME = "fuse-s3-rename"
_VERSION = 1
_BATCH = 500  # objects in a line
_SUFFIX = ".rename"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_LARGEST = 1 << 31  # bytes; what is larger is none of ours


class Unfinished(NamedTuple):
    """A rename that was broken off: to be finished, or to be undone."""

    plan: Plan
    journal: "Journal"
    undo: bool


class _UnusableError(ValueError):
    """A file is no journal of this version, or not all of one; the message says which."""


class Journal:
    """One rename on disk. What fails here is logged, and the rename goes on without.

    Attributes:
        path: the file.
        checksum: of everything in it.
    """

    def __init__(self, path: Path, fd: int, checksum: int = 0) -> None:
        self.path = path
        self._fd = fd
        self.checksum = checksum
        self._turn = asyncio.Lock()

    async def begin(self, plan: Plan) -> None:
        """Write the list, and return when the disk has it."""
        await self._write(lambda: self._snapshot(plan), sync=True)

    async def note(self, row: int, etag: str) -> None:
        """Note that a copy was made that has another entity tag than the original."""
        await self._write(lambda: [["etag", row, etag]])

    async def undo(self) -> None:
        """Note that the copies are to be removed."""
        await self._write(lambda: [["undo"]], sync=True)

    async def remove(self) -> None:
        """Forget it: everything is done."""
        async with self._turn:
            await asyncio.to_thread(self.discard)

    def close(self) -> None:
        """Let go of it; it stays for the next mount."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    async def _write(self, records: Callable[[], Any], *, sync: bool = False) -> None:
        async with self._turn:
            await asyncio.to_thread(self._append, records, sync=sync)

    def _append(self, records: Callable[[], Iterator[list[Any]]], *, sync: bool) -> None:
        if self._fd < 0:
            return
        try:
            for record in records():
                write_all(self._fd, self._line(record))
            if sync:
                os.fsync(self._fd)
        except OSError as error:
            details: dict[str, object] = {"journal": self.path, "reason": error}
            details["advice"] = "if this worker ends now, both names may be left"
            event(_log, logging.WARNING, "rename_journal_failed", details)
            self.discard()

    def _snapshot(self, plan: Plan) -> Iterator[list[Any]]:
        yield [_NAME, _VERSION, plan.source, plan.target]
        for start in range(0, len(plan), _BATCH):
            stop = min(start + _BATCH, len(plan))
            infos = ((row, plan.version(row)) for row in range(start, stop))
            yield ["keys", [[plan.name(row), *info[1:5]] for row, info in infos]]
        yield ["begin", len(plan)]

    def _line(self, record: list[Any]) -> bytes:
        text = json.dumps(record, separators=(",", ":")).encode()
        self.checksum = zlib.crc32(text, self.checksum)
        return b"%08x %s\n" % (self.checksum, text)

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.close()


class Journals:
    """The journals of one bucket and prefix, in a directory of theirs. Everything here blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self) -> Journal | None:
        """Return a new journal; None, and a line in the log, when there can be none."""
        path = self._directory / f"{time.time_ns():016x}-{secrets.token_hex(4)}{_SUFFIX}"
        try:
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            details: dict[str, object] = {"journal": path, "reason": error}
            event(_log, logging.WARNING, "rename_journal_failed", details)
            return None
        return Journal(path, fd)

    def unfinished(self) -> list[Unfinished]:
        """Return what others have left undone, the oldest first."""
        found = map(self._take, sorted(self._directory.glob(f"*{_SUFFIX}")))
        return [one for one in found if one is not None]

    def _take(self, path: Path) -> Unfinished | None:
        try:
            fd = os.open(path, _FLAGS)
        except OSError:
            return None  # its owner has just finished
        journal = Journal(path, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _read(journal, fd)
        except BlockingIOError:
            journal.close()  # somebody is at it
        except (OSError, _UnusableError) as error:
            details: dict[str, object] = {"journal": path, "reason": error}
            details["advice"] = "look for names that are at two places, and remove it"
            event(_log, logging.WARNING, "rename_journal_unusable", details)
            journal.close()
        return None


def _read(journal: Journal, fd: int) -> Unfinished | None:
    """Return what a journal tells of; None, and the journal goes, when nothing was done yet.

    Raises:
        _UnusableError: it cannot be understood.
    """
    with os.fdopen(os.dup(fd), "rb") as file:
        lines = _Lines(file.read(_LARGEST))
    try:
        records = lines.records()
        story = _Story(next(records, [_NAME, _VERSION, "", ""]))
        for record in records:
            story.take(*record)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        if isinstance(error, _UnusableError):
            raise
        raise _UnusableError(f"a record that makes no sense: {error!r}") from None
    if lines.goes_on:
        raise _UnusableError("it is damaged")
    if not story.begun:
        journal.discard()
        return None
    os.ftruncate(fd, lines.end)
    os.lseek(fd, lines.end, os.SEEK_SET)
    journal.checksum = lines.checksum
    return Unfinished(story.plan, journal, story.undo)


class _Lines:
    """The lines of a journal, up to where it is whole.

    Attributes:
        end: where that is.
        checksum: of everything before.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.checksum = 0
        self.end = 0

    @property
    def goes_on(self) -> bool:
        """Tell whether there are lines behind one that is not whole."""
        return self._data.count(b"\n", self.end) > 1

    def records(self) -> Iterator[Any]:
        """Yield what the lines say."""
        while (stop := self._data.find(b"\n", self.end)) >= 0:
            stated, _, text = self._data[self.end : stop].partition(b" ")
            checksum = zlib.crc32(text, self.checksum)
            if stated != b"%08x" % checksum:
                return
            self.checksum, self.end = checksum, stop + 1
            record = json.loads(text)
            if not isinstance(record, list):
                raise _UnusableError(f"no record: {text[:60]!r}")
            yield record


class _Story:
    """What the records of a journal come to."""

    def __init__(self, head: list[Any]) -> None:
        name, version, source, target = head
        if name != _NAME:
            raise _UnusableError("it does not begin as a journal does")
        if version != _VERSION:
            raise _UnusableError(f"it is of version {version}, this program knows {_VERSION}")
        self.plan = Plan(str(source), str(target))
        self.begun = False
        self.undo = False

    def take(self, kind: str, *values: Any) -> None:  # noqa: ANN401  whatever is in the file
        """Take the next record."""
        before: dict[str, Callable[..., None]] = {"keys": self._keys, "begin": self._begin}
        behind: dict[str, Callable[..., None]] = {"etag": self._etag, "undo": self._undo}
        (behind if self.begun else before)[kind](*values)

    def _keys(self, keys: list[list[Any]]) -> None:
        for name, size, mtime, etag, storage_class in keys:
            key = self.plan.source + str(name)
            self.plan.add(ObjectInfo(key, int(size), int(mtime), str(etag), str(storage_class)))

    def _begin(self, count: int) -> None:
        if count != len(self.plan):
            raise _UnusableError(f"it lists {len(self.plan)} keys and says {count}")
        self.begun = True

    def _etag(self, row: int, etag: str) -> None:
        self.plan.etags[range(len(self.plan))[row]] = str(etag)

    def _undo(self) -> None:
        self.undo = True
