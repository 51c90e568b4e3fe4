"""What programs set: shown at once, and stored together."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.attributes import Overrides
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.store.types import Body
from support.posixtree import MODE, MOMENT, SECOND, PosixTree, kept, operations, posix_tree
from support.virtualtime import on_loop, run, settle


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
