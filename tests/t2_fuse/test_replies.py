"""Every reply, to the byte."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.abi import ATTR, DIRENT, ENTRY, FopenFlag, NotifyCode
from fuse_s3_worker.fuse.replies import Attr, DirentBuffer, Entry, Statfs

ATTRIBUTES = Attr(
    ino=0x0102030405060708,
    size=0x0000000000000C01,
    mode=0o100640,
    nlink=0x31323334,
    uid=0x41424344,
    gid=0x51525354,
    atime=1_000_000_000 * 0x11121314 + 123_456_789,
    mtime=-1,
    ctime=1_000_000_000 * 0x21222324,
    blksize=0x61626364,
    rdev=0x71727374,
)

ATTRIBUTE_BYTES = (
    b"\x08\x07\x06\x05\x04\x03\x02\x01"  # ino
    b"\x01\x0c\x00\x00\x00\x00\x00\x00"  # size: 3,073
    b"\x07\x00\x00\x00\x00\x00\x00\x00"  # blocks: begun ones of 512 bytes
    b"\x14\x13\x12\x11\x00\x00\x00\x00"  # atime
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # mtime: a second before the epoch ...
    b"\x24\x23\x22\x21\x00\x00\x00\x00"  # ctime
    b"\x15\xcd\x5b\x07"  # atimensec: 123,456,789
    b"\xff\xc9\x9a\x3b"  # mtimensec: ... and 999,999,999 ns after that
    b"\x00\x00\x00\x00"  # ctimensec
    b"\xa0\x81\x00\x00"  # mode
    b"\x34\x33\x32\x31"  # nlink
    b"\x44\x43\x42\x41"  # uid
    b"\x54\x53\x52\x51"  # gid
    b"\x74\x73\x72\x71"  # rdev
    b"\x64\x63\x62\x61"  # blksize
    b"\x00\x00\x00\x00"  # flags
)

ENTRY_HEAD = (
    b"\x98\x97\x96\x95\x94\x93\x92\x91"  # nodeid
    b"\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1"  # generation
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # entry_valid: 1 s
    b"\xff\xff\xff\x7f\x02\x00\x00\x00"  # attr_valid: as good as for ever
    b"\x00\x65\xcd\x1d"  # entry_valid_nsec: 500,000,000
    b"\xff\x59\xa4\x32"  # attr_valid_nsec
)


def test_attr() -> None:
    assert ATTRIBUTES.encode() == ATTRIBUTE_BYTES


@pytest.mark.parametrize(
    ("size", "blocks"), [(0, 0), (1, 1), (512, 1), (513, 2), (2**63 - 1, 2**54)]
)
def test_blocks(size: int, blocks: int) -> None:
    encoded = ATTRIBUTES._replace(size=size).encode()
    assert ATTR.unpack(encoded)[1:3] == (size, blocks)


def test_entry() -> None:
    entry = Entry(
        nodeid=0x9192939495969798,
        generation=0xA1A2A3A4A5A6A7A8,
        entry_valid=1_500_000_000,
        attr_valid=0x27FFFFFFF * 1_000_000_000 + 0x32A459FF,
        attr=ATTRIBUTES,
    )
    assert entry.encode() == ENTRY_HEAD + ATTRIBUTE_BYTES


def test_for_ever_fits() -> None:
    """292 years, which the kernel adds to its clock without coming round."""
    head = ENTRY.unpack(Entry(1, 0, replies.FOREVER, replies.FOREVER, ATTRIBUTES).encode()[:40])
    assert head == (1, 0, 9_223_372_036, 9_223_372_036, 854_775_807, 854_775_807)


def test_negative_entry() -> None:
    assert replies.negative_entry(1_500_000_000) == (
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # nodeid: there is none
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # generation
        b"\x01\x00\x00\x00\x00\x00\x00\x00"  # entry_valid
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # attr_valid
        b"\x00\x65\xcd\x1d"  # entry_valid_nsec
        b"\x00\x00\x00\x00" + bytes(88)  # attr_valid_nsec  # attr
    )


def test_attr_out() -> None:
    assert replies.attr_out(ATTRIBUTES, 3_000_000_007) == (
        b"\x03\x00\x00\x00\x00\x00\x00\x00"  # attr_valid
        b"\x07\x00\x00\x00"  # attr_valid_nsec
        b"\x00\x00\x00\x00"  # dummy
        + ATTRIBUTE_BYTES
    )  # fmt: skip


def test_open_out() -> None:
    assert replies.open_out(0x0102030405060708, FopenFlag.KEEP_CACHE | FopenFlag.NOFLUSH) == (
        b"\x08\x07\x06\x05\x04\x03\x02\x01"  # fh
        b"\x22\x00\x00\x00"  # open_flags
        b"\x00\x00\x00\x00"  # backing_id
    )


def test_write_out() -> None:
    assert replies.write_out(0x00100000) == b"\x00\x00\x10\x00" + b"\x00\x00\x00\x00"


def test_statfs() -> None:
    volume = Statfs(
        blocks=0x1112131415161718,
        bfree=0x2122232425262728,
        bavail=0x3132333435363738,
        files=0x4142434445464748,
        ffree=0x5152535455565758,
        bsize=0x61626364,
        namelen=0x71727374,
        frsize=0x81828384,
    )
    assert volume.encode() == (
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # blocks
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # bfree
        b"\x38\x37\x36\x35\x34\x33\x32\x31"  # bavail
        b"\x48\x47\x46\x45\x44\x43\x42\x41"  # files
        b"\x58\x57\x56\x55\x54\x53\x52\x51"  # ffree
        b"\x64\x63\x62\x61"  # bsize
        b"\x74\x73\x72\x71"  # namelen
        b"\x84\x83\x82\x81"  # frsize
        b"\x00\x00\x00\x00" + bytes(24)  # padding  # spare
    )


@pytest.mark.parametrize(
    ("unique", "length", "errno", "expected"),
    [
        (
            *(0x0102030405060708, 0, 0),
            b"\x10\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x08\x07\x06\x05\x04\x03\x02\x01",
        ),
        (
            *(0xFFFFFFFFFFFFFFFF, 0x100000, 0),  # bit 63: sent again
            b"\x10\x00\x10\x00" + b"\x00\x00\x00\x00" + b"\xff" * 8,
        ),
        (*(1, 0, 2), b"\x10\x00\x00\x00" + b"\xfe\xff\xff\xff" + b"\x01" + bytes(7)),  # -ENOENT
        (*(1, 0, 511), b"\x10\x00\x00\x00" + b"\x01\xfe\xff\xff" + b"\x01" + bytes(7)),
    ],
)
def test_header(unique: int, length: int, errno: int, expected: bytes) -> None:
    """len, error (negative), unique."""
    assert replies.header(unique, length, errno) == expected


# -- notifications ---------------------------------------------------------------------------------


def test_notify_inval_inode() -> None:
    assert replies.notify_inval_inode(0x0102030405060708, -1, 0x1112131415161718) == (
        b"\x28\x00\x00\x00"  # len: 40
        b"\x02\x00\x00\x00"  # error: FUSE_NOTIFY_INVAL_INODE
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # unique
        b"\x08\x07\x06\x05\x04\x03\x02\x01"  # ino
        b"\xff\xff\xff\xff\xff\xff\xff\xff"  # off
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # len
    )


def test_notify_inval_entry() -> None:
    assert replies.notify_inval_entry(0x0102030405060708, b"n\xc3\xa4me") == (
        b"\x26\x00\x00\x00"  # len: 38
        b"\x03\x00\x00\x00"  # error: FUSE_NOTIFY_INVAL_ENTRY
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # unique
        b"\x08\x07\x06\x05\x04\x03\x02\x01"  # parent
        b"\x05\x00\x00\x00"  # namelen
        b"\x00\x00\x00\x00"  # flags
        b"n\xc3\xa4me\x00"  # name
    )


def test_notify() -> None:
    assert replies.notify(NotifyCode.RESEND, b"") == (
        b"\x10\x00\x00\x00" + b"\x07\x00\x00\x00" + bytes(8)
    )


# -- directories -----------------------------------------------------------------------------------


def test_readdir_records() -> None:
    buffer = DirentBuffer(4096)
    assert buffer.add(0x0102030405060708, 0x1112131415161718, 8, b"n\xc3\xa4me")
    assert buffer.add(0x2122232425262728, 2, 4, b"12345678")
    assert buffer.encode() == (
        b"\x08\x07\x06\x05\x04\x03\x02\x01"  # ino
        b"\x18\x17\x16\x15\x14\x13\x12\x11"  # off
        b"\x05\x00\x00\x00"  # namelen
        b"\x08\x00\x00\x00"  # type: DT_REG
        b"n\xc3\xa4me\x00\x00\x00"  # name, padded to 8
        b"\x28\x27\x26\x25\x24\x23\x22\x21"  # ino
        b"\x02\x00\x00\x00\x00\x00\x00\x00"  # off
        b"\x08\x00\x00\x00"  # namelen
        b"\x04\x00\x00\x00"  # type: DT_DIR
        b"12345678"  # name, which needs no padding
    )


def test_readdirplus_records() -> None:
    entry = Entry(7, 0, 0, 0, ATTRIBUTES)
    buffer = DirentBuffer(4096)
    assert buffer.add_unnoticed(0x0102030405060708, 1, 4, b".")
    assert buffer.add(0x1112131415161718, 2, 8, b"file", entry)
    assert buffer.encode() == (
        bytes(128)  # entry_out: the kernel takes no note of node 0
        + b"\x08\x07\x06\x05\x04\x03\x02\x01"  # ino
        + b"\x01\x00\x00\x00\x00\x00\x00\x00"  # off
        + b"\x01\x00\x00\x00"  # namelen
        + b"\x04\x00\x00\x00"  # type
        + b".\x00\x00\x00\x00\x00\x00\x00"  # name
        + entry.encode()
        + b"\x18\x17\x16\x15\x14\x13\x12\x11"  # ino
        + b"\x02\x00\x00\x00\x00\x00\x00\x00"  # off
        + b"\x04\x00\x00\x00"  # namelen
        + b"\x08\x00\x00\x00"  # type
        + b"file\x00\x00\x00\x00"  # name
    )


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 255])
def test_room_to_the_byte(plus: bool, length: int) -> None:
    """A record fits or it does not; what did not fit leaves no trace."""
    entry = Entry(7, 0, 0, 0, ATTRIBUTES) if plus else None
    record = (128 if plus else 0) + 24 + -(-length // 8) * 8
    for room, fits in ((record - 1, 0), (record, 1), (2 * record - 1, 1), (2 * record, 2)):
        buffer = DirentBuffer(room)
        added = [buffer.add(1, 1, 8, b"n" * length, entry) for _ in range(3)]
        assert added == [True] * fits + [False] * (3 - fits)
        assert len(buffer.encode()) == fits * record


def test_a_smaller_record_may_still_fit_after_one_that_did_not() -> None:
    buffer = DirentBuffer(32)
    assert not buffer.add(1, 1, 8, b"n" * 9)
    assert buffer.add(1, 1, 8, b"n" * 8)


def test_no_record_is_the_end_of_a_directory() -> None:
    assert DirentBuffer(4096).encode() == b""
    assert not DirentBuffer(0).add(1, 1, 8, b"n")


@dataclass(frozen=True)
class Record:
    """A record as readdir(3) would take it apart."""

    ino: int
    off: int
    kind: int
    name: bytes


def records_of(data: bytes) -> list[Record]:
    found, at = [], 0
    while at < len(data):
        ino, off, length, kind = DIRENT.unpack_from(data, at)
        found.append(Record(ino, off, kind, data[at + 24 : at + 24 + length]))
        at += 24 + -(-length // 8) * 8
    assert at == len(data)
    return found


U64 = st.integers(0, 2**64 - 1)
RECORDS = st.lists(
    st.builds(Record, U64, U64, st.sampled_from([4, 8]), st.binary(min_size=1, max_size=255))
)


@settings(deadline=None, max_examples=300)
@given(RECORDS, st.integers(0, 8192))
def test_records_there_and_back(records: list[Record], room: int) -> None:
    buffer = DirentBuffer(room)
    taken = [r for r in records if buffer.add(r.ino, r.off, r.kind, r.name)]
    assert len(buffer.encode()) <= room
    assert records_of(buffer.encode()) == taken


S64 = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None, max_examples=300)
@given(S64, st.integers(0, 999_999_999), U64.filter(lambda size: size < 2**63))
def test_times_there_and_back(seconds: int, nanoseconds: int, size: int) -> None:
    """Every time that a file can have, the years before 1970 and after 2262 too."""
    time = seconds * 1_000_000_000 + nanoseconds
    fields = ATTR.unpack(ATTRIBUTES._replace(atime=time, size=size).encode())
    assert fields[3] == seconds % 2**64
    assert fields[6] == nanoseconds
