"""What a name in a directory stands for."""

from typing import NamedTuple

from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["ABSENT", "Entry", "Known"]


class Entry(NamedTuple):
    """What a name stands for: a file (`info` is its object), or a directory.

    A directory's `info` is its marker, None when it only exists because keys begin with it, or
    when that is not known: `unmarked` tells that there is none.
    """

    directory: bool
    info: ObjectInfo | None
    unmarked: bool = False

    @classmethod
    def file(cls, info: ObjectInfo) -> "Entry":
        """Return the entry of an object."""
        return cls(directory=False, info=info)

    @classmethod
    def folder(cls, marker: ObjectInfo | None = None, *, unmarked: bool = False) -> "Entry":
        """Return the entry of a directory."""
        return cls(directory=True, info=marker, unmarked=unmarked)


class Known(NamedTuple):
    """A remembered answer and the time, in seconds, for which it still holds."""

    entry: Entry | None
    seconds_left: float


ABSENT: Entry | None = None
