"""Names, sizes and times that the store told us, each believed for a lifetime.

A directory is remembered as single names and as what was listed of it, page by page; when that
was all, a name that is not there is known not to exist. What this mount changes is put in here at
once. An answer of the store that was under way meanwhile may be older than such a change; changes
are numbered, so of such an answer only what it says of those names is dropped.
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
_NAMES_COUNTED = 1_000  # changes in a directory, beyond which its directories are not counted
_UNKNOWN = Entry(directory=False, info=None)  # in place of an entry: ask the store


class _Name(NamedTuple):
    """What is known of a single name.

    Attributes:
        until: when that ends.
        change: the number of the change that made it so; 0 when it was only seen.
        masks: until when a listing that may be older says nothing of this name.
        alone: whether only the object was looked at, and not what is below it.
    """

    entry: Entry | None
    until: float
    change: int = 0
    masks: float = -math.inf
    alone: bool = False


class Listed(NamedTuple):
    """A whole directory as it was listed, and the number of changes it has seen."""

    columns: Columns
    changes: int


class _Directory:
    """What is known of one directory.

    Attributes:
        names: what is known of single names, and goes before what was listed.
        columns: what was listed, and may still be growing.
        rows: how many of its rows count.
        complete: whether a name that is in no row does not exist.
        whole_until: until when rows and `names` together are all there is.
        listed_at: what `changes` was when it was listed.
        changes: the number of the last change of ours.
        forgotten: the number of the last change that is remembered no more.
        counted: as how many names it is counted.
    """

    __slots__ = (
        "changes", "columns", "complete", "counted", "forgotten", "listed_at", "names", "rows",
        "whole_until",
    )  # fmt: skip

    def __init__(self, changes: int) -> None:
        self.names: dict[str, _Name] = {}
        self.columns: Columns | None = None
        self.rows = 0
        self.complete = False
        self.whole_until = -math.inf
        self.listed_at = 0
        self.changes = changes
        self.forgotten = changes
        self.counted = 0

    def changed_since(self, name: str, changes: int) -> bool:
        """Tell whether this mount changed a name after a request that was sent at `changes`."""
        found = self.names.get(name)
        return found is not None and found.change > changes

    def __len__(self) -> int:
        return len(self.names) + self.rows


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
            if found.until > now:
                return None if found.entry is _UNKNOWN else Known(found.entry, found.until - now)
            if found.masks > now:
                return None
        return self._listed(directory, name, now)

    def _listed(self, directory: _Directory, name: str, now: float) -> Known | None:
        columns = directory.columns
        if columns is None or columns.newest <= now:
            return None
        row = columns.find(name)
        if row is None:
            known = directory.complete and columns.oldest > now
            return Known(ABSENT, columns.oldest - now) if known else None
        if row >= directory.rows or columns.until(row) <= now:
            return None
        return Known(columns.entry(row), columns.until(row) - now)

    def get_row(self, key: str, columns: Columns, row: int, name: str) -> Known | None:
        """Do the same for a name in a row of `columns`, which nothing has changed since."""
        now = self._clock()
        directory = self._directories.get(key)
        found = directory.names.get(name) if directory is not None else None
        if found is not None and found.until > now and found.entry is not _UNKNOWN:
            return Known(found.entry, found.until - now)
        until = columns.until(row)
        return Known(columns.entry(row), until - now) if until > now else None

    def listing(self, key: str) -> Listed | None:
        """Return a directory as a whole, if it was listed to its end within the lifetime."""
        directory = self._directories.get(key)
        if directory is None or directory.columns is None:
            return None
        if directory.whole_until <= self._clock():
            return None
        self._directories.move_to_end(key)
        return Listed(directory.columns, directory.listed_at)

    def hint(self, key: str, name: str) -> Entry | None:
        """Return what a name stood for when anything was heard of it, which may be out of date."""
        directory = self._directories.get(key)
        if directory is None:
            return None
        found = directory.names.get(name)
        if found is not None and not found.alone:
            return None if found.entry is _UNKNOWN else found.entry
        row = directory.columns.find(name) if directory.columns is not None else None
        return directory.columns.entry(row) if directory.columns and row is not None else None

    def rows(self, key: str) -> Columns | None:
        """Return what was listed of a directory last, which may be out of date."""
        directory = self._directories.get(key)
        return directory.columns if directory is not None else None

    def row(self, key: str, name: str) -> int | None:
        """Return the row of a name in what was listed of its directory."""
        directory = self._directories.get(key)
        if directory is None or directory.columns is None:
            return None
        row = directory.columns.find(name)
        return row if row is not None and row < directory.rows else None

    def names_in(self, key: str, start: int, end: int) -> Iterator[tuple[str, Entry]]:
        """Yield the names in rows [start, end) with what is known of them now."""
        directory = self._directories.get(key)
        if directory is None or directory.columns is None:
            return
        for row in range(start, min(end, directory.rows)):
            name = directory.columns.name(row).decode("utf-8", "surrogatepass")
            known = self.get(key, name)
            if known is not None and known.entry is not None:
                yield name, known.entry

    def subdirectories(self, key: str) -> int | None:
        """Return how many directories are in one; None when it is not known as a whole."""
        directory = self._directories.get(key)
        if self.listing(key) is None or directory is None or directory.columns is None:
            return None
        if len(directory.names) > _NAMES_COUNTED:
            return None
        count = directory.columns.directories
        for name, known in directory.names.items():
            row = directory.columns.find(name)
            was = row is not None and directory.columns.is_directory(row)
            count += bool(known.entry and known.entry.directory) - was
        return count

    def populated(self, key: str) -> bool:
        """Tell whether a directory is known as a whole, and known to have something in it."""
        listed = self.listing(key)
        if listed is None:
            return False
        rows, changed = listed.columns, self._directories[key].names
        if len(rows) > len(changed):  # they cannot all have been removed
            return True
        gone = sum(n.entry is ABSENT and rows.find(k) is not None for k, n in changed.items())
        made = any(n.entry is not ABSENT and rows.find(k) is None for k, n in changed.items())
        return made or len(rows) > gone

    def changed(self, key: str) -> dict[str, Entry | None]:
        """Return what is known of single names in a directory, which is newer than its listing."""
        directory = self._directories.get(key)
        now = self._clock()
        names = directory.names if directory is not None else {}
        return {
            name: known.entry
            for name, known in names.items()
            if known.until > now and known.entry is not _UNKNOWN
        }

    def changes(self, key: str) -> int:
        """Return the number of the last change of ours in a directory."""
        directory = self._directories.get(key)
        return directory.changes if directory is not None else self._changes_forgotten

    # -- what the store says --------------------------------------------------------------------

    def learn(
        self, key: str, name: str, entry: Entry | None, changes: int, *, alone: bool = False
    ) -> bool:
        """Remember the answer to a request that was sent when `changes` was as it is given.

        `alone` tells that nobody looked for anything below the name: then it is no `hint`.

        Returns:
            Whether it still counts; False when this mount may have changed the name since.
        """
        directory = self._directory(key)
        if changes < directory.forgotten or directory.changed_since(name, changes):
            return False
        self._put(directory, name, _Name(entry, self.until(), alone=alone))
        return True

    def learn_listing(self, key: str, columns: Columns, changes: int, *, complete: bool) -> bool:
        """Remember what was listed of a directory up to now; the same, for all its names."""
        directory = self._directory(key)
        if changes < directory.forgotten:
            return False
        if not complete and self._is_better(directory, columns):
            return True
        directory.columns, directory.rows = columns, len(columns)
        directory.complete, directory.listed_at = complete, changes
        directory.whole_until = columns.oldest if complete else -math.inf
        for name, known in list(directory.names.items()):
            if known.change > changes:
                directory.names[name] = known._replace(masks=columns.newest)
                until = -math.inf if known.entry is _UNKNOWN else known.until
                directory.whole_until = min(directory.whole_until, until)
            elif known.until <= columns.oldest:
                self._forget(directory, name)
        self._recount(directory)
        return True

    def _forget(self, directory: _Directory, name: str) -> None:
        """Drop what is known of a name; answers older than a change of it do not count from now."""
        directory.forgotten = max(directory.forgotten, directory.names.pop(name).change)

    def learn_empty(self, key: str, until: float, changes: int) -> None:
        """Remember that there is nothing in a directory, on the same condition."""
        columns = Columns(key)
        columns.hear(until)
        self.learn_listing(key, columns, changes, complete=True)

    def _is_better(self, directory: _Directory, columns: Columns) -> bool:
        """Tell whether what is remembered already says more than the beginning of a listing."""
        old = directory.columns
        return (
            old is not None
            and old is not columns
            and old.newest > self._clock()
            and (directory.complete or directory.rows >= len(columns))
        )

    def now(self) -> float:
        """Return the time that lifetimes are counted in, in seconds."""
        return self._clock()

    def until(self) -> float:
        """Return until when what is heard now is believed."""
        return self._clock() + self.lifetime

    # -- what we do -----------------------------------------------------------------------------

    def change(self, key: str, name: str, entry: Entry | None) -> None:
        """Remember what this mount made of `name`; None: it removed it."""
        directory = self._directory(key)
        directory.changes += 1
        self._put(directory, name, _Name(entry, self.until(), directory.changes))

    def forget(self, key: str, name: str) -> None:
        """Know nothing of `name` any more."""
        directory = self._directory(key)
        directory.changes += 1
        directory.whole_until = -math.inf
        self._put(directory, name, _Name(_UNKNOWN, self.until(), directory.changes))

    def forget_below(self, key: str) -> None:
        """Know nothing any more of a directory and of all below it; nor of what is under way."""
        for directory_key in [found for found in self._directories if found.startswith(key)]:
            self._drop(directory_key)
        self._changes_forgotten += 1

    # -- size -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count

    def _directory(self, key: str) -> _Directory:
        directory = self._directories.get(key)
        if directory is None:
            directory = self._directories[key] = _Directory(self._changes_forgotten)
        else:
            self._directories.move_to_end(key)
        return directory

    def _put(self, directory: _Directory, name: str, known: _Name) -> None:
        before = directory.names.get(name)
        if before is not None:  # what was masked by a change stays so
            known = known._replace(masks=before.masks, change=max(known.change, before.change))
        directory.names[name] = known
        self._recount(directory)

    def _recount(self, directory: _Directory) -> None:
        """Bring the count up to date; forget directories that are too many, never the last used."""
        self._count += len(directory) - directory.counted
        directory.counted = len(directory)
        while self._count > _NAMES_MAX and len(self._directories) > 1:
            self._drop(next(iter(self._directories)))

    def _drop(self, key: str) -> None:
        directory = self._directories.pop(key)
        self._count -= directory.counted
        self._changes_forgotten = max(self._changes_forgotten, directory.changes)

    def expire(self) -> Iterator[str]:
        """Forget what is out of date; yield the keys of directories that went."""
        now = self._clock()
        for key, directory in list(self._directories.items()):
            for name, known in list(directory.names.items()):
                if max(known.until, known.masks) <= now:
                    self._forget(directory, name)
            if directory.columns is not None and directory.columns.newest <= now:
                directory.columns, directory.rows, directory.complete = None, 0, False
                directory.whole_until = -math.inf
            self._recount(directory)
            if not directory.names and directory.columns is None:
                self._drop(key)
                yield key
