"""A proxy in front of an S3 server that counts what passes, and breaks it as it is told.

Rules say which requests and what becomes of them; the actions are in `faults`. It speaks HTTP/1.1
with connections kept alive on both sides, and streams bodies, so that a client behind it meets
nothing unusual except what a test has asked for.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NoReturn, Self
from urllib.parse import urlsplit

from support.operations import target_of
from support.wire import Message, read_body, read_head

__all__ = ["Action", "Exchange", "Proxy", "Rule"]

_LIMIT = 1 << 20  # bytes that a stream may hold
_FOR_EVER = 1 << 60
_NO_BODY = {204, 304}


class _ClosedError(Exception):
    """The client's connection is to be closed."""


class Exchange:
    """One request under way, in the hands of an action.

    Attributes:
        request: its head.
        target: what it is about.
        status: what the client was answered; 0 when it was not, or not yet.
    """

    def __init__(self, client: "_Client", request: Message) -> None:
        method, url, _ = request.first.split(" ", 2)
        self.request = request
        self.method = method
        self.target = target_of(method, url, request.headers)
        self.status = 0
        self._client = client
        self._has_body = bool(request.length or request.chunked)

    async def discard_body(self) -> None:
        """Read the request's body and forget it."""
        if self._has_body:
            async for _ in read_body(self._client.reader, self.request):
                pass
        self._has_body = False

    async def forward(self) -> Message:
        """Send the request on; return the head of the server's reply."""
        return await self._client.forward(self.request)

    async def relay(
        self, reply: Message, *, changed: dict[str, str] | None = None, most: int = _FOR_EVER
    ) -> None:
        """Send the server's reply to the client, with some headers changed.

        With `most`, the connection is closed after so many bytes of the body.
        """
        reply.headers |= changed or {}
        body = self.body_of(reply)
        if reply.chunked or (reply.length is None and self._expects_body(reply)):
            whole = b"".join([piece async for piece in body])
            reply.headers["content-length"] = str(len(whole))
            reply.chunked = False
            self._send_head(reply)
            await self._send_piece(whole, most)
            return
        self._send_head(reply)
        async for piece in body:
            await self._send_piece(piece, most)
            most -= len(piece)

    async def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer in the server's place; the server hears nothing of it."""
        await self.discard_body()
        head = Message(f"HTTP/1.1 {status} -", {"content-length": str(len(body))} | headers)
        await self.send(head, b"" if self.method == "HEAD" else body)

    async def send(self, reply: Message, body: bytes) -> None:
        """Send this head and this body, whatever one says of the other."""
        self._send_head(reply)
        await self._send_piece(body, _FOR_EVER)

    async def body_of(self, reply: Message) -> AsyncIterator[bytes]:
        """Yield the body of the server's reply."""
        if self._expects_body(reply):
            async for piece in self._client.server_body(reply):
                yield piece
        self._client.server_done()

    def close(self) -> NoReturn:
        """Close the client's connection."""
        raise _ClosedError

    def reset(self) -> NoReturn:
        """Close it with a reset."""
        sock: socket.socket = self._client.writer.get_extra_info("socket")
        # A lingering time of zero makes close(2) send RST; see socket(7).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _ClosedError

    def _expects_body(self, reply: Message) -> bool:
        return self.method != "HEAD" and reply.status not in _NO_BODY

    def _send_head(self, reply: Message) -> None:
        self.status = reply.status
        reply.first = reply.first.replace("HTTP/1.0", "HTTP/1.1")
        reply.headers.pop("connection", None)
        self._client.writer.write(reply.encode())

    async def _send_piece(self, piece: bytes, most: int) -> None:
        self._client.writer.write(piece[:most])
        await self._client.writer.drain()
        if len(piece) > most:
            self.close()


Action = Callable[[Exchange], Awaitable[None]]
"""What becomes of a request: forward and relay it, answer in another way, or close."""


async def pass_on(exchange: Exchange) -> None:
    """Do what a proxy does."""
    await exchange.relay(await exchange.forward())


@dataclass(slots=True)
class Rule:
    """Which requests an action is for.

    Attributes:
        first: the number, among those that match, of the first one it is for.
        times: for how many from there on.
        matched: how many matched so far.
        applied: for how many it was done; a test looks at this, or it has tested nothing.
    """

    action: Action
    operations: Collection[str] = ()
    key: str | None = None
    first: int = 1
    times: int = 1
    matched: int = 0
    applied: int = 0

    def takes(self, exchange: Exchange) -> bool:
        """Tell whether this request is to be broken."""
        target = exchange.target
        if self.operations and target.operation not in self.operations:
            return False
        if self.key is not None and target.key != self.key:
            return False
        self.matched += 1
        if not self.first <= self.matched < self.first + self.times:
            return False
        self.applied += 1
        return True


class _Client:
    """A connection to the proxy, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: "Proxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._proxy = proxy
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._server_closes = False

    async def serve(self) -> None:
        """Serve requests until either side has had enough."""
        try:
            while (request := await read_head(self.reader)) is not None:
                if request.headers.pop("expect", ""):
                    self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                exchange = Exchange(self, request)
                await self._proxy.action_for(exchange)(exchange)
                await self.writer.drain()
        except (_ClosedError, ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever is on the other side is told by the connection's end
        finally:
            self._drop_server()
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()

    async def forward(self, request: Message) -> Message:
        """Send a request to the server and return the head of its reply."""
        reused = self._server is not None
        reply = await self._try(request)
        if reply is None and reused and not request.length:
            reply = await self._try(request)  # an idle connection, closed by the server meanwhile
        if reply is None:
            raise _ClosedError
        self._server_closes = reply.closes
        return reply

    async def _try(self, request: Message) -> Message | None:
        if self._server is None:
            self._server = await asyncio.open_connection(*self._proxy.server, limit=_LIMIT)
        reader, writer = self._server
        body = read_body(self.reader, request) if request.length or request.chunked else None
        if request.chunked and body is not None:
            whole = b"".join([piece async for piece in body])
            request.headers["content-length"] = str(len(whole))
            request.chunked = False
            writer.write(request.encode() + whole)
            body = None
        else:
            writer.write(request.encode())
        if body is not None:
            async for piece in body:
                writer.write(piece)
                await writer.drain()
        reply = await read_head(reader)
        if reply is None:
            self._drop_server()
        return reply

    async def server_body(self, reply: Message) -> AsyncIterator[bytes]:
        """Yield the body of the reply that was read last."""
        assert self._server is not None
        async for piece in read_body(self._server[0], reply):
            yield piece

    def server_done(self) -> None:
        """Note that a reply is over."""
        if self._server_closes:
            self._drop_server()

    def _drop_server(self) -> None:
        if self._server is not None:
            self._server[1].close()
            self._server = None


class Proxy:
    """The proxy; a context manager that runs it in a thread of its own.

    Attributes:
        endpoint: its address.
        server: the server's host and port.
        seen: every request that came, in order.
        errors: what went wrong in the proxy itself.
    """

    endpoint: str

    def __init__(self, server: str, *, at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Prepare a proxy in front of the URL `server`, to listen at an address and a port."""
        parts = urlsplit(server)
        self._at = at
        assert parts.hostname is not None
        self.server = (parts.hostname, parts.port or 80)
        self.seen: list[Exchange] = []
        self.errors: list[BaseException] = []
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        for error in self.errors:
            raise error

    # -- rules ----------------------------------------------------------------------------------

    def on(
        self,
        operations: str,
        action: Action,
        *,
        key: str | None = None,
        first: int = 1,
        times: int = 1,
    ) -> Rule:
        """Do `action` for requests of these operations (names with spaces between; "" is all)."""
        rule = Rule(action, operations.split(), key, first, times)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Break nothing any more."""
        self._rules.clear()

    def action_for(self, exchange: Exchange) -> Action:
        """Note a request and return what shall become of it: the first rule that takes it."""
        self.seen.append(exchange)
        return next((rule.action for rule in self._rules[:] if rule.takes(exchange)), pass_on)

    # -- counting -------------------------------------------------------------------------------

    def counts(self, key: str | None = None) -> Counter[str]:
        """Return how many requests of each operation came, for one key or for all."""
        return Counter(
            exchange.target.operation
            for exchange in self.seen[:]
            if key is None or exchange.target.key == key
        )

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count the requests of a block; the counter is filled at its end."""
        before, counted = len(self.seen), Counter[str]()
        yield counted
        counted.update(exchange.target.operation for exchange in self.seen[before:])

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._connected, *self._at, limit=_LIMIT)
        host, port = server.sockets[0].getsockname()
        self.endpoint = f"http://{host}:{port}"
        self._started.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Client(self, reader, writer).serve())
        self._tasks.add(task)
        task.add_done_callback(self._disconnected)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)
