"""Writing files: seen at once, whoever reads; in the bucket when they are closed or synced."""

import errno
import os
import subprocess

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from support.pattern import pattern
from support.tree import tree
from support.virtualtime import on_loop, run

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- writing --------------------------------------------------------------------------------------


@on_loop()
async def test_a_new_file_is_here_at_once_and_in_the_bucket_when_it_is_closed() -> None:
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"data")
        assert (await t.stat("new")).size == 4
        assert await t.list() == {"new": False}
        assert t.store.keys() == []
        await t.close(handle)
        assert t.store.read("new") == b"data"
        assert await t.list() == {"new": False}
        assert await t.read_all("new") == b"data"


@on_loop()
async def test_an_empty_new_file_is_stored() -> None:
    async with tree() as t:
        await t.close(await t.create("new"))
        assert t.store.read("new") == b""


@on_loop()
async def test_a_file_that_is_made_by_who_cannot_write_it_is_stored_at_once() -> None:
    async with tree() as t:
        handle = await t.create("new", os.O_RDONLY)
        assert t.store.read("new") == b""
        assert await t.read(handle, 0, 10) == b""
        writer = await t.open("new", os.O_WRONLY)
        await t.write(writer, 0, b"data")
        assert await t.read(handle, 0, 10) == b"data"
        await t.close(writer)
        await t.close(handle)
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError, match="no"):
            await t.create("another", os.O_RDONLY)
        t.store.mend()
        assert await t.list() == {"new": False}


@on_loop()
async def test_who_can_write_a_file_goes_on_with_it_when_it_is_truncated() -> None:
    """They have read of it, and written nothing yet."""
    async with tree({"file": b"before"}) as t:
        writer = await t.open("file", os.O_RDWR)
        assert await t.read(writer, 0, 10) == b"before"
        truncating = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        assert await t.read(writer, 0, 10) == b""
        await t.write(truncating, 0, b"one")
        await t.write(writer, 3, b"two")
        assert await t.read(writer, 0, 10) == b"onetwo"
        await t.close(truncating)
        await t.close(writer)
        assert t.store.read("file") == b"onetwo"


@on_loop()
async def test_opening_to_read_and_truncate_truncates() -> None:
    async with tree({"file": b"data"}) as t:
        handle = await t.open("file", os.O_RDONLY | os.O_TRUNC)
        assert t.store.read("file") == b""
        assert await t.read(handle, 0, 10) == b""
        await t.close(handle)


@on_loop()
async def test_replacing_shows_the_old_object_until_it_is_done() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        assert (await t.stat("file")).size == 0
        await t.write(handle, 0, pattern(20 * MIB))
        assert t.store.read("file") == b"old"
        await t.close(handle)
        assert t.store.read("file") == pattern(20 * MIB)


@on_loop()
async def test_fsync_stores_and_writing_goes_on() -> None:
    async with tree() as t:
        handle = await t.create("new", os.O_RDWR)
        await t.write(handle, 0, b"one")
        await t.fs.files.fsync(handle)
        assert t.store.read("new") == b"one"
        await t.write(handle, 3, b"two")
        assert t.store.read("new") == b"one"
        await t.fs.files.fsync(handle)
        assert t.store.read("new") == b"onetwo"
        before = len(t.store.requests)
        await t.fs.files.fsync(handle)
        await t.close(handle)
        assert len(t.store.requests) == before


@on_loop()
async def test_every_close_stores_and_the_last_one_ends_it() -> None:
    """dup(2): FLUSH comes for each descriptor, RELEASE for the last."""
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"one")
        await t.fs.files.flush(handle, os.getpid())
        assert t.store.read("new") == b"one"
        await t.write(handle, 3, b"two")
        await t.close(handle)
        assert t.store.read("new") == b"onetwo"
        node = t.fs._core.nodes.get(await t.walk("new"))
        assert node is not None
        assert node.upload is None  # nothing of it is kept
        assert not node.local


def test_a_child_that_closes_what_it_inherited_stores_nothing_yet() -> None:
    async def body(child: int) -> None:
        async with tree() as t:
            handle = await t.create("new")
            await t.write(handle, 0, b"half")
            await t.fs.files.flush(handle, child)
            assert t.store.keys() == []
            await t.close(handle)
            assert t.store.read("new") == b"half"

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        run(body(child.pid))


@on_loop()
async def test_what_nobody_closed_properly_is_stored_by_the_last_reference() -> None:
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"data")
        del t.handles[handle]
        await t.fs.files.release(handle)
        assert t.store.read("new") == b"data"


@on_loop()
async def test_two_writers_of_one_file_write_one_file() -> None:
    async with tree({"file": b"0123456789"}) as t:
        first = await t.open("file", os.O_WRONLY)
        second = await t.open("file", os.O_WRONLY)
        await t.write(first, 0, b"A")
        await t.write(second, 9, b"B")
        await t.close(first)
        assert t.store.read("file") == b"A12345678B"
        await t.write(second, 10, b"C")
        assert (await t.stat("file")).size == 11
        await t.close(second)
        assert t.store.read("file") == b"A12345678BC"


@on_loop()
async def test_a_program_reads_what_it_has_written() -> None:
    async with tree({"file": b"0123456789"}) as t:
        handle = await t.open("file", os.O_RDWR)
        await t.write(handle, 2, b"xx")
        assert await t.read(handle) == b"01xx456789"
        await t.fs.files.fsync(handle)
        assert await t.read(handle) == b"01xx456789"
        await t.write(handle, 4, b"yy")
        assert await t.read(handle) == b"01xxyy6789"


@pytest.mark.parametrize("stored", [False, True])
def test_a_program_that_has_read_reads_what_it_writes_then(*, stored: bool) -> None:
    async def body() -> None:
        async with tree({"file": b"0123456789"}) as t:
            handle = await t.open("file", os.O_RDWR)
            assert await t.read(handle) == b"0123456789"
            await t.write(handle, 2, b"xx")
            if stored:
                await t.fs.files.fsync(handle)
            assert await t.read(handle) == b"01xx456789"

    run(body())


@on_loop()
async def test_a_new_file_can_be_read_by_others_while_it_is_written() -> None:
    async with tree() as t:
        writer = await t.create("new")
        await t.write(writer, 0, b"so far")
        assert await t.read_all("new") == b"so far"
        await t.write(writer, 6, b" so good")
        assert await t.read_all("new") == b"so far so good"


@on_loop()
async def test_a_large_file_can_be_read_while_it_is_written_as_long_as_it_is_in_memory() -> None:
    async with tree() as t:
        writer = await t.create("new", os.O_RDWR)
        await t.write(writer, 0, pattern(20 * MIB))
        assert await t.read(writer, 9 * MIB, 10) == pattern(20 * MIB)[9 * MIB :][:10]
        await t.write(writer, 20 * MIB, pattern(20 * MIB))
        with pytest.raises(FileSystemError) as busy:
            await t.read(writer, 0, 10)
        assert busy.value.errno == errno.EBUSY
        await t.fs.files.fsync(writer)
        assert await t.read(writer, 9 * MIB, 10) == pattern(20 * MIB)[9 * MIB :][:10]


# -- truncate(2) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4, 10, 15])
def test_truncating_a_file_that_nobody_writes_stores_it(size: int) -> None:
    async def body() -> None:
        async with tree({"file": b"0123456789"}) as t:
            node = await t.walk("file")
            assert (await t.set(node, size)).size == size
            assert t.store.read("file") == (b"0123456789" + bytes(5))[:size]
            assert (await t.stat("file")).size == size
            assert (t.store.count("PutObject") == 0) == (size == 10)

    run(body())


@on_loop()
async def test_truncating_an_open_file_is_stored_when_it_is_closed() -> None:
    async with tree({"file": b"0123456789"}) as t:
        handle = await t.open("file", os.O_WRONLY)
        await t.set(t.handles[handle], 4)
        assert t.store.read("file") == b"0123456789"
        await t.write(handle, 4, b"end")
        assert (await t.stat("file")).size == 7
        await t.close(handle)
        assert t.store.read("file") == b"0123end"
        assert t.store.count("PutObject") == 1


@on_loop()
async def test_a_truncation_that_fails_leaves_the_file() -> None:
    async with tree({"file": b"0123456789"}) as t:
        node = await t.walk("file")
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError):
            await t.set(node, 4)
        assert (await t.stat("file")).size == 10
        assert await t.read_all("file") == b"0123456789"
