"""One HTTP/1.1 connection: a request out, a reply in, no pipelining.

A reply's head is parsed by httptools. Its body goes one of two ways. With a sink that wants it,
the loop writes it straight into the sink's memory: the bytes of a range land where they stay.
Otherwise it is collected: documents and error messages, bounded in size.
"""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast

import httptools

from fuse_s3_worker.http.errors import ProtocolError, UnexpectedCloseError

__all__ = ["Connection", "Reply", "ReplyHead", "Sink"]

# Heads and collected bodies pass through here. One for all connections: the loop asks where to
# write and says that it wrote within one callback, so what one left is gone before the next.
_SCRATCH = memoryview(bytearray(64 * 1024))
_HEAD_MAX = 32 * 1024  # S3 bounds user metadata to 2 KiB; Ceph to 64 KiB in theory
_INFORMATIONAL_MAX = 16  # 1xx before one reply; more of them are no server's way to answer
_COLLECTED_MAX = 16 * 1024 * 1024  # 1,000 keys of 1,024 characters, each percent-encoded, fit
_PIECE = 256 * 1024  # of a request's body handed to the loop at a time
_WRITE_HIGH = 512 * 1024  # unsent bytes that the loop may hold; matters for TLS, which copies

_HEAD_END = b"\r\n\r\n"
_NO_BODY = frozenset({204, 304})

Buffer = bytes | bytearray | memoryview


class ReplyHead(NamedTuple):
    """Status and headers; names are lower case, a repeated header's last value counts."""

    status: int
    headers: dict[str, str]
    keep_alive: bool

    @property
    def content_length(self) -> int | None:
        """The announced length of the body, if there is one and it is a number."""
        value = self.headers.get("content-length", "")
        return int(value) if value.isdecimal() and value.isascii() else None


class Reply(NamedTuple):
    """A complete reply; `body` is empty when a sink took it."""

    head: ReplyHead
    body: bytes


class Sink(Protocol):
    """Memory for a body."""

    def begin(self, head: ReplyHead) -> bool:
        """Look at the head; True takes the body, False leaves it to be collected."""

    def buffer(self) -> memoryview:
        """Return where the next bytes go: at least one byte long while the body lasts."""

    def advance(self, count: int) -> None:
        """Take note that so many bytes are in the last buffer."""


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one connection; `exchange` is its whole use.

    Attributes:
        moved: counts bytes received; the pool compares it over time to find a stalled peer.
        first_byte_at: when the reply began, by the loop's clock; None before.
        reusable: whether another exchange may follow.
        address: of the peer; "" before it is connected.
    """

    def __init__(self) -> None:
        self.moved = 0
        self.first_byte_at: float | None = None
        self.reusable = True
        self.address = ""
        self.exchanges = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._reply: asyncio.Future[Reply] | None = None
        # State of one reply; see _reset.
        self._sink: Sink | None = None
        self._head: ReplyHead | None = None
        self._collector: _Collector | None = None
        self._head_bytes = bytearray()
        self._received = False
        self._direct = 0
        self._reset(None, has_body=True)

    # -- one exchange ---------------------------------------------------------------------------

    async def exchange(
        self, head: bytes, body: Iterable[Buffer] = (), sink: Sink | None = None
    ) -> Reply:
        """Send a request and return its reply.

        Args:
            head: request line and headers, with the empty line.
            body: the request's body, in pieces that must not change until this returns.
            sink: where the reply's body shall go, if it wants it.

        Raises:
            UnexpectedCloseError: the peer closed.
            ProtocolError: the peer sent something else than a reply.

        A reply that comes before the body is sent ends the sending, and the connection.
        """
        if self._transport is None or self._reply is not None:
            raise RuntimeError("an exchange needs an open and idle connection")
        self._reply = self._loop.create_future()
        self._reset(sink, has_body=not head.startswith(b"HEAD "))
        self.exchanges += 1
        try:
            self._transport.write(head)
            self._unsent = True
            self._unsent = not await self._send(body)
            return await self._reply
        finally:
            if not self._reply.done() or self._reply.cancelled() or self._unsent:
                # The next reply on this connection would answer this request.
                self.abort()
            self._reply = None
            self._sink = None

    async def _send(self, body: Iterable[Buffer]) -> bool:
        """Hand over the pieces; False when a reply, or the end, came before the last one."""
        for piece in body:
            view = memoryview(piece).cast("B")
            for at in range(0, len(view), _PIECE):
                if self._reply is None or self._reply.done() or self._transport is None:
                    return False
                self._transport.write(view[at : at + _PIECE])
                await self._writable.wait()
        return True

    @property
    def unsent(self) -> int:
        """Bytes of the request that are still in the loop's hands."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def open(self) -> bool:
        """Tell whether there still is a connection."""
        return self._transport is not None and not self._transport.is_closing()

    def fail(self, error: Exception) -> None:
        """End the exchange with `error`, and the connection with it."""
        self._finish_with(error)
        self.abort()

    def abort(self) -> None:
        """Close without waiting for anything."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # -- what the loop calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; bound what it may hold for us."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange that was under way."""
        self._transport = None
        self.reusable = False
        self._writable.set()
        if self._until_close and exc is None:
            self._finish()
            return
        stale = self.exchanges > 1 and not self._received
        why = f": {exc}" if exc else ""
        self._finish_with(UnexpectedCloseError(f"the peer closed the connection{why}", stale=stale))

    def pause_writing(self) -> None:
        """Hold the body back."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on with the body."""
        self._writable.set()

    def eof_received(self) -> bool:
        """Let the transport close; `connection_lost` decides what that means."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes shall go."""
        del sizehint
        if self._direct:
            assert self._sink is not None  # noqa: S101  _direct is set only with a sink
            return self._sink.buffer()[: self._direct]
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that arrived where `get_buffer` said."""
        self.moved += nbytes
        if not self._received:
            self._received = True
            self.first_byte_at = self._loop.time()
        try:
            if self._direct:
                self._advance(nbytes)
            else:
                self._feed(_SCRATCH[:nbytes])
        except Exception as error:  # noqa: BLE001  a sink's refusal belongs to the exchange
            self.fail(error)

    # -- the reply ------------------------------------------------------------------------------

    def _reset(self, sink: Sink | None, *, has_body: bool) -> None:
        self._sink = sink
        self._has_body = has_body
        self._received = False
        self.first_byte_at = None
        self._unsent = False
        self._until_close = False
        self._direct = 0  # bytes of body still to go straight to the sink
        self._informational = 0
        self._head_bytes = bytearray()
        self._head = None
        self._collector = None

    def _feed(self, data: memoryview) -> None:
        if self._reply is None or self._reply.done():
            raise ProtocolError("the peer sent bytes that nobody asked for")
        if self._collector is not None:
            self._collect(bytes(data))
            return
        self._head_bytes += data
        end = self._head_bytes.find(_HEAD_END)
        if end < 0:
            if len(self._head_bytes) > _HEAD_MAX:
                raise ProtocolError(f"a reply's head is larger than {_HEAD_MAX} bytes")
            return
        head, rest = self._head_bytes[: end + 4], bytes(self._head_bytes[end + 4 :])
        self._head_bytes = bytearray()
        self._head_complete(bytes(head), rest)

    def _head_complete(self, head: bytes, rest: bytes) -> None:
        collector = _Collector()
        collector.feed(head)
        self._head = collector.head()
        if self._head.status < 200:  # noqa: PLR2004  informational: the reply proper follows
            self._informational += 1
            if self._informational > _INFORMATIONAL_MAX:
                raise ProtocolError(f"more than {_INFORMATIONAL_MAX} informational replies")
            self._feed(memoryview(rest))
        elif not self._has_body or self._head.status in _NO_BODY:
            self._finish(rest)
        elif self._sink is not None and self._sink.begin(self._head):
            if self._head.content_length is None:
                raise ProtocolError("a body of unknown length, where the length is known")
            self._direct = self._head.content_length
            self._take_direct(rest)
        else:
            self._sink = None
            self._collector = collector
            self._until_close = collector.until_close
            self._collect(rest)

    def _take_direct(self, rest: bytes) -> None:
        """Copy what came along with the head; everything after it needs no copy."""
        if not self._direct:
            self._finish(rest)
            return
        view = memoryview(rest)
        while view and self._direct:
            buffer = self.get_buffer(-1)[: len(view)]
            buffer[:] = view[: len(buffer)]
            view = view[len(buffer) :]
            self._advance(len(buffer), last=view)

    def _advance(self, count: int, last: memoryview | bytes = b"") -> None:
        assert self._sink is not None  # noqa: S101
        self._direct -= count
        self._sink.advance(count)
        if not self._direct:
            self._finish(bytes(last))

    def _collect(self, data: bytes) -> None:
        assert self._collector is not None  # noqa: S101
        self._collector.feed(data)
        if self._collector.complete:
            self.reusable = self.reusable and not self._collector.more
            self._finish()

    def _finish(self, rest: bytes = b"") -> None:
        """The reply is whole; anything beyond it makes the connection useless."""
        if self._reply is None or self._reply.done():
            return
        if self._head is None:
            self._finish_with(UnexpectedCloseError("the peer closed without a reply"))
            return
        if rest or not self._head.keep_alive or self._until_close:
            self.reusable = False
        body = bytes(self._collector.body) if self._collector else b""
        self._reply.set_result(Reply(self._head, body))

    def _finish_with(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


class _Collector:
    """Callbacks of httptools for one reply; `more` came after it, and is left out of it."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False
        self.more = False
        self._headers: dict[str, str] = {}
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise ProtocolError(f"not an HTTP reply: {error}") from None
            self.more = True
        except httptools.HttpParserUpgrade:
            if not self.more:
                raise ProtocolError("a change of protocol that nobody asked for") from None
        if len(self.body) > _COLLECTED_MAX:
            raise ProtocolError(f"a document of more than {_COLLECTED_MAX} bytes")

    def head(self) -> ReplyHead:
        # Not should_keep_alive(): it forgets `Connection: close` of a reply without a body.
        old = self._parser.get_http_version() != "1.1"
        closes = "close" in self._headers.get("connection", "").lower()
        return ReplyHead(self._parser.get_status_code(), self._headers, not (old or closes))

    @property
    def until_close(self) -> bool:
        """Tell whether only the end of the connection ends the body."""
        return not self._headers.keys() & {"content-length", "transfer-encoding"}

    def on_message_begin(self) -> None:
        self.more = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.more:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_body(self, body: bytes) -> None:
        if not self.more:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
