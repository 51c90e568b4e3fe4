"""Every request that is served: its bytes as fuse.h lays them out, and what they mean.

The frames are written out by hand, field by field, so that they hold the decoder and nothing
that the decoder uses.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.fuse import linking, requests
from fuse_s3_worker.fuse.abi import IN_HEADER, Fattr, Opcode
from fuse_s3_worker.fuse.linking import LinkingMessage
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header, MalformedRequestError, Message

# What all frames have between the opcode and the body.
COMMON = (
    b"\x08\x07\x06\x05\x04\x03\x02\x01"  # unique
    b"\x18\x17\x16\x15\x14\x13\x12\x11"  # nodeid
    b"\x24\x23\x22\x21"  # uid
    b"\x34\x33\x32\x31"  # gid
    b"\x44\x43\x42\x41"  # pid
    b"\x52\x51"  # total_extlen
    b"\x62\x61"  # padding
)

# (opcode, name of the case): frame, message
GOLDEN: dict[tuple[Opcode, str], tuple[bytes, Message | LinkingMessage]] = {
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
    (Opcode.OPEN, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x0e\x00\x00\x00" + COMMON +  # opcode
        b"\x02\x82\x00\x00"  # flags: O_RDWR, O_TRUNC, O_LARGEFILE
        b"\xa4\xa3\xa2\xa1",  # open_flags
        requests.Open(0x8202, 0xA1A2A3A4),
    ),
    (Opcode.READ, ""): (
        b"\x50\x00\x00\x00"  # len: 80
        b"\x0f\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb8\xb7\xb6\xb5\xb4\xb3\xb2\xb1"  # offset
        b"\xc4\xc3\xc2\xc1"  # size
        b"\xd4\xd3\xd2\xd1"  # read_flags
        b"\xe8\xe7\xe6\xe5\xe4\xe3\xe2\xe1"  # lock_owner
        b"\xf4\xf3\xf2\xf1"  # flags
        b"\x14\x13\x12\x11",  # padding
        requests.Read(0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8, 0xC1C2C3C4),
    ),
    (Opcode.WRITE, ""): (
        b"\x55\x00\x00\x00"  # len: 85
        b"\x10\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb8\xb7\xb6\xb5\xb4\xb3\xb2\xb1"  # offset
        b"\x05\x00\x00\x00"  # size
        b"\xd4\xd3\xd2\xd1"  # write_flags
        b"\xe8\xe7\xe6\xe5\xe4\xe3\xe2\xe1"  # lock_owner
        b"\xf4\xf3\xf2\xf1"  # flags
        b"\x14\x13\x12\x11"  # padding
        b"by\x00te",  # data
        requests.Write(
            0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8, 0xD1D2D3D4, memoryview(b"by\x00te")
        ),
    ),
    (Opcode.STATFS, ""): (
        b"\x28\x00\x00\x00"  # len: 40
        b"\x11\x00\x00\x00" + COMMON,  # opcode
        requests.Empty(),
    ),
    (Opcode.RELEASE, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x12\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb4\xb3\xb2\xb1"  # flags
        b"\xc4\xc3\xc2\xc1"  # release_flags
        b"\xd8\xd7\xd6\xd5\xd4\xd3\xd2\xd1",  # lock_owner
        requests.Release(0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4),
    ),
    (Opcode.FSYNC, ""): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x14\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x00\x00\x00\x00"  # fsync_flags
        b"\xb4\xb3\xb2\xb1",  # padding
        requests.Fsync(0xA1A2A3A4A5A6A7A8, datasync=False),
    ),
    (Opcode.FSYNC, "of the data"): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x14\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x01\x00\x00\x00"  # fsync_flags: FUSE_FSYNC_FDATASYNC
        b"\xb4\xb3\xb2\xb1",  # padding
        requests.Fsync(0xA1A2A3A4A5A6A7A8, datasync=True),
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
    (Opcode.FLUSH, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x19\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb4\xb3\xb2\xb1"  # unused
        b"\xc4\xc3\xc2\xc1"  # padding
        b"\xd8\xd7\xd6\xd5\xd4\xd3\xd2\xd1",  # lock_owner
        requests.Flush(0xA1A2A3A4A5A6A7A8, 0xD1D2D3D4D5D6D7D8),
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
    (Opcode.OPENDIR, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x1b\x00\x00\x00" + COMMON +  # opcode
        b"\x00\x88\x01\x00"  # flags: O_DIRECTORY, O_LARGEFILE, O_NONBLOCK
        b"\xa4\xa3\xa2\xa1",  # open_flags
        requests.Open(0x18800, 0xA1A2A3A4),
    ),
    (Opcode.READDIR, ""): (
        b"\x50\x00\x00\x00"  # len: 80
        b"\x1c\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb8\xb7\xb6\xb5\xb4\xb3\xb2\xb1"  # offset
        b"\x00\x10\x00\x00"  # size: 4,096
        b"\xd4\xd3\xd2\xd1"  # read_flags
        b"\xe8\xe7\xe6\xe5\xe4\xe3\xe2\xe1"  # lock_owner
        b"\xf4\xf3\xf2\xf1"  # flags
        b"\x14\x13\x12\x11",  # padding
        requests.Read(0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8, 4096),
    ),
    (Opcode.RELEASEDIR, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x1d\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x00\x88\x01\x00"  # flags
        b"\xc4\xc3\xc2\xc1"  # release_flags
        b"\xd8\xd7\xd6\xd5\xd4\xd3\xd2\xd1",  # lock_owner
        requests.Release(0xA1A2A3A4A5A6A7A8, 0x18800),
    ),
    (Opcode.FSYNCDIR, ""): (
        b"\x38\x00\x00\x00"  # len: 56
        b"\x1e\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xfe\xff\xff\xff"  # fsync_flags: every bit but FUSE_FSYNC_FDATASYNC
        b"\xb4\xb3\xb2\xb1",  # padding
        requests.Fsync(0xA1A2A3A4A5A6A7A8, datasync=False),
    ),
    (Opcode.ACCESS, ""): (
        b"\x30\x00\x00\x00"  # len: 48
        b"\x22\x00\x00\x00" + COMMON +  # opcode
        b"\x05\x00\x00\x00"  # mask: R_OK, X_OK
        b"\xa4\xa3\xa2\xa1",  # padding
        requests.Access(5),
    ),
    (Opcode.CREATE, ""): (
        b"\x3c\x00\x00\x00"  # len: 60
        b"\x23\x00\x00\x00" + COMMON +  # opcode
        b"\xc1\x80\x00\x00"  # flags: O_WRONLY, O_CREAT, O_EXCL, O_LARGEFILE
        b"\xb6\x81\x00\x00"  # mode: 0100666
        b"\x12\x00\x00\x00"  # umask: 022
        b"\xa4\xa3\xa2\xa1"  # open_flags
        b"new\x00",  # name
        requests.Create(0x80C1, 0o100666, 0o022, 0xA1A2A3A4, b"new"),
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
    (Opcode.READDIRPLUS, ""): (
        b"\x50\x00\x00\x00"  # len: 80
        b"\x2c\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # offset
        b"\x00\x80\x00\x00"  # size: 32,768
        b"\xd4\xd3\xd2\xd1"  # read_flags
        b"\xe8\xe7\xe6\xe5\xe4\xe3\xe2\xe1"  # lock_owner
        b"\xf4\xf3\xf2\xf1"  # flags
        b"\x14\x13\x12\x11",  # padding
        requests.Read(0xA1A2A3A4A5A6A7A8, 0, 32768),
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
    (Opcode.FALLOCATE, ""): (
        b"\x48\x00\x00\x00"  # len: 72
        b"\x2b\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # offset
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # length
        b"\x03\x00\x00\x00"  # mode: FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
        b"\xb4\xb3\xb2\xb1",  # padding
        requests.Fallocate(0xA1A2A3A4A5A6A7A8, 0x1112131415161718, 0x2122232425262728, 3),
    ),
    (Opcode.LSEEK, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x2e\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # offset
        b"\x04\x00\x00\x00"  # whence: SEEK_HOLE
        b"\xb4\xb3\xb2\xb1",  # padding
        requests.Lseek(0xA1A2A3A4A5A6A7A8, 0x1112131415161718, 4),
    ),
    (Opcode.COPY_FILE_RANGE, ""): (
        b"\x60\x00\x00\x00"  # len: 96
        b"\x2f\x00\x00\x00" + COMMON +  # opcode
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # fh_in
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # off_in
        b"\x38\x37\x36\x35\x34\x33\x32\x31"  # nodeid_out
        b"\x48\x47\x46\x45\x44\x43\x42\x41"  # fh_out
        b"\x58\x57\x56\x55\x54\x53\x52\x51"  # off_out
        b"\x68\x67\x66\x65\x64\x63\x62\x61"  # len
        b"\x78\x77\x76\x75\x74\x73\x72\x71",  # flags
        requests.CopyFileRange(
            *(0x1112131415161718, 0x2122232425262728, 0x3132333435363738),
            *(0x4142434445464748, 0x5152535455565758, 0x6162636465666768),
            flags=0x7172737475767778,
        ),
    ),
    (Opcode.COPY_FILE_RANGE_64, ""): (
        b"\x60\x00\x00\x00"  # len: 96
        b"\x35\x00\x00\x00" + COMMON +  # opcode
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # fh_in
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # off_in
        b"\x38\x37\x36\x35\x34\x33\x32\x31"  # nodeid_out
        b"\x48\x47\x46\x45\x44\x43\x42\x41"  # fh_out
        b"\x58\x57\x56\x55\x54\x53\x52\x51"  # off_out
        b"\x68\x67\x66\x65\x64\x63\x62\x61"  # len
        b"\x78\x77\x76\x75\x74\x73\x72\x71",  # flags
        requests.CopyFileRange(
            *(0x1112131415161718, 0x2122232425262728, 0x3132333435363738),
            *(0x4142434445464748, 0x5152535455565758, 0x6162636465666768),
            flags=0x7172737475767778,
        ),
    ),
}  # fmt: skip

CASES = pytest.mark.parametrize(
    "case", GOLDEN, ids=[f"{opcode.name} {name}".strip() for opcode, name in GOLDEN]
)


def decode(request: bytes) -> Message | LinkingMessage:
    """Decode a frame as the loop does."""
    header = Header.decode(memoryview(request))
    return SERVED[header.opcode].decode(memoryview(request)[IN_HEADER.size :])


@CASES
def test_golden_frame(case: tuple[Opcode, str]) -> None:
    request, message = GOLDEN[case]
    header = Header.decode(memoryview(request))
    assert header == Header(
        len=len(request),
        opcode=case[0],
        unique=0x0102030405060708,
        nodeid=0x1112131415161718,
        uid=0x21222324,
        gid=0x31323334,
        pid=0x41424344,
        total_extlen=0x5152,
        padding=0x6162,
    )
    decoded = decode(request)
    assert type(decoded) is type(message)
    assert decoded == message


def test_there_is_a_golden_frame_for_every_served_opcode() -> None:
    assert {opcode for opcode, _ in GOLDEN} == SERVED.keys()


# -- malformed -------------------------------------------------------------------------------------


def with_length(request: bytes) -> bytes:
    """Make the header tell the frame's true length."""
    return len(request).to_bytes(4, "little") + request[4:]


# Cut here, these are whole all the same: the short form of INIT.
WHOLE = {(Opcode.INIT, "since 7.36"): {56}}


@CASES
def test_cut_anywhere(case: tuple[Opcode, str]) -> None:
    request = GOLDEN[case][0]
    for at in range(len(request)):
        with pytest.raises(MalformedRequestError):
            decode(request[:at])
        if at >= IN_HEADER.size and at not in WHOLE.get(case, ()):
            with pytest.raises(MalformedRequestError):
                decode(with_length(request[:at]))


@CASES
@pytest.mark.parametrize("tail", [b"\0", b"x", b"\0" * 8, b"name\0", b"\0" * 48])
def test_trailing_bytes(case: tuple[Opcode, str], tail: bytes) -> None:
    request = GOLDEN[case][0]
    if case == (Opcode.INIT, "before 7.36") and len(tail) == 48:
        assert isinstance(decode(with_length(request + tail)), requests.Init)  # the long form
        return
    with pytest.raises(MalformedRequestError):
        decode(request + tail)
    with pytest.raises(MalformedRequestError):
        decode(with_length(request + tail))


@pytest.mark.parametrize("said", [0, 39, 44, 46, 0xFFFFFFFF])
def test_the_header_must_tell_the_length(said: int) -> None:
    request = GOLDEN[Opcode.LOOKUP, ""][0]
    with pytest.raises(MalformedRequestError, match=f"a request of 45 bytes says {said}$"):
        Header.decode(memoryview(said.to_bytes(4, "little") + request[4:]))


BAD_NAMES = {
    "empty": b"\0",
    "no NUL": b"name",
    "a slash": b"a/b\0",
    "only a slash": b"/\0",
    "too long": b"n" * 1025 + b"\0",
    "two names": b"a\0b\0",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("opcode", [Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.CREATE])
def test_names_that_are_none(opcode: Opcode, name: str) -> None:
    request, message = GOLDEN[opcode, ""]
    assert isinstance(message, requests.Named | requests.Mknod | requests.Mkdir | requests.Create)
    body = request[IN_HEADER.size : len(request) - len(message.name) - 1]
    with pytest.raises(MalformedRequestError):
        SERVED[opcode].decode(memoryview(body + BAD_NAMES[name]))


@pytest.mark.parametrize("names", [b"\0new\0", b"old\0\0", b"old\0", b"old\0ne/w\0", b"oldnew\0"])
def test_rename_needs_two_names(names: bytes) -> None:
    for opcode, fixed in ((Opcode.RENAME, 8), (Opcode.RENAME2, 16)):
        with pytest.raises(MalformedRequestError):
            SERVED[opcode].decode(memoryview(bytes(fixed) + names))


def test_the_longest_name() -> None:
    """FUSE_NAME_MAX: what the file system makes of it is decided there."""
    assert requests.Named.decode(memoryview(b"n" * 1024 + b"\0")).name == b"n" * 1024


@pytest.mark.parametrize("size", [0, 4, 6, 0xFFFFFFFF])
def test_a_value_that_is_not_as_long_as_announced(size: int) -> None:
    for fixed in (8, 16):
        body = size.to_bytes(4, "little") + bytes(fixed - 4) + b"user.a\0value"
        with pytest.raises(MalformedRequestError, match=f"5 bytes of a value where {size} belong"):
            linking.Setxattr.decode(memoryview(body))


@pytest.mark.parametrize("name", [b"", b"\0", b"user.a", b"n" * 256 + b"\0"])
def test_attributes_need_a_name(name: bytes) -> None:
    for opcode, fixed in ((Opcode.SETXATTR, 16), (Opcode.GETXATTR, 8), (Opcode.REMOVEXATTR, 0)):
        with pytest.raises(MalformedRequestError):
            SERVED[opcode].decode(memoryview(bytes(fixed) + name))


@pytest.mark.parametrize("target", [b"", b"\0", b"t", b"t" * 4097 + b"\0", b"t\0t"])
def test_a_link_needs_a_target(target: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        linking.Symlink.decode(memoryview(b"name\0" + target))


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFFFFFF])
def test_forgets_that_are_not_as_many_as_announced(count: int) -> None:
    body = count.to_bytes(4, "little") + bytes(4) + bytes(32)
    with pytest.raises(MalformedRequestError, match=f"32 bytes are not {count} forgets"):
        requests.BatchForget.decode(memoryview(body))


@pytest.mark.parametrize("size", [0, 4, 6, 0xFFFFFFFF])
def test_data_that_is_not_as_long_as_announced(size: int) -> None:
    body = bytes(16) + size.to_bytes(4, "little") + bytes(20) + b"bytes"
    with pytest.raises(MalformedRequestError, match=f"5 bytes of data where {size} belong"):
        requests.Write.decode(memoryview(body))


@settings(deadline=None, max_examples=3000)
@given(st.sampled_from(sorted(SERVED)), st.binary(max_size=150))
def test_random_bodies(opcode: int, body: bytes) -> None:
    """A message or the one exception; and the message can be printed on one line for the log."""
    try:
        message = SERVED[opcode].decode(memoryview(body))
    except MalformedRequestError:
        return
    assert "\n" not in repr(message)


@settings(deadline=None, max_examples=1000)
@given(st.binary(max_size=100))
def test_random_headers(request: bytes) -> None:
    try:
        header = Header.decode(memoryview(request))
    except MalformedRequestError:
        return
    assert header.len == len(request)


@pytest.mark.parametrize(("flags", "mapped"), [(0, False), (1, True), (2, False), (7, True)])
def test_pages_of_memory_maps_are_told_from_writes(flags: int, *, mapped: bool) -> None:
    """FUSE_WRITE_CACHE: where they belong has nothing to do with the handle."""
    assert requests.Write(1, 0, flags, memoryview(b"")).mapped == mapped


def test_data_is_not_copied() -> None:
    request = bytearray(GOLDEN[Opcode.WRITE, ""][0])
    message = SERVED[Opcode.WRITE].decode(memoryview(request)[IN_HEADER.size :])
    assert isinstance(message, requests.Write)
    request[-5:] = b"other"
    assert message.data.tobytes() == b"other"
