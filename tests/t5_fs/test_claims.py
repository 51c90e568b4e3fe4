"""Claims: who waits for whom, in which order, and that nobody waits for ever."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.fs.claims import Claims
from fuse_s3_worker.fs.nodes import Node, Nodes
from support.virtualtime import on_loop, run, settle


class World:
    """Some nodes, and what happens to them, in the order in which it does."""

    def __init__(self) -> None:
        self.claims = Claims()
        self.nodes = Nodes("")
        self.happened: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def node(self, path: str) -> Node:
        """Return the node of a path."""
        node = self.nodes.root
        for name in path.split("/") if path else ():
            node = self.nodes.child(node, name, directory=True)
        return node

    def change(self, name: str, *paths: str) -> None:
        """Begin a change."""
        self._start(name, self.claims.changing(*map(self.node, paths)))

    def move(self, name: str, *paths: str, within: str = "") -> None:
        """Begin a rename."""
        nodes = tuple(map(self.node, paths))
        self._start(name, self.claims.moving(*nodes, within=(self.node(within),)))

    def _start(self, name: str, claim: AbstractAsyncContextManager[None]) -> None:
        end = self._ends[name] = asyncio.Event()

        async def body() -> None:
            async with claim:
                self.happened.append(name)
                await end.wait()

        self._tasks[name] = asyncio.create_task(body())

    def end(self, *names: str) -> None:
        """Let some end."""
        for name in names:
            self._ends[name].set()

    def cancel(self, name: str) -> None:
        """Give one up."""
        self._tasks[name].cancel()

    async def going(self) -> list[str]:
        """Return what is going on now, in the order of their beginning."""
        await settle()
        return [name for name in self.happened if not self._tasks[name].done()]


@on_loop()
async def test_changes_do_not_wait_for_each_other() -> None:
    w = World()
    w.change("one", "a")
    w.change("two", "a")
    w.change("three", "a/b")
    assert await w.going() == ["one", "two", "three"]
    w.end("one", "two", "three")


@on_loop()
async def test_a_move_waits_for_changes_at_and_below_and_they_for_it() -> None:
    w = World()
    w.change("at", "a")
    w.change("below", "a/b/c")
    w.change("beside", "ab")
    w.move("move", "a")
    assert await w.going() == ["at", "below", "beside"]
    w.change("later", "a/b")
    w.change("elsewhere", "b")
    assert await w.going() == ["at", "below", "beside", "elsewhere"]
    w.end("at")
    assert "move" not in await w.going()
    w.end("below")
    assert await w.going() == ["beside", "elsewhere", "move"]
    w.end("move", "beside", "elsewhere")
    assert await w.going() == ["later"]
    w.end("later")


@on_loop()
async def test_a_move_keeps_the_directories_where_they_are() -> None:
    w = World()
    w.move("inside", "a/x", within="a")
    w.change("neighbour", "a/y")
    w.change("in the same directory", "a")
    w.move("above", "a")
    assert await w.going() == ["inside", "neighbour", "in the same directory"]
    w.end("inside", "neighbour", "in the same directory")
    assert await w.going() == ["above"]
    w.end("above")


@on_loop()
async def test_moves_of_the_same_tree_come_one_after_the_other() -> None:
    for first, second in (("a", "a/b"), ("a/b", "a"), ("a", "a")):
        w = World()
        w.move("first", first)
        w.move("second", second)
        assert await w.going() == ["first"]
        w.end("first")
        assert await w.going() == ["second"]
        w.end("second")


@on_loop()
async def test_who_gives_up_is_waited_for_no_more() -> None:
    w = World()
    w.change("change", "a")
    w.move("move", "a")
    w.change("later", "a")
    assert await w.going() == ["change"]
    w.cancel("move")
    assert await w.going() == ["change", "later"]
    w.end("change", "later")


@on_loop()
async def test_held() -> None:
    w = World()
    assert not w.claims.held(w.node("a"))
    w.change("change", "a")
    await settle()
    assert not w.claims.held(w.node("a"))
    w.move("move", "a")
    await settle()
    assert w.claims.held(w.node("a")), "it will be moved: what is new waits"
    assert w.claims.held(w.node("a/b"))
    assert not w.claims.held(w.node("ab"))
    w.end("change", "move")
    await settle()
    assert not w.claims.held(w.node("a"))


PATHS = ["", "a", "a/b", "a/b/c", "d", "d/e"]
_STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(PATHS), st.sampled_from(PATHS)), max_size=12
)


@pytest.mark.timeout(120)
@settings(deadline=None, max_examples=150)
@given(steps=_STEPS, order=st.randoms(use_true_random=False))
def test_everybody_gets_a_turn(steps: list[tuple[bool, str, str]], order: Random) -> None:
    """And never do two go on together that must not."""

    async def body() -> None:
        w = World()
        kinds: dict[str, tuple[bool, str, str]] = {}
        for number, (moves, path, other) in enumerate(steps):
            if moves and path:
                w.move(str(number), path, within=other)
            else:
                w.change(str(number), path, other)
            kinds[str(number)] = moves and bool(path), path, other
        while going := await w.going():
            for one, two in _pairs(going):
                assert not _clash(kinds[one], kinds[two])
            w.end(order.choice(going))
        assert len(w.happened) == len(steps)

    run(body())


def _pairs(names: list[str]) -> Iterator[tuple[str, str]]:
    return ((one, two) for one in names for two in names if one != two)


def _clash(one: tuple[bool, str, str], two: tuple[bool, str, str]) -> bool:
    """Tell whether the first moves something that the second needs to stay."""
    moves, moved, _ = one
    return moves and any(f"{path}/".startswith(f"{moved}/") for path in two[1:])
