"""AWS Signature Version 4, in the header form that S3 takes.

Source: "Create a signed AWS API request" in the AWS documentation. The key derived for a day,
region and service is kept: deriving it costs more than the rest together. The tests hold every
signature against botocore's over thousands of random requests.
"""

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

__all__ = [
    "EMPTY_SHA256",
    "UNSIGNED_PAYLOAD",
    "Credentials",
    "Signer",
    "encode_path",
    "encode_query",
]

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = sha256(b"").hexdigest()

# Headers beside host and x-amz-* that are signed: those that decide what is stored.
_SIGNED = frozenset({"content-type", "content-md5", "range"})


class Credentials(NamedTuple):
    """An access key; `token` is "" for long-term keys. Never print one."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key}, ***)"


def encode_path(key: str) -> str:
    """Percent-encode a key for a request line: all but unreserved characters and the slash."""
    return quote(key, safe="/-_.~")


def encode_query(query: dict[str, str]) -> str:
    """Encode a query string in the canonical order, so that line and signature agree."""
    encoded = (
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items()
    )
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


class Signer:
    """Signs for one region and service."""

    def __init__(self, region: str, service: str = "s3") -> None:
        self.region = region
        self.service = service
        self._key_of: tuple[str, str] = ("", "")
        self._key = b""

    def sign(
        self,
        credentials: Credentials,
        request_line: tuple[str, str, str],
        headers: dict[str, str],
        payload: str,
        now: datetime,
    ) -> dict[str, str]:
        """Return `headers` with the signature and what it needs.

        Args:
            credentials: whose signature.
            request_line: method, encoded path, encoded query.
            headers: lower-case names; must have `host`.
            payload: hex SHA-256 of the body, or UNSIGNED_PAYLOAD.
            now: the time of the request, in UTC.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = headers | {"x-amz-date": stamp, "x-amz-content-sha256": payload}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(n for n in signed if n == "host" or n in _SIGNED or n.startswith("x-amz-"))
        canonical = "\n".join(
            (
                *request_line,
                *(f"{name}:{' '.join(signed[name].split())}" for name in names),
                "",
                ";".join(names),
                payload,
            )
        )
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        digest = sha256(canonical.encode("latin-1")).hexdigest()  # as headers are sent
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        key = self._signing_key(credentials.secret_key, stamp[:8])
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return signed

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key_of != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self.region, self.service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_of, self._key = (secret, day), key
        return self._key


def utc_now(skew: float = 0.0) -> datetime:
    """Return the time by the server's clock, which is `skew` seconds ahead of ours."""
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() + skew, UTC)
