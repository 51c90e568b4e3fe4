"""Storing later: what close may leave undone, who hurries it along, what a killed worker keeps."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fs.recording import HandleRecord, NothingRecorded
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.journal import State
from fuse_s3_worker.transfer.recovery import what_is_left
from support.gatedstore import GatedStore, unreachable
from support.posixtree import PosixTree
from support.tree import Tree
from support.virtualtime import end_all, on_loop, run

SECONDS = 10.0
QUIET = 2.0  # seconds after which what was put off by a moment is done


@asynccontextmanager
async def mounted(
    cache: Path, store: GatedStore | None = None, *, write_back: float = SECONDS
) -> AsyncIterator[Tree]:
    """Set up a mount that stores later."""
    made = Tree(store=store or GatedStore(), cache=cache, write_back=write_back)
    yield made
    await made.finish()


def states(t: Tree) -> list[State | None]:
    directory = t.fs.staging.directory
    assert directory is not None
    return [left.known.state if left.known else None for left in what_is_left(directory)]


def stored(t: Tree, key: str) -> bytes | None:
    found = t.store.stored(key)
    return found.data if found else None


def test_a_file_is_stored_so_many_seconds_after_its_close(tmp_path: Path) -> None:
    async def body() -> None:
        async with mounted(tmp_path) as t:
            await t.put("k", b"one")
            assert (stored(t, "k"), states(t)) == (None, [State.COMMITTING])
            assert await t.read_all("k") == b"one"
            await asyncio.sleep(SECONDS - 1)
            assert stored(t, "k") is None
            await asyncio.sleep(2)
            assert (stored(t, "k"), states(t)) == (b"one", [])

    run(body())


def test_a_file_that_is_written_again_and_again_is_stored_less_often(tmp_path: Path) -> None:
    """What was closed is stored as it was closed, before it is changed."""

    async def body() -> None:
        async with mounted(tmp_path) as t:
            for number in range(3):
                await t.put("k", b"%d" % number)
            assert t.store.count("PutObject") <= 2
        assert stored(t, "k") == b"2"

    run(body())


def test_fsync_and_unmounting_do_not_wait(tmp_path: Path) -> None:
    async def body() -> None:
        async with mounted(tmp_path) as t:
            await t.put("k", b"one")
            handle = await t.open("k", os.O_RDWR)
            await t.fs.files.fsync(handle)
            assert stored(t, "k") == b"one"
            await t.close(handle)
            await t.put("other", b"two")
            assert stored(t, "other") is None
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < SECONDS
        assert stored(t, "other") == b"two"

    run(body())


def test_a_failure_is_logged_and_tried_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with mounted(tmp_path) as t:
            await t.put("k", b"one")
            t.store.fail("put", unreachable())
            await asyncio.sleep(SECONDS + 1)
            assert (stored(t, "k"), states(t)) == (None, [State.COMMITTING])
            await asyncio.sleep(60)
            assert (stored(t, "k"), states(t)) == (b"one", [])

    run(body(), logged=["write_back_failed"])


def test_a_failure_for_good_is_logged_and_the_file_kept(tmp_path: Path) -> None:
    async def body() -> None:
        async with mounted(tmp_path) as t:
            await t.put("k", b"one")
            t.store.fail("put", StoreError(Fault.FORBIDDEN, "no"))
            await asyncio.sleep(SECONDS + 1)
            assert (stored(t, "k"), states(t)) == (None, [State.COMMITTING])
            # What was promised is gone from here, and is not forgotten.
            assert not await t.exists("k")

    run(body(), logged=["write_back_failed", "staged_kept"])


# -- attributes ------------------------------------------------------------------------------------


def posix_mount(store: GatedStore, cache: Path) -> PosixTree:
    return PosixTree(store=store, cache=cache, write_back=3600.0)


def test_the_next_worker_stores_attributes_too(tmp_path: Path) -> None:
    """Those of the close, and those that were set since; and what a plain file had stays."""

    async def body() -> None:
        store = GatedStore()
        store.write("old", b"before", headers={"x-amz-meta-mode": str(0o100604)})
        t = posix_mount(store, tmp_path)
        handle = await t.create("new", mode=0o640)
        await t.write(handle, 0, b"new")
        await t.close(handle)
        await t.put("late", b"late")
        await t.change("late", mode=0o600, mtime=1_400_000_000_123_456_789)
        await t.change("late", uid=77)
        await t.put("old", b"after")
        await asyncio.sleep(QUIET)
        expected = {name: await t.stat(name) for name in ("new", "late", "old")}
        assert [(a.mode, a.uid) for a in expected.values()] == [
            (0o100640, 1000), (0o100600, 77), (0o100604, expected["old"].uid),
        ]  # fmt: skip
        await end_all()
        second = posix_mount(store, tmp_path)
        second.fs.start()
        for name, then in expected.items():
            now = await second.stat(name)
            for field in ("mode", "uid", "gid", "mtime", "size"):
                assert getattr(now, field) == getattr(then, field), (name, field)
        assert second.headers("late")["x-amz-meta-mode"] == str(0o100600)
        await second.finish()

    run(body())


class Told(NothingRecorded):
    """Keeps what a successor would have to know of changes."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def opened(self, handle: HandleRecord, version: ObjectInfo | None) -> None:
        self.events.append("opened")

    def released(self, number: int) -> None:
        self.events.append("released")

    def changes(self, node: Node) -> None:
        self.events.append("changes")


@on_loop()
async def test_a_successor_is_told_that_a_file_that_is_opened_again_was_not_stored(
    tmp_path: Path,
) -> None:
    """Otherwise it would go on from what the bucket has, without what was closed."""
    async with mounted(tmp_path) as t:
        t.store.write("file", b"12345")
        told = Told()
        t.fs.record(told)
        handle = await t.open("file", os.O_WRONLY)
        await t.write(handle, 1, b"x")
        await t.close(handle)
        assert t.store.read("file") == b"12345"
        handle = await t.open("file", os.O_WRONLY)
        assert told.events[-3:] == ["released", "opened", "changes"]
        await t.close(handle)
