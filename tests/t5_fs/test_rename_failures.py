"""Renames that fail, or that other clients get in the way of: what is where then, who is told."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from support.gatedstore import unreachable
from support.renaming import errno_of
from support.tree import Tree, tree
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
