"""Extended attributes and access control lists."""

import asyncio
import contextlib
import errno
import os
from struct import pack

import pytest

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.headers import METADATA_MAX, metadata_size
from support.posixtree import MOMENT, PosixTree, kept, posix_tree
from support.virtualtime import on_loop, run

UNDEFINED = 0xFFFFFFFF


def a_list(*entries: tuple[int, int, int]) -> bytes:
    return pack("<I", 2) + b"".join(pack("<HHI", *entry) for entry in entries)


# u::rwx u:1000:rwx g::r-x m::rwx o::---
LIST = a_list(
    (1, 7, UNDEFINED), (2, 7, 1000), (4, 5, UNDEFINED), (16, 7, UNDEFINED), (32, 0, UNDEFINED)
)
MINIMAL = a_list((1, 6, UNDEFINED), (4, 4, UNDEFINED), (32, 0, UNDEFINED))


async def set_(t: PosixTree, path: str, name: bytes, value: bytes, flags: int = 0) -> None:
    t.xattrs.set(await t.walk(path), name, value, flags)


async def get(t: PosixTree, path: str, name: bytes) -> bytes:
    return t.xattrs.get(await t.walk(path), name)


def errno_of(caught: pytest.ExceptionInfo[FileSystemError]) -> str:
    return errno.errorcode[caught.value.errno]


@on_loop()
async def test_what_is_set_is_kept() -> None:
    async with posix_tree({"k": b"", "d/x": b""}) as t:
        for path in ("k", "d"):
            await set_(t, path, b"user.a", b"\0\xff+/")
            await set_(t, path, b"user.empty", b"")
            await set_(t, path, "user.ä/b".encode(), b"x")
        await asyncio.sleep(MOMENT)
        assert t.store.count("CopyObject") == t.store.count("PutObject") == 1
        await asyncio.sleep(100)
        for path in ("k", "d"):
            assert await get(t, path, b"user.a") == b"\0\xff+/"
            assert await get(t, path, b"user.empty") == b""
            names = t.xattrs.names(await t.walk(path))
            assert names == [b"user.a", b"user.empty", "user.ä/b".encode()]


@on_loop()
async def test_what_s3fs_has_set_is_read() -> None:
    header = "%7B%22user.a%22%3A%22AP8rL3ZhbA%3D%3D%22%7D"
    async with posix_tree() as t:
        t.store.write("k", b"", headers={"x-amz-meta-xattr": header})
        assert await get(t, "k", b"user.a") == b"\0\xff+/val"


@on_loop()
async def test_what_is_removed_is_gone() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(xattrs={b"user.a": b"1", b"user.b": b"2"}))
        node = await t.walk("k")
        t.xattrs.remove(node, b"user.a")
        with pytest.raises(FileSystemError) as caught:
            t.xattrs.remove(node, b"user.a")
        assert errno_of(caught) == "ENODATA"
        await asyncio.sleep(MOMENT)
        assert t.headers("k").items() >= kept(xattrs={b"user.b": b"2"}).items() - {
            ("x-amz-meta-ctime", "5")
        }
        t.xattrs.remove(node, b"user.b")
        await asyncio.sleep(MOMENT)
        assert "x-amz-meta-xattr" not in t.headers("k")


@on_loop()
async def test_the_flags_of_setxattr() -> None:
    async with posix_tree({"k": b""}) as t:
        with pytest.raises(FileSystemError) as caught:
            await set_(t, "k", b"user.a", b"1", os.XATTR_REPLACE)
        assert errno_of(caught) == "ENODATA"
        await set_(t, "k", b"user.a", b"1", os.XATTR_CREATE)
        with pytest.raises(FileSystemError) as caught:
            await set_(t, "k", b"user.a", b"2", os.XATTR_CREATE)
        assert errno_of(caught) == "EEXIST"
        await set_(t, "k", b"user.a", b"2", os.XATTR_REPLACE)
        assert await get(t, "k", b"user.a") == b"2"


@on_loop()
async def test_what_is_not_there() -> None:
    async with posix_tree({"k": b""}) as t:
        with pytest.raises(FileSystemError) as caught:
            await get(t, "k", b"user.a")
        assert errno_of(caught) == "ENODATA"


@pytest.mark.parametrize("name", [b"system.nfs4_acl", b"btrfs.compression", b"plain"])
def test_names_that_are_not_kept(name: bytes) -> None:
    async def body() -> None:
        async with posix_tree({"k": b""}) as t:
            with pytest.raises(FileSystemError) as caught:
                await set_(t, "k", name, b"x")
            assert errno_of(caught) == "ENOTSUP"

    run(body())


@on_loop()
async def test_as_much_is_kept_as_s3_has_room_for() -> None:
    async with posix_tree() as t:
        await t.put("k", b"abc")
        node, size = await t.walk("k"), 0
        with contextlib.suppress(FileSystemError):
            for size in range(1, METADATA_MAX):
                t.xattrs.set(node, b"user.a", b"v" * size, 0)
        with pytest.raises(FileSystemError) as caught:
            t.xattrs.set(node, b"user.a", b"v" * size, 0)
        assert errno_of(caught) == "ENOSPC"
        assert len(t.xattrs.get(node, b"user.a")) == size - 1 > METADATA_MAX // 2
        # There is room left for any owner and any time.
        await t.change("k", uid=2**32 - 2, gid=2**32 - 2, atime=1, mtime=1)
        await asyncio.sleep(MOMENT)
        assert metadata_size(t.headers("k")) <= METADATA_MAX


@on_loop()
async def test_attributes_of_a_file_being_written_go_with_it() -> None:
    async with posix_tree() as t:
        handle = await t.create("k")
        await set_(t, "k", b"user.a", b"1")
        await t.close(handle)
        await asyncio.sleep(MOMENT)
        assert t.store.count("CopyObject") == 0
        assert "x-amz-meta-xattr" in t.headers("k")


# -- lists -----------------------------------------------------------------------------------------


@on_loop()
async def test_a_list_and_the_mode_say_the_same() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o100600))
        await set_(t, "k", acl.ACCESS, LIST)
        assert (await t.stat("k")).mode == 0o100770
        await t.change("k", mode=0o640)
        assert acl.mode_of(await get(t, "k", acl.ACCESS)) == (0o640, False)
        await asyncio.sleep(100)
        assert (await t.stat("k")).mode == 0o100640
        assert acl.mode_of(await get(t, "k", acl.ACCESS)) == (0o640, False)


@on_loop()
async def test_a_list_that_is_a_mode_is_not_kept() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o100600))
        await set_(t, "k", acl.ACCESS, MINIMAL)
        assert (await t.stat("k")).mode == 0o100640
        assert t.xattrs.names(await t.walk("k")) == []


@on_loop()
async def test_setgid_goes_where_the_kernel_says_so() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o102750))
        node = await t.walk("k")
        t.xattrs.set(node, acl.ACCESS, LIST, 0)
        assert (await t.stat("k")).mode == 0o102770
        t.xattrs.set(node, acl.ACCESS, LIST, 0, kill_setgid=True)
        assert (await t.stat("k")).mode == 0o100770


@on_loop()
async def test_what_is_no_list_is_not_set() -> None:
    async with posix_tree({"k": b"", "d/x": b""}) as t:
        for path, name, value, wanted in (
            ("k", acl.ACCESS, b"nonsense", "EINVAL"),
            ("d", acl.DEFAULT, LIST[:-1], "EINVAL"),
            ("k", acl.DEFAULT, LIST, "EACCES"),
        ):
            with pytest.raises(FileSystemError) as caught:
                await set_(t, path, name, value)
            assert errno_of(caught) == wanted


@on_loop("metadata_nonsense")
async def test_a_list_in_the_bucket_that_is_none_is_none() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o100600, xattrs={acl.ACCESS: b"nonsense"}))
        assert (await t.stat("k")).mode == 0o100600
        assert t.xattrs.names(await t.walk("k")) == []


@on_loop()
async def test_a_default_list_is_inherited() -> None:
    async with posix_tree() as t:
        t.store.write("d/", b"", headers=kept(0o040755, xattrs={acl.DEFAULT: LIST}))
        t.umask = 0o077  # which a default list goes before
        await t.walk("d")
        await t.close(await t.create("d/file", mode=0o666))
        await t.mkdir("d/sub", 0o777)
        await t.mknod("d/fifo", 0o010666)
        await t.symlink("d/link", b"to")
        for path in ("d/file", "d/fifo"):
            assert (await t.stat(path)).mode & 0o777 == 0o660
            assert acl.mode_of(await get(t, path, acl.ACCESS)) == (0o660, False)
        assert (await t.stat("d/sub")).mode == 0o040770
        assert await get(t, "d/sub", acl.DEFAULT) == LIST
        assert t.xattrs.names(await t.walk("d/link")) == []
        # And all of it is in the bucket.
        await asyncio.sleep(100)
        assert await get(t, "d/sub", acl.DEFAULT) == LIST
        assert acl.mode_of(await get(t, "d/file", acl.ACCESS)) == (0o660, False)


@on_loop()
async def test_what_is_known_of_a_node_is_looked_at_again_in_time() -> None:
    async with posix_tree(lifetime=5.0) as t:
        t.store.write("k", b"", headers=kept(xattrs={b"user.a": b"1"}))
        node = await t.walk("k")
        assert t.xattrs.is_fresh(node)
        t.store.write("k", b"x", headers=kept(xattrs={b"user.a": b"2"}))
        await asyncio.sleep(6)
        assert not t.xattrs.is_fresh(node)
        await t.xattrs.look(node)
        assert t.xattrs.get(node, b"user.a") == b"2"
