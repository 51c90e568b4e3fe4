"""botocore's chain as the worker uses it: every source for real, on loopback and in files."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.utils import ContainerMetadataFetcher

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store import credentials as module
from fuse_s3_worker.store.credentials import Chain, Fixed, Secrets
from fuse_s3_worker.store.sigv4 import Credentials
from support.loops import run
from support.rawserver import RawServer, Request, reply

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOTHING = Secrets(None, None)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of this machine, and no metadata service that it may have."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")


def memory_files() -> int:
    """Return how many descriptors of memory this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "memfd:" in str(link.readlink())
    return found


@pytest.fixture(autouse=True)
def no_copy_of_a_file_is_left() -> Iterator[None]:
    before = memory_files()
    yield
    assert memory_files() == before


def loaded(secrets: Secrets = NOTHING, *, profile: str = "", local_only: bool = False) -> Chain:
    chain = Chain(secrets, Redaction(), profile=profile)
    run(chain.load(local_only=local_only))
    return chain


def key_of(chain: Chain) -> Credentials | None:
    return run(chain.current())


def fault_of(load: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        load()
    assert SECRET not in str(caught.value)
    return caught.value


# -- environment and files -------------------------------------------------------------------------


def test_nothing_found_is_said_with_what_to_do() -> None:
    chain = loaded()
    assert not chain.found
    error = fault_of(lambda: key_of(chain))
    assert error.fault is Fault.NO_CREDENTIALS
    for way in ("passwd_file=", "profile=", "AWS_ACCESS_KEY_ID", "no_sign_request"):
        assert way in str(error)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    chain = loaded()
    assert chain.found
    assert key_of(chain) == Credentials("AKENV", SECRET, "")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token/of=session")
    assert key_of(loaded()) == Credentials("AKENV", SECRET, "token/of=session")


CREDENTIALS_FILE = f"""[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = {SECRET}
[other]
aws_access_key_id = AKOTHER
aws_secret_access_key = {SECRET}x
aws_session_token = t
""".encode()
CONFIG_FILE = b"""[default]
region = eu-north-1
endpoint_url = https://s3.example:9000
[profile other]
region = sa-east-1
services = mine
[services mine]
s3 =
  endpoint_url = http://only-s3.example
"""


def test_files_are_read_from_memory() -> None:
    chain = loaded(Secrets(CREDENTIALS_FILE, CONFIG_FILE))
    assert key_of(chain) == Credentials("AKDEFAULT", SECRET, "")
    assert (chain.region, chain.endpoint_url) == ("eu-north-1", "https://s3.example:9000")


def test_a_profile() -> None:
    chain = loaded(Secrets(CREDENTIALS_FILE, CONFIG_FILE), profile="other")
    assert key_of(chain) == Credentials("AKOTHER", f"{SECRET}x", "t")
    assert (chain.region, chain.endpoint_url) == ("sa-east-1", "http://only-s3.example")


def test_the_profile_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert key_of(loaded(Secrets(CREDENTIALS_FILE, None))) == Credentials(
        "AKOTHER", f"{SECRET}x", "t"
    )


def test_region_and_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://everything.example")
    chain = loaded()
    assert (chain.region, chain.endpoint_url) == ("ap-south-1", "http://everything.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    assert loaded().endpoint_url == "http://s3.example"


def test_a_profile_that_is_not_there() -> None:
    error = fault_of(lambda: loaded(Secrets(CREDENTIALS_FILE, None), profile="nobody"))
    assert error.fault is Fault.NO_CREDENTIALS
    assert "profile: " in str(error)
    assert "nobody" in str(error)


@pytest.mark.parametrize(
    ("credentials_file", "config_file"),
    [
        (b"[default]\naws_access_key_id = AK\n", None),
        (b"no section = here\n", None),
        (b"[default\naws_access_key_id", None),
        (b"\xff\xfe\x00", None),
        (None, b"[default]\nbroken\n"),
        (None, b"\x00\x01\xff"),
    ],
)
def test_files_that_are_broken_are_no_accident_of_ours(
    credentials_file: bytes | None, config_file: bytes | None
) -> None:
    error = fault_of(lambda: loaded(Secrets(credentials_file, config_file)))
    assert error.fault is Fault.NO_CREDENTIALS
    assert str(error).startswith("credentials: ")


def test_files_are_lent_for_a_moment_only() -> None:
    with Secrets(b"one", b"two").as_paths() as paths:
        assert {name: Path(path).read_bytes() for name, path in paths.items()} == {
            "credentials_file": b"one",
            "config_file": b"two",
        }
        assert all(os.get_inheritable(int(path.rpartition("/")[2])) is False
                   for path in paths.values())  # fmt: skip
    assert not any(Path(path).exists() for path in paths.values())
    with NOTHING.as_paths() as paths:
        assert paths == {}


def test_what_is_secret_is_kept_out_of_the_log() -> None:
    redaction = Redaction()
    chain = Chain(
        Secrets(CREDENTIALS_FILE.replace(b"= t\n", b"= token-of-the-session\n"), None),
        redaction,
        profile="other",
    )
    run(chain.load())
    clean = redaction.clean(f"AKOTHER {SECRET}x token-of-the-session")
    assert clean == "AKOTHER *** ***"


# -- programs --------------------------------------------------------------------------------------


class Program:
    """A credential_process: a script whose answers a test writes."""

    def __init__(self, directory: Path) -> None:
        self._answer = directory / "answer"
        self._calls = directory / "calls"
        self._script = directory / "program"
        self._calls.write_text("")
        self._script.write_text(
            f"#!/bin/sh\necho x >>{self._calls}\ncat {self._answer}\n"
            f"exit $(cat {directory}/status)\n"
        )
        self._script.chmod(0o700)
        self._status = directory / "status"
        self.says("AKFIRST")

    def says(self, access: str, *, text: str | None = None, status: int = 0) -> None:
        answer = {"Version": 1, "AccessKeyId": access, "SecretAccessKey": SECRET}
        self._answer.write_text(json.dumps(answer) if text is None else text)
        self._status.write_text(str(status))

    @property
    def calls(self) -> int:
        return len(self._calls.read_text().splitlines())

    @property
    def secrets(self) -> Secrets:
        return Secrets(None, f"[default]\ncredential_process = {self._script}\n".encode())


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_program_gives_the_key(program: Program) -> None:
    assert key_of(loaded(program.secrets)) == Credentials("AKFIRST", SECRET, "")
    assert program.calls == 1


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (None, 1),
        ("", 0),
        ("no JSON", 0),
        ('{"Version": 2}', 0),
        ('{"Version": 1, "AccessKeyId": "AK"}', 0),
        ("[]", 0),
    ],
)
def test_a_program_that_fails(program: Program, text: str | None, status: int) -> None:
    program.says("AK", text=text, status=status)
    error = fault_of(lambda: loaded(program.secrets))
    assert error.fault is Fault.NO_CREDENTIALS
    assert str(error).startswith("credentials: ")


def test_a_program_that_is_not_there() -> None:
    secrets = Secrets(None, b"[default]\ncredential_process = /no/such/program\n")
    error = fault_of(lambda: loaded(secrets))
    assert error.fault is Fault.NO_CREDENTIALS
    assert "/no/such/program" in str(error)


def test_renewal_runs_the_chain_once_for_all_who_ask(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        chain = Chain(program.secrets, Redaction())
        await chain.load()
        program.says("AKSECOND")
        assert await asyncio.gather(*(chain.renew() for _ in range(5))) == [True] * 5
        assert program.calls == 2
        assert await chain.current() == Credentials("AKSECOND", SECRET, "")
        assert await chain.renew() is False, "the same key again is no other key"
        assert program.calls == 3

    run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "credentials_renewed changed=True",
        "credentials_renewed changed=False",
    ]


def test_one_who_stops_waiting_does_not_stop_the_renewal(program: Program) -> None:
    async def main() -> None:
        chain = Chain(program.secrets, Redaction())
        await chain.load()
        program.says("AKSECOND")
        first = asyncio.ensure_future(chain.renew())
        second = asyncio.ensure_future(chain.renew())
        await asyncio.sleep(0)
        first.cancel()
        assert await second is True
        assert program.calls == 2

    run(main())


def test_a_renewal_that_fails_is_an_error_of_the_store(program: Program) -> None:
    async def main() -> None:
        chain = Chain(program.secrets, Redaction())
        await chain.load()
        program.says("AK", text="no JSON")
        for _ in range(2):
            with pytest.raises(StoreError, match="credentials: "):
                await chain.renew()
        assert await chain.current() == Credentials("AKFIRST", SECRET, ""), "it may still do"
        program.says("AKTHIRD")
        assert await chain.renew() is True

    run(main())


def test_fixed_credentials_never_change() -> None:
    async def main() -> None:
        key = Credentials("AK", SECRET)
        assert await Fixed(key).current() == key
        assert await Fixed(None).current() is None
        assert await Fixed(key).renew() is False

    run(main())


# -- services --------------------------------------------------------------------------------------


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
    error = fault_of(loaded)
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
        error = fault_of(loaded)
    assert error.fault is Fault.NO_CREDENTIALS
    assert "Not authorized to perform" in str(error)


def test_a_web_identity_without_its_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It lies where only another user may read: the worker is nobody."""
    with RawServer.answering([]) as server:
        web_identity(monkeypatch, server, tmp_path / "missing")
        error = fault_of(loaded)
    assert error.fault is Fault.NO_CREDENTIALS
    assert "missing" in str(error)


# -- the order -------------------------------------------------------------------------------------


def test_the_order_of_the_chain(
    imds: tuple[Metadata, RawServer], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, credentials file, programs, and what is around at last."""
    del imds
    everything = Secrets(CREDENTIALS_FILE, program.secrets._files["config_file"])
    found = []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    found.append(key_of(loaded(everything)))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    found.append(key_of(loaded(everything)))
    found.append(key_of(loaded(program.secrets)))
    found.append(key_of(loaded()))
    names = [key.access_key for key in found if key]
    assert names[:3] == ["AKENV", "AKDEFAULT", "AKFIRST"]
    assert names[3].startswith("AK")
    assert names[3][2:].isdecimal()
