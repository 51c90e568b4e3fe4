"""What can become of a request on its way: the actions that a proxy's rules name.

Each function returns an action. "Before" and "after" are the server's point of view: what breaks
before, it never saw; what breaks after, it has done.
"""

import asyncio
import itertools
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape

from support.proxy import Action, Exchange, pass_on

__all__ = [
    "Gate",
    "answer",
    "clock",
    "close_before",
    "cut",
    "expired_key",
    "headers",
    "html",
    "in_waves",
    "lose_reply",
    "region",
    "reset_before",
    "s3_error",
    "shorten",
    "slow",
    "stall",
]

_AMZ_DATE = "%Y%m%dT%H%M%SZ"
_TOLERANCE = timedelta(minutes=5)
_KEY_IN_USE = re.compile(r"Credential=([^/]+)/")


class Gate:
    """Holds requests until a test lets them go.

    Attributes:
        waiting: how many have come.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._open = threading.Event()

    def open(self) -> None:
        """Let everything through, now and later."""
        self._open.set()

    async def hold_before(self, exchange: Exchange) -> None:
        """Hold a request back from the server."""
        await self._wait()
        await pass_on(exchange)

    async def hold_after(self, exchange: Exchange) -> None:
        """Hold back the reply to a request that the server has had."""
        reply = await exchange.forward()
        await self._wait()
        await exchange.relay(reply)

    async def _wait(self) -> None:
        self.waiting += 1
        while not self._open.is_set():  # noqa: ASYNC110  set by another thread
            await asyncio.sleep(0.01)


# -- the connection ends ---------------------------------------------------------------------------


def close_before() -> Action:
    """Close the connection; the server hears nothing."""

    async def act(exchange: Exchange) -> None:
        await exchange.discard_body()
        exchange.close()

    return act


def reset_before() -> Action:
    """Reset it."""

    async def act(exchange: Exchange) -> None:
        exchange.reset()

    return act


def lose_reply() -> Action:
    """Let the server do what was asked, and close without a word of it."""

    async def act(exchange: Exchange) -> None:
        async for _ in exchange.body_of(await exchange.forward()):
            pass
        exchange.close()

    return act


def cut(after: int) -> Action:
    """Close after so many bytes of the reply's body."""

    async def act(exchange: Exchange) -> None:
        await exchange.relay(await exchange.forward(), most=after)

    return act


def stall(after: int = 0) -> Action:
    """Send so many bytes of the reply's body and then nothing more, with the connection open."""

    async def act(exchange: Exchange) -> None:
        reply = await exchange.forward()
        body = b"".join([piece async for piece in exchange.body_of(reply)])
        await exchange.send(reply, body[:after])
        await asyncio.Event().wait()

    return act


def slow(seconds: float) -> Action:
    """Wait before passing a request on."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await pass_on(exchange)

    return act


# -- again and again -------------------------------------------------------------------------------


def in_waves(action: Action, length: int) -> Action:
    """Do `action` to so many requests, let as many pass, and so on."""
    numbers = itertools.count()

    async def act(exchange: Exchange) -> None:
        calm = next(numbers) // length % 2
        await (pass_on if calm else action)(exchange)

    return act


# -- another reply ---------------------------------------------------------------------------------


def headers(**changed: str) -> Action:
    """Change headers of the reply; an underscore in a name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in changed.items()}

    async def act(exchange: Exchange) -> None:
        await exchange.relay(await exchange.forward(), changed=named)

    return act


def shorten(by: int) -> Action:
    """Send a reply that is whole and consistent, with so many bytes of the body missing."""

    async def act(exchange: Exchange) -> None:
        reply = await exchange.forward()
        body = b"".join([piece async for piece in exchange.body_of(reply)])[:-by]
        reply.headers["content-length"] = str(len(body))
        await exchange.send(reply, body)

    return act


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Action:
    """Answer in the server's place."""

    async def act(exchange: Exchange) -> None:
        await exchange.reply(status, dict(headers or {}), body)

    return act


def html(status: int = 200) -> Action:
    """Answer as a login page or a load balancer does."""
    page = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Sign in</body></html>"
    return answer(status, page, {"content-type": "text/html"})


def s3_error(
    status: int,
    code: str,
    message: str = "",
    *,
    more: str = "",
    headers: Mapping[str, str] | None = None,
) -> Action:
    """Refuse as S3 does: a document with the code, and a request id to quote."""
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message or code)}</Message>{more}"
        "<RequestId>FAULT0001</RequestId></Error>"
    ).encode()
    fields = {"content-type": "application/xml", "x-amz-request-id": "FAULT0001"}
    return answer(status, document, fields | dict(headers or {}))


def clock(ahead: timedelta) -> Action:
    """Be a server whose clock is ahead by that much, and which minds."""

    async def act(exchange: Exchange) -> None:
        now = datetime.now(UTC) + ahead
        date = {"date": format_datetime(now, usegmt=True)}
        stamp = exchange.request.headers.get("x-amz-date", "")
        signed = datetime.strptime(stamp, _AMZ_DATE).replace(tzinfo=UTC)
        if abs(signed - now) > _TOLERANCE:
            await s3_error(403, "RequestTimeTooSkewed", headers=date)(exchange)
        else:
            await exchange.relay(await exchange.forward(), changed=date)

    return act


def region(name: str, refusal: Action) -> Action:
    """Be a server of one region: refuse, in the given way, what is signed for another."""

    async def act(exchange: Exchange) -> None:
        if f"/{name}/s3/aws4_request" in exchange.request.headers.get("authorization", ""):
            await pass_on(exchange)
        else:
            await refusal(exchange)

    return act


def expired_key(access_key: str) -> Action:
    """Refuse what is signed with this key as expired; let other keys through."""

    async def act(exchange: Exchange) -> None:
        used = _KEY_IN_USE.search(exchange.request.headers.get("authorization", ""))
        if used and used[1] == access_key:
            await s3_error(400, "ExpiredToken", "The provided token has expired.")(exchange)
        else:
            await pass_on(exchange)

    return act
