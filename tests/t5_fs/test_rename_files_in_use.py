"""Giving files other names that are being written or read: programs go on, and find one file."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs import lasting
from support.pattern import pattern
from support.renaming import errno_of
from support.tree import tree
from support.virtualtime import on_loop, settle

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
