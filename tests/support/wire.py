"""HTTP/1.1 messages on asyncio streams, just enough to stand between a client and a server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

__all__ = ["Message", "read_body", "read_head"]

_PIECE = 256 * 1024
_HEAD_MAX = 64 * 1024


@dataclass(slots=True)
class Message:
    """A request's or a reply's head; header names are lower case.

    Attributes:
        first: the first line.
        chunked: whether the body is; that header is not among the others.
    """

    first: str
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False

    @property
    def length(self) -> int | None:
        """The announced length of the body; None when the end of the connection ends it."""
        value = self.headers.get("content-length")
        return int(value) if value is not None else None

    @property
    def status(self) -> int:
        """The status of a reply."""
        return int(self.first.split(" ", 2)[1])

    @property
    def closes(self) -> bool:
        """Tell whether its sender closes the connection after it."""
        old = "HTTP/1.0" in self.first
        return old or self.headers.get("connection", "").lower() == "close"

    def encode(self) -> bytes:
        """Return the head as bytes, with the empty line."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Message | None:
    """Read a head; None when the connection ended before one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    chunked = "chunked" in headers.pop("transfer-encoding", "").lower()
    return Message(first, headers, chunked)


async def read_body(reader: asyncio.StreamReader, message: Message) -> AsyncIterator[bytes]:
    """Yield the body in pieces."""
    if message.chunked:
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return
    left = message.length
    while left is None or left > 0:
        data = await reader.read(_PIECE if left is None else min(left, _PIECE))
        if not data:
            if left:
                raise asyncio.IncompleteReadError(b"", left)
            return
        left = None if left is None else left - len(data)
        yield data
