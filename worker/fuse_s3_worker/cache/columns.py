"""A listed directory in columns: names in one string of bytes, numbers in arrays.

A directory of a million names as Python objects takes more than half a gigabyte. Here a name takes
its own bytes and about forty more, and becomes an object when somebody looks at it.

Rows are in the order of the bucket when every name had a slash behind it, so a name is found by
bisection. Where a store does not sort (directory buckets), an index is made when it is needed.
"""

import copy
import math
import re
from array import array
from bisect import bisect_left, bisect_right

from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["Columns"]

_SECOND = 1_000_000_000
_SUM = 16  # bytes of an ETag that is an MD5 sum, or one of a multipart upload
_MD5 = re.compile(r'"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"')
_PARTS_MAX = 10_000
_DIRECTORY, _OTHER = 0xFFFF, 0xFFFE  # instead of a number of parts
_NO_SUM = bytes(_SUM)


class Columns:
    """The names in the directory `key`, in order; rows are only ever appended.

    Attributes:
        key: the directory's.
        oldest: until when what was heard first is believed: before that, all of it is.
        newest: until when what was heard last is believed.
        directories: how many of the names are directories'.
    """

    __slots__ = (
        "_archived", "_classes", "_ends", "_index", "_last", "_names", "_others", "_parts",
        "_run_starts", "_run_untils", "_sizes", "_sorted", "_sums", "_times", "directories", "key",
        "newest", "oldest",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self._names = bytearray()
        self._ends = array("I")
        self._sizes = array("Q")
        self._times = array("q")  # nanoseconds
        self._sums = bytearray()
        self._parts = array("H")  # of the ETag; 0 when it is no multipart upload's
        self._others: dict[int, str] = {}  # ETags that are no MD5 sums
        self._classes: dict[int, str] = {}
        self._archived: set[int] = set()
        self._last = b""
        self._sorted = True
        self._index: dict[bytes, int] | None = None
        # Rows that were heard together are believed equally long.
        self._run_starts = array("I")
        self._run_untils = array("d")
        self.oldest = math.inf
        self.newest = -math.inf
        self.directories = 0

    def __len__(self) -> int:
        return len(self._ends)

    # -- filling --------------------------------------------------------------------------------

    def hear(self, until: float) -> None:
        """Note that a page was received that is believed `until` then, whatever is on it."""
        self.oldest = min(self.oldest, until)
        self.newest = max(self.newest, until)

    def append(self, name: str, info: ObjectInfo | None, until: float) -> None:
        """Add a row for a file, or without `info` for a directory: its marker is not kept."""
        if not self._run_untils or self._run_untils[-1] != until:
            self._run_starts.append(len(self))
            self._run_untils.append(until)
        encoded = name.encode("utf-8", "surrogatepass")
        in_order = encoded + b"/"
        self._sorted = self._sorted and in_order > self._last
        self._last = in_order
        self._index = None
        row = len(self._ends)
        self._names += encoded
        self._ends.append(len(self._names))
        if info is None:
            self.directories += 1
            self._put(_DIRECTORY, _NO_SUM, 0, 0)
            return
        md5 = _MD5.fullmatch(info.etag)
        if md5 is None or (parts := int(md5[2] or 0)) > _PARTS_MAX:
            self._others[row] = info.etag
            self._put(_OTHER, _NO_SUM, info.size, info.mtime)
        else:
            self._put(parts, bytes.fromhex(md5[1]), info.size, info.mtime)
        if info.storage_class:
            self._classes[row] = info.storage_class
        if info.archived:
            self._archived.add(row)

    def _put(self, parts: int, md5: bytes, size: int, mtime: int) -> None:
        self._parts.append(parts)
        self._sums += md5
        self._sizes.append(size)
        self._times.append(mtime)

    def under(self, key: str) -> "Columns":
        """Return the same rows as those of another directory; none may be added any more."""
        rows = copy.copy(self)
        rows.key = key
        return rows

    # -- looking --------------------------------------------------------------------------------

    def name(self, row: int) -> bytes:
        """Return the name in a row."""
        return bytes(self._names[self._ends[row - 1] if row else 0 : self._ends[row]])

    def is_directory(self, row: int) -> bool:
        """Tell whether a row is a directory's."""
        return self._parts[row] == _DIRECTORY

    def entry(self, row: int) -> Entry:
        """Return what a row says of its name."""
        if self._parts[row] == _DIRECTORY:
            return Entry.folder()
        name = self.name(row).decode("utf-8", "surrogatepass")
        return Entry.file(
            ObjectInfo(
                self.key + name,
                self._sizes[row],
                self._times[row],
                self._etag(row),
                self._classes.get(row, ""),
                row in self._archived,
            )
        )

    def _etag(self, row: int) -> str:
        parts = self._parts[row]
        if parts == _OTHER:
            return self._others[row]
        md5 = self._sums[row * _SUM : (row + 1) * _SUM].hex()
        return f'"{md5}-{parts}"' if parts else f'"{md5}"'

    def until(self, row: int) -> float:
        """Return until when a row is believed."""
        return self._run_untils[bisect_right(self._run_starts, row) - 1]

    def find(self, name: str) -> int | None:
        """Return the row of a name, None when there is none."""
        encoded = name.encode("utf-8", "surrogatepass")
        if not self._sorted:
            if self._index is None:
                self._index = {self.name(row): row for row in range(len(self))}
            return self._index.get(encoded)
        row = bisect_left(range(len(self)), encoded + b"/", key=lambda at: self.name(at) + b"/")
        return row if row < len(self) and self.name(row) == encoded else None
