"""The file system with attributes that are kept, used as a kernel would use it, without one."""

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.describer import Results
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.links import Links
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.fs.xattrs import Xattrs
from fuse_s3_worker.posix.headers import encode
from fuse_s3_worker.posix.inode import NO_XATTRS, Inode
from support.gatedstore import GatedStore
from support.tree import LIFETIME, Tree

__all__ = ["MODE", "MOMENT", "SECOND", "PosixTree", "kept", "operations", "posix_tree"]

SECOND = 1_000_000_000
MOMENT = 2.0  # seconds, after which whatever was put off is done
MODE = "x-amz-meta-mode"
_UID, _GID = 1000, 1001  # of the program that makes things, where nothing else is said


def kept(
    mode: int = 0o100640,
    uid: int = 7,
    gid: int = 8,
    mtime: int = 5 * SECOND,
    *,
    rdev: int = 0,
    xattrs: Mapping[bytes, bytes] = NO_XATTRS,
    **rest: str,
) -> dict[str, str]:
    """Return the headers of an object that keeps this; `rest` has others, with underscores."""
    others = {name.replace("_", "-"): value for name, value in rest.items()}
    return encode(Inode(mode, uid, gid, mtime, mtime, mtime, rdev, xattrs), others)


class PosixTree(Tree):
    """A mount with `-o posix`."""

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        lifetime: float = LIFETIME,
        prefix: str = "",
        results: Results | None = None,
        part_min: int = 5 << 20,
        first_part: int = 8 << 20,
        cache: Path | None = None,
        write_back: float = 0.0,
        store: GatedStore | None = None,
    ) -> None:
        super().__init__(
            objects,
            lifetime=lifetime,
            prefix=prefix,
            posix=True,
            results=results,
            part_min=part_min,
            first_part=first_part,
            cache=cache,
            write_back=write_back,
            store=store,
        )
        self.uid = _UID
        self.gid = _GID
        self.umask = 0o022

    @property
    def links(self) -> Links:
        """Links and special files."""
        assert self.fs.links is not None
        return self.fs.links

    @property
    def xattrs(self) -> Xattrs:
        """Attributes."""
        assert self.fs.xattrs is not None
        return self.fs.xattrs

    def keeper(self) -> Posix:
        """Return what keeps attributes."""
        assert self.posix is not None
        return self.posix

    def node(self, number: int) -> Node:
        """Return a node of ours."""
        return self.fs._core.node(number)

    def made(self, mode: int, rdev: int = 0) -> Made:
        """Return how the program makes things."""
        return Made(mode, self.umask, self.uid, self.gid, rdev)

    # -- making -----------------------------------------------------------------------------------

    async def create(self, path: str, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
        parent, name = await self._place(path)
        found, opened = await self.fs.files.create(
            parent, name, flags, os.getpid(), self.made(stat.S_IFREG | mode)
        )
        self.handles[opened.handle] = self.remember(found).node.id
        return opened.handle

    async def mkdir(self, path: str, mode: int = 0o777) -> int:
        made = self.made(stat.S_IFDIR | mode)
        found = await self.fs.names.mkdir(*await self._place(path), made)
        return self.remember(found).node.id

    async def mknod(self, path: str, mode: int = 0o100666, rdev: int = 0) -> int:
        found = await self.links.mknod(*await self._place(path), self.made(mode, rdev))
        return self.remember(found).node.id

    async def symlink(self, path: str, target: bytes) -> int:
        """Make a symbolic link."""
        made = self.made(stat.S_IFLNK)
        found = await self.links.symlink(*await self._place(path), target, made)
        return self.remember(found).node.id

    async def readlink(self, path: str) -> bytes:
        """Read where a link leads."""
        node = await self.walk(path)
        target = self.links.readlink_nowait(node)
        return await self.links.readlink(node) if target is None else target

    # -- setting ----------------------------------------------------------------------------------

    async def change(self, path: str, **fields: int) -> Attributes:
        """Set mode, uid, gid, atime or mtime."""
        return await self.set(await self.walk(path), overrides=Overrides(0.0, **fields))

    def headers(self, key: str) -> Mapping[str, str]:
        """Return what the bucket keeps of an object."""
        stored = self.store.stored(key)
        assert stored is not None
        return stored.headers


@contextlib.asynccontextmanager
async def posix_tree(
    objects: Mapping[str, bytes] | None = None,
    *,
    lifetime: float = LIFETIME,
    prefix: str = "",
    results: Results | None = None,
) -> AsyncIterator[PosixTree]:
    """Set up a mount; in the end nothing may be left of it."""
    made = PosixTree(objects, lifetime=lifetime, prefix=prefix, results=results)
    yield made
    await made.finish()
    assert len(made.keeper()._pending) == 0
    assert len(made.keeper().store.turns) == 0


def operations(t: PosixTree) -> list[tuple[str, str]]:
    """Return the requests that change something."""
    looking = {"HeadObject", "ListObjectsV2", "GetObject"}
    return [request for request in t.store.requests if request[0] not in looking]
