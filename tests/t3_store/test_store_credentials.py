"""Keys from the environment, from files in memory, and from programs."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store.credentials import Chain, Fixed, Secrets, environment_key
from fuse_s3_worker.store.sigv4 import Credentials
from support.chains import NOTHING, SECRET, failure_of, key_of, loaded, memory_files
from support.loops import run
from support.storekit import bare_environment


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    bare_environment(monkeypatch, tmp_path)
    before = memory_files()
    yield
    assert memory_files() == before


# -- environment and files -------------------------------------------------------------------------


def test_nothing_found_is_said_with_what_to_do() -> None:
    chain = loaded()
    assert not chain.found
    error = failure_of(lambda: key_of(chain))
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


_PAIR = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.mark.parametrize(
    "variables",
    [
        _PAIR,
        _PAIR | {"AWS_SESSION_TOKEN": "session"},
        _PAIR | {"AWS_SECURITY_TOKEN": "security", "AWS_SESSION_TOKEN": "session"},
        _PAIR | {"AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t"},
        _PAIR | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"},
    ],
)
def test_a_key_in_the_environment_is_the_one_that_the_chain_finds(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment_key(NOTHING, "") == key_of(loaded())


@pytest.mark.parametrize(
    ("variables", "secrets", "profile"),
    [
        ({}, NOTHING, ""),
        ({"AWS_ACCESS_KEY_ID": "AKENV"}, NOTHING, ""),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, NOTHING, ""),
        (_PAIR, NOTHING, "other"),
        (_PAIR, Secrets(b"", None), ""),
        (_PAIR, Secrets(None, b""), ""),
        (_PAIR | {"AWS_PROFILE": "other"}, NOTHING, ""),
        (_PAIR | {"AWS_DEFAULT_PROFILE": "other"}, NOTHING, ""),
        (_PAIR | {"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}, NOTHING, ""),
        (_PAIR | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, NOTHING, ""),
    ],
)
def test_whatever_else_there_is_to_know_is_left_to_the_chain(
    variables: dict[str, str], secrets: Secrets, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment_key(secrets, profile) is None


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
    error = failure_of(lambda: loaded(Secrets(CREDENTIALS_FILE, None), profile="nobody"))
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
    error = failure_of(lambda: loaded(Secrets(credentials_file, config_file)))
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
    error = failure_of(lambda: loaded(program.secrets))
    assert error.fault is Fault.NO_CREDENTIALS
    assert str(error).startswith("credentials: ")


def test_a_program_that_is_not_there() -> None:
    secrets = Secrets(None, b"[default]\ncredential_process = /no/such/program\n")
    error = failure_of(lambda: loaded(secrets))
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


def test_a_key_that_is_taken_away_is_not_used_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        chain = Chain(Secrets(None, None), Redaction())
        await chain.load()
        assert await chain.current() == Credentials("AKENV", SECRET, "")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        assert await chain.renew() is False
        with pytest.raises(StoreError, match="no credentials found") as caught:
            await chain.current()
        assert caught.value.fault is Fault.NO_CREDENTIALS

    run(main())


def test_fixed_credentials_never_change() -> None:
    async def main() -> None:
        key = Credentials("AK", SECRET)
        assert await Fixed(key).current() == key
        assert await Fixed(None).current() is None
        assert await Fixed(key).renew() is False

    run(main())


def test_the_expiry_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each request: a look may start a program, and takes a thread in any case."""
    looks: list[float] = []

    async def main() -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        chain = Chain(Secrets(None, None), Redaction())
        await chain.load()
        now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now, raising=False)
        monkeypatch.setattr(chain, "_refresh", lambda: looks.append(now))
        for step in (0.0, 4.9, 0.2, 4.9, 0.2):
            now += step
            await chain.current()

    run(main(), "asyncio")
    assert looks == [1000.0, 1005.1, 1010.2]


# -- the order -------------------------------------------------------------------------------------


def test_the_order_of_the_chain(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, credentials file, programs; what is around comes last, if at all."""
    everything = Secrets(CREDENTIALS_FILE, program.secrets._files["config_file"])
    found = []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    found.append(key_of(loaded(everything)))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    found.append(key_of(loaded(everything)))
    found.append(key_of(loaded(program.secrets)))
    assert [key.access_key for key in found if key] == ["AKENV", "AKDEFAULT", "AKFIRST"]
