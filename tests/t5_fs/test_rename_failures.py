"""Renames that fail, or that other clients get in the way of: what is where then, who is told."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from support.gatedstore import unreachable
from support.renaming import TREE, contents, errno_of, moved
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- files ----------------------------------------------------------------------------------------


@on_loop()
async def test_a_newer_version_is_renamed() -> None:
    async with tree({"a": b"old"}) as t:
        await t.walk("a")
        t.store.write("a", b"newer")
        await t.rename("a", "b")
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"newer")


@pytest.mark.parametrize("strict", [True, False])
def test_a_version_that_changes_while_it_is_copied(strict: bool) -> None:
    """A file that another client replaces meanwhile is left where it is."""

    async def body() -> None:
        async with tree({"a": b"old"}) as t:
            t.store.strict = strict
            await t.walk("a")
            t.store.hold("duplicate")
            place = await t._place("a"), await t._place("b")
            renaming = asyncio.create_task(t.fs.renames.rename(*place, 0))
            await settle()
            t.store.write("a", b"theirs")
            t.store.let_go("duplicate")
            assert await errno_of(renaming) == errno.ESTALE
            assert t.store.read("a") == b"theirs"
            assert await t.read_all("a") == b"theirs"

    run(body())


@on_loop()
async def test_what_was_stored_after_the_copy_stays() -> None:
    async with tree({"a": b"old"}) as t:
        t.store.hold("delete_version")
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        t.store.write("a", b"theirs")
        t.store.let_go("delete_version")
        await renaming
        assert (t.store.read("a"), t.store.read("b")) == (b"theirs", b"old")
        assert await t.list() == {"a": False, "b": False}


@on_loop()
async def test_a_file_that_another_client_removed() -> None:
    async with tree({"a": b"old"}) as t:
        await t.walk("a")
        t.store.remove("a")
        assert await errno_of(t.rename("a", "b")) == errno.ENOENT
        assert t.store.keys() == []


@on_loop()
async def test_one_that_is_being_written_and_was_removed_by_another_client() -> None:
    async with tree({"a": b"old"}) as t:
        handle = await t.open("a", os.O_WRONLY | os.O_TRUNC)
        await t.write(handle, 0, b"ours")
        t.store.remove("a")
        await t.rename("a", "b")
        assert t.store.keys() == []
        await t.close(handle)
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"ours")


@pytest.mark.parametrize("error", [REFUSED, unreachable()])
@pytest.mark.parametrize("operation", ["duplicate", "head"])
def test_what_cannot_be_copied_stays_as_it_is(operation: str, error: StoreError) -> None:
    async def body() -> None:
        async with tree({"a": b"1", "b": b"old"}) as t:
            node = await t.walk("a")
            handle = await t.open("a", os.O_RDWR)
            await t.write(handle, 1, b"2")
            await t.walk("b")
            t.store.fail(operation, error)
            assert await errno_of(t.rename("a", "b")) == error.errno
            assert await t.walk("a") == node
            assert t.store.read("a") == b"1"
            assert t.store.read("b") == (b"old" if operation == "duplicate" else b"1")
            assert await t.list() == {"a": False, "b": False}
            await t.close(handle)
            assert t.store.read("a") == b"12"

    run(body())


@on_loop()
async def test_a_copy_that_is_not_whole_is_no_copy() -> None:
    async with tree({"a": b"content"}) as t:
        assert [await t.exists(name) for name in ("a", "b")] == [True, False]
        t.store.hold("head")
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        t.store.write("b", b"cont")
        t.store.let_go("head")
        assert await errno_of(renaming) == errno.EIO
        assert t.store.read("a") == b"content"


@on_loop()
async def test_an_original_that_cannot_be_deleted_has_its_name_back() -> None:
    """And the copy goes, as far as nothing was replaced by it."""
    async with tree({"a": b"1"}) as t:
        handle = await t.open("a")
        node = await t.walk("a")
        t.store.fail("delete_version", REFUSED)
        assert await errno_of(t.rename("a", "b")) == errno.EACCES
        assert (t.store.keys(), await t.list()) == (["a"], {"a": False})
        assert await t.walk("a") == node
        assert await t.read(handle) == b"1"


@on_loop("rename_not_undone")
async def test_what_was_replaced_is_not_removed_as_well() -> None:
    async with tree({"a": b"1", "b": b"2"}) as t:
        writer = await t.open("b", os.O_RDWR)
        await t.write(writer, 1, b"3")
        t.store.fail("delete_version", REFUSED)
        assert await errno_of(t.rename("a", "b")) == errno.EACCES
        assert (t.store.read("a"), t.store.read("b")) == (b"1", b"1")
        assert await t.list() == {"a": False, "b": False}
        # What it was to go on from is nowhere any more, and who writes it is told.
        assert await errno_of(t.close(writer)) == errno.ESTALE
        assert t.store.read("b") == b"1"
        await t.rename("a", "c")
        assert t.store.keys() == ["b", "c"]


@on_loop("rename_not_undone")
async def test_a_copy_that_cannot_be_removed_is_told_of() -> None:
    async with tree({"a": b"1"}) as t:
        t.store.fail_all("delete_version", REFUSED)
        assert await errno_of(t.rename("a", "b")) == errno.EACCES
        t.store.mend()
        assert t.store.keys() == ["a", "b"]
        assert await t.list() == {"a": False, "b": False}


@pytest.mark.parametrize("nth", range(1, 8))
def test_whatever_fails_there_is_a_file(nth: int) -> None:
    """At its old name or at its new one, whole; and a second try gets it done."""

    async def body() -> None:
        async with tree({"a": b"content"}) as t:
            t.store.strict = False
            _fail_request(t, nth)
            try:
                await t.rename("a", "b")
            except ServeError:
                kept = [key for key in ("a", "b") if t.store.stored(key)]
                assert kept
                assert all(t.store.read(key) == b"content" for key in kept)
            t.store.mend()
            if await t.exists("a"):
                await t.rename("a", "b")
            assert (t.store.keys(), t.store.read("b")) == (["b"], b"content")

    run(body(), may_log=["rename_not_undone"])


def _fail_request(t: Tree, nth: int) -> None:
    """Have the nth request of those that a rename makes fail, before or after its work."""
    steps = ["head", "duplicate", "duplicate", "head", "delete_version", "delete_version", "head"]
    t.store.fail(steps[nth - 1], nth=1 + (nth == 7), afterwards=nth in {3, 6})


# -- directories ----------------------------------------------------------------------------------


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
        assert await errno_of(renaming) == errno.EIO
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
