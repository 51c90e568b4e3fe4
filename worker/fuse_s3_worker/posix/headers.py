"""From the headers of an object to the attributes of a file, and back.

What is written is what s3fs writes, to the byte. Where an object has headers of other programs as
well, a change is written in these, too, so that they go on telling the truth.
"""

import stat
from collections.abc import Mapping
from typing import NamedTuple

from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.formats import META, SOURCES
from fuse_s3_worker.posix.inode import NO_XATTRS, Defaults, Inode
from fuse_s3_worker.posix.xattrs import read_xattrs, write_xattrs

__all__ = [
    "METADATA_MAX",
    "TAGGING_COUNT",
    "Described",
    "decode",
    "encode",
    "for_copy",
    "for_new_bytes",
    "largest_size",
    "metadata_size",
    "relevant",
]

METADATA_MAX = 2048  # bytes; "Working with object metadata" in the S3 user guide

_XATTR = f"{META}xattr"
_TIMES = frozenset({"mtime", "atime", "ctime"})
_OURS = frozenset({*(sources[0].header for sources in SOURCES.values()), _XATTR})

_IS_SYMLINK = f"{META}goog-reserved-file-is-symlink"
_SYMLINK_TARGET = f"{META}gcsfuse_symlink_target"

# API: what CopyObject and PutObject take and HeadObject gives back, beside metadata.
_ABOUT_BYTES = frozenset({"content-encoding", "expires", "x-amz-website-redirect-location"})
_ABOUT_NAME = frozenset(
    {"content-type", "cache-control", "content-disposition", "content-language"}
)
_HOW_STORED = frozenset(
    {
        "x-amz-storage-class",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-bucket-key-enabled",
    }
)
# What HeadObject says and nobody can ask for.
TAGGING_COUNT = "x-amz-tagging-count"
_TOLD = frozenset({TAGGING_COUNT, "x-amz-missing-meta"})
_RELEVANT = _ABOUT_BYTES | _ABOUT_NAME | _HOW_STORED | _TOLD
# What a store says of an object whose writer said nothing.
_NO_TYPES = frozenset({"", "binary/octet-stream"})

_KINDS = frozenset(
    {stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
)
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_ALL_BITS = 0o177777


class Described(NamedTuple):
    """What the headers of an object say.

    Attributes:
        rest: headers that have nothing to do with attributes and go along with the object.
        target: where a symbolic link leads, if the headers tell.
        nonsense: headers that could not be read.
    """

    inode: Inode
    rest: Mapping[str, str]
    target: bytes | None = None
    nonsense: tuple[str, ...] = ()


def relevant(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of a reply's headers that say something of the object beside its version."""
    return {n: v for n, v in headers.items() if n in _RELEVANT or n.startswith(META)}


# -- reading ---------------------------------------------------------------------------------------


class _Reader:
    """Reads fields of an object's headers, and remembers what made no sense."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.nonsense: list[str] = []

    def field(self, name: str) -> int | None:
        """Return a field out of the first header that has it."""
        for source in SOURCES[name]:
            if (text := self.headers.get(source.header)) is not None:
                value = source.read(text)
                if value is not None:
                    return value
                self.nonsense.append(source.header)
        return None

    def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the extended attributes."""
        text = self.headers.get(_XATTR)
        found = None if text is None else read_xattrs(text)
        if found is None:
            if text is not None:
                self.nonsense.append(_XATTR)
            return NO_XATTRS
        for name in acl.NAMES & found.keys():
            if not acl.is_valid(found[name]):
                self.nonsense.append(name.decode())
                del found[name]
        return found


def decode(
    headers: Mapping[str, str], modified: int, defaults: Defaults, *, directory: bool
) -> Described:
    """Return what an object's headers say of its file; what they do not say is as `defaults` have.

    Args:
        headers: of the reply to HEAD, lower-case names.
        modified: Last-Modified, in nanoseconds.
        defaults: what is shown in place of what is not kept or makes no sense.
        directory: whether it is a directory's marker.
    """
    reader = _Reader(headers)
    mode = _directory_mode(reader, defaults) if directory else _file_mode(reader, defaults)
    uid, gid = reader.field("uid"), reader.field("gid")
    mtime, atime, ctime = (reader.field(name) for name in ("mtime", "atime", "ctime"))
    mtime = modified if mtime is None else mtime
    rdev = reader.field("rdev") if stat.S_IFMT(mode) in _DEVICES else 0
    inode = Inode(
        mode,
        uid=defaults.uid if uid is None else uid,
        gid=defaults.gid if gid is None else gid,
        atime=mtime if atime is None else atime,
        mtime=mtime,
        ctime=modified if ctime is None else ctime,
        rdev=rdev or 0,
        xattrs=reader.xattrs(),
    )
    target = headers.get(_SYMLINK_TARGET)
    rest = {n: v for n, v in relevant(headers).items() if n not in _OURS}
    return Described(
        inode,
        rest,
        target.encode("latin-1", "replace") if target and stat.S_ISLNK(mode) else None,
        tuple(reader.nonsense),
    )


def _file_mode(reader: _Reader, defaults: Defaults) -> int:
    mode = reader.field("mode")
    is_link = reader.headers.get(_IS_SYMLINK) == "true" or _SYMLINK_TARGET in reader.headers
    if mode is not None and not (mode <= _ALL_BITS and stat.S_IFMT(mode) in {0, *_KINDS}):
        # A directory is told by a slash at the end of its key; without one, it is a file to us.
        reader.nonsense.append("mode")
        mode = None
    if mode is None:
        return stat.S_IFLNK | 0o777 if is_link else stat.S_IFREG | defaults.file_mode
    if stat.S_IFMT(mode):
        return mode
    kind = stat.S_IFLNK if is_link else stat.S_IFREG
    return kind | _with_some_permission(mode, stat.S_IRUSR)


def _directory_mode(reader: _Reader, defaults: Defaults) -> int:
    mode = reader.field("mode")
    if mode is not None and not (mode <= _ALL_BITS and stat.S_IFMT(mode) in {0, stat.S_IFDIR}):
        reader.nonsense.append("mode")
        mode = None
    if mode is None:
        return stat.S_IFDIR | defaults.dir_mode
    if stat.S_IFMT(mode):
        return mode
    return stat.S_IFDIR | _with_some_permission(mode, stat.S_IRUSR | stat.S_IXUSR)  # s3fs's mkdir


def _with_some_permission(mode: int, least: int) -> int:
    """Return permissions; a mode of nothing at all is no mode that anybody has set (s3fs)."""
    return mode if mode & 0o777 else mode | least


# -- writing ---------------------------------------------------------------------------------------


def encode(inode: Inode, rest: Mapping[str, str], *, times: bool = True) -> dict[str, str]:
    """Return the headers that an object of this inode has, `rest` included.

    Args:
        inode: what they shall say.
        rest: what else the object has; headers of other programs in there are brought up to date.
        times: whether times are kept; without, the object's Last-Modified tells them.
    """
    headers = dict(rest)
    for field, (ours, *others) in SOURCES.items():
        value = getattr(inode, field)
        if field in _TIMES and not times:
            for source in others:
                headers.pop(source.header, None)
            continue
        if field != "rdev" or value:
            headers[ours.header] = ours.write(value)
        headers |= {s.header: s.write(value) for s in others if s.header in headers}
    if inode.xattrs:
        headers[_XATTR] = write_xattrs(inode.xattrs)
    return headers


def for_copy(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a copy of the object onto itself is asked for: all that can be asked for."""
    return {n: v for n, v in headers.items() if n not in _TOLD}


def for_new_bytes(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what goes along when an object gets other bytes: metadata, and what is said of names.

    How it is stored is for the mount's options to say.
    """
    kept = {n: v for n, v in headers.items() if n in _ABOUT_NAME or n.startswith(META)}
    if kept.get("content-type", "") in _NO_TYPES:
        kept.pop("content-type", None)
    return kept


def metadata_size(headers: Mapping[str, str]) -> int:
    """Return the size of metadata as S3 counts it: names, with their prefix, and values."""
    return sum(len(n) + len(v) for n, v in headers.items() if n.startswith(META))


_WIDEST_TIME = 10**10 * 1_000_000_000 + 1
_WIDEST_ID = 0xFFFFFFFE


def largest_size(inode: Inode, rest: Mapping[str, str]) -> int:
    """Return how large metadata can become by other owners and times.

    chown and touch must not fail because of what setxattr has taken.
    """
    widest = inode._replace(
        uid=_WIDEST_ID,
        gid=_WIDEST_ID,
        atime=_WIDEST_TIME,
        mtime=_WIDEST_TIME,
        ctime=_WIDEST_TIME,
    )
    return metadata_size(encode(widest, rest))
