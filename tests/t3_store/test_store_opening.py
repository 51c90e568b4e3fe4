"""From settings to a store that answers: where the key comes from, and what a refusal says."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_worker.config.parse import configure
from fuse_s3_worker.config.spec import BucketSpec
from fuse_s3_worker.errors import ERRNO, Fault, StoreError
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store import opening
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.opening import CannotServeError, _explain, open_store
from fuse_s3_worker.store.retry import PATIENT
from support.rawserver import RawServer, Request, certificate, reply
from support.storekit import ONCE, bare_environment, caller_of, run

PAGE = reply(200, b"<ListBucketResult/>")
ONE = reply(
    200,
    b"<ListBucketResult><Contents><Key>p/</Key><Size>0</Size>"
    b"<LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>",
)
PASSWD = ("/etc/mine", b"AKPASSWD:secret-of-passwd\n")
USUAL = ("/root/.passwd-s3fs", b"AKUSUAL:secret-of-usual\n")
CLI = ("/root/.aws/credentials", b"[default]\naws_access_key_id=AKCLI\n"
       b"aws_secret_access_key=secret-of-cli\n[other]\naws_access_key_id=AKOTHER\n"
       b"aws_secret_access_key=secret-of-other\n")  # fmt: skip
CONFIG = ("/root/.aws/config", b"[default]\nregion = eu-north-1\n")


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_environment(monkeypatch, tmp_path)
    monkeypatch.setattr(opening, "STARTING", ONCE)


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer.answering(lambda _: PAGE) as running:
        yield running


async def opened(
    url: str, files: dict[str, tuple[str, bytes]], options: str = "", spec: str = "bucket"
) -> S3Store:
    text = ",".join(part for part in (f"endpoint_url={url}" if url else "", options) if part)
    configuration = configure(spec, text)
    return await open_store(configuration.spec, configuration.settings, files, Redaction())


def key_used(request: Request) -> str:
    return request.headers.get("authorization", "=anonymous/").split("=")[1].split("/")[0]


# -- where the key comes from ----------------------------------------------------------------------

ALL = {"passwd_file": PASSWD, "passwd_default": USUAL, "shared_credentials_file": CLI}
SOURCES = {
    "a passwd file that was asked for": (ALL, "", {}, "AKPASSWD"),
    "even before the environment": (ALL, "", {"AWS_ACCESS_KEY_ID": "AKENV"}, "AKPASSWD"),
    "a profile that was asked for": (ALL, "profile=other", {}, "AKOTHER"),
    "the environment": (
        {"passwd_default": USUAL, "shared_credentials_file": CLI},
        "",
        {"AWS_ACCESS_KEY_ID": "AKENV"},
        "AKENV",
    ),
    "the AWS CLI's files": (
        {"passwd_default": USUAL, "shared_credentials_file": CLI}, "", {}, "AKCLI",
    ),
    "a passwd file in its usual place": ({"passwd_default": USUAL}, "", {}, "AKUSUAL"),
    "the AWS CLI's files alone": ({"shared_credentials_file": CLI}, "", {}, "AKCLI"),
    "nothing, as asked": (ALL, "no_sign_request", {"AWS_ACCESS_KEY_ID": "AKENV"}, "anonymous"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "options", "environment", "expected"), SOURCES.values(), ids=SOURCES.keys()
)
def test_whose_key_signs(
    server: RawServer,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, tuple[str, bytes]],
    options: str,
    environment: dict[str, str],
    expected: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-environment")
    run(opened(server.url, files, options))
    assert key_used(server.requests[0]) == expected


def test_the_usual_passwd_file_counts_before_asking_around(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer.answering([]) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        run(opened(server.url, {"passwd_default": USUAL}))
        assert metadata.connections == 0
    assert key_used(server.requests[0]) == "AKUSUAL"


def test_a_usual_passwd_file_without_a_key_for_this_bucket_is_passed_over(
    server: RawServer,
) -> None:
    files = {"passwd_default": ("/etc/passwd-s3fs", b"other:AK:SK\n")}
    with pytest.raises(CannotServeError, match="no credentials found"):
        run(opened(server.url, files))
    assert server.requests == []


def test_secrets_are_registered_before_the_first_request(server: RawServer) -> None:
    redaction = Redaction()

    async def main() -> None:
        configuration = configure("bucket", f"endpoint_url={server.url}")
        await open_store(
            configuration.spec, configuration.settings, {"passwd_file": PASSWD}, redaction
        )

    run(main())
    assert redaction.clean("secret-of-passwd") == "***"


# -- where requests go -----------------------------------------------------------------------------


def test_the_probe_is_one_listing_of_one_key(server: RawServer) -> None:
    async def main() -> None:
        store = await opened(server.url, {"passwd_file": PASSWD})
        assert caller_of(store).retrier.patience == PATIENT, "the short patience is for mounting"

    run(main())
    (request,) = server.requests
    assert request.path == "/bucket/"
    assert (request.query["max-keys"], request.query["prefix"]) == ("1", "")


def regions(server: RawServer) -> list[str]:
    return [request.headers["authorization"].split("/")[2] for request in server.requests]


def test_region_by_option_then_configuration_then_default(server: RawServer) -> None:
    files = {"shared_credentials_file": CLI, "config_file": CONFIG}
    run(opened(server.url, files, "region=sa-east-1"))
    run(opened(server.url, files))
    run(opened(server.url, {"passwd_file": PASSWD}))
    assert regions(server) == ["sa-east-1", "eu-north-1", "us-east-1"]


def test_region_of_the_environment(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"shared_credentials_file": CLI, "config_file": CONFIG}
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    run(opened(server.url, files))
    # The newer name counts for more; botocore does not know it.
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    run(opened(server.url, files))
    run(opened(server.url, {"passwd_file": PASSWD}))
    run(opened(server.url, files, "region=sa-east-1"))
    assert regions(server) == ["ap-south-1", "us-west-2", "us-west-2", "sa-east-1"]


def test_the_endpoint_of_the_environment(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    run(opened("", {"shared_credentials_file": CLI}))
    assert len(server.requests) == 1


def test_the_endpoint_of_the_environment_beside_a_password_file(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    run(opened("", {"passwd_file": PASSWD}))
    assert len(server.requests) == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    run(opened("", {"passwd_file": PASSWD}))
    assert len(server.requests) == 2, "the one that is for S3 counts for more"


def test_https_with_a_bundle() -> None:
    pair = certificate()
    with RawServer.answering(lambda _: PAGE, tls=pair) as server:
        files = {
            "passwd_file": PASSWD,
            "ca_bundle": (str(pair.certificate), pair.certificate.read_bytes()),
        }
        run(opened(server.url, files))
        with pytest.raises(CannotServeError, match="certificate not trusted"):
            run(opened(server.url, {"passwd_file": PASSWD}))
        run(opened(server.url, {"passwd_file": PASSWD}, "tls_verify=no"))
        assert len(server.requests) == 2


def test_a_proxy_of_the_environment(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{server.port}")
    run(opened("http://s3.nowhere.invalid", {"passwd_file": PASSWD}))
    assert server.requests[0].target.startswith("http://s3.nowhere.invalid/bucket/?")


# -- prefixes --------------------------------------------------------------------------------------


def test_a_prefix_must_exist() -> None:
    with RawServer.answering(lambda _: ONE) as server:
        run(opened(server.url, {"passwd_file": PASSWD}, spec="bucket/p/"))
        assert server.requests[0].query["prefix"] == "p/"


def test_a_prefix_that_is_not_there_is_named_with_a_way_to_make_it(server: RawServer) -> None:
    with pytest.raises(CannotServeError) as caught:
        run(opened(server.url, {"passwd_file": PASSWD}, spec="bucket/no/such/"))
    assert caught.value.errno == errno.ENOENT
    assert "nothing in bucket bucket begins with 'no/such/'" in str(caught.value)
    assert "aws s3api put-object --bucket bucket --key 'no/such/'" in str(caught.value)


# -- refusals --------------------------------------------------------------------------------------

SPEC = BucketSpec("bucket", "")
WHERE = "http://s3.example:9000"


@pytest.mark.parametrize("fault", Fault)
def test_every_failure_is_one_line_that_names_the_bucket_or_the_server(fault: Fault) -> None:
    error = StoreError(fault, "ListObjectsV2 '': the {reason} 100%", request_id="R1")
    text = _explain(error, SPEC, WHERE)
    assert "\n" not in text
    assert "bucket" in text or WHERE in text or "credentials" in text or "clock" in text
    assert text.endswith(" (request id R1)")
    assert "{" not in text.replace("{reason}", "")


def error(status: int, code: str, message: str = "") -> bytes:
    document = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return reply(status, document.encode(), x_amz_request_id="R7")


# What the server says, the errno, and the words that must be in the message.
REFUSALS = {
    "no bucket": (
        error(404, "NoSuchBucket"), Fault.NO_SUCH_BUCKET,
        ["bucket bucket does not exist at", "endpoint_url=", "aws s3 mb s3://bucket", "R7"],
    ),
    "not found": (
        reply(404), Fault.NOT_FOUND, ["there is no bucket bucket at", "endpoint_url="],
    ),
    "no permission": (
        error(403, "AccessDenied", "Not for you"), Fault.FORBIDDEN,
        ["access to bucket bucket denied", "Not for you", "s3:ListBucket"],
    ),
    "unknown key": (
        error(403, "InvalidAccessKeyId"), Fault.FORBIDDEN,
        ["access to bucket bucket denied: the server does not know this access key"],
    ),
    "wrong secret": (
        error(403, "SignatureDoesNotMatch"), Fault.FORBIDDEN,
        ["access to bucket bucket denied: the secret key is wrong"],
    ),
    "expired": (
        error(400, "ExpiredToken", "It is over"), Fault.EXPIRED_CREDENTIALS,
        ["the credentials have expired", "It is over"],
    ),
    "wrong clock": (
        error(403, "RequestTimeTooSkewed", "Too far"), Fault.CLOCK_SKEW,
        ["this machine's clock is wrong", "set it"],
    ),
    "another region": (
        error(301, "PermanentRedirect"), Fault.WRONG_REGION,
        ["bucket bucket is in another region", "region="],
    ),
    "HTML": (
        reply(200, b"<html>Welcome to nginx</html>"), Fault.BAD_REPLY,
        ["does not answer as an S3 server does", "Welcome to nginx", "endpoint_url="],
    ),
    "overloaded": (
        error(503, "SlowDown", "Too fast"), Fault.THROTTLED, ["bucket bucket at http://", "Too"],
    ),
    "another protocol": (
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Fault.UNREACHABLE, ["does not answer", "not an HTTP reply"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "fault", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_a_refusal_says(answer: bytes, fault: Fault, words: list[str]) -> None:
    with RawServer.answering(lambda _: answer) as server:
        with pytest.raises(CannotServeError) as caught:
            run(opened(server.url, {"passwd_file": PASSWD}))
        text = str(caught.value)
        assert caught.value.errno == ERRNO[fault]
        assert all(word in text for word in words), text
        assert "\n" not in text
        assert "secret-of-passwd" not in text


def test_a_server_that_is_not_there() -> None:
    with RawServer.answering([]) as server:
        url = server.url
    with pytest.raises(CannotServeError) as caught:
        run(opened(url, {"passwd_file": PASSWD}))
    assert str(caught.value).startswith(f"{url} does not answer: ")
    assert "refused" in str(caught.value)


def test_a_server_that_says_nothing_is_given_up_before_mount_gives_up_on_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert opening._PROBE_DEADLINE < 30
    monkeypatch.setattr(opening, "_PROBE_DEADLINE", 0.05)
    with RawServer(lambda peer: peer.wait_closed()) as server:
        with pytest.raises(CannotServeError) as caught:
            run(opened(server.url, {"passwd_file": PASSWD}))
        assert caught.value.errno == errno.ETIMEDOUT
        assert str(caught.value).startswith(f"{server.url} does not answer within")


SETTINGS = {
    "no credentials": ({}, "", "no credentials found"),
    "a broken passwd file": (
        {"passwd_file": ("/etc/mine", b"nonsense")}, "", "/etc/mine, line 1: neither",
    ),
    "a passwd file for others": (
        {"passwd_file": ("/etc/mine", b"other:AK:SK")}, "", "/etc/mine: no key for bucket bucket",
    ),
    "an unknown profile": ({"shared_credentials_file": CLI}, "profile=nobody", "nobody"),
    "a bundle without certificates": (
        {"passwd_file": PASSWD, "ca_bundle": ("/b", b"nothing")},
        "endpoint_url=https://127.0.0.1:1",
        "ca_bundle= has no usable PEM certificate",
    ),
    "a bad port": ({"passwd_file": PASSWD}, "endpoint_url=http://h:99999", "bad host or port"),
    "half an IPv6 address": (
        {"passwd_file": PASSWD}, "endpoint_url=http://[::1", "bad host or port",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "options", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_that_do_not_fit(
    server: RawServer, files: dict[str, tuple[str, bytes]], options: str, message: str
) -> None:
    url = "" if "endpoint_url" in options else server.url
    with pytest.raises(CannotServeError) as caught:
        run(opened(url, files, options))
    assert message in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("url", ["localhost:9000", "s3.example", "ftp://s3.example", "http://"])
def test_an_address_of_the_environment_that_is_none(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """No option, so the options' table has not seen it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(CannotServeError, match="endpoint_url="):
        run(opened("", {"shared_credentials_file": CLI}))


def test_a_proxy_of_the_environment_that_is_none(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:hidden@proxy:port")
    with pytest.raises(CannotServeError, match="proxy") as caught:
        run(opened(server.url, {"passwd_file": PASSWD}))
    assert "hidden" not in str(caught.value)
