"""What the file system sees of a file that is being written, whichever way that is done."""

import errno
import logging
from typing import Protocol

from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.partsize import OBJECT_MAX

__all__ = ["NeedsStagingError", "WritableFile", "as_serve_error", "check_size"]


class NeedsStagingError(Exception):
    """Not in this way: the file has to be staged first, and can be. Nothing was changed."""


class WritableFile(Protocol):
    """The writing of one file, by any number of handles."""

    @property
    def base(self) -> ObjectInfo | None:
        """What the bucket has of it; None when nothing, or nothing that still counts."""

    @property
    def size(self) -> int:
        """Bytes of the file as it is written."""

    @property
    def mtime(self) -> int:
        """When it was last written to, in nanoseconds since the epoch."""

    @property
    def dirty(self) -> bool:
        """Tell whether there is something that the bucket does not have."""

    @property
    def failed(self) -> ServeError | None:
        """Why nothing more will come of it."""

    def write_nowait(self, offset: int, data: memoryview) -> int:
        """Take of `data` at `offset` what needs no waiting; return how many bytes were taken.

        Raises:
            ServeError: it can never be taken, or storing has failed.
        """

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`, as memory, the disk and earlier writes allow."""

    async def truncate(self, size: int) -> None:
        """Set the size of the file; what is added is zeros."""

    def read_nowait(self, offset: int, size: int) -> list[memoryview] | None:
        """Return bytes of the file, fewer only at its end; None when that has to wait.

        Raises:
            ServeError: they cannot be had.
        """

    async def read(self, offset: int, size: int) -> memoryview:
        """Return bytes of the file, fewer only at its end.

        Raises:
            ServeError: they cannot be had.
        """

    async def commit(self) -> ObjectInfo | None:
        """Put everything that was written into the bucket; return what is there now.

        Raises:
            ServeError: it is not there, and the bucket is as it was.
        """

    async def discard(self) -> None:
        """The file was unlinked: nothing of it will be stored."""

    async def close(self, *, keep: bool = False) -> None:
        """Let go; what was not committed is given up, unless `keep` and it can be kept."""


def check_size(end: int, limit: int) -> None:
    """See that a file may have so many bytes.

    Raises:
        FileSystemError: EFBIG.
    """
    if end > OBJECT_MAX:
        raise FileSystemError(errno.EFBIG, "an object has at most 5 TiB", logging.WARNING)
    if end > limit:
        text = f"with this memory_target= an object has at most {limit} bytes"
        raise FileSystemError(errno.EFBIG, text, logging.WARNING)


def as_serve_error(error: BaseException) -> ServeError:
    """Return an error that can be told to a program."""
    if isinstance(error, ServeError):
        return error
    return StoreError(Fault.BAD_REPLY, f"upload failed: {error!r}")


def written(start: int, end: int) -> Extent:
    """Return the extent of bytes that were written to the stage."""
    return Extent(start, end, local=True)
