"""The pool: what does not move, or far slower than others beside it, is given up."""

import asyncio
import queue
import threading
from typing import Any

import pytest

from fuse_s3_worker.http import pool as pool_module
from fuse_s3_worker.http.connect import Connector, Endpoint
from fuse_s3_worker.http.connection import Connection, Reply
from fuse_s3_worker.http.errors import StalledError, StragglerError
from fuse_s3_worker.http.pace import Progress
from fuse_s3_worker.http.pool import Pool
from support.httppool import ask, asking, pool_to, turns
from support.loops import run
from support.rawserver import Answer, Peer, RawServer, Request, reply
from support.segments import Memory, until


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test moves on."""

    jumped = 0.0

    def time(self) -> float:
        return super().time() + self.jumped

    async def jump(self, seconds: float) -> None:
        """Let time pass, and the timers that are due run."""
        self.jumped += seconds
        await turns()


def stalls(test: Any) -> None:  # noqa: ANN401  a coroutine function of a loop and more
    """Run a test on a loop with such a clock, against a server that sends what it is told."""
    orders: queue.Queue[bytes] = queue.Queue()

    def talk(peer: Peer) -> None:
        peer.request_head()
        while order := orders.get(timeout=20):
            peer.send(order)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        with RawServer(talk) as server:
            pool = pool_to(server, 2)
            try:
                await asyncio.wait_for(test(loop, pool, orders), 1000)
            finally:
                orders.put(b"")
                pool.close()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


async def has_moved(pool: Pool, count: int) -> None:
    """Return when the exchange under way has received so many bytes."""
    await until(lambda: any(getattr(busy, "moved", 0) == count for busy in pool._busy))


def test_an_exchange_without_movement_is_ended() -> None:
    async def test(loop: JumpingLoop, pool: Pool, orders: "queue.Queue[bytes]") -> None:
        task = asking(pool)
        orders.put(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await has_moved(pool, 41)
        await loop.jump(1.1)  # the first look
        await loop.jump(29)
        assert not task.done()
        await loop.jump(2)
        with pytest.raises(StalledError, match=r"http://127.0.0.1:[0-9]+: nothing for 30 s"):
            await task
        assert pool.statistics()[:2] == (0, 0)

    stalls(test)


def test_an_exchange_that_moves_slowly_goes_on() -> None:
    async def test(loop: JumpingLoop, pool: Pool, orders: "queue.Queue[bytes]") -> None:
        task = asking(pool)
        await until(lambda: pool.statistics().connections_made == 1)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        orders.put(head)
        moved = len(head)
        for _ in range(8):
            orders.put(b"x")
            moved += 1
            await has_moved(pool, moved)
            await loop.jump(20)
            assert not task.done()
        orders.put(b"!")
        assert await task == "xxxxxxxx!"

    stalls(test)


def test_a_download_far_slower_than_others_is_given_up() -> None:
    gate = threading.Event()

    def answer(request: Request) -> Answer:
        held = request.target.startswith("/held")
        return Answer(reply(206, b"x" * 10), gate=gate if held else None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        with RawServer.answering(answer) as server:
            pool = pool_to(server, 8)

            def get(name: str) -> "asyncio.Task[Reply]":
                head = f"GET /{name} HTTP/1.1\r\nhost: h\r\n\r\n".encode()
                return asyncio.ensure_future(pool.exchange(head, sink=Memory(10)))

            try:
                for number in range(10):
                    await get(f"{number}")
                slow, upload = get("held"), asking(pool, "held")
                await until(lambda: len(server.requests) == 12)
                await loop.jump(0.9)
                others = [get("held"), get("held")]
                await until(lambda: len(server.requests) == 14)
                assert not slow.done()
                await loop.jump(0.9)
                with pytest.raises(StragglerError):
                    await slow
                assert pool.statistics().given_up == 1
                gate.set()
                assert [(await other).head.status for other in others] == [206, 206]
                assert await upload == "x" * 10
            finally:
                gate.set()
                pool.close()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


def test_connections_to_an_address_that_is_slow_beside_others_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(_: Connector) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    monkeypatch.setattr(Connector, "_resolve", resolve)
    rates = {"127.0.0.1": 80, "127.0.0.2": 10}

    def progress(watched: pool_module._Watched) -> Progress:
        size = rates[watched.connection.address] << 20
        return Progress(elapsed=1.02, waited=0.02, size=size)

    monkeypatch.setattr(pool_module._Watched, "progress", progress)
    addresses: list[str] = []

    def answer(peer: Peer) -> None:
        while peer.request():
            addresses.append(peer.address)
            peer.send(reply(206, b"x" * 10))

    async def main() -> None:
        with RawServer(answer, address="0.0.0.0") as server:
            pool = Pool(Connector(Endpoint("http", "bucket.example", server.port)), limit=16)
            await _many(pool, 20)
            assert addresses.count("127.0.0.2") >= 8, "so much has to be known"
            addresses.clear()
            await _many(pool, 10)
            assert set(addresses) == {"127.0.0.1"}
            pool.close()

    run(main())


async def _many(pool: Pool, times: int) -> None:
    """Download something, four at a time."""
    head = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    for _ in range(times):
        await asyncio.gather(*(pool.exchange(head, sink=Memory(10)) for _ in range(4)))


def test_sending_is_movement_too_and_its_end_a_stall() -> None:
    reading, taken = threading.Semaphore(0), []

    def talk(peer: Peer) -> None:
        peer.request_head()
        while reading.acquire(timeout=20) and peer._receive():
            taken.append(len(peer._unread))
            peer._unread = b""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        with RawServer(talk) as server:
            pool = pool_to(server, 2)
            head = b"PUT / HTTP/1.1\r\ncontent-length: 134217728\r\n\r\n"
            task = asyncio.ensure_future(pool.exchange(head, (bytes(128 << 20),)))
            await until(lambda: any(isinstance(busy, Connection) for busy in pool._busy))
            (connection,) = pool._busy
            assert isinstance(connection, Connection)
            await until(lambda: connection.unsent)
            await loop.jump(1.1)
            for _ in range(5):
                before = connection.unsent
                while connection.unsent == before:
                    count = len(taken)
                    reading.release()
                    await until(lambda count=count: len(taken) > count)  # type: ignore[misc]
                await loop.jump(20)
                assert not task.done()
            await loop.jump(1.1)
            await loop.jump(31)
            with pytest.raises(StalledError):
                await task
            reading.release(1000)  # until it finds that nobody is there any more

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


def test_an_idle_connection_does_not_stall() -> None:
    async def test(loop: JumpingLoop, pool: Pool, orders: "queue.Queue[bytes]") -> None:
        orders.put(reply(200, b"ok"))
        assert await ask(pool) == "ok"
        await loop.jump(14)
        assert pool.statistics().idle == 1
        await loop.jump(2)
        assert pool.statistics().idle == 0

    stalls(test)
