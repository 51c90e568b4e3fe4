"""What programs set: shown at once, stored together, never lost in silence."""

import asyncio
import errno
import os
import stat

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.fs.attributes import Overrides
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.store.types import Body
from support.membucket import StoredObject
from support.posixtree import SECOND, PosixTree, kept, posix_tree
from support.virtualtime import on_loop, run, settle

MODE = "x-amz-meta-mode"
MOMENT = 2.0  # seconds, after which whatever was put off is done
REFUSED = StoreError(Fault.FORBIDDEN, "no")


def operations(t: PosixTree) -> list[tuple[str, str]]:
    """Return the requests that change something."""
    looking = {"HeadObject", "ListObjectsV2", "GetObject"}
    return [request for request in t.store.requests if request[0] not in looking]


def expected(
    mode: int = 0o100640, uid: int = 7, gid: int = 8, mtime: int = 5 * SECOND
) -> dict[str, str]:
    """Return the headers of an object that keeps this, without the time of the change."""
    return without_ctime(kept(mode, uid, gid, mtime))


def without_ctime(headers: object) -> dict[str, str]:
    assert isinstance(headers, dict)
    return {name: value for name, value in headers.items() if name != "x-amz-meta-ctime"}


def body_of(data: bytes) -> Body:
    return Body((data,), len(data))


async def burst(t: PosixTree, path: str) -> None:
    """Set everything, as cp -p does."""
    await t.change(path, atime=5 * SECOND, mtime=5 * SECOND)
    await t.change(path, uid=7, gid=8)
    await t.change(path, mode=0o640)


# -- one request -----------------------------------------------------------------------------------


@on_loop()
async def test_a_burst_of_changes_costs_one_request() -> None:
    async with posix_tree() as t:
        t.store.write(
            "k", b"abc", content_type="text/x-test", headers={"cache-control": "no-cache"}
        )
        await burst(t, "k")
        found = await t.stat("k")
        assert (found.mode, found.uid, found.gid, found.mtime) == (0o100640, 7, 8, 5 * SECOND)
        assert operations(t) == []
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("CopyObject", "k")]
        stored = t.store.stored("k")
        assert stored is not None
        assert (stored.data, stored.content_type) == (b"abc", "text/x-test")
        assert without_ctime(stored.headers) == expected() | {"cache-control": "no-cache"}


@on_loop()
async def test_who_looks_while_changes_are_stored_may_learn_more_headers() -> None:
    async with posix_tree({"k": b""}) as t:
        node = t.node(await t.walk("k"))
        t.store.hold("copy")
        await t.change("k", mode=0o600)
        await asyncio.sleep(MOMENT)
        assert node.record is not None
        described = node.record.described
        more = {**described.rest, "x-amz-storage-class": "STANDARD"}
        node.record.described = described._replace(rest=more)
        t.store.let_go("copy")
        await settle()
        assert t.headers("k")[MODE] == str(0o100600)
        assert node.record.changes == {}
        assert node.record.described.inode.mode == 0o100600


@on_loop()
async def test_changes_that_go_on_are_stored_all_the_same() -> None:
    """[S100] What is set shows at once, and is stored a moment later: without another change for a
    fifth of a second, or a second after the first.
    """
    async with posix_tree({"k": b""}) as t:
        for number in range(20):
            await t.change("k", mode=0o600 | number % 2)
            await asyncio.sleep(0.15)
        assert 2 <= len(operations(t)) <= 3


@on_loop()
async def test_what_is_so_already_is_not_set() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"abc", headers=kept())
        await t.change("k", mode=0o640)
        await t.change("k", uid=7, gid=8)
        await t.change("k", mtime=5 * SECOND)
        await asyncio.sleep(MOMENT)
        assert operations(t) == []


@on_loop()
async def test_a_change_that_is_taken_back_is_stored_as_it_is_in_the_end() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"abc", headers=kept())
        await t.change("k", mode=0o600)
        await t.change("k", mode=0o640)
        await asyncio.sleep(MOMENT)
        assert without_ctime(t.headers("k")) == expected()


@on_loop()
async def test_what_is_set_before_the_close_goes_with_the_bytes() -> None:
    async with posix_tree() as t:
        handle = await t.create("k")
        await t.write(handle, 0, b"abc")
        await burst(t, "k")
        await t.close(handle)
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "k")]
        assert without_ctime(t.headers("k")) == expected()


@on_loop()
async def test_what_is_set_after_the_close_is_one_request_more() -> None:
    async with posix_tree() as t:
        await t.put("k", b"abc")
        await burst(t, "k")
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "k"), ("CopyObject", "k")]
        assert without_ctime(t.headers("k")) == expected()


@on_loop()
async def test_changes_wait_for_bytes_that_are_being_written() -> None:
    async with posix_tree() as t:
        await t.put("k", b"abc")
        handle = await t.open("k", os.O_WRONLY)
        await t.write(handle, 0, b"d")
        await burst(t, "k")
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "k")]
        await t.close(handle)
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "k")] * 2
        assert t.store.read("k") == b"dbc"
        assert without_ctime(t.headers("k")) == expected()


@on_loop()
async def test_a_file_that_is_open_and_not_written_does_not_keep_changes_back() -> None:
    async with posix_tree() as t:
        await t.put("k", b"abc")
        handle = await t.open("k", os.O_WRONLY)
        await t.change("k", mode=0o600)
        await asyncio.sleep(MOMENT)
        assert operations(t)[1:] == [("CopyObject", "k")]
        await t.write(handle, 3, b"d")
        await t.close(handle)
        assert t.store.read("k") == b"abcd"
        assert t.headers("k")[MODE] == str(0o100600)


@on_loop()
async def test_a_directory_that_is_made_and_set_is_written_twice() -> None:
    async with posix_tree() as t:
        await t.mkdir("d", 0o700)
        await burst(t, "d")
        await asyncio.sleep(MOMENT)
        assert operations(t) == [("PutObject", "d/")] * 2
        assert without_ctime(t.headers("d/")) == expected(0o040640)


@on_loop()
async def test_a_directory_without_a_marker_gets_one() -> None:
    async with posix_tree({"d/x": b""}) as t:
        await t.change("d", mode=0o1777)
        assert (await t.stat("d")).mode == 0o041777
        await asyncio.sleep(MOMENT)
        stored = t.store.stored("d/")
        assert stored is not None
        assert stored.content_type == "application/x-directory"
        assert stored.headers[MODE] == str(0o041777)
        await t.unlink("d/x")
        await asyncio.sleep(MOMENT)
        assert await t.exists("d")


@on_loop()
async def test_a_marker_with_bytes_in_it_keeps_them() -> None:
    async with posix_tree({"d/": b"not empty"}) as t:
        await t.change("d", mode=0o700)
        await asyncio.sleep(MOMENT)
        assert t.store.read("d/") == b"not empty"
        assert t.headers("d/")[MODE] == str(0o040700)


@pytest.mark.parametrize(("prefix", "key"), [("", "/"), ("a/b/", "a/b/")])
def test_the_root_has_an_object_of_its_own(prefix: str, key: str) -> None:
    async def body() -> None:
        async with posix_tree({f"{prefix}x": b""}, prefix=prefix) as t:
            await t.set(ROOT_ID, overrides=Overrides(0.0, mode=0o711))
            await asyncio.sleep(MOMENT)
            assert t.headers(key)[MODE] == str(0o040711)
            assert (await t.attributes(ROOT_ID)).mode == 0o040711
            assert await t.list() == {"x": False}
            await asyncio.sleep(100)
            assert (await t.attributes(ROOT_ID)).mode == 0o040711

    run(body())


# -- times -----------------------------------------------------------------------------------------


@on_loop()
async def test_a_write_after_utimens_is_the_later_time() -> None:
    async with posix_tree() as t:
        handle = await t.create("k")
        await t.write(handle, 0, b"a")
        await t.change("k", mtime=5 * SECOND)
        assert (await t.stat("k")).mtime == 5 * SECOND
        await t.write(handle, 1, b"b")
        later = (await t.stat("k")).mtime
        assert later > 1_000_000_000 * SECOND
        await t.close(handle)
        assert (await t.stat("k")).mtime == later


@on_loop()
async def test_the_time_of_a_file_is_kept_to_the_nanosecond() -> None:
    async with posix_tree() as t:
        await t.put("k", b"a")
        written = (await t.stat("k")).mtime
        await asyncio.sleep(100)
        assert (await t.stat("k")).mtime == written
        await t.change("k", mode=0o600)  # which gives the object another time
        await asyncio.sleep(100)
        assert (await t.stat("k")).mtime == written
        await t.change("k", mtime=1_000_000_001)
        await asyncio.sleep(100)
        assert (await t.stat("k")).mtime == 1_000_000_001


@on_loop()
async def test_a_plain_object_keeps_its_time_when_its_mode_is_set() -> None:
    async with posix_tree({"k": b""}) as t:
        before = (await t.stat("k")).mtime
        await asyncio.sleep(50)
        await t.change("k", mode=0o600)
        await asyncio.sleep(100)
        assert (await t.stat("k")).mtime == before


@on_loop()
async def test_every_change_has_its_time() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept())
        before = (await t.stat("k")).ctime
        found = await t.change("k", mode=0o600)
        assert found.ctime > before
        assert found.mtime == 5 * SECOND


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


# -- who may do what -------------------------------------------------------------------------------


@on_loop()
async def test_what_is_made_belongs_to_who_made_it() -> None:
    async with posix_tree() as t:
        t.uid, t.gid, t.umask = 12, 34, 0o027
        handle = await t.create("file")
        await t.close(handle)
        await t.mkdir("dir")
        await t.mknod("node")
        await t.symlink("link", b"to")
        shown = {name: await t.stat(name) for name in ("file", "dir", "node", "link")}
        assert {(found.uid, found.gid) for found in shown.values()} == {(12, 34)}
        assert {name: stat.filemode(found.mode) for name, found in shown.items()} == {
            "file": "-rw-r-----", "dir": "drwxr-x---", "node": "-rw-r-----", "link": "lrwxrwxrwx",
        }  # fmt: skip


@on_loop()
async def test_a_setgid_directory_gives_its_group() -> None:
    async with posix_tree() as t:
        await t.mkdir("d")
        await t.change("d", gid=55)
        await t.change("d", mode=0o2775)
        await t.close(await t.create("d/file"))
        await t.mkdir("d/sub")
        await t.symlink("d/link", b"to")
        for name in ("file", "sub", "link"):
            assert (await t.stat(f"d/{name}")).gid == 55
        assert (await t.stat("d/sub")).mode & stat.S_ISGID
        assert not (await t.stat("d/file")).mode & stat.S_ISGID


PRIVILEGES = {
    "setuid": (0o104755, 0o100755),
    "setgid": (0o102755, 0o100755),
    "both": (0o106755, 0o100755),
    "setgid without execution": (0o102644, 0o102644),
    "setuid without execution": (0o104644, 0o100644),
    "sticky": (0o101755, 0o101755),
}


@pytest.mark.parametrize(("before", "after"), PRIVILEGES.values(), ids=PRIVILEGES.keys())
def test_another_owner_takes_privileges_away(before: int, after: int) -> None:
    async def body() -> None:
        async with posix_tree() as t:
            t.store.write("k", b"", headers=kept(before, xattrs={b"security.capability": b"c"}))
            found = await t.change("k", gid=99)
            assert found.mode == after
            with pytest.raises(FileSystemError):
                t.xattrs.get(await t.walk("k"), b"security.capability")
            await asyncio.sleep(MOMENT)
            assert t.store.count("CopyObject") == 1

    run(body())


@on_loop()
async def test_a_mode_that_is_set_with_the_owner_stays() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o104755))
        assert (await t.change("k", uid=9, mode=0o4711)).mode == 0o104711


@on_loop()
async def test_privileges_of_a_directory_are_none() -> None:
    async with posix_tree() as t:
        t.store.write("d/", b"", headers=kept(0o042755))
        assert (await t.change("d", gid=99)).mode == 0o042755


@on_loop()
async def test_privileges_go_when_somebody_writes() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o106755))
        node = await t.walk("k")
        t.fs.kill_privileges(node)
        assert (await t.attributes(node)).mode == 0o100755
        before = operations(t)
        t.fs.kill_privileges(node)
        assert operations(t) == before


# -- limits ----------------------------------------------------------------------------------------


@on_loop()
async def test_an_object_whose_metadata_is_full_cannot_be_changed() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers={"x-amz-meta-full": "v" * 2000})
        with pytest.raises(FileSystemError) as caught:
            await t.change("k", mode=0o600)
        assert caught.value.errno == errno.ENOSPC
        assert (await t.stat("k")).mode == 0o100644


@on_loop()
async def test_who_writes_an_object_that_nobody_looked_at_keeps_what_it_carries() -> None:
    """An upload that goes on from before a restart has no node."""
    async with posix_tree() as t:
        t.store.write("k", b"old", headers=kept(0o100600, x_amz_meta_colour="blue"))
        await t.keeper().store.put("k", body_of(b"new"))
        assert t.store.read("k") == b"new"
        assert t.headers("k")[MODE] == str(0o100600)
        assert t.headers("k")["x-amz-meta-colour"] == "blue"
        await t.keeper().store.put("fresh", body_of(b"new"))
        assert t.headers("fresh") == {}


@on_loop()
async def test_settled_names_keep_changes_that_are_not_stored_yet() -> None:
    async with posix_tree(lifetime=0.1) as t:
        t.store.write("k", b"", headers=kept(0o100640))
        await t.change("k", mode=0o600)
        await asyncio.sleep(0.15)  # longer than names are believed, and not as long as a burst
        assert (await t.stat("k")).mode == 0o100600
        await settle()
