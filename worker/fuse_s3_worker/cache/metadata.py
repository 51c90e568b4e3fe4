"""Names, sizes and times that the store told us, each believed for a lifetime.

A directory is remembered as single names and, when it was listed to its end, as a whole: then a
name that is not there is known not to exist. What is known of a single name is newer than the
listing. What this mount changes is put in here at once. An answer of the store that was under way
meanwhile may be older than such a change, and is dropped.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import ABSENT, Entry, Known

__all__ = ["Listed", "Metadata"]

_NAMES_MAX = 1_000_000  # held at once; the directories not used for longest are forgotten first
_UNKNOWN = Entry(directory=False, info=None)  # in place of an entry: ask the store


class Listed(NamedTuple):
    """A whole directory as it was listed, and the number of changes it has seen."""

    columns: Columns
    changes: int


class _Directory:
    """What is known of one directory; `until` is when the listing goes out of date.

    Attributes:
        names: single names, with the time until which each is believed.
        complete: whether a name that is not in the listing does not exist.
    """

    __slots__ = ("changes", "complete", "listed", "names", "until")

    def __init__(self, changes: int) -> None:
        self.names: dict[str, tuple[Entry | None, float]] = {}
        self.listed: Listed | None = None
        self.until = -math.inf
        self.complete = False
        self.changes = changes

    def __len__(self) -> int:
        return len(self.names) + (len(self.listed.columns) if self.listed else 0)

    def drop_listing(self) -> None:
        self.listed, self.until, self.complete = None, -math.inf, False


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
        if found is not None:
            known = found[0] is not _UNKNOWN and found[1] > now
            return Known(found[0], found[1] - now) if known else None
        if directory.listed is None or directory.until <= now:
            return None
        columns = directory.listed.columns
        row = columns.find(name)
        if row is None and not directory.complete:
            return None
        return Known(ABSENT if row is None else columns.entry(row), directory.until - now)

    def listing(self, key: str) -> Listed | None:
        """Return a directory as a whole, if it was listed to its end within the lifetime."""
        directory = self._directories.get(key)
        if directory is None or not directory.complete or directory.until <= self._clock():
            return None
        self._directories.move_to_end(key)
        return directory.listed

    def populated(self, key: str) -> bool:
        """Tell whether a directory is known as a whole, and known to have something in it."""
        listed = self.listing(key)
        if listed is None:
            return False
        rows, changed = listed.columns, self._directories[key].names
        if len(rows) > len(changed):  # they cannot all have been removed
            return True
        gone = sum(e is ABSENT and rows.find(name) is not None for name, (e, _) in changed.items())
        made = any(e is not ABSENT and rows.find(name) is None for name, (e, _) in changed.items())
        return made or len(rows) > gone

    def changed(self, key: str) -> dict[str, Entry | None]:
        """Return what is known of single names in a directory, which is newer than its listing."""
        directory = self._directories.get(key)
        now = self._clock()
        names = directory.names if directory else {}
        return {
            name: entry
            for name, (entry, until) in names.items()
            if until > now and entry is not _UNKNOWN
        }

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

    def learn_listing(self, key: str, columns: Columns, changes: int) -> bool:
        """Remember a whole directory, under the same condition."""
        directory = self._directory(key)
        if directory.changes != changes:
            return False
        self._count -= len(directory)
        directory.names = {}
        directory.listed = Listed(columns, changes)
        directory.until, directory.complete = self._until(), True
        self._count += len(directory)
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
        directory.complete = False
        if directory.names.pop(name, None) is not None:
            self._count -= 1
        if directory.listed is not None:
            directory.names[name] = (_UNKNOWN, directory.until)
            self._count += 1

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
        self._count -= len(directory)
        self._changes_forgotten = max(self._changes_forgotten, directory.changes)

    def expire(self) -> Iterator[str]:
        """Forget what is out of date; yield the keys of directories that went."""
        now = self._clock()
        for key, directory in list(self._directories.items()):
            self._count -= len(directory)
            # Single names are newer than the listing, so none of them uncovers an older row.
            for name in [name for name, (_, until) in directory.names.items() if until <= now]:
                del directory.names[name]
            if directory.until <= now:
                directory.drop_listing()
            self._count += len(directory)
            if not directory.names and directory.listed is None:
                self._drop(key)
                yield key
