"""Whose things are that are made, and how privileges go with another owner or a write."""

import asyncio
import stat

import pytest

from fuse_s3_worker.errors import FileSystemError
from support.posixtree import MOMENT, kept, operations, posix_tree
from support.virtualtime import on_loop, run


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
