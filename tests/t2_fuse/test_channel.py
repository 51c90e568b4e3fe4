"""The descriptor: what its errors mean, over a real one that keeps messages apart."""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from fuse_s3_shared.limits import FUSE_REQUEST_MAX
from fuse_s3_worker.fuse import abi, replies
from fuse_s3_worker.fuse.channel import AbortedError, Channel, UnmountedError


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel and its kernel; like /dev/fuse, a packet socket keeps messages apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield Channel(ours.fileno()), theirs


def failing(*errors: int, then: Callable[..., int]) -> Callable[..., int]:
    """A system call that fails with these errors, one after the other, and then works."""
    left = list(errors)

    def call(*arguments: object) -> int:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return then(*arguments)

    return call


# -- requests --------------------------------------------------------------------------------------


def test_one_read_is_one_request(pair: tuple[Channel, socket.socket]) -> None:
    channel, kernel = pair
    assert channel.receive_nowait() is None
    kernel.send(b"first")
    kernel.send(b"second")
    for expected in (b"first", b"second"):
        request = channel.receive_nowait()
        assert request is not None
        assert request.tobytes() == expected
    assert channel.receive_nowait() is None


def test_a_request_is_gone_with_the_next(pair: tuple[Channel, socket.socket]) -> None:
    """Which is why whoever keeps a part of it copies it."""
    channel, kernel = pair
    kernel.send(b"first")
    first = channel.receive_nowait()
    kernel.send(b"other")
    channel.receive_nowait()
    assert first is not None
    assert first.tobytes() == b"other"


def test_room_for_the_largest_request(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses to be read with less room than a full WRITE and its headers."""
    seen = []

    def readv(_: int, buffers: list[memoryview]) -> int:
        seen.append(sum(map(len, buffers)))
        return 0

    monkeypatch.setattr(os, "readv", readv)
    pair[0].receive_nowait()
    assert seen[0] >= FUSE_REQUEST_MAX + abi.IN_HEADER.size + abi.WRITE_IN.size
    assert seen[0] >= abi.MIN_READ_BUFFER


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINTR])
def test_a_request_that_was_taken_back(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    channel, kernel = pair
    kernel.send(b"next")
    monkeypatch.setattr(os, "readv", failing(number, number, then=os.readv))
    request = channel.receive_nowait()
    assert request is not None
    assert request.tobytes() == b"next"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENODEV, UnmountedError), (errno.ECONNABORTED, AbortedError)]
)
def test_the_end_of_the_connection(
    pair: tuple[Channel, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
) -> None:
    monkeypatch.setattr(os, "readv", failing(number, then=os.readv))
    with pytest.raises(kind):
        pair[0].receive_nowait()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EPERM])
def test_any_other_error_is_not_hidden(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "readv", failing(number, then=os.readv))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        pair[0].receive_nowait()
    assert caught.value.errno == number


# -- replies ---------------------------------------------------------------------------------------


def test_a_reply_is_one_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, kernel = pair
    channel.reply(7)
    channel.reply(8, b"one", memoryview(b"two"), bytearray(b"three"))
    assert kernel.recv(1000) == replies.header(7, 0)
    assert kernel.recv(1000) == replies.header(8, 11) + b"onetwothree"


def test_a_failure(pair: tuple[Channel, socket.socket]) -> None:
    channel, kernel = pair
    channel.fail(9, errno.ENOENT)
    assert kernel.recv(1000) == replies.header(9, 0, errno.ENOENT)


def test_a_notification(pair: tuple[Channel, socket.socket]) -> None:
    channel, kernel = pair
    channel.notify(replies.notify_inval_inode(3))
    assert kernel.recv(1000) == replies.notify_inval_inode(3)


# What comes when nobody waits for an answer any more, or when the connection is over.
HARMLESS = [errno.ENOENT, errno.ENODEV, errno.ECONNABORTED]


@pytest.mark.parametrize("number", HARMLESS)
@pytest.mark.parametrize("act", ["reply", "fail", "notify"])
def test_answers_that_nobody_waits_for(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, act: str, number: int
) -> None:
    channel, kernel = pair
    monkeypatch.setattr(os, "writev", failing(number, then=os.writev))
    {
        "reply": lambda: channel.reply(7, b"x"),
        "fail": lambda: channel.fail(7, errno.EIO),
        "notify": lambda: channel.notify(replies.notify_inval_inode(3)),
    }[act]()
    with pytest.raises(BlockingIOError):
        kernel.recv(1000)


def test_a_reply_that_the_kernel_refuses(
    pair: tuple[Channel, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mistake of ours costs one request: its caller gets EIO, and the log says so."""
    channel, kernel = pair
    monkeypatch.setattr(os, "writev", failing(errno.EINVAL, then=os.writev))
    with caplog.at_level(logging.ERROR):
        channel.reply(7, b"too long")
    assert kernel.recv(1000) == replies.header(7, 0, errno.EIO)
    assert caplog.messages == ['reply_refused unique=7 reason="[Errno 22] Invalid argument"']


@pytest.mark.parametrize("act", ["fail", "notify"])
def test_a_refusal_of_anything_else_is_not_hidden(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    channel, _ = pair
    monkeypatch.setattr(os, "writev", failing(errno.EINVAL, then=os.writev))
    with pytest.raises(OSError, match="Invalid argument"):
        getattr(channel, act)(*((7, errno.EIO) if act == "fail" else (b"x",)))


def test_close(pair: tuple[Channel, socket.socket]) -> None:
    channel = Channel(os.dup(pair[0].fd))
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(channel.fd)
