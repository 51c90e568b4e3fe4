"""From typed answers to the bytes of fuse.h.

Functions return the body of a reply; the header is put in front where it is sent, so that file
data can follow it without being copied.
"""

from typing import NamedTuple

from fuse_s3_worker.fuse import abi
from fuse_s3_worker.fuse.abi import FopenFlag, NotifyCode

_SECOND = 1_000_000_000
FOREVER = (1 << 63) - 1  # a lifetime in nanoseconds that is as good as without end


class Attr(NamedTuple):
    """struct fuse_attr, with times in nanoseconds since the epoch."""

    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    blksize: int
    rdev: int = 0

    def encode(self) -> bytes:
        """Return the 88 bytes; blocks are of 512 bytes, as stat(2) counts them."""
        atime, atimensec = divmod(self.atime, _SECOND)
        mtime, mtimensec = divmod(self.mtime, _SECOND)
        ctime, ctimensec = divmod(self.ctime, _SECOND)
        return abi.ATTR.pack(
            self.ino,
            self.size,
            -(-self.size // 512),
            *(atime & _U64, mtime & _U64, ctime & _U64),
            *(atimensec, mtimensec, ctimensec),
            self.mode,
            self.nlink,
            self.uid,
            self.gid,
            self.rdev,
            self.blksize,
            0,
        )


_U64 = (1 << 64) - 1


class Entry(NamedTuple):
    """struct fuse_entry_out: a name's node; lifetimes in nanoseconds. Node 0 says: no such name."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    attr: Attr

    def encode(self) -> bytes:
        """Return the 128 bytes."""
        entry_valid, entry_nsec = divmod(self.entry_valid, _SECOND)
        attr_valid, attr_nsec = divmod(self.attr_valid, _SECOND)
        head = abi.ENTRY.pack(
            self.nodeid, self.generation, entry_valid, attr_valid, entry_nsec, attr_nsec
        )
        return head + self.attr.encode()


_NOTHING = bytes(abi.ATTR.size)


def negative_entry(entry_valid: int) -> bytes:
    """Say that a name does not exist, for so many nanoseconds (a negative dentry)."""
    seconds, nanoseconds = divmod(entry_valid, _SECOND)
    return abi.ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0) + _NOTHING


def attr_out(attr: Attr, attr_valid: int) -> bytes:
    """Answer GETATTR and SETATTR."""
    seconds, nanoseconds = divmod(attr_valid, _SECOND)
    return abi.ATTR_OUT.pack(seconds, nanoseconds, 0) + attr.encode()


def open_out(fh: int, flags: FopenFlag) -> bytes:
    """Answer OPEN and OPENDIR, and end the answer to CREATE."""
    return abi.OPEN_OUT.pack(fh, flags, 0)


def write_out(size: int) -> bytes:
    """Answer WRITE: so many bytes were taken."""
    return abi.WRITE_OUT.pack(size, 0)


def lseek_out(offset: int) -> bytes:
    """Answer LSEEK."""
    return abi.LSEEK_OUT.pack(offset)


def copy_file_range_out(size: int) -> bytes:
    """Answer COPY_FILE_RANGE_64: so many bytes were copied."""
    return abi.COPY_FILE_RANGE_OUT.pack(size)


def getxattr_out(size: int) -> bytes:
    """Answer GETXATTR and LISTXATTR when they ask for how many bytes there are."""
    return abi.GETXATTR_OUT.pack(size, 0)


class Statfs(NamedTuple):
    """struct fuse_kstatfs."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int

    def encode(self) -> bytes:
        """Return the 80 bytes."""
        return abi.KSTATFS.pack(*self, 0)


class DirentBuffer:
    """The answer to READDIR or READDIRPLUS: records up to the size that was asked for."""

    def __init__(self, size: int) -> None:
        self._room = size
        self._parts: list[bytes] = []

    def add(self, ino: int, off: int, kind: int, name: bytes, entry: Entry | None = None) -> bool:
        """Add a record; `off` is where the next one starts, `kind` the mode's type bits >> 12.

        With `entry` it is a record of READDIRPLUS, without one a record of READDIR.

        Returns:
            Whether it fitted; the kernel asks again from the last `off`.
        """
        return self._put(b"" if entry is None else entry.encode(), ino, off, kind, name)

    def add_unnoticed(self, ino: int, off: int, kind: int, name: bytes) -> bool:
        """Add a READDIRPLUS record whose node the kernel shall not take note of: `.` and `..`."""
        return self._put(_NO_NODE, ino, off, kind, name)

    def _put(self, entry: bytes, ino: int, off: int, kind: int, name: bytes) -> bool:
        record = entry + abi.DIRENT.pack(ino, off, len(name), kind) + name
        record += bytes(-len(record) % 8)
        if len(record) > self._room:
            return False
        self._room -= len(record)
        self._parts.append(record)
        return True

    def encode(self) -> bytes:
        """Return the records; nothing at all is the end of the directory."""
        return b"".join(self._parts)


_NO_NODE = bytes(abi.ENTRY.size + abi.ATTR.size)


def header(unique: int, body_length: int, errno: int = 0) -> bytes:
    """Return struct fuse_out_header for a reply; `errno` is positive, 0 for success."""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + body_length, -errno, unique)


def notify(code: NotifyCode, body: bytes) -> bytes:
    """Return a message that no request asked for."""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), code, 0) + body


def notify_inc_epoch() -> bytes:
    """Have every name looked up again that the kernel knows (7.44)."""
    return notify(NotifyCode.INC_EPOCH, b"")


def notify_inval_inode(nodeid: int, offset: int = 0, length: int = 0) -> bytes:
    """Drop attributes, and pages from `offset` on (`length` 0: to the end); -1 keeps all pages."""
    return notify(NotifyCode.INVAL_INODE, abi.NOTIFY_INVAL_INODE.pack(nodeid, offset, length))


def notify_resend() -> bytes:
    """Have the kernel send again what was read and not answered (FUSE_UNIQUE_RESEND is set)."""
    return notify(NotifyCode.RESEND, b"")


def notify_inval_entry(parent: int, name: bytes) -> bytes:
    """Drop the dentry of `name` in `parent`."""
    body = abi.NOTIFY_INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return notify(NotifyCode.INVAL_ENTRY, body)
