"""Keys that are listed and have no bytes: a million of them take no file and no memory."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, overload

__all__ = ["Imagined"]

_BEGIN = 1_700_000_000  # the time of the first one, in seconds


class Imagined(Sequence[str]):
    """Keys below `prefix`, in order: `count` of them, `width` in each directory; 0 is all in one.

    The names have numbers, which are the keys' places in the order.
    """

    def __init__(self, prefix: str, count: int, width: int) -> None:
        self.prefix = prefix
        self._count = count
        self._width = width

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(at)
        name = f"name-{at:07}"
        if not self._width:
            return self.prefix + name
        return f"{self.prefix}{at // self._width**2:03}/{at // self._width:05}/{name}"

    @staticmethod
    def describe(key: str) -> "Description":
        """Return what a listing says of a key."""
        number = int(key[-7:])
        etag = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
        return Description(number % 100_003, _BEGIN + number // 1000, f'"{etag}"')


class Description(NamedTuple):
    """Size, time in whole seconds, and ETag."""

    size: int
    mtime: int
    etag: str
