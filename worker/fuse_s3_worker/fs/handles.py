"""Open files: what is known of each handle, and how its reader hears of other versions."""

import os
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.opener import Opener
from fuse_s3_worker.fs.recording import HandleRecord
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.readstream import Answer, ReadStream
from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["WRITING", "Handle", "Opened", "Source", "Work", "read_slowly"]

Work = Coroutine[Any, Any, None]

# fcntl.h, as the kernel passes them
WRITING = os.O_WRONLY | os.O_RDWR


class Handle:
    """One open file description."""

    __slots__ = ("appends", "node", "opener", "reads", "record", "stream", "writes")

    def __init__(self, node: Node, record: HandleRecord) -> None:
        flags = record.flags
        self.node = node
        self.record = record
        self.reads = flags & os.O_ACCMODE != os.O_WRONLY
        self.writes = bool(flags & WRITING)
        self.appends = bool(flags & os.O_APPEND)
        self.stream: ReadStream | None = None
        self.opener: Opener | None = None


class Opened(NamedTuple):
    """A new handle, and whether the kernel may keep the pages it has of the file."""

    handle: int
    keep_cache: bool
    read_only: bool


class Versions(Protocol):
    """Who knows which version a file is of."""

    async def newest(self, handle: Handle, *, first: bool) -> ObjectInfo:
        """Return the version of today of a file that `handle` was the `first` to read."""

    def outdated(self, node: Node) -> None:
        """Have the store asked when the file is looked at next."""


class Source:
    """What the stream of a handle asks (transfer.readstream.Source)."""

    __slots__ = ("_files", "_first", "_handle")

    def __init__(self, files: Versions, handle: Handle, *, first: bool) -> None:
        self._files = files
        self._handle = handle
        self._first = first

    async def reopen(self) -> ObjectInfo:
        """Return the version of today."""
        return await self._files.newest(self._handle, first=self._first)

    def outdated(self) -> None:
        """Take note that the file was replaced or removed."""
        self._files.outdated(self._handle.node)


async def read_slowly(
    file: FileWriter, unique: int, offset: int, size: int, answer: Answer
) -> None:
    """Answer a READ for which something has to be waited for."""
    try:
        data = await file.read(offset, size)
    except ServeError as error:
        answer.fail(unique, error)
    else:
        answer.reply(unique, data)
