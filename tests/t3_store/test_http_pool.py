"""The pool: who gets a connection when, and what becomes of it afterwards."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

import pytest

from fuse_s3_worker.http import pool as pool_module
from fuse_s3_worker.http.connect import Connector, Endpoint
from fuse_s3_worker.http.errors import ConnectError, UnexpectedCloseError
from fuse_s3_worker.http.pool import Pool, PoolStatistics
from fuse_s3_worker.http.tls import client_context
from support.httppool import ask, asking, pool_to, turns
from support.loops import LOOPS, run
from support.rawserver import Answer, End, Peer, RawServer, Request, certificate, reply
from support.segments import Memory, until

every_loop = pytest.mark.parametrize("loop", LOOPS)


def echo(request: Request) -> bytes:
    return reply(200, request.target.encode())


class Gate:
    """A server whose answers wait until the test opens the gate."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.server = RawServer.answering(self._script)

    def _script(self, request: Request) -> Answer:
        return Answer(echo(request), gate=self.event)

    @property
    def asked(self) -> list[str]:
        """What has arrived, in this order."""
        return [request.target[1:] for request in self.server.requests]

    async def has_seen(self, count: int) -> None:
        """Return when so many requests are there, and no more of them are coming."""
        await until(lambda: len(self.asked) >= count)
        await turns()
        assert len(self.asked) == count


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    with made.server:
        try:
            yield made
        finally:
            made.event.set()


# -- places ----------------------------------------------------------------------------------------


@every_loop
def test_no_more_connections_than_the_limit(gate: Gate, loop: str) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, 4)
        tasks = [asking(pool, f"{number}", urgent=True) for number in range(40)]
        await gate.has_seen(4)
        assert pool.statistics() == PoolStatistics(4, 0, 36, 4, 4)
        gate.event.set()
        assert await asyncio.gather(*tasks) == [f"/{number}" for number in range(40)]
        assert gate.server.connections == 4
        assert pool.statistics() == PoolStatistics(0, 4, 0, 4, 40)
        pool.close()

    run(many(), loop)


@pytest.mark.parametrize(("limit", "bulk"), [(2, 1), (8, 7), (16, 14), (32, 28), (1, 1)])
def test_data_leaves_some_connections_to_metadata(gate: Gate, limit: int, bulk: int) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, limit)
        tasks = [asking(pool, f"d{number}") for number in range(limit * 2)]
        await gate.has_seen(bulk)
        urgent = [asking(pool, f"m{number}", urgent=True) for number in range(limit * 2)]
        await gate.has_seen(limit)
        assert set(gate.asked[bulk:]) == {f"m{number}" for number in range(limit - bulk)}
        gate.event.set()
        await asyncio.gather(*tasks, *urgent)
        pool.close()

    run(many())


def test_metadata_goes_first_and_nobody_overtakes_among_equals(gate: Gate) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, 1)
        tasks = [asking(pool, "first")]
        await gate.has_seen(1)
        for number in range(5):
            tasks.append(asking(pool, f"d{number}"))
            tasks.append(asking(pool, f"m{number}", urgent=True))
        await turns()
        # Comes in the very moment a place is free, while others have waited longer.
        tasks[0].add_done_callback(lambda _: tasks.append(asking(pool, "late")))
        gate.event.set()
        await until(lambda: len(tasks) == 12)
        await asyncio.gather(*tasks)
        expected = ["first", *(f"m{n}" for n in range(5)), *(f"d{n}" for n in range(5)), "late"]
        assert list(gate.asked) == expected
        pool.close()

    run(many())


def test_one_who_stops_waiting_leaves_no_gap(gate: Gate) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, 1)
        first, second, third = (asking(pool, name) for name in ("1", "2", "3"))
        await gate.has_seen(1)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert pool.statistics().waiting == 1
        gate.event.set()
        assert list(await asyncio.gather(first, third)) == ["/1", "/3"]
        assert gate.asked == ["1", "3"]
        assert pool.statistics() == PoolStatistics(0, 1, 0, 1, 2)
        pool.close()

    run(many())


@every_loop
def test_a_place_given_to_one_who_is_cancelled_in_that_moment_is_not_lost(loop: str) -> None:
    class Late(Memory):
        """Has somebody cancelled right after the exchange that fills this is resumed."""

        victim: "asyncio.Task[str] | None" = None

        def advance(self, count: int) -> None:
            super().advance(count)
            if self.filled == 5 and self.victim:
                loop, cancel = asyncio.get_running_loop(), self.victim.cancel
                loop.call_soon(lambda: loop.call_soon(cancel))

    async def many() -> None:
        with RawServer.answering(lambda _: reply(200, b"hello")) as server:
            pool = pool_to(server, 1)
            sink = Late(5)
            first = asyncio.ensure_future(pool.exchange(b"GET / HTTP/1.1\r\n\r\n", sink=sink))
            second, third = asking(pool), asking(pool)
            sink.victim = second
            await first
            assert await third == "hello"
            assert second.cancelled()
            assert len(server.requests) == 2
            assert pool.statistics() == PoolStatistics(0, 1, 0, 1, 2)
            pool.close()

    run(many(), loop)


@every_loop
def test_cancellation_while_connecting_frees_the_place(loop: str) -> None:
    async def many() -> None:
        # A server that never answers the TLS handshake.
        with RawServer(Peer.wait_closed) as server:
            endpoint = Endpoint("https", "127.0.0.1", server.port)
            connector = Connector(endpoint, tls=client_context(verify=False))
            pool = Pool(connector, limit=1)
            first, second = asking(pool), asking(pool)
            await until(lambda: server.connections == 1)
            assert pool.statistics() == PoolStatistics(1, 0, 1, 0, 0)
            first.cancel()
            await until(lambda: server.connections == 2)
            second.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)

    run(many(), loop)


def test_a_failure_to_connect_frees_the_place_for_the_next_one() -> None:
    async def many() -> None:
        with RawServer(Peer.wait_closed) as server:
            port = server.port
        pool = Pool(Connector(Endpoint("http", "127.0.0.1", port)), limit=1)
        results = await asyncio.gather(*(ask(pool) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [ConnectError] * 5
        assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)

    run(many())


@every_loop
def test_every_reply_belongs_to_its_request_whoever_is_cancelled(loop: str) -> None:
    """Random cancellations at every stage: no reply reaches a stranger, no place is lost."""
    dice = random.Random(5)

    async def load() -> None:
        with RawServer.answering(echo) as server:
            pool = pool_to(server, 5)

            async def one(number: int) -> None:
                task = asking(pool, f"{number}", urgent=bool(number % 2))
                if dice.random() < 0.4:
                    await turns(dice.randint(0, 30))
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await task == f"/{number}"

            for _ in range(10):
                await asyncio.gather(*(one(number) for number in range(40)))
                counts = pool.statistics()
                assert (counts.busy, counts.waiting) == (0, 0)
                assert counts.idle <= 5
            pool.close()

    run(load(), loop)


# -- connections -----------------------------------------------------------------------------------


def test_the_connection_used_last_is_used_first(gate: Gate) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, 3)
        gate.event.set()
        await asyncio.gather(*(ask(pool, urgent=True) for _ in range(3)))
        made = gate.server.connections
        for _ in range(5):
            await ask(pool)
        assert gate.server.connections == made
        assert len({request.connection for request in gate.server.requests[-5:]}) == 1
        pool.close()

    run(many())


@every_loop
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
def test_a_connection_that_died_while_idle_is_not_used(end: End, loop: str) -> None:
    async def many() -> None:
        with RawServer.answering(lambda _: Answer(reply(200, b"ok"), end)) as server:
            pool = pool_to(server, 2)
            for number in range(1, 4):
                assert await ask(pool) == "ok"
                await until(lambda: not any(idle.open for _, idle in pool._idle))
                assert server.connections == number

    run(many(), loop)


def test_a_connection_that_shall_be_closed_is_closed() -> None:
    async def many() -> None:
        closes = reply(200, b"ok", connection="close")
        with RawServer.answering([closes, reply(200, b"ok")]) as server:
            pool = pool_to(server, 2)
            await ask(pool)
            assert pool.statistics() == PoolStatistics(0, 0, 0, 1, 1)
            # The script ends on the server's side only when the client has closed.
            assert server.connections == 1

    run(many())


def test_idle_connections_are_closed_after_a_while(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_TICK", 0.001)
    monkeypatch.setattr(pool_module, "_IDLE_TIMEOUT", 0.002)

    async def many() -> None:
        pool = pool_to(gate.server, 4)
        gate.event.set()
        await asyncio.gather(*(ask(pool, urgent=True) for _ in range(4)))
        await until(lambda: not pool.statistics().idle)
        await until(lambda: pool._ticker is None)  # no timer of a pool that rests
        before = gate.server.connections
        await ask(pool)
        assert gate.server.connections == before + 1
        pool.close()

    run(many())


def test_closing_drops_everything(gate: Gate) -> None:
    async def many() -> None:
        pool = pool_to(gate.server, 4)
        gate.event.set()
        await asyncio.gather(*(ask(pool, urgent=True) for _ in range(2)))
        gate.event.clear()
        task = asking(pool)
        await until(lambda: len(gate.asked) == 3)
        pool.close()
        with pytest.raises(UnexpectedCloseError):
            await task
        assert pool.statistics()[:3] == (0, 0, 0)
        gate.event.set()

    run(many())


@every_loop
@pytest.mark.parametrize("secure", [False, True])
def test_a_server_that_hangs_up_at_once_is_an_unexpected_close(secure: bool, loop: str) -> None:
    """Load balancers without a backend accept and close; that must not look like our mistake."""

    async def many() -> None:
        for hang_up in (Peer.close, Peer.reset):
            with RawServer(hang_up, tls=certificate() if secure else None) as server:
                endpoint = Endpoint("https" if secure else "http", "127.0.0.1", server.port)
                tls = client_context(verify=False) if secure else None
                pool = Pool(Connector(endpoint, tls=tls), limit=4)
                for _ in range(20):
                    with pytest.raises((UnexpectedCloseError, ConnectError)):
                        await ask(pool)
                assert pool.statistics()[:3] == (0, 0, 0)

    run(many(), loop)
