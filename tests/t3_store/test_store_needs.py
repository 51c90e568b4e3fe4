"""What the sandbox must leave open: ports and files, from options, variables and files."""

from pathlib import Path

import pytest

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.sandbox import Needs
from fuse_s3_worker.store.needs import store_needs
from support.storekit import bare_environment

KEY = {"passwd_file": ("/etc/passwd-s3fs", b"a:b")}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    bare_environment(monkeypatch, tmp_path)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def ports(files: dict[str, tuple[str, bytes]] | None = None, **options: str) -> set[int]:
    return set(store_needs(Settings.model_validate(options), files or {}).ports)


# -- ports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {443}),
        ({"endpoint_url": "http://h"}, {80}),
        ({"endpoint_url": "https://h"}, {443}),
        ({"endpoint_url": "http://h:9000/base"}, {9000}),
        ({"endpoint_url": "https://[::1]:9443"}, {9443}),
    ],
)
def test_with_a_key_at_hand_there_is_the_endpoint_and_nobody_else(
    options: dict[str, str], expected: set[int]
) -> None:
    assert store_needs(Settings.model_validate(options), KEY).ports == expected
    public = Settings.model_validate(options | {"no_sign_request": "yes"})
    assert store_needs(public, {}).ports == expected


def test_who_may_have_a_key_is_asked_on_its_own_port() -> None:
    """Metadata services on 80, STS and SSO on 443."""
    assert ports(endpoint_url="http://h:9000") == {80, 443, 9000}
    assert ports({"passwd_default": KEY["passwd_file"]}, endpoint_url="http://h:9000") == {
        *(80, 443, 9000)
    }
    assert ports(KEY, profile="work", endpoint_url="http://h:9000") == {80, 443, 9000}


@pytest.mark.parametrize(
    ("name", "value", "port"),
    [
        ("AWS_ENDPOINT_URL", "http://h:1001", 1001),
        ("AWS_ENDPOINT_URL_S3", "https://h:1002/", 1002),
        ("AWS_ENDPOINT_URL_STS", "http://sts:1003", 1003),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1004/path?x=1", 1004),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]:1005/", 1005),
        ("HTTP_PROXY", "http://me:secret@proxy:1006", 1006),
        ("https_proxy", "proxy:1007", 1007),
        ("ALL_PROXY", "http://proxy:1008/", 1008),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, name: str, value: str, port: int) -> None:
    monkeypatch.setenv(name, value)
    assert ports() == {80, 443, port}


def test_a_proxy_without_a_port_has_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy")
    assert ports(KEY) == {80, 443}


def test_the_option_goes_before_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:1001")
    assert ports(KEY, endpoint_url="http://h:9000") == {9000}
    assert ports(KEY) == {443, 1001}


CONFIG = b"""
[default]
endpoint_url = http://from-profile:2001
[profile sso]
sso_start_url=https://portal.example:2002/start
web_identity_token_file = /var/run/secrets/token
ca_bundle=/etc/mine.pem
services = mine
[services mine]
s3 =
  endpoint_url = https://nested:2003
[broken
= nothing
endpoint_url =
x = http://bad:port/
"""


def test_every_profile_of_the_configuration_counts() -> None:
    needs = store_needs(Settings(), {"config_file": ("/root/.aws/config", CONFIG)})
    assert needs.ports == {80, 443, 2001, 2002, 2003}
    assert set(needs.files) == {"/var/run/secrets/token", "/etc/mine.pem"}


def test_the_workers_own_home_is_read_too(home: Path) -> None:
    """Its user has one where worker_user= names an ordinary one."""
    (home / ".aws").mkdir()
    (home / ".aws/config").write_bytes(CONFIG)
    needs = store_needs(Settings(), {})
    assert needs.ports >= {2001, 2002, 2003}
    assert needs.directories == (str(home / ".aws"),)
    assert needs.own == (str(home / ".aws/sso/cache"),)


def test_nobodys_home_is_read_for_a_key_that_is_there(home: Path) -> None:
    (home / ".aws").mkdir()
    (home / ".aws/config").write_bytes(CONFIG)
    assert store_needs(Settings(), KEY) == Needs(frozenset({443}))


@pytest.mark.parametrize(
    "name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
)
def test_tokens_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/var/run/secrets/x/token")
    assert store_needs(Settings(), {}).files == ("/var/run/secrets/x/token",)
    monkeypatch.setenv(name, "relative/token")  # relative to nothing that the user knows of
    assert store_needs(Settings(), {}).files == ()


@pytest.mark.parametrize("url", ["http://h:99999", "ftp://h", "http://[", "nonsense", "://"])
def test_what_is_no_url_opens_nothing(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """That it is none is said by whoever needs it."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    assert ports() == {80, 443}
