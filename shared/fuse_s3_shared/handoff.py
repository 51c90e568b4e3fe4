"""The messages between the mount helper and its worker: values to bytes and back, no socket.

    helper                          worker
      |  <----------------- Hello     |  I am here and speak these versions
      |  File + memfd ------------>   |  a file that only root could read; any number of these
      |  Mount + /dev/fuse ------->   |  what to serve, and the descriptor to serve it on
      |  <----------- Ready | Refuse  |  the bucket answers and the options are right, or why not
      |  Serve ------------------->   |  the connection exists (detached): start reading
      |  <--------- Serving | Refuse  |  INIT is answered
      |  Mounted ----------------->   |  it is in its place; the helper leaves

A packet is a header (kind, number of fields, bytes of body) and the fields, each with its
length before it. The table below is the whole vocabulary: who may send a message, whether a
descriptor belongs to it, and the bound on every field. Anything else is refused, in both
directions, so that a lying worker meets an error and not a parser.
"""

import struct
from dataclasses import astuple, dataclass
from typing import NamedTuple

from fuse_s3_shared.limits import OPTIONS_MAX, PATH_MAX, REASON_MAX

_HEADER = struct.Struct("<HHI")  # kind, number of fields, bytes of body
_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")


class HandoffError(Exception):
    """A packet that is not in the table, or not in its shape; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First word of a worker: the protocol versions it speaks, and who it is, for the log."""

    version_min: int
    version_max: int
    program: str


@dataclass(frozen=True, slots=True)
class File:
    """A file for the option `option`, read from `path`: a sealed memfd, or the log to append to."""

    option: str
    path: str


@dataclass(frozen=True, slots=True)
class Mount:
    """What to serve. `options` is text that the helper did not read; uid and gid own the files.

    `read_only`: the kernel refuses writes. `sloppy`: unknown options are tolerated (mount -s).
    `dry_run`: judge the options, touch no network (mount -f). `foreground`: log to standard error.
    """

    version: int
    spec: str
    options: str
    uid: int
    gid: int
    read_only: bool
    sloppy: bool
    dry_run: bool
    foreground: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can serve this mount, whose files belong to `uid` and `gid`."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The worker cannot: an errno and one line for the user."""

    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class Serve:
    """A FUSE connection stands behind the descriptor now."""


@dataclass(frozen=True, slots=True)
class Serving:
    """INIT was answered."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """The mount is attached at `directory`."""

    directory: str


Message = Hello | File | Mount | Ready | Refuse | Serve | Serving | Mounted


class _Field(NamedTuple):
    """How one field travels. `limit` is in bytes for text, the largest value for a number."""

    text: bool
    limit: int


_U32 = _Field(text=False, limit=2**32 - 1)
_BOOL = _Field(text=False, limit=1)
_ERRNO = _Field(text=False, limit=511)  # as far as FUSE replies reach
_NAME = _Field(text=True, limit=64)
_PATH = _Field(text=True, limit=PATH_MAX)
_REASON = _Field(text=True, limit=REASON_MAX)
_OPTIONS = _Field(text=True, limit=OPTIONS_MAX)


class _Row(NamedTuple):
    """One kind of message: number, class, whether a descriptor belongs to it, fields."""

    kind: int
    message: type[Message]
    fd: bool
    fields: tuple[_Field, ...]


_WITH_FD, _NO_FD = True, False

# What a worker accepts.
HELPER_SENDS = (
    _Row(1, File, _WITH_FD, (_NAME, _PATH)),
    _Row(2, Mount, _WITH_FD, (_U32, _PATH, _OPTIONS, _U32, _U32, _BOOL, _BOOL, _BOOL, _BOOL)),
    _Row(3, Serve, _NO_FD, ()),
    _Row(4, Mounted, _NO_FD, (_PATH,)),
)

# What the helper accepts.
WORKER_SENDS = (
    _Row(101, Hello, _NO_FD, (_U32, _U32, _NAME)),
    _Row(102, Ready, _NO_FD, (_U32, _U32)),
    _Row(103, Refuse, _NO_FD, (_ERRNO, _REASON)),
    _Row(104, Serving, _NO_FD, ()),
)

_BY_MESSAGE = {row.message: row for row in HELPER_SENDS + WORKER_SENDS}


def encode(message: Message) -> bytes:
    """Return the packet for `message`.

    Raises:
        HandoffError: a field is longer or larger than the table allows.
    """
    row = _BY_MESSAGE[type(message)]
    body = bytearray()
    for field, value in zip(row.fields, astuple(message), strict=True):
        data = _pack(field, value)
        body += _LENGTH.pack(len(data)) + data
    return _HEADER.pack(row.kind, len(row.fields), len(body)) + body


def decode(packet: bytes, accepted: tuple[_Row, ...], *, has_fd: bool) -> Message:
    """Return the message in `packet`, which must be one of `accepted`, whole, with its descriptor.

    Raises:
        HandoffError: it is not. Nothing of such a packet may be used.
    """
    if len(packet) < _HEADER.size:
        raise HandoffError(f"a packet of {len(packet)} bytes has no header")
    kind, count, length = _HEADER.unpack_from(packet)
    row = next((row for row in accepted if row.kind == kind), None)
    if row is None:
        raise HandoffError(f"message kind {kind} is not expected here")
    if has_fd != row.fd:
        raise HandoffError(f"message kind {kind} {'with' if has_fd else 'without'} a descriptor")
    if count != len(row.fields) or length != len(packet) - _HEADER.size:
        raise HandoffError(f"message kind {kind} has the wrong number of fields or bytes")
    # The row gives each field its type; the round trip in the tests holds rows against classes.
    return row.message(*_fields(row, memoryview(packet)[_HEADER.size :]))  # type: ignore[arg-type]


def _fields(row: _Row, body: memoryview) -> list[int | str]:
    values = []
    for field in row.fields:
        if len(body) < _LENGTH.size:
            raise HandoffError(f"message kind {row.kind} ends before a field")
        (length,) = _LENGTH.unpack_from(body)
        data = body[_LENGTH.size : _LENGTH.size + length]
        if len(data) != length:
            raise HandoffError(f"message kind {row.kind} ends inside a field")
        values.append(_unpack(field, bytes(data)))
        body = body[_LENGTH.size + length :]
    if body:
        raise HandoffError(f"message kind {row.kind} has bytes left over")
    return values


def _pack(field: _Field, value: int | str) -> bytes:
    if isinstance(value, str):
        # surrogateescape: a path is bytes to the kernel, and a file name need not be UTF-8.
        data = value.encode("utf-8", "surrogateescape")
        _check(field, value, len(data))
        return data
    _check(field, value, value)
    return _NUMBER.pack(value)


def _unpack(field: _Field, data: bytes) -> int | str:
    if field.text:
        text = data.decode("utf-8", "surrogateescape")
        _check(field, text, len(data))
        return text
    if len(data) != _NUMBER.size:
        raise HandoffError(f"a number of {len(data)} bytes")
    (number,) = _NUMBER.unpack(data)
    _check(field, number, number)
    return int(number)


def _check(field: _Field, value: int | str, size: int) -> None:
    if not 0 <= size <= field.limit:
        raise HandoffError(f"a field of {size} where the limit is {field.limit}")
    if isinstance(value, str) and "\0" in value:
        raise HandoffError("a NUL byte in a text field")


def printable(text: str, limit: int = REASON_MAX) -> str:
    """Return `text` as one line for a terminal: no control characters, at most `limit` bytes."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
