"""What is known of a staged file, as text that survives whoever wrote it: bytes in, bytes out.

One line for each record, `CHECKSUM RECORD`; the checksum goes on from the line before, so that no
line can be changed, left out or moved. First a snapshot, which ends with a line that says so: one
that lacks it, or anything in it, is refused. After it comes, record by record, what was done since.
There the power may have failed in the middle of a line, so reading ends where that shows.

A snapshot takes the place of the one before under another name and by rename(2), after the bytes
that it tells of; records are appended after theirs.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent, ExtentMap

__all__ = ["Description", "JournalError", "Log", "Record", "State", "decode"]

VERSION = 2

_SINCE_HEADERS = 2  # the version before says nothing of them, and is read
_NAME = "fuse-s3-staged"
_BATCH = 1_000  # extents in a line
_FIELDS = 5  # of an object
_NONE = -1  # the number of no source

Record = tuple[Any, ...]
"""A letter, and what it takes; see `_ACTIONS`."""


class JournalError(ValueError):
    """This is no journal, or not all of one, or one of another version; the message says which."""


class State(StrEnum):
    """What becomes of a staged file when nobody has it any more."""

    OPEN = "open"  # being written: half of a change, which is kept and not stored
    COMMITTING = "committing"  # closed or fsynced: to be stored
    CONFLICT = "conflict"  # another client has changed the object: kept


@dataclass
class Description:
    """Everything that is known of a staged file, but for its bytes.

    Attributes:
        key: what it is to be stored as.
        base: the version that it replaces; None when it replaces whatever is there.
        seen: what was there when that began, without a base.
        extents: what it is made of.
        state: what becomes of it.
        mtime: when it was last written to, in nanoseconds since the epoch.
        upload_id: of a multipart upload that was begun for it; "" for none.
        expected: the ETag of the object that it was about to become.
        headers: what the object is to carry; None for what there is to be known of that elsewhere.
        torn: whether the end of its journal is missing.
    """

    key: str
    base: ObjectInfo | None = None
    seen: ObjectInfo | None = None
    extents: ExtentMap = field(default_factory=ExtentMap)
    state: State = State.OPEN
    mtime: int = 0
    upload_id: str = ""
    expected: str = ""
    headers: dict[str, str] | None = None
    torn: bool = False

    @classmethod
    def of(cls, key: str, base: ObjectInfo | None, seen: ObjectInfo | None = None) -> Self:
        """Describe a file that nothing was done to yet."""
        mtime = base.mtime if base else time.time_ns()
        return cls(key, base, seen, ExtentMap(base), mtime=mtime)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.extents.size

    @property
    def written(self) -> int:
        """Bytes that nobody has but the stage."""
        return sum(extent.size for extent in self.extents if extent.written)

    @property
    def changed(self) -> bool:
        """Tell whether there is anything that the bucket does not have."""
        return not self.extents.unchanged(self.base)

    def stored(self, info: ObjectInfo) -> None:
        """Note that all of it is in the bucket, as `info`."""
        self.extents.rebase(info)
        self.base, self.state, self.mtime = info, State.OPEN, info.mtime
        self.upload_id = self.expected = ""
        self.headers = None

    def retarget(self, key: str, base: ObjectInfo | None) -> None:
        """Note that it is another key's from now on, where `base` has the bytes of its base."""
        if self.base is not None and base is not None:
            self.extents.replace_source(self.base, base)
        self.key, self.base = key, base


class Log:
    """Writes a journal, and remembers where it is."""

    def __init__(self, checksum: int = 0, sources: list[ObjectInfo] | None = None) -> None:
        self._checksum = checksum
        self._sources = sources or []

    def snapshot(self, known: Description) -> bytes:
        """Return all of a new journal; what is added from now on is added to that."""
        self._checksum, self._sources = 0, []
        head = {
            _NAME: VERSION,
            "key": known.key,
            "base": _plain(known.base),
            "seen": _plain(known.seen),
            "state": known.state,
            "mtime": known.mtime,
            "upload": known.upload_id,
            "expected": known.expected,
            "headers": known.headers,
        }
        lines, extents = [self._line(head)], list(known.extents)
        lines += [
            self._extents("x", extents[at : at + _BATCH]) for at in range(0, len(extents), _BATCH)
        ]
        return b"".join([*lines, self._line(["end", len(extents)])])

    def lines(self, record: Record) -> bytes:
        """Return one record more: a letter and what it takes."""
        if record[0] == "p":
            return self._extents(*record)
        return self._line([_plain(value) for value in record])

    def copy(self) -> Self:
        """Return a log that goes on from here."""
        return type(self)(self._checksum, list(self._sources))

    def _extents(self, letter: str, extents: Sequence[Extent], *values: object) -> bytes:
        """Return a record with extents, after those of sources that were not told yet."""
        lines, plain = [], []
        for start, end, source, offset, local in extents:
            number = _NONE
            if source is not None:
                if source not in self._sources:
                    self._sources.append(source)
                    lines.append(self._line(["o", _plain(source)]))
                number = self._sources.index(source)
            plain.append((start, end, number, offset, int(local)))
        return b"".join([*lines, self._line([letter, plain, *values])])

    def _line(self, value: object) -> bytes:
        text = json.dumps(value, separators=(",", ":")).encode()
        self._checksum = zlib.crc32(text, self._checksum)
        return b"%08x %s\n" % (self._checksum, text)


def decode(data: bytes) -> tuple[Description, Log]:
    """Read a journal; return what it tells, and what goes on writing it.

    Raises:
        JournalError: it cannot be relied on.
    """
    reader = _Reader(data)
    try:
        known = reader.snapshot()
        for record in reader.records():
            apply(known, record)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"a record that makes no sense: {error!r}") from None
    known.torn = reader.torn
    return known, Log(reader.checksum, reader.sources)


def apply(known: Description, record: Record) -> None:
    """Do to what is known what a record says."""
    letter, *values = record
    _ACTIONS[letter](known, *values)


class _Reader:
    """Walks over the lines; `torn` tells afterwards whether they ended in the middle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.checksum = 0
        self.sources: list[ObjectInfo] = []
        self.torn = False

    def values(self) -> Iterator[Any]:
        """Yield what the lines say, up to the first that is not whole."""
        while self._at < len(self._data):
            end = self._data.find(b"\n", self._at)
            stated, _, text = self._data[self._at : max(end, self._at)].partition(b" ")
            checksum = zlib.crc32(text, self.checksum)
            if end < 0 or stated != b"%08x" % checksum:
                self.torn = True
                return
            self.checksum, self._at = checksum, end + 1
            yield json.loads(text)

    def records(self) -> Iterator[Record]:
        """Yield what was done since the snapshot, with objects for their plain values."""
        for letter, *values in self.values():
            if letter == "o":
                self.sources.append(_info(*values))
            elif letter == "p":
                extents, mtime = values
                yield letter, [_extent(plain, self.sources) for plain in extents], int(mtime)
            elif letter == "n":
                key, base = values
                yield letter, _text(key), _info(base) if base else None
            elif letter == "r":
                yield letter, _info(*values)
            else:
                yield letter, *values

    def snapshot(self) -> Description:
        values = self.values()
        head = next(values, None)
        if not isinstance(head, dict) or _NAME not in head:
            raise JournalError("it does not begin as a journal does")
        version = head[_NAME]
        if version not in range(1, VERSION + 1):
            raise JournalError(f"it is of version {version}, this program knows 1 to {VERSION}")
        known = Description(
            key=_text(head["key"]),
            base=_info(head["base"]) if head["base"] else None,
            seen=_info(head["seen"]) if head["seen"] else None,
            state=State(head["state"]),
            mtime=int(head["mtime"]),
            upload_id=_text(head["upload"]),
            expected=_text(head["expected"]),
            headers=_headers(head["headers"]) if version >= _SINCE_HEADERS else None,
        )
        extents: list[Extent] = []
        for letter, content in values:
            if letter == "o":
                self.sources.append(_info(content))
            elif letter == "x":
                extents += (_extent(plain, self.sources) for plain in content)
            elif letter == "end" and content == len(extents):
                known.extents = ExtentMap.of(extents)
                return known
            else:
                raise JournalError(f"a snapshot has no record {letter!r}")
        raise JournalError("it is damaged or not whole")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _headers(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} are no headers")
    return {_text(name): _text(text) for name, text in value.items()}


def _plain(value: object) -> object:
    """Return what is written of a value: of an object all but whether it is in an archive.

    Such an object cannot be read, and so is never what a file is made of.
    """
    return value[:_FIELDS] if isinstance(value, ObjectInfo) else value


def _info(plain: list[Any]) -> ObjectInfo:
    key, size, mtime, etag, storage_class = plain
    return ObjectInfo(_text(key), int(size), int(mtime), _text(etag), _text(storage_class))


def _extent(plain: list[Any], sources: list[ObjectInfo]) -> Extent:
    start, end, number, offset, local = map(int, plain)
    if not 0 <= start < end or offset < 0 or number < _NONE:
        raise ValueError(f"no extent: {plain}")
    source = None if number == _NONE else sources[number]
    if source is not None and offset + end - start > source.size:
        raise ValueError(f"more than its source has: {plain}")
    return Extent(start, end, source, offset, local=bool(local))


# -- what was done, record by record ---------------------------------------------------------------


def _check_range(start: int, end: int) -> None:
    if not 0 <= start <= end:
        raise ValueError(f"{start} to {end} is no range")


def _wrote(known: Description, start: int, end: int, mtime: int) -> None:
    _check_range(start, end)
    known.extents.write(start, end)
    known.mtime = int(mtime)


def _zeroed(known: Description, start: int, end: int, mtime: int) -> None:
    _check_range(start, end)
    known.extents.zero(start, end)
    known.mtime = int(mtime)


def _truncated(known: Description, size: int, mtime: int) -> None:
    _check_range(0, size)
    known.extents.truncate(size)
    known.mtime = int(mtime)


def _put(known: Description, extents: Sequence[Extent], mtime: int) -> None:
    known.extents.put(extents)
    known.mtime = int(mtime)


def _loaded(known: Description, start: int, end: int) -> None:
    _check_range(start, end)
    known.extents.load(start, end)


def _unloaded(known: Description, start: int, end: int) -> None:
    _check_range(start, end)
    known.extents.unload(start, end)


def _begun(known: Description, upload_id: str) -> None:
    known.upload_id = _text(upload_id)


def _completing(known: Description, etag: str) -> None:
    known.expected = _text(etag)


def _carries(known: Description, headers: Mapping[str, str] | None) -> None:
    known.headers = _headers(headers)


def _became(known: Description, state: str) -> None:
    known.state = State(state)


_ACTIONS: dict[str, Callable[..., None]] = {
    "w": _wrote,
    "z": _zeroed,
    "t": _truncated,
    "p": _put,
    "l": _loaded,
    "u": _unloaded,
    "n": Description.retarget,
    "m": _begun,
    "c": _completing,
    "h": _carries,
    "r": Description.stored,
    "s": _became,
}
