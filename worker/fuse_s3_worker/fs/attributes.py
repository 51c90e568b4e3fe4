"""What stat(2) shows: from the object what S3 stores, from options what it does not."""

import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fuse_s3_worker.fs.nodes import Node

__all__ = ["Attributes", "Overrides", "Ownership"]

_BLKSIZE = 1024 * 1024  # the best size for I/O, as NFS says too: one FUSE request


class Attributes(NamedTuple):
    """The attributes of one node; times in nanoseconds since the epoch."""

    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    blksize: int = _BLKSIZE
    rdev: int = 0


class Overrides(NamedTuple):
    """What chmod, chown and utimens set: shown until `until` (monotonic seconds), never stored."""

    until: float
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None


class Ownership(NamedTuple):
    """The options that give every file its owner and mode."""

    uid: int
    gid: int
    file_mode: int
    dir_mode: int
    mounted_at: int  # nanoseconds: the time of directories

    def of(self, node: "Node", now: float) -> Attributes:
        """Return the attributes of `node` at `now` (monotonic seconds)."""
        kind, mode = stat.S_IFREG, self.file_mode
        if node.is_directory:
            kind, mode = stat.S_IFDIR, self.dir_mode
        # Of a directory, a listing tells neither the time nor the size of its marker.
        info = None if node.is_directory else node.info
        if info is not None and info.archived:
            mode = 0  # nobody can read it before it is restored
        mtime = info.mtime if info else self.mounted_at
        size = info.size if info else 0
        if node.upload is not None and node.upload.failed is None:
            size, mtime = node.upload.size, node.upload.mtime
        found = Attributes(
            ino=node.ino,
            size=size,
            mode=kind | mode,
            nlink=2 if node.is_directory else 1,
            uid=self.uid,
            gid=self.gid,
            atime=mtime,
            mtime=mtime,
            ctime=mtime,
        )
        return _overridden(found, node, now) if node.overrides else found


def _overridden(found: Attributes, node: "Node", now: float) -> Attributes:
    overrides = node.overrides
    if overrides is None or overrides.until <= now:
        node.overrides = None
        return found
    set_values = {name: v for name, v in overrides._asdict().items() if v is not None}
    del set_values["until"]
    if "mode" in set_values:
        set_values["mode"] = stat.S_IFMT(found.mode) | stat.S_IMODE(set_values["mode"])
    return found._replace(**set_values)
