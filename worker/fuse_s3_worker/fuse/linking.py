"""Requests about links and extended attributes, which only a mount that keeps them serves."""

from typing import NamedTuple, Self

from fuse_s3_worker.fuse import abi
from fuse_s3_worker.fuse.requests import Cursor, MalformedRequestError, exact

__all__ = [
    "Getxattr",
    "Link",
    "LinkingMessage",
    "Listxattr",
    "Removexattr",
    "Setxattr",
    "Symlink",
]

_PATH_MAX = 4096  # linux/limits.h, with the NUL; what a target may be is decided in fs
_XATTR_NAME_MAX = 255  # linux/limits.h
_NAMESPACE_MIN = 5  # "user.": no name of an attribute is shorter


class Symlink(NamedTuple):
    """SYMLINK: `name` shall lead to `target`, which may be anything."""

    name: bytes
    target: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read both."""
        cursor = Cursor(body)
        name, target = cursor.name(), cursor.string(_PATH_MAX)
        cursor.end()
        return cls(name, target)


class Link(NamedTuple):
    """LINK: `name` shall be another one of the node `oldnodeid`."""

    oldnodeid: int
    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read both."""
        cursor = Cursor(body)
        (oldnodeid,) = cursor.fixed(abi.LINK_IN)
        name = cursor.name()
        cursor.end()
        return cls(oldnodeid, name)


class Setxattr(NamedTuple):
    """SETXATTR; `flags` are those of setxattr(2)."""

    flags: int
    setxattr_flags: int
    name: bytes
    value: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read either form: a name is longer than what stands in its place in the other."""
        start = body[abi.SETXATTR_IN_COMPAT.size :][:_NAMESPACE_MIN]
        extended = 0 in bytes(start)
        cursor = Cursor(body)
        if extended:
            size, flags, setxattr_flags, _ = cursor.fixed(abi.SETXATTR_IN)
        else:
            size, flags = cursor.fixed(abi.SETXATTR_IN_COMPAT)
            setxattr_flags = 0
        name, value = cursor.string(_XATTR_NAME_MAX), bytes(cursor.rest())
        if len(value) != size:
            raise MalformedRequestError(f"{len(value)} bytes of a value where {size} belong")
        return cls(flags, setxattr_flags, name, value)


class Getxattr(NamedTuple):
    """GETXATTR: at most `size` bytes are wanted; 0 asks how many there are."""

    size: int
    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read both."""
        cursor = Cursor(body)
        size, _ = cursor.fixed(abi.GETXATTR_IN)
        name = cursor.string(_XATTR_NAME_MAX)
        cursor.end()
        return cls(size, name)


class Listxattr(NamedTuple):
    """LISTXATTR; the same."""

    size: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the size."""
        size, _ = exact(body, abi.GETXATTR_IN)
        return cls(size)


class Removexattr(NamedTuple):
    """REMOVEXATTR."""

    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the name."""
        cursor = Cursor(body)
        name = cursor.string(_XATTR_NAME_MAX)
        cursor.end()
        return cls(name)


LinkingMessage = Symlink | Link | Setxattr | Getxattr | Listxattr | Removexattr
