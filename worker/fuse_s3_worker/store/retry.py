"""Trying again: what is temporary, with growing and random pauses, for a bounded time.

Every request of ours may be sent twice: all of them say what shall be, none says "one more". So
the only question is for how long. Throttling is the store's way of asking for patience and gets
the most of it. Progress, such as bytes of a body, starts the patience anew.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import event

__all__ = ["PATIENT", "STARTING", "Patience", "Retrier"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_QUIET_ATTEMPTS = 2  # hardly worth a word: one stale connection, one 500
_LOUD_ATTEMPTS = 5


class Patience(NamedTuple):
    """For how many seconds an operation is tried again."""

    throttled: float
    otherwise: float
    pause: float = 0.1  # the first pause is up to this long; each one may be twice the last
    longest_pause: float = 10.0


PATIENT = Patience(throttled=300.0, otherwise=60.0)
STARTING = Patience(throttled=12.0, otherwise=6.0)  # mount answers within 30 s


class Retrier:
    """Runs operations under one patience."""

    def __init__(self, patience: Patience = PATIENT) -> None:
        self.patience = patience
        self.retries = 0

    async def run(
        self,
        attempt: Callable[[], Awaitable[_T]],
        progress: Callable[[], int] | None = None,
    ) -> _T:
        """Return what `attempt` returns, trying again while its StoreError is temporary.

        `progress` is a number that grows while an operation gets on.
        """
        loop = asyncio.get_running_loop()
        last, reached, failures = loop.time(), 0, 0
        # By kind of trouble: how long a server throttled does not count when it is then away.
        spent = {True: 0.0, False: 0.0}
        while True:
            try:
                return await attempt()
            except StoreError as error:
                if not error.temporary:
                    raise
                if progress is not None and progress() > reached:
                    spent, reached, failures = {True: 0.0, False: 0.0}, progress(), 0
                    last = loop.time()
                throttled = error.fault is Fault.THROTTLED
                spent[throttled] += loop.time() - last
                last, failures = loop.time(), failures + 1
                pause = self._pause(error, failures)
                if spent[throttled] + pause >= self._limit(error):
                    raise
                self._note(error, failures, pause)
            await asyncio.sleep(pause)

    def _limit(self, error: StoreError) -> float:
        throttled = error.fault is Fault.THROTTLED
        return self.patience.throttled if throttled else self.patience.otherwise

    def _pause(self, error: StoreError, failures: int) -> float:
        doubled = self.patience.pause * 2.0 ** min(failures, 32)  # a float has no 2**1024
        longest = min(doubled, self.patience.longest_pause)
        # Random over the whole length, so that what failed together does not return together.
        pause = random.uniform(0.0, longest)  # noqa: S311
        return max(pause, min(error.retry_after or 0.0, self.patience.longest_pause))

    def _note(self, error: StoreError, failures: int, pause: float) -> None:
        self.retries += 1
        level = logging.DEBUG
        if failures > _QUIET_ATTEMPTS:
            level = logging.WARNING if failures > _LOUD_ATTEMPTS else logging.INFO
        details = {"reason": error, "attempt": failures, "pause": f"{pause:.2f}"} | error.details
        event(_log, level, "retry", details)
