"""One request from start to end: sign, send, judge the reply, put right what can be, try again.

Some refusals say what is wrong with the request: the wrong region, a clock that is off, a key
that is over, a checksum the server does not know. Each of these is put right and the request sent
again at once, a bounded number of times; only then does it count as a failure.
"""

import asyncio
import functools
import logging
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply, Sink
from fuse_s3_worker.http.errors import HttpError, UnexpectedCloseError
from fuse_s3_worker.log import event
from fuse_s3_worker.statistics import StoreStatistics
from fuse_s3_worker.store.credentials import Provider
from fuse_s3_worker.store.documents import parse_error
from fuse_s3_worker.store.failures import ReplyError, classify, server_time
from fuse_s3_worker.store.retry import Retrier
from fuse_s3_worker.store.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Credentials, utc_now
from fuse_s3_worker.store.wire import Line, Request, payload_sha256

__all__ = ["Caller"]

_log = logging.getLogger(__name__)

_CORRECTIONS = 3  # of one request: a redirect, a clock and a key, at the worst
_HASH_INLINE = 64 * 1024  # bytes; above, hashing is worth a thread
_SUCCESS = range(200, 300)
# Headers that every S3 server sends with a success, and hardly anything in front of it does.
_PROOF = {"PutObject": "etag", "UploadPart": "etag", "HeadObject": "last-modified"}
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
# Spaces keep the connection alive while S3 has no outcome yet.
_ERROR_DOCUMENT = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<Error[\s>]")
_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # a label of a host name
_REGION_IN_HOST = re.compile(r"[.-]s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.")

_T = TypeVar("_T")

Rerouter = Callable[[str, str], Line]
"""Makes a line to another region, or to a host that a redirect names."""


class _Terms(NamedTuple):
    """What a request is sent with, and what a correction may change."""

    line: Line
    credentials: Credentials | None
    skew: float


class Caller:
    """Sends requests over a line that may be replaced by a better one.

    Attributes:
        retrier: the patience in force; a short one while mounting.
        requests: how many of each operation were sent, attempts included.
        statistics: how long they took, and what came of them.
        last_date: what the server's clock said, as it said it, when it last answered.
        on_checksum_refused: told when a request went through only without its checksum.
    """

    def __init__(
        self, line: Line, provider: Provider, reroute: Rerouter, always: dict[str, str]
    ) -> None:
        self.line = line
        self.retrier = Retrier()
        self.requests: Counter[str] = Counter()
        self.statistics = StoreStatistics()
        self.last_date = ""
        self.on_checksum_refused: Callable[[StoreError], None] | None = None
        self._provider = provider
        self._reroute = reroute
        self._always = always
        self._skew = 0.0

    async def call(self, request: Request) -> Reply:
        """Send `request` until it succeeds, or fails for good.

        Raises:
            StoreError: it failed for good.
        """
        return await self.retrier.run(lambda: self.attempt(request))

    async def ask(self, request: Request, read: Callable[[Reply], _T]) -> _T:
        """Return what `read` makes of the reply; one that it cannot read is asked for again."""

        async def attempt() -> _T:
            return read(await self.attempt(request))

        return await self.retrier.run(attempt)

    async def attempt(self, request: Request, sink: Sink | None = None) -> Reply:
        """Send `request` once, and again after each correction."""
        refused: StoreError | None = None
        for _ in range(_CORRECTIONS):
            terms = await self._terms()
            try:
                reply = await self._send(terms, request, sink)
            except StoreError as error:
                self.statistics.faults[error.fault.name] += 1
                if request.checksums and error.fault in {Fault.BAD_REQUEST, Fault.NOT_IMPLEMENTED}:
                    refused, request.checksums = error, {}
                elif not await self._correct(error, terms):
                    raise
            else:
                if refused and self.on_checksum_refused:
                    self.on_checksum_refused(refused)
                return reply
        return await self._send(await self._terms(), request, sink)

    async def _terms(self) -> _Terms:
        return _Terms(self.line, await self._provider.current(), self._skew)

    async def _send(self, terms: _Terms, request: Request, sink: Sink | None) -> Reply:
        line, credentials, skew = terms
        request.headers |= self._always
        if not request.payload:
            request.payload = await self._payload(line, request, credentials)
        now = utc_now(skew)
        head = line.head(request, credentials, now)
        self.requests[request.operation] += 1
        began = perf_counter_ns()
        try:
            reply = await self._exchange(line, request, head, sink)
        except HttpError as error:
            raise StoreError(Fault.UNREACHABLE, f"{request}: {error}") from error
        finally:
            self.statistics.add(request.operation, perf_counter_ns() - began)
        self._note(request, reply)
        if reply.head.status not in _SUCCESS:
            raise classify(reply, str(request), clock=now.timestamp())
        if _ERROR_DOCUMENT.match(reply.body):
            # S3 has already said 200 when completing an upload or copying fails.
            raise classify(reply, str(request))
        if not _is_of_store(reply, request.operation):
            raise StoreError(
                Fault.BAD_REPLY,
                f"{request}: status {reply.head.status}, but not from S3: {reply.body[:60]!r}",
                status=reply.head.status,
            )
        return reply

    def _note(self, request: Request, reply: Reply) -> None:
        self.last_date = reply.head.headers.get("date", "")
        self.statistics.bytes_sent += request.body.size
        if request.method != "HEAD":
            self.statistics.bytes_received += reply.head.content_length or len(reply.body)

    async def _exchange(
        self, line: Line, request: Request, head: bytes, sink: Sink | None
    ) -> Reply:
        send = functools.partial(
            line.pool.exchange,
            head,
            request.body.pieces,
            sink,
            urgent=request.urgent,
            patience=request.patience,
        )
        try:
            return await send()
        except UnexpectedCloseError as error:
            if not error.stale:
                raise
        # An idle connection that the server had closed; the next one is new, or says so too.
        return await send()

    async def _payload(self, line: Line, request: Request, credentials: Credentials | None) -> str:
        if not request.body.size:
            return EMPTY_SHA256
        if line.secure or credentials is None:
            return UNSIGNED_PAYLOAD
        if request.body.size <= _HASH_INLINE:
            return payload_sha256(request.body.pieces)
        return await asyncio.to_thread(payload_sha256, request.body.pieces)

    # -- corrections ----------------------------------------------------------------------------

    async def _correct(self, error: StoreError, terms: _Terms) -> bool:
        """Put right what `error` complains of; tell whether to send the request again.

        While the request was under way, another one may have had the same thing put right.
        """
        if error.fault is Fault.EXPIRED_CREDENTIALS:
            now = await self._provider.current()
            return now != terms.credentials or await self._provider.renew()
        if not isinstance(error, ReplyError):
            return False
        if error.fault is Fault.CLOCK_SKEW:
            return self._skew != terms.skew or self._set_clock(error.reply)
        if error.fault is Fault.WRONG_REGION:
            return self.line is not terms.line or self._follow(error.reply)
        return False

    def _set_clock(self, reply: Reply) -> bool:
        theirs = server_time(reply)
        if theirs is None:
            return False
        skew = theirs - datetime.now(UTC).timestamp()
        if abs(skew - self._skew) < 1.0:
            return False  # signed with their time already: that is not it
        self._skew = skew
        event(_log, logging.WARNING, "clock_differs", {
            "seconds": round(skew), "advice": "the server's time is used: set this machine's clock"
        })  # fmt: skip
        return True

    def _follow(self, reply: Reply) -> bool:
        region, location = redirect_of(reply)
        if location == str(self.line.target.endpoint):
            location = ""
        if region in {"", self.line.target.region} and not location:
            return False
        line = self._reroute(region or self.line.target.region, location)
        if line.target == self.line.target:
            return False
        event(_log, logging.INFO, "rerouted", {
            "from": self.line.target.region, "to": line.target.region,
            "endpoint": line.target.endpoint,
        })  # fmt: skip
        self.line = line
        return True


def _is_of_store(reply: Reply, operation: str) -> bool:
    """Tell a success of the store from a login page's, or nothing would tell of lost data."""
    proof = _PROOF.get(operation)
    return (proof is None or proof in reply.head.headers) and not _PAGE.match(reply.body)


def redirect_of(reply: Reply) -> tuple[str, str]:
    """Return the region and the origin (scheme and authority) that a redirect names; "" for none.

    S3 gives the region in a header or in the document; a temporary redirect, while a new bucket's
    name spreads, only a Location.
    """
    headers, fields = reply.head.headers, parse_error(reply.body)
    region = headers.get("x-amz-bucket-region") or fields.get("Region", "")
    if not _REGION.fullmatch(region):
        region = ""  # it would become part of a header
    host, origin = _origin_of(headers.get("location", ""))
    if not region and (match := _REGION_IN_HOST.search(host)):
        region = match[1]
    return region, origin if not region else ""


def _origin_of(location: str) -> tuple[str, str]:
    """Return host and origin of an address, both "" when it is none."""
    try:
        parts = urlsplit(location)
        if parts.hostname and parts.port != 0:
            return parts.netloc, f"{parts.scheme}://{parts.netloc}"
    except ValueError:  # a bracket without its pair, a port that is no number
        pass
    return "", ""
