"""What lstat(2), readlink(2) and getxattr(2) say of every file of a tree, to be compared."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Seen", "describe", "see"]


class Seen(NamedTuple):
    """One file; times in nanoseconds, `size` and `rdev` 0 where they mean nothing."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    rdev: int
    target: bytes | None
    xattrs: Mapping[str, bytes]


def see(path: Path) -> Seen:
    """Look at one file, not at what it leads to."""
    found = path.lstat()
    is_link = stat.S_ISLNK(found.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    return Seen(
        found.st_mode,
        found.st_uid,
        found.st_gid,
        0 if path.is_dir() else found.st_size,
        found.st_mtime_ns,
        found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0,
        bytes(path.readlink()) if is_link else None,
        {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
    )


def describe(tree: Path) -> dict[str, Seen]:
    """Look at everything below `tree`, and at itself, which is "."."""
    return {str(path.relative_to(tree)): see(path) for path in (tree, *sorted(tree.rglob("*")))}
