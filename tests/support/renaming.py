"""What tests of renames look at: the bucket before and after, and the errno of what is refused."""

from collections.abc import Awaitable

import pytest

from fuse_s3_worker.errors import FileSystemError, StoreError
from support.tree import Tree

__all__ = ["contents", "errno_of"]


async def errno_of(work: Awaitable[object]) -> int:
    """Return the errno that `work` comes to."""
    with pytest.raises((FileSystemError, StoreError)) as refused:
        await work
    return int(refused.value.errno)


def contents(t: Tree) -> dict[str, bytes]:
    """Return what is in the bucket."""
    keys = t.store.keys()
    return {key: t.store.read(key) for key in keys}
