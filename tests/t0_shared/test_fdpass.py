"""One packet, at most one descriptor: over real sockets."""

import array
import fcntl
import itertools
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from fuse_s3_shared.fdpass import PacketError, receive_packet, send_packet
from fuse_s3_shared.limits import PACKET_MAX
from support.isolation import in_child, open_descriptors

LIMIT = 100


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a SOCK_SEQPACKET connection that does not wait for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def readable() -> Iterator[int]:
    """A descriptor that says `here` when it is read."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"here")
    os.close(write_end)
    yield read_end
    os.close(read_end)


def send_many(sock: socket.socket, packet: bytes, fds: list[int]) -> None:
    sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_packets_are_neither_joined_nor_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    send_packet(theirs, b"first")
    send_packet(theirs, b"s")
    assert receive_packet(ours, LIMIT) == (b"first", None)
    assert receive_packet(ours, LIMIT) == (b"s", None)


def test_a_descriptor_is_the_same_file(
    pair: tuple[socket.socket, socket.socket], readable: int
) -> None:
    ours, theirs = pair
    send_packet(theirs, b"take this", readable)
    packet, fd = receive_packet(ours, LIMIT)
    assert packet == b"take this"
    assert fd is not None
    assert fd != readable
    assert os.read(fd, 100) == b"here"
    os.close(fd)


def test_a_descriptor_does_not_survive_exec(
    pair: tuple[socket.socket, socket.socket], readable: int
) -> None:
    ours, theirs = pair
    os.set_inheritable(readable, True)
    send_packet(theirs, b"x", readable)
    _, fd = receive_packet(ours, LIMIT)
    assert fd is not None
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    os.close(fd)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_more_than_one_descriptor(
    pair: tuple[socket.socket, socket.socket], readable: int, count: int
) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_many(theirs, b"x", [readable] * count)
    with pytest.raises(PacketError, match="more than one descriptor"):
        receive_packet(ours, LIMIT)
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 2, 50 * LIMIT])
def test_an_oversized_packet(
    pair: tuple[socket.socket, socket.socket], readable: int, size: int
) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_packet(theirs, b"x" * size, readable)
    send_packet(theirs, b"next")
    with pytest.raises(PacketError, match="more than 100 bytes"):
        receive_packet(ours, LIMIT)
    assert open_descriptors() == before
    assert receive_packet(ours, LIMIT) == (b"next", None)


def test_an_oversized_packet_with_two_descriptors(
    pair: tuple[socket.socket, socket.socket], readable: int
) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_many(theirs, b"x" * (LIMIT + 1), [readable, readable])
    with pytest.raises(PacketError):
        receive_packet(ours, LIMIT)
    assert open_descriptors() == before


def test_a_packet_of_exactly_the_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    send_packet(theirs, b"x" * LIMIT)
    assert receive_packet(ours, LIMIT) == (b"x" * LIMIT, None)


def test_the_largest_packet_passes_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    send_packet(theirs, b"x" * PACKET_MAX)
    assert len(receive_packet(ours, PACKET_MAX)[0]) == PACKET_MAX


def test_a_closed_peer_is_an_empty_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    send_packet(theirs, b"last words")
    theirs.close()
    assert receive_packet(ours, LIMIT) == (b"last words", None)
    assert receive_packet(ours, LIMIT) == (b"", None)


def test_sending_to_a_closed_peer_is_an_error_and_no_signal(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()

    def send() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, others do not
        with pytest.raises(BrokenPipeError):
            send_packet(ours, b"x")

    in_child(send)


def test_silence_ends_with_the_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(0.001)
    with pytest.raises(TimeoutError):
        receive_packet(ours, LIMIT)


def test_a_peer_that_does_not_read_ends_with_the_timeout(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    ours.settimeout(0.001)
    packets = iter(lambda: send_packet(ours, b"x" * PACKET_MAX), "never")
    with pytest.raises(TimeoutError):
        list(itertools.islice(packets, 10_000))


def test_credentials_beside_a_packet_are_no_descriptor(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Other control data must not be taken for descriptors, nor be let through in silence."""
    ours, theirs = pair
    before = open_descriptors()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    send_packet(theirs, b"x")
    with pytest.raises(PacketError):
        receive_packet(ours, LIMIT)
    assert open_descriptors() == before
