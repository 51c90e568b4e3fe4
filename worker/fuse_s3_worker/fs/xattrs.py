"""Extended attributes, and the access control lists among them."""

import errno
import logging
import os
import stat
from collections.abc import Mapping

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.inode import Inode

__all__ = ["Xattrs"]

# xattr(7); of the system's there is nothing but lists, whose names are looked at first.
_NAMESPACES = (b"user.", b"trusted.", b"security.")


class Xattrs:
    """Operations on attributes."""

    def __init__(self, core: Core, posix: Posix) -> None:
        self._core = core
        self._posix = posix

    async def look(self, node_id: int) -> None:
        """See what a node has by now."""
        await self._core.refresh(self._core.node(node_id))

    def is_fresh(self, node_id: int) -> bool:
        """Tell whether that need not be."""
        return self._posix.is_fresh(self._core.node(node_id))

    def _inode(self, node_id: int) -> tuple[Node, Inode]:
        node = self._core.node(node_id)
        return node, self._posix.inode(node)

    def get(self, node_id: int, name: bytes) -> bytes:
        """Return the value of an attribute.

        Raises:
            FileSystemError: ENODATA.
        """
        _, inode = self._inode(node_id)
        value = inode.xattrs.get(name)
        if value is None:
            raise FileSystemError(errno.ENODATA, f"there is no attribute {name!r}")
        return value

    def names(self, node_id: int) -> list[bytes]:
        """Return the names of all attributes."""
        return list(self._inode(node_id)[1].xattrs)

    def set(
        self, node_id: int, name: bytes, value: bytes, flags: int, *, kill_setgid: bool = False
    ) -> None:
        """Set an attribute.

        Args:
            node_id: whose.
            name: of the attribute.
            value: what it shall be.
            flags: XATTR_CREATE, XATTR_REPLACE.
            kill_setgid: whether setgid goes, since the caller is not of the file's group.

        Raises:
            FileSystemError: EEXIST, ENODATA; EOPNOTSUPP, such attributes are not kept; EINVAL, it
                is no list; ENOSPC, S3 has no room for it.
        """
        node, inode = self._inode(node_id)
        if flags & os.XATTR_CREATE and name in inode.xattrs:
            raise FileSystemError(errno.EEXIST, f"there is an attribute {name!r}")
        if flags & os.XATTR_REPLACE and name not in inode.xattrs:
            raise FileSystemError(errno.ENODATA, f"there is no attribute {name!r}")
        if name in acl.NAMES:
            self._set_list(node, inode, name, value, kill_setgid=kill_setgid)
        elif name.startswith(_NAMESPACES):
            self._posix.set(node, xattrs={**inode.xattrs, name: value})
        else:
            raise FileSystemError(errno.EOPNOTSUPP, f"attributes like {name!r} are not kept")

    def _set_list(
        self, node: Node, inode: Inode, name: bytes, value: bytes, *, kill_setgid: bool
    ) -> None:
        """Set a list; that of access and the mode say the same."""
        if not acl.is_valid(value):
            raise FileSystemError(errno.EINVAL, "no access control list", logging.INFO)
        xattrs, mode = {**inode.xattrs, name: value}, inode.mode
        if name == acl.ACCESS:
            bits, is_all = acl.mode_of(value)
            mode = mode & ~0o777 | bits
            mode &= ~stat.S_ISGID if kill_setgid else ~0
            if is_all:
                del xattrs[name]
        elif not node.is_directory:
            raise FileSystemError(errno.EACCES, "only a directory has a list for what is in it")
        self._posix.set(node, mode=mode, xattrs=xattrs)

    def remove(self, node_id: int, name: bytes) -> None:
        """Remove an attribute.

        Raises:
            FileSystemError: ENODATA.
        """
        node, inode = self._inode(node_id)
        if name not in inode.xattrs:
            raise FileSystemError(errno.ENODATA, f"there is no attribute {name!r}")
        rest: Mapping[bytes, bytes] = {n: v for n, v in inode.xattrs.items() if n != name}
        self._posix.set(node, xattrs=rest)
