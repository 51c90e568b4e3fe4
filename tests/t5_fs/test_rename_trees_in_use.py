"""Giving directories other names while something in them is open, or being changed."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Coroutine
from typing import Any

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.pattern import pattern
from support.renaming import contents, errno_of
from support.tree import Tree, tree
from support.virtualtime import on_loop, settle

# -- what is open ---------------------------------------------------------------------------------


@on_loop()
async def test_files_are_read_on() -> None:
    large = pattern(20 * MIB)
    async with tree({"d/small": b"content"}) as t:
        await t.mkdir("d/s")
        await t.put("d/s/large", large)
        handles = {path: await t.open(f"d/{path}") for path in ("small", "s/large")}
        assert await t.read(handles["s/large"], 0, 10) == large[:10]
        await t.rename("d", "e")
        assert await t.read(handles["small"]) == b"content"
        for at in range(0, 20 * MIB, MIB):
            assert await t.read(handles["s/large"], at, MIB) == large[at : at + MIB]
        assert t.store.keys() == ["e/s/", "e/s/large", "e/small"]


@on_loop()
async def test_files_that_are_being_written_are_stored_at_the_new_place() -> None:
    async with tree({"d/old": b"first"}) as t:
        new = await t.create("d/s", os.O_RDWR)
        await t.write(new, 0, b"new")
        old = await t.open("d/old", os.O_RDWR)
        await t.write(old, 5, b", second")
        await t.rename("d", "e")
        assert contents(t) == {"e/old": b"first"}
        assert await t.list("e") == {"old": False, "s": False}
        assert await t.read(new) == b"new"
        await t.write(new, 3, b"er")
        await t.close(new)
        await t.close(old)
        assert contents(t) == {"e/old": b"first, second", "e/s": b"newer"}


@on_loop()
async def test_a_directory_with_nothing_but_a_file_that_is_being_written() -> None:
    async with tree({"d/": b""}) as t:
        handle = await t.create("d/x")
        t.store.remove("d/")  # by another client
        await t.rename("d", "e")
        assert t.store.keys() == ["e/"]
        assert await t.list("e") == {"x": False}
        await t.write(handle, 0, b"1")
        await t.close(handle)
        assert contents(t) == {"e/": b"", "e/x": b"1"}


@on_loop()
async def test_a_directory_that_another_client_removed() -> None:
    async with tree({"d/x": b"1"}) as t:
        await t.walk("d")
        t.store.remove("d/x")
        assert await errno_of(t.rename("d", "e")) == errno.ENOENT
        assert t.store.keys() == []
        assert not await t.exists("d")


@on_loop()
async def test_parts_that_are_sent_already() -> None:
    async with tree({"d/x": b"1"}) as t:
        handle = await t.create("d/large")
        await t.write(handle, 0, pattern(9 * MIB))
        assert await errno_of(t.rename("d", "e")) == errno.EBUSY
        await t.write(handle, 9 * MIB, b"!")
        await t.close(handle)
        assert t.store.keys() == ["d/large", "d/x"]
        await t.rename("d", "e")


@on_loop()
async def test_directories_are_read_on() -> None:
    objects = {f"d/s/{number:03}": b"1" for number in range(30)}
    async with tree(objects) as t:
        t.store.page_max = 10
        number = t.fs.directories.opendir(await t.walk("d/s"))
        records = t.fs.directories.entries(number, 0)
        seen = [(await anext(records)) for _ in range(12)]
        await t.rename("d", "e")
        seen += [record async for record in records]
        names = [record.name.decode() for record in seen if not record.is_dot]
        assert names == [f"{number:03}" for number in range(30)]
        found = [t.fs.directories.take(number, record) for record in seen if not record.is_dot]
        for one in found:
            assert one is not None
            t.remember(one)
            assert one.node.key.startswith("e/s/")
            assert one.node.info is not None
            assert one.node.info.key == one.node.key
        # From the beginning, it is what is there now.
        await t.unlink("e/s/000")
        again = [r.name.decode() async for r in t.fs.directories.entries(number, 0)]
        assert again == [".", "..", *names[1:]]
        t.fs.directories.releasedir(number)


# -- what is being changed ------------------------------------------------------------------------


@on_loop()
async def test_changes_below_wait_for_it_and_happen_at_the_new_place() -> None:
    async with tree({"d/x": b"1", "d/y": b"2", "d/s/z": b"3"}) as t:
        nodes = {path: await t.walk(path) for path in ("d", "d/x", "d/s")}
        writer = await t.open("d/s/z", os.O_RDWR)
        t.store.hold("delete_many")
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        names, files = t.fs.names, t.fs.files

        async def create() -> None:
            found, opened = await files.create(nodes["d"], b"created", os.O_WRONLY, os.getpid())
            t.remember(found)
            await files.release(opened.handle)

        async def truncate() -> None:
            truncating = os.O_WRONLY | os.O_TRUNC
            await files.release((await files.open(nodes["d/x"], truncating, os.getpid())).handle)

        below: list[Coroutine[Any, Any, object]] = [
            _remembered(t, names.mkdir(nodes["d"], b"made")),
            _remembered(t, names.mknod(nodes["d/s"], b"file")),
            names.unlink(nodes["d"], b"y"),
            t.write(writer, 1, b"4"),
            create(),
            truncate(),
            t.set(nodes["d/x"], 0),
        ]
        tasks = [asyncio.create_task(work) for work in below]
        other = asyncio.create_task(t.mkdir("elsewhere"))
        await settle()
        assert other.done()
        assert not any(task.done() for task in tasks)
        t.store.let_go("delete_many")
        await renaming
        await asyncio.gather(*tasks)
        await t.close(writer)
        assert contents(t) == {
            "e/created": b"",
            "e/made/": b"",
            "e/s/file": b"",
            "e/s/z": b"34",
            "e/x": b"",
            "elsewhere/": b"",
        }


async def _remembered(t: Tree, work: Awaitable[Found]) -> None:
    t.remember(await work)


@on_loop()
async def test_it_waits_for_changes_below_that_are_under_way() -> None:
    async with tree({"d/s/x": b"1"}) as t:
        handle = await t.create("d/s/new")
        await t.write(handle, 0, b"2")
        t.store.hold("put")
        closing = asyncio.create_task(t.close(handle))
        making = asyncio.create_task(t.mkdir("d/made"))
        await settle()
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        t.store.let_go("put")
        await asyncio.gather(closing, making, renaming)
        assert contents(t) == {"e/s/x": b"1", "e/s/new": b"2", "e/made/": b""}


@on_loop()
async def test_two_renames_do_not_wait_for_each_other_for_ever() -> None:
    async with tree({"a/b/c/x": b"1", "d/y": b"2"}) as t:
        nodes = {path: await t.walk(path) for path in ("a", "a/b", "a/b/c", "d")}
        rename = t.fs.renames.rename
        await asyncio.gather(
            rename((nodes["a/b"], b"c"), (nodes["d"], b"c"), 0),
            rename((ROOT_ID, b"d"), (nodes["a"], b"d"), 0),
            rename((nodes["a"], b"b"), (ROOT_ID, b"b"), 0),
        )
        assert sorted(contents(t).values()) == [b"", b"1", b"2"]
        await asyncio.sleep(2)
        names = {key.rpartition("/")[2] for key in contents(t)}
        assert names - {""} == {"x", "y"}
