"""Running a coroutine to its end on either event loop, and never for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

__all__ = ["LOOPS", "run"]

_T = TypeVar("_T")
_PATIENCE = 30.0  # seconds; only a test that hangs waits so long

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
"""The loop of the worker, and the one that libraries are written for."""


def run(main: Coroutine[Any, Any, _T], loop: str = "uvloop") -> _T:
    """Return the result of `main`, run on the loop of this name.

    An error that the loop would only have logged, such as an exception in a callback, is raised.
    """
    unhandled: list[str] = []

    async def bounded() -> _T:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: unhandled.append(f"{context['message']}: {context}")
        )
        async with asyncio.timeout(_PATIENCE):
            return await main

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        result = runner.run(bounded())
    if unhandled:
        raise AssertionError("; ".join(unhandled))
    return result
