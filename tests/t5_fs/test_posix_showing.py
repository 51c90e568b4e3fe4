"""What is shown of objects that keep attributes, of those that do not, and what that costs."""

import asyncio
import contextlib
import errno
import logging
import stat
from collections.abc import Iterator

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs.attributes import Attributes
from fuse_s3_worker.fs.inodes import DT_DIR, DT_REG, DT_UNKNOWN
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.store.types import ObjectInfo
from support.posixtree import SECOND, PosixTree, kept, posix_tree
from support.virtualtime import on_loop, run

AGED = 10.0  # seconds after which what is heard of an object is heard for good
DT_LNK, DT_FIFO = 10, 1


@contextlib.contextmanager
def logged_lines() -> Iterator[list[str]]:
    """Collect what the file system has to say."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fuse_s3_worker.fs")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def shown(attributes: Attributes) -> tuple[int, int, int, int]:
    return attributes.mode, attributes.uid, attributes.gid, attributes.mtime


async def aged(t: PosixTree) -> None:
    """Let objects become so old that what they say now they say as long as they are there."""
    del t
    await asyncio.sleep(AGED)


# -- what --------------------------------------------------------------------------------------

KINDS = {
    "a file": ("k", kept(0o100640), 0o100640),
    "a setuid program": ("k", kept(0o104755), 0o104755),
    "a symbolic link": ("k", kept(0o120777), 0o120777),
    "a FIFO": ("k", kept(0o010600), 0o010600),
    "a socket": ("k", kept(0o140600), 0o140600),
    "a directory": ("k/", kept(0o041777), 0o041777),
}


@pytest.mark.parametrize(("key", "headers", "mode"), KINDS.values(), ids=KINDS.keys())
def test_what_is_kept_is_shown(key: str, headers: dict[str, str], mode: int) -> None:
    async def body() -> None:
        async with posix_tree() as t:
            t.store.write(key, b"abc", headers=headers)
            found = await t.stat("k")
            assert shown(found) == (mode, 7, 8, 5 * SECOND)
            assert found.size == (0 if stat.S_ISDIR(mode) else 3)

    run(body())


@on_loop()
async def test_a_device_has_its_number() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept(0o020600, rdev=0x107))
        assert (await t.stat("k")).rdev == 0x107


@on_loop()
async def test_an_object_that_keeps_nothing_is_as_options_say() -> None:
    """[S103] An object that keeps nothing has the owner and mode of the options and its own time;
    one that keeps nonsense does so too, and the log names it.
    """
    async with posix_tree({"k": b"abc", "marked/": b"", "implicit/x": b""}) as t:
        stored = t.store.stored("k")
        assert stored is not None
        assert shown(await t.stat("k")) == (0o100644, 1, 2, stored.info.mtime)
        marked = t.store.stored("marked/")
        assert marked is not None
        assert shown(await t.stat("marked")) == (0o040755, 1, 2, marked.info.mtime)
        assert shown(await t.stat("implicit")) == (0o040755, 1, 2, 0)


@on_loop()
async def test_the_root_of_a_bucket() -> None:
    async with posix_tree({"x": b""}) as t:
        assert shown(await t.attributes(ROOT_ID)) == (0o040755, 1, 2, 0)
    async with posix_tree({"x": b""}) as t:
        t.store.write("/", b"", headers=kept(0o040711))  # where s3fs keeps it
        assert shown(await t.attributes(ROOT_ID)) == (0o040711, 7, 8, 5 * SECOND)
        assert await t.list() == {"x": False}


@on_loop()
async def test_the_root_of_a_prefix() -> None:
    async with posix_tree({"a/b/x": b""}, prefix="a/b/") as t:
        t.store.write("a/b/", b"", headers=kept(0o040711))
        assert shown(await t.attributes(ROOT_ID)) == (0o040711, 7, 8, 5 * SECOND)


@on_loop("metadata_nonsense")
async def test_nonsense_fails_nothing_and_is_logged_once() -> None:
    """[S103] An object that keeps nothing has the owner and mode of the options and its own time;
    one that keeps nonsense does so too, and the log names it.
    """
    async with posix_tree(lifetime=0.0) as t:
        t.store.write("k", b"", headers={"x-amz-meta-mode": "rwx", "x-amz-meta-uid": "7"})
        for _ in range(3):
            found = await t.stat("k")
            assert (found.mode, found.uid) == (0o100644, 7)


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.BAD_REQUEST])
def test_what_nobody_may_look_at_is_shown_without_permissions(fault: Fault) -> None:
    async def body() -> None:
        async with posix_tree({"k": b"abc", "d/x": b""}) as t:
            assert await t.list() == {"k": False, "d": True}
            t.store.fail_all("head", StoreError(fault, "no"))
            found = await t.stat("k")
            assert (found.mode, found.size) == (stat.S_IFREG, 3)
            assert (await t.stat("d")).mode == stat.S_IFDIR
            t.store.mend()

    run(body(), logged=["metadata_unreadable"])


@on_loop()
async def test_a_store_that_is_away_is_no_file_without_attributes() -> None:
    async with posix_tree({"k": b""}) as t:
        await t.list()
        t.store.fail("head")
        with pytest.raises(StoreError):
            await t.stat("k")
        assert (await t.stat("k")).mode == 0o100644


# -- how many requests -----------------------------------------------------------------------------


@on_loop()
async def test_a_name_by_itself_costs_no_more_than_without() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept())
        await t.stat("k")
        assert sorted(t.store.requests) == [("HeadObject", "k"), ("ListObjectsV2", "k/")]
        await t.stat("k")
        assert len(t.store.requests) == 2


@on_loop()
async def test_a_directory_without_a_marker_is_not_looked_for() -> None:
    async with posix_tree({"d/x": b""}) as t:
        await t.stat("d")
        assert t.store.requests == [("HeadObject", "d"), ("ListObjectsV2", "d/")]


@on_loop()
async def test_a_marker_is_looked_at_once_for_each_version() -> None:
    async with posix_tree(lifetime=5.0) as t:
        t.store.write("d/", b"", headers=kept(0o040700))
        await aged(t)
        await t.stat("d")
        assert t.store.requests.count(("HeadObject", "d/")) == 1
        await asyncio.sleep(6)
        await t.stat("d")
        assert t.store.requests.count(("HeadObject", "d/")) == 1
        t.store.write("d/", b"", headers=kept(0o040711))
        await asyncio.sleep(6)
        assert (await t.stat("d")).mode == 0o040711
        assert t.store.requests.count(("HeadObject", "d/")) == 2


@on_loop()
async def test_a_listed_file_costs_one_request_and_then_none() -> None:
    async with posix_tree(lifetime=5.0) as t:
        t.store.write("d/k", b"", headers=kept())
        await aged(t)
        await t.list("d")
        before = t.store.count("HeadObject")
        for _ in range(3):
            assert (await t.stat("d/k")).uid == 7
        assert t.store.count("HeadObject") == before + 1
        # Names are forgotten, versions are not.
        await asyncio.sleep(6)
        await t.list("d")
        before = t.store.count("HeadObject")
        await t.stat("d/k")
        assert t.store.count("HeadObject") == before


@on_loop()
async def test_what_was_heard_of_a_young_object_is_not_believed_for_long() -> None:
    """A second change in the same second leaves entity tag and time as they are."""
    async with posix_tree(lifetime=5.0) as t:
        first = t.store.write("d/k", b"", headers=kept(uid=7))
        await t.list("d")
        assert (await t.stat("d/k")).uid == 7
        second = t.store.write("d/k", b"", headers=kept(uid=9))
        assert first == second
        await asyncio.sleep(6)
        await t.list("d")
        assert (await t.stat("d/k")).uid == 9


@on_loop()
async def test_without_a_lifetime_everything_is_asked_for() -> None:
    async with posix_tree(lifetime=0.0) as t:
        for uid in (7, 9):
            t.store.write("k", b"", headers=kept(uid=uid))
            assert (await t.stat("k")).uid == uid


@on_loop()
async def test_looks_at_one_object_share_a_request() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept())
        await t.list()
        t.store.hold("head")
        looks = [asyncio.create_task(t.stat("k")) for _ in range(5)]
        await asyncio.sleep(1)
        t.store.let_go("head")
        assert {found.uid for found in await asyncio.gather(*looks)} == {7}
        assert t.store.count("HeadObject") == 1


@on_loop()
async def test_a_look_that_is_given_up_does_not_end_anothers() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"", headers=kept())
        await t.list()
        t.store.hold("head")
        first, second = (asyncio.create_task(t.stat("k")) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(1)
        t.store.let_go("head")
        assert (await second).uid == 7


# -- changes meanwhile -----------------------------------------------------------------------------


@on_loop()
async def test_an_object_that_went_since_it_was_listed() -> None:
    async with posix_tree({"k": b"", "d/": b""}) as t:
        await t.list()
        t.store.remove("k")
        assert not await t.exists("k")


@on_loop()
async def test_a_marker_that_went_since_it_was_seen() -> None:
    async with posix_tree({"d/x": b""}) as t:
        await t.list()
        assert (await t.stat("d")).mode == 0o040755


@on_loop()
async def test_an_object_that_was_replaced_since_it_was_listed() -> None:
    async with posix_tree() as t:
        t.store.write("k", b"abc", headers=kept(uid=7))
        await t.list()
        await asyncio.sleep(3)
        t.store.write("k", b"defg", headers=kept(uid=9))
        found = await t.stat("k")
        assert (found.size, found.uid) == (4, 9)


@on_loop()
async def test_a_name_that_becomes_another_kind_is_another_node() -> None:
    """The kernel knows a node by its type, and keeps where a link leads as long as it lives."""
    versions = [
        (b"abc", kept(0o100600)),
        (b"defg", kept(0o100600)),
        (b"to", kept(0o120777)),
        (b"other", kept(0o120777)),
        (b"other", kept(0o120700)),
        (b"", kept(0o010600)),
    ]
    async with posix_tree(lifetime=1.0) as t:
        nodes = []
        for data, headers in versions:
            t.store.write("k", data, headers=headers)
            await asyncio.sleep(3)
            nodes.append(await t.walk("k"))
        file, same, link, elsewhere, still, fifo = nodes
        assert file == same
        assert elsewhere == still
        assert len({file, link, elsewhere, fifo}) == 4


# -- listings --------------------------------------------------------------------------------------


async def kinds(t: PosixTree) -> dict[str, int]:
    number = t.fs.directories.opendir(ROOT_ID)
    found = {r.name.decode(): r.kind async for r in t.fs.directories.entries(number, 0)}
    t.fs.directories.releasedir(number)
    return {name: kind for name, kind in found.items() if name not in {".", ".."}}


@on_loop()
async def test_a_listing_tells_types_that_are_known() -> None:
    async with posix_tree({"d/x": b"", "large": bytes(4096)}) as t:
        t.store.write("link", b"to", headers=kept(0o120777))
        t.store.write("fifo", b"", headers=kept(0o010600))
        t.store.write("file", b"", headers=kept(0o100600))
        # What is larger than any path is no link; of the rest, nothing is known.
        unknown = dict.fromkeys(("link", "fifo", "file"), DT_UNKNOWN)
        assert await kinds(t) == {"d": DT_DIR, "large": DT_REG, **unknown}
        assert t.store.count("HeadObject") == 0
        for name in ("link", "fifo", "file"):
            await t.walk(name)
        handle = await t.create("new")
        expected = {"link": DT_LNK, "fifo": DT_FIFO, "file": DT_REG, "new": DT_REG}
        assert await kinds(t) == {"d": DT_DIR, "large": DT_REG, **expected}
        await t.close(handle)


@on_loop()
async def test_a_listing_brings_along_what_is_known_and_asks_for_nothing() -> None:
    async with posix_tree({"a": b"", "b": b""}) as t:
        await t.walk("a")
        before = t.store.count("HeadObject")
        number = t.fs.directories.opendir(ROOT_ID)
        found = {}
        async for record in t.fs.directories.entries(number, 0):
            if not record.is_dot:
                taken = t.fs.directories.take(number, record)
                found[record.name] = taken and taken.attributes.mode
        t.fs.directories.releasedir(number)
        assert found == {b"a": 0o100644, b"b": None}
        assert t.store.count("HeadObject") == before


@on_loop()
async def test_links_of_a_directory_are_counted_where_it_was_listed() -> None:
    async with posix_tree({"d/a/x": b"", "d/b/x": b"", "d/f": b""}) as t:
        assert (await t.stat("d")).nlink == 1  # as btrfs has it: not counted
        await t.list("d")
        assert (await t.stat("d")).nlink == 4
        await t.mkdir("d/c")
        assert (await t.stat("d")).nlink == 5
        await t.rmdir("d/c")
        assert (await t.stat("d")).nlink == 4
        assert (await t.stat("d/f")).nlink == 1
        await t.mkdir("e")
        assert (await t.stat("e")).nlink == 2


# -- archives --------------------------------------------------------------------------------------


@on_loop("archived")
async def test_an_archived_object_has_no_permissions_and_cannot_be_opened() -> None:
    async with posix_tree() as t:
        for name in ("a", "b"):
            t.store.write(f"d/{name}", b"x", storage_class="GLACIER", headers=kept(0o100644))
            assert (await t.stat(f"d/{name}")).mode == stat.S_IFREG
        with pytest.raises(FileSystemError, match="restore d/a") as caught:
            await t.open("d/a")
        assert caught.value.errno == errno.EACCES
        with pytest.raises(FileSystemError) as caught:
            await t.change("d/a", mode=0o600)
        assert caught.value.errno == errno.EACCES
        # It can be replaced: nothing of it is read.
        await t.put("d/a", b"new")
        assert (await t.stat("d/a")).mode == 0o100644


@on_loop("archived")
async def test_how_to_restore_is_told_once_for_a_directory() -> None:
    async with posix_tree() as t:
        for number in range(5):
            t.store.write(f"d/{number}", b"x", storage_class="DEEP_ARCHIVE")
        with logged_lines() as lines:
            for number in range(5):
                assert (await t.stat(f"d/{number}")).mode == stat.S_IFREG
        (line,) = lines
        assert "restore d/0" in line


def test_versions_are_told_apart_by_tag_and_time() -> None:
    async def body() -> None:
        async with posix_tree() as t:
            info = t.store.write("k", b"", headers=kept())
            await aged(t)
            await t.stat("k")
            known = t.keeper()._describer.known
            assert known(info) is not None
            assert known(info._replace(etag='"x"')) is None
            assert known(info._replace(mtime=0)) is None
            assert known(ObjectInfo("other", 0, info.mtime, info.etag)) is None

    run(body())
