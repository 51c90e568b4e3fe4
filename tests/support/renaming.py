"""What tests of renames look at: the bucket before and after, and the errno of what is refused."""

from collections.abc import Awaitable

import pytest

from fuse_s3_worker.errors import FileSystemError, StoreError
from support.tree import Tree

__all__ = ["TREE", "contents", "errno_of", "moved"]

# The directory d, with a name in it that is a file and a directory; and keys that only look so.
TREE = {
    "d/": b"",
    "d/a": b"1",
    "d/a-b": b"22",
    "d/a/c": b"333",
    "d/b": b"4444",
    "d/sub/": b"",
    "d/sub/deep/x": b"5",
    "d0": b"not in it",
    "d-": b"nor this",
}


async def errno_of(work: Awaitable[object]) -> int:
    """Return the errno that `work` comes to."""
    with pytest.raises((FileSystemError, StoreError)) as refused:
        await work
    return int(refused.value.errno)


def contents(t: Tree) -> dict[str, bytes]:
    """Return what is in the bucket."""
    keys = t.store.keys()
    return {key: t.store.read(key) for key in keys}


def moved(objects: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """Return what a rename makes of a bucket."""
    return {
        (new + key.removeprefix(old) if key.startswith(old) else key): data
        for key, data in objects.items()
    }
