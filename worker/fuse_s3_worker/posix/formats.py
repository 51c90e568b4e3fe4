"""Who keeps which attribute in which header, and how: one table.

s3fs comes first, and what is written is what it writes. The others are s3sync, AWS DataSync with
FSx for Lustre and File Cache, and Google's tools with gcsfuse; rclone writes s3fs's `mtime`.
"""

from collections.abc import Callable
from typing import NamedTuple

from fuse_s3_worker.posix import values

__all__ = ["META", "SOURCES", "Source"]

META = "x-amz-meta-"


class Source(NamedTuple):
    """A header that keeps a field, and how."""

    name: str
    read: Callable[[str], int | None]
    write: Callable[[int], str]

    @property
    def header(self) -> str:
        """The header's whole name."""
        return META + self.name


def _octal(number: int) -> str:
    return f"{number:07o}"


def _whole_seconds(time: int) -> str:
    return str(time // 1_000_000_000)


def _nanoseconds(time: int) -> str:
    return f"{time}ns"


def _time(name: str) -> Source:
    return Source(name, values.read_seconds, values.write_seconds)


# Field of Inode: who keeps it, in the order in which they are believed. The first is s3fs, and
# ours; `rdev` is geesefs's, since s3fs keeps no device numbers.
SOURCES: dict[str, tuple[Source, ...]] = {
    "mode": (
        Source("mode", values.read_number, str),
        Source("permissions", values.read_number, str),  # s3sync
        Source("file-permissions", values.read_octal, _octal),  # DataSync, FSx, File Cache
        Source("goog-reserved-posix-mode", values.read_octal, _octal),  # Google's tools
    ),
    "uid": (
        Source("uid", values.read_id, str),
        Source("owner", values.read_id, str),
        Source("file-owner", values.read_id, str),
        Source("goog-reserved-posix-uid", values.read_id, str),
    ),
    "gid": (
        Source("gid", values.read_id, str),
        Source("group", values.read_id, str),
        Source("file-group", values.read_id, str),
        Source("goog-reserved-posix-gid", values.read_id, str),
    ),
    "mtime": (
        _time("mtime"),  # rclone, too
        Source("file-mtime", values.read_ticks, _nanoseconds),
        Source("goog-reserved-file-mtime", values.read_seconds, _whole_seconds),
        Source("gcsfuse_mtime", values.read_rfc3339, values.write_rfc3339),
    ),
    "atime": (
        _time("atime"),
        Source("file-atime", values.read_ticks, _nanoseconds),
        Source("goog-reserved-file-atime", values.read_seconds, _whole_seconds),
    ),
    "ctime": (_time("ctime"),),
    "rdev": (Source("rdev", values.read_number, str),),
}
