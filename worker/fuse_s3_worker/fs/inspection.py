"""What there is to see of a file system from outside, and to forget."""

import errno
from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.files import Files
from fuse_s3_worker.fs.nodes import Node

__all__ = ["DirtyFile", "dirty_files", "drop_metadata"]

_PATH_MAX = 4096  # PATH_MAX of linux/limits.h


class DirtyFile(NamedTuple):
    """A file with something that the bucket does not have.

    Attributes:
        size: bytes of the file as it is written.
        staged: it is kept as a whole, and not sent while it is written.
        closed: it is to be stored as it is.
        problem: why nothing more will come of it; "" as long as something may.
    """

    key: str
    size: int
    staged: bool
    closed: bool
    problem: str


def dirty_files(files: Files) -> Iterator[DirtyFile]:
    """Yield the files that are written and not stored."""
    for node in files.nodes():
        upload = node.upload
        if upload is not None and (upload.dirty or upload.failed is not None):
            problem = "" if upload.failed is None else str(upload.failed)
            yield DirtyFile(node.key, upload.size, upload.staged, upload.sealed, problem)


def drop_metadata(core: Core, path: str) -> list[Node]:
    """Forget what is remembered of a path and of all below it; "" is the whole mount.

    Returns:
        The nodes that the kernel has to be told of.

    Raises:
        FileSystemError: EINVAL, this is no path below the mount point.
    """
    parts = _parts(path)
    root = core.nodes.root
    core.metadata.forget_below(root.key + "".join(f"{part}/" for part in parts))
    if not parts:
        return list(root.tree())
    parent_key = root.key + "".join(f"{part}/" for part in parts[:-1])
    core.metadata.forget(parent_key, parts[-1])
    node: Node | None = root
    for part in parts:
        node = node.children.get(part) if node is not None else None
    return list(node.tree()) if node is not None else []


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if len(path) > _PATH_MAX or ".." in parts or "\0" in path:
        raise FileSystemError(errno.EINVAL, f"no path below the mount point: {path[:200]!r}")
    return parts
