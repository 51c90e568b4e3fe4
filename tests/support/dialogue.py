"""A mount and its conversation with the kernel: what is in it, what is asked, what replies show."""

import os
import stat
from struct import pack

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fs.nodes import inode_number
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.fuse.replies import FOREVER, Attr, Entry
from fuse_s3_worker.serve import Owner, build_file_system
from support.gatedstore import GatedStore
from support.kernel import Kernel, Reply

__all__ = [
    "DIRECTORY",
    "FILE",
    "MOUNTED",
    "OBJECTS",
    "OK",
    "ROOT",
    "WRITTEN",
    "Session",
    "attr",
    "entry",
    "read_in",
    "release_in",
    "write_in",
]

STORED = 1_700_000_000  # seconds: when the objects were stored
MOUNTED = 1_600_000_000
WRITTEN = 1_800_000_000_123_456_789  # nanoseconds: when programs write

OBJECTS = {"p/d/": b"", "p/d/file": b"hello world", "p/implicit/x": b"x", "other": b"not mounted"}
MODES = {"umask": "027"}


class Session:
    """A mount of OBJECTS below `p/`."""

    def __init__(self, **settings: str) -> None:
        self.bucket = GatedStore(OBJECTS, clock=lambda: STORED)
        given = Settings.model_validate({"metadata_ttl": "indefinite", **MODES, **settings})
        self.fs = build_file_system(self.bucket, given, Owner(1001, 1002), "p/")
        self.kernel = Kernel(self.fs)
        self.ask = self.kernel.ask

    async def lookup(self, name: bytes, parent: int = 1) -> int:
        """Look a name up; return its node."""
        reply = await self.ask(Opcode.LOOKUP, name + b"\0", nodeid=parent)
        assert not reply.error
        return int.from_bytes(reply.body[:8], "little")

    async def opened(self, nodeid: int, flags: int = os.O_RDONLY) -> int:
        """Open a file; return its handle."""
        reply = await self.ask(Opcode.OPEN, pack("<II", flags, 0), nodeid=nodeid)
        assert not reply.error
        return int.from_bytes(reply.body[:8], "little")

    async def end(self) -> None:
        """Unmount: nothing is left, and the kernel had nothing to complain of."""
        await self.kernel.adapter.drain()
        await self.fs.close()
        assert not self.kernel.channel.violations
        assert not self.kernel.channel.waiting


def attr(key: str, kind: int, size: int = 0, time_ns: int = STORED * 10**9) -> Attr:
    """Return the attributes that the options give to a key."""
    directory = kind == stat.S_IFDIR
    if directory:
        time_ns = MOUNTED * 10**9
    return Attr(
        ino=inode_number(key) if key != "p/" else 1,
        size=size,
        mode=kind | (0o750 if directory else 0o640),
        nlink=2 if directory else 1,
        uid=1001,
        gid=1002,
        atime=time_ns,
        mtime=time_ns,
        ctime=time_ns,
        blksize=1 << 20,
    )


def entry(nodeid: int, attributes: Attr) -> bytes:
    """Return struct fuse_entry_out, as it is while nothing changes."""
    return Entry(nodeid, 0, FOREVER, FOREVER, attributes).encode()


ROOT = attr("p/", stat.S_IFDIR)
DIRECTORY = attr("p/d/", stat.S_IFDIR)
FILE = attr("p/d/file", stat.S_IFREG, 11)

OK = Reply(0, b"")


def read_in(fh: int, offset: int, size: int) -> bytes:
    """Return struct fuse_read_in, which READDIR and READDIRPLUS have too."""
    return pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)


def write_in(fh: int, offset: int, data: bytes) -> bytes:
    """Return struct fuse_write_in, and what is written."""
    return pack("<QQIIQII", fh, offset, len(data), 0, 0, 0, 0) + data


def release_in(fh: int) -> bytes:
    """Return struct fuse_release_in, or fuse_flush_in, which is laid out the same."""
    return pack("<QIIQ", fh, 0, 0, 0)
