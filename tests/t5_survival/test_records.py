"""Records in memory: complete at every instant, and nothing that does not check."""

import os
from collections.abc import Iterator
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.survival import records
from fuse_s3_worker.survival.records import BODY_MAX, DamagedError, Log, newest

PAGE = 4096


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log.create("test")
    made.begin()
    yield made
    os.close(made.fd)


def again(log: Log) -> Log:
    """Return the same memory as a successor sees it."""
    return Log(os.dup(log.fd))


# -- golden bytes ----------------------------------------------------------------------------------


def test_golden_bytes(log: Log) -> None:
    log.append(0x0102, b"first")
    log.append(0x0304, b"")
    log.publish(7)
    log.set_cell(2, 0xA1B2C3D4)
    assert os.pread(log.fd, 48, 0) == (
        b"fuse-s3 state\0\0\0"  # magic
        b"\x01\x00\x00\x00"  # version
        b"\x52\xcd\x7c\x85"  # CRC-32 of both
        + bytes(8)
        + b"\x07\0\0\0\0\0\0\0"  # generation
        + b"\x15\0\0\0\0\0\0\0"  # 21 bytes of records
    )
    assert os.pread(log.fd, 24, PAGE) == (
        b"\x05\x00"  # bytes of body
        b"\x02\x01"  # kind
        b"\x27\x8a\x0e\xa4"  # CRC-32 of the above and the body
        b"first"
        b"\x00\x00"
        b"\x04\x03"
        b"\xa2\x4b\x21\xdc" + bytes(3)
    )
    assert os.pread(log.fd, 24, 1 << 40) == bytes(16) + pack("<II", 0xA1B2C3D4, 0x5E4D3C2B)


# -- there and back --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), max_size=30))
def test_what_was_written_is_read(made: list[tuple[int, bytes]]) -> None:
    log = Log.create("test")
    log.begin()
    for kind, body in made:
        log.append(kind, body)
    log.publish(1)
    found = again(log)
    assert list(newest([found]).records()) == made
    os.close(found.fd)
    os.close(log.fd)


def test_the_largest_record(log: Log) -> None:
    log.append(1, b"x" * BODY_MAX)
    assert list(log.records()) == [(1, b"x" * BODY_MAX)]


def test_cells(log: Log) -> None:
    values = {0: 0, 1: 1, 511: 2**32 - 1, 512: 7, 1_000_000: 5}
    for number, value in values.items():
        log.set_cell(number, value)
    found = again(log)
    assert {number: found.cell(number) for number in values} == values
    assert found.cell(3) == 0  # never set


def test_memory_is_only_taken_for_what_is_written(log: Log) -> None:
    log.append(1, b"x")
    log.set_cell(5, 1)
    assert os.fstat(log.fd).st_blocks * 512 <= 3 * PAGE


def test_a_log_that_begins_anew_gives_its_memory_back(log: Log) -> None:
    for _ in range(100):
        log.append(1, b"x" * 60_000)
    before = os.fstat(log.fd).st_blocks
    log.publish(3)
    log.begin()
    assert os.fstat(log.fd).st_blocks < before // 100
    assert (log.generation, log.end, list(log.records())) == (0, 0, [])
    log.append(2, b"anew")
    assert list(again(log).records()) == [(2, b"anew")]


# -- killed at any instant -------------------------------------------------------------------------


def test_a_process_killed_between_any_two_bytes(log: Log) -> None:
    """Whatever part of a record is in memory, it does not count before it is whole."""
    log.append(1, b"first")
    log.publish(1)
    end, whole = log.end, bytearray(os.pread(log.fd, 100, PAGE))
    log.append(2, b"second")
    torn = os.pread(log.fd, 100, PAGE)[end : log.end]
    for cut in range(len(torn) + 1):
        crashed = Log.create("crashed")
        crashed.begin()
        crashed.publish(1)
        os.pwrite(crashed.fd, bytes(whole[:end]) + torn[:cut], PAGE)
        os.pwrite(crashed.fd, pack("<Q", end), 40)
        found = again(crashed)
        assert list(newest([found]).records()) == [(1, b"first")]
        found.append(3, b"goes on")  # over what was torn
        assert list(again(found).records()) == [(1, b"first"), (3, b"goes on")]
        for fd in (found.fd, crashed.fd):
            os.close(fd)


def test_a_generation_counts_when_it_is_published() -> None:
    older, newer = Log.create("a"), Log.create("b")
    for log in (older, newer):
        log.begin()
    older.append(1, b"old")
    older.publish(1)
    newer.append(1, b"new")
    assert newest([older, newer]) is older
    newer.publish(2)
    assert newest([older, newer]) is newer
    older.begin()
    assert newest([older, newer]) is newer
    older.publish(3)
    assert newest([newer, older]) is older


# -- damage ----------------------------------------------------------------------------------------


def damaged(log: Log, at: int, data: bytes) -> Log:
    os.pwrite(log.fd, data, at)
    return again(log)


def read_all(log: Log) -> list[tuple[int, bytes]]:
    return list(newest([log]).records())


def test_nothing_at_all() -> None:
    log = Log.create("test")
    with pytest.raises(DamagedError, match="no state was ever complete"):
        newest([log, log])


def test_another_version(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "VERSION", 2)
    log.begin()
    log.publish(1)
    monkeypatch.undo()
    with pytest.raises(DamagedError, match=r"^a state of version 2, this worker has 1$"):
        read_all(again(log))


@pytest.mark.parametrize("at", range(24))
def test_a_damaged_head(log: Log, at: int) -> None:
    log.publish(1)
    byte = os.pread(log.fd, 1, at)[0] ^ 0x10
    with pytest.raises(DamagedError, match=r"not a state of ours"):
        read_all(damaged(log, at, bytes([byte])))


def test_every_flipped_bit_of_a_record_is_noticed(log: Log) -> None:
    log.append(1, b"abc")
    log.append(2, b"defg")
    log.publish(1)
    for at in range(PAGE, PAGE + log.end):
        byte = os.pread(log.fd, 1, at)[0]
        for bit in range(8):
            found = damaged(log, at, bytes([byte ^ 1 << bit]))
            with pytest.raises(DamagedError):
                read_all(found)
            os.close(found.fd)
        os.pwrite(log.fd, bytes([byte]), at)
    assert read_all(again(log)) == [(1, b"abc"), (2, b"defg")]


@pytest.mark.parametrize("end", [1, 5, 8, 10, 12, 20, 24, 1 << 20, 1 << 40, 1 << 63])
def test_a_wrong_end(log: Log, end: int) -> None:
    log.append(1, b"abc")  # 11 bytes
    log.append(2, b"defg")  # 12 more
    log.publish(1)
    with pytest.raises(DamagedError):
        read_all(damaged(log, 40, pack("<Q", end)))


@pytest.mark.parametrize("size", [0, 100, PAGE, PAGE + 4, 1 << 40])
def test_memory_that_was_cut_short(log: Log, size: int) -> None:
    """What is gone is zeros, which is no record."""
    log.append(1, b"abc")
    log.publish(1)
    os.ftruncate(log.fd, size)
    found = again(log)
    if size == 1 << 40:
        assert read_all(found) == [(1, b"abc")]
        assert found.cell(0) == 0
        return
    with pytest.raises(DamagedError):
        read_all(found)


@pytest.mark.parametrize("cell", [1, 1 << 32, 0xFFFF_FFFF_0000_0001, (1 << 64) - 1])
def test_a_damaged_cell(log: Log, cell: int) -> None:
    found = damaged(log, (1 << 40) + 8 * 3, pack("<Q", cell))
    with pytest.raises(DamagedError, match="cell 3 does not check"):
        found.cell(3)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 250))
def test_garbage_is_refused_or_read_and_nothing_else(data: bytes, end: int) -> None:
    log = Log.create("test")
    log.begin()
    os.pwrite(log.fd, data, PAGE)
    os.pwrite(log.fd, pack("<Q", end), 40)
    log.publish(1)
    found = again(log)
    try:
        read = read_all(found)
    except DamagedError:
        read = []
    for kind, body in read:
        assert 0 <= kind <= 0xFFFF
        assert len(body) <= end
    os.close(found.fd)
    os.close(log.fd)
