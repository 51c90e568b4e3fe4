"""The attributes of one file that S3 has no place for."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["NO_XATTRS", "Defaults", "Inode"]

NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})


class Inode(NamedTuple):
    """Attributes as stat(2) and getxattr(2) show them.

    Attributes:
        mode: type and permissions, as in st_mode.
        atime: nanoseconds since the epoch, as are the other two.
        rdev: of a device, in the form that the kernel and its FUSE protocol use (new_encode_dev).
        xattrs: extended attributes by name; never changed in place.
    """

    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    rdev: int = 0
    xattrs: Mapping[bytes, bytes] = NO_XATTRS


class Defaults(NamedTuple):
    """What an object that keeps nothing is shown with; modes are permission bits."""

    uid: int
    gid: int
    file_mode: int
    dir_mode: int
