"""Signatures: against botocore's over thousands of random requests, and against AWS's examples."""

import hmac
import random
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, unquote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.store.sigv4 import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Credentials,
    Signer,
    encode_path,
    encode_query,
    utc_now,
)

REQUESTS = 4000
ODD = " +%&=?#/:;,'\"\\<>[]{}|^`~!@$*()-_.\t\n\r\x00\x7féß€漢字😀\u0301\u2028ÿ"
EVERYTHING = string.ascii_letters + string.digits + ODD * 3
VALUE = string.ascii_letters + string.digits + "   /+=;,:\"'()"  # see the last test
REGIONS = ("us-east-1", "eu-west-2", "cn-north-1", "us-gov-east-1", "default", "")
SIGNED_NAMES = (
    "content-type",
    "content-md5",
    "range",
    "x-amz-acl",
    "x-amz-checksum-crc64nvme",
    "x-amz-copy-source",
    "x-amz-meta-mode",
    "x-amz-request-payer",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class",
)


class Reference(botocore.auth.S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signature, of a payload whose hash is given."""

    def __init__(self, credentials: Credentials, service: str, region: str, payload: str) -> None:
        token = credentials.token or None
        super().__init__(
            BotoCredentials(credentials.access_key, credentials.secret_key, token), service, region
        )
        self._payload = payload

    def payload(self, request: AWSRequest) -> str:
        del request
        return self._payload


def reference(
    monkeypatch: pytest.MonkeyPatch,
    auth: Reference,
    line: tuple[str, str, str],
    headers: dict[str, str],
    now: datetime,
) -> dict[str, str]:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: now.replace(tzinfo=None))
    method, path, query = line
    url = f"https://{headers['host']}{path}" + (f"?{query}" if query else "")
    others = {name: value for name, value in headers.items() if name != "host"}
    request = AWSRequest(method=method, url=url, headers=others)
    auth.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def text(dice: random.Random, alphabet: str, longest: int) -> str:
    return "".join(dice.choices(alphabet, k=dice.randint(0, longest)))


def random_request(dice: random.Random) -> tuple[tuple[str, str, str], dict[str, str], str]:
    method = dice.choice(("GET", "HEAD", "PUT", "POST", "DELETE"))
    path = dice.choice(("/", "/bucket/", "/base/path/bucket/")) + encode_path(
        text(dice, EVERYTHING, dice.choice((5, 40, 1024)))
    )
    query = {
        text(dice, EVERYTHING, 12) or "uploads": text(dice, EVERYTHING, 30)
        for _ in range(dice.randint(0, 5))
    }
    headers = {"host": dice.choice(("b.s3.eu-west-2.amazonaws.com", "localhost:9000", "[::1]:1"))}
    for name in dice.sample(SIGNED_NAMES, dice.randint(0, 4)):
        headers[name] = text(dice, VALUE, 60)
    payload = dice.choice((UNSIGNED_PAYLOAD, EMPTY_SHA256, dice.randbytes(32).hex()))
    return (method, path, encode_query(query)), headers, payload


def random_credentials(dice: random.Random) -> Iterator[Credentials]:
    alphabet = string.ascii_letters + string.digits + "+/"
    for token in ("", "", text(dice, alphabet + "=", 900) + "x", "short/token=="):
        access = "".join(dice.choices(string.ascii_uppercase + string.digits, k=20))
        yield Credentials(access, "".join(dice.choices(alphabet, k=40)), token)


def test_every_signature_is_botocores(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(20260401)
    # Signers and keys are used over and over, in turn, and across midnights.
    signers = [Signer(region, service) for region in REGIONS for service in ("s3", "s3-outposts")]
    keys = list(random_credentials(dice))
    start = datetime(2024, 2, 28, 23, 59, 50, tzinfo=UTC)
    signatures = set()
    for number in range(REQUESTS):
        line, headers, payload = random_request(dice)
        signer, credentials = dice.choice(signers), dice.choice(keys)
        now = start + timedelta(seconds=dice.randint(-100_000, 100_000))
        auth = Reference(credentials, signer.service, signer.region, payload)
        theirs = reference(monkeypatch, auth, line, headers, now)
        before = dict(headers)
        ours = signer.sign(credentials, line, headers, payload, now)
        assert ours["authorization"] == theirs["authorization"], (number, line, headers)
        for name in ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token"):
            assert ours.get(name) == theirs.get(name)
        assert headers == before, "a request may have to be signed again"
        signatures.add(ours["authorization"])
    assert len(signatures) == REQUESTS


# "Authenticating Requests: Using the Authorization Header", Amazon S3 API reference
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLES = {
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41": (
        ("GET", "/test.txt", ""),
        {"range": "bytes=0-9"},
    ),
    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543": (
        ("GET", "/", encode_query({"lifecycle": ""})),
        {},
    ),
    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7": (
        ("GET", "/", encode_query({"prefix": "J", "max-keys": "2"})),
        {},
    ),
}


@pytest.mark.parametrize(("signature", "request_"), EXAMPLES.items())
def test_the_examples_of_the_documentation(signature: str, request_: Any) -> None:  # noqa: ANN401
    line, headers = request_
    now = datetime(2013, 5, 24, tzinfo=UTC)
    host = {"host": "examplebucket.s3.amazonaws.com"}
    signed = Signer("us-east-1").sign(EXAMPLE, line, host | headers, EMPTY_SHA256, now)
    names = sorted(["host", *headers, "x-amz-content-sha256", "x-amz-date"])
    assert signed["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )


def test_what_decides_nothing_is_not_signed() -> None:
    """A proxy may change such headers; the signature must survive that."""
    now, line = datetime(2024, 1, 1, tzinfo=UTC), ("GET", "/k", "")
    plain = Signer("r").sign(EXAMPLE, line, {"host": "h"}, "p", now)
    extra = {"host": "h", "if-match": '"e"', "user-agent": "u", "connection": "x", "date": "d"}
    signed = Signer("r").sign(EXAMPLE, line, extra, "p", now)
    assert signed["authorization"] == plain["authorization"]
    assert signed["if-match"] == '"e"'


def test_the_days_key_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = 0
    digest = hmac.digest

    def counted(*arguments: Any) -> bytes:  # noqa: ANN401
        nonlocal digests
        digests += 1
        return digest(*arguments)

    monkeypatch.setattr(hmac, "digest", counted)
    signer = Signer("us-east-1")
    other = EXAMPLE._replace(secret_key="another")

    def cost(credentials: Credentials, now: datetime) -> int:
        before = digests
        signer.sign(credentials, ("GET", "/", ""), {"host": "h"}, "p", now)
        return digests - before

    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert [cost(EXAMPLE, noon), cost(EXAMPLE, noon + timedelta(hours=11))] == [5, 1]
    assert [cost(EXAMPLE, noon + timedelta(hours=12)), cost(other, noon), cost(other, noon)] == [
        5,
        5,
        1,
    ]


def test_the_secret_is_not_printed() -> None:
    key = Credentials("AKIAEXAMPLE", "very-secret", "token-too")
    for printed in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert "AKIAEXAMPLE" in printed
        assert "very-secret" not in printed
        assert "token-too" not in printed


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_path_is_ascii_and_means_the_key(key: str) -> None:
    path = encode_path(key)
    assert unquote(path, errors="strict") == key
    assert set(path) <= set(string.ascii_letters + string.digits + "-_.~/%")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_a_query_is_in_canonical_order_and_means_the_same(query: dict[str, str]) -> None:
    encoded = encode_query(query)
    assert dict(parse_qsl(encoded, keep_blank_values=True, errors="strict")) == query
    assert encoded == "&".join(sorted(encoded.split("&"), key=lambda pair: pair.split("=")))
    assert "+" not in encoded


def test_the_clock_can_be_the_servers() -> None:
    ahead = utc_now(3600.0) - utc_now()
    assert abs(ahead - timedelta(hours=1)) < timedelta(minutes=10)
    assert utc_now().tzinfo is UTC


def test_what_is_signed_is_what_is_sent() -> None:
    """Metadata may be any bytes on some servers, and goes from one head into another. botocore
    signs letters in UTF-8 that are sent in Latin-1.
    """
    headers = {"host": "h", "x-amz-meta-a": "ü".encode().decode("latin-1")}
    now = datetime(2026, 4, 1, tzinfo=UTC)
    key = Credentials("AK", "SK")
    signed = Signer("r").sign(key, ("PUT", "/b/k", ""), headers, UNSIGNED_PAYLOAD, now)
    canonical = (
        b"PUT\n/b/k\n\nhost:h\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n"
        b"x-amz-date:20260401T000000Z\nx-amz-meta-a:\xc3\xbc\n\n"
        b"host;x-amz-content-sha256;x-amz-date;x-amz-meta-a\nUNSIGNED-PAYLOAD"
    )
    scope = "20260401/r/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n20260401T000000Z\n{scope}\n{sha256(canonical).hexdigest()}"
    secret = b"AWS4SK"
    for part in ("20260401", "r", "s3", "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    assert signed["authorization"].endswith(f"Signature={signature}")
