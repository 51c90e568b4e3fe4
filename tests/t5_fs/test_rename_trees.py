"""Giving directories other names: keys, nodes, open files and listings; limits and order."""

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.renames import RENAME_NOREPLACE
from fuse_s3_worker.fs.treemove import Phase
from fuse_s3_worker.fs.treerename import Moving
from support.gatedstore import unreachable
from support.pattern import pattern
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")

TREE = {
    "d/": b"",
    "d/a": b"1",
    "d/a-b": b"22",
    "d/a/c": b"333",
    "d/b": b"4444",
    "d/sub/": b"",
    "d/sub/deep/x": b"5",
    "d0": b"not in it",
    "d-": b"nor this",
}


async def errno_of(work: object) -> int:
    """Return the errno that `work` comes to."""
    assert asyncio.iscoroutine(work)
    with pytest.raises((FileSystemError, StoreError)) as refused:
        await work
    return int(refused.value.errno)


def contents(t: Tree) -> dict[str, bytes]:
    """Return what is in the bucket."""
    keys = t.store.keys()
    return {key: t.store.read(key) for key in keys}


def moved(objects: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """Return what a rename makes of a bucket."""
    return {
        (new + key.removeprefix(old) if key.startswith(old) else key): data
        for key, data in objects.items()
    }


def counts(t: Tree) -> Counter[str]:
    """Return how many requests of each kind there were since the last time."""
    found = Counter(operation for operation, _ in t.store.requests)
    t.store.requests.clear()
    return found


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["e", "d1", "away/e", "away/d", "full/e"])
def test_everything_below_has_another_key(new: str) -> None:
    objects = TREE | {"away/": b"", "full/x": b""}

    async def body() -> None:
        async with tree(objects) as t:
            node = await t.walk("d")
            await t.rename("d", new)
            assert contents(t) == moved(objects, "d/", f"{new}/")
            assert await t.walk(new) == node
            assert not await t.exists("d")
            assert await t.read_all(f"{new}/a/c") == b"333"
            assert await t.read_all(f"{new}/sub/deep/x") == b"5"
            assert await t.list(new) == {"a": True, "a-b": False, "b": False, "sub": True}

    run(body())


@on_loop()
async def test_requests() -> None:
    """One copy for each key; deletes and looks by the thousand."""
    objects = {f"d/{number:04}": b"x" * number for number in range(2500)}
    async with tree(objects) as t:
        await t.walk("d")
        await t.exists("e")
        counts(t)
        await t.rename("d", "e")
        assert counts(t) == {
            "ListObjectsV2": 1 + 3 + 3 + 3,  # is the place free; what there is; copies; originals
            "CopyObject": 2500,
            "DeleteObjects": 3,
        }
        assert contents(t) == moved(objects, "d/", "e/")


@on_loop()
async def test_copies_are_made_side_by_side_but_not_too_many() -> None:
    async with tree({f"d/{number}": b"1" for number in range(40)}) as t:
        await t.rename("d", "e")
        assert t.store.most_under_way["duplicate"] == 8  # `connections`


@on_loop()
async def test_all_copies_are_there_before_the_first_original_goes() -> None:
    async with tree(TREE) as t:
        t.store.hold("delete_many")
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        assert contents(t) == TREE | moved(TREE, "d/", "e/")
        t.store.let_go("delete_many")
        await renaming


@on_loop()
async def test_an_empty_directory_with_a_marker_and_one_without_anything() -> None:
    async with tree({"marked/": b"", "d/x": b""}) as t:
        await t.rename("marked", "m")
        await t.unlink("d/x")
        await t.rename("d", "e")  # it exists on this mount alone, for a moment
        assert t.store.keys() == ["e/", "m/"]
        assert await t.list() == {"m": True, "e": True}
        await asyncio.sleep(2)
        assert t.store.keys() == ["e/", "m/"]


@on_loop()
async def test_onto_an_empty_directory() -> None:
    for target in ({"e/": b""}, {"e/x": b""}):
        async with tree(TREE | target) as t:
            there = await t.walk("e")
            if "e/x" in target:
                await t.unlink("e/x")
            await t.rename("d", "e")
            assert await t.walk("e") != there
            await asyncio.sleep(2)
            assert contents(t) == moved(TREE, "d/", "e/")
            await t.rename("e", "f")
            await asyncio.sleep(2)
            assert contents(t) == moved(TREE, "d/", "f/")


@on_loop()
async def test_onto_one_that_another_client_fills() -> None:
    async with tree(TREE) as t:
        assert not await t.exists("e")
        t.store.write("e/theirs", b"1")
        assert await errno_of(t.rename("d", "e")) == errno.ENOTEMPTY
        assert contents(t) == TREE | {"e/theirs": b"1"}


@on_loop()
async def test_noreplace() -> None:
    async with tree(TREE | {"e/": b""}) as t:
        assert await errno_of(t.rename("d", "e", RENAME_NOREPLACE)) == errno.EEXIST
        await t.rename("d", "f", RENAME_NOREPLACE)
        assert contents(t) == moved(TREE, "d/", "f/") | {"e/": b""}


@on_loop()
async def test_keys_that_no_path_can_name_go_with_it() -> None:
    objects = {"d/x": b"1", "d//y": b"2", "d/../z": b"3", "d/\x01": b"4", "d/+ %ü/": b"5"}
    async with tree(objects) as t:
        await t.rename("d", "e")
        assert contents(t) == moved(objects, "d/", "e/")


@on_loop()
async def test_keys_that_would_be_too_long() -> None:
    objects = {"d/" + "x" * 250 + "/" + "y" * 700: b"1"}
    async with tree(objects) as t:
        assert await errno_of(t.rename("d", "e" * 100)) == errno.ENAMETOOLONG
        assert contents(t) == objects
        await t.rename("d", "e" * 50)


@on_loop()
async def test_limit() -> None:
    """More than `rename_dir_limit` keys below give EXDEV, and mv copies by itself."""
    objects = {f"d/{number}": b"1" for number in range(10)}

    async def body(limit: int) -> Tree:
        t = Tree(objects, moving=Moving(limit=limit))
        t.store.page_max = 4
        if limit < 10:
            assert await errno_of(t.rename("d", "e")) == errno.EXDEV
            assert contents(t) == objects
            # It stops when it knows: where the place is free, pages of four, and no more.
            assert t.store.count("ListObjectsV2") <= 4 + limit // 4 + 1
        else:
            await t.rename("d", "e")
            assert contents(t) == moved(objects, "d/", "e/")
        return t

    for limit in (0, 1, 9, 10, 11):
        await (await body(limit)).finish()


@on_loop()
async def test_progress() -> None:
    async with tree(TREE) as t:
        under_way = t.fs.renames.trees.under_way
        assert under_way == []
        t.store.hold("duplicate", nth=3)
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        (progress,) = under_way
        assert (progress.source, progress.target) == ("d/", "e/")
        assert (progress.phase, progress.keys, progress.copied) == (Phase.COPYING, 7, 2)
        assert progress.size == 11
        t.store.let_go("duplicate")
        await renaming
        assert (progress.copied, progress.deleted, progress.left) == (7, 7, 0)
        assert under_way == []


# -- nodes ----------------------------------------------------------------------------------------


@on_loop()
async def test_nodes_keep_their_ids_and_have_other_keys() -> None:
    async with tree(TREE) as t:
        before = {path: await t.walk(path) for path in ("d", "d/b", "d/sub", "d/sub/deep/x")}
        t.notices.invalidated.clear()
        await t.rename("d", "e")
        assert {path: await t.walk(f"e{path[1:]}") for path in before} == before
        assert before["d/b"] in t.notices.invalidated
        # What is done through them has the new keys.
        new = t.remember(await t.fs.names.mkdir(before["d/sub"], b"made")).node
        assert new.key == "e/sub/made/"
        await t.put("e/sub/deep/x", b"changed")
        await t.unlink("e/b")
        expected = moved(TREE, "d/", "e/") | {"e/sub/made/": b"", "e/sub/deep/x": b"changed"}
        del expected["e/b"]
        assert contents(t) == expected


@on_loop()
async def test_what_was_moved_is_known() -> None:
    async with tree(TREE) as t:
        await t.rename("d", "e")
        counts(t)
        assert await t.list("e") == {"a": True, "a-b": False, "b": False, "sub": True}
        assert await t.list("e/sub/deep") == {"x": False}
        assert (await t.stat("e/b")).size == 4
        assert not await t.exists("e/nothing")
        assert not await t.exists("d")
        assert counts(t) == {}
        await asyncio.sleep(LIFETIME + 1)
        assert not await t.exists("d")
        assert await t.list("e/a") == {"c": False}


@on_loop()
async def test_nothing_that_was_remembered_of_either_place_is_believed() -> None:
    async with tree({"d/x": b"1", "e/y": b"2"}) as t:
        await t.list("d")
        await t.list("e")
        await t.unlink("e/y")
        await t.rename("d", "e")
        assert await t.list("e") == {"x": False}
        await t.mkdir("d")
        assert await t.list("d") == {}
        assert await t.list() == {"d": True, "e": True}


@on_loop()
async def test_answers_that_were_under_way_are_asked_for_again() -> None:
    """A program that looks into a directory while it is moved finds what is in it."""
    async with tree({"d/x": b"1", "d/s/y": b"2"}) as t:
        node = await t.walk("d")
        assert not await t.exists("e")
        t.store.hold("head")
        looking = [asyncio.create_task(t.lookup(node, name)) for name in ("x", "new")]
        await settle()
        await t.rename("d", "e")
        t.store.let_go("head")
        assert (await looking[0]).node.key == "e/x"
        assert await errno_of(_result(looking[1])) == errno.ENOENT


async def _result(task: "asyncio.Task[object]") -> None:
    await task


@on_loop()
async def test_looks_between_the_deletes_find_everything() -> None:
    objects = {f"d/{number:03}": str(number).encode() for number in range(50)}
    async with tree(objects, lifetime=0.0) as t:
        t.store.page_max = 10
        directory, file = await t.walk("d"), await t.walk("d/007")
        t.store.hold("delete_many", nth=3)
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        assert len(t.store.keys()) == 80
        assert (await t.lookup(directory, "007")).node.id == file
        assert (await t.attributes(file)).size == 1
        assert await t.read_all("e/013") == b"13"
        t.store.let_go("delete_many")
        await renaming


# -- those who have something open ----------------------------------------------------------------


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


# -- other clients, and failures ------------------------------------------------------------------


@on_loop()
async def test_what_others_store_at_the_old_place_meanwhile_stays_there() -> None:
    for strict in (True, False):
        async with tree({"d/x": b"1", "d/y": b"2"}) as t:
            t.store.strict = strict
            await t.walk("d")
            await t.exists("e")
            t.store.hold("delete_many" if strict else "list_page", nth=1 if strict else 4)
            renaming = asyncio.create_task(t.rename("d", "e"))
            await settle()
            t.store.write("d/x", b"newer")
            t.store.write("d/theirs", b"3")
            t.store.let_go("delete_many" if strict else "list_page")
            await renaming
            assert contents(t) == {
                "d/theirs": b"3",
                "d/x": b"newer",
                "e/x": b"1",
                "e/y": b"2",
            }
            assert await t.list() == {"d": True, "e": True}
            assert await t.list("d") == {"x": False, "theirs": False}


@on_loop()
async def test_a_file_that_is_replaced_before_it_is_copied_goes_in_its_new_version() -> None:
    async with tree({"d/x": b"1", "d/y": b"2", "d/z": b"3"}) as t:
        t.store.hold("duplicate")
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        t.store.write("d/x", b"newer")
        t.store.remove("d/y")
        t.store.let_go("duplicate")
        await renaming
        assert contents(t) == {"e/x": b"newer", "e/z": b"3"}


@on_loop("rename_failed", "rename_not_undone")
async def test_a_store_that_copies_something_else_is_found_out() -> None:
    async with tree({"d/x": b"content", "d/y": b"2"}) as t:
        await t.walk("d")
        await t.exists("e")
        t.store.hold("list_page", nth=3)
        renaming = asyncio.create_task(t.rename("d", "e"))
        await settle()
        t.store.write("e/x", b"con")
        t.store.let_go("list_page")
        assert await errno_of(_result(renaming)) == errno.EIO
        assert contents(t) == {"d/x": b"content", "d/y": b"2", "e/x": b"con"}


@pytest.mark.parametrize("error", [REFUSED, unreachable()])
def test_a_copy_that_fails_leaves_no_copies(error: StoreError) -> None:
    async def body() -> None:
        async with tree(TREE) as t:
            node = await t.walk("d/sub/deep/x")
            t.store.fail("duplicate", error, nth=5)
            assert await errno_of(t.rename("d", "e")) == error.errno
            assert contents(t) == TREE
            assert await t.walk("d/sub/deep/x") == node
            assert not await t.exists("e")
            await t.rename("d", "e")
            assert contents(t) == moved(TREE, "d/", "e/")

    run(body(), logged=["rename_failed"])


@on_loop("rename_failed", "rename_not_undone")
async def test_copies_that_cannot_be_removed_are_told_of() -> None:
    async with tree(TREE) as t:
        t.store.fail("duplicate", REFUSED, nth=5)
        t.store.fail("delete_many", REFUSED)
        assert await errno_of(t.rename("d", "e")) == errno.EACCES
        assert {key: data for key, data in contents(t).items() if key in TREE} == TREE


@on_loop("rename_left_originals")
async def test_originals_that_cannot_be_deleted() -> None:
    """Everything is at the new place, and the program is told that something is not right."""
    objects = {f"d/{number:03}": str(number).encode() for number in range(50)}
    async with tree(objects) as t:
        t.store.page_max = 10
        handle = await t.open("d/033")
        t.store.fail("delete_many", REFUSED, nth=3)
        assert await errno_of(t.rename("d", "e")) == errno.EACCES
        left = {key: data for key, data in objects.items() if key >= "d/020"}
        assert contents(t) == left | moved(objects, "d/", "e/")
        assert await t.read(handle) == b"33"
        assert len(await t.list("e")) == 50
        await asyncio.sleep(LIFETIME + 1)
        assert await t.list() == {"d": True, "e": True}


@on_loop("rename_failed")
async def test_a_failure_that_the_kernel_would_take_for_another_is_eio() -> None:
    async with tree({"d/x": b"1"}) as t:
        t.store.fail_all("duplicate", StoreError(Fault.CHANGED, "again and again"))
        assert await errno_of(t.rename("d", "e")) == errno.EIO
        assert contents(t) == {"d/x": b"1"}
