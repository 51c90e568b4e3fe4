"""TLS: who is trusted, and that bytes over it behave as without."""

import asyncio
import ssl
from pathlib import Path

import pytest

from fuse_s3_worker.http.connect import Connector, Endpoint
from fuse_s3_worker.http.errors import ConnectError, UnexpectedCloseError
from fuse_s3_worker.http.tls import NoCertificatesError, client_context
from support.loops import LOOPS, run
from support.rawserver import Answer, Delivery, End, RawServer, certificate, reply
from support.segments import Memory, until

every_loop = pytest.mark.parametrize("loop", LOOPS)

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
BODY = bytes(range(256)) * 1024


def bundle() -> str:
    return certificate().certificate.read_text()


def connector_to(server: RawServer, tls: ssl.SSLContext, host: str = "127.0.0.1") -> Connector:
    return Connector(Endpoint("https", host, server.port), tls=tls)


@every_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_bundle_that_has_the_certificate(host: str, loop: str) -> None:
    async def main() -> None:
        with RawServer.answering([reply(200, b"ok")], tls=certificate()) as server:
            connection = await connector_to(server, client_context(bundle()), host).connect()
            assert (await connection.exchange(GET)).body == b"ok"
            connection.abort()

    run(main(), loop)


@every_loop
def test_a_certificate_that_nobody_vouches_for(loop: str) -> None:
    async def main() -> None:
        other = certificate("DNS:other.example").certificate.read_text()
        with RawServer.answering([], tls=certificate()) as server:
            with pytest.raises(
                ConnectError, match="certificate not trusted: self-signed"
            ) as caught:
                await connector_to(server, client_context(other)).connect()
            assert f"https://127.0.0.1:{server.port}" in str(caught.value)
            assert not server.requests, "not a byte of ours before the peer is known"

    run(main(), loop)


@every_loop
def test_a_certificate_for_another_name(loop: str) -> None:
    async def main() -> None:
        pair = certificate("DNS:other.example")
        context = client_context(pair.certificate.read_text())
        with (
            RawServer.answering([], tls=pair) as server,
            pytest.raises(ConnectError, match=r"certificate not trusted: .*mismatch.*127.0.0.1"),
        ):
            await connector_to(server, context).connect()

    run(main(), loop)


@every_loop
def test_verification_off(loop: str) -> None:
    async def main() -> None:
        pair = certificate("DNS:other.example")
        with RawServer.answering([reply(200, b"ok")], tls=pair) as server:
            connection = await connector_to(server, client_context(verify=False)).connect()
            assert (await connection.exchange(GET)).body == b"ok"
            connection.abort()

    run(main(), loop)


@every_loop
def test_a_server_that_speaks_no_tls(loop: str) -> None:
    async def main() -> None:
        with (
            RawServer(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
            pytest.raises(ConnectError, match="cannot connect to https://"),
        ):
            await connector_to(server, client_context(verify=False)).connect()

    run(main(), loop)


@every_loop
@pytest.mark.parametrize("delivery", Delivery)
def test_a_body_lands_in_the_memory_of_the_sink(delivery: Delivery, loop: str) -> None:
    body = BODY if delivery is Delivery.WHOLE else BODY[:700]  # a piece is a TLS record
    answer = Answer(reply(206, body), delivery=delivery)

    async def main() -> None:
        with RawServer.answering([answer] * 3, tls=certificate()) as server:
            connection = await connector_to(server, client_context(bundle())).connect()
            for _ in range(3):
                sink = Memory(len(body))
                await connection.exchange(GET, sink=sink)
                assert sink.content == body
            connection.abort()

    run(main(), loop)


@every_loop
def test_a_large_body_out(loop: str) -> None:
    async def main() -> None:
        size = 8 << 20
        head = b"PUT / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size
        with RawServer.answering([reply(200)], tls=certificate()) as server:
            connection = await connector_to(server, client_context(bundle())).connect()
            await connection.exchange(head, (BODY,) * (size // len(BODY)))
            assert server.requests[0].body == BODY * (size // len(BODY))
            connection.abort()

    run(main(), loop)


@every_loop
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
def test_a_reply_cut_off(end: End, loop: str) -> None:
    async def main() -> None:
        for length in (0, 10, 60, 100):
            answer = Answer(reply(206, BODY[:100])[:length], end)
            with RawServer.answering([answer], tls=certificate()) as server:
                connection = await connector_to(server, client_context(bundle())).connect()
                with pytest.raises(UnexpectedCloseError):
                    await connection.exchange(GET, sink=Memory(100))

    run(main(), loop)


@every_loop
def test_cancellation_closes(loop: str) -> None:
    async def main() -> None:
        with RawServer.answering([Answer(b"HTTP/1.1", End.SILENCE)], tls=certificate()) as server:
            connection = await connector_to(server, client_context(bundle())).connect()
            task = asyncio.ensure_future(connection.exchange(GET))
            await until(lambda: connection.moved)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not connection.open

    run(main(), loop)


# -- contexts --------------------------------------------------------------------------------------


def test_a_context_verifies_unless_told_otherwise() -> None:
    for context in (client_context(bundle()), client_context()):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_context(bundle(), verify=False).verify_mode is ssl.CERT_NONE


def test_a_bundle_replaces_the_systems_certificates() -> None:
    assert len(client_context(bundle()).get_ca_certs()) == 1


def test_a_bundle_may_have_comments_in_any_language() -> None:
    text = f"# Főtanúsítvány\n{bundle()}\n# 証明書\n{bundle()}"
    assert len(client_context(text).get_ca_certs()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_bundle_without_a_certificate(text: str) -> None:
    with pytest.raises(NoCertificatesError, match="ca_bundle= has no usable PEM certificate"):
        client_context(text)


def test_a_private_key_is_no_certificate() -> None:
    with pytest.raises(NoCertificatesError):
        client_context(certificate().key.read_text())


def test_a_machine_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Container images often have none; verification would fail for no visible reason."""
    empty = tmp_path / "certs"
    empty.mkdir()
    (tmp_path / "cert.pem").touch()
    for name, value in (("SSL_CERT_FILE", tmp_path / "cert.pem"), ("SSL_CERT_DIR", empty)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(
        NoCertificatesError, match="apt install ca-certificates, or give ca_bundle="
    ):
        client_context()
    client_context(verify=False)
    client_context(bundle())
    (empty / "a.pem").write_text(bundle())
    client_context()
