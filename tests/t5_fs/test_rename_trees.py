"""Giving directories other names: keys, nodes, and what it costs; limits and order."""

import asyncio
import errno
from collections import Counter

import pytest

from fuse_s3_worker.fs.renames import RENAME_NOREPLACE
from fuse_s3_worker.fs.treemove import Phase
from fuse_s3_worker.fs.treerename import Moving
from support.renaming import TREE, contents, errno_of, moved
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run, settle


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
        assert await errno_of(looking[1]) == errno.ENOENT


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
