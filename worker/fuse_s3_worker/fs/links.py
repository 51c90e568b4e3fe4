"""Symbolic links and special files: objects whose metadata says that they are none of the usual."""

import errno
import logging
import stat

from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.attempts import Change
from fuse_s3_worker.fs.core import Core, Found
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.namespace import Namespace, keys_stay
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.posix.headers import Described, encode
from fuse_s3_worker.store.ranges import ViewSink
from fuse_s3_worker.store.types import Body, ObjectInfo

__all__ = ["Links"]

_TARGET_MAX = 4095  # PATH_MAX of linux/limits.h without the NUL
_LINK_TYPE = "application/octet-stream"  # as s3fs has it


class Links:
    """Operations on links and special files."""

    def __init__(self, core: Core, names: Namespace, posix: Posix) -> None:
        self._core = core
        self._names = names
        self._posix = posix

    async def symlink(
        self, parent_id: int, name: bytes, target: bytes, made: Made, *, resent: bool = False
    ) -> Found:
        """Make a symbolic link.

        Raises:
            FileSystemError: EEXIST; ENAMETOOLONG, no program could follow it.
            StoreError: it cannot be stored.
        """
        if len(target) > _TARGET_MAX:
            text = f"a link to {len(target)} bytes of path; {_TARGET_MAX} are possible"
            raise FileSystemError(errno.ENAMETOOLONG, text)
        return await self._make(parent_id, name, made, (target, _LINK_TYPE), resent=resent)

    async def mknod(
        self, parent_id: int, name: bytes, made: Made, *, resent: bool = False
    ) -> Found:
        """Make an empty file, a FIFO, a socket or a device.

        Raises:
            FileSystemError: EEXIST.
            StoreError: it cannot be stored.
        """
        content = (b"", "" if stat.S_ISREG(made.mode) else _LINK_TYPE)
        return await self._make(parent_id, name, made, content, resent=resent)

    @keys_stay
    async def _make(
        self, parent_id: int, name: bytes, made: Made, content: tuple[bytes, str], *, resent: bool
    ) -> Found:
        """Store an object of a content and its type."""
        core, (body, kind) = self._core, content
        if resent and (found := await self._names.made_before(parent_id, name)):
            return found
        parent, text, _ = await self._names.vacant(parent_id, name)
        inode = self._posix.inherited(parent, made)
        target = body if stat.S_ISLNK(inode.mode) else None
        key, sent = parent.key + text, Body((body,) if body else (), len(body))
        headers = encode(inode, {})
        with core.attempts.doing(Change.MAKE, key):
            info = await core.store.put(key, sent, content_type=kind, headers=headers)
        core.metadata.change(parent.key, text, Entry.file(info))
        self._posix.learned(info, Described(inode, {}, target))
        return core.found(core.settle(parent, text, Entry.file(info)))

    def readlink_nowait(self, node_id: int) -> bytes | None:
        """Return where a link leads, None when the store has to be asked.

        Raises:
            FileSystemError: EINVAL, it is none; ENAMETOOLONG; EIO, it leads nowhere.
        """
        node = self._core.node(node_id)
        if node.record is None:
            return None  # the kernel knows it from a worker before this one
        target = node.record.described.target
        if not stat.S_ISLNK(self._posix.inode(node).mode):
            raise FileSystemError(errno.EINVAL, f"{node.key!r} is no symbolic link")
        return None if target is None else _checked(target, node)

    async def readlink(self, node_id: int) -> bytes:
        """Return where a link leads; the same errors.

        Raises:
            StoreError: the store cannot be asked.
        """
        node = self._core.node(node_id)
        if node.record is None:
            await self._core.know(node)
            if (known := self.readlink_nowait(node_id)) is not None:
                return known
        info = node.info
        if info is None:
            raise FileSystemError(errno.ESTALE, f"{node.key!r} was not stored")
        if info.size > _TARGET_MAX:
            text = f"{node.key!r} leads to {info.size} bytes of path; {_TARGET_MAX} are possible"
            raise FileSystemError(errno.ENAMETOOLONG, text, logging.WARNING)
        target = await self._fetch(info)
        if node.info is info:
            described = self._posix.record(node).described
            self._posix.learned(info, described._replace(target=target), node)
        return _checked(target, node)

    async def _fetch(self, info: ObjectInfo) -> bytes:
        self._core.check_not_archived_info(info)
        target = bytearray(info.size)
        if info.size:
            sink = ViewSink(memoryview(target))
            await self._core.store.get_range(info.key, info.etag, 0, info.size, sink)
        return bytes(target)


def _checked(target: bytes, node: Node) -> bytes:
    if not target or b"\0" in target:
        text = f"{node.key!r} is a symbolic link to nothing"
        raise FileSystemError(errno.EIO, text, logging.WARNING)
    if len(target) > _TARGET_MAX:
        raise FileSystemError(errno.ENAMETOOLONG, f"{node.key!r} leads too far", logging.WARNING)
    return target
