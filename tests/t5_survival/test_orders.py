"""The worker's end of the handoff: whom it listens to, and what it makes of a wrong word."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import receive_packet, send_packet
from fuse_s3_shared.handoff import encode
from fuse_s3_shared.limits import PACKET_MAX, PROTOCOL_VERSION
from fuse_s3_worker import conversation as module
from fuse_s3_worker.conversation import Helper, HelperGoneError, RefusedError
from fuse_s3_worker.log import Redaction
from support.isolation import open_descriptors

MOUNT = handoff.Mount(PROTOCOL_VERSION, "bucket", "", 0, 0, False, False, False, False)
FILE = handoff.File("passwd_file", "/etc/passwd-s3fs")

Pair = tuple[socket.socket, Helper]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The helper's socket, and what a worker makes of the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, Helper(theirs)


def heard(sock: socket.socket) -> handoff.Message:
    packet, fd = receive_packet(sock, PACKET_MAX)
    assert fd is None
    return handoff.decode(packet, handoff.WORKER_SENDS, has_fd=False)


def test_an_order(pair: Pair) -> None:
    sock, helper = pair
    send_packet(sock, encode(FILE), 2)
    send_packet(sock, encode(MOUNT))
    order = helper.order()
    assert heard(sock) == handoff.Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "fuse-s3-worker")
    assert order.mount == MOUNT
    assert order.files["passwd_file"][0] == FILE
    order.close_copies()


def test_the_log_stays_open_when_copies_are_closed(pair: Pair) -> None:
    sock, helper = pair
    before = open_descriptors().keys()
    send_packet(sock, encode(FILE), 2)
    send_packet(sock, encode(handoff.File("log_file", "/log")), 2)
    send_packet(sock, encode(MOUNT))
    order = helper.order()
    order.close_copies()
    assert open_descriptors().keys() - before == {order.files["log_file"][1]}
    os.close(order.files["log_file"][1])


def test_somebody_who_is_not_root(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a socket that somebody has opened to others; the kernel says who they are."""
    sock, helper = pair
    monkeypatch.setattr(module, "peer_uid", lambda _: 12345)
    with pytest.raises(HelperGoneError, match="user 12345 asks for a mount"):
        helper.order()
    assert heard(sock) == handoff.Refuse(1, "only root can have this worker mount")


WRONG: dict[str, list[tuple[bytes, int | None]]] = {
    "garbage": [(b"?", None)],
    "too large": [(b"1" * (PACKET_MAX + 1), None)],
    "a file twice": [(encode(FILE), 2), (encode(FILE), 2)],
    "a file without a descriptor": [(encode(FILE), None)],
    "a descriptor too many": [(encode(MOUNT), 2)],
    "the device first": [(encode(FILE), 2), (encode(handoff.Serve()), 2)],
    "a word of the worker's": [(encode(handoff.Serving()), None)],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_helper_that_lies(pair: Pair, name: str) -> None:
    """No order comes of it, and no descriptor is left."""
    sock, helper = pair
    before = open_descriptors()
    for packet, fd in WRONG[name]:
        send_packet(sock, packet, fd)
    sock.shutdown(socket.SHUT_WR)
    with pytest.raises(HelperGoneError, match=r"broke the handoff protocol|out of turn"):
        helper.order()
    assert open_descriptors() == before


def test_a_helper_that_is_gone(pair: Pair) -> None:
    sock, helper = pair
    send_packet(sock, encode(FILE), 2)
    sock.shutdown(socket.SHUT_WR)
    before = open_descriptors()
    with pytest.raises(HelperGoneError, match="the helper is gone"):
        helper.order()
    assert open_descriptors() == before


def test_the_device_comes_in_its_turn(pair: Pair) -> None:
    sock, helper = pair
    send_packet(sock, encode(handoff.Mounted("/mnt")))
    with pytest.raises(HelperGoneError, match="Mounted out of turn"):
        asyncio.run(helper.device())
    send_packet(sock, encode(handoff.Serve()), 2)
    os.close(asyncio.run(helper.device()))
    send_packet(sock, encode(handoff.Mounted("/mnt/a b")))
    assert asyncio.run(helper.mounted()) == "/mnt/a b"


@pytest.mark.parametrize("error", [ValueError("wrong name"), KeyError("a bug")])
def test_what_goes_wrong_is_told(pair: Pair, error: Exception) -> None:
    sock, helper = pair
    with pytest.raises(RefusedError), helper.told(Redaction(), ValueError):
        raise error
    refusal = heard(sock)
    assert isinstance(refusal, handoff.Refuse)
    expected = "wrong name" if isinstance(error, ValueError) else "the worker failed: KeyError"
    assert refusal.reason.startswith(expected)
