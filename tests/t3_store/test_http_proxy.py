"""Proxies: what the environment says, whole URLs for http, tunnels for https."""

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from fuse_s3_worker.http.connect import Connector, Endpoint, Proxy, proxy_for
from fuse_s3_worker.http.errors import ConnectError
from fuse_s3_worker.http.pool import Pool
from fuse_s3_worker.http.tls import client_context
from fuse_s3_worker.store.endpoint import Target
from fuse_s3_worker.store.sigv4 import Credentials
from fuse_s3_worker.store.wire import Line, Request
from support.loops import LOOPS, run
from support.rawserver import Peer, RawServer, certificate, reply
from support.segments import Memory

every_loop = pytest.mark.parametrize("loop", LOOPS)

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
AUTHORIZATION = "Basic " + base64.b64encode(b"me:secret p\xc3\xa4ss").decode()
SECRETS = ("secret", AUTHORIZATION.split()[1])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# -- the environment -------------------------------------------------------------------------------

HTTP = Endpoint("http", "s3.example", 80)
HTTPS = Endpoint("https", "bucket.s3.example", 9000)


@pytest.mark.parametrize(
    ("variables", "endpoint", "expected"),
    [
        ({}, HTTP, None),
        ({"http_proxy": "http://p:3128"}, HTTP, Proxy("p", 3128, "")),
        ({"HTTP_PROXY": "http://p:3128/"}, HTTP, Proxy("p", 3128, "")),
        ({"http_proxy": "http://p:3128"}, HTTPS, None),
        ({"https_proxy": "http://p"}, HTTPS, Proxy("p", 80, "")),
        ({"HTTPS_PROXY": "p.example:8080"}, HTTPS, Proxy("p.example", 8080, "")),
        ({"all_proxy": "http://[2001:db8::1]:3128"}, HTTPS, Proxy("2001:db8::1", 3128, "")),
        ({"https_proxy": "http://a:1", "all_proxy": "http://b:2"}, HTTPS, Proxy("a", 1, "")),
        ({"http_proxy": "http://low:1", "HTTP_PROXY": "http://UP:2"}, HTTP, Proxy("low", 1, "")),
        (
            {"http_proxy": "http://me:secret%20p%C3%A4ss@p:1"},
            HTTP,
            Proxy("p", 1, AUTHORIZATION),
        ),
        ({"http_proxy": "http://me@p:1"}, HTTP, Proxy("p", 1, "Basic bWU6")),
        ({"http_proxy": ""}, HTTP, None),
        ({"http_proxy": "http://p:1", "no_proxy": "s3.example"}, HTTP, None),
        ({"http_proxy": "http://p:1", "no_proxy": "other,.example"}, HTTP, None),
        ({"http_proxy": "http://p:1", "NO_PROXY": "*"}, HTTP, None),
        ({"https_proxy": "http://p:1", "no_proxy": "s3.example"}, HTTPS, None),
        ({"https_proxy": "http://p:1", "no_proxy": "bucket.s3.example:9000"}, HTTPS, None),
        (
            {"https_proxy": "http://p:1", "no_proxy": "bucket.s3.example:9001"},
            HTTPS,
            Proxy("p", 1, ""),
        ),
        ({"http_proxy": "http://p:1", "no_proxy": "xs3.example"}, HTTP, Proxy("p", 1, "")),
    ],
)
def test_what_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    endpoint: Endpoint,
    expected: Proxy | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(endpoint) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@p:3128",
        "socks5://me:secret@p:1080",
        "http://",
        "http://me:secret@:3128",
        "http://me:secret@p:port",
        "http://me:secret@p:99999",
        "http://me:secret@[::1",
    ],
)
def test_what_is_no_http_proxy_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(ConnectError, match="proxy") as caught:
        proxy_for(HTTP)
    assert "secret" not in str(caught.value)


# -- http ------------------------------------------------------------------------------------------


@every_loop
def test_an_http_proxy_is_sent_the_whole_url(loop: str) -> None:
    async def main() -> None:
        with RawServer.answering([reply(200, b"from the proxy")]) as server:
            endpoint = Endpoint("http", "s3.nowhere.invalid", 9000)  # never resolved here
            proxy = Proxy("127.0.0.1", server.port, AUTHORIZATION)
            pool = Pool(Connector(endpoint, proxy=proxy), limit=2)
            line = Line(Target(endpoint, "/bucket/", "us-east-1"), pool)
            request = Request("GetObject", "GET", "a b?/ü", {"x": "1 2"}, payload="p")
            head = line.head(request, Credentials("AK", "SK"), datetime.now(UTC))
            assert (await pool.exchange(head)).body == b"from the proxy"
            pool.close()
        (asked,) = server.requests
        assert asked.target == "http://s3.nowhere.invalid:9000/bucket/a%20b%3F/%C3%BC?x=1%202"
        assert asked.headers["host"] == "s3.nowhere.invalid:9000"
        assert asked.headers["proxy-authorization"] == AUTHORIZATION
        assert "proxy-authorization" not in asked.headers["authorization"], "it is taken out"

    run(main(), loop)


def test_without_a_proxy_the_request_line_has_the_path_alone() -> None:
    async def main() -> None:
        endpoint = Endpoint("http", "s3.example", 80)
        line = Line(Target(endpoint, "/bucket/", "us-east-1"), Pool(Connector(endpoint), limit=1))
        head = line.head(Request("HeadObject", "HEAD", "k"), None, datetime.now(UTC))
        assert head.startswith(b"HEAD /bucket/k HTTP/1.1\r\nhost: s3.example\r\n")
        assert b"authorization" not in head.lower()

    run(main())


# -- https: tunnels --------------------------------------------------------------------------------


@pytest.fixture
def behind() -> Iterator[RawServer]:
    """The server at the other end of a tunnel."""
    answers = [reply(200, b"secret as well"), reply(206, bytes(range(256)) * 300)]
    with RawServer.answering(answers, tls=certificate("DNS:s3.nowhere.invalid")) as server:
        yield server


def tunnel_to(server: RawServer) -> RawServer:
    """A proxy that leads every tunnel to `server`."""

    def talk(peer: Peer) -> None:
        if peer.request():
            with socket.create_connection(("127.0.0.1", server.port)) as onward:
                # In two segments: the end of the head need not come with its beginning.
                peer.send(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r")
                peer.send(b"\n\r\n")
                peer.relay(onward)

    return RawServer(talk)


def through(proxy: RawServer, *, authorization: str = AUTHORIZATION) -> Connector:
    context = client_context(certificate("DNS:s3.nowhere.invalid").certificate.read_text())
    return Connector(
        Endpoint("https", "s3.nowhere.invalid", 443),
        tls=context,
        proxy=Proxy("127.0.0.1", proxy.port, authorization),
    )


@every_loop
def test_https_goes_through_a_tunnel(behind: RawServer, loop: str) -> None:
    async def main() -> None:
        with tunnel_to(behind) as proxy:
            connection = await through(proxy).connect()
            assert (await connection.exchange(GET)).body == b"secret as well"
            sink = Memory(256 * 300)
            await connection.exchange(GET, sink=sink)
            assert sink.content == bytes(range(256)) * 300
            connection.abort()
        (asked,) = proxy.requests
        assert asked.head.startswith(b"CONNECT s3.nowhere.invalid:443 HTTP/1.1\r\n")
        assert asked.headers["host"] == "s3.nowhere.invalid:443"
        assert asked.headers["proxy-authorization"] == AUTHORIZATION
        assert len(behind.requests) == 2
        assert all("proxy-authorization" not in one.headers for one in behind.requests)

    run(main(), loop)


@every_loop
def test_the_certificate_must_be_the_endpoints_and_not_the_proxys(
    behind: RawServer, loop: str
) -> None:
    async def main() -> None:
        with tunnel_to(behind) as proxy:
            connector = through(proxy)
            connector.endpoint = Endpoint("https", "another.invalid", 443)
            with pytest.raises(ConnectError, match="certificate not trusted"):
                await connector.connect()
        assert not behind.requests

    run(main(), loop)


REFUSALS = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
    "403": (b"HTTP/1.0 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "403 Forbidden"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "refuses the tunnel: SSH-2.0"),
    "a head without end": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 17_000, "no end"),
    "half a head": (b"HTTP/1.1 200 OK\r\nx: ", "the proxy closed the connection"),
    "nothing": (b"", "the proxy closed the connection"),
}


@every_loop
@pytest.mark.parametrize(("said", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_tunnel(said: bytes, expected: str, loop: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(said)

    async def main() -> None:
        with RawServer(talk) as proxy:
            with pytest.raises(ConnectError) as caught:
                await through(proxy).connect()
            text = str(caught.value)
            where = f"https://s3.nowhere.invalid through proxy 127.0.0.1:{proxy.port}"
            assert text.startswith(f"cannot connect to {where}: ")
            assert expected in text
            assert not any(secret in text for secret in SECRETS)

    run(main(), loop)


@every_loop
def test_a_refused_tunnel_is_closed(loop: str) -> None:
    """Else each attempt would leave a socket behind, and a proxy that waits for its end."""
    closed = threading.Event()

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        peer.wait_closed()
        closed.set()

    async def main() -> None:
        with RawServer(talk) as proxy:
            with pytest.raises(ConnectError):
                await through(proxy).connect()
            assert await asyncio.to_thread(closed.wait, 10.0)

    run(main(), loop)


@every_loop
def test_a_proxy_that_is_not_there(loop: str) -> None:
    async def main() -> None:
        with RawServer(Peer.close) as proxy:
            connector = through(proxy)
        with pytest.raises(ConnectError, match=r"through proxy 127\.0\.0\.1:[0-9]+: ") as caught:
            await connector.connect()
        assert not any(secret in str(caught.value) for secret in SECRETS)

    run(main(), loop)


@every_loop
def test_a_tunnel_without_credentials_sends_none(behind: RawServer, loop: str) -> None:
    async def main() -> None:
        with tunnel_to(behind) as proxy:
            (await through(proxy, authorization="").connect()).abort()
        assert "proxy-authorization" not in proxy.requests[0].headers

    run(main(), loop)
