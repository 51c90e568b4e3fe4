"""The bucket: which keys there are, in memory, and their bytes, as files that nginx serves.

A key is a path below the bucket's directory. That is what lets nginx answer a GET alone, and it
is a limit: `a` and `a/b` cannot both be keys, unless `a` ends in a slash. Such a marker has no
bytes and no file.
"""

import bisect
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.server.imagined import Imagined

__all__ = ["Entry", "Objects", "Page", "RefusedError"]

_BEYOND = "\U0010ffff"  # sorts after everything that a key contains


class RefusedError(Exception):
    """An error document: status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Entry(NamedTuple):
    """What is known of one object; `mtime` in whole seconds."""

    size: int
    mtime: int

    @property
    def etag(self) -> str:
        """What nginx makes of a file's time and size."""
        return f'"{self.mtime:x}-{self.size:x}"'


class Listed(Protocol):
    """What a listing says of an object beside its key."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime(self) -> int:
        """Whole seconds."""

    @property
    def etag(self) -> str:
        """With its quotes."""


class Page(NamedTuple):
    """A part of a listing; `next` is the last key or prefix in it when there is more."""

    objects: list[tuple[str, Listed]]
    prefixes: list[str]
    next: str


class Objects:
    """The objects of one bucket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []  # sorted; by code point is by UTF-8 byte, as S3 has it
        self._imagined: list[Imagined] = []

    def find(self, key: str) -> Entry:
        """Return an object's entry."""
        if key not in self._entries:
            raise RefusedError(404, "NoSuchKey", "The specified key does not exist.")
        return self._entries[key]

    def find_marker(self, key: str) -> Entry:
        """Return the entry of a key that has no file; any other had none a moment ago."""
        return self.find(key if key.endswith("/") else "")

    def path(self, key: str) -> Path:
        """Return the file of a key, which need not exist."""
        if not all(part not in {"", ".", ".."} for part in key.removesuffix("/").split("/")):
            raise RefusedError(501, "NotImplemented", "This server keeps keys as paths.")
        return self._directory / key

    def store(self, key: str, file: Path | None) -> Entry:
        """Make `file` the object `key`, by renaming it; None stores nothing but the key."""
        now = int(time.time())
        if key in self._entries:
            # Two versions within one second and of one size must not have one ETag.
            now = max(now, self._entries[key].mtime + 1)
        entry = Entry(self._place(key, file, now), now)
        if key not in self._entries:
            bisect.insort(self._keys, key)
        self._entries[key] = entry
        return entry

    def adopt(self, prefix: str) -> None:
        """Take for the objects below `prefix`, "" or a directory, what lies there now."""
        self._entries = {k: e for k, e in self._entries.items() if not k.startswith(prefix)}
        base = f"{self._directory}/"
        for parent, _, names in os.walk(base + prefix):
            for name in names:
                path = os.path.join(parent, name)  # noqa: PTH118  a hundred thousand of them
                found = os.stat(path)  # noqa: PTH116
                self._entries[path.removeprefix(base)] = Entry(found.st_size, int(found.st_mtime))
        self._keys = sorted(self._entries)

    def imagine(self, prefix: str, count: int, width: int) -> None:
        """List `count` keys below the directory `prefix` that are not there; see Imagined."""
        self._imagined.append(Imagined(prefix, count, width))
        self.store(prefix, None)  # what is in the bucket leads there

    def _place(self, key: str, file: Path | None, mtime: int) -> int:
        path = self.path(key)
        if key.endswith("/"):
            if file is not None and file.stat().st_size:
                raise RefusedError(501, "NotImplemented", "A marker has no bytes here.")
            return 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if file is None:
                file = path.with_name(f".{secrets.token_hex(8)}")
                file.touch()
            os.utime(file, (mtime, mtime))
            file.chmod(0o644)
            size = file.stat().st_size
            file.rename(path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise RefusedError(501, "NotImplemented", "This server keeps keys as paths.") from None
        return size

    def remove(self, key: str) -> None:
        """Forget an object; that there is none is no error."""
        if self._entries.pop(key, None) is None:
            return
        del self._keys[bisect.bisect_left(self._keys, key)]
        if key.endswith("/"):
            return
        path = self.path(key)
        path.unlink()
        self._prune(path.parent)

    def _prune(self, directory: Path) -> None:
        """Remove directories that nothing is in: their names may become keys."""
        while directory != self._directory:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent

    def page(self, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """List what comes after `after`: objects, and prefixes up to the next delimiter."""
        keys: Sequence[str] = self._keys
        describe: Callable[[str], Listed] = self._entries.__getitem__
        for imagined in self._imagined:
            if prefix.startswith(imagined.prefix):
                keys, describe = imagined, imagined.describe
        objects: list[tuple[str, Listed]] = []
        prefixes: list[str] = []
        last = ""
        # A listing that goes on after a prefix must not enter it again.
        ends_a_prefix = delimiter and after.endswith(delimiter) and after.startswith(prefix)
        inside = after + _BEYOND if ends_a_prefix and after != prefix else after
        at = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, inside))
        while at < len(keys) and (key := keys[at]).startswith(prefix):
            if len(objects) + len(prefixes) == limit:
                return Page(objects, prefixes, last)
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                objects.append((key, describe(key)))
                last, at = key, at + 1
            else:
                last = key[: cut + len(delimiter)]
                prefixes.append(last)
                at = bisect.bisect_left(keys, last + _BEYOND)
        return Page(objects, prefixes, "")
