"""The part of the adapter that serves links and extended attributes.

A mount that does not keep such things says EPERM to links, which is what programs expect of a file
system without them, and ENOSYS to attributes, which the kernel remembers for all the others.
"""

import errno
import logging
import stat
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.links import Links
from fuse_s3_worker.fs.xattrs import Xattrs
from fuse_s3_worker.fuse import linking, replies, requests
from fuse_s3_worker.fuse.abi import SETXATTR_ACL_KILL_SGID
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.fuse.requests import Header

__all__ = ["LinkingHandlers"]

Work = Coroutine[Any, Any, None]


class LinkingHandlers:
    """Handlers of requests that `fuse.linking` decodes, of MKNOD and of READLINK."""

    _channel: Channel
    _fs: FileSystem

    def _reply_entry(self, header: Header, found: Found | float) -> None:
        raise NotImplementedError

    def _links(self) -> Links:
        if self._fs.links is None:
            raise FileSystemError(errno.EPERM, "links and special files are made with -o posix")
        return self._fs.links

    def _xattrs(self) -> Xattrs:
        if self._fs.xattrs is None:
            raise FileSystemError(errno.ENOSYS, "attributes are kept with -o posix")
        return self._fs.xattrs

    # -- links and special files ----------------------------------------------------------------

    async def _symlink(self, header: Header, symlink: linking.Symlink) -> None:
        made = Made(stat.S_IFLNK, 0, header.uid, header.gid)
        found = await self._links().symlink(
            header.nodeid, symlink.name, symlink.target, made, resent=header.resent
        )
        self._reply_entry(header, found)

    def _readlink(self, header: Header, _: requests.Empty) -> Work | None:
        target = self._links().readlink_nowait(header.nodeid)
        if target is None:
            return self._readlink_slowly(header)
        self._channel.reply(header.unique, target)
        return None

    async def _readlink_slowly(self, header: Header) -> None:
        self._channel.reply(header.unique, await self._links().readlink(header.nodeid))

    async def _mknod(self, header: Header, mknod: requests.Mknod) -> None:
        if self._fs.links is None and stat.S_ISREG(mknod.mode):
            names, resent = self._fs.names, header.resent
            self._reply_entry(header, await names.mknod(header.nodeid, mknod.name, resent=resent))
            return
        made = Made(mknod.mode, mknod.umask, header.uid, header.gid, mknod.rdev)
        found = await self._links().mknod(header.nodeid, mknod.name, made, resent=header.resent)
        self._reply_entry(header, found)

    def _link(self, _: Header, link: linking.Link) -> None:
        self._links()
        raise FileSystemError(
            errno.EOPNOTSUPP, f"no second name {link.name!r}: S3 has one key for an object"
        )

    # -- extended attributes --------------------------------------------------------------------

    def _setxattr(self, header: Header, message: linking.Setxattr) -> Work | None:
        def answer() -> None:
            self._xattrs().set(
                header.nodeid,
                message.name,
                message.value,
                message.flags,
                kill_setgid=bool(message.setxattr_flags & SETXATTR_ACL_KILL_SGID),
            )
            self._channel.reply(header.unique)

        return self._after_a_look(header, answer)

    def _getxattr(self, header: Header, message: linking.Getxattr) -> Work | None:
        def answer() -> None:
            value = self._xattrs().get(header.nodeid, message.name)
            self._reply_sized(header, message.size, [value])

        return self._after_a_look(header, answer)

    def _listxattr(self, header: Header, message: linking.Listxattr) -> Work | None:
        def answer() -> None:
            names = self._xattrs().names(header.nodeid)
            self._reply_sized(header, message.size, [name + b"\0" for name in names])

        return self._after_a_look(header, answer)

    def _removexattr(self, header: Header, message: linking.Removexattr) -> Work | None:
        def answer() -> None:
            self._xattrs().remove(header.nodeid, message.name)
            self._channel.reply(header.unique)

        return self._after_a_look(header, answer)

    def _after_a_look(self, header: Header, answer: Callable[[], None]) -> Work | None:
        """Answer; when what is known of the node is out of date, look at it first."""
        if not self._xattrs().is_fresh(header.nodeid):
            return self._look_and(header, answer)
        answer()
        return None

    async def _look_and(self, header: Header, answer: Callable[[], None]) -> None:
        await self._xattrs().look(header.nodeid)
        answer()

    def _reply_sized(self, header: Header, size: int, pieces: Iterable[bytes]) -> None:
        """Answer with a value, or only how long it is if that was the question."""
        value = b"".join(pieces)
        if not size:
            self._channel.reply(header.unique, replies.getxattr_out(len(value)))
        elif len(value) > size:
            raise FileSystemError(errno.ERANGE, f"{len(value)} bytes do not fit", logging.DEBUG)
        else:
            self._channel.reply(header.unique, value)
