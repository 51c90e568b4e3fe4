"""From bytes of the kernel to typed messages; nothing is believed that was not checked.

Every message is a NamedTuple: immutable, printable on one line for the log, and built in a
fraction of the time of a frozen dataclass, which counts at 100,000 requests a second. Times are
nanoseconds since the epoch, names are bytes without the NUL.
"""

from struct import Struct
from typing import NamedTuple, Self

from fuse_s3_worker.fuse import abi
from fuse_s3_worker.fuse.abi import Fattr

NAME_MAX = 1024  # FUSE_NAME_MAX of linux/fs/fuse/fuse_i.h; what a name may be is decided in fs


class MalformedRequestError(ValueError):
    """The kernel sent what fuse.h does not describe; the message says which field."""


class Header(NamedTuple):
    """struct fuse_in_header."""

    len: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    total_extlen: int
    padding: int

    @property
    def resent(self) -> bool:
        """Tell whether a worker before this one has read it, and not answered."""
        return bool(self.unique & abi.UNIQUE_RESEND)

    @classmethod
    def decode(cls, request: memoryview) -> Self:
        """Read the header of `request`, which must be exactly as long as it says."""
        if len(request) < abi.IN_HEADER.size:
            raise MalformedRequestError(f"a request of {len(request)} bytes has no header")
        header = cls._make(abi.IN_HEADER.unpack_from(request))
        if header.len != len(request):
            raise MalformedRequestError(f"a request of {len(request)} bytes says {header.len}")
        return header


class Cursor:
    """Walks over a request's body; running short and bytes left over are errors."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def fixed(self, layout: Struct) -> tuple[int, ...]:
        """Return the fields of `layout`."""
        if self._at + layout.size > len(self._body):
            raise MalformedRequestError(f"{len(self._body)} bytes of body are too few")
        fields = layout.unpack_from(self._body, self._at)
        self._at += layout.size
        return fields

    def name(self) -> bytes:
        """Return a NUL-terminated name: not empty, no slash."""
        at = self._at
        name = self.string(NAME_MAX)
        if b"/" in name:
            raise MalformedRequestError(f"no name at byte {at} of the body")
        return name

    def string(self, most: int) -> bytes:
        """Return a NUL-terminated string of 1 to `most` bytes, whatever they are."""
        tail = bytes(self._body[self._at : self._at + most + 1])
        text, nul, _ = tail.partition(b"\0")
        if not nul or not text:
            raise MalformedRequestError(f"no string at byte {self._at} of the body")
        self._at += len(text) + 1
        return text

    def rest(self) -> memoryview:
        """Return what is left, without a copy."""
        rest = self._body[self._at :]
        self._at = len(self._body)
        return rest

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._body):
            raise MalformedRequestError(f"{len(self._body) - self._at} bytes left over")


def exact(body: memoryview, layout: Struct) -> tuple[int, ...]:
    """Return the fields of a body that is `layout` and nothing else."""
    if len(body) != layout.size:
        raise MalformedRequestError(f"{len(body)} bytes of body where {layout.size} belong")
    return layout.unpack(body)


class Init(NamedTuple):
    """INIT: what the kernel speaks; `flags` has all 64 bits."""

    major: int
    minor: int
    max_readahead: int
    flags: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Accept the short form of kernels before 7.36 and the long one."""
        if len(body) == abi.INIT_IN.size:
            return cls._make(abi.INIT_IN.unpack(body))
        major, minor, max_readahead, flags, flags2 = exact(body, abi.INIT_IN_EXT)
        return cls(major, minor, max_readahead, flags | flags2 << 32)


class Empty(NamedTuple):
    """A request without a body: STATFS, DESTROY."""

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Check that there is nothing."""
        Cursor(body).end()
        return cls()


class Named(NamedTuple):
    """A name in the directory `nodeid`: LOOKUP, UNLINK, RMDIR."""

    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the name."""
        cursor = Cursor(body)
        name = cursor.name()
        cursor.end()
        return cls(name)


class Forget(NamedTuple):
    """FORGET: so many lookups of `nodeid` are over."""

    nlookup: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the count."""
        return cls(*exact(body, abi.FORGET_IN))


class BatchForget(NamedTuple):
    """BATCH_FORGET: (nodeid, nlookup) of many nodes."""

    nodes: list[tuple[int, int]]

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read as many pairs as announced."""
        cursor = Cursor(body)
        count, _ = cursor.fixed(abi.BATCH_FORGET_IN)
        pairs = cursor.rest()
        if len(pairs) != count * abi.FORGET_ONE.size:
            raise MalformedRequestError(f"{len(pairs)} bytes are not {count} forgets")
        return cls(list(abi.FORGET_ONE.iter_unpack(pairs)))


class Getattr(NamedTuple):
    """GETATTR; `fh` is None when the kernel asks without an open file."""

    fh: int | None

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read flags and handle."""
        flags, _, fh = exact(body, abi.GETATTR_IN)
        return cls(fh if flags & abi.GETATTR_FH else None)


class Setattr(NamedTuple):
    """SETATTR; None where `valid` does not have the field. `*time` is None for "now" too."""

    valid: Fattr
    fh: int | None
    size: int | None
    mode: int | None
    uid: int | None
    gid: int | None
    atime: int | None
    mtime: int | None

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read what counts."""
        valid_bits, _, fh, size, _, atime, mtime, _, *rest = exact(body, abi.SETATTR_IN)
        atimensec, mtimensec, _, mode, _, uid, gid, _ = rest
        valid = Fattr(valid_bits)
        return cls(
            valid,
            fh=fh if Fattr.FH in valid else None,
            size=size if Fattr.SIZE in valid else None,
            mode=mode if Fattr.MODE in valid else None,
            uid=uid if Fattr.UID in valid else None,
            gid=gid if Fattr.GID in valid else None,
            atime=_nanoseconds(atime, atimensec) if Fattr.ATIME in valid else None,
            mtime=_nanoseconds(mtime, mtimensec) if Fattr.MTIME in valid else None,
        )


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    # Seconds are a signed 64-bit number in an unsigned field: files from before 1970 exist.
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 1_000_000_000 + nanoseconds


class Mknod(NamedTuple):
    """MKNOD: `mode` has the type of the node."""

    mode: int
    rdev: int
    umask: int
    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the fields and the name."""
        cursor = Cursor(body)
        mode, rdev, umask, _ = cursor.fixed(abi.MKNOD_IN)
        name = cursor.name()
        cursor.end()
        return cls(mode, rdev, umask, name)


class Mkdir(NamedTuple):
    """MKDIR."""

    mode: int
    umask: int
    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the fields and the name."""
        cursor = Cursor(body)
        mode, umask = cursor.fixed(abi.MKDIR_IN)
        name = cursor.name()
        cursor.end()
        return cls(mode, umask, name)


class Rename(NamedTuple):
    """RENAME and RENAME2: `name` in `nodeid` becomes `newname` in `newdir`."""

    newdir: int
    flags: int
    name: bytes
    newname: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read RENAME, which has no flags."""
        cursor = Cursor(body)
        (newdir,) = cursor.fixed(abi.RENAME_IN)
        return cls._names(cursor, newdir, 0)

    @classmethod
    def decode2(cls, body: memoryview) -> Self:
        """Read RENAME2."""
        cursor = Cursor(body)
        newdir, flags, _ = cursor.fixed(abi.RENAME2_IN)
        return cls._names(cursor, newdir, flags)

    @classmethod
    def _names(cls, cursor: Cursor, newdir: int, flags: int) -> Self:
        name, newname = cursor.name(), cursor.name()
        cursor.end()
        return cls(newdir, flags, name, newname)


class Open(NamedTuple):
    """OPEN and OPENDIR: the flags of open(2) without O_CREAT, O_EXCL and O_NOCTTY."""

    flags: int
    open_flags: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the flags."""
        return cls(*exact(body, abi.OPEN_IN))


class Create(NamedTuple):
    """CREATE: the name was looked up just before and did not exist."""

    flags: int
    mode: int
    umask: int
    open_flags: int
    name: bytes

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the fields and the name."""
        cursor = Cursor(body)
        flags, mode, umask, open_flags = cursor.fixed(abi.CREATE_IN)
        name = cursor.name()
        cursor.end()
        return cls(flags, mode, umask, open_flags, name)


class Read(NamedTuple):
    """READ, READDIR and READDIRPLUS."""

    fh: int
    offset: int
    size: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle, offset and size."""
        fh, offset, size, *_ = exact(body, abi.READ_IN)
        return cls(fh, offset, size)


class Write(NamedTuple):
    """WRITE; `data` is a view of the request, gone when the handler returns."""

    fh: int
    offset: int
    flags: int
    data: memoryview

    @property
    def mapped(self) -> bool:
        """Tell whether these are pages of a memory map that the kernel writes back."""
        return bool(self.flags & abi.WRITE_CACHE)

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the fields; the data must be as long as they say."""
        cursor = Cursor(body)
        fh, offset, size, flags, *_ = cursor.fixed(abi.WRITE_IN)
        data = cursor.rest()
        if len(data) != size:
            raise MalformedRequestError(f"{len(data)} bytes of data where {size} belong")
        return cls(fh, offset, flags, data)


class Release(NamedTuple):
    """RELEASE and RELEASEDIR: the last reference to `fh` is gone."""

    fh: int
    flags: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle and flags."""
        fh, flags, *_ = exact(body, abi.RELEASE_IN)
        return cls(fh, flags)


class Flush(NamedTuple):
    """FLUSH: one descriptor of `fh` is closed; there may be more."""

    fh: int
    lock_owner: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle and owner."""
        fh, _, _, lock_owner = exact(body, abi.FLUSH_IN)
        return cls(fh, lock_owner)


class Fsync(NamedTuple):
    """FSYNC and FSYNCDIR."""

    fh: int
    datasync: bool

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle and flags."""
        fh, flags, _ = exact(body, abi.FSYNC_IN)
        return cls(fh, bool(flags & abi.FSYNC_FDATASYNC))


class Fallocate(NamedTuple):
    """FALLOCATE: `mode` has the FALLOC_FL_* of fallocate(2)."""

    fh: int
    offset: int
    length: int
    mode: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle, range and mode."""
        fh, offset, length, mode, _ = exact(body, abi.FALLOCATE_IN)
        return cls(fh, offset, length, mode)


class Lseek(NamedTuple):
    """LSEEK: only SEEK_DATA and SEEK_HOLE are asked for."""

    fh: int
    offset: int
    whence: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read handle and place."""
        fh, offset, whence, _ = exact(body, abi.LSEEK_IN)
        return cls(fh, offset, whence)


class CopyFileRange(NamedTuple):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64; the file that is copied from is `nodeid`."""

    fh_in: int
    off_in: int
    nodeid_out: int
    fh_out: int
    off_out: int
    len: int
    flags: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read both places and the length."""
        return cls(*exact(body, abi.COPY_FILE_RANGE_IN))


class Access(NamedTuple):
    """ACCESS; never sent under default_permissions."""

    mask: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read the mask."""
        mask, _ = exact(body, abi.ACCESS_IN)
        return cls(mask)


class Interrupt(NamedTuple):
    """INTERRUPT: whoever waits for the request `unique` was sent a signal."""

    unique: int

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Read whom."""
        return cls(*exact(body, abi.INTERRUPT_IN))


Message = (
    Init | Empty | Named | Forget | BatchForget | Getattr | Setattr | Mknod | Mkdir | Rename
    | Open | Create | Read | Write | Release | Flush | Fsync | Access | Interrupt
    | Fallocate | Lseek | CopyFileRange
)  # fmt: skip
