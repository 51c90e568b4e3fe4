"""Keys that services give: instances, containers, web identities; each for real on loopback."""

import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.utils import ContainerMetadataFetcher

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store import credentials as module
from fuse_s3_worker.store.credentials import Chain
from fuse_s3_worker.store.sigv4 import Credentials
from support.chains import NOTHING, SECRET, failure_of, key_of, loaded
from support.loops import run
from support.rawserver import RawServer, Request, reply
from support.storekit import bare_environment


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")


def temporary(number: int, minutes: float) -> bytes:
    """A key as containers and instances get it."""
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    answer = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": f"AK{number}",
        "SecretAccessKey": SECRET,
        "Token": f"token-of-{number}",
        "RoleArn": "arn:aws:iam::123456789012:role/r",
        "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return reply(200, json.dumps(answer).encode(), content_type="application/json")


@pytest.fixture
def no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECK_EVERY", -1.0)


class Metadata:
    """IMDSv2: a token first, then the role's name, then its key."""

    def __init__(self) -> None:
        self.keys = 0

    def __call__(self, request: Request) -> bytes:
        if request.path == "/latest/api/token":
            assert request.method == "PUT"
            return reply(200, b"metadata-token")
        if request.headers.get("x-aws-ec2-metadata-token") != "metadata-token":
            return reply(401)
        if request.path.endswith("/security-credentials/"):
            return reply(200, b"the-role")
        assert request.path == "/latest/meta-data/iam/security-credentials/the-role"
        self.keys += 1
        return temporary(self.keys, 600.0)


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Metadata, RawServer]]:
    script = Metadata()
    with RawServer.answering(script) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        yield script, server


def test_an_instance_has_a_key(imds: tuple[Metadata, RawServer]) -> None:
    assert key_of(loaded()) == Credentials("AK1", SECRET, "token-of-1")
    assert [request.method for request in imds[1].requests] == ["PUT", "GET", "GET"]


def test_between_two_looks_nobody_is_asked(imds: tuple[Metadata, RawServer]) -> None:
    script, _ = imds

    async def main() -> None:
        chain = Chain(NOTHING, Redaction())
        await chain.load()
        await chain.current()
        asked = script.keys
        for _ in range(100):
            await chain.current()
        assert script.keys == asked

    run(main())


@pytest.mark.usefixtures("no_pause_between_looks")
def test_a_key_is_renewed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes are less than what botocore wants to be left: every look brings a new key."""
    numbers = itertools.count(1)

    async def main() -> None:
        redaction = Redaction()
        chain = Chain(NOTHING, redaction)
        await chain.load()
        seen = [await chain.current() for _ in range(3)]
        assert len({key.access_key for key in seen if key}) == 3
        for key in seen:
            assert key is not None
            assert key.token == f"token-of-{key.access_key[2:]}"
            assert redaction.clean(key.token) == "***"

    with RawServer.answering(lambda _: temporary(next(numbers), 5.0)) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/key")
        run(main())


@pytest.mark.usefixtures("no_pause_between_looks")
def test_a_key_that_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    gone = threading.Event()

    def script(_: Request) -> bytes:
        return reply(400, b'{"message": "role is gone"}') if gone.is_set() else temporary(1, 5.0)

    async def main() -> None:
        chain = Chain(NOTHING, Redaction())
        await chain.load()
        gone.set()
        with pytest.raises(StoreError, match="role is gone") as caught:
            await chain.current()
        assert caught.value.fault is Fault.EXPIRED_CREDENTIALS
        assert SECRET not in str(caught.value)

    with RawServer.answering(script) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/key")
        run(main())


def test_local_only_asks_nobody_around(
    imds: tuple[Metadata, RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = imds
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/container")
    assert not loaded(local_only=True).found
    assert server.requests == []
    assert server.connections == 0


def test_a_container_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer.answering(lambda _: temporary(7, 600)) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/key?x=1")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me in")
        assert key_of(loaded()) == Credentials("AK7", SECRET, "token-of-7")
        assert server.requests[0].target == "/key?x=1"
        assert server.requests[0].headers["authorization"] == "let me in"


def test_a_container_address_that_botocore_does_not_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/key")
    error = failure_of(loaded)
    assert error.fault is Fault.NO_CREDENTIALS
    assert "192.0.2.1" in str(error)


STS = f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKWEB</AccessKeyId>
<SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>web-token</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>x</AssumedRoleId>
</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>""".encode()

STS_REFUSAL = b"""<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>
</ErrorResponse>"""


def web_identity(monkeypatch: pytest.MonkeyPatch, server: RawServer, token: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))


def test_a_web_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("identity.of.a.pod")
    with RawServer.answering(lambda _: reply(200, STS, content_type="text/xml")) as server:
        web_identity(monkeypatch, server, token)
        chain = loaded(local_only=True)
        assert key_of(chain) == Credentials("AKWEB", SECRET, "web-token")
        assert b"WebIdentityToken=identity.of.a.pod" in server.requests[0].body
        assert chain.endpoint_url == "", "the address of STS is not that of S3"


def test_a_web_identity_that_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("identity")
    answer = reply(403, STS_REFUSAL, content_type="text/xml")
    with RawServer.answering(lambda _: answer) as server:
        web_identity(monkeypatch, server, token)
        error = failure_of(loaded)
    assert error.fault is Fault.NO_CREDENTIALS
    assert "Not authorized to perform" in str(error)


def test_a_web_identity_without_its_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It lies where only another user may read: the worker is nobody."""
    with RawServer.answering([]) as server:
        web_identity(monkeypatch, server, tmp_path / "missing")
        error = failure_of(loaded)
    assert error.fault is Fault.NO_CREDENTIALS
    assert "missing" in str(error)


# -- the order -------------------------------------------------------------------------------------


def test_what_is_around_is_asked_last(
    imds: tuple[Metadata, RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert key_of(loaded()) == Credentials("AKENV", SECRET, "")
    assert imds[1].connections == 0
