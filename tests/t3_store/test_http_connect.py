"""Names to addresses, addresses to connections: what is tried, in which order, and what is said."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from fuse_s3_worker.http import connect
from fuse_s3_worker.http.connect import Connector, Endpoint
from fuse_s3_worker.http.errors import ConnectError
from fuse_s3_worker.http.tls import client_context
from fuse_s3_worker.sandbox import Needs
from support.confined import DONE, enter, needs_sandbox, outcome_of
from support.loops import LOOPS, run
from support.rawserver import Peer, RawServer, reply
from support.segments import until

every_loop = pytest.mark.parametrize("loop", LOOPS)

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"


def who_was_asked(peer: Peer) -> None:
    """Answer with the address of ours that the client chose."""
    while peer.request():
        peer.send(reply(200, peer.address.encode()))


async def ask(connector: Connector) -> str:
    connection = await connector.connect()
    try:
        return (await connection.exchange(GET)).body.decode()
    finally:
        connection.abort()


def several(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> Callable[[], int]:
    """Have every name resolve to these; the function returned counts how often that was asked."""
    asked = 0

    async def resolve(_: Connector) -> list[str]:
        nonlocal asked
        asked += 1
        return list(addresses)

    monkeypatch.setattr(Connector, "_resolve", resolve)
    return lambda: asked


@every_loop
def test_addresses_that_are_dead_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    several(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")

    async def main() -> None:
        with RawServer(who_was_asked) as server:  # listens on the last one only
            connector = Connector(Endpoint("http", "bucket.example", server.port))
            for _ in range(6):
                assert await ask(connector) == "127.0.0.1"

    run(main(), loop)


@every_loop
def test_connections_are_spread_over_all_addresses(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    addresses = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    asked = several(monkeypatch, *addresses)

    async def main() -> None:
        with RawServer(who_was_asked, address="0.0.0.0") as server:
            connector = Connector(Endpoint("http", "bucket.example", server.port))
            chosen = [await ask(connector) for _ in range(6)]
            assert sorted(chosen[:3]) == sorted(chosen[3:]) == sorted(addresses)
            assert asked() == 1, "names are resolved once in a while, not for each connection"

    run(main(), loop)


@every_loop
def test_an_address_that_is_avoided_is_used_when_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    several(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")

    async def main() -> None:
        with RawServer(who_was_asked, address="0.0.0.0") as server:
            connector = Connector(Endpoint("http", "bucket.example", server.port))
            connector.avoid("127.0.0.2")
            assert {await ask(connector) for _ in range(6)} == {"127.0.0.1", "127.0.0.3"}
            connector.avoid("127.0.0.1")
            connector.avoid("127.0.0.3")
            assert len({await ask(connector) for _ in range(6)}) == 3
            monkeypatch.setattr(connect, "_AVOID", 0.0)
            connector.avoid("127.0.0.1")  # which is over at once
            assert {await ask(connector) for _ in range(3)} == {"127.0.0.1"}

    run(main(), loop)


@every_loop
def test_when_none_answers_the_error_has_every_reason(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    asked = several(monkeypatch, "127.0.0.2", "127.0.0.3")

    async def main() -> None:
        with RawServer(who_was_asked) as server:
            port = server.port
        connector = Connector(Endpoint("http", "bucket.example", port))
        for attempt in (1, 2):
            with pytest.raises(ConnectError) as caught:
                await connector.connect()
            text = str(caught.value)
            assert text.startswith(f"cannot connect to http://bucket.example:{port}: ")
            assert "127.0.0.2: " in text
            assert "; 127.0.0.3: " in text or text.index("127.0.0.3") < text.index("127.0.0.2")
            assert "Errno 111" in text  # connection refused
            assert asked() == attempt, "addresses that are all dead are not believed any longer"

    run(main(), loop)


@every_loop
def test_a_silent_address_does_not_use_up_the_patience(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT", 0.05)

    async def main() -> None:
        with RawServer(Peer.wait_closed) as server:  # accepts, and says nothing to a handshake
            endpoint = Endpoint("https", "127.0.0.1", server.port)
            connector = Connector(endpoint, tls=client_context(verify=False))
            with pytest.raises(ConnectError, match=r"127.0.0.1: no answer within 0 s"):
                await connector.connect()

    run(main(), loop)


@every_loop
@pytest.mark.parametrize(
    "host",
    ["no-such-host.invalid", f"{'a' * 64}.example", "two..dots", f"{'a.' * 200}example", "."],
    ids=["unknown", "long label", "empty label", "long name", "dot"],
)
def test_a_name_that_cannot_be_resolved_is_named(host: str, loop: str) -> None:
    async def main() -> None:
        with pytest.raises(ConnectError) as caught:
            await Connector(Endpoint("http", host, 80)).connect()
        assert str(caught.value).startswith(f"cannot resolve {host}: ")

    run(main(), loop)


@every_loop
def test_localhost_is_found(loop: str) -> None:
    async def main() -> None:
        with RawServer(who_was_asked) as server:
            connector = Connector(Endpoint("http", "localhost", server.port))
            assert await ask(connector) == "127.0.0.1"

    run(main(), loop)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@every_loop
@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on the loopback interface")
def test_an_ipv6_address_needs_no_name(loop: str) -> None:
    async def main() -> None:
        with RawServer(who_was_asked, address="::1") as server:
            endpoint = Endpoint("http", "::1", server.port)
            assert await ask(Connector(endpoint)) == "::1"
            assert str(endpoint) == f"http://[::1]:{server.port}"

    run(main(), loop)


@pytest.mark.parametrize(
    ("endpoint", "authority"),
    [
        (Endpoint("http", "s3.example", 80), "s3.example"),
        (Endpoint("https", "s3.example", 443), "s3.example"),
        (Endpoint("http", "s3.example", 443), "s3.example:443"),
        (Endpoint("https", "s3.example", 80), "s3.example:80"),
        (Endpoint("https", "192.0.2.1", 9000), "192.0.2.1:9000"),
        (Endpoint("https", "2001:db8::1", 443), "[2001:db8::1]"),
        (Endpoint("http", "::1", 9000), "[::1]:9000"),
    ],
)
def test_the_host_header(endpoint: Endpoint, authority: str) -> None:
    assert endpoint.authority == authority
    assert str(endpoint) == f"{endpoint.scheme}://{authority}"


def test_cancellation_stops_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of one address must not swallow the end of the whole request."""
    several(monkeypatch, "127.0.0.1", "127.0.0.1", "127.0.0.1")

    async def main() -> None:
        with RawServer(Peer.wait_closed) as server:
            endpoint = Endpoint("https", "h", server.port)
            connector = Connector(endpoint, tls=client_context(verify=False))
            task = asyncio.ensure_future(connector.connect())
            await until(lambda: server.connections)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.connections == 1

    run(main())


@needs_sandbox
def test_a_port_that_the_sandbox_keeps_closed_is_said() -> None:
    """A redirect may name one that nobody expected; "Permission denied" would not tell of whom."""

    def attempt() -> None:
        enter(Needs(ports=frozenset({1})))
        with pytest.raises(ConnectError, match=r"port 2 is closed to this worker, see sandbox="):
            asyncio.run(Connector(Endpoint("http", "127.0.0.1", 2)).connect())
        with pytest.raises(ConnectError) as refused:
            asyncio.run(Connector(Endpoint("http", "127.0.0.1", 1)).connect())
        assert "closed to this worker" not in str(refused.value)

    assert outcome_of(attempt) == DONE
