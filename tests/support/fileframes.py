"""Frames of the requests about open files and directories; support.goldenframes has the others.

They are written out by hand, field by field, so that they hold the decoder and nothing that the
decoder uses.
"""

from fuse_s3_worker.fuse import requests
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.fuse.requests import Message

__all__ = ["COMMON", "FILE_FRAMES"]

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
FILE_FRAMES: dict[tuple[Opcode, str], tuple[bytes, Message]] = {
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
    (Opcode.FLUSH, ""): (
        b"\x40\x00\x00\x00"  # len: 64
        b"\x19\x00\x00\x00" + COMMON +  # opcode
        b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # fh
        b"\xb4\xb3\xb2\xb1"  # unused
        b"\xc4\xc3\xc2\xc1"  # padding
        b"\xd8\xd7\xd6\xd5\xd4\xd3\xd2\xd1",  # lock_owner
        requests.Flush(0xA1A2A3A4A5A6A7A8, 0xD1D2D3D4D5D6D7D8),
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
