"""The kernel's side of a FUSE connection, as far as a worker can tell: it asks, and it judges.

A reply is judged as linux/fs/fuse/dev.c judges it: length, error, a request that waits for it,
and the exact size that its opcode has. What is wrong is kept, not raised, since whoever serves
requests survives exceptions.
"""

import asyncio
import itertools
from collections.abc import Sequence
from struct import pack
from typing import NamedTuple

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.abi import (
    GETXATTR_IN,
    IN_HEADER,
    OUT_HEADER,
    READ_IN,
    NotifyCode,
    Opcode,
)
from fuse_s3_worker.fuse.channel import Buffer, Channel

__all__ = ["UNANSWERED", "Kernel", "RecordingChannel", "Reply", "frame"]

# Opcodes whose requests wait for nothing.
UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})

# Bytes of a successful reply; what is not here is as long as was asked for, at most.
_REPLY_SIZE = {
    **dict.fromkeys((Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK), 128),
    **dict.fromkeys((Opcode.GETATTR, Opcode.SETATTR), 104),
    **dict.fromkeys((Opcode.OPEN, Opcode.OPENDIR), 16),
    **dict.fromkeys((Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2), 0),
    **dict.fromkeys((Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FLUSH, Opcode.ACCESS), 0),
    **dict.fromkeys((Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.DESTROY), 0),
    Opcode.CREATE: 144,
    **dict.fromkeys((Opcode.WRITE, Opcode.LSEEK), 8),
    **dict.fromkeys((Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64), 8),
    **dict.fromkeys((Opcode.FALLOCATE, Opcode.SETXATTR, Opcode.REMOVEXATTR), 0),
    Opcode.STATFS: 80,
    Opcode.INIT: 64,
}
_AS_ASKED = frozenset({Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS})
_SIZED = frozenset({Opcode.GETXATTR, Opcode.LISTXATTR})
_SIZE_ALONE = 8  # struct fuse_getxattr_out
_TARGET_MAX = 4095  # fuse_readlink_folio: a page less one

_ERRNO_MAX = 511
_TURNS = 5_000  # of the loop; far more than anything here takes without a network


class Reply(NamedTuple):
    """One reply: `error` is positive, 0 for success."""

    error: int
    body: bytes


def frame(opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1) -> bytes:
    """Return a request, as user 1000 of process 4321 would make it."""
    size = IN_HEADER.size + len(body)
    return IN_HEADER.pack(size, opcode, unique, nodeid, 1000, 1000, 4321, 0, 0) + body


class RecordingChannel(Channel):
    """A channel that keeps what is written to it.

    Attributes:
        replies: for each request that was made, what answered it.
        notifications: (code, body) of messages that nobody asked for.
        violations: what the kernel would have refused.
    """

    def __init__(self) -> None:
        super().__init__(-1)
        self.replies: dict[int, list[Reply]] = {}
        self.notifications: list[tuple[int, bytes]] = []
        self.violations: list[str] = []
        self._asked: dict[int, memoryview] = {}

    def expect(self, unique: int, request: bytes) -> None:
        """Take note of a request that waits for an answer."""
        self._asked[unique] = memoryview(request)
        self.replies[unique] = []

    @property
    def waiting(self) -> list[int]:
        """Requests without an answer."""
        return [unique for unique, answers in self.replies.items() if not answers]

    def _write(self, pieces: Sequence[Buffer]) -> None:
        message = b"".join(pieces)
        length, error, unique = OUT_HEADER.unpack_from(message)
        body = message[OUT_HEADER.size :]
        if length != len(message):
            self.violations.append(f"{len(message)} bytes that say {length}")
        if unique == 0:
            self._notified(error, body)
        else:
            self._replied(unique, -error, body)

    def _notified(self, code: int, body: bytes) -> None:
        if code not in set(NotifyCode):
            self.violations.append(f"notification {code}")
        self.notifications.append((code, body))

    def _replied(self, unique: int, error: int, body: bytes) -> None:
        request = self._asked.get(unique)
        if request is None:
            self.violations.append(f"a reply to {unique}, which nobody asked")
            return
        opcode = int.from_bytes(request[4:8], "little")
        if self.replies[unique]:
            self.violations.append(f"another reply to {unique} (opcode {opcode})")
        if not 0 <= error <= _ERRNO_MAX:
            self.violations.append(f"error {error} to opcode {opcode}")
        if error and body:
            self.violations.append(f"error {error} with a body to opcode {opcode}")
        if not error and not _fits(opcode, request[IN_HEADER.size :], len(body)):
            self.violations.append(f"{len(body)} bytes to opcode {opcode}")
        self.replies[unique].append(Reply(error, body))


def _fits(opcode: int, body: memoryview, length: int) -> bool:
    if opcode in _AS_ASKED:
        return bool(length <= READ_IN.unpack(body)[2])
    if opcode in _SIZED:
        size = GETXATTR_IN.unpack_from(body)[0]
        return bool(length <= size if size else length == _SIZE_ALONE)
    if opcode == Opcode.READLINK:
        return 0 < length <= _TARGET_MAX
    return length == _REPLY_SIZE.get(Opcode(opcode), 0)


class Kernel:
    """Asks an adapter over `fs`; made inside of a running loop."""

    def __init__(self, fs: FileSystem) -> None:
        self.channel = RecordingChannel()
        self.adapter = Adapter(self.channel, fs)
        self._uniques = itertools.count(2, 2)  # as the kernel counts; the odd ones are interrupts

    def send(self, request: bytes, *, answered: bool = True) -> None:
        """Hand over a request and go on."""
        if answered:
            self.channel.expect(int.from_bytes(request[8:16], "little"), request)
        self.adapter.dispatch(memoryview(request))

    async def quiet(self) -> None:
        """Wait until every request is answered and all work of the adapter is done."""
        for _ in range(_TURNS):
            if not self.channel.waiting and not self.adapter._tasks:
                return
            await asyncio.sleep(0)
        raise TimeoutError(f"without an answer: {self.channel.waiting}")

    async def ask(self, opcode: int, body: bytes = b"", *, nodeid: int = 1) -> Reply:
        """Make a request and return the reply; the kernel must have liked it."""
        unique = next(self._uniques)
        self.send(frame(opcode, body, unique=unique, nodeid=nodeid), answered=True)
        await self.quiet()
        assert not self.channel.violations
        (reply,) = self.channel.replies[unique]
        return reply

    def tell(self, opcode: int, body: bytes, *, nodeid: int = 1) -> None:
        """Make a request that is never answered."""
        unique = next(self._uniques)
        self.send(frame(opcode, body, unique=unique, nodeid=nodeid), answered=False)
        assert not self.channel.violations

    async def forget(self, nodeid: int, nlookup: int = 1) -> None:
        """Take references back."""
        self.tell(Opcode.FORGET, pack("<Q", nlookup), nodeid=nodeid)
        await self.quiet()
