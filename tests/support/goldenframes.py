"""A frame for every request that is served: its bytes as fuse.h lays them out, and what they mean.

The frames are written out by hand, field by field, so that they hold the decoder and nothing
that the decoder uses.
"""

import pytest

from fuse_s3_worker.fuse import linking, requests
from fuse_s3_worker.fuse.abi import IN_HEADER, Fattr, Opcode
from fuse_s3_worker.fuse.linking import LinkingMessage
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header, Message
from support.fileframes import COMMON, FILE_FRAMES

__all__ = ["CASES", "GOLDEN", "decode"]

# (opcode, name of the case): frame, message
GOLDEN: dict[tuple[Opcode, str], tuple[bytes, Message | LinkingMessage]] = {
    **FILE_FRAMES,
    (Opcode.LOOKUP, ""): (
        b"\x2d\x00\x00\x00"  # len: 45
        b"\x01\x00\x00\x00" + COMMON +  # opcode
        b"n\xc3\xa4\xff\x00",  # name, which need not be UTF-8
        requests.Named(b"n\xc3\xa4\xff"),
    ),
    (Opcode.FORGET, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x02\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1",  # nlookup
        requests.Forget(0xA1A2A3A4A5A6A7A8),
    ),
    (Opcode.GETATTR, "with a handle"): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x03\x00\x00\x00" + COMMON +  # opcode
        b"\x01\x00\x00\x00"  # getattr_flags: FUSE_GETATTR_FH
        b"\xb4\xb3\xb2\xb1"  # dummy
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1",  # fh
        requests.Getattr(0xA1A2A3A4A5A6A7A8),
    ),
    (Opcode.GETATTR, "without a handle"): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x03\x00\x00\x00" + COMMON +  # opcode
        b"\x02\x00\x00\x00"  # getattr_flags: another bit
        b"\xb4\xb3\xb2\xb1"  # dummy
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1",  # fh, which does not count
        requests.Getattr(None),
    ),
    (Opcode.SETATTR, "everything"): (
        b"\x80\x00\x00\x00"  # len: 128
        b"\x04\x00\x00\x00" + COMMON +  # opcode
        b"\x7f\x06\x00\x00"  # valid: all fields, LOCKOWNER, CTIME
        b"\x14\x13\x12\x11"  # padding
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # fh
        b"\x38\x37\x36\x35\x34\x33\x32\x31"  # size
        b"\x48\x47\x46\x45\x44\x43\x42\x41"  # lock_owner
        b"\x04\x03\x02\x01\x00\x00\x00\x00"  # atime: 16,909,060 s
        b"\xfe\xff\xff\xff\xff\xff\xff\xff"  # mtime: 2 s before the epoch
        b"\x78\x77\x76\x75\x74\x73\x72\x71"  # ctime
        b"\x15\xcd\x5b\x07"  # atimensec: 123,456,789
        b"\xff\xc9\x9a\x3b"  # mtimensec: 999,999,999
        b"\x94\x93\x92\x91"  # ctimensec
        b"\xa4\x81\x00\x00"  # mode: 0100644
        b"\xb4\xb3\xb2\xb1"  # unused4
        b"\xc4\xc3\xc2\xc1"  # uid
        b"\xd4\xd3\xd2\xd1"  # gid
        b"\xe4\xe3\xe2\xe1",  # unused5
        requests.Setattr(
            Fattr(0x67F),
            fh=0x2122232425262728,
            size=0x3132333435363738,
            mode=0o100644,
            uid=0xC1C2C3C4,
            gid=0xD1D2D3D4,
            atime=16_909_060_123_456_789,
            mtime=-1_000_000_001,
        ),
    ),
    (Opcode.SETATTR, "to now"): (
        b"\x80\x00\x00\x00"  # len: 128
        b"\x04\x00\x00\x00" + COMMON +  # opcode
        b"\x80\x01\x00\x00"  # valid: ATIME_NOW, MTIME_NOW
        + b"\xee" * 84,  # nothing else counts
        requests.Setattr(Fattr.ATIME_NOW | Fattr.MTIME_NOW, *[None] * 7),
    ),
    (Opcode.SETATTR, "a flag of later times"): (
        b"\x80\x00\x00\x00"  # len: 128
        b"\x04\x00\x00\x00" + COMMON +  # opcode
        b"\x00\x00\x00\x80"  # valid: bit 31
        + b"\xee" * 84,
        requests.Setattr(Fattr(1 << 31), *[None] * 7),
    ),
    (Opcode.READLINK, ""): (
        b"\x28\x00\x00\x00"  # len: 40
        b"\x05\x00\x00\x00" + COMMON,  # opcode
        requests.Empty(),
    ),
    (Opcode.SYMLINK, ""): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x06\x00\x00\x00" + COMMON +  # opcode
        b"link\x00"  # name
        b"../a\xff /b c\x00",  # target, with slashes
        linking.Symlink(b"link", b"../a\xff /b c"),
    ),
    (Opcode.MKNOD, ""): (
        b"\x3d\x00\x00\x00"  # len: 61
        b"\x08\x00\x00\x00" + COMMON +  # opcode
        b"\xa4\x81\x00\x00"  # mode: 0100644
        b"\xb4\xb3\xb2\xb1"  # rdev
        b"\x12\x00\x00\x00"  # umask: 022
        b"\xc4\xc3\xc2\xc1"  # padding
        b"node\x00",  # name
        requests.Mknod(0o100644, 0xB1B2B3B4, 0o022, b"node"),
    ),
    (Opcode.MKDIR, ""): (
        b"\x34\x00\x00\x00"  # len: 52
        b"\x09\x00\x00\x00" + COMMON +  # opcode
        b"\xed\x41\x00\x00"  # mode: 040755
        b"\x17\x00\x00\x00"  # umask: 027
        b"dir\x00",  # name
        requests.Mkdir(0o040755, 0o027, b"dir"),
    ),
    (Opcode.UNLINK, ""): (
        b"\x2d\x00\x00\x00"  # len: 45
        b"\x0a\x00\x00\x00" + COMMON +  # opcode
        b"file\x00",  # name
        requests.Named(b"file"),
    ),
    (Opcode.RMDIR, ""): (
        b"\x2c\x00\x00\x00"  # len: 44
        b"\x0b\x00\x00\x00" + COMMON +  # opcode
        b"dir\x00",  # name
        requests.Named(b"dir"),
    ),
    (Opcode.RENAME, ""): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x0c\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # newdir
        b"old\x00"  # oldname
        b"new\x00",  # newname
        requests.Rename(0xA1A2A3A4A5A6A7A8, 0, b"old", b"new"),
    ),
    (Opcode.LINK, ""): (
        b"\x36\x00\x00\x00"  # len: 54
        b"\x0d\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # oldnodeid
        b"other\x00",  # newname
        linking.Link(0xA1A2A3A4A5A6A7A8, b"other"),
    ),
    (Opcode.STATFS, ""): (
        b"\x28\x00\x00\x00"  # len: 40
        b"\x11\x00\x00\x00" + COMMON,  # opcode
        requests.Empty(),
    ),
    (Opcode.SETXATTR, "with FUSE_SETXATTR_EXT"): (
        b"\x45\x00\x00\x00"  # len: 69
        b"\x15\x00\x00\x00" + COMMON +  # opcode
        b"\x06\x00\x00\x00"  # size
        b"\x01\x00\x00\x00"  # flags: XATTR_CREATE
        b"\x01\x00\x00\x00"  # setxattr_flags: FUSE_SETXATTR_ACL_KILL_SGID
        b"\x00\x00\x00\x00"  # padding
        b"user.a\x00"  # name
        b"va\x00lue",  # value
        linking.Setxattr(1, 1, b"user.a", b"va\x00lue"),
    ),
    (Opcode.SETXATTR, "without"): (
        b"\x3d\x00\x00\x00"  # len: 61
        b"\x15\x00\x00\x00" + COMMON +  # opcode
        b"\x06\x00\x00\x00"  # size
        b"\x02\x00\x00\x00"  # flags: XATTR_REPLACE
        b"user.a\x00"  # name
        b"va\x00lue",  # value
        linking.Setxattr(2, 0, b"user.a", b"va\x00lue"),
    ),
    (Opcode.GETXATTR, ""): (
        b"\x39\x00\x00\x00"  # len: 57
        b"\x16\x00\x00\x00" + COMMON +  # opcode
        b"\xa4\xa3\xa2\xa1"  # size
        b"\xb4\xb3\xb2\xb1"  # padding
        b"user.a/b\x00",  # name, which may have slashes
        linking.Getxattr(0xA1A2A3A4, b"user.a/b"),
    ),
    (Opcode.LISTXATTR, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x17\x00\x00\x00" + COMMON +  # opcode
        b"\xa4\xa3\xa2\xa1"  # size
        b"\xb4\xb3\xb2\xb1",  # padding
        linking.Listxattr(0xA1A2A3A4),
    ),
    (Opcode.REMOVEXATTR, ""): (
        b"\x2f\x00\x00\x00"  # len: 47
        b"\x18\x00\x00\x00" + COMMON +  # opcode
        b"user.a\x00",  # name
        linking.Removexattr(b"user.a"),
    ),
    (Opcode.INIT, "before 7.36"): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x1a\x00\x00\x00" + COMMON +  # opcode
        b"\x07\x00\x00\x00"  # major
        b"\x1f\x00\x00\x00"  # minor: 31
        b"\x00\x00\x02\x00"  # max_readahead: 128 KiB
        b"\xfb\xff\xff\x03",  # flags
        requests.Init(7, 31, 131072, 0x03FFFFFB),
    ),
    (Opcode.INIT, "since 7.36"): (
        b"\x68\x00\x00\x00"  # len: 104
        b"\x1a\x00\x00\x00" + COMMON +  # opcode
        b"\x07\x00\x00\x00"  # major
        b"\x2d\x00\x00\x00"  # minor: 45
        b"\x00\x00\x02\x00"  # max_readahead: 128 KiB
        b"\xfb\xff\xff\x73"  # flags, INIT_EXT among them
        b"\xfd\x05\x00\x00"  # flags2
        + b"\xee" * 44,  # unused
        requests.Init(7, 45, 131072, 0x5FD73FFFFFB),
    ),
    (Opcode.ACCESS, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x22\x00\x00\x00" + COMMON +  # opcode
        b"\x05\x00\x00\x00"  # mask: R_OK, X_OK
        b"\xa4\xa3\xa2\xa1",  # padding
        requests.Access(5),
    ),
    (Opcode.INTERRUPT, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x24\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1",  # unique of the other request
        requests.Interrupt(0xA1A2A3A4A5A6A7A8),
    ),
    (Opcode.DESTROY, ""): (
        b"\x28\x00\x00\x00"  # len: 40
        b"\x26\x00\x00\x00" + COMMON,  # opcode
        requests.Empty(),
    ),
    (Opcode.BATCH_FORGET, ""): (
        b"\x50\x00\x00\x00"  # len: 80
        b"\x2a\x00\x00\x00" + COMMON +  # opcode
        b"\x02\x00\x00\x00"  # count
        b"\xb4\xb3\xb2\xb1"  # dummy
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # nodeid of the first
        b"\x01\x00\x00\x00\x00\x00\x00\x00"  # nlookup of the first
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # nodeid of the second
        b"\x02\x00\x00\x00\x00\x00\x00\x00",  # nlookup of the second
        requests.BatchForget([(0x1112131415161718, 1), (0x2122232425262728, 2)]),
    ),
    (Opcode.BATCH_FORGET, "of nothing"): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x2a\x00\x00\x00" + COMMON +  # opcode
        b"\x00\x00\x00\x00"  # count
        b"\xb4\xb3\xb2\xb1",  # dummy
        requests.BatchForget([]),
    ),
    (Opcode.RENAME2, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x2d\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # newdir
        b"\x02\x00\x00\x00"  # flags: RENAME_EXCHANGE
        b"\xb4\xb3\xb2\xb1"  # padding
        b"old\x00"  # oldname
        b"new\x00",  # newname
        requests.Rename(0xA1A2A3A4A5A6A7A8, 2, b"old", b"new"),
    ),
}  # fmt: skip

CASES = pytest.mark.parametrize(
    "case", GOLDEN, ids=[f"{opcode.name} {name}".strip() for opcode, name in GOLDEN]
)


def decode(request: bytes) -> Message | LinkingMessage:
    """Decode a frame as the loop does."""
    header = Header.decode(memoryview(request))
    return SERVED[header.opcode].decode(memoryview(request)[IN_HEADER.size :])
