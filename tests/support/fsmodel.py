"""What a mount must show and a bucket must have: keys, bytes, and the errno of what is refused.

The model is told what was done, and knows POSIX and the promises of this file system.
"""

import errno
import os
from dataclasses import dataclass, field

from fuse_s3_worker.fs.ranges import Fallocate

__all__ = ["Handle", "Model", "OpenFile", "parent_of"]


def parent_of(path: str) -> str:
    """Return the path of the directory that a path is in."""
    return path.rpartition("/")[0]


@dataclass(eq=False)
class OpenFile:
    """What the model knows of a file while it is open.

    Attributes:
        content: as this mount sees it.
        stored: as the bucket has it; None before it has anything.
        changed: whether there is something to be stored.
        versions: all that it was since it was opened, stored or not.
        borrows: from which files bytes were copied into it that are not stored yet.
    """

    path: str
    content: bytes
    stored: bytes | None
    changed: bool
    unlinked: bool = False
    replaced: bool = False
    handles: int = 0
    writers: int = 0
    versions: list[bytes] = field(default_factory=list)
    borrows: set[str] = field(default_factory=set)

    def set(self, content: bytes) -> None:
        """Have other bytes in it."""
        self.content = content
        self.changed = True
        self.versions.append(content)

    def put(self, offset: int, data: bytes) -> None:
        """Write."""
        content = self.content.ljust(offset, b"\0")
        self.set(content[:offset] + data + content[offset + len(data) :])

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Make room or zeros, in a mode of fallocate(2) that is known."""
        size, end = len(self.content), offset + length
        if mode == 0 and end > size:
            self.set(self.content.ljust(end, b"\0"))
        elif mode == Fallocate.ZERO_RANGE:
            self.put(offset, bytes(length))
        elif mode in {3, 17} and offset < size:
            self.put(offset, bytes(min(length, size - offset)))


@dataclass(eq=False)
class Handle:
    """What a program has opened: the mount's number for it, and how."""

    number: int
    flags: int
    file: OpenFile

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY


class Model:
    """Keys and bytes.

    Attributes:
        bucket: what is stored.
        kept: directories that have lost their last key just now, and stay all the same.
        opened: files that are open, by path, as far as they still have one.
    """

    def __init__(self) -> None:
        self.bucket: dict[str, bytes] = {}
        self.kept: set[str] = set()
        self.opened: dict[str, OpenFile] = {}

    def is_directory(self, path: str) -> bool:
        if not path:
            return True
        if not self.is_directory(parent_of(path)):
            return False
        known = [*self.bucket, *(f"{kept}/" for kept in self.kept)]
        return any(key.startswith(f"{path}/") for key in known)

    def content(self, path: str) -> bytes | None:
        """What is in a file; None when it is none."""
        if self.is_directory(path) or not self.is_directory(parent_of(path)):
            return None
        opened = self.opened.get(path)
        if opened is not None and opened.writers:
            return opened.content
        return self.bucket.get(path)

    def exists(self, path: str) -> bool:
        return self.is_directory(path) or self.content(path) is not None

    def children(self, path: str) -> dict[str, bool]:
        """Return the names in a directory, and whether each is one."""
        inside = f"{path}/" if path else ""
        names = {
            key.removeprefix(inside).partition("/")[0]
            for key in {*self.bucket, *self.opened, *self.kept}
            if key.startswith(inside) and key != inside
        }
        return {n: self.is_directory(inside + n) for n in names if self.exists(inside + n)}

    def below(self, path: str) -> list[OpenFile]:
        """Return the open files at and below a path."""
        return [f for p, f in self.opened.items() if f"{p}/".startswith(f"{path}/")]

    def busy(self, path: str) -> bool:
        """Tell whether anything at, above or below `path` is open."""
        return any(
            f"{opened}/".startswith(f"{path}/") or f"{path}/".startswith(f"{opened}/")
            for opened in self.opened
        )

    def theirs(self, file: OpenFile) -> bool:
        """Tell whether another client has replaced a file that is open for reading."""
        return not file.writers and self.bucket.get(file.path) not in {None, file.content}

    def free(self, path: str) -> bool:
        """Tell whether a key makes sense there: no file is above it."""
        parent = parent_of(path)
        return not parent or self.is_directory(parent) or self._vacant_above(parent)

    def _vacant_above(self, path: str) -> bool:
        return self.content(path) is None and not self.busy(path) and self.free(path)

    def lent(self, path: str) -> bool:
        """Tell whether a file that is not stored yet is made of bytes of another."""
        return any(path in opened.borrows for opened in self.opened.values())

    def written(self, path: str) -> bool:
        """Tell whether anybody has a file open to write it."""
        opened = self.opened.get(path)
        return opened is not None and bool(opened.writers)

    # -- what is refused --------------------------------------------------------------------------

    def missing(self, path: str) -> int:
        """Return the errno of looking a path up that is not there."""
        parent = parent_of(path)
        if self.is_directory(parent):
            return errno.ENOENT
        return errno.ENOTDIR if self.exists(parent) else self.missing(parent)

    def refused_making(self, path: str) -> int:
        """Return the errno of making something; 0, as everywhere here, when it can be."""
        if not self.is_directory(parent_of(path)):
            return self.missing(path)
        return errno.EEXIST if self.exists(path) else 0

    def refused_unlink(self, path: str) -> int:
        """Return the errno of removing a file."""
        if not self.exists(path):
            return self.missing(path)
        return errno.EISDIR if self.is_directory(path) else 0

    def refused_rmdir(self, path: str) -> int:
        """Return the errno of removing a directory."""
        if not self.exists(path):
            return self.missing(path)
        if not self.is_directory(path):
            return errno.ENOTDIR
        return errno.ENOTEMPTY if self.children(path) else 0

    def refused_rename(self, old: str, new: str, *, noreplace: bool) -> int:
        """Return the errno of a rename whose places both are in directories."""
        if not self.exists(old):
            return errno.ENOENT
        if noreplace and self.exists(new):
            return errno.EEXIST
        if old == new or not self.is_directory(old):
            return errno.EISDIR if old != new and self.is_directory(new) else 0
        return self._refused_directory(old, new)

    def _refused_directory(self, old: str, new: str) -> int:
        if f"{new}/".startswith(f"{old}/"):
            return errno.EINVAL
        if self.exists(new) and not self.is_directory(new):
            return errno.ENOTDIR
        return errno.ENOTEMPTY if self.children(new) else 0

    # -- what is done -----------------------------------------------------------------------------

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self.bucket.pop(path, None)
        opened = self.opened.pop(path, None)
        if opened is not None:
            opened.unlinked = True
        self._removed_from(parent_of(path))

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        self.bucket.pop(f"{path}/", None)
        self.kept.discard(path)
        self._removed_from(parent_of(path))

    def rename(self, old: str, new: str) -> None:
        """Give everything at and below `old` another name."""
        replaced = self.opened.pop(new, None)
        if replaced is not None:
            replaced.unlinked = replaced.replaced = True
        if self.is_directory(old):
            self._rename_directory(old, new)
        else:
            opened, stored = self.opened.get(old), self.bucket.pop(old, None)
            # One that was never stored has what it replaces in the bucket until it is.
            if stored is not None and (opened is None or opened.stored is not None):
                self.bucket[new] = stored
        for file in self.below(old):
            del self.opened[file.path]
            file.path = new + file.path.removeprefix(old)
            self.opened[file.path] = file
        self._removed_from(parent_of(old))

    def _rename_directory(self, old: str, new: str) -> None:
        keys = [key for key in self.bucket if key.startswith(f"{old}/")]
        for key in keys:
            self.bucket[new + key.removeprefix(old)] = self.bucket.pop(key)
        if not keys:  # it is there on this mount alone
            self.bucket[f"{new}/"] = b""
        self.kept.discard(new)
        for path in list(self.kept):
            if f"{path}/".startswith(f"{old}/"):
                self.kept.remove(path)
                self.kept.add(new + path.removeprefix(old))

    def _removed_from(self, path: str) -> None:
        """Something was removed in the directory `path`: it does not go with it."""
        if path and not any(key.startswith(f"{path}/") for key in self.bucket):
            self.kept.add(path)

    def open(self, handle: Handle) -> None:
        """Count a program that has opened a file."""
        file = handle.file
        self.opened[file.path] = file
        file.handles += 1
        file.writers += handle.writes

    def close(self, handle: Handle) -> None:
        """Forget that program; what it has written is stored."""
        file = handle.file
        if handle.writes:
            self.store(file)
            file.writers -= 1
        file.handles -= 1
        if not file.handles and not file.unlinked:
            del self.opened[file.path]

    def store(self, file: OpenFile) -> None:
        """Have a file in the bucket as it is here, if it still has a name."""
        if file.changed and not file.unlinked:
            self.bucket[file.path] = file.stored = file.content
        file.changed = False
        file.borrows.clear()

    def settle(self) -> None:
        """A moment later, kept directories have markers where they need them."""
        for path in sorted(self.kept):
            if not any(key.startswith(f"{path}/") for key in self.bucket):
                self.bucket[f"{path}/"] = b""
        self.kept.clear()
