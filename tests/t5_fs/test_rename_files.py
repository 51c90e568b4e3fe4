"""Giving files other names: what it does to the bucket, and what cannot be."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.renames import RENAME_NOREPLACE
from support.pattern import pattern
from support.renaming import contents, errno_of
from support.tree import tree
from support.virtualtime import on_loop, run, settle

RENAME_EXCHANGE, RENAME_WHITEOUT = 2, 4


# -- names and keys -------------------------------------------------------------------------------


@on_loop()
async def test_a_file_is_copied_looked_at_and_deleted() -> None:
    async with tree({"d/a": b"content", "e/": b""}) as t:
        node = await t.walk("d/a")
        await t.exists("e/b")
        t.store.requests.clear()
        await t.rename("d/a", "e/b")
        assert t.store.requests == [
            ("CopyObject", "e/b"),
            ("HeadObject", "e/b"),
            ("DeleteObject", "d/a"),
        ]
        assert not await t.exists("d/a")
        assert await t.walk("e/b") == node
        assert await t.read_all("e/b") == b"content"
        assert t.store.keys() == ["e/", "e/b"]


@on_loop()
async def test_what_belongs_to_an_object_goes_with_it() -> None:
    async with tree() as t:
        headers = {"x-amz-meta-mode": "33188", "cache-control": "no-store"}
        t.store.write(
            "a", b"1", content_type="text/x", storage_class="STANDARD_IA", headers=headers
        )
        await t.rename("a", "b")
        stored = t.store.stored("b")
        assert stored is not None
        assert (stored.content_type, stored.headers) == ("text/x", headers)
        assert stored.info.storage_class == "STANDARD_IA"


@on_loop()
async def test_a_file_takes_the_place_of_another() -> None:
    async with tree({"a": b"new", "b": b"old one"}) as t:
        old = await t.walk("b")
        await t.rename("a", "b")
        assert await t.read_all("b") == b"new"
        assert (await t.stat("b")).size == 3
        assert await t.walk("b") != old
        assert await t.list() == {"b": False}
        assert t.store.keys() == ["b"]


@on_loop()
async def test_onto_itself_is_nothing() -> None:
    async with tree({"a": b"1"}) as t:
        await t.walk("a")
        t.store.requests.clear()
        await t.rename("a", "a")
        assert t.store.requests == []
        assert await errno_of(t.rename("a", "a", RENAME_NOREPLACE)) == errno.EEXIST


@on_loop()
async def test_noreplace() -> None:
    async with tree({"a": b"1", "b": b"2", "d/x": b""}) as t:
        assert await errno_of(t.rename("a", "b", RENAME_NOREPLACE)) == errno.EEXIST
        assert await errno_of(t.rename("a", "d", RENAME_NOREPLACE)) == errno.EEXIST
        await t.rename("a", "c", RENAME_NOREPLACE)
        assert t.store.read("c") == b"1"
        assert t.store.keys() == ["b", "c", "d/x"]


@on_loop()
async def test_noreplace_looks_again_and_has_the_store_look() -> None:
    async with tree({"a": b"1", "c": b"3"}) as t:
        assert not await t.exists("b")
        t.store.write("b", b"theirs")
        assert await errno_of(t.rename("a", "b", RENAME_NOREPLACE)) == errno.EEXIST
        # And when it comes to be after that.
        t.store.hold("duplicate")
        renaming = asyncio.create_task(t.rename("c", "d", RENAME_NOREPLACE))
        await settle()
        t.store.write("d", b"theirs")
        t.store.let_go("duplicate")
        assert await errno_of(renaming) == errno.EEXIST
        assert (t.store.read("b"), t.store.read("d")) == (b"theirs", b"theirs")
        assert t.store.read("a") + t.store.read("c") == b"13"


@pytest.mark.parametrize(
    "flags", [RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_EXCHANGE | RENAME_NOREPLACE, 1 << 31]
)
def test_other_flags_are_einval(flags: int) -> None:
    async def body() -> None:
        async with tree({"a": b"1", "b": b"2"}) as t:
            assert await errno_of(t.rename("a", "b", flags)) == errno.EINVAL
            assert t.store.read("a") + t.store.read("b") == b"12"

    run(body())


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("file", "d", errno.EISDIR),
        ("file", "empty", errno.EISDIR),
        ("d", "file", errno.ENOTDIR),
        ("d", "e", errno.ENOTEMPTY),
        ("d/e", "d", errno.ENOTEMPTY),
        ("d", "d/e", errno.EINVAL),
        ("d", "d/e/new", errno.EINVAL),
        ("d", "d/new", errno.EINVAL),
        ("nothing", "new", errno.ENOENT),
        ("d/nothing", "d/nothing", errno.ENOENT),
        ("file", "nowhere/new", errno.ENOENT),
        ("file", "file/new", errno.ENOTDIR),
        ("file", "n" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_cannot_be(old: str, new: str, number: int) -> None:
    objects = {"file": b"1", "d/x": b"2", "d/e/x": b"3", "e/y": b"4", "empty/": b""}

    async def body() -> None:
        async with tree(objects) as t:
            assert await errno_of(t.rename(old, new)) == number
            assert contents(t) == objects

    run(body())


@on_loop()
async def test_a_directory_does_not_vanish_with_the_last_file_that_is_moved_out_of_it() -> None:
    async with tree({"d/a": b"1", "e/x": b""}) as t:
        await t.rename("d/a", "e/a")
        assert await t.list("d") == {}
        await asyncio.sleep(2)
        assert t.store.keys() == ["d/", "e/a", "e/x"]


# -- buckets that can rename ----------------------------------------------------------------------


@on_loop()
async def test_a_directory_bucket_renames_in_one_step() -> None:
    content = pattern(30 * MIB)
    async with tree({"b": b"old"}) as t:
        t.store.renames = True
        await t.put("a", content)
        await t.walk("b")
        handle = await t.open("a")
        assert await t.read(handle, 0, 10) == content[:10]
        t.store.requests.clear()
        await t.rename("a", "b")
        assert [request for request in t.store.requests if request[0] != "GetObject"] == [
            ("RenameObject", "b")
        ]
        assert await t.read(handle, 29 * MIB, 10) == content[29 * MIB :][:10]
        assert t.store.keys() == ["b"]
        assert await errno_of(t.rename("a", "c")) == errno.ENOENT


@on_loop()
async def test_reads_that_find_it_gone_meanwhile_wait_for_its_new_name() -> None:
    content = pattern(4 * MIB)
    async with tree({"a": content}) as t:
        t.store.renames = True
        handle = await t.open("a")
        await t.read(handle, 0, 10)
        t.store.by_hand = True
        waiting = t.start_read(handle, 3 * MIB, 10)
        t.store.hold("rename_object")
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        for arrival in list(t.store.arrivals):
            arrival.fail(StoreError(Fault.NOT_FOUND, "no such key"))
        await settle()
        t.store.let_go("rename_object")
        await renaming
        await settle()
        for arrival in list(t.store.arrivals):
            arrival.feed()
        assert await t.answers.bytes_of(waiting) == content[3 * MIB :][:10]


@on_loop()
async def test_where_it_cannot_after_all_it_is_copied() -> None:
    async with tree({"a": b"1"}) as t:
        t.store.renames = True
        t.store.fail("rename_object", StoreError(Fault.NOT_IMPLEMENTED, "not in this zone"))
        await t.rename("a", "b")
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"1")
        assert t.store.count("CopyObject") == 1
