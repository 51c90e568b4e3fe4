"""A server that says exactly what a test wrote down, byte for byte, over real sockets.

Each connection has a thread that plays a conversation: a function of one `Peer`. For most tests
the conversation is a script of answers, one to each request (`RawServer.answering`); proxies and
servers that break the protocol talk by themselves. Everything that was asked is kept.
"""

import atexit
import contextlib
import functools
import random
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from support.tls import Certificate, make_certificate

__all__ = [
    "Answer",
    "Delivery",
    "End",
    "Peer",
    "RawServer",
    "Request",
    "certificate",
    "head_of",
    "reply",
]

_PATIENCE = 20.0  # seconds; only a test that hangs waits so long
_RECV = 64 * 1024
_PIECES_MAX = 7  # bytes of a random piece


class Delivery(Enum):
    """How the bytes of an answer are handed to the kernel."""

    WHOLE = auto()
    BYTES = auto()
    PIECES = auto()


class End(Enum):
    """What follows an answer."""

    KEEP = auto()  # the next request
    CLOSE = auto()
    RESET = auto()
    SILENCE = auto()  # nothing, until the client goes away


class Request(NamedTuple):
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    head: bytes
    connection: int

    @property
    def path(self) -> str:
        """The path of the target, decoded."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The query of the target, decoded."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


class Answer(NamedTuple):
    """One answer of a script.

    Attributes:
        data: the bytes, all of them.
        end: what comes after them.
        delivery: how they arrive.
        early: answer when the request's head is there, without reading its body.
        gate: wait for this event first.
    """

    data: bytes
    end: End = End.KEEP
    delivery: Delivery = Delivery.WHOLE
    early: bool = False
    gate: threading.Event | None = None


Script = Callable[[Request], Answer | bytes]
Conversation = Callable[["Peer"], None]


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return a reply with its length; `content_type="x"` becomes the header content-type."""
    fields = {"content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    return head_of(status, fields) + body


def head_of(status: int, headers: dict[str, str]) -> bytes:
    """Return the head of a reply with just these headers."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1")


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int, server: "RawServer") -> None:
        self.number = number
        self._sock = sock
        self._server = server
        self._unread = b""

    @property
    def address(self) -> str:
        """The address that the client chose."""
        return str(self._sock.getsockname()[0])

    def request_head(self) -> Request | None:
        """Read a request's head; None when the client has closed."""
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                return None
        head, self._unread = self._unread.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Request(method, target, headers, b"", head + b"\r\n\r\n", self.number)

    def body_of(self, request: Request) -> bytes:
        """Read the body that a request announces."""
        length = int(request.headers.get("content-length", "0"))
        while len(self._unread) < length and self._receive():
            pass
        body, self._unread = self._unread[:length], self._unread[length:]
        return body

    def request(self) -> Request | None:
        """Read a whole request; None when the client has closed."""
        request = self.request_head()
        if request is None:
            return None
        return self.note(request._replace(body=self.body_of(request)))

    def note(self, request: Request) -> Request:
        """Keep a request for the test to look at."""
        self._server.requests.append(request)
        return request

    def send(self, data: bytes, delivery: Delivery = Delivery.WHOLE) -> None:
        """Send bytes; in pieces, each is a segment of its own (TCP_NODELAY)."""
        for piece in _cut(data, delivery):
            self._sock.sendall(piece)

    def close(self) -> None:
        """End the connection in the orderly way."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()

    def wait_closed(self) -> None:
        """Return when the client has closed, or broken off."""
        with contextlib.suppress(OSError):
            while self._sock.recv(_RECV):
                pass

    def relay(self, other: socket.socket) -> None:
        """Carry bytes both ways until both ends are closed: a tunnel."""
        there = threading.Thread(target=_carry, args=(self._sock, other))
        there.start()
        _carry(other, self._sock)
        there.join()

    def _receive(self) -> bool:
        data = self._sock.recv(_RECV)
        self._unread += data
        return bool(data)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_RECV):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _cut(data: bytes, delivery: Delivery) -> Iterable[bytes]:
    if delivery is Delivery.WHOLE:
        yield data
        return
    # Its own generator with a fixed seed: a failure shows again with the same pieces.
    sizes, at = random.Random(len(data)), 0
    while at < len(data):
        size = 1 if delivery is Delivery.BYTES else sizes.randint(1, _PIECES_MAX)
        yield data[at : at + size]
        at += size


class RawServer:
    """Listens on loopback and talks as it is told; a context manager.

    Attributes:
        requests: every request, in the order of arrival.
        connections: how many were accepted, TLS handshakes that failed included.
    """

    def __init__(
        self, talk: Conversation, *, tls: Certificate | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._talk = talk
        self._tls = _server_context(tls) if tls else None
        self._listener = socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @classmethod
    def answering(
        cls, script: Script | Iterable[Answer | bytes], *, tls: Certificate | None = None
    ) -> Self:
        """Return a server that answers by a script: a function, or answers one after the other.

        A script that is over closes the connection.
        """
        return cls(functools.partial(_answer, _function(script)), tls=tls)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The address, as an endpoint."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._listener.close()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.settimeout(_PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        # A client that breaks off is an ordinary end here: whether it should have is for the
        # test to say.
        with contextlib.suppress(OSError):
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            self._talk(Peer(sock, number, self))
        sock.close()


def _function(script: Script | Iterable[Answer | bytes]) -> Script:
    if callable(script):
        return script
    answers = iter(script)
    lock = threading.Lock()

    def following(_request: Request) -> Answer | bytes:
        with lock:
            return next(answers, Answer(b"", End.CLOSE))

    return following


def _answer(script: Script, peer: Peer) -> None:
    """Play a script to one connection."""
    while (request := peer.request_head()) is not None:
        answer = script(request)
        if isinstance(answer, bytes):
            answer = Answer(answer)
        body = b"" if answer.early else peer.body_of(request)
        peer.note(request._replace(body=body))
        if answer.gate is not None:
            answer.gate.wait(_PATIENCE)
        peer.send(answer.data, answer.delivery)
        if answer.end is End.SILENCE:
            peer.wait_closed()
        if answer.end is End.RESET:
            peer.reset()
        if answer.end is not End.KEEP:
            peer.close()
            return


# -- certificates ----------------------------------------------------------------------------------


@functools.cache
def certificate(names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> Certificate:
    """Return a certificate for these names, made once in a run."""
    directory = tempfile.mkdtemp(prefix="fuse-s3-tls-")
    atexit.register(shutil.rmtree, directory)
    return make_certificate(Path(directory), names)


def _server_context(pair: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context
