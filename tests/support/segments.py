"""A connection of ours with a bare socket at its other end, so that a test sees every segment."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fuse_s3_worker.http.connection import Connection, ReplyHead

__all__ = ["CUTS", "Memory", "Wire", "opened", "until"]


class Memory:
    """A sink of a known size; `wanted` is its answer to a head, an error is raised from there."""

    def __init__(self, size: int, *, wanted: bool | Exception = True) -> None:
        self.content = bytearray(size)
        self.filled = 0
        self.heads: list[ReplyHead] = []
        self._wanted = wanted

    def begin(self, head: ReplyHead) -> bool:
        self.heads.append(head)
        if isinstance(self._wanted, Exception):
            raise self._wanted
        return self._wanted

    def buffer(self) -> memoryview:
        return memoryview(self.content)[self.filled :]

    def advance(self, count: int) -> None:
        self.filled += count

    @property
    def received(self) -> bytes:
        """What has arrived."""
        return bytes(self.content[: self.filled])


class Wire(NamedTuple):
    """Both ends."""

    connection: Connection
    peer: socket.socket

    async def deliver(self, data: bytes, cut: str = "whole") -> None:
        """Send `data` cut in a way of CUTS; each piece is read before the next one leaves."""
        loop = asyncio.get_running_loop()
        for piece in CUTS[cut](data):
            goal = self.connection.moved + len(piece)
            await loop.sock_sendall(self.peer, piece)
            await self.arrived(goal)
            if not self.connection.open:
                return

    async def arrived(self, goal: int) -> None:
        """Return when our side has read so many bytes since it was made, or has closed."""
        await until(lambda: self.connection.moved >= goal or not self.connection.open)

    async def asked(self, length: int) -> bytes:
        """Read so many bytes of what our side sends."""
        loop, data = asyncio.get_running_loop(), b""
        while len(data) < length:
            more = await loop.sock_recv(self.peer, length - len(data))
            assert more, "our side closed"
            data += more
        return data

    async def closed_by_us(self) -> None:
        """Return when our side has closed, in whatever way."""
        loop = asyncio.get_running_loop()
        try:
            while await loop.sock_recv(self.peer, 65536):
                pass
        except ConnectionResetError:
            pass

    def reset(self) -> None:
        """End with a RST."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds; the bound of the run ends a hopeless wait."""
    while not condition():  # noqa: ASYNC110  the condition is the product's, which tells nobody
        await asyncio.sleep(0)


@asynccontextmanager
async def opened() -> AsyncIterator[Wire]:
    """Connect over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *listener.getsockname())
        peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setblocking(False)
    try:
        yield Wire(connection, peer)
    finally:
        connection.abort()
        peer.close()
        await asyncio.sleep(0)


def _whole(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def _bytes(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


def _pieces(data: bytes) -> Iterator[bytes]:
    sizes, at = random.Random(len(data)), 0
    while at < len(data):
        size = sizes.randint(1, 40)
        yield data[at : at + size]
        at += size


CUTS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "whole": _whole,
    "bytes": _bytes,
    "pieces": _pieces,
}
"""Ways to cut an answer: in one, a byte at a time, in pieces of random length."""
