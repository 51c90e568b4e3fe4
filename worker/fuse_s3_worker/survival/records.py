"""Records in memory that outlives its process: framed, checked, complete at every instant.

A `Log` is a memfd, mapped once and for all, since it is sparse:

    0         magic and version, the generation, how many bytes of records there are
    4 KiB     the records, one behind the other: bytes of body, kind, CRC-32 of all three, body
    1 TiB     cells of 8 bytes, for numbers that change all the time

A process may be killed between any two of its stores to memory. A record counts from the moment
that the number of bytes says so, a log from the moment it has a generation, and a cell holds its
number twice, the second time inverted; each of these is one aligned store of 8 bytes. So there is
nothing to repair, and what does not check was damaged by something else.

Two logs take turns: what still counts of the older generation is written into the other log, which
then gets the next generation, and the older one is emptied.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Iterator

__all__ = ["BODY_MAX", "DamagedError", "Log", "Record", "newest"]

_MAGIC = b"fuse-s3 state\0\0\0"
VERSION = 1
_HEAD = struct.Struct("<16sII")  # magic, version, CRC-32 of both
_GENERATION_CELL, _END_CELL = 4, 5  # behind the head, in cells of 8 bytes
_RECORDS_AT = 4096
_RECORDS_MAX = 1 << 33  # bytes; address space, not memory
_CELLS_AT = 1 << 40
_CELLS_MAX = 1 << 29

_RECORD = struct.Struct("<HHI")  # bytes of body, kind, CRC-32
_LENGTH_AND_KIND = struct.Struct("<HH")
BODY_MAX = 0xFFFF
_LOW = 0xFFFF_FFFF

Record = tuple[int, bytes]
"""A kind and a body."""


class DamagedError(Exception):
    """A state that is of no use; the message says why."""


class Log:
    """Records and cells in the memory behind `fd`, which stays the caller's.

    Attributes:
        end: bytes of records.
    """

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < _CELLS_AT + 8 * _CELLS_MAX:
            os.ftruncate(fd, _CELLS_AT + 8 * _CELLS_MAX)
        self.fd = fd
        self._map = mmap.mmap(fd, _RECORDS_MAX)
        self._head = memoryview(self._map)[:_RECORDS_AT].cast("Q")
        self._cells = memoryview(mmap.mmap(fd, 8 * _CELLS_MAX, offset=_CELLS_AT)).cast("Q")
        self.end = self._head[_END_CELL]

    @classmethod
    def create(cls, name: str) -> "Log":
        """Return a log in new memory, without a generation."""
        return cls(os.memfd_create(name, os.MFD_CLOEXEC))

    @property
    def generation(self) -> int:
        """Which one this is; 0 as long as it does not count."""
        return self._head[_GENERATION_CELL]

    def begin(self) -> None:
        """Empty it, and give its memory back; it does not count any more."""
        self._head[_GENERATION_CELL] = 0
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, _CELLS_AT + 8 * _CELLS_MAX)
        self.end = 0
        head = _MAGIC + VERSION.to_bytes(4, "little")
        self._map[: _HEAD.size] = head + zlib.crc32(head).to_bytes(4, "little")

    def publish(self, generation: int) -> None:
        """Let it count, as this generation."""
        self._head[_GENERATION_CELL] = generation

    # -- writing --------------------------------------------------------------------------------

    def append(self, kind: int, body: bytes) -> None:
        """Write a record of at most BODY_MAX bytes."""
        head = _LENGTH_AND_KIND.pack(len(body), kind)
        at = _RECORDS_AT + self.end
        record = head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + body
        self._map[at : at + len(record)] = record
        self.end += len(record)
        self._head[_END_CELL] = self.end

    def set_cell(self, number: int, value: int) -> None:
        """Set a cell to a value of at most 32 bits."""
        self._cells[number] = value | (value ^ _LOW) << 32

    # -- reading --------------------------------------------------------------------------------

    def check(self) -> None:
        """See whether this is a log of ours.

        Raises:
            DamagedError: it is not.
        """
        magic, version, crc = _HEAD.unpack_from(self._map)
        if magic != _MAGIC or crc != zlib.crc32(self._map[: _HEAD.size - 4]):
            raise DamagedError("not a state of ours")
        if version != VERSION:
            raise DamagedError(f"a state of version {version}, this worker has {VERSION}")
        if self.end > _RECORDS_MAX - _RECORDS_AT:
            raise DamagedError(f"a state of {self.end} bytes")

    def records(self) -> Iterator[Record]:
        """Yield the records, in order.

        Raises:
            DamagedError: one does not check, or does not end where the records end.
        """
        view, at, end = memoryview(self._map), _RECORDS_AT, _RECORDS_AT + self.end
        crc32, unpack, size = zlib.crc32, _RECORD.unpack_from, _RECORD.size
        while at < end:
            length, kind, crc = unpack(view, at)
            body = bytes(view[at + size : at + size + length])
            if crc32(body, crc32(view[at : at + 4])) != crc:
                raise DamagedError(f"record of kind {kind} at {at} of {end} bytes does not check")
            at += size + length
            yield kind, body
        if at != end:
            raise DamagedError("the last record is cut short")

    def cell(self, number: int) -> int:
        """Return the value of a cell; 0 when it was never set.

        Raises:
            DamagedError: it does not check.
        """
        both = self._cells[number]
        value = both & _LOW
        if both and value ^ _LOW != both >> 32:
            raise DamagedError(f"cell {number} does not check")
        return value


def newest(logs: list[Log]) -> Log:
    """Return the log that counts.

    Raises:
        DamagedError: none of them does, or the one that does is of no use.
    """
    log = max(logs, key=lambda log: log.generation)
    if not log.generation:
        raise DamagedError("no state was ever complete")
    log.check()
    return log
