"""Renames that break off at every request there is: each key is at one place or at the other.

Never at neither; and who tries again, or the next mount, gets it done.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.fs.movejournal import Journal, Journals, Unfinished
from fuse_s3_worker.fs.treerename import Moving
from support.gatedstore import GatedStore
from support.tree import Tree
from support.virtualtime import end_all, run, settle

_P = ParamSpec("_P")
_T = TypeVar("_T")

REFUSED = StoreError(Fault.FORBIDDEN, "no")

FILE = {"a": b"content", "c": b"something else"}
TREE = {f"a/{number:02}": str(number).encode() for number in range(7)} | {
    "a/": b"",
    "a/s/x": b"deep",
    "c": b"something else",
}
MAY_LOG = ["rename_failed", "rename_not_undone", "rename_left_originals"]


def moved(objects: dict[str, bytes]) -> dict[str, bytes]:
    """Return what is there in the end."""
    return {key.replace("a", "b", 1): data for key, data in objects.items()}


def contents(store: GatedStore) -> dict[str, bytes]:
    """Return what is in the bucket."""
    keys = store.keys()
    return {key: store.read(key) for key in keys}


def check_nothing_is_lost(store: GatedStore, objects: dict[str, bytes]) -> None:
    """See that every file is at its old place or at its new one, whole, and nothing else is."""
    found, new = contents(store), moved(objects)
    assert found.items() <= (objects | new).items()
    for key in objects:
        assert key in found or key.replace("a", "b", 1) in found


async def mount(store: GatedStore, journals: Journals | None = None) -> Tree:
    """Return a mount of a store, with few connections, so that steps come one after the other."""
    store.page_max = 4
    return Tree(store=store, moving=Moving(connections=2, journals=journals))


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("objects", [FILE, TREE], ids=["file", "tree"])
def test_whatever_request_fails(
    objects: dict[str, bytes], *, afterwards: bool, strict: bool
) -> None:
    failed = [
        run(_failing(objects, nth, afterwards=afterwards, strict=strict), may_log=MAY_LOG)
        for nth in range(1, 40)
    ]
    assert any(failed)
    assert not failed[-1]  # there are not so many requests


async def _failing(objects: dict[str, bytes], nth: int, *, afterwards: bool, strict: bool) -> bool:
    """Rename while the nth request fails; tell whether the rename does."""
    store = GatedStore(objects)
    store.strict = strict
    t = await mount(store)
    handle = await t.open("a/s/x" if "a/s/x" in objects else "a")
    node = await t.walk("a")
    store.fail_request(nth, REFUSED, afterwards=afterwards)
    failed = False
    try:
        await t.rename("a", "b")
    except ServeError:
        failed = True
        check_nothing_is_lost(store, objects)
    else:
        assert contents(store) == moved(objects)
    store.mend()
    # What the mount shows is there: all of it under one name.
    name = "b" if await t.exists("b") and await t.walk("b") == node else "a"
    for key, data in objects.items():
        if key[0] == "a" and key[-1] != "/":
            assert await t.read_all(name + key[1:]) == data
    assert await t.read(handle) == objects.get("a/s/x", objects.get("a"))
    await _try_again(t, objects, failed=failed, name=name)
    await t.finish()
    return failed


async def _try_again(t: Tree, objects: dict[str, bytes], *, failed: bool, name: str) -> None:
    """Do what a person does who is told that it failed."""
    if failed and name == "a":
        for key in t.store.keys()[:]:  # what may be left at the new place is of no use
            if key[0] == "b":
                t.store.remove(key)
        t.metadata.forget_below("")
        await t.rename("a", "b")
    elif failed:
        for key in t.store.keys()[:]:
            if key[0] == "a":
                t.store.remove(key)
    assert contents(t.store) == moved(objects)


# -- the end of the worker ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time nobody waits for threads."""

    monkeypatch.setattr(asyncio, "to_thread", _inline)


async def _inline(work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    return work(*args, **kwargs)


class Remembering(Journals):
    """Journals whose locks end with the worker that is given up."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.made: list[Journal] = []

    def create(self) -> Journal | None:
        journal = super().create()
        if journal is not None:
            self.made.append(journal)
        return journal

    def unfinished(self) -> list[Unfinished]:
        found = super().unfinished()
        self.made += [one.journal for one in found]
        return found

    def let_go(self) -> None:
        """Close what a dead process has open."""
        for journal in self.made:
            journal.close()


@pytest.mark.parametrize("strict", [True, False])
def test_wherever_the_worker_dies(tmp_path: Path, *, strict: bool) -> None:
    done = False
    for count in range(60):
        directory = tmp_path / str(count)
        directory.mkdir()
        done = run(_dying(directory, count, strict=strict), may_log=["rename_resumed"])
    assert done


async def _dying(directory: Path, count: int, *, strict: bool) -> bool:
    """End after so many requests, and mount again; tell whether the rename was done before."""
    store = GatedStore(TREE)
    store.strict = strict
    journals = Remembering(directory)
    t = await mount(store, journals)
    await t.walk("a")
    store.stop_after(count)
    renaming = asyncio.create_task(t.rename("a", "b"))
    await settle()
    done = renaming.done()
    check_nothing_is_lost(store, TREE)
    await _kill(journals)
    store.mend()
    begun = bool(_files(directory))
    again = await mount(store, Journals(directory))
    again.fs.start()
    await settle()
    assert contents(store) in ([moved(TREE)] if begun or done else [TREE])
    assert _files(directory) == []
    # And once more, it is not done twice.
    for name in ("a", "b"):
        if await again.exists(name):
            assert len(await again.list(name)) == 8
    await again.finish()
    return done


def _files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def _kill(journals: Remembering) -> None:
    """End what a dead process would not go on with."""
    journals.let_go()
    await end_all()


def test_the_next_mount_dies_too(tmp_path: Path) -> None:
    """Again and again; each gets a little further."""

    async def body() -> None:
        store, journals = GatedStore(TREE), Remembering(tmp_path)
        t = await mount(store, journals)
        await t.walk("a")
        work, lives = t.rename("a", "b"), 0
        while lives < 20:
            store.stop_after(12 if lives else 6)  # one batch of originals in each life
            task, lives = asyncio.create_task(work), lives + 1
            await settle()
            check_nothing_is_lost(store, TREE)
            if task.done():
                break
            await _kill(journals)
            t = await mount(store, journals)
            work = t.fs.renames.trees.resume()
        assert 2 < lives < 20
        assert contents(store) == moved(TREE)
        assert _files(tmp_path) == []

    run(body(), may_log=["rename_resumed"])
