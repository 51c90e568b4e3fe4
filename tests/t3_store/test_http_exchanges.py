"""One connection over its life: bodies out, bodies into memory, and every way that it can end."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from fuse_s3_worker.http.connection import Reply, ReplyHead
from fuse_s3_worker.http.errors import (
    HttpError,
    ProtocolError,
    StalledError,
    UnexpectedCloseError,
)
from support.loops import LOOPS, run
from support.segments import CUTS, Memory, Wire, opened, until

GET = b"GET /k HTTP/1.1\r\nhost: h\r\n\r\n"
PUT = b"PUT /k HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

every_loop = pytest.mark.parametrize("loop", LOOPS)


def partial(body: bytes) -> bytes:
    return b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def start(
    wire: Wire, sink: Memory | None = None, body: tuple[bytes, ...] = ()
) -> asyncio.Task[Reply]:
    """Begin an exchange and return when the peer has its head."""
    head = PUT % sum(map(len, body)) if body else GET
    task = asyncio.ensure_future(wire.connection.exchange(head, body, sink))
    assert await wire.asked(len(head)) == head
    return task


# -- into memory -----------------------------------------------------------------------------------


@every_loop
@pytest.mark.parametrize("cut", CUTS)
def test_a_body_lands_in_the_memory_of_the_sink(cut: str, loop: str) -> None:
    body = bytes(range(256)) * 3

    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(len(body) + 100)
            task = await start(wire, sink)
            await wire.deliver(partial(body), cut)
            reply = await task
            assert (sink.received, reply.body) == (body, b"")
            assert sink.heads == [reply.head]
            assert wire.connection.reusable

    run(exchange(), loop)


@every_loop
def test_a_large_body_of_many_segments(loop: str) -> None:
    body = bytes(range(251)) * 20_000  # 5 MB, and no power of two anywhere

    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(len(body))
            task = await start(wire, sink)
            await wire.deliver(partial(body))
            await task
            assert sink.content == body

    run(exchange(), loop)


def test_the_loop_writes_into_the_sinks_own_memory() -> None:
    """Only what came along with the head is copied; the rest is never anywhere else."""

    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(100)
            task = await start(wire, sink)
            await wire.deliver(partial(b"0123456789")[:-6])
            given = wire.connection.get_buffer(-1)
            assert given.obj is sink.content
            assert len(given) == 6, "the next bytes on the wire may belong to another reply"
            given[:2] = b"45"
            wire.connection.buffer_updated(2)
            assert wire.connection.get_buffer(-1).obj is sink.content
            await wire.deliver(b"6789")
            await task
            assert sink.received == b"0123456789"
            assert wire.connection.get_buffer(-1).obj is not sink.content

    run(exchange())


def test_a_sink_may_offer_less_room_than_the_body_needs() -> None:
    class Segmented(Memory):
        def buffer(self) -> memoryview:
            return super().buffer()[: 7 - self.filled % 7]

    async def exchange() -> None:
        body = bytes(range(100))
        for cut in CUTS:
            async with opened() as wire:
                sink = Segmented(100)
                task = await start(wire, sink)
                await wire.deliver(partial(body), cut)
                await task
                assert sink.received == body

    run(exchange())


def test_a_sink_that_declines_leaves_the_body_to_be_collected() -> None:
    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(10, wanted=False)
            task = await start(wire, sink)
            await wire.deliver(b"HTTP/1.1 404 No\r\nContent-Length: 8\r\n\r\n<Error/>", "bytes")
            reply = await task
            assert (reply.head.status, reply.body) == (404, b"<Error/>")
            assert [head.status for head in sink.heads] == [404]
            assert not sink.filled

    run(exchange())


@every_loop
def test_a_sink_that_refuses_ends_the_exchange_with_its_own_error(loop: str) -> None:
    class NotThisVersionError(Exception):
        pass

    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, Memory(10, wanted=NotThisVersionError()))
            await wire.deliver(partial(b"0123456789"))
            with pytest.raises(NotThisVersionError):
                await task
            assert not wire.connection.open

    run(exchange(), loop)


def test_an_empty_body_needs_no_memory() -> None:
    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(0)
            task = await start(wire, sink)
            await wire.deliver(partial(b""))
            assert (await task).head.status == 206
            assert len(sink.heads) == 1

    run(exchange())


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_that_has_no_body_is_not_offered_to_the_sink(status: int) -> None:
    """304 may announce the length that the body would have had."""

    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(10)
            task = await start(wire, sink)
            await wire.deliver(b"HTTP/1.1 %d X\r\nContent-Length: 10\r\n\r\n" % status)
            assert (await task).head.status == status
            assert sink.heads == []
            assert wire.connection.reusable

    run(exchange())


def test_nothing_touches_the_memory_after_the_exchange() -> None:
    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(10)
            task = await start(wire, sink)
            await wire.deliver(partial(b"0123456789")[:-5])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with contextlib.suppress(OSError):
                await wire.deliver(b"XXXXX")
            await until(lambda: not wire.connection.open)
            assert sink.received == b"01234"
            assert sink.content[5:] == bytes(5)

    run(exchange())


# -- bodies out ------------------------------------------------------------------------------------


@every_loop
def test_the_pieces_of_a_request_arrive_in_order(loop: str) -> None:
    pieces = (b"abc", b"", bytearray(b"x") * 700_000, memoryview(b"0123456789")[2:5])

    async def exchange() -> None:
        async with opened() as wire:
            size = sum(len(piece) for piece in pieces)
            task = asyncio.ensure_future(wire.connection.exchange(PUT % size, pieces))
            whole = PUT % size + b"".join(pieces)
            assert await wire.asked(len(whole)) == whole
            await wire.deliver(OK)
            assert (await task).body == b"ok"
            assert wire.connection.reusable

    run(exchange(), loop)


@every_loop
def test_a_body_is_held_back_until_the_peer_reads(loop: str) -> None:
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(400):
            taken += 1
            yield bytes(256 * 1024)

    async def exchange() -> None:
        async with opened() as wire:
            task = asyncio.ensure_future(wire.connection.exchange(PUT % (100 << 20), pieces()))
            await until(lambda: wire.connection.unsent)
            for _ in range(100):
                await asyncio.sleep(0)
            # What the kernel's two socket buffers hold is beyond anybody's control; 100 MiB is not.
            assert taken < 200
            assert wire.connection.unsent <= 1 << 20
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(exchange(), loop)


@every_loop
@pytest.mark.parametrize("rest", [(), (b"end",), (b"",)])
def test_an_early_reply_ends_the_sending_and_the_connection(
    rest: tuple[bytes, ...], loop: str
) -> None:
    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, body=(bytes(32 << 20), *rest))
            await wire.deliver(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\n<Error/>")
            # A real server reads on; without that, the loop would not notice that it may write.
            drain = asyncio.ensure_future(wire.closed_by_us())
            reply = await task
            assert (reply.head.status, reply.body) == (403, b"<Error/>")
            assert not wire.connection.reusable
            await drain

    run(exchange(), loop)


@every_loop
def test_a_refusal_with_a_reset_while_the_body_is_sent(loop: str) -> None:
    """The reply may be lost to the reset; then it is an error, and never a wrong reply."""

    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, body=(bytes(32 << 20),))
            await wire.deliver(b"HTTP/1.1 503 Slow\r\nContent-Length: 0\r\n\r\n")
            wire.reset()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, Reply):
                assert result.head.status == 503
            else:
                assert isinstance(result, UnexpectedCloseError)
            assert not wire.connection.reusable

    run(exchange(), loop)


@every_loop
def test_a_peer_that_goes_away_while_the_body_is_sent(loop: str) -> None:
    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, body=(bytes(32 << 20),))
            await until(lambda: wire.connection.unsent)
            wire.reset()
            with pytest.raises(UnexpectedCloseError):
                await task

    run(exchange(), loop)


# -- one after the other ---------------------------------------------------------------------------


@every_loop
def test_exchanges_follow_one_another(loop: str) -> None:
    async def exchanges() -> None:
        async with opened() as wire:
            for number in range(3):
                task = await start(wire)
                await wire.deliver(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
                assert (await task).body == b"%d" % number
            assert wire.connection.exchanges == 3

    run(exchanges(), loop)


@every_loop
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    ("earlier", "came", "stale"),
    [(0, b"", False), (1, b"", True), (5, b"", True), (1, b"H", False), (0, b"H", False)],
)
def test_stale_is_an_idle_connection_that_gave_not_a_byte(
    end: str, earlier: int, came: bytes, stale: bool, loop: str
) -> None:
    async def exchanges() -> None:
        async with opened() as wire:
            for _ in range(earlier):
                task = await start(wire)
                await wire.deliver(OK)
                await task
            task = await start(wire)
            await wire.deliver(came)
            wire.reset() if end == "reset" else wire.peer.close()
            with pytest.raises(UnexpectedCloseError) as caught:
                await task
            assert caught.value.stale is stale

    run(exchanges(), loop)


@every_loop
@pytest.mark.parametrize("how", ["close", "reset", "bytes"])
def test_what_happens_to_an_idle_connection_makes_it_useless(how: str, loop: str) -> None:
    async def exchanges() -> None:
        async with opened() as wire:
            task = await start(wire)
            await wire.deliver(OK)
            await task
            assert wire.connection.open
            assert wire.connection.reusable
            if how == "bytes":
                await wire.deliver(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            else:
                wire.reset() if how == "reset" else wire.peer.close()
            await until(lambda: not wire.connection.open and not wire.connection.reusable)

    run(exchanges(), loop)


def test_two_exchanges_at_once_are_a_mistake_of_the_caller() -> None:
    async def exchanges() -> None:
        async with opened() as wire:
            task = await start(wire)
            with pytest.raises(RuntimeError, match="open and idle"):
                await wire.connection.exchange(GET)
            await wire.deliver(OK)
            assert (await task).body == b"ok"

    run(exchanges())


@every_loop
@pytest.mark.parametrize("sent", [b"", OK[:9], OK[:-1], partial(b"0123456789")[:-3]])
def test_cancellation_closes_the_connection(sent: bytes, loop: str) -> None:
    """A reply that is still to come would answer the next request."""

    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, Memory(10) if b"206" in sent else None)
            await wire.deliver(sent)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not wire.connection.reusable
            await wire.closed_by_us()

    run(exchange(), loop)


@every_loop
def test_cancellation_while_the_body_is_sent_closes_the_connection(loop: str) -> None:
    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire, body=(bytes(32 << 20),))
            await until(lambda: wire.connection.unsent)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await wire.closed_by_us()

    run(exchange(), loop)


def test_fail_ends_the_exchange_with_the_error_it_is_given() -> None:
    async def exchange() -> None:
        async with opened() as wire:
            task = await start(wire)
            wire.connection.fail(StalledError("nothing came"))
            with pytest.raises(StalledError, match="nothing came"):
                await task
            await wire.closed_by_us()

    run(exchange())


def test_moved_counts_every_byte_that_came() -> None:
    async def exchange() -> None:
        async with opened() as wire:
            sink = Memory(10)
            task = await start(wire, sink)
            data = partial(b"0123456789")
            await wire.deliver(data, "bytes")
            await task
            assert wire.connection.moved == len(data)

    run(exchange())


def test_every_failure_is_an_http_error() -> None:
    """The retrying layer catches that one class."""
    for error in (ProtocolError, StalledError, UnexpectedCloseError):
        assert issubclass(error, HttpError)


def test_content_length_is_a_plain_number_or_nothing() -> None:
    values = {"0": 0, "12": 12, "": None, "-1": None, "1.0": None, "0x10": None, "٣": None}
    for value, expected in values.items():
        assert ReplyHead(200, {"content-length": value}, keep_alive=True).content_length == expected
    assert ReplyHead(200, {}, keep_alive=True).content_length is None
