"""When what programs set is stored, in which order with bytes, and who is told that it was not."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.fs.attributes import Overrides
from support.membucket import StoredObject
from support.posixtree import MODE, MOMENT, SECOND, PosixTree, kept, operations, posix_tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


# -- when it is safe -------------------------------------------------------------------------------


@on_loop()
async def test_fsync_stores_what_was_set() -> None:
    async with posix_tree({"k": b""}) as t:
        handle = await t.open("k")
        await t.change("k", mode=0o600)
        await t.fs.files.fsync(handle)
        assert t.headers("k")[MODE] == str(0o100600)


@on_loop()
async def test_fsync_of_a_directory_stores_what_was_set() -> None:
    async with posix_tree({"d/": b""}) as t:
        number = t.fs.directories.opendir(await t.walk("d"))
        await t.change("d", mode=0o700)
        await t.fs.fsyncdir(number)
        assert t.headers("d/")[MODE] == str(0o040700)
        t.fs.directories.releasedir(number)


@on_loop()
async def test_unmounting_stores_what_was_set() -> None:
    async with posix_tree({"k": b"", "d/x": b""}) as t:
        await t.change("k", mode=0o600)
        await t.change("d", mode=0o700)
    assert t.headers("k")[MODE] == str(0o100600)
    assert t.headers("d/")[MODE] == str(0o040700)


@on_loop()
async def test_a_node_that_the_kernel_forgets_is_stored_first() -> None:
    async with posix_tree({"k": b""}) as t:
        await t.change("k", mode=0o600)
        await t.forget_all()
        await asyncio.sleep(MOMENT)
        assert t.headers("k")[MODE] == str(0o100600)
        assert t.fs.statistics().nodes == 1


@on_loop()
async def test_a_change_while_one_is_being_stored_is_stored_too() -> None:
    async with posix_tree({"k": b""}) as t:
        await t.change("k", mode=0o600)
        t.store.hold("copy")
        await asyncio.sleep(MOMENT)
        await t.change("k", mode=0o640)
        await t.change("k", uid=9)
        assert (await t.stat("k")).mode == 0o100640
        t.store.let_go("copy")
        await asyncio.sleep(MOMENT)
        assert t.store.count("CopyObject") == 2
        assert (t.headers("k")[MODE], t.headers("k")["x-amz-meta-uid"]) == (str(0o100640), "9")


@on_loop()
async def test_what_is_replaced_keeps_what_was_set_before() -> None:
    """`chmod`, and at once `>` by the shell: one request, with both."""
    async with posix_tree() as t:
        t.store.write("k", b"old", headers=kept(x_amz_meta_colour="blue"))
        await t.change("k", mode=0o600)
        await t.put("k", b"new")
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "k")]
        headers = t.headers("k")
        assert (headers[MODE], headers["x-amz-meta-uid"]) == (str(0o100600), "7")
        assert headers["x-amz-meta-colour"] == "blue"
        assert (await t.stat("k")).mode == 0o100600


@on_loop()
async def test_what_is_replaced_while_it_is_read_keeps_what_was_set_before() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"old", headers=kept())
        reader = await t.open("k")
        assert await t.read(reader) == b"old"
        await t.change("k", mode=0o600)
        await t.put("k", b"new")
        assert t.headers("k")[MODE] == str(0o100600)
        assert t.store.read("k") == b"new"


# -- order -----------------------------------------------------------------------------------------


@on_loop()
async def test_a_copy_under_way_does_not_bring_old_bytes_back() -> None:
    async with posix_tree({"k": b"old"}) as t:
        await t.change("k", mode=0o600)
        t.store.hold("copy")
        await asyncio.sleep(MOMENT)
        writing = asyncio.create_task(t.put("k", b"new"))
        await asyncio.sleep(MOMENT)
        assert t.store.read("k") == b"old"
        t.store.let_go("copy")
        await writing
        assert operations(t) == [("CopyObject", "k"), ("PutObject", "k")]
        assert t.store.read("k") == b"new"
        assert t.headers("k")[MODE] == str(0o100600)


@on_loop()
async def test_a_copy_under_way_does_not_bring_a_removed_file_back() -> None:
    async with posix_tree({"k": b"old", "other": b""}) as t:
        await t.change("k", mode=0o600)
        t.store.hold("copy")
        await asyncio.sleep(MOMENT)
        removing = asyncio.create_task(t.unlink("k"))
        await asyncio.sleep(MOMENT)
        t.store.let_go("copy")
        await removing
        await asyncio.sleep(MOMENT)
        assert t.store.keys() == ["other"]


@on_loop()
async def test_what_was_set_of_a_removed_file_is_forgotten() -> None:
    async with posix_tree({"k": b"", "d/": b""}) as t:
        await t.change("k", mode=0o600)
        await t.change("d", mode=0o700)
        await t.unlink("k")
        await t.rmdir("d")
        await asyncio.sleep(MOMENT)
        assert t.store.keys() == []
        assert {name for name, _ in operations(t)} == {"DeleteObject"}


@on_loop()
async def test_a_removed_file_that_is_open_can_be_set() -> None:
    async with posix_tree({"k": b"", "other": b""}) as t:
        handle = await t.open("k", os.O_RDWR)
        node = t.handles[handle]
        await t.unlink("k")
        found = await t.set(node, overrides=Overrides(0.0, mode=0o600))
        assert found.mode == 0o100600
        await t.fs.files.fsync(handle)
        await asyncio.sleep(MOMENT)
        assert t.store.keys() == ["other"]


def as_if_in_parts(t: PosixTree, key: str) -> None:
    """Give an object the entity tag of one that was uploaded in parts; as a copy it has another."""
    stored = t.store._objects[key]
    info = stored.info._replace(etag='"0123456789abcdef0123456789abcdef-2"')
    t.store._objects[key] = StoredObject(stored.data, info, stored.content_type, stored.headers)


@on_loop()
async def test_a_reader_goes_on_where_a_copy_gives_the_object_another_tag() -> None:
    async with posix_tree() as t:
        t.store.write("k", bytes(4 * MIB), headers=kept())
        as_if_in_parts(t, "k")
        t.store.by_hand = True
        reader = await t.open("k")
        first = t.start_read(reader, 0, 4)
        await settle()
        t.store.arrivals[0].feed()
        assert await t.answers.bytes_of(first) == bytes(4)
        await t.change("k", mode=0o600)
        await asyncio.sleep(MOMENT)
        t.store.by_hand = False
        # What was not fetched is fetched by the new tag, and the kernel's pages are good.
        assert await t.read(reader, 3 * MIB, 4) == bytes(4)
        stored = t.store.stored("k")
        assert stored is not None
        assert t.node(t.handles[reader]).cached_etag == stored.info.etag
        assert await t.walk("k") == t.handles[reader]


@on_loop()
async def test_a_range_under_way_is_asked_for_again_by_the_new_tag() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"0123456789", headers=kept())
        as_if_in_parts(t, "k")
        reader = await t.open("k")
        await t.change("k", mode=0o600)
        t.store.hold("get_range")
        unique = t.start_read(reader, 0, 4)
        await asyncio.sleep(MOMENT)
        assert t.headers("k")[MODE] == str(0o100600)
        t.store.let_go("get_range")
        assert await t.answers.bytes_of(unique) == b"0123"


@on_loop()
async def test_who_appends_goes_on_where_a_copy_gave_the_object_another_tag() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"0123456789", headers=kept())
        as_if_in_parts(t, "k")
        handle = await t.open("k", os.O_WRONLY)
        await t.change("k", mode=0o600)
        await asyncio.sleep(MOMENT)
        await t.write(handle, 10, b"a")
        await t.close(handle)
        assert t.store.read("k") == b"0123456789a"


# -- failures --------------------------------------------------------------------------------------


@on_loop("metadata_failed")
async def test_what_fails_late_is_logged_and_not_shown_any_longer() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o100640))
        await t.change("k", mode=0o600)
        t.store.fail("copy", REFUSED)
        await asyncio.sleep(MOMENT)
        assert (await t.stat("k")).mode == 0o100640
        assert t.notices.invalidated == [await t.walk("k")]
        assert t.headers("k")[MODE] == str(0o100640)


@pytest.mark.parametrize("how", ["fsync", "close"])
def test_what_fails_late_is_told_to_who_has_it_open(how: str) -> None:
    """[S102] What cannot be stored later is logged, shown no longer, and told to the next close or
    fsync of who has the file open.
    """

    async def body() -> None:
        async with posix_tree({"k": b""}) as t:
            handle = await t.open("k")
            await t.change("k", mode=0o600)
            t.store.fail("copy", REFUSED)
            await asyncio.sleep(MOMENT)
            with pytest.raises(ServeError) as caught:
                await tell(t, handle)
            assert caught.value.errno == errno.EACCES
            await tell(t, handle)  # once

    async def tell(t: PosixTree, handle: int) -> None:
        if how == "fsync":
            await t.fs.files.fsync(handle)
        else:
            await t.fs.files.flush(handle, os.getpid())

    run(body(), logged=["metadata_failed"])


@on_loop()
async def test_fsync_fails_with_what_it_stores() -> None:
    """[S101] fsync of a file or a directory stores what was set of it, and fails when that
    fails.
    """
    async with posix_tree({"k": b""}) as t:
        handle = await t.open("k")
        await t.change("k", mode=0o600)
        t.store.fail("copy", REFUSED)
        with pytest.raises(StoreError):
            await t.fs.files.fsync(handle)
        assert (await t.stat("k")).mode == 0o100644
        await t.fs.files.fsync(handle)
        await t.close(handle)


@on_loop("metadata_failed")
async def test_what_was_replaced_by_others_is_not_changed() -> None:
    """A time that was set for one version must not be shown of another."""
    async with posix_tree() as t:
        t.store.write("k", b"one", headers=kept())
        await t.change("k", mtime=9 * SECOND)
        t.store.write("k", b"other", headers=kept(mtime=11 * SECOND))
        await asyncio.sleep(MOMENT)
        assert t.headers("k")["x-amz-meta-mtime"] == "11"
        assert (await t.stat("k")).mtime == 11 * SECOND


@on_loop("metadata_failed")
async def test_what_was_removed_by_others_does_not_come_back() -> None:
    async with posix_tree({"k": b"", "other": b""}) as t:
        await t.change("k", mode=0o600)
        t.store.remove("k")
        await asyncio.sleep(MOMENT)
        assert t.store.keys() == ["other"]
        assert not await t.exists("k")


@on_loop()
async def test_bytes_that_could_not_be_stored_do_not_take_changes_along() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"old", headers=kept())
        handle = await t.open("k", os.O_WRONLY)
        await t.write(handle, 0, b"n")
        await t.change("k", mode=0o600)
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError):
            await t.close(handle)
        await asyncio.sleep(MOMENT)
        assert t.store.read("k") == b"old"
        assert t.headers("k")[MODE] == str(0o100600)


@on_loop()
async def test_a_file_that_was_never_stored_leaves_nothing_to_be_changed() -> None:
    async with posix_tree({"other": b""}) as t:
        handle = await t.create("k")
        await t.change("k", mode=0o600)
        t.store.fail("put", REFUSED)
        with pytest.raises(StoreError):
            await t.close(handle)
        await asyncio.sleep(MOMENT)
        assert t.store.keys() == ["other"]
