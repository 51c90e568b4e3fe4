"""From settings to a store that answers, or one line that says why it does not."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.config.spec import BucketSpec
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connect import Connector, Endpoint, proxy_for
from fuse_s3_worker.http.errors import ConnectError
from fuse_s3_worker.http.pool import Pool
from fuse_s3_worker.http.tls import NoCertificatesError, client_context
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.credentials import Chain, Fixed, Provider, Secrets, environment_key
from fuse_s3_worker.store.encryption import Encryption, KeyFileError, read_key_file
from fuse_s3_worker.store.endpoint import DEFAULT_REGION, EndpointError, Target, resolve
from fuse_s3_worker.store.passwd import PasswdFileError, credentials_for
from fuse_s3_worker.store.programs import Programs
from fuse_s3_worker.store.retry import PATIENT, STARTING, Retrier
from fuse_s3_worker.store.wire import Line

__all__ = ["CannotServeError", "open_store", "reopen_store"]

Files = Mapping[str, tuple[str, bytes]]
"""Option name to path and content, of the files that the helper read."""

_PROBE_DEADLINE = 22.0  # seconds; mount gives up after 30


class CannotServeError(Exception):
    """This bucket cannot be mounted; one line with the next step."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.errno = number


async def open_store(
    spec: BucketSpec,
    settings: Settings,
    files: Files,
    redaction: Redaction,
    programs: Programs | None = None,
) -> S3Store:
    """Return a store for `spec` after one request that proves it answers.

    `programs` starts those that give keys, where this process may start none.

    Raises:
        CannotServeError: it does not, or the settings do not fit together.
    """
    caller, store = await _make_store(spec, settings, files, redaction, programs)
    caller.retrier = Retrier(STARTING)
    await _probe(store, spec, str(caller.line.target.endpoint))
    caller.retrier = Retrier(PATIENT)
    return store


async def reopen_store(
    spec: BucketSpec,
    settings: Settings,
    files: Files,
    redaction: Redaction,
    programs: Programs | None = None,
) -> S3Store:
    """Return a store that is known to be right; nothing is asked of it yet.

    Raises:
        CannotServeError: the settings do not fit together any more.
    """
    _, store = await _make_store(spec, settings, files, redaction, programs)
    return store


async def _make_store(
    spec: BucketSpec,
    settings: Settings,
    files: Files,
    redaction: Redaction,
    programs: Programs | None,
) -> tuple[Caller, S3Store]:
    try:
        provider, chain = await _provider(spec, settings, files, redaction, programs)
        region = settings.region or _region_of_environment() or (chain.region if chain else "")
        url = settings.endpoint_url or (chain.endpoint_url if chain else _url_of_environment())
        lines = _Lines(spec, settings, url, _text(files, "ca_bundle"))
        caller = Caller(
            lines.make(region or DEFAULT_REGION, ""), provider, lines.make, _always(settings)
        )
        encryption = _encryption(settings, files, redaction, secure=caller.line.secure)
        return caller, S3Store(caller, spec.bucket, settings, address=url, encryption=encryption)
    except (
        PasswdFileError,
        KeyFileError,
        EndpointError,
        NoCertificatesError,
        ConnectError,
    ) as error:
        raise CannotServeError(str(error), errno.EINVAL) from None
    except StoreError as error:
        raise CannotServeError(str(error), error.errno) from None


def _encryption(
    settings: Settings, files: Files, redaction: Redaction, *, secure: bool
) -> Encryption:
    """Return how objects are encrypted; customer's keys are read and kept out of the log."""
    path, content = files.get("sse_c_key_file", ("", b""))
    if not path:
        if settings.sse == "customer":
            raise KeyFileError("sse=customer: give the file with the key as sse_c_key_file=")
        return Encryption(settings.sse, settings.sse_kms_key_id)
    if not secure:
        raise KeyFileError(f"sse_c_key_file={path}: keys are not sent over http, only over https")
    keys = read_key_file(content.decode("utf-8", "replace"), path)
    redaction.add(*(key.key for key in keys))
    return Encryption(settings.sse, settings.sse_kms_key_id, keys)


async def _provider(
    spec: BucketSpec,
    settings: Settings,
    files: Files,
    redaction: Redaction,
    programs: Programs | None,
) -> tuple[Provider, Chain | None]:
    """Choose where credentials come from, in the order that s3fs and the AWS CLI have."""
    if settings.no_sign_request:
        return Fixed(None), None
    if "passwd_file" in files and not settings.profile:
        return _from_passwd(spec, files["passwd_file"], redaction), None
    secrets = Secrets(_bytes(files, "shared_credentials_file"), _bytes(files, "config_file"))
    if (key := environment_key(secrets, settings.profile)) is not None:
        redaction.add(key.secret_key, key.token)
        return Fixed(key), None
    chain = Chain(secrets, redaction, profile=settings.profile, programs=programs)
    if "passwd_default" in files and not settings.profile:
        # The usual passwd files come after everything that lies on this machine, and before
        # asking what may be around it.
        await chain.load(local_only=True)
        if chain.found:
            return chain, chain
        with contextlib.suppress(PasswdFileError):
            return _from_passwd(spec, files["passwd_default"], redaction), None
    await chain.load()
    return chain, chain


def _from_passwd(spec: BucketSpec, file: tuple[str, bytes], redaction: Redaction) -> Fixed:
    path, content = file
    fixed = credentials_for(spec.bucket, content.decode("utf-8", "replace"), path)
    redaction.add(fixed.secret_key)
    return Fixed(fixed)


def _region_of_environment() -> str:
    """Return what the AWS CLI takes; botocore, and so the chain, knows the second name alone."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")


def _url_of_environment() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


class _Lines:
    """Makes lines to the bucket, at first and when a redirect says where it really is."""

    def __init__(
        self, spec: BucketSpec, settings: Settings, url: str, ca_bundle: str | None
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._url = url
        self._ca_bundle = ca_bundle
        self._pools: dict[Endpoint, Pool] = {}

    def make(self, region: str, origin: str) -> Line:
        """Return a line to `region`, at `origin` when a redirect names only a host."""
        target = resolve(self._settings, self._spec.bucket, region, self._url)
        if origin:
            target = _at(target, origin)
        if target.endpoint not in self._pools:
            self._pools[target.endpoint] = self._pool(target.endpoint)
        return Line(target, self._pools[target.endpoint])

    def _pool(self, endpoint: Endpoint) -> Pool:
        tls = None
        if endpoint.scheme == "https":
            tls = client_context(self._ca_bundle, verify=self._settings.tls_verify)
        connector = Connector(endpoint, tls=tls, proxy=proxy_for(endpoint))
        return Pool(connector, limit=self._settings.max_connections)


def _at(target: Target, origin: str) -> Target:
    """Move a target to another host, but never from https to http."""
    parts = urlsplit(origin)
    if parts.scheme != target.endpoint.scheme or not parts.hostname:
        raise StoreError(Fault.WRONG_REGION, f"a redirect to {origin} is not followed")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return target._replace(endpoint=Endpoint(parts.scheme, parts.hostname, port))


def _always(settings: Settings) -> dict[str, str]:
    """Headers that every request has."""
    headers = {"x-amz-expected-bucket-owner": settings.expected_bucket_owner}
    if settings.requester_pays:
        headers["x-amz-request-payer"] = "requester"
    return {name: value for name, value in headers.items() if value}


def _bytes(files: Files, name: str) -> bytes | None:
    return files[name][1] if name in files else None


def _text(files: Files, name: str) -> str | None:
    content = _bytes(files, name)
    return None if content is None else content.decode("utf-8", "replace")


async def _probe(store: S3Store, spec: BucketSpec, where: str) -> None:
    """List one key: proves that host, bucket, credentials and permission to list are right."""
    try:
        async with asyncio.timeout(_PROBE_DEADLINE):
            page = await store.list_page(spec.prefix, max_keys=1)
    except TimeoutError:
        text = f"{where} does not answer within {_PROBE_DEADLINE:.0f} s"
        raise CannotServeError(
            f"{text}: check endpoint_url= and the network", errno.ETIMEDOUT
        ) from None
    except StoreError as error:
        raise CannotServeError(_explain(error, spec, where), error.errno) from None
    if spec.prefix and not page.objects:
        raise CannotServeError(
            f"nothing in bucket {spec.bucket} begins with '{spec.prefix}': create it with "
            f"aws s3api put-object --bucket {spec.bucket} --key '{spec.prefix}'",
            errno.ENOENT,
        )


_ADVICE = {
    Fault.NO_SUCH_BUCKET: "bucket {bucket} does not exist at {where}: check its name and "
    "endpoint_url=, or make it with aws s3 mb s3://{bucket}",
    Fault.NOT_FOUND: "there is no bucket {bucket} at {where}: check its name and endpoint_url=",
    Fault.FORBIDDEN: "access to bucket {bucket} denied ({reason}): the credentials need "
    "s3:ListBucket on it",
    Fault.UNREACHABLE: "{where} does not answer: {reason}",
    Fault.WRONG_REGION: "bucket {bucket} is in another region: {reason}: give region=",
    Fault.EXPIRED_CREDENTIALS: "the credentials have expired: {reason}",
    Fault.CLOCK_SKEW: "this machine's clock is wrong: {reason}: set it",
    Fault.BAD_REPLY: "{where} does not answer as an S3 server does: {reason}: check endpoint_url=",
}

_KEY_PROBLEMS = {
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key is wrong",
}


def _explain(error: StoreError, spec: BucketSpec, where: str) -> str:
    reason = str(error)
    if error.code in _KEY_PROBLEMS:
        return f"access to bucket {spec.bucket} denied: {_KEY_PROBLEMS[error.code]}"
    template = _ADVICE.get(error.fault, "bucket {bucket} at {where}: {reason}")
    text = template.format(bucket=spec.bucket, where=where, reason=reason)
    return f"{text} (request id {error.request_id})" if error.request_id else text
