"""A store of ours against any server, and signatures verified as a server would do it."""

import asyncio
import os
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from fuse_s3_worker.config.parse import configure
from fuse_s3_worker.http.connect import Connector
from fuse_s3_worker.http.pool import Pool
from fuse_s3_worker.store import opening
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.credentials import Fixed, Provider
from fuse_s3_worker.store.encryption import Encryption
from fuse_s3_worker.store.opening import _always, _Lines
from fuse_s3_worker.store.retry import Patience, Retrier
from fuse_s3_worker.store.sigv4 import Credentials
from support import loops
from support.rawserver import Request

__all__ = [
    "KEY",
    "ONCE",
    "PERSISTENT",
    "bare_environment",
    "caller_of",
    "make_store",
    "run",
    "signature_is_right",
]

_T = TypeVar("_T")

KEY = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

ONCE = Patience(throttled=0.0, otherwise=0.0, pause=0.0, longest_pause=0.0)
"""No second attempt."""

PERSISTENT = Patience(throttled=20.0, otherwise=20.0, pause=0.0, longest_pause=0.0)
"""A second attempt at once, and as many as it takes."""


def bare_environment(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Take away every key of this machine, and the metadata service that it may have."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def run(main: Coroutine[Any, Any, _T], loop: str = "uvloop") -> _T:
    """Return the result of `main`; the pools that it made are closed afterwards.

    The worker never closes one: it ends with its mount.
    """
    pools: list[Pool] = []

    class Noted(Pool):
        def __init__(self, connector: Connector, *, limit: int) -> None:
            super().__init__(connector, limit=limit)
            pools.append(self)

    async def tidy() -> _T:
        try:
            return await main
        finally:
            for pool in pools:
                pool.close()
            await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "Pool", Noted)
        return loops.run(tidy(), loop)


def make_store(
    url: str,
    options: str = "",
    *,
    provider: Provider | None = None,
    patience: Patience = ONCE,
    bucket: str = "bucket",
    ca_bundle: str | None = None,
    encryption: Encryption | None = None,
) -> S3Store:
    """Return a store for a bucket at `url`, put together as when mounting, without a probe."""
    configuration = configure(bucket, options)
    settings = configuration.settings
    lines = _Lines(configuration.spec, settings, url, ca_bundle)
    region = settings.region or "us-east-1"
    who = provider or Fixed(None if settings.no_sign_request else KEY)
    caller = Caller(lines.make(region, ""), who, lines.make, _always(settings))
    caller.retrier = Retrier(patience)
    return S3Store(caller, bucket, settings, encryption=encryption)


def caller_of(store: S3Store) -> Caller:
    """Return what sends a store's requests."""
    return store._caller


class _Recorded(botocore.auth.S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signature of a request that has its time and its payload's hash already."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.context["payload"])


def signature_is_right(
    request: Request, credentials: Credentials = KEY, region: str = "us-east-1"
) -> bool:
    """Tell whether a server that knows `credentials` would accept the request."""
    given = request.headers.get("authorization", "")
    names = dict(part.split("=", 1) for part in given.split(" ")[1:] if "=" in part)
    signed = names.get("SignedHeaders", "").rstrip(",").split(";")
    if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(signed):
        return False
    # Whatever decides what is done or stored must be under the signature.
    if any(name.startswith("x-amz-") and name not in signed for name in request.headers):
        return False
    auth = _Recorded(
        BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token or None),
        "s3",
        region,
    )
    copy = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['host']}{request.target}",
        headers={name: request.headers[name] for name in signed if name != "host"},
    )
    copy.context["payload"] = request.headers["x-amz-content-sha256"]
    moment = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    original: Any = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda **_: moment.replace(tzinfo=None)
    try:
        auth.add_auth(copy)
    finally:
        botocore.auth.get_current_datetime = original
    return bool(copy.headers["Authorization"] == given)
