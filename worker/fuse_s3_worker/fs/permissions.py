"""What modes, owners and lists do to one another: setuid, setgid, umask, inheritance."""

import stat
from typing import Any

from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.inode import NO_XATTRS, Inode

__all__ = ["inherited", "without_privileges"]

_CAPABILITY = b"security.capability"


def without_privileges(inode: Inode) -> dict[str, Any]:
    """Return the fields of an inode that are others without privileges.

    As chown(2) and write(2) have it: a setgid bit without execution is no privilege, and those of
    directories mean something else.
    """
    changed: dict[str, Any] = {}
    if stat.S_ISDIR(inode.mode):
        return changed
    mode = inode.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    if mode != inode.mode:
        changed["mode"] = mode
    if _CAPABILITY in inode.xattrs:
        changed["xattrs"] = {n: v for n, v in inode.xattrs.items() if n != _CAPABILITY}
    return changed


def inherited(parent: Inode | None, made: Made, now: int) -> Inode:
    """Return the inode of something new.

    Args:
        parent: of the directory that it is in, if that is known.
        made: what was asked for.
        now: nanoseconds since the epoch.
    """
    mode, gid = made.mode, made.gid
    if parent is not None and parent.mode & stat.S_ISGID:
        gid = parent.gid
        mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
    default = parent.xattrs.get(acl.DEFAULT) if parent is not None else None
    xattrs = dict(NO_XATTRS)
    if stat.S_ISLNK(mode):
        mode |= 0o777
    elif default is None:
        mode &= ~made.umask
    else:
        given = acl.inherit(default, mode & 0o777)
        mode = mode & ~0o777 | given.mode
        if given.access is not None:
            xattrs[acl.ACCESS] = given.access
        if stat.S_ISDIR(mode):
            xattrs[acl.DEFAULT] = default
    return Inode(mode, made.uid, gid, now, now, now, made.rdev, xattrs)
