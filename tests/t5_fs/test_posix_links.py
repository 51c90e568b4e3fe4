"""Symbolic links, special files, and what is not made at all."""

import asyncio
import errno
import stat

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from support.posixtree import kept, posix_tree
from support.virtualtime import on_loop, run


@pytest.mark.parametrize(
    "target", [b"a", b"../a/b", b"/absolute", b" blanks at the ends ", b"\xff\n", b"t" * 4095]
)
def test_a_link_leads_where_it_was_made_to(target: bytes) -> None:
    async def body() -> None:
        async with posix_tree() as t:
            await t.symlink("link", target)
            assert await t.readlink("link") == target
            stored = t.store.stored("link")
            assert stored is not None
            # s3fs: an ordinary object, whose content is the target
            assert stored.data == target
            assert stored.content_type == "application/octet-stream"
            assert stored.headers["x-amz-meta-mode"] == "41471"
            found = await t.stat("link")
            assert (found.mode, found.size) == (0o120777, len(target))
        async with posix_tree() as t:
            t.store.write("link", target, headers=kept(0o120777))
            for _ in range(3):
                assert await t.readlink("link") == target
            assert t.store.count("GetObject") == 1

    run(body())


@on_loop()
async def test_a_link_that_is_too_long_is_not_made() -> None:
    async with posix_tree() as t:
        with pytest.raises(FileSystemError) as caught:
            await t.symlink("link", b"t" * 4096)
        assert caught.value.errno == errno.ENAMETOOLONG
        assert t.store.keys() == []


@on_loop()
async def test_a_link_that_is_too_long_is_shown_and_not_followed() -> None:
    async with posix_tree() as t:
        t.store.write("link", b"t" * 5000, headers=kept(0o120777))
        assert (await t.stat("link")).mode == 0o120777
        with pytest.raises(FileSystemError) as caught:
            await t.readlink("link")
        assert caught.value.errno == errno.ENAMETOOLONG
        assert t.store.count("GetObject") == 0


@pytest.mark.parametrize("target", [b"", b"a\0b"])
def test_a_link_to_nothing(target: bytes) -> None:
    async def body() -> None:
        async with posix_tree() as t:
            t.store.write("link", target, headers=kept(0o120777))
            with pytest.raises(FileSystemError) as caught:
                await t.readlink("link")
            assert caught.value.errno == errno.EIO

    run(body())


@on_loop()
async def test_what_is_no_link_leads_nowhere() -> None:
    async with posix_tree({"k": b"abc"}) as t:
        with pytest.raises(FileSystemError) as caught:
            await t.readlink("k")
        assert caught.value.errno == errno.EINVAL


@on_loop()
async def test_a_target_in_the_headers() -> None:
    async with posix_tree() as t:
        t.store.write("link", b"", headers={"x-amz-meta-gcsfuse_symlink_target": "a/b"})
        assert await t.readlink("link") == b"a/b"
        assert t.store.count("GetObject") == 0


@on_loop()
async def test_a_store_that_is_away_is_asked_again() -> None:
    async with posix_tree() as t:
        t.store.write("link", b"to", headers=kept(0o120777))
        t.store.fail("get_range")
        with pytest.raises(StoreError):
            await t.readlink("link")
        assert await t.readlink("link") == b"to"


@on_loop()
async def test_a_link_that_was_replaced_leads_elsewhere() -> None:
    async with posix_tree(lifetime=1.0) as t:
        t.store.write("link", b"one", headers=kept(0o120777))
        assert await t.readlink("link") == b"one"
        t.store.write("link", b"other", headers=kept(0o120777))
        await asyncio.sleep(2)
        assert await t.readlink("link") == b"other"


SPECIAL = {
    "a FIFO": (0o010640, 0),
    "a socket": (0o140755, 0),
    "a character device": (0o020666, 0x103),
    "a block device": (0o060660, 0x801),
}


@pytest.mark.parametrize(("mode", "rdev"), SPECIAL.values(), ids=SPECIAL.keys())
def test_a_special_file_is_an_empty_object(mode: int, rdev: int) -> None:
    async def body() -> None:
        async with posix_tree() as t:
            t.umask = 0
            node = await t.mknod("k", mode, rdev)
            found = await t.attributes(node)
            assert (found.mode, found.rdev, found.size) == (mode, rdev, 0)
            assert t.store.read("k") == b""
            assert t.headers("k")["x-amz-meta-mode"] == str(mode)
            assert t.headers("k").get("x-amz-meta-rdev") == (str(rdev) if rdev else None)

    run(body())


@on_loop()
async def test_a_regular_file_by_mknod() -> None:
    async with posix_tree() as t:
        node = await t.mknod("k", 0o100666)
        assert (await t.attributes(node)).mode == 0o100644
        await t.put("k", b"abc")
        assert t.store.read("k") == b"abc"


@on_loop()
async def test_what_is_there_is_not_made_again() -> None:
    async with posix_tree({"k": b"abc", "d/x": b""}) as t:
        for name in ("k", "d"):
            for make in (t.symlink(name, b"to"), t.mknod(name, 0o010600)):
                with pytest.raises(FileSystemError) as caught:
                    await make
                assert caught.value.errno == errno.EEXIST
        assert t.store.read("k") == b"abc"


@on_loop()
async def test_what_cannot_be_stored_is_not_made() -> None:
    async with posix_tree() as t:
        t.store.fail("put", StoreError(Fault.FORBIDDEN, "no"))
        with pytest.raises(StoreError):
            await t.symlink("link", b"to")
        assert not await t.exists("link")


@on_loop()
async def test_links_and_special_files_are_removed_like_files() -> None:
    async with posix_tree({"other": b""}) as t:
        await t.symlink("link", b"to")
        await t.mknod("fifo", 0o010600)
        for name in ("link", "fifo"):
            await t.unlink(name)
        assert t.store.keys() == ["other"]


@on_loop()
async def test_a_link_can_be_given_an_owner_and_times() -> None:
    async with posix_tree() as t:
        await t.symlink("link", b"to")
        found = await t.change("link", uid=9, mtime=5)
        assert (found.uid, found.mtime, stat.S_IFMT(found.mode)) == (9, 5, stat.S_IFLNK)
        handle = t.fs.directories.opendir(1)
        await t.fs.fsyncdir(handle)
        t.fs.directories.releasedir(handle)
    assert t.headers("link")["x-amz-meta-uid"] == "9"
    assert t.store.read("link") == b"to"
