"""What HEAD said of objects, on disk: a second look costs a listing and nothing else.

A row is good for one version, told by key, entity tag and Last-Modified, so nothing here is ever
out of date; the row of another version is replaced when a new one is heard of. It is a cache: the
file is not synced, and is dropped and begun anew when it turns out to be damaged. Each row has a
checksum, since a page that was half written may still look like one.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["AttributeStore"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Row = tuple[str, int, bytes]  # etag mtime headers

_VERSION = 1  # of the table; another one's file is begun anew
_ROWS_MAX = 1_000_000  # about 400 MB
_ROWS_KEPT = 0.9  # of them, when there are too many: those that were heard of last
_WRITE_AFTER = 1.0  # seconds after the first of a batch
_BATCH_MAX = 1_000  # rows; more are not left waiting
_KEYS_A_QUERY = 500  # below SQLite's bound on parameters
_BUSY = 1.0  # seconds that another mount of the same directory may hold the file
_FAILURES_MAX = 5  # in a row, after which nothing is tried any more

# What says nothing of the file itself: another mount has it, the disk is full or broken, or it is
# not ours to write. All else is damage, or another program's file.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY,
    }
)  # fmt: skip
_PRIMARY = 0xFF  # of an error code; the rest tells what exactly

_TABLE = """
CREATE TABLE IF NOT EXISTS object (
    key BLOB PRIMARY KEY, etag TEXT NOT NULL, mtime INTEGER NOT NULL, headers BLOB NOT NULL,
    sum INTEGER NOT NULL
) WITHOUT ROWID;
"""


class AttributeStore:
    """Keeps headers (fs.describer.Results).

    Args:
        directory: that the file is in; it must exist.
        bucket: what tells this bucket from all others, such as its address.
        limit: rows at most.
    """

    def __init__(self, directory: Path, bucket: str, *, limit: int = _ROWS_MAX) -> None:
        name = blake2b(bucket.encode(), digest_size=12).hexdigest()
        self.path = directory / f"attributes-{name}.sqlite"
        self._limit = limit
        # One thread: a connection is one thread's, and so is the file, as far as we are concerned.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "attributes")
        self._connection: sqlite3.Connection | None = None
        self._unusable = False
        self._failures = 0
        self._rows = 0
        self._batch: dict[bytes, _Row] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Future[None]] = set()

    # -- the loop's side ------------------------------------------------------------------------

    async def get(self, versions: Sequence[ObjectInfo]) -> list[Mapping[str, str] | None]:
        """Return the headers of each version, None where they are not known."""
        wanted = [(info.key.encode("utf-8", "surrogatepass"), info) for info in versions]
        missing = [key for key, _ in wanted if key not in self._batch]
        nothing: dict[bytes, _Row] = {}
        rows = await self._run(lambda: self._read(missing), nothing)
        found = [self._batch.get(key) or rows.get(key) for key, _ in wanted]
        return [
            _headers(row[2]) if row and row[:2] == (info.etag, info.mtime) else None
            for row, (_, info) in zip(found, wanted, strict=True)
        ]

    def put(self, info: ObjectInfo, headers: Mapping[str, str]) -> None:
        """Keep the headers of a version, a moment later."""
        if self._unusable:
            return
        text = json.dumps(dict(headers), separators=(",", ":")).encode()
        self._batch[info.key.encode("utf-8", "surrogatepass")] = info.etag, info.mtime, text
        if len(self._batch) >= _BATCH_MAX:
            self._write_now()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_WRITE_AFTER, self._write_now)

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, {}
        if batch:
            write = asyncio.ensure_future(self._run(lambda: self._write(batch), None))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        """Write what is not written, and close the file."""
        self._write_now()
        await asyncio.gather(*self._writes)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T], otherwise: _T) -> _T:
        """Do something in the thread; what fails there is logged, and is no failure here."""
        if self._unusable:
            return otherwise
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._guarded(work, otherwise))

    # -- the thread's side ----------------------------------------------------------------------

    def _guarded(self, work: Callable[[], _T], otherwise: _T) -> _T:
        if self._unusable:  # since this was put off
            return otherwise
        try:
            done = work()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # which names of a damaged table give
            if getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _PASSING:
                self._note_failure(error)
            else:
                self._drop(error)
        else:
            self._failures = 0
            return done
        return otherwise

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._unusable = self._failures >= _FAILURES_MAX
        level = logging.WARNING if self._unusable else logging.INFO
        event(_log, level, "attributes_not_kept", {"file": self.path, "reason": error})

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
        try:
            # Nothing is lost with it that cannot be asked for again.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("PRAGMA temp_store = MEMORY")  # no files in directories of others
            _check_version(connection)
            connection.executescript(_TABLE)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            (self._rows,) = connection.execute("SELECT count(*) FROM object").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, _Row]:
        connection, found = self._open(), dict[bytes, _Row]()
        for some in _chunks(keys):
            marks = ",".join("?" * len(some))
            query = f"SELECT * FROM object WHERE key IN ({marks})"  # noqa: S608  only marks
            for key, etag, mtime, headers, checksum in connection.execute(query, some):
                if checksum != _sum(key, etag, mtime, headers):
                    raise sqlite3.DatabaseError(f"the row of {key!r} is not what was written")
                found[key] = etag, mtime, headers
        return found

    def _write(self, batch: Mapping[bytes, _Row]) -> None:
        connection = self._open()
        rows = [
            (key, etag, mtime, headers, _sum(key, etag, mtime, headers))
            for key, (etag, mtime, headers) in batch.items()
        ]
        with _transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", rows)
            self._rows += len(rows)
            if self._rows > self._limit:
                self._make_room(connection)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Forget what changed longest ago, which is least likely to be looked at."""
        (count,) = connection.execute("SELECT count(*) FROM object").fetchone()
        excess = count - int(self._limit * _ROWS_KEPT)
        if count > self._limit:
            connection.execute(
                "DELETE FROM object WHERE key IN "
                "(SELECT key FROM object ORDER BY mtime LIMIT ?)", (excess,)
            )  # fmt: skip
            count -= excess
        self._rows = count

    def _drop(self, error: Exception) -> None:
        """Begin anew: what is damaged is of no use to anybody."""
        event(_log, logging.WARNING, "attributes_dropped", {"file": self.path, "reason": error})
        self._close()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as failure:
            self._failures = _FAILURES_MAX
            self._note_failure(failure)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _check_version(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in {0, _VERSION}:
        raise sqlite3.DatabaseError(f"a file of version {version}")


def _headers(text: bytes) -> Mapping[str, str]:
    headers: Mapping[str, str] = json.loads(text)
    return headers


def _sum(*row: object) -> int:
    return zlib.crc32(repr(row).encode())  # whatever a damaged row has in it


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _KEYS_A_QUERY):
        yield keys[start : start + _KEYS_A_QUERY]


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
