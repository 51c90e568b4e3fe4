"""Names become addresses inside the sandbox: by a real name server, over UDP and over TCP."""

import ctypes
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from support.confined import DONE, become_worker, enter, needs_sandbox, outcome_of
from support.isolation import needs_root, with_own_mounts

pytestmark = [needs_root, needs_sandbox]

_ADDRESS = "127.0.0.77"  # nobody else's, so that port 53 is free
_FOUND = "127.0.0.78"
_TYPE_A = 1
_QUERY_HEADER = 12
_TRUNCATED = 0x0200

_MS_BIND = 4096


class NameServer:
    """Answers every question for an IPv4 address; over UDP, names of `long` do not fit."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind((_ADDRESS, 53))
        self._streams = socket.create_server((_ADDRESS, 53))
        self._end, self._told = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        for sock in (self._datagrams, self._streams, self._told):
            sock.close()

    def _serve(self) -> None:
        ready: list[socket.socket] = []
        while self._told not in ready:
            ready, _, _ = select.select([self._datagrams, self._streams, self._told], [], [])
            if self._datagrams in ready:
                query, client = self._datagrams.recvfrom(512)
                self.asked.append("udp")
                self._datagrams.sendto(answer(query, fits=b"\x04long" not in query), client)
            if self._streams in ready:
                self._serve_stream(self._streams.accept()[0])

    def _serve_stream(self, client: socket.socket) -> None:
        with client:
            while size := client.recv(2):
                self.asked.append("tcp")
                reply = answer(client.recv(struct.unpack("!H", size)[0]), fits=True)
                client.sendall(struct.pack("!H", len(reply)) + reply)


def answer(query: bytes, *, fits: bool) -> bytes:
    """Return the reply of RFC 1035 to a query with one question."""
    end = query.index(b"\0", _QUERY_HEADER) + 5  # the name, its type and class
    (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
    has_one = fits and kind == _TYPE_A
    flags = 0x8180 | (0 if fits else _TRUNCATED)  # a response, recursion desired and available
    header = query[:2] + struct.pack("!HHHHH", flags, 1, has_one, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, _TYPE_A, 1, 60, 4) + socket.inet_aton(_FOUND)
    return header + query[_QUERY_HEADER:end] + (record if has_one else b"")


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer() as running:
        yield running


def _with_resolver(path: Path) -> None:
    """Have `path` for resolv.conf, in this process's own mounts."""
    libc = ctypes.CDLL(None, use_errno=True)
    real = Path("/etc/resolv.conf").resolve()
    assert libc.mount(str(path).encode(), str(real).encode(), b"", _MS_BIND, b"") == 0


@pytest.mark.parametrize(
    ("name", "ways"), [("short.example", {"udp"}), ("long.example", {"udp", "tcp"})]
)
def test_a_name_is_found(name: str, ways: set[str], server: NameServer, public: Path) -> None:
    resolver = public / "resolv.conf"
    resolver.write_text(f"nameserver {_ADDRESS}\n")
    resolver.chmod(0o644)

    def confined() -> None:
        become_worker()
        enter()

    def look() -> None:
        found = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        assert found[0][4] == (_FOUND, 443)

    def in_own_mounts() -> None:
        _with_resolver(resolver)
        assert outcome_of(confined, look) == DONE

    with_own_mounts(in_own_mounts)
    assert set(server.asked) == ways
