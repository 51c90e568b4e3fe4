"""A conversation to the byte: what the worker writes for each opcode, written out by hand.

The other tests of replies use the encoders to say what they expect; this one uses nothing of the
worker's, so that an encoder that is used for the wrong opcode, or with fields in the wrong place,
is found too.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from struct import pack

import pytest

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fuse.abi import Fattr, Opcode
from fuse_s3_worker.fuse.channel import Buffer, Channel
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.serve import Owner, build_file_system
from support.gatedstore import GatedStore
from support.kernel import UNANSWERED, frame
from support.virtualtime import on_loop, settle

UNIQUE = 0x0102030405060708
OBJECTS = {"d/": b"", "d/file": b"hello world"}

MOUNTED = 1_600_000_000  # seconds: 5f5e1000
STORED = 1_700_000_000  # 6553f100
WRITTEN = 1_800_000_000_123_456_789  # nanoseconds: 6b49d200 and 75bcd15

# -- pieces that many replies have -----------------------------------------------------------------

INODES = {
    "root": b"\x01\x00\x00\x00\x00\x00\x00\x00",
    "d": b"\x9f\x45\xef\x7e\x21\xab\xfd\x2c",
    "file": b"\x47\xc2\x61\x1f\x76\x08\x3f\x29",
    "new": b"\x77\xa4\x12\xf5\x99\x08\xd2\xdc",
    "kept": b"\x4f\x8a\xe3\x1c\x61\x30\xb0\x88",
    "link": b"\xbb\x62\xc9\x61\x47\x00\x3b\x82",
    "dev": b"\x06\x36\x6f\x41\xa3\x44\xd7\xe6",
    "node": b"\xa3\x72\x3d\x4e\xfb\xe0\xa7\x74",
    "dir": b"\x3b\x72\xd0\x5c\x85\x2f\x4b\xb8",
}
FOREVER = b"\x04\x7d\xc1\x25\x02\x00\x00\x00"  # 9,223,372,036 s
FOREVER_NSEC = b"\xff\xd7\xf2\x32"  # 854,775,807 ns

STORED_TIMES = b"\x00\xf1\x53\x65\x00\x00\x00\x00" * 3 + bytes(12)
MOUNTED_TIMES = b"\x00\x10\x5e\x5f\x00\x00\x00\x00" * 3 + bytes(12)
WRITTEN_TIMES = b"\x00\xd2\x49\x6b\x00\x00\x00\x00" * 3 + b"\x15\xcd\x5b\x07" * 3

FILE_MODE = b"\xa4\x81\x00\x00" + b"\x01\x00\x00\x00"  # 0100644, one link
DIRECTORY_MODE = b"\xed\x41\x00\x00" + b"\x02\x00\x00\x00"  # 040755, two links
OWNER = b"\xe9\x03\x00\x00" + b"\xea\x03\x00\x00"  # uid 1001, gid 1002
ATTR_END = (
    b"\x00\x00\x00\x00"  # rdev
    b"\x00\x00\x10\x00"  # blksize: 1 MiB
    b"\x00\x00\x00\x00"  # flags
)
NO_SIZE = bytes(16)  # size, blocks
ELEVEN = b"\x0b\x00\x00\x00\x00\x00\x00\x00" + b"\x01\x00\x00\x00\x00\x00\x00\x00"

ROOT = INODES["root"] + NO_SIZE + MOUNTED_TIMES + DIRECTORY_MODE + OWNER + ATTR_END
DIRECTORY = INODES["d"] + NO_SIZE + MOUNTED_TIMES + DIRECTORY_MODE + OWNER + ATTR_END
FILE = INODES["file"] + ELEVEN + STORED_TIMES + FILE_MODE + OWNER + ATTR_END
NEW = INODES["new"] + NO_SIZE + WRITTEN_TIMES + FILE_MODE + OWNER + ATTR_END
NODE = INODES["node"] + NO_SIZE + STORED_TIMES + FILE_MODE + OWNER + ATTR_END
MADE = INODES["dir"] + NO_SIZE + MOUNTED_TIMES + DIRECTORY_MODE + OWNER + ATTR_END
CHMODDED = (
    INODES["file"] + ELEVEN + STORED_TIMES
    + b"\xc0\x81\x00\x00" + b"\x01\x00\x00\x00"  # 0100700, one link
    + OWNER + ATTR_END
)  # fmt: skip

# Who made it keeps it: the requests are those of user and group 1000.
MAKER = b"\xe8\x03\x00\x00" * 2
KEPT = (
    INODES["kept"] + ELEVEN
    + b"\xe9\xb8\xdd\x54\x02\x00\x00\x00"  # atime 10,013,751,529
    + b"\xff\xff\xff\xff\xff\xff\xff\xff"  # mtime -1
    + b"\x00\x10\x5e\x5f\x00\x00\x00\x00"  # ctime
    + b"\x01\x00\x00\x00" + b"\x00\x65\xcd\x1d" + bytes(4)  # 1 ns, half a second, none
    + b"\xed\x89\x00\x00" + b"\x01\x00\x00\x00"  # 0104755, one link
    + b"\xfe\xff\xff\xff" + b"\x00\x00\x00\x80"  # uid, gid: all bits count
    + ATTR_END
)  # fmt: skip
LINK = (
    INODES["link"]
    + b"\x06\x00\x00\x00\x00\x00\x00\x00" + b"\x01\x00\x00\x00\x00\x00\x00\x00"
    + WRITTEN_TIMES
    + b"\xff\xa1\x00\x00" + b"\x01\x00\x00\x00"  # 0120777, one link
    + MAKER + ATTR_END
)  # fmt: skip
DEVICE = (
    INODES["dev"] + NO_SIZE + WRITTEN_TIMES
    + b"\x80\x21\x00\x00" + b"\x01\x00\x00\x00"  # 020620 without 022: 020600
    + MAKER
    + b"\x01\x05\x00\x00" + ATTR_END[4:]  # rdev: 5, 1
)  # fmt: skip


def entry(nodeid: int, attributes: bytes) -> bytes:
    """struct fuse_entry_out; node, generation, how long name and attributes hold."""
    head = bytes([nodeid, 0, 0, 0, 0, 0, 0, 0]) + bytes(8)
    return head + FOREVER + FOREVER + FOREVER_NSEC + FOREVER_NSEC + attributes


def attr_out(attributes: bytes) -> bytes:
    """struct fuse_attr_out."""
    return FOREVER + FOREVER_NSEC + bytes(4) + attributes


def opened(handle: int, flags: int = 0) -> bytes:
    """struct fuse_open_out."""
    return bytes([handle, 0, 0, 0, 0, 0, 0, 0]) + bytes([flags, 0, 0, 0]) + bytes(4)


DOTS = (
    INODES["d"] + b"\x01\x00\x00\x00\x00\x00\x00\x00"  # ino, off
    b"\x01\x00\x00\x00" + b"\x04\x00\x00\x00" + b".\0\0\0\0\0\0\0",  # namelen, DT_DIR, name
    INODES["root"] + b"\x02\x00\x00\x00\x00\x00\x00\x00"
    b"\x02\x00\x00\x00" + b"\x04\x00\x00\x00" + b"..\0\0\0\0\0\0",
)
FILE_RECORD = (
    INODES["file"] + b"\x03\x00\x00\x00\x00\x00\x00\x00"
    b"\x04\x00\x00\x00" + b"\x08\x00\x00\x00" + b"file\0\0\0\0"  # namelen, DT_REG, name
)

VOLUME = (
    b"\x00\x00\x00\x40\x00\x00\x00\x00" * 5  # blocks, bfree, bavail, files, ffree: 2**30
    + b"\x00\x00\x10\x00"  # bsize: 1 MiB
    + b"\xff\x00\x00\x00"  # namelen: 255
    + b"\x00\x00\x10\x00"  # frsize
    + bytes(28)
)  # fmt: skip

INIT = (
    b"\x07\x00\x00\x00" + b"\x2d\x00\x00\x00"  # 7.45
    b"\x00\x00\x02\x00"  # max_readahead, as offered
    b"\x29\xf0\x64\x50"  # flags
    b"\x40\x00" + b"\x30\x00"  # max_background: 64, congestion_threshold: 48
    b"\x00\x00\x10\x00" + b"\x01\x00\x00\x00"  # max_write: 1 MiB, time_gran: 1 ns
    b"\x00\x01" + b"\x00\x00"  # max_pages: 256, map_alignment
    b"\xc8\x00\x00\x00" + bytes(28)  # flags2, and what is not used
)

POSIX_INIT = INIT[:12] + b"\x69\xf0\xf4\x70" + INIT[16:]  # flags


def fh(handle: int) -> bytes:
    return pack("<QIIQ", handle, 0, 0, 0)  # RELEASE, FLUSH


def reading(handle: int, offset: int = 0, size: int = 4096) -> bytes:
    return pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


CREATE = pack("<IIII", os.O_WRONLY, stat.S_IFREG | 0o600, 0, 0) + b"new\0"
MKNOD = pack("<IIII", stat.S_IFREG | 0o600, 0, 0, 0) + b"node\0"
MKNOD_DEVICE = pack("<IIII", stat.S_IFCHR | 0o620, 0x0501, 0o22, 0) + b"dev\0"
# size, XATTR_CREATE, setxattr_flags, padding
SETXATTR = pack("<IIII", 5, 1, 0, 0) + b"user.a\0value"


def sized(size: int) -> bytes:
    return pack("<II", size, 0)  # GETXATTR, LISTXATTR


CHMOD = pack("<II60xI16x", Fattr.MODE, 0, stat.S_IFREG | 0o700)

# -- the conversation ------------------------------------------------------------------------------

# Opcode, node, body of the request; body of the reply, or the errno.
STEPS: list[tuple[Opcode, int, bytes, bytes | int]] = [
    (Opcode.INIT, 0, pack("<IIIII44x", 7, 45, 131072, 0x73FFFFFB, 0x5FD), INIT),
    (Opcode.LOOKUP, 1, b"d\0", entry(2, DIRECTORY)),
    (Opcode.LOOKUP, 2, b"file\0", entry(3, FILE)),
    # No such name: node 0, and for how long there is none.
    (Opcode.LOOKUP, 1, b"none\0", bytes(16) + FOREVER + bytes(8) + FOREVER_NSEC + bytes(92)),
    (Opcode.LOOKUP, 77, b"d\0", errno.ESTALE),
    (Opcode.GETATTR, 1, bytes(16), attr_out(ROOT)),
    (Opcode.GETATTR, 3, bytes(16), attr_out(FILE)),
    (Opcode.STATFS, 1, b"", VOLUME),
    (Opcode.ACCESS, 1, bytes(8), b""),
    (Opcode.OPEN, 3, pack("<II", os.O_RDONLY, 0), opened(1, 0x20)),  # FOPEN_NOFLUSH
    (Opcode.READ, 3, reading(1), b"hello world"),
    (Opcode.READ, 3, reading(1, 6, 3), b"wor"),
    (Opcode.READ, 3, reading(1, 11), b""),
    (Opcode.FLUSH, 3, fh(1), b""),
    (Opcode.RELEASE, 3, fh(1), b""),
    (Opcode.OPENDIR, 2, bytes(8), opened(1)),
    (Opcode.READDIR, 2, reading(1), DOTS[0] + DOTS[1] + FILE_RECORD),
    (Opcode.READDIR, 2, reading(1, 3), b""),
    (
        *(Opcode.READDIRPLUS, 2, reading(1)),
        bytes(128) + DOTS[0] + bytes(128) + DOTS[1] + entry(3, FILE) + FILE_RECORD,
    ),
    (Opcode.FSYNCDIR, 2, pack("<QII", 1, 0, 0), b""),
    (Opcode.FSYNCDIR, 2, pack("<QII", 9, 0, 0), errno.EBADF),
    (Opcode.RELEASEDIR, 2, fh(1), b""),
    (Opcode.CREATE, 1, CREATE, entry(4, NEW) + opened(2)),
    (
        *(Opcode.WRITE, 4, pack("<QQIIQII", 2, 0, 5, 0, 0, 0, 0) + b"bytes"),
        b"\x05\x00\x00\x00" + b"\x00\x00\x00\x00",  # size, padding
    ),
    (Opcode.LSEEK, 4, pack("<QQII", 2, 3, 4, 0), b"\x05\x00\x00\x00\x00\x00\x00\x00"),
    (Opcode.LSEEK, 4, pack("<QQII", 2, 5, 3, 0), errno.ENXIO),
    (Opcode.FALLOCATE, 4, pack("<QQQII", 2, 5, 3, 0, 0), b""),
    (Opcode.FALLOCATE, 4, pack("<QQQII", 2, 0, 1, 8, 0), errno.EOPNOTSUPP),
    (Opcode.OPEN, 3, pack("<II", os.O_RDONLY, 0), opened(3, 0x22)),  # and FOPEN_KEEP_CACHE
    (
        *(Opcode.COPY_FILE_RANGE, 3, pack("<7Q", 3, 6, 4, 2, 6, 4096, 0)),
        b"\x05\x00\x00\x00" + b"\x00\x00\x00\x00",  # size, padding
    ),
    (
        *(Opcode.COPY_FILE_RANGE_64, 3, pack("<7Q", 3, 0, 4, 2, 5, 1, 0)),
        b"\x01\x00\x00\x00\x00\x00\x00\x00",  # bytes_copied
    ),
    (Opcode.COPY_FILE_RANGE, 3, pack("<7Q", 2, 0, 4, 2, 5, 1, 0), errno.EBADF),
    (Opcode.RELEASE, 3, fh(3), b""),
    (Opcode.FSYNC, 4, pack("<QII", 2, 0, 0), b""),
    (Opcode.FLUSH, 4, fh(2), b""),
    (Opcode.RELEASE, 4, fh(2), b""),
    (Opcode.READ, 4, reading(2), errno.EBADF),
    (Opcode.SETATTR, 3, CHMOD, attr_out(CHMODDED)),
    (Opcode.MKNOD, 1, MKNOD, entry(5, NODE)),
    (Opcode.MKDIR, 1, bytes(8) + b"dir\0", entry(6, MADE)),
    (Opcode.RENAME, 1, pack("<Q", 6) + b"node\0moved\0", b""),
    (Opcode.RENAME2, 6, pack("<QII", 1, 1, 0) + b"moved\0new\0", errno.EEXIST),  # NOREPLACE
    (Opcode.RENAME2, 6, pack("<QII", 1, 2, 0) + b"moved\0new\0", errno.EINVAL),  # EXCHANGE
    (Opcode.RENAME2, 6, pack("<QII", 1, 1, 0) + b"moved\0node\0", b""),
    (Opcode.UNLINK, 1, b"node\0", b""),
    (Opcode.RMDIR, 1, b"dir\0", b""),
    (Opcode.READLINK, 3, b"", errno.EPERM),
    (Opcode.SYMLINK, 1, b"link\0target\0", errno.EPERM),
    (Opcode.LINK, 1, pack("<Q", 3) + b"second\0", errno.EOPNOTSUPP),
    (Opcode.SETXATTR, 3, SETXATTR, errno.ENOSYS),
    (Opcode.GETXATTR, 3, sized(0) + b"user.a\0", errno.ENOSYS),
    (Opcode.LISTXATTR, 3, sized(0), errno.ENOSYS),
    (Opcode.REMOVEXATTR, 3, b"user.a\0", errno.ENOSYS),
    (Opcode.DESTROY, 0, b"", b""),
]
# What a mount says that keeps such things.
POSIX_STEPS: list[tuple[Opcode, int, bytes, bytes | int]] = [
    (Opcode.INIT, 0, pack("<IIIII44x", 7, 45, 131072, 0x73FFFFFB, 0x5FD), POSIX_INIT),
    (Opcode.LOOKUP, 1, b"kept\0", entry(2, KEPT)),
    (Opcode.SYMLINK, 1, b"link\0target\0", entry(3, LINK)),
    (Opcode.READLINK, 3, b"", b"target"),
    (Opcode.READLINK, 2, b"", errno.EINVAL),
    (Opcode.LINK, 1, pack("<Q", 2) + b"second\0", errno.EOPNOTSUPP),
    (Opcode.SETXATTR, 2, SETXATTR, b""),
    (Opcode.SETXATTR, 2, SETXATTR, errno.EEXIST),
    (Opcode.GETXATTR, 2, sized(0) + b"user.a\0", b"\x05\x00\x00\x00" + bytes(4)),  # size
    (Opcode.GETXATTR, 2, sized(5) + b"user.a\0", b"value"),
    (Opcode.GETXATTR, 2, sized(4) + b"user.a\0", errno.ERANGE),
    (Opcode.GETXATTR, 2, sized(5) + b"user.b\0", errno.ENODATA),
    (Opcode.LISTXATTR, 2, sized(0), b"\x07\x00\x00\x00" + bytes(4)),
    (Opcode.LISTXATTR, 2, sized(7), b"user.a\0"),
    (Opcode.LISTXATTR, 2, sized(6), errno.ERANGE),
    (Opcode.REMOVEXATTR, 2, b"user.a\0", b""),
    (Opcode.REMOVEXATTR, 2, b"user.a\0", errno.ENODATA),
    (Opcode.LISTXATTR, 2, sized(7), b""),
    (Opcode.MKNOD, 1, MKNOD_DEVICE, entry(4, DEVICE)),
    (Opcode.DESTROY, 0, b"", b""),
]
# Nothing is written for these, whatever they say.
SILENT: list[tuple[Opcode, int, bytes]] = [
    (Opcode.FORGET, 3, pack("<Q", 1)),
    (Opcode.FORGET, 77, pack("<Q", 1)),
    (Opcode.BATCH_FORGET, 0, pack("<IIQQ", 1, 0, 2, 1)),
    (Opcode.INTERRUPT, 0, pack("<Q", 4711)),
]


class Wire(Channel):
    """Keeps what the kernel would read."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.written: list[bytes] = []

    def _write(self, pieces: Sequence[Buffer]) -> None:
        self.written.append(b"".join(pieces))


class Worker:
    """A worker that serves OBJECTS."""

    def __init__(self, **options: object) -> None:
        settings = Settings.model_validate({"metadata_ttl": "indefinite", **options})
        self.bucket = GatedStore(OBJECTS, clock=lambda: STORED)
        self.fs = build_file_system(self.bucket, settings, Owner(1001, 1002), "")
        self.wire = Wire()
        self.adapter = Adapter(self.wire, self.fs)

    async def ask(self, opcode: int, nodeid: int, body: bytes) -> list[bytes]:
        """Make a request; return all messages that come of it."""
        self.wire.written.clear()
        self.adapter.dispatch(memoryview(frame(opcode, body, unique=UNIQUE, nodeid=nodeid)))
        await settle()
        return list(self.wire.written)


def message(reply: bytes | int) -> bytes:
    """struct fuse_out_header, and what follows it."""
    error, body = (-reply, b"") if isinstance(reply, int) else (0, reply)
    length = (16 + len(body)).to_bytes(4, "little")
    return (
        length + error.to_bytes(4, "little", signed=True)
        + b"\x08\x07\x06\x05\x04\x03\x02\x01" + body
    )  # fmt: skip


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every time known."""
    monkeypatch.setattr(time, "time", lambda: float(MOUNTED))
    monkeypatch.setattr(time, "time_ns", lambda: WRITTEN)


@on_loop()
async def test_a_whole_conversation() -> None:
    worker = Worker()
    for number, (opcode, nodeid, body, reply) in enumerate(STEPS):
        written = await worker.ask(opcode, nodeid, body)
        assert written == [message(reply)], f"step {number}, {opcode.name}"
    for opcode, nodeid, body in SILENT:
        assert await worker.ask(opcode, nodeid, body) == [], opcode.name
    assert worker.bucket.read("new") == b"byteshworld"
    await worker.fs.close()


@on_loop()
async def test_a_conversation_about_what_is_kept() -> None:
    worker = Worker(posix=True)
    headers = {
        "x-amz-meta-mode": "35309",
        "x-amz-meta-uid": "4294967294",
        "x-amz-meta-gid": "2147483648",
        "x-amz-meta-atime": "10013751529.000000001",
        "x-amz-meta-mtime": "-0.5",
        "x-amz-meta-ctime": "1600000000",
    }
    worker.bucket.write("kept", b"hello world", headers=headers)
    for number, (opcode, nodeid, body, reply) in enumerate(POSIX_STEPS):
        written = await worker.ask(opcode, nodeid, body)
        assert written == [message(reply)], f"step {number}, {opcode.name}"
    await worker.fs.close()


@on_loop()
async def test_what_is_not_served() -> None:
    worker = Worker()
    for opcode in sorted(set(Opcode) - SERVED.keys()):
        written = await worker.ask(opcode, 1, b"whatever")
        assert written == [message(errno.ENOSYS)], opcode.name


def test_there_is_a_golden_reply_for_every_served_opcode() -> None:
    assert {opcode for opcode, *_ in STEPS + POSIX_STEPS} == SERVED.keys() - UNANSWERED
    assert {opcode for opcode, *_ in SILENT} == UNANSWERED
