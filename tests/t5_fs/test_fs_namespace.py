"""Names: looked up, made and removed; and directories that must not vanish."""

import asyncio
import errno
import os

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs import namespace
from fuse_s3_worker.fs.attributes import Overrides
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.tree import LIFETIME, OWNERSHIP, tree
from support.virtualtime import on_loop, run, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")
MARKER_TYPE = "application/x-directory"


async def _errno(work: object) -> int:
    """Return the errno that `work` comes to."""
    assert asyncio.iscoroutine(work)
    with pytest.raises((FileSystemError, StoreError)) as refused:
        await work
    return int(refused.value.errno)


# -- looking up -----------------------------------------------------------------------------------


@on_loop()
async def test_files_directories_and_nothing() -> None:
    async with tree({"file": b"12345", "d/x": b"", "marked/": b""}) as t:
        assert (await t.lookup(ROOT_ID, "file")).attributes.size == 5
        assert (await t.lookup(ROOT_ID, "d")).node.is_directory
        assert (await t.lookup(ROOT_ID, "marked")).node.is_directory
        assert not await t.exists("nothing")
        assert await _errno(t.walk("file/x")) == errno.ENOTDIR
        assert await _errno(t.lookup(4711, "x")) == errno.ESTALE


@on_loop()
async def test_an_answer_says_for_how_long_it_holds() -> None:
    async with tree({"file": b""}) as t:
        found = await t.lookup(ROOT_ID, "file")
        assert found.seconds == LIFETIME
        await asyncio.sleep(10)
        assert (await t.lookup(ROOT_ID, "file")).seconds == LIFETIME - 10
        assert t.fs.names.lookup_nowait(ROOT_ID, b"nothing") is None
        assert await t.fs.names.lookup(ROOT_ID, b"nothing") == LIFETIME
        await asyncio.sleep(10)
        assert t.fs.names.lookup_nowait(ROOT_ID, b"nothing") == LIFETIME - 10


@on_loop()
async def test_the_same_name_is_the_same_node_and_the_same_inode() -> None:
    async with tree({"file": b"1"}, lifetime=0.0) as t:
        first = await t.lookup(ROOT_ID, "file")
        t.store.write("file", b"22")
        second = await t.lookup(ROOT_ID, "file")
        assert first.node is second.node
        assert first.attributes.ino == second.attributes.ino
        assert second.attributes.size == 2
        t.store.remove("file")
        t.store.write("file/x", b"")
        assert await _errno(t.attributes(first.node.id)) == errno.ESTALE
        third = await t.lookup(ROOT_ID, "file")
        assert third.node is not first.node
        assert first.node.gone


@on_loop()
async def test_what_is_gone_from_the_bucket_is_stale_or_missing() -> None:
    async with tree({"file": b"1", "d/x": b""}, lifetime=0.0) as t:
        file, directory = await t.walk("file"), await t.walk("d")
        t.store.remove("file")
        t.store.remove("d/x")
        assert await _errno(t.attributes(file)) == errno.ESTALE
        assert not await t.exists("file")
        assert not await t.exists("d")
        assert await _errno(t.lookup(directory, "x")) == errno.ESTALE


@on_loop()
async def test_a_fresh_listing_answers_lookups() -> None:
    async with tree({f"d/{number}": b"" for number in range(20)}) as t:
        await t.list("d", plus=True)
        asked = len(t.store.requests)
        for number in range(20):
            assert await t.exists(f"d/{number}")
        assert not await t.exists("d/20")
        assert len(t.store.requests) == asked


@on_loop()
async def test_a_lookup_while_the_name_is_made_finds_what_was_made() -> None:
    async with tree() as t:
        t.store.hold("head")
        looking = asyncio.create_task(t.lookup(ROOT_ID, "new"))
        await settle()
        handle = await t.create("new")
        t.store.let_go("head")
        assert (await looking).node.id == t.handles[handle]


@pytest.mark.parametrize(
    ("name", "number"), [("n" * 256, errno.ENAMETOOLONG), ("\udcff", errno.EILSEQ)]
)
def test_names_that_no_key_can_have(name: str, number: int) -> None:
    async def body() -> None:
        async with tree() as t:
            raw = name.encode("utf-8", "surrogateescape")
            names = t.fs.names
            with pytest.raises(FileSystemError) as refused:
                names.lookup_nowait(ROOT_ID, raw)
            assert refused.value.errno == number
            for work in (
                names.lookup(ROOT_ID, raw),
                names.mkdir(ROOT_ID, raw),
                names.mknod(ROOT_ID, raw),
                names.unlink(ROOT_ID, raw),
                names.rmdir(ROOT_ID, raw),
                t.fs.files.create(ROOT_ID, raw, os.O_WRONLY, 1),
            ):
                assert await _errno(work) == number
            assert t.store.requests == []

    run(body())


# -- making ---------------------------------------------------------------------------------------


@on_loop()
async def test_mkdir_writes_a_marker_and_is_seen_at_once() -> None:
    async with tree({"other": b""}) as t:
        assert not await t.exists("d")
        await t.mkdir("d")
        stored = t.store.stored("d/")
        assert stored is not None
        assert (stored.data, stored.content_type) == (b"", MARKER_TYPE)
        assert await t.exists("d")
        assert await t.list() == {"d": True, "other": False}
        assert await t.list("d") == {}
        await t.mkdir("d/e")
        assert t.store.keys() == ["d/", "d/e/", "other"]


@on_loop()
async def test_mknod_makes_an_empty_file() -> None:
    async with tree() as t:
        node = await t.mknod("file")
        assert t.store.read("file") == b""
        assert (await t.attributes(node)).size == 0
        assert await t.walk("file") == node


@pytest.mark.parametrize("path", ["file", "d", "implicit", "being written"])
def test_what_exists_is_not_made_again(path: str) -> None:
    async def body() -> None:
        async with tree({"file": b"x", "d/": b"", "implicit/x": b""}) as t:
            await t.create("being written")
            for work in (t.mkdir(path), t.mknod(path)):
                assert await _errno(work) == errno.EEXIST
            assert t.store.read("file") == b"x"

    run(body())


@pytest.mark.parametrize("operation", ["mkdir", "mknod"])
@pytest.mark.parametrize("failing", ["put", "head", "list_page"])
def test_what_cannot_be_made_is_not_there(operation: str, failing: str) -> None:
    async def body() -> None:
        async with tree() as t:
            t.store.fail(failing, REFUSED)
            assert await _errno(getattr(t, operation)("new")) == errno.EACCES
            assert t.store.keys() == []
            assert t.fs.statistics().nodes == 1
            assert not await t.exists("new")
            assert await t.list() == {}

    run(body())


# -- removing -------------------------------------------------------------------------------------


@on_loop()
async def test_unlink() -> None:
    async with tree({"file": b"", "other": b"", "d/x": b""}) as t:
        await t.list()
        await t.unlink("file")
        assert t.store.keys() == ["d/x", "other"]
        assert not await t.exists("file")
        assert await t.list() == {"d": True, "other": False}
        assert await _errno(t.unlink("file")) == errno.ENOENT
        assert await _errno(t.unlink("d")) == errno.EISDIR
        assert t.store.keys() == ["d/x", "other"]


@on_loop()
async def test_what_cannot_be_removed_is_still_there() -> None:
    async with tree({"file": b"x", "d/": b""}) as t:
        t.store.fail_all("delete", REFUSED)
        assert await _errno(t.unlink("file")) == errno.EACCES
        assert await _errno(t.rmdir("d")) == errno.EACCES
        assert await t.read_all("file") == b"x"
        assert await t.exists("d")


@on_loop()
async def test_a_file_that_is_being_written_can_be_removed() -> None:
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"data")
        await t.unlink("new")
        assert not await t.exists("new")
        assert await t.list() == {}
        await t.close(handle)
        assert t.store.keys() == []


@on_loop()
async def test_rmdir() -> None:
    async with tree({"d/": b"", "file": b"", "full/x": b"", "marked/": b"", "marked/x": b""}) as t:
        await t.rmdir("d")
        assert "d/" not in t.store.keys()  # noqa: SIM118  a method, not a dict
        assert not await t.exists("d")
        for path in ("full", "marked"):
            assert await _errno(t.rmdir(path)) == errno.ENOTEMPTY
        assert await _errno(t.rmdir("file")) == errno.ENOTDIR
        assert await _errno(t.rmdir("nothing")) == errno.ENOENT
        assert t.store.keys() == ["file", "full/x", "marked/", "marked/x"]


@on_loop()
async def test_a_directory_with_a_file_that_is_being_written_is_not_empty() -> None:
    async with tree({"d/": b""}) as t:
        handle = await t.create("d/new")
        assert await _errno(t.rmdir("d")) == errno.ENOTEMPTY
        await t.unlink("d/new")
        await t.close(handle)
        await t.rmdir("d")
        assert t.store.keys() == []


@on_loop()
async def test_a_directory_that_another_client_fills_is_not_removed() -> None:
    async with tree({"d/": b""}) as t:
        assert await t.list("d") == {}
        t.store.write("d/theirs", b"")
        assert await _errno(t.rmdir("d")) == errno.ENOTEMPTY
        assert t.store.keys() == ["d/", "d/theirs"]


@on_loop()
async def test_a_name_can_be_used_again_for_something_else() -> None:
    async with tree({"name": b"file"}) as t:
        await t.unlink("name")
        await t.mkdir("name")
        assert await t.list() == {"name": True}
        await t.rmdir("name")
        await t.put("name", b"file again")
        assert await t.read_all("name") == b"file again"


# -- directories that only their content made -----------------------------------------------------


@on_loop()
async def test_a_directory_stays_when_the_last_thing_in_it_goes() -> None:
    async with tree({"d/e/file": b""}) as t:
        await t.unlink("d/e/file")
        assert await t.list("d/e") == {}
        assert await t.list("d") == {"e": True}
        await asyncio.sleep(namespace._KEEP_AFTER + 1)
        assert t.store.keys() == ["d/e/"]
        stored = t.store.stored("d/e/")
        assert stored is not None
        assert stored.content_type == MARKER_TYPE
        await asyncio.sleep(LIFETIME)
        assert await t.list("d") == {"e": True}


@on_loop()
async def test_the_directories_above_stay_too() -> None:
    async with tree({"a/b/c/file": b""}, lifetime=0.0) as t:
        await t.unlink("a/b/c/file")
        assert await t.list("a/b") == {"c": True}
        assert await t.exists("a/b/c")
        await t.rmdir("a/b/c")
        assert await t.list("a") == {"b": True}
        await asyncio.sleep(namespace._KEEP_AFTER + 1)
        assert t.store.keys() == ["a/b/"]
        assert await t.list("a/b") == {}


@on_loop()
async def test_a_directory_that_is_removed_with_its_content_gets_no_marker() -> None:
    """What `rm -r` does: it is spared two requests for each directory."""
    async with tree({"d/1": b"", "d/2": b"", "d/e/3": b""}) as t:
        for path in ("d/1", "d/2", "d/e/3"):
            await t.unlink(path)
        await t.rmdir("d/e")
        await t.rmdir("d")
        await asyncio.sleep(10)
        assert t.store.keys() == []
        assert t.store.count("PutObject") == 0
        assert not await t.exists("d")


@on_loop()
async def test_a_directory_that_still_has_something_gets_no_marker() -> None:
    async with tree({"d/1": b"", "d/2": b""}) as t:
        await t.unlink("d/1")
        await asyncio.sleep(10)
        assert t.store.keys() == ["d/2"]


@on_loop()
async def test_the_end_of_the_mount_does_not_lose_a_directory() -> None:
    async with tree({"d/file": b""}) as t:
        await t.unlink("d/file")
        before = asyncio.get_running_loop().time()
        await t.fs.close()
        assert t.store.keys() == ["d/"]
        assert asyncio.get_running_loop().time() == before  # at once: umount waits for it


@on_loop("marker_failed")
async def test_a_marker_that_cannot_be_written_is_logged() -> None:
    async with tree({"d/file": b""}) as t:
        t.store.fail("put", REFUSED)
        await t.unlink("d/file")
        await asyncio.sleep(10)
        assert t.store.keys() == []
        await asyncio.sleep(LIFETIME)
        assert not await t.exists("d")


@pytest.mark.parametrize("operation", ["list_page", "put"])
def test_a_directory_that_is_removed_while_its_marker_is_on_its_way(operation: str) -> None:
    async def body() -> None:
        async with tree({"d/file": b""}) as t:
            await t.unlink("d/file")
            t.store.hold(operation)
            await asyncio.sleep(namespace._KEEP_AFTER + 1)
            removing = asyncio.create_task(t.rmdir("d"))
            await settle()
            t.store.let_go(operation)
            await removing
            await asyncio.sleep(10)
            assert t.store.keys() == []
            await asyncio.sleep(LIFETIME)
            assert not await t.exists("d")

    run(body())


@on_loop()
async def test_something_new_in_a_directory_that_was_kept() -> None:
    async with tree({"d/old": b""}) as t:
        await t.unlink("d/old")
        await t.put("d/new", b"x")
        await asyncio.sleep(10)
        assert t.store.keys() == ["d/new"]
        assert await t.list("d") == {"new": False}


# -- attributes -----------------------------------------------------------------------------------


@on_loop()
async def test_chmod_chown_and_utimens_succeed_and_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("fuse_s3_worker.fs.core.time.monotonic", loop.time)
    async with tree({"file": b"data"}) as t:
        node = await t.walk("file")
        plain = await t.attributes(node)
        await t.set(node, overrides=Overrides(0.0, mode=0o700))
        shown = await t.set(node, overrides=Overrides(0.0, uid=77, mtime=5))
        assert (shown.mode & 0o777, shown.uid, shown.mtime) == (0o700, 77, 5)
        assert await t.attributes(node) == shown
        await asyncio.sleep(LIFETIME)
        assert await t.attributes(node) == plain
        assert plain.mode & 0o777 == OWNERSHIP.file_mode
        assert t.store.count("PutObject") == 0


@on_loop()
async def test_setting_nothing_changes_nothing() -> None:
    async with tree({"file": b"data"}) as t:
        node = await t.walk("file")
        plain = await t.attributes(node)
        assert await t.set(node) == plain


@on_loop()
async def test_a_directory_has_no_size_to_be_set() -> None:
    async with tree({"d/x": b""}) as t:
        assert await _errno(t.set(await t.walk("d"), 0)) == errno.EISDIR
        assert t.store.keys() == ["d/x"]


@on_loop()
async def test_the_volume_is_never_too_small() -> None:
    async with tree() as t:
        volume = t.fs.statfs()
        assert volume.block_size * volume.blocks == 1 << 50
        assert volume.name_max == 255


@on_loop()
async def test_what_is_out_of_date_is_forgotten_now_and_then() -> None:
    async with tree({"file": b"", "d/x": b""}) as t:
        await t.list()
        await t.exists("d/x")
        assert t.fs.statistics().names_cached == 3
        await asyncio.sleep(LIFETIME)
        t.fs.expire()
        assert t.fs.statistics().names_cached == 0
