"""The yardstick: the same bytes over one bare socket, with nothing between it and the server."""

import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from bench.content import CHUNK

__all__ = ["BareSocketError", "Connect", "delete", "download", "list_pages", "upload"]

Connect = Callable[[], socket.socket]
"""Makes a connection to the server."""

_HEAD_END = b"\r\n\r\n"
_TOKEN = re.compile(rb"<NextContinuationToken>([^<]+)</NextContinuationToken>")


class BareSocketError(Exception):
    """The server's reply was not the one that was counted on."""


def download(connect: Connect, path: str, over: Callable[[], bool] = lambda: False) -> int:
    """GET `path` into nothing, until it ends or time is `over`; return how many bytes came."""
    buffer = memoryview(bytearray(CHUNK))
    with connect() as connection:
        _request(connection, f"GET {path}", 0)
        head, rest = _reply(connection)
        size = int(head["content-length"])
        left = size - len(rest)
        while left and not over():
            count = connection.recv_into(buffer, min(left, CHUNK))
            if not count:
                raise BareSocketError(f"{path} ends {left} bytes early")
            left -= count
    return size - left


def list_pages(connect: Connect, bucket: str, prefix: str, over: Callable[[], bool]) -> int:
    """List a directory page by page on one connection; return how many keys came."""
    query = f"list-type=2&encoding-type=url&delimiter=%2F&prefix={quote(prefix, safe='')}"
    count, token = 0, ""
    with connect() as connection:
        while not over():
            more = f"&continuation-token={quote(token, safe='')}" if token else ""
            head = f"GET /{bucket}?{query}{more} HTTP/1.1\r\nHost: bench\r\n\r\n"
            connection.sendall(head.encode())
            headers, body = _reply(connection)
            parts, left = [body], int(headers["content-length"]) - len(body)
            while left:
                parts.append(connection.recv(left))
                left -= len(parts[-1])
            body = b"".join(parts)
            count += body.count(b"<Key>")
            found = _TOKEN.search(body)
            if found is None:
                break
            token = unquote(found[1].decode())
    return count


def upload(connect: Connect, path: str, size: int, chunks: Iterable[memoryview]) -> None:
    """PUT `chunks`, in one request."""
    with connect() as connection:
        _request(connection, f"PUT {path}", size)
        for chunk in chunks:
            connection.sendall(chunk)
        _reply(connection)


def delete(connect: Connect, path: str) -> None:
    """DELETE `path`."""
    with connect() as connection:
        _request(connection, f"DELETE {path}", 0)
        _reply(connection)


def _request(connection: socket.socket, what: str, size: int) -> None:
    head = f"{what} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode())


def _reply(connection: socket.socket) -> tuple[dict[str, str], bytes]:
    """Read the head of a reply that must be a success; return its headers and what came along."""
    data = b""
    while _HEAD_END not in data:
        more = connection.recv(CHUNK)
        if not more:
            raise BareSocketError("the server closed the connection")
        data += more
    head, _, rest = data.partition(_HEAD_END)
    line, *lines = head.decode("latin-1").split("\r\n")
    if not line.startswith("HTTP/1.1 2"):
        raise BareSocketError(f"the server says: {line}")
    pairs = (text.partition(":") for text in lines)
    return {name.lower(): value.strip() for name, _, value in pairs}, rest
