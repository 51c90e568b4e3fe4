"""What is written and not stored: because that failed, or the file was removed, or the end came."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from support.gatedstore import unreachable
from support.pattern import pattern
from support.tree import tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- failures -------------------------------------------------------------------------------------


@on_loop()
async def test_a_file_that_cannot_be_stored_is_an_error_of_close_and_then_as_it_was() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(handle, 0, b"new data")
        t.store.fail_all("put", REFUSED)
        with pytest.raises(StoreError) as failed:
            await t.close(handle)
        assert failed.value.errno == errno.EACCES
        assert t.store.read("file") == b"old"
        assert (await t.stat("file")).size == 3
        assert await t.read_all("file") == b"old"
        t.store.mend()
        await t.put("file", b"at last")
        assert t.store.read("file") == b"at last"


@on_loop()
async def test_whether_a_file_was_stored_is_found_out_when_the_reply_is_lost() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(handle, 0, b"newer")
        t.store.fail("put", afterwards=True)
        with pytest.raises(StoreError):
            await t.close(handle)
        assert (await t.stat("file")).size == 5
        assert await t.read_all("file") == b"newer"


@on_loop()
async def test_a_new_file_that_cannot_be_stored_is_gone() -> None:
    async with tree() as t:
        handle = await t.create("new")
        t.store.fail_all("put", REFUSED)
        with pytest.raises(StoreError):
            await t.close(handle)
        assert not await t.exists("new")
        assert await t.list() == {}


@on_loop()
async def test_every_descriptor_is_told_of_the_failure() -> None:
    async with tree() as t:
        first = await t.create("new")
        second = await t.open("new", os.O_WRONLY)
        await t.write(first, 0, b"data")
        t.store.fail("put", REFUSED)
        for handle in (first, second):
            with pytest.raises(StoreError):
                await t.close(handle)
        assert t.store.keys() == []


@on_loop()
async def test_reading_back_what_has_failed_is_an_error() -> None:
    async with tree() as t:
        handle = await t.create("new", os.O_RDWR)
        await t.write(handle, 0, b"data")
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError):
            await t.fs.files.fsync(handle)
        with pytest.raises(ServeError):
            await t.read(handle)
        with pytest.raises(StoreError):
            await t.close(handle)


@on_loop()
async def test_an_open_that_fails_leaves_nothing() -> None:
    async with tree({"file": b"data"}, lifetime=0.0) as t:
        node = await t.walk("file")
        for operation in ("peek", "head"):
            t.store.fail(operation, unreachable())
        with pytest.raises(StoreError):
            await t.open_node(node)
        t.store.remove("file")
        with pytest.raises(FileSystemError) as stale:
            await t.open_node(node)
        assert stale.value.errno == errno.ESTALE


# -- removed while it is open ---------------------------------------------------------------------


@pytest.mark.parametrize("written", ["before", "before and stored", "not at all"])
def test_a_file_removed_while_it_is_open_does_not_come_back(written: str) -> None:
    async def body() -> None:
        async with tree({"file": b"old"}) as t:
            handle = await t.open("file", os.O_RDWR)
            if written.startswith("before"):
                await t.write(handle, 0, b"new")
            if written.endswith("stored"):
                await t.fs.files.fsync(handle)
            await t.unlink("file")
            assert not await t.exists("file")
            await t.write(handle, 3, b"more")
            await t.fs.files.fsync(handle)
            await t.set(t.handles[handle], 2)
            await t.close(handle)
            assert t.store.keys() == []
            assert not await t.exists("file")

    run(body())


@on_loop()
async def test_truncating_a_file_that_was_removed_does_not_bring_it_back() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file")
        await t.unlink("file")
        await t.set(t.handles[handle], 2)
        assert t.store.keys() == []


@on_loop()
async def test_another_file_in_its_place_is_another_file() -> None:
    async with tree({"file": b"old"}) as t:
        old = await t.open("file", os.O_WRONLY)
        await t.write(old, 0, b"lost")
        await t.unlink("file")
        new = await t.create("file")
        await t.write(new, 0, b"kept")
        assert t.handles[old] != t.handles[new]
        await t.close(new)
        await t.write(old, 4, b"lost")
        await t.close(old)
        assert t.store.read("file") == b"kept"


@on_loop()
async def test_a_removal_that_fails_does_not_lose_what_is_written() -> None:
    """Whoever writes is told, or it is stored; nothing is dropped in silence."""
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(handle, 0, b"new")
        t.store.fail("delete", REFUSED)
        with pytest.raises(StoreError):
            await t.unlink("file")
        assert await t.exists("file")
        try:
            await t.close(handle)
        except StoreError:
            assert t.store.read("file") == b"old"
        else:
            assert t.store.read("file") == b"new"


@on_loop()
async def test_a_removal_waits_for_what_is_being_stored() -> None:
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"data")
        t.store.hold("put")
        closing = asyncio.create_task(t.close(handle))
        await settle()
        removing = asyncio.create_task(t.unlink("new"))
        await settle()
        t.store.let_go("put")
        await closing
        await removing
        assert t.store.keys() == []
        assert not await t.exists("new")


# -- the end --------------------------------------------------------------------------------------


@on_loop()
async def test_what_was_not_closed_when_the_mount_ends_is_given_up() -> None:
    async with tree({"file": b"old"}) as t:
        writer = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(writer, 0, pattern(20 * MIB))
        reader = await t.open("file")
        t.handles.clear()
        await t.fs.close()
        assert t.store.read("file") == b"old"
        assert t.store.uploads == {}
        assert t.pool.statistics().used == 0
        assert reader != writer
        for node in t.fs._core.nodes:  # the connection is gone: nobody releases the handles
            node.pins = 0
