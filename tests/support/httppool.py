"""A pool of connections to a server of a test, and requests that go through it."""

import asyncio

from fuse_s3_worker.http.connect import Connector, Endpoint
from fuse_s3_worker.http.pool import Pool
from support.rawserver import RawServer

__all__ = ["pool_to", "ask", "asking", "turns"]


def pool_to(server: RawServer, limit: int, **options: float) -> Pool:
    """Return a pool of so many connections at most."""
    return Pool(Connector(Endpoint("http", "127.0.0.1", server.port)), limit=limit, **options)


async def ask(pool: Pool, name: str = "", *, urgent: bool = False) -> str:
    """Ask for `/name`; return the body of the reply."""
    head = f"GET /{name} HTTP/1.1\r\nhost: h\r\n\r\n".encode()
    return (await pool.exchange(head, urgent=urgent)).body.decode()


def asking(pool: Pool, name: str = "", *, urgent: bool = False) -> "asyncio.Task[str]":
    """Return a task that asks."""
    return asyncio.ensure_future(ask(pool, name, urgent=urgent))


async def turns(count: int = 50) -> None:
    """Let everything happen that is only waiting for its turn."""
    for _ in range(count):
        await asyncio.sleep(0)
