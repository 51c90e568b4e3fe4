"""Every shape of reply, however it is cut, on both loops: the result is the same."""

import asyncio
import contextlib
from typing import NamedTuple

import pytest

from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.http.errors import ProtocolError, UnexpectedCloseError
from support.loops import LOOPS, run
from support.segments import CUTS, Memory, opened, until

GET = b"GET /k HTTP/1.1\r\nhost: h\r\n\r\n"
HEAD = b"HEAD /k HTTP/1.1\r\nhost: h\r\n\r\n"


class Shape(NamedTuple):
    """A reply on the wire, and what it means."""

    data: bytes
    status: int
    body: bytes = b""
    request: bytes = GET
    reusable: bool = True
    closes: bool = False  # only the end of the connection ends it


SHAPES = {
    "length": Shape(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "length zero": Shape(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "error with a document": Shape(
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\n<Error/>", 404, b"<Error/>"
    ),
    "chunked": Shape(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\nB\r\n, chunked w\r\n4\r\norld\r\n0\r\n\r\n",
        200,
        b"hello, chunked world",
    ),
    "chunked with extensions and a trailer": Shape(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;name=value\r\nab\r\n01;x\r\nc\r\n000\r\nx-amz-trailer: 1\r\n\r\n",
        200,
        b"abc",
    ),
    "chunked and empty": Shape(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 200
    ),
    "until close": Shape(
        b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\nuntil the end",
        200,
        b"until the end",
        reusable=False,
        closes=True,
    ),
    "until close and empty": Shape(b"HTTP/1.1 200 OK\r\n\r\n", 200, reusable=False, closes=True),
    "HEAD": Shape(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 200, request=HEAD),
    "HEAD without a length": Shape(b"HTTP/1.1 403 Forbidden\r\n\r\n", 403, request=HEAD),
    "HEAD chunked": Shape(
        b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n", 404, request=HEAD
    ),
    "204": Shape(b"HTTP/1.1 204 No Content\r\nx-amz-request-id: 1\r\n\r\n", 204),
    "304 with the length it would have": Shape(
        b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 77\r\n\r\n', 304
    ),
    "100 before": Shape(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"
    ),
    "102 and 103 before": Shape(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\n!",
        500,
        b"!",
    ),
    "close announced": Shape(
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 3\r\n\r\nbye",
        200,
        b"bye",
        reusable=False,
    ),
    "close announced without a body": Shape(
        b"HTTP/1.1 204 OK\r\nConnection: close\r\n\r\n", 204, reusable=False
    ),
    "keep-alive announced": Shape(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length: 1\r\n\r\nx",
        200,
        b"x",
    ),
    "HTTP/1.0": Shape(
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", 200, b"old", reusable=False
    ),
    "HTTP/1.0 until close": Shape(
        b"HTTP/1.0 200 OK\r\n\r\nolder", 200, b"older", reusable=False, closes=True
    ),
    "HTTP/2 offered, as Apache does": Shape(
        b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n"
        b"Content-Length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
    "no reason phrase": Shape(b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n1", 200, b"1"),
}

every_loop = pytest.mark.parametrize("loop", LOOPS)
every_cut = pytest.mark.parametrize("cut", CUTS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


class Outcome(NamedTuple):
    """What an exchange came to, and the connection's state right after it."""

    result: Reply | Exception
    reusable: bool
    open: bool


async def ask(
    shape: Shape, data: bytes, *, cut: str = "whole", end: str = "", sink: Memory | None = None
) -> Outcome:
    """Return what an exchange makes of `data`."""
    async with opened() as wire:
        task = asyncio.ensure_future(wire.connection.exchange(shape.request, sink=sink))
        assert await wire.asked(len(shape.request)) == shape.request
        await wire.deliver(data, cut)
        if end == "reset":
            wire.reset()
        elif end == "close" or shape.closes:
            wire.peer.close()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, Reply | Exception)
        if end:
            await until(lambda: not wire.connection.open)
        return Outcome(result, wire.connection.reusable, wire.connection.open)


@every_loop
@every_cut
@every_shape
def test_a_reply_is_read_however_it_is_cut(shape: Shape, cut: str, loop: str) -> None:
    result, reusable, _ = run(ask(shape, shape.data, cut=cut), loop)
    assert isinstance(result, Reply), result
    assert (result.head.status, result.body) == (shape.status, shape.body)
    assert reusable == shape.reusable


@every_cut
@every_shape
@pytest.mark.parametrize(
    "extra",
    [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx-fake: 1\r\n\r\nfake"],
    ids=["a byte", "an empty line", "another reply"],
)
def test_bytes_after_a_reply_do_not_become_part_of_it(shape: Shape, cut: str, extra: bytes) -> None:
    if shape.closes:
        return  # there, everything is part of it
    result, reusable, _ = run(ask(shape, shape.data + extra, cut=cut))
    assert isinstance(result, Reply), result
    assert (result.head.status, result.body) == (shape.status, shape.body)
    assert "x-fake" not in result.head.headers
    # The parser swallows an empty line that comes along with the end of a reply; it does no harm.
    assert not reusable or extra == b"\r\n", "what comes next would answer another request"


@pytest.mark.parametrize("end", ["close", "reset"])
@every_shape
def test_a_reply_cut_off_at_any_place_is_an_unexpected_close(shape: Shape, end: str) -> None:
    head_end = shape.data.index(b"\r\n\r\n") + 4

    async def every_place() -> None:
        for length in range(len(shape.data)):
            if shape.closes and end == "close" and length >= head_end:
                break  # cannot be told from a whole one
            result, reusable, _ = await ask(shape, shape.data[:length], end=end)
            assert isinstance(result, UnexpectedCloseError), (length, result)
            assert not result.stale
            assert not reusable

    run(every_place())


@every_cut
def test_headers_are_lower_case_and_trimmed_and_the_last_one_counts(cut: str) -> None:
    data = (
        b'HTTP/1.1 200 OK\r\nETag:  "a b"  \r\nX-Amz-Meta-Empty:\r\nx-twice: 1\r\nX-TWICE: 2\r\n'
        b"x-latin: caf\xe9\r\nContent-Length:3\r\n\r\nabc"
    )
    result = run(ask(Shape(data, 200), data, cut=cut)).result
    assert isinstance(result, Reply)
    assert result.head.headers == {
        "etag": '"a b"',
        "x-amz-meta-empty": "",
        "x-twice": "2",
        "x-latin": "café",
        "content-length": "3",
    }
    assert result.head.content_length == 3


GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",
    "binary": bytes(range(1, 256)) + b"\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "a chunk size that is no number": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"
    ),
    "a chunk longer than it says": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"
    ),
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "a change of protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    ),
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"y" * 33_000,
    "informational replies without end": b"HTTP/1.1 100 C\r\n\r\n" * 3000,
}


@every_loop
@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_reply_is_a_protocol_error(data: bytes, loop: str) -> None:
    for sink in (None, Memory(15)):
        outcome = run(ask(Shape(data, 0), data, sink=sink), loop)
        assert isinstance(outcome.result, ProtocolError), outcome
        assert not outcome.reusable
        assert not outcome.open


def test_a_document_without_end_is_refused_before_it_fills_the_memory() -> None:
    mebibyte = b"100000\r\n" + bytes(1 << 20) + b"\r\n"

    async def endless() -> None:
        async with opened() as wire:
            task = asyncio.ensure_future(wire.connection.exchange(GET))
            await wire.asked(len(GET))
            await wire.deliver(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while not task.done():
                    await wire.deliver(mebibyte)
            with pytest.raises(ProtocolError, match="a document of more than 16777216 bytes"):
                await task
            assert wire.connection.moved < 20 << 20

    run(endless())
