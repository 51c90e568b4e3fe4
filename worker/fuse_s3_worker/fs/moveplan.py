"""What a rename of a directory moves: keys, and the version of each, in little memory."""

import math
from dataclasses import dataclass, field

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.store.types import ObjectInfo, same_version

__all__ = ["Plan", "Rows"]


@dataclass(slots=True)
class Plan:
    """Everything below `source` that is to be below `target`, numbered as it was listed.

    Attributes:
        source: what all keys begin with.
        target: what they begin with afterwards.
        rows: names behind `source`, and the versions that were listed.
        versions: of rows whose object was replaced before it was copied: what was copied.
        etags: of rows whose copy has another entity tag than the original: that of the copy.
    """

    source: str
    target: str
    rows: Columns = field(init=False)
    versions: dict[int, ObjectInfo] = field(default_factory=dict)
    etags: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = Columns(self.source)

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self.rows)

    def add(self, info: ObjectInfo) -> None:
        """Add an object."""
        self.rows.append(info.key.removeprefix(self.source), info, math.inf)

    def name(self, row: int) -> str:
        """Return what is behind `source`, and will be behind `target`."""
        return self.rows.name(row).decode("utf-8", "surrogatepass")

    def version(self, row: int) -> ObjectInfo:
        """Return the original."""
        info = self.versions.get(row) or self.rows.entry(row).info
        assert info is not None  # noqa: S101  there are only files
        return info

    def is_original(self, row: int, info: ObjectInfo) -> bool:
        """Tell whether an object is, as far as can be told, the original."""
        source = self.version(row)
        return info.size == source.size and same_version(info, source)

    def is_copy(self, row: int, info: ObjectInfo) -> bool:
        """Tell whether an object is, as far as can be told, the copy."""
        source = self.version(row)
        expected = source._replace(etag=self.etags.get(row, source.etag))
        return info.size == source.size and same_version(info, expected)


class Rows:
    """Finds the rows of keys that come in the order of the plan, more or less."""

    def __init__(self, plan: Plan, prefix: str) -> None:
        self._rows = plan.rows
        self._prefix = prefix
        self._next = 0

    def find(self, info: ObjectInfo) -> int | None:
        """Return the row of an object whose key begins with the prefix; None when it has none."""
        name = info.key.removeprefix(self._prefix)
        row: int | None = self._next
        # A name that is none of ours, and a store that does not sort, cost a search.
        if self._next >= len(self._rows) or self._rows.name(self._next) != name.encode(
            "utf-8", "surrogatepass"
        ):
            row = self._rows.find(name)
        if row is not None:
            self._next = row + 1
        return row
