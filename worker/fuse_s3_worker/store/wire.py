"""Requests as bytes: a line to one host, with its own signer and connections."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from fuse_s3_worker.http.connection import Buffer
from fuse_s3_worker.http.pool import Pool
from fuse_s3_worker.store.endpoint import Target
from fuse_s3_worker.store.sigv4 import Credentials, Signer, encode_path, encode_query
from fuse_s3_worker.store.types import Body

__all__ = ["EMPTY", "Line", "Request", "payload_sha256"]

USER_AGENT = "fuse-s3/0.1"

EMPTY = Body((), 0)


@dataclass(slots=True)
class Request:
    """One request to S3, before it is signed.

    Attributes:
        operation: the API's name for it, for statistics and the log.
        checksums: headers that are left out when a server does not know them.
        payload: SHA-256 of the body in hex, or UNSIGNED-PAYLOAD.
        urgent: metadata, which goes before data.
        patience: seconds without a sign of life, where the usual ones are too few.
    """

    operation: str
    method: str
    key: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    body: Body = EMPTY
    payload: str = ""
    urgent: bool = True
    patience: float = 0.0

    def __str__(self) -> str:
        return f"{self.operation} {self.key!r}"


class Line:
    """The way to a bucket: target, signer and connections belong together."""

    def __init__(self, target: Target, pool: Pool) -> None:
        self.target = target
        self.pool = pool
        self.signer = Signer(target.region, target.service)
        connector = pool.connector
        through_proxy = connector.proxy is not None and target.endpoint.scheme == "http"
        # RFC 9112, 3.2.2: a proxy is sent the whole URL.
        self._origin = str(target.endpoint) if through_proxy else ""
        self._unsigned = ""
        if through_proxy and connector.proxy and connector.proxy.authorization:
            self._unsigned = f"Proxy-Authorization: {connector.proxy.authorization}\r\n"

    @property
    def secure(self) -> bool:
        """Tell whether TLS protects the bodies, which then need no signature of their own."""
        return self.target.endpoint.scheme == "https"

    def head(self, request: Request, credentials: Credentials | None, now: datetime) -> bytes:
        """Return the head of `request`, signed unless it is anonymous."""
        path = self.target.path + encode_path(request.key)
        query = encode_query(request.query)
        headers = {"host": self.target.endpoint.authority} | request.headers | request.checksums
        if credentials is not None:
            line = (request.method, path, query)
            headers = self.signer.sign(credentials, line, headers, request.payload, now)
        if request.method in {"PUT", "POST"}:
            headers["content-length"] = str(request.body.size)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        target = f"{self._origin}{path}?{query}" if query else f"{self._origin}{path}"
        head = (
            f"{request.method} {target} HTTP/1.1\r\n{lines}{self._unsigned}"
            f"user-agent: {USER_AGENT}\r\n\r\n"
        )
        return head.encode("latin-1")


def payload_sha256(pieces: Sequence[Buffer]) -> str:
    """Return the SHA-256 of a body; hashlib lets other threads run meanwhile."""
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
