"""A store that is alive until the worker that asks it is killed, in the middle of a request."""

import asyncio
import inspect
import math
from typing import cast

from fuse_s3_worker.store.types import ObjectStore
from support.gatedstore import GatedStore

__all__ = ["Mortal"]


class Mortal:
    """Passes everything on, until no reply comes any more.

    Attributes:
        inner: the bucket, which lives on.
    """

    def __init__(self, inner: GatedStore) -> None:
        self.inner = inner
        self._asked = 0
        self._last = math.inf
        self._done = ""

    def __getattr__(self, name: str) -> object:
        value = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def request(*args: object, **named: object) -> object:
            self._asked += 1
            answered = self._asked <= self._last
            reply = None
            if self._done == "in part" and name == "delete_many" and not answered:
                args = (args[0][1:], *args[1:])  # type: ignore[index]  # a sequence of objects
            if answered or (self._done and self._asked == self._last + 1):
                reply = await value(*args, **named)
            if not answered:
                await asyncio.Event().wait()
            return reply

        return request

    def die_after(self, requests: int, done: str) -> None:
        """Answer so many requests more.

        The store has `done` what the next one asks for if that is not "", or all but one of
        many deletions if it is "in part".
        """
        self._last, self._done = self._asked + requests, done

    def live(self) -> None:
        """Answer again, those who ask from now on."""
        self._last = math.inf

    @property
    def as_store(self) -> ObjectStore:
        """Itself, as what it behaves like."""
        return cast(ObjectStore, self)
