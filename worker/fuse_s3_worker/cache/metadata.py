"""Names, sizes and times that the store told us, each believed for a lifetime.

A directory is remembered as single names and, when it was listed to its end, as a whole: then a
name that is not there is known not to exist. What this mount changes is put in here at once. An
answer of the store that was under way meanwhile may be older than such a change, and is dropped.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["ABSENT", "Entry", "Known", "Metadata"]

_NAMES_MAX = 1_000_000  # held at once; the directories not used for longest are forgotten first


class Entry(NamedTuple):
    """What a name stands for: a file (`info` is its object), or a directory.

    A directory's `info` is its marker, None when it only exists because keys begin with it.
    """

    directory: bool
    info: ObjectInfo | None

    @classmethod
    def file(cls, info: ObjectInfo) -> "Entry":
        """Return the entry of an object."""
        return cls(directory=False, info=info)

    @classmethod
    def folder(cls, marker: ObjectInfo | None = None) -> "Entry":
        """Return the entry of a directory."""
        return cls(directory=True, info=marker)


class Known(NamedTuple):
    """A remembered answer and the time, in seconds, for which it still holds."""

    entry: Entry | None
    seconds_left: float


ABSENT: Entry | None = None


class _Directory:
    __slots__ = ("changes", "complete_until", "names")

    def __init__(self, changes: int) -> None:
        self.names: dict[str, tuple[Entry | None, float]] = {}
        self.complete_until = -math.inf
        self.changes = changes


class Metadata:
    """The cache; `key` is always a directory's key: "" or ending with a slash."""

    def __init__(self, lifetime: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._directories: OrderedDict[str, _Directory] = OrderedDict()
        self._count = 0
        self._changes_forgotten = 0  # the most of any directory: its number must not grow anew

    # -- asking ---------------------------------------------------------------------------------

    def get(self, key: str, name: str) -> Known | None:
        """Return what is known of `name`; None when the store has to be asked."""
        directory = self._directories.get(key)
        if directory is None:
            return None
        now = self._clock()
        found = directory.names.get(name)
        if found is not None and found[1] > now:
            return Known(found[0], found[1] - now)
        if found is None and directory.complete_until > now:
            return Known(ABSENT, directory.complete_until - now)
        return None

    def listing(self, key: str) -> list[tuple[str, Entry]] | None:
        """Return all names of a directory, if it was listed to its end within the lifetime."""
        directory = self._directories.get(key)
        if directory is None or directory.complete_until <= self._clock():
            return None
        self._directories.move_to_end(key)
        return [(name, entry) for name, (entry, _) in directory.names.items() if entry is not None]

    def changes(self, key: str) -> int:
        """Return a number that grows with each change of ours in a directory."""
        directory = self._directories.get(key)
        return directory.changes if directory else self._changes_forgotten

    # -- what the store says --------------------------------------------------------------------

    def learn(self, key: str, name: str, entry: Entry | None, changes: int) -> bool:
        """Remember the answer to a request that was sent when `changes` was as it is given.

        Returns:
            Whether it still counts; False when this mount changed the directory since.
        """
        directory = self._directory(key)
        if directory.changes != changes:
            return False
        self._put(directory, name, entry)
        return True

    def learn_listing(self, key: str, entries: Iterable[tuple[str, Entry]], changes: int) -> bool:
        """Remember a whole directory, under the same condition."""
        directory = self._directory(key)
        if directory.changes != changes:
            return False
        self._count -= len(directory.names)
        until = self._until()
        directory.names = {name: (entry, until) for name, entry in entries}
        directory.complete_until = until
        self._count += len(directory.names)
        self._shrink()
        return True

    # -- what we do -----------------------------------------------------------------------------

    def change(self, key: str, name: str, entry: Entry | None) -> None:
        """Remember what this mount made of `name`; None: it removed it."""
        directory = self._directory(key)
        directory.changes += 1
        self._put(directory, name, entry)

    def forget(self, key: str, name: str) -> None:
        """Know nothing of `name` any more."""
        directory = self._directory(key)
        directory.changes += 1
        directory.complete_until = -math.inf
        if directory.names.pop(name, None) is not None:
            self._count -= 1

    # -- size -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count

    def _until(self) -> float:
        return self._clock() + self.lifetime

    def _directory(self, key: str) -> _Directory:
        directory = self._directories.get(key)
        if directory is None:
            directory = self._directories[key] = _Directory(self._changes_forgotten)
        else:
            self._directories.move_to_end(key)
        return directory

    def _put(self, directory: _Directory, name: str, entry: Entry | None) -> None:
        if name not in directory.names:
            self._count += 1
        directory.names[name] = (entry, self._until())
        self._shrink()

    def _shrink(self) -> None:
        """Forget directories, the longest unused first, but never the one in use."""
        while self._count > _NAMES_MAX and len(self._directories) > 1:
            self._drop(next(iter(self._directories)))

    def _drop(self, key: str) -> None:
        directory = self._directories.pop(key)
        self._count -= len(directory.names)
        self._changes_forgotten = max(self._changes_forgotten, directory.changes)

    def expire(self) -> Iterator[str]:
        """Forget what is out of date; yield the keys of directories that went."""
        now = self._clock()
        for key, directory in list(self._directories.items()):
            stale = [name for name, (_, until) in directory.names.items() if until <= now]
            for name in stale:
                del directory.names[name]
            self._count -= len(stale)
            if not directory.names and directory.complete_until <= now:
                self._drop(key)
                yield key
