"""Trying what a mount does to a bucket, on keys of its own, and saying what came of each.

For `fuse-s3 doctor`: which request a policy refuses shows only when somebody makes it, and better
now than when a program closes its file.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.retry import STARTING, Retrier
from fuse_s3_worker.store.types import Body, ObjectInfo

__all__ = ["examine"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_DEADLINE = 12.0  # seconds for all of it: mount.s3 waits for 30, and the first answer may take 22
_CLEANING = 4.0  # seconds more to take the probes away
_CONTENT = b"fuse-s3 doctor was here, and could not remove this object.\n"


class _SkippedError(Exception):
    """There is no sense in trying; the text says why."""


async def examine(store: S3Store, prefix: str, *, read_only: bool) -> None:
    """Try it, and log one line (event `examined`) for each thing that was tried."""
    store.caller.retrier = Retrier(STARTING)
    await _Examination(store, prefix).run(read_only=read_only)


class _Examination:
    def __init__(self, store: S3Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._probe = f"{prefix}.fuse-s3-doctor-{secrets.token_hex(8)}"
        self._copy = f"{self._probe}-copy"
        self._made: ObjectInfo | None = None

    async def run(self, *, read_only: bool) -> None:
        _tell("list", "ok")  # or there would be no store
        _tell_clock(self._store.caller.last_date)
        try:
            async with asyncio.timeout(_DEADLINE):
                if not read_only:
                    self._made = await self._try("put", self._put)
                await self._try("get", self._get)
                if not read_only:
                    await self._try("copy", self._duplicate)
                    await self._multipart()
        except TimeoutError:
            _tell("time", "failed", f"it took more than {_DEADLINE:.0f} s")
        finally:
            await self._clean(read_only=read_only)

    async def _try(self, action: str, deed: Callable[[], Awaitable[_T]]) -> _T | None:
        """Do it; None when it cannot be done."""
        try:
            result = await deed()
        except _SkippedError as reason:
            _tell(action, "skipped", str(reason))
        except StoreError as error:
            _tell(action, "failed", str(error), error)
        else:
            _tell(action, "ok")
            return result
        return None

    async def _put(self) -> ObjectInfo:
        return await self._store.put(self._probe, Body((_CONTENT,), len(_CONTENT)))

    async def _get(self) -> None:
        """Get the probe; where there is none, whatever the bucket has."""
        if self._made is not None:
            _, data = await self._store.peek(self._probe, len(_CONTENT) + 1)
            if bytes(data) != _CONTENT:
                text = f"GetObject {self._probe!r}: not what was put there"
                raise StoreError(Fault.BAD_REPLY, text)
            return
        page = await self._store.list_page(self._prefix, max_keys=10)
        found = next((info for info in page.objects if info.size), None)
        if found is None:
            raise _SkippedError("there is no object to get")
        await self._store.peek(found.key, 1)

    async def _duplicate(self) -> None:
        if self._made is None:
            raise _SkippedError("there is no object to copy")
        await self._store.duplicate(self._made, self._copy)

    async def _multipart(self) -> None:
        upload = await self._try("multipart", lambda: self._store.create_multipart(self._probe))
        if upload is not None:
            await self._try("abort", lambda: self._store.abort_multipart(upload))

    async def _clean(self, *, read_only: bool) -> None:
        """Take away what may be there, also what was refused: the refusal may have been late."""
        if read_only:
            return
        try:
            async with asyncio.timeout(_CLEANING):
                await self._try("delete", self._delete)
        except TimeoutError:
            _tell("delete", "failed", f"{self._probe} may be there still")

    async def _delete(self) -> None:
        await self._store.delete(self._probe)
        await self._store.delete(self._copy)


def _tell(action: str, outcome: str, reason: str = "", error: StoreError | None = None) -> None:
    details: dict[str, object] = {"action": action, "outcome": outcome, "reason": reason or None}
    details |= {"fault": error.fault.name} | error.details if error is not None else {}
    event(_log, logging.INFO, "examined", details)


def _tell_clock(date: str) -> None:
    """Say how far the server's clock is ahead of ours, in seconds."""
    try:
        ahead = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        _tell("clock", "skipped", "the server does not tell the time")
        return
    event(_log, logging.INFO, "examined", {
        "action": "clock", "outcome": "ok", "seconds": round(ahead)
    })  # fmt: skip
