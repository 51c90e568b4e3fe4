"""Operations on ranges of files: holes and data, room and zeros, copies that no byte moves for."""

import errno
import os
from enum import IntFlag

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import FileSystemError, ServeError
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.handles import Handle
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.writer import FileWriter

__all__ = ["Fallocate", "Ranges"]

_PIECE = MIB  # bytes that are copied at once where they are only here
_COPY_MAX = 64 * MIB  # of such bytes in one request; whoever copies goes on by itself


class Fallocate(IntFlag):
    """FALLOC_FL_* of linux/falloc.h, as far as they are known here."""

    KEEP_SIZE = 0x01
    PUNCH_HOLE = 0x02
    ZERO_RANGE = 0x10


_EXTENDS = frozenset({Fallocate(0), Fallocate.KEEP_SIZE})
_ZEROES = frozenset(
    {
        Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE,
        Fallocate.ZERO_RANGE,
        Fallocate.ZERO_RANGE | Fallocate.KEEP_SIZE,
    }
)


class Ranges:
    """What programs do to ranges."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def lseek(self, number: int, offset: int, whence: int) -> int:
        """Return where the next data begins, or the next hole.

        Raises:
            FileSystemError: EINVAL, another question; ENXIO, `offset` is behind the last byte.
        """
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise FileSystemError(errno.EINVAL, f"lseek does not know {whence}")
        handle, hole = self._files.handle(number), whence == os.SEEK_HOLE
        if (file := _written(handle)) is not None:
            return file.seek(offset, hole=hole)
        size = handle.node.info.size if handle.node.info else 0
        if offset >= size:
            raise FileSystemError(errno.ENXIO, f"nothing is at {offset}")
        return size if hole else offset

    async def fallocate(self, number: int, offset: int, length: int, mode: int) -> None:
        """Make room, which there always is; make zeros.

        Raises:
            FileSystemError: EOPNOTSUPP, another mode.
        """
        async with self._files.changing(number):
            await self._fallocate(self._files.writable(number), offset, offset + length, mode)

    async def _fallocate(self, file: FileWriter, offset: int, end: int, mode: int) -> None:
        flags = Fallocate(mode)
        if flags in _EXTENDS:
            if flags is Fallocate(0) and end > file.size:
                await file.truncate(end)
        elif flags in _ZEROES:
            end = min(end, file.size) if Fallocate.KEEP_SIZE in flags else end
            if offset < end:
                await file.zero(offset, end)
        else:
            raise FileSystemError(errno.EOPNOTSUPP, f"fallocate has no mode {mode:#x} here")

    # -- copying --------------------------------------------------------------------------------

    async def copy(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int
    ) -> int:
        """Copy bytes of one open file into another; return how many.

        What the bucket has of them does not move: the store copies it when the file is stored.

        Raises:
            FileSystemError: EBADF; EOPNOTSUPP, they have to be read and written instead.
        """
        handle = self._files.handle(source)
        if not handle.reads:
            raise FileSystemError(errno.EBADF, "not open for reading")
        async with self._files.changing(source, target):
            to = self._files.writable(target)
            return await self._copy_all(handle, source_offset, to, target_offset, length)

    async def _copy_all(
        self, handle: Handle, source_offset: int, to: FileWriter, target_offset: int, length: int
    ) -> int:
        copied = moved = 0
        while copied < length and moved < _COPY_MAX:
            try:
                piece = await self._next(handle, source_offset + copied, length - copied)
                if piece is None:
                    break
                moved += await self._copy(handle, piece, to, target_offset + copied)
            except ServeError as error:
                if copied:
                    break
                # The kernel reads and writes instead, and if that fails, too, says so.
                text = f"cannot copy without reading: {error}"
                raise FileSystemError(errno.EOPNOTSUPP, text) from error
            copied += piece.size
        return copied

    async def _next(self, handle: Handle, offset: int, length: int) -> Extent | None:
        """Return what a file is made of at `offset`; None at its end."""
        if (file := _written(handle)) is not None:
            found = await file.extents(offset, offset + length)
            if not found:
                return None
            return found[0].clip(offset, offset + _PIECE) if found[0].written else found[0]
        info = handle.node.info
        if info is None or not info.etag:
            raise FileSystemError(errno.EOPNOTSUPP, f"{handle.node.key!r} has no version to copy")
        if offset >= info.size:
            return None
        return Extent(0, info.size, info).clip(offset, offset + length)

    async def _copy(self, handle: Handle, piece: Extent, to: FileWriter, offset: int) -> int:
        """Make a piece of one file a piece of another; return how many bytes moved."""
        end = offset + piece.size
        if piece.written and (file := _written(handle)) is not None:
            await to.write(offset, await file.read(piece.start, piece.size))
            return piece.size
        await to.put([Extent(offset, end, piece.source, piece.offset)])
        return 0


def _written(handle: Handle) -> FileWriter | None:
    """Return the writing of a file that is not what the bucket has."""
    file = handle.node.upload
    return file if file is not None and file.readable else None
