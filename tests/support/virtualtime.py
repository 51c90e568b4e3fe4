"""An event loop in virtual time, and what must be true when a test is done with it.

Nobody sleeps: when everything waits for a timer, the clock moves on to it, so that a patience of
a minute costs nothing and no test depends on how fast the machine is. When everything waits and
there is no timer either, nothing will ever happen again: that is reported instead of waited for.
"""

import asyncio
import functools
import gc
import logging
import selectors
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar

__all__ = ["Bench", "StuckError", "end_all", "on_loop", "run", "settle"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TURNS = 200  # of the loop, after which whatever can happen without a timer has happened


class StuckError(AssertionError):
    """Everything waits, and nothing that anybody waits for is ever going to happen."""


class _VirtualSelector(selectors.EpollSelector):
    """Looks at descriptors without waiting; lets time pass instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise StuckError("everything waits, and nothing is going to happen")
        self.now += max(timeout, 0)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class _Recorder(logging.Handler):
    """Keeps the names of the events that an operator would be shown."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[str]:
        """Return what was logged since the last time."""
        taken, self.records = self.records, []
        return [record.getMessage() for record in taken]


class Bench:
    """A loop for a test that runs it in several steps; `close` checks what is left behind."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=_VirtualLoop)
        self._unseen: list[str] = []
        self._log = _Recorder()
        self._runner.get_loop().set_exception_handler(self._failed_unseen)
        logging.getLogger("fuse_s3_worker").addHandler(self._log)

    def _failed_unseen(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._unseen.append(f"{context['message']}: {context.get('exception')!r}")

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end."""
        return self._runner.run(work)

    def close(self, *, logged: Iterable[str] = (), may_log: Iterable[str] = ()) -> None:
        """End the loop: no task may be left waiting, no error unseen, no event unexpected."""
        try:
            self.run(_all_done())
            gc.collect(1)  # a task says when it is deleted that nobody took note of its error
            self.run(settle(1))
        finally:
            self.abandon()
        assert not self._unseen
        lines = self._log.take()
        names = [line.split(" ", 1)[0] for line in lines]
        assert set(logged) <= set(names), lines
        assert set(names) <= {*logged, *may_log}, lines

    def abandon(self) -> None:
        """End the loop without a look at what is left."""
        logging.getLogger("fuse_s3_worker").removeHandler(self._log)
        self._runner.close()


async def settle(turns: int = _TURNS) -> None:
    """Let everything happen that needs no timer."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def end_all() -> None:
    """Let a mount end as if it had been killed: nobody goes on with what it did."""
    await settle()  # a task that has not begun would not let go of what it holds
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await settle()


async def _all_done() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def run(
    work: Coroutine[Any, Any, _T], *, logged: Iterable[str] = (), may_log: Iterable[str] = ()
) -> _T:
    """Run `work`, and everything it has started, to the end in virtual time.

    Args:
        work: what to run.
        logged: events, warnings and worse, that are logged; no others are.
        may_log: events that may be logged too.
    """
    bench = Bench()
    try:
        result = bench.run(work)
    except BaseException:
        bench.abandon()
        raise
    bench.close(logged=logged, may_log=may_log)
    return result


def on_loop(
    *logged: str,
) -> Callable[[Callable[_P, Coroutine[Any, Any, None]]], Callable[_P, None]]:
    """Make a test of a coroutine function; `logged` as for `run`."""

    def decorate(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
        @functools.wraps(test)
        def on_its_own_loop(*args: _P.args, **kwargs: _P.kwargs) -> None:
            run(test(*args, **kwargs), logged=logged)

        return on_its_own_loop

    return decorate
