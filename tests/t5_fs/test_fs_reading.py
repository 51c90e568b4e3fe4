"""Reading files: of which version, and when the kernel's pages of it are good."""

import asyncio
import errno
import os
from collections.abc import Callable

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from support.pattern import pattern
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- reading --------------------------------------------------------------------------------------


@on_loop()
async def test_a_file_is_read_as_it_is_in_the_bucket() -> None:
    async with tree({"d/file": pattern(3 * MIB + 5)}) as t:
        handle = await t.open("d/file")
        assert await t.read(handle, 0, MIB) == pattern(3 * MIB + 5)[:MIB]
        assert await t.read(handle, 3 * MIB, MIB) == pattern(3 * MIB + 5)[3 * MIB :]
        assert (await t.stat("d/file")).size == 3 * MIB + 5


@on_loop()
async def test_a_prefix_is_the_whole_world() -> None:
    async with tree({"pre/file": b"in", "file": b"out"}, prefix="pre/") as t:
        assert await t.read_all("file") == b"in"
        await t.put("new", b"written")
        assert t.store.read("pre/new") == b"written"
        assert set(await t.list()) == {"file", "new"}


@on_loop()
async def test_handles_allow_what_they_were_opened_for() -> None:
    async with tree({"file": b"data"}) as t:
        reader = await t.open("file")
        writer = await t.open("file", os.O_WRONLY)
        with pytest.raises(FileSystemError) as refused:
            await t.write(reader, 0, b"x")
        assert refused.value.errno == errno.EBADF
        with pytest.raises(FileSystemError) as refused:
            t.start_read(writer, 0, 1)
        assert refused.value.errno == errno.EBADF


@pytest.mark.parametrize("number", [0, 4711])
def test_what_is_not_open_is_ebadf(number: int) -> None:
    async def body() -> None:
        async with tree() as t:
            calls: list[Callable[[], object]] = [
                lambda: t.start_read(number, 0, 1),
                lambda: t.fs.files.write_nowait(number, 0, memoryview(b"x")),
            ]
            for call in calls:
                with pytest.raises(FileSystemError) as refused:
                    call()
                assert refused.value.errno == errno.EBADF
            for work in (t.fs.files.flush(number, 1), t.fs.files.fsync(number)):
                with pytest.raises(FileSystemError) as refused:
                    await work
                assert refused.value.errno == errno.EBADF
            await t.fs.files.release(number)

    run(body())


@on_loop()
async def test_a_directory_is_not_opened_as_a_file() -> None:
    async with tree({"d/file": b""}) as t:
        with pytest.raises(FileSystemError) as refused:
            await t.open("d")
        assert refused.value.errno == errno.EISDIR


@on_loop()
async def test_an_interrupted_read_ends() -> None:
    async with tree({"file": b"data"}) as t:
        t.store.by_hand = True
        handle = await t.open("file")
        unique = t.start_read(handle, 0, 4)
        await settle()
        assert t.fs.files.interrupt(unique)
        assert t.answers.errnos == {unique: errno.EINTR}
        assert not t.fs.files.interrupt(unique)


# -- close to open --------------------------------------------------------------------------------


@on_loop()
async def test_opening_shows_the_version_of_today() -> None:
    async with tree({"file": b"old"}, lifetime=0.0) as t:
        assert await t.read_all("file") == b"old"
        t.store.write("file", b"newer")
        assert await t.read_all("file") == b"newer"
        assert (await t.stat("file")).size == 5


@on_loop()
async def test_what_other_clients_do_is_seen_after_a_lifetime() -> None:
    async with tree({"file": b"old"}) as t:
        assert (await t.stat("file")).size == 3
        t.store.write("file", b"newer")
        assert (await t.stat("file")).size == 3
        await asyncio.sleep(LIFETIME)
        assert (await t.stat("file")).size == 5


async def _keep(t: Tree, path: str) -> bool:
    """Open, read and close a file; tell whether the kernel may keep its pages."""
    opened = await t.fs.files.open(await t.walk(path), os.O_RDONLY, os.getpid())
    await t.read(opened.handle)
    await t.fs.files.flush(opened.handle, os.getpid())
    await t.fs.files.release(opened.handle)
    return opened.keep_cache


@on_loop()
async def test_pages_are_kept_while_the_version_is_the_same() -> None:
    async with tree({"file": b"old"}, lifetime=0.0) as t:
        assert not await _keep(t, "file")
        assert await _keep(t, "file")
        t.store.write("file", b"new")
        assert not await _keep(t, "file")
        assert await _keep(t, "file")
        # what this mount writes goes through those pages
        handle = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(handle, 0, b"ours")
        assert not await _keep(t, "file")
        await t.close(handle)
        assert await _keep(t, "file")


@on_loop()
async def test_pages_of_what_could_not_be_stored_are_not_kept() -> None:
    async with tree({"file": b"old"}) as t:
        assert not await _keep(t, "file")
        handle = await t.open("file", os.O_WRONLY)
        await t.write(handle, 0, b"NEW")
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError):
            await t.close(handle)
        assert not await _keep(t, "file")
        assert await t.read_all("file") == b"old"


@on_loop()
async def test_a_file_replaced_before_it_is_read_is_read_anew_and_the_kernel_told() -> None:
    async with tree({"file": b"old"}) as t:
        handle = await t.open("file")
        t.store.write("file", b"newer")
        assert await t.read(handle) == b"newer"
        assert t.notices.invalidated == [await t.walk("file")]
        assert (await t.stat("file")).size == 5


@on_loop()
async def test_a_file_whose_pages_the_kernel_has_kept_is_not_read_on_in_another_version() -> None:
    """The program may have had bytes of the old version, out of pages we know nothing about."""
    async with tree({"file": b"old"}) as t:
        await _keep(t, "file")
        handle = await t.open("file")
        t.store.write("file", b"newer")
        with pytest.raises(FileSystemError) as stale:
            await t.read(handle)
        assert stale.value.errno == errno.ESTALE
        assert await t.read_all("file") == b"newer"  # although the lifetime is not over


@on_loop()
async def test_two_versions_do_not_meet_in_the_pages_of_one_file() -> None:
    """Who opens a file that another version is read of gets a node, and so pages, of its own."""
    async with tree({"file": pattern(4 * MIB)}, lifetime=0.0) as t:
        before = await t.walk("file")
        old = await t.open("file")
        await t.read(old, 0, MIB)
        await settle()  # the second part is here
        t.store.write("file", pattern(4 * MIB, seed=2))
        new = await t.open("file")
        after = await t.walk("file")
        assert after != before
        assert await t.read(new, 2 * MIB, MIB) == pattern(4 * MIB, seed=2)[2 * MIB : 3 * MIB]
        assert await t.read(old, MIB, MIB) == pattern(4 * MIB)[MIB : 2 * MIB]
        with pytest.raises(StoreError) as stale:
            await t.read(old, 3 * MIB, MIB)
        assert stale.value.errno == errno.ESTALE
        assert (await t.attributes(before)).size == 4 * MIB


@on_loop()
async def test_a_node_that_lost_its_name_cannot_be_opened() -> None:
    """open(2) looks up again by itself when it is told ESTALE."""
    async with tree({"file": b"old"}, lifetime=0.0) as t:
        node = await t.walk("file")
        handle = await t.open("file")
        assert await t.read(handle) == b"old"
        t.store.write("file", b"newer")
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(FileSystemError) as stale:
                await t.fs.files.open(node, flags, os.getpid())
            assert stale.value.errno == errno.ESTALE
        assert (await t.attributes(node)).size == 3
        assert await t.read_all("file") == b"newer"


@pytest.mark.parametrize("look", ["lookup", "stat", "list"])
def test_whoever_finds_another_version_leaves_readers_alone(look: str) -> None:
    async def body() -> None:
        async with tree({"file": pattern(4 * MIB)}, lifetime=0.0) as t:
            before = await t.walk("file")
            handle = await t.open("file")
            await t.read(handle, 0, MIB)
            await settle()  # the second part is here
            t.store.write("file", b"newer")
            if look == "list":
                await t.list(plus=True)
            elif look == "stat":
                await t.attributes(before)
            assert await t.walk("file") != before
            assert await t.read(handle, MIB, MIB) == pattern(4 * MIB)[MIB : 2 * MIB]

    run(body())


@on_loop()
async def test_a_version_that_nobody_reads_any_more_needs_no_other_node() -> None:
    async with tree({"file": b"old"}, lifetime=0.0) as t:
        before = await t.walk("file")
        assert await t.read_all("file") == b"old"
        t.store.write("file", b"newer")
        unread = await t.open("file")
        assert await t.walk("file") == before
        assert await t.read(unread) == b"newer"


@on_loop()
async def test_reopening_after_somebody_else_has_read_is_refused() -> None:
    """Pages that one handle filled out of the old version are what the other one would read."""
    async with tree({"file": pattern(4 * MIB)}) as t:
        late = await t.open("file")
        early = await t.open("file")
        await t.read(early, 0, MIB)
        t.store.write("file", pattern(4 * MIB, seed=2))
        with pytest.raises(FileSystemError) as stale:
            await t.read(late, 3 * MIB, MIB)
        assert stale.value.errno == errno.ESTALE
        assert await t.read_all("file") == pattern(4 * MIB, seed=2)


@on_loop()
async def test_who_opens_a_file_anew_that_was_found_replaced_gets_the_new_version_at_once() -> None:
    async with tree({"file": pattern(4 * MIB)}) as t:
        old = await t.open("file")
        await t.read(old, 0, MIB)
        t.store.write("file", b"new")
        with pytest.raises(StoreError) as stale:
            await t.read(old, 3 * MIB, MIB)
        assert stale.value.errno == errno.ESTALE
        assert await t.read_all("file") == b"new"  # although the lifetime is not over
        assert (await t.stat("file")).size == 3


@on_loop()
async def test_opening_with_o_trunc_leaves_readers_the_version_they_read() -> None:
    async with tree({"file": pattern(4 * MIB)}) as t:
        reader = await t.open("file")
        await t.read(reader, 0, MIB)
        writer = await t.open("file", os.O_WRONLY | os.O_TRUNC)
        await t.write(writer, 0, b"new")
        assert await t.read(reader, 3 * MIB, MIB) == pattern(4 * MIB)[3 * MIB :]
        assert await t.read_all("file") == b"new"
        await t.close(writer)
        assert await t.read_all("file") == b"new"
        assert (await t.stat("file")).size == 3


@on_loop()
async def test_who_reads_a_file_reads_on_in_what_is_appended_to_it() -> None:
    async with tree({"log": b"one\n"}) as t:
        reader = await t.open("log")
        assert await t.read(reader) == b"one\n"
        for number, line in enumerate((b"two\n", b"six\n"), 1):
            writer = await t.open("log", os.O_WRONLY | os.O_APPEND)
            await t.write(writer, 4 * number, line)
            assert await t.read(reader, 4 * number) == line  # before it is stored
            await t.close(writer)
            assert await t.read(reader, 4 * number) == line
        assert await t.read(reader) == b"one\ntwo\nsix\n"


@on_loop()
async def test_writing_on_a_version_that_was_replaced_is_refused() -> None:
    """What would be stored is of neither version."""
    async with tree({"file": b"old"}, lifetime=0.0) as t:
        handle = await t.open("file", os.O_RDWR)
        assert await t.read(handle) == b"old"
        t.store.write("file", b"newer")
        await t.walk("file")
        with pytest.raises(StoreError) as stale:
            await t.write(handle, 3, b"er")
        assert stale.value.errno == errno.ESTALE
        await t.close(handle)
        assert t.store.read("file") == b"newer"


@on_loop()
async def test_what_a_nameless_node_stores_is_seen_at_once() -> None:
    async with tree({"file": b"old"}, lifetime=2.0) as t:
        node = await t.walk("file")
        handle = await t.open("file", os.O_RDWR)
        assert await t.read(handle) == b"old"
        await asyncio.sleep(2)
        t.store.write("file", b"newer")
        assert await t.walk("file") != node
        await t.set(node, size=0)
        await t.write(handle, 0, b"ours, whole")
        await t.close(handle)
        assert await t.read_all("file") == b"ours, whole"


@pytest.mark.parametrize("instead", [None, "directory"])
def test_a_file_that_is_gone_before_it_is_read_is_stale(instead: str | None) -> None:
    async def body() -> None:
        async with tree({"file": b"old"}) as t:
            handle = await t.open("file")
            t.store.remove("file")
            if instead:
                t.store.write("file/x", b"")
            for _ in range(2):
                with pytest.raises(ServeError) as stale:
                    await t.read(handle)
                assert stale.value.errno == errno.ESTALE

    run(body())


@pytest.mark.parametrize("operation", ["head", "list_page"])
def test_a_store_that_fails_just_then_is_an_error_and_no_endless_wait(operation: str) -> None:
    async def body() -> None:
        async with tree({"file": b"old"}) as t:
            handle = await t.open("file")
            t.store.write("file", b"newer")
            t.store.fail(operation)
            with pytest.raises(StoreError) as failed:
                await t.read(handle)
            assert failed.value.errno == errno.EIO

    run(body())
