"""Open files: which version is read, when what was written is seen, and who is told of failure."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from support.gatedstore import unreachable
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
async def test_the_longest_key_is_found_written_and_removed_alone() -> None:
    parent = "/".join(["d" * 200] * 5)  # 1004 bytes
    name = "n" * 19
    assert len(f"{parent}/{name}") == 1024
    async with tree({f"{parent}/{name}": b"old"}) as t:
        assert await t.read_all(f"{parent}/{name}") == b"old"
        await t.put(f"{parent}/{name}", b"new")
        assert t.store.read(f"{parent}/{name}") == b"new"
        await t.unlink(f"{parent}/{name}")
        with pytest.raises(FileSystemError) as refused:
            await t.mkdir(f"{parent}/{name}")
        assert refused.value.errno == errno.ENAMETOOLONG


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
