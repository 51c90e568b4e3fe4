"""A bucket, uploads to it, and what must be true of both when a test is done."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.partsize import PART_MIN
from fuse_s3_worker.transfer.stagedir import StageDirectory
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writable import WritableFile
from fuse_s3_worker.transfer.writer import FileWriter, Writers
from support.gatedstore import GatedStore
from support.staging import PLACE, AtOnce
from support.virtualtime import settle

__all__ = ["KEY", "PART", "Writing", "append", "read", "write", "writing"]

KEY = "dir/file"
PART = 8 * MIB


class Writing:
    """What is written through one mount; what is staged is in memory, or in `cache`."""

    def __init__(
        self, budget: int, first_part: int, part_min: int, cache: Path | None = None
    ) -> None:
        self.store = GatedStore(part_min=part_min)
        self.pool = Pool(budget)
        self.uploads = Uploads(self.store, self.pool, first_part)
        directory = StageDirectory.open(str(cache), PLACE, {}) if cache else None
        limits = self.uploads.limits = self.uploads.limits._replace(part_min=part_min)
        size = self.uploads.size_limit
        self.staging = Staging(self.store, self.pool, limits, size, directory, AtOnce())
        self.writers = Writers(self.uploads, self.staging)
        self.opened: list[FileWriter] = []

    def begin(self, base: ObjectInfo | None = None, key: str = KEY) -> FileWriter:
        """Open a file for writing."""
        upload = self.writers.begin(key, base)
        self.opened.append(upload)
        return upload

    def base(self, data: bytes, key: str = KEY) -> ObjectInfo:
        """Put an object into the bucket that a file goes on from."""
        return self.store.write(key, data)

    def stored(self, key: str = KEY) -> bytes | None:
        """Return what is in the bucket."""
        found = self.store.stored(key)
        return found.data if found else None

    @property
    def requests(self) -> list[str]:
        """What was asked of the store, in order."""
        return [operation for operation, _ in self.store.requests]


async def write(upload: WritableFile, offset: int, data: bytes) -> None:
    """Write as the adapter does: at once what can be, the rest as memory allows."""
    view = memoryview(data)
    taken = upload.write_nowait(offset, view)
    if taken < len(data):
        await upload.write(offset + taken, view[taken:])


async def read(upload: WritableFile, offset: int = 0, size: int = 1 << 30) -> bytes:
    """Read as the file system does: at once what can be, the rest when it is here."""
    views = upload.read_nowait(offset, size)
    return b"".join(views) if views is not None else bytes(await upload.read(offset, size))


async def append(upload: WritableFile, data: bytes, piece: int = MIB) -> None:
    """Write at the end, in pieces as a program does."""
    view = memoryview(data)
    for at in range(0, len(data), piece):
        await write(upload, upload.size, bytes(view[at : at + piece]))


@asynccontextmanager
async def writing(
    *,
    budget: int = 64 * MIB,
    first_part: int = PART,
    part_min: int = PART_MIN,
    cache: Path | None = None,
) -> AsyncIterator[Writing]:
    """Set up; in the end all memory is back, and nothing is left in the bucket half done."""
    made = Writing(budget, first_part, part_min, cache)
    yield made
    for upload in made.opened:
        await upload.close()
    await settle()
    assert made.pool.statistics().used == 0
    assert made.pool.statistics().waiting == 0
    assert made.pool._reclaimers == {}
    assert made.store.uploads == {}
