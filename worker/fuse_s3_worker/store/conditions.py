"""Replacing a version and no other, on servers of all kinds.

Amazon stores an object with If-Match only in the place of the version that is named. Others do so
for some operations and ignore it in others, want the tag without its quotes, or refuse the header.
What a server does is found out by the first request that needs it, without a trace in the bucket:
it names a version that nobody has. A server that minds conditions refuses that, and is asked again
with the right one. One that does not mind has stored the object; and so that it was right to store
it, what is there is looked at before. From then on this look is all that can be had there.
"""

import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["Conditions"]

_log = logging.getLogger(__name__)

_NOBODYS = '"00000000000000000000000000000000"'
_REFUSED = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST})

Send = Callable[[dict[str, str]], Awaitable[ObjectInfo]]
"""Sends the request with some more headers."""


class _Way(Enum):
    """How a server is told which version may be replaced."""

    UNKNOWN = auto()
    QUOTED = auto()
    UNQUOTED = auto()  # Ceph 16 compares with what it has, which has no quotes
    LOOK = auto()  # it does not mind: look before


class Conditions:
    """What one server makes of If-Match, by operation."""

    def __init__(self, head: Callable[[str], Awaitable[ObjectInfo]], *, amazon: bool) -> None:
        self._head = head
        self._first = _Way.QUOTED if amazon else _Way.UNKNOWN
        self._ways: dict[str, _Way] = {}

    async def run(self, operation: str, replaced: ObjectInfo | None, send: Send) -> ObjectInfo:
        """Return what `send` returns, which replaces the version `replaced` or nothing at all.

        Raises:
            StoreError: CHANGED, another version is there, or none.
        """
        if replaced is None:
            return await send({})
        way = self._ways.get(operation, self._first)
        if way is _Way.UNKNOWN and replaced.etag:
            return await self._find_out(operation, replaced, send)
        if way is _Way.LOOK or not replaced.etag:
            await self.look(replaced)
            return await send({})
        return await self._send(replaced, send, way)

    async def _find_out(self, operation: str, replaced: ObjectInfo, send: Send) -> ObjectInfo:
        await self.look(replaced)
        stored = await self._ask_for_nobodys(operation, send)
        if stored is not None:
            return stored
        for way in (_Way.QUOTED, _Way.UNQUOTED):
            try:
                stored = await self._send(replaced, send, way)
            except StoreError as error:
                if error.fault is not Fault.CHANGED:
                    raise
                await self.look(replaced)  # which it may be indeed, by now
            else:
                self._ways[operation] = way
                return stored
        self._ignores(operation, "none is ever met")
        return await send({})

    async def _ask_for_nobodys(self, operation: str, send: Send) -> ObjectInfo | None:
        """Try to replace a version that nobody has; return what was stored all the same."""
        try:
            stored = await send({"if-match": _NOBODYS})
        except StoreError as error:
            if error.fault in {Fault.CHANGED, Fault.NOT_FOUND}:
                return None
            if error.fault not in _REFUSED:
                raise
            self._ignores(operation, error)
            return await send({})
        self._ignores(operation, "it was not minded")
        return stored

    async def _send(self, replaced: ObjectInfo, send: Send, way: _Way) -> ObjectInfo:
        etag = replaced.etag if way is _Way.QUOTED else replaced.etag.strip('"')
        try:
            return await send({"if-match": etag})
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            raise _changed(replaced, "removed") from error

    async def look(self, replaced: ObjectInfo) -> None:
        """See that `replaced` is what is there.

        Raises:
            StoreError: CHANGED, it is not.
        """
        try:
            found = await self._head(replaced.key)
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            raise _changed(replaced, "removed") from error
        if _version(found, replaced) != _version(replaced, found):
            raise _changed(replaced, "replaced")

    def _ignores(self, operation: str, reason: object) -> None:
        self._ways[operation] = _Way.LOOK
        event(_log, logging.INFO, "conditions_ignored", {
            "operation": operation, "reason": reason,
            "advice": "another client's change in the same moment may be overwritten here",
        })  # fmt: skip


def _version(info: ObjectInfo, other: ObjectInfo) -> object:
    """Return what tells a version from others; without an entity tag, size and time must do."""
    if info.etag and other.etag:
        return info.etag.removeprefix("W/").strip('"')
    return info.size, info.mtime


def _changed(replaced: ObjectInfo, what: str) -> StoreError:
    text = f"{replaced.key!r} was {what} by another client while it was written"
    return StoreError(Fault.CHANGED, text)
