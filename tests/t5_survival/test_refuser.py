"""A mount that cannot be served any more: EIO at once, and an end."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from fuse_s3_worker.fuse.abi import OUT_HEADER, NotifyCode, Opcode
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.survival.refuser import refuse_all
from support.kernel import frame

EIO = 5


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's end of a connection that is refused at the other; closing it unmounts."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    kernel.settimeout(60)
    read = os.readv

    def readv(fd: int, buffers: list[memoryview]) -> int:
        length = read(fd, buffers)
        if not length:
            raise OSError(19, "ENODEV")
        return length

    monkeypatch.setattr(os, "readv", readv)
    thread = threading.Thread(target=refuse_all, args=[Channel(ours.fileno())])
    thread.start()
    assert OUT_HEADER.unpack(kernel.recv(100)) == (16, NotifyCode.RESEND, 0)
    yield kernel
    kernel.close()
    thread.join(60)
    assert not thread.is_alive()
    ours.close()


REFUSED = [code for code in Opcode if code.name not in {
    "FORGET", "BATCH_FORGET", "INTERRUPT", "RELEASE", "RELEASEDIR", "DESTROY",
}]  # fmt: skip


def test_every_request_gets_eio(kernel: socket.socket) -> None:
    for unique, code in enumerate(REFUSED, 2):
        kernel.send(frame(code, b"\xff" * 40, unique=unique))
        assert OUT_HEADER.unpack(kernel.recv(100)) == (16, -EIO, unique)
    kernel.send(frame(9999, b"", unique=77))
    assert OUT_HEADER.unpack(kernel.recv(100)) == (16, -EIO, 77)


def test_what_was_sent_again_is_answered_by_its_number(kernel: socket.socket) -> None:
    kernel.send(frame(Opcode.READ, b"", unique=8 | 1 << 63))
    assert OUT_HEADER.unpack(kernel.recv(100)) == (16, -EIO, 8 | 1 << 63)


@pytest.mark.parametrize("code", [Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.DESTROY])
def test_what_is_given_back_is_taken(kernel: socket.socket, code: Opcode) -> None:
    kernel.send(frame(code, b"", unique=4))
    assert OUT_HEADER.unpack(kernel.recv(100)) == (16, 0, 4)


@pytest.mark.parametrize("code", [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT])
def test_what_has_no_answer_gets_none(kernel: socket.socket, code: Opcode) -> None:
    kernel.send(frame(code, b"", unique=4))
    kernel.send(b"not even a header")
    kernel.send(frame(Opcode.GETATTR, b"", unique=6))
    assert OUT_HEADER.unpack(kernel.recv(100)) == (16, -EIO, 6)
