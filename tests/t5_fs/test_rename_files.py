"""Giving files other names: what it does to the bucket, to names, and to those who use them."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.fs import lasting
from fuse_s3_worker.fs.renames import RENAME_NOREPLACE
from support.gatedstore import unreachable
from support.pattern import pattern
from support.tree import Tree, tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")
RENAME_EXCHANGE, RENAME_WHITEOUT = 2, 4


async def errno_of(work: object) -> int:
    """Return the errno that `work` comes to."""
    assert asyncio.iscoroutine(work)
    with pytest.raises((FileSystemError, StoreError)) as refused:
        await work
    return int(refused.value.errno)


def operations(t: Tree) -> list[str]:
    """Return the requests since the last time, without their keys."""
    found = [operation for operation, _ in t.store.requests]
    t.store.requests.clear()
    return found


def contents(t: Tree) -> dict[str, bytes]:
    """Return what is in the bucket."""
    keys = t.store.keys()
    return {key: t.store.read(key) for key in keys}


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
        assert await errno_of(_result(renaming)) == errno.EEXIST
        assert (t.store.read("b"), t.store.read("d")) == (b"theirs", b"theirs")
        assert t.store.read("a") + t.store.read("c") == b"13"


async def _result(task: asyncio.Task[None]) -> None:
    await task


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


# -- files that are being written -----------------------------------------------------------------


@on_loop()
async def test_a_file_that_is_being_written_is_stored_under_its_new_name() -> None:
    async with tree({"b": b"what was there"}) as t:
        handle = await t.create("a", os.O_RDWR)
        await t.write(handle, 0, b"written before")
        t.store.requests.clear()
        await t.walk("b")
        t.store.requests.clear()
        await t.rename("a", "b")
        assert t.store.requests == []
        assert t.store.read("b") == b"what was there"
        assert await t.read(handle) == b"written before"
        assert (await t.stat("b")).size == 14
        assert not await t.exists("a")
        assert await t.list() == {"b": False}
        await t.write(handle, 14, b", and after")
        await t.close(handle)
        assert t.store.read("b") == b"written before, and after"
        assert t.store.keys() == ["b"]
        assert await t.read_all("b") == b"written before, and after"


@on_loop()
async def test_what_a_file_has_replaced_does_not_come_back_when_it_is_renamed_again() -> None:
    async with tree({"b": b"what was there", "d/b": b"and there"}) as t:
        handle = await t.create("a")
        for old, new in (("a", "b"), ("b", "d/b"), ("d/b", "c")):
            await t.rename(old, new)
        await asyncio.sleep(2)
        assert t.store.keys() == ["d/"]
        assert await t.list() == {"c": False, "d": True}
        await t.close(handle)
        assert t.store.keys() == ["c", "d/"]


@on_loop()
async def test_a_file_that_is_changed_goes_with_what_the_bucket_has_of_it() -> None:
    async with tree({"a": b"first"}) as t:
        handle = await t.open("a", os.O_RDWR)
        await t.write(handle, 0, b"F")
        await t.rename("a", "b")
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"first")
        await t.write(handle, 5, b"!")
        await t.close(handle)
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"First!")


@on_loop()
async def test_a_large_file_that_was_stored_is_appended_to_under_its_new_name() -> None:
    async with tree({"a": pattern(9 * MIB)}) as t:
        handle = await t.open("a", os.O_WRONLY)
        await t.fs.files.fsync(handle)
        await t.write(handle, 9 * MIB, b"and one")
        await t.fs.files.fsync(handle)
        await t.rename("a", "b")
        await t.write(handle, 9 * MIB + 7, b", and two")
        await t.close(handle)
        assert t.store.read("b") == pattern(9 * MIB) + b"and one, and two"
        assert t.store.keys() == ["b"]


@on_loop()
async def test_parts_that_are_sent_already_are_sent_anew_where_they_can_be_staged(
    tmp_path: Path,
) -> None:
    async with tree(cache=tmp_path) as t:
        handle = await t.create("a")
        await t.write(handle, 0, pattern(9 * MIB))
        await t.rename("a", "b")
        assert (t.store.keys(), t.store.uploads) == ([], {})
        await t.write(handle, 9 * MIB, b"more")
        await t.close(handle)
        assert t.store.keys() == ["b"]
        assert t.store.read("b") == pattern(9 * MIB) + b"more"


@on_loop()
async def test_parts_that_are_sent_already_are_sent_under_the_old_name() -> None:
    async with tree() as t:
        handle = await t.create("a")
        await t.write(handle, 0, pattern(9 * MIB))
        assert await errno_of(t.rename("a", "b")) == errno.EBUSY
        await t.write(handle, 9 * MIB, b"more")
        await t.close(handle)
        assert t.store.read("a") == pattern(9 * MIB) + b"more"
        await t.rename("a", "b")
        assert t.store.keys() == ["b"]


@on_loop()
async def test_a_name_that_was_just_closed() -> None:
    """What editors and git do, again and again: there is always all of it."""
    async with tree({"file": b"0"}) as t:
        for number in range(1, 10):
            await t.put("file.tmp", str(number).encode() * number)
            await t.rename("file.tmp", "file")
            assert (await t.stat("file")).size == number
            assert await t.read_all("file") == str(number).encode() * number
            assert await t.list() == {"file": False}
        assert t.store.keys() == ["file"]


@on_loop()
async def test_writes_and_closes_wait_until_it_is_done() -> None:
    async with tree() as t:
        await t.put("a", b"first")
        handle = await t.open("a", os.O_RDWR)
        t.store.hold("delete_version")
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        writing = asyncio.create_task(t.write(handle, 5, b", second"))
        appending = asyncio.create_task(t.open("b", os.O_WRONLY | os.O_APPEND))
        await settle()
        assert not writing.done()
        t.store.let_go("delete_version")
        await asyncio.gather(renaming, writing)
        await t.close(await appending)
        await t.close(handle)
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"first, second")


@on_loop()
async def test_it_waits_for_a_close_that_is_under_way() -> None:
    async with tree() as t:
        handle = await t.create("a")
        await t.write(handle, 0, b"data")
        t.store.hold("put")
        closing = asyncio.create_task(t.close(handle))
        await settle()
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        assert t.store.count("CopyObject") == 0
        t.store.let_go("put")
        await asyncio.gather(closing, renaming)
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"data")


@on_loop()
async def test_a_file_that_is_replaced_while_it_is_written_leads_nowhere() -> None:
    async with tree({"a": b"new"}) as t:
        handle = await t.create("b")
        await t.write(handle, 0, b"lost")
        await t.rename("a", "b")
        await t.write(handle, 4, b" as well")
        await t.close(handle)
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"new")
        assert await t.read_all("b") == b"new"


@on_loop()
async def test_appending_after_another_client_replaced_it_is_still_noticed() -> None:
    async with tree({"a": pattern(9 * MIB)}) as t:
        handle = await t.open("a", os.O_WRONLY)
        await t.write(handle, 9 * MIB, b"1")
        await t.fs.files.fsync(handle)
        t.store.write("a", b"theirs")
        await t.rename("a", "b")
        assert t.store.read("b") == b"theirs"
        await t.write(handle, 9 * MIB + 1, b"2")
        assert await errno_of(t.close(handle)) in {errno.ESTALE, errno.ENOENT}
        assert (t.store.keys(), t.store.read("b")) == (["b"], b"theirs")


# -- files that are being read --------------------------------------------------------------------


@on_loop()
async def test_who_reads_a_file_goes_on_reading_it() -> None:
    content = pattern(40 * MIB)
    async with tree() as t:
        await t.put("a", content)  # of several parts: its copy has another entity tag
        handle = await t.open("a")
        assert await t.read(handle, 0, MIB) == content[:MIB]
        await t.rename("a", "b")
        for at in range(MIB, 40 * MIB, MIB):
            assert await t.read(handle, at, MIB) == content[at : at + MIB]
        assert t.store.keys() == ["b"]


@on_loop()
async def test_transfers_that_were_under_way_end_or_are_asked_for_again() -> None:
    content = pattern(8 * MIB)
    async with tree({"a": content}) as t:
        handle = await t.open("a")
        t.store.by_hand = True
        waiting = [t.start_read(handle, at, MIB) for at in (0, 3 * MIB)]
        await settle()
        await t.rename("a", "b")
        gone = StoreError(Fault.NOT_FOUND, "no such key")
        first, *others = list(t.store.arrivals)
        first.feed()
        for arrival in others:
            arrival.feed(100)
            arrival.fail(gone)
        await settle()
        t.store.by_hand = False
        for arrival in list(t.store.arrivals):
            assert arrival._data == content
            arrival.feed()
        assert [await t.answers.bytes_of(unique) for unique in waiting] == [
            content[:MIB],
            content[3 * MIB : 4 * MIB],
        ]
        assert [key for operation, key in t.store.requests if operation == "GetObject"][-1] == "b"


@on_loop()
async def test_what_is_opened_while_it_is_copied_is_read_on() -> None:
    content = pattern(20 * MIB)
    async with tree() as t:
        await t.put("a", content)
        t.store.hold("duplicate")
        renaming = asyncio.create_task(t.rename("a", "b"))
        await settle()
        handle = await t.open("a")
        assert await t.read(handle, 0, 10) == content[:10]
        t.store.let_go("duplicate")
        await renaming
        assert await t.read(handle, 15 * MIB, 10) == content[15 * MIB :][:10]
        assert await t.read(handle, MIB, 10) == content[MIB:][:10]


@on_loop()
async def test_the_kernels_pages_stay_good() -> None:
    async with tree() as t:
        await t.put("a", pattern(9 * MIB))
        handle = await t.open("a")
        await t.read(handle, 0, 10)
        await t.rename("a", "b")
        opened = await t.fs.files.open(await t.walk("b"), os.O_RDONLY, os.getpid())
        assert opened.keep_cache
        await t.fs.files.release(opened.handle)


@on_loop()
async def test_who_reads_what_was_replaced_reads_on_in_it() -> None:
    async with tree({"a": b"new", "b": b"old" * 10}) as t:
        handle = await t.open("b")
        assert await t.read(handle, 0, 30) == b"old" * 10
        await t.rename("a", "b")
        assert await t.read(handle, 0, 30) == b"old" * 10
        assert await t.read_all("b") == b"new"


@on_loop()
async def test_who_reads_what_was_too_large_to_be_fetched_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lasting, "LASTING_MAX", 0)
    async with tree({"a": b"new", "b": b"old" * 10}) as t:
        handle = await t.open("b")
        assert await t.read(handle, 0, 30) == b"old" * 10
        await t.rename("a", "b")
        assert await errno_of(t.read(handle, 0, 30)) == errno.ESTALE
        assert await t.read_all("b") == b"new"


@on_loop()
async def test_who_has_opened_it_and_not_read_yet_reads_the_new_one_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lasting, "LASTING_MAX", 0)
    async with tree({"a": b"newer", "b": b"old", "c": b"newest one", "d/x": b""}) as t:
        handle, other = await t.open("b"), await t.open("c")
        await t.rename("a", "b")
        await t.rename("c", "b")
        assert await t.read(handle) == b"newest one"
        assert t.handles[handle] in t.notices.invalidated
        assert (await t.attributes(t.handles[handle])).size == 10
        await t.unlink("b")
        await t.put("b", b"another one")
        assert await t.read(other) == b"newest one"  # a small file is fetched when it is opened


# -- there is always a file of that name ----------------------------------------------------------


@on_loop()
async def test_at_no_moment_is_there_nothing() -> None:
    """Whatever is held, programs find the old file or the new one, and all of it."""
    for held in ("duplicate", "head", "delete_version"):
        async with tree({"a": b"new", "b": b"previous"}, lifetime=0.0) as t:
            await t.walk("a")
            nth = 2 if held == "head" else 1  # with no lifetime, looking takes one
            asked = t.store.asked("head")
            t.store.hold(held, nth=nth)
            renaming = asyncio.create_task(t.rename("a", "b"))
            await settle()
            assert t.store.asked("head") > asked or held != "head"
            looked = asyncio.create_task(t.read_all("b"))
            await settle()
            listed = await t.list()
            assert listed["b"] is False
            t.store.let_go(held)
            await renaming
            assert await looked in {b"new", b"previous"}
            assert await t.read_all("b") == b"new"


@on_loop()
async def test_a_look_that_was_under_way_does_not_end_in_nothing() -> None:
    async with tree({"a": b"1"}, lifetime=0.0) as t:
        node = await t.walk("a")
        t.store.hold("head", nth=2)  # the first is the rename's own look
        renaming = asyncio.create_task(t.rename("a", "b"))
        asking = asyncio.create_task(t.attributes(node))
        await settle()
        t.store.let_go("head")
        await renaming
        assert (await asking).size == 1
        assert await t.walk("b") == node


# -- other clients, and failures ------------------------------------------------------------------


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
            assert await errno_of(_result(renaming)) == errno.ESTALE
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
        assert await errno_of(_result(renaming)) == errno.EIO
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
