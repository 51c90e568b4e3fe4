"""What happens rarely: names that change hands while a file is open, and directories kept twice."""

import asyncio
import os

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs import namespace
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- names that change hands ----------------------------------------------------------------------


@on_loop()
async def test_a_new_file_that_was_removed_can_be_truncated_and_closed() -> None:
    """Nothing of it ever was in the bucket, so there is nothing that closing could go back to."""
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"data")
        await t.unlink("new")
        await t.set(t.handles[handle], 0)
        await t.fs.files.fsync(handle)
        await t.close(handle)
        assert t.store.keys() == []
        assert await t.list() == {}


@on_loop()
async def test_a_removed_file_is_not_read_out_of_the_one_in_its_place() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file")
        await t.unlink("file")
        await t.put("file", b"another")
        assert await t.read(handle) == b"old"  # which was fetched before it was removed
        assert await t.read_all("file") == b"another"


@on_loop()
async def test_a_file_that_is_made_while_one_of_its_name_is_read_is_another() -> None:
    """The kernel may still know the one that another client has removed meanwhile."""
    async with tree({"file": b"old"}) as t:
        reader = await t.open("file")
        assert await t.read(reader) == b"old"
        t.store.remove("file")
        writer = await t.create("file")
        assert t.handles[writer] != t.handles[reader]
        await t.write(writer, 0, b"new")
        await t.close(writer)
        assert await t.read_all("file") == b"new"


async def _keeps_pages(t: Tree, path: str) -> bool:
    """Open, read and close a file; tell whether the kernel was to keep its pages from before."""
    opened = await t.fs.files.open(await t.walk(path), os.O_RDONLY, os.getpid())
    t.handles[opened.handle] = await t.walk(path)
    await t.read(opened.handle)
    await t.close(opened.handle)
    return opened.keep_cache


@on_loop()
async def test_pages_of_a_version_that_was_found_while_reading_are_kept() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file")
        t.store.write("file", b"newer")
        assert await t.read(handle) == b"newer"
        assert await _keeps_pages(t, "file")
        t.store.write("file", b"the newest")
        await asyncio.sleep(LIFETIME)
        # They are not those of what comes then: who reads that has another node.
        assert (await t.lookup(ROOT_ID, "file")).attributes.size == len(b"the newest")
        newest = await t.open("file")
        assert t.handles[newest] != t.handles[handle]
        assert await t.read(newest) == b"the newest"


@on_loop()
async def test_pages_of_what_a_failed_removal_has_given_up_are_not_kept() -> None:
    """What was written went through them, and is in the bucket no more than it ever was."""
    async with tree({"file": b"old"}) as t:
        await _keeps_pages(t, "file")
        assert await _keeps_pages(t, "file")
        handle = await t.open("file", os.O_WRONLY)
        await t.write(handle, 0, b"NEW")
        t.store.fail("delete", REFUSED)
        with pytest.raises(StoreError):
            await t.unlink("file")
        with pytest.raises(StoreError):
            await t.close(handle)
        assert t.store.read("file") == b"old"
        assert not await _keeps_pages(t, "file")


# -- directories ----------------------------------------------------------------------------------


@on_loop()
async def test_a_directory_that_was_not_empty_the_first_time_is_looked_after_again() -> None:
    async with tree({"d/1": b"", "d/2": b""}) as t:
        await t.unlink("d/1")
        await asyncio.sleep(namespace._KEEP_AFTER + 1)
        assert t.store.keys() == ["d/2"]
        await t.unlink("d/2")
        await asyncio.sleep(namespace._KEEP_AFTER + 1)
        assert t.store.keys() == ["d/"]


@on_loop()
async def test_closing_a_directory_ends_what_was_asked_for_ahead() -> None:
    async with tree({f"{number:02}": b"" for number in range(20)}) as t:
        t.store.page_max = 5
        t.store.hold("list_page", nth=2)
        number = t.fs.directories.opendir(ROOT_ID)
        records = t.fs.directories.entries(number, 0)
        async for record in records:
            if not record.is_dot:
                break  # the first page is here, the second is asked for
        await records.aclose()
        await settle()
        assert len(asyncio.all_tasks()) == 2
        t.fs.directories.releasedir(number)
        await settle()
        assert len(asyncio.all_tasks()) == 1
        t.store.let_go("list_page")
