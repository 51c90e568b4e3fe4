"""The messages between the mount helper and its worker: values to bytes and back, no socket.

    helper                          worker
      |  <----------------- Hello     |  I am here and speak these versions
      |  File + memfd ------------>   |  a file that only root could read; any number of these
      |  Mount ------------------->   |  what to serve
      |  <----------- Ready | Refuse  |  the bucket answers and the options are right, or why not
      |  Serve + /dev/fuse ------->   |  a connection stands behind the descriptor: serve it
      |  <--------- Serving | Refuse  |  INIT is answered
      |  Mounted ----------------->   |  it is in its place; the helper leaves

The device comes last: a mount that is refused never opens it, and where somebody else opens it
(fusermount3 for ordinary users) there is none before.

A packet is the number of a kind and the fields of its class, in decimal or as they are, with a NUL
between each two: no field can contain one. The tables below are the whole vocabulary: who may send
a message, whether a descriptor belongs to it; the types of a class bound its fields. Anything else
is refused, in both directions, so that a lying peer meets an error and not a parser.
"""

from typing import Annotated, NamedTuple, get_type_hints

from fuse_s3_shared.limits import OPTIONS_MAX, PATH_MAX, REASON_MAX

# What follows a type is the largest value of a number, the most bytes of a text.
_U32 = Annotated[int, 2**32 - 1]
_Bool = Annotated[bool, 1]
_Errno = Annotated[int, 511]  # as far as FUSE replies reach
_Name = Annotated[str, 64]
_Path = Annotated[str, PATH_MAX]
_Reason = Annotated[str, REASON_MAX]
_Options = Annotated[str, OPTIONS_MAX]


class HandoffError(Exception):
    """A packet that is not in the table, or not in its shape; the message says what is wrong."""


class Hello(NamedTuple):
    """First word of a worker: the protocol versions it speaks, and who it is, for the log."""

    version_min: _U32
    version_max: _U32
    program: _Name


class File(NamedTuple):
    """What the option `option` names, read from `path`: a sealed memfd, or the log to append to.

    `environment` is no option: it brings variables, each `NAME=value` with a NUL behind it.
    """

    option: _Name
    path: _Path


class Mount(NamedTuple):
    """What to serve. `options` is text that the helper did not read; uid and gid own the files.

    `read_only`: the kernel refuses writes. `sloppy`: unknown options are tolerated (mount -s).
    `dry_run`: judge the options, touch no network (mount -f). `foreground`: log to standard error.
    """

    version: _U32
    spec: _Path
    options: _Options
    uid: _U32
    gid: _U32
    read_only: _Bool
    sloppy: _Bool
    dry_run: _Bool
    foreground: _Bool


class Ready(NamedTuple):
    """The worker can serve this mount, whose files belong to `uid` and `gid`."""

    uid: _U32
    gid: _U32


class Refuse(NamedTuple):
    """The worker cannot: an errno and one line for the user."""

    errno: _Errno
    reason: _Reason


class Serve(NamedTuple):
    """Comes with the descriptor of /dev/fuse: read requests from it and answer them."""


class Serving(NamedTuple):
    """INIT was answered, and should the worker die, its successor will go on."""


class Mounted(NamedTuple):
    """The mount is attached at `directory`."""

    directory: _Path


Message = Hello | File | Mount | Ready | Refuse | Serve | Serving | Mounted


class _Row(NamedTuple):
    """One kind of message: number, class, whether a descriptor belongs to it."""

    kind: int
    message: type[Message]
    fd: bool = False


# What a worker accepts.
HELPER_SENDS = (_Row(1, File, fd=True), _Row(2, Mount), _Row(3, Serve, fd=True), _Row(4, Mounted))

# What the helper accepts.
WORKER_SENDS = (_Row(101, Hello), _Row(102, Ready), _Row(103, Refuse), _Row(104, Serving))

_KINDS = {row.message: row.kind for row in HELPER_SENDS + WORKER_SENDS}


def encode(message: Message) -> bytes:
    """Return the packet for `message`.

    Raises:
        HandoffError: a field is longer or larger than its type allows.
    """
    words = [value if isinstance(value, str) else str(int(value)) for value in message]
    for word, field in zip(words, _fields(type(message)), strict=True):
        _value(word, field)
        if "\0" in word:
            raise HandoffError("a NUL byte in a text field")
    return "\0".join([str(_KINDS[type(message)]), *words]).encode("utf-8", "surrogateescape")


def decode(packet: bytes, accepted: tuple[_Row, ...], *, has_fd: bool) -> Message:
    """Return the message in `packet`, which must be one of `accepted`, whole, with its descriptor.

    Raises:
        HandoffError: it is not. Nothing of such a packet may be used.
    """
    # surrogateescape: a path is bytes to the kernel, and a file name need not be UTF-8.
    kind, *words = packet.decode("utf-8", "surrogateescape").split("\0")
    row = next((row for row in accepted if str(row.kind) == kind), None)
    if row is None:
        raise HandoffError(f"message kind {kind[:20]!r} is not expected here")
    if has_fd != row.fd:
        raise HandoffError(f"message kind {kind} {'with' if has_fd else 'without'} a descriptor")
    fields = _fields(row.message)
    if len(words) != len(fields):
        raise HandoffError(f"message kind {kind} with {len(words)} fields instead of {len(fields)}")
    # `_fields` gives each word its type; the round trip in the tests holds both together.
    return row.message(*map(_value, words, fields))  # type: ignore[arg-type]


def _fields(message: type[Message]) -> list[tuple[bool, int]]:
    """Return, for each field, whether it is text, and its limit."""
    types = get_type_hints(message, include_extras=True).values()
    return [(field.__origin__ is str, field.__metadata__[0]) for field in types]


def _value(word: str, field: tuple[bool, int]) -> int | str:
    """Return the value that a word stands for, if it is one."""
    is_text, limit = field
    if not is_text and not (word.isascii() and word.isdigit() and word == str(int(word[:20]))):
        raise HandoffError(f"{word[:20]!r} is not a number")
    size = len(word.encode("utf-8", "surrogateescape")) if is_text else int(word)
    if size > limit:
        raise HandoffError(f"a field of {size} where the limit is {limit}")
    return word if is_text else size


def printable(text: str, limit: int = REASON_MAX) -> str:
    """Return `text` as one line for a terminal: no control characters, at most `limit` bytes."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
