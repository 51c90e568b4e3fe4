"""INIT: what is offered, what is taken, and whom there is no talking to."""

from typing import NamedTuple

import pytest

from fuse_s3_worker.fuse.abi import INIT_OUT, InitFlag
from fuse_s3_worker.fuse.negotiate import WANTED, Negotiated, UnsupportedKernelError, negotiate
from fuse_s3_worker.fuse.requests import Init

LINUX_6_18 = 0x5FD73FFFFFB  # what that kernel offers
LINUX_5_2 = 0x03FFFFFB  # the oldest one

# Bits of include/uapi/linux/fuse.h, by number: taken whenever they are offered ...
TAKEN = {
    "ASYNC_READ": 0,
    "ATOMIC_O_TRUNC": 3,
    "BIG_WRITES": 5,
    "AUTO_INVAL_DATA": 12,
    "DO_READDIRPLUS": 13,
    "READDIRPLUS_AUTO": 14,
    "ASYNC_DIO": 15,
    "PARALLEL_DIROPS": 18,
    "ABORT_ERROR": 21,
    "MAX_PAGES": 22,
    "HANDLE_KILLPRIV_V2": 28,
    "INIT_EXT": 30,
    "HAS_EXPIRE_ONLY": 35,
    "NO_EXPORT_SUPPORT": 38,
    "HAS_RESEND": 39,
}

# ... and never, each for a reason.
REFUSED = {
    "POSIX_LOCKS": 1,  # locks hold among the programs of this machine, which the kernel does alone
    "EXPORT_SUPPORT": 4,  # node ids are forgotten with the worker
    "DONT_MASK": 6,
    "SPLICE_WRITE": 7,
    "SPLICE_MOVE": 8,
    "SPLICE_READ": 9,
    "FLOCK_LOCKS": 10,
    "WRITEBACK_CACHE": 16,  # size and time would be the kernel's, not the store's
    "NO_OPEN_SUPPORT": 17,  # an open file is a version
    "POSIX_ACL": 20,
    "NO_OPENDIR_SUPPORT": 24,
    "EXPLICIT_INVAL_DATA": 25,  # excludes AUTO_INVAL_DATA
    "SECURITY_CTX": 32,
    "CREATE_SUPP_GROUP": 34,
    "PASSTHROUGH": 37,  # needs a stack depth and a broker
    "OVER_IO_URING": 41,
    "REQUEST_TIMEOUT": 42,
}


class Reply(NamedTuple):
    """struct fuse_init_out."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int
    flags2: int
    max_stack_depth: int
    request_timeout: int


def answer(init: Init) -> tuple[Reply, Negotiated | None]:
    body, agreed = negotiate(init)
    return Reply(*INIT_OUT.unpack(body)), agreed


def test_golden_reply() -> None:
    body, agreed = negotiate(Init(7, 45, 0x00020000, LINUX_6_18))
    assert body == (
        b"\x07\x00\x00\x00"  # major
        b"\x2d\x00\x00\x00"  # minor: 45
        b"\x00\x00\x02\x00"  # max_readahead: as offered
        b"\x29\xf0\x64\x50"  # flags
        b"\x40\x00"  # max_background: 64
        b"\x30\x00"  # congestion_threshold: 48
        b"\x00\x00\x10\x00"  # max_write: 1 MiB
        b"\x01\x00\x00\x00"  # time_gran: 1 ns
        b"\x00\x01"  # max_pages: 256
        b"\x00\x00"  # map_alignment
        b"\xc8\x00\x00\x00"  # flags2
        b"\x00\x00\x00\x00"  # max_stack_depth
        b"\x00\x00" + bytes(22)  # request_timeout  # unused
    )
    assert agreed == Negotiated(45, WANTED, 0x100000)


def test_what_is_wanted() -> None:
    assert InitFlag(sum(1 << bit for bit in TAKEN.values())) == WANTED
    for name, bit in (TAKEN | REFUSED).items():
        assert InitFlag[name] == 1 << bit


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_not_offered_is_not_taken(name: str) -> None:
    offered = LINUX_6_18 & ~(1 << TAKEN[name])
    reply, agreed = answer(Init(7, 45, 131072, offered))
    assert agreed is not None
    assert agreed.flags == WANTED & ~InitFlag[name]
    assert reply.flags | reply.flags2 << 32 == agreed.flags


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    reply, agreed = answer(Init(7, 45, 131072, (1 << 64) - 1))
    assert agreed is not None
    assert not (reply.flags | reply.flags2 << 32) & 1 << REFUSED[name]
    assert InitFlag[name] not in agreed.flags


@pytest.mark.parametrize("minor", [31, 32, 36, 44, 45])
def test_the_smaller_version_counts(minor: int) -> None:
    reply, agreed = answer(Init(7, minor, 131072, LINUX_5_2))
    assert agreed is not None
    assert (reply.major, reply.minor, agreed.minor) == (7, minor, minor)
    assert reply.flags2 == 0
    assert agreed.flags == WANTED & LINUX_5_2


@pytest.mark.parametrize("minor", [46, 99, 2**32 - 1])
def test_a_newer_minor_version(minor: int) -> None:
    """The kernel speaks ours too."""
    reply, agreed = answer(Init(7, minor, 131072, LINUX_6_18))
    assert agreed is not None
    assert (reply.minor, agreed.minor) == (45, 45)


@pytest.mark.parametrize("major", [8, 9, 2**32 - 1])
def test_a_newer_major_version(major: int) -> None:
    """fuse.h: reply with ours, and the kernel asks again with that."""
    reply, agreed = answer(Init(major, 0, 131072, LINUX_6_18))
    assert agreed is None
    assert (reply.major, reply.minor, reply.flags, reply.flags2) == (7, 45, 0, 0)


@pytest.mark.parametrize("version", [(7, 30), (7, 0), (6, 99), (0, 0)])
def test_an_older_kernel(version: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedKernelError, match=rf"FUSE {version[0]}\.{version[1]}, 7.31 "):
        negotiate(Init(*version, 131072, LINUX_5_2))


@pytest.mark.parametrize("readahead", [0, 4096, 131072, 2**32 - 1])
def test_read_ahead_is_left_to_the_kernel(readahead: int) -> None:
    """INIT can only lower it; the helper raises it for the mount."""
    assert answer(Init(7, 45, readahead, LINUX_6_18))[0].max_readahead == readahead
