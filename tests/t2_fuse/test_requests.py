"""Every request that is served is decoded as fuse.h lays it out, without a copy of its data."""

import pytest

from fuse_s3_worker.fuse import requests
from fuse_s3_worker.fuse.abi import IN_HEADER, Opcode
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header
from support.goldenframes import CASES, GOLDEN, decode


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


def test_the_longest_name() -> None:
    """FUSE_NAME_MAX: what the file system makes of it is decided there."""
    assert requests.Named.decode(memoryview(b"n" * 1024 + b"\0")).name == b"n" * 1024
