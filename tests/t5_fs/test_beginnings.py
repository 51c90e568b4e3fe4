"""Small files that come with their lookup: one request for each, and few bytes in vain."""

import asyncio
import os

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.beginnings import Beginnings
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.segment import SMALL
from support.pattern import pattern
from support.tree import Tree, tree
from support.virtualtime import on_loop, run, settle

COUNT, PAGE = 300, 10
LIFETIME = 1.0
KIB = 1024


def content(number: int) -> bytes:
    return pattern(64 * KIB + number)


FILES = {f"d/{number:03}": content(number) for number in range(COUNT)}


def asked(t: Tree) -> list[str]:
    return [operation for operation, _ in t.store.requests]


async def begin(t: Tree, *, listed: bool = True) -> None:
    """Begin with a directory of too many pages to be listed again, all of it out of date."""
    t.store.page_max = PAGE
    if listed:
        await t.list("d")
        await asyncio.sleep(1.1 * LIFETIME)
    await t.walk("d")


async def look(t: Tree, number: int) -> Found:
    """Look a file up whose directory the kernel knows."""
    return await t.lookup(t.fs.names._core.nodes.root.children["d"].id, f"{number:03}")


async def read(t: Tree, number: int) -> list[str]:
    """Look up, open, read and close a file; return what that asked for."""
    t.store.requests.clear()
    found = await look(t, number)
    handle = await t.open_node(found.node.id)
    assert await t.read(handle, 0, 128 * KIB) == t.store.read(f"d/{number:03}")
    await t.close(handle)
    await asyncio.sleep(1.1 * LIFETIME)
    return sorted(asked(t))


COLD = ["GetObject", "HeadObject", "ListObjectsV2"]


@pytest.mark.parametrize("listed", [True, False])
def test_files_read_one_after_another_come_with_their_lookup(*, listed: bool) -> None:
    """What a name was is known from a listing, or it takes another request to know it is a file."""

    async def body() -> None:
        async with tree(FILES, lifetime=LIFETIME) as t:
            await begin(t, listed=listed)
            assert [await read(t, number) for number in range(2)] == [COLD] * 2
            warm = ["GetObject"] if listed else ["GetObject", "ListObjectsV2"]
            assert [await read(t, number) for number in range(2, 40)] == [warm] * 38
            assert [await read(t, number) for number in range(3, 6)] == [["GetObject"]] * 3

    run(body())


@on_loop()
async def test_opening_a_file_of_which_all_is_out_of_date_is_one_request() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        node = (await look(t, 7)).node.id
        await asyncio.sleep(1.1 * LIFETIME)
        t.store.requests.clear()
        handle = await t.open_node(node)
        assert asked(t) == ["GetObject"]
        assert await t.read(handle, 0, 128 * KIB) == content(7)
        assert await t.read(handle, 0, 128 * KIB) == content(7)
        assert asked(t) == ["GetObject"] * 2, "it is not kept for who reads it twice"
        await t.close(handle)


@on_loop()
async def test_a_file_that_was_replaced_is_the_new_one_by_one_request() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        node = (await look(t, 7)).node.id
        await asyncio.sleep(1.1 * LIFETIME)
        t.store.write("d/007", b"another, and shorter")
        t.store.requests.clear()
        handle = await t.open_node(node)
        assert await t.read(handle, 0, 128 * KIB) == b"another, and shorter"
        assert (await t.attributes(node)).size == 20
        assert t.notices.invalidated == [node], "the kernel still has the size of before"
        assert asked(t) == ["GetObject"]
        await t.close(handle)


@on_loop()
async def test_a_file_that_grew_goes_on_behind_what_came_with_its_lookup() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(3):
            await read(t, number)
        large = pattern(3 * SMALL)
        t.store.write("d/003", large)
        handle = await t.open("d/003")
        assert await t.read(handle, 0, len(large)) == large
        await t.close(handle)
        assert await read(t, 4) == COLD[:1] + COLD[1:], "files are not small any more"


@on_loop()
async def test_looking_alone_brings_no_bytes() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        t.store.requests.clear()
        for number in range(0, 60, 3):
            await look(t, number)
            await asyncio.sleep(LIFETIME * 1.1)
        assert "GetObject" not in asked(t)


@on_loop()
async def test_who_stops_reading_has_one_file_brought_in_vain() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(4):
            await read(t, number)
        t.store.requests.clear()
        for number in range(50, 60):
            await look(t, number)
            await asyncio.sleep(1.1)
        assert asked(t).count("GetObject") == 1
        assert t.pool.statistics().used == 0


@on_loop()
async def test_pages_that_the_kernel_has_are_not_brought_again_and_again() -> None:
    """It does not read what it has: the lookup would bring it in vain each time."""
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(4):
            await read(t, number)
        t.store.requests.clear()
        for _ in range(3):
            for number in range(4):
                found = await look(t, number)
                handle = await t.open_node(found.node.id)
                await t.close(handle)
                await asyncio.sleep(1.1)
        assert asked(t).count("GetObject") <= 4


@on_loop()
async def test_side_by_side_each_gets_its_own() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(2):
            await read(t, number)
        t.store.requests.clear()

        async def one(number: int) -> None:
            found = await look(t, number)
            handle = await t.open_node(found.node.id)
            assert await t.read(handle, 0, 128 * KIB) == content(number)
            await t.close(handle)

        await asyncio.gather(*map(one, range(100, 116)))
        assert asked(t).count("GetObject") == 16
        assert "HeadObject" not in asked(t)


def become(t: Tree, kind: str) -> None:
    """Let d/003 be something else."""
    t.store.remove("d/003")
    if kind == "a directory":
        t.store.write("d/003/x", b"")
    elif kind != "gone":
        archived = kind == "archived"
        t.store.write("d/003", b"x" * archived, storage_class="GLACIER" if archived else "")


@pytest.mark.parametrize(
    ("kind", "size"), [("empty", 0), ("archived", 1), ("a directory", 0), ("gone", None)]
)
def test_what_has_no_bytes_to_bring_is_found_out_as_before(kind: str, size: int | None) -> None:
    async def body() -> None:
        async with tree(FILES, lifetime=LIFETIME) as t:
            await begin(t)
            for number in range(3):
                await read(t, number)
            become(t, kind)
            if size is None:
                assert not await t.exists("d/003")
                return
            found = await look(t, 3)
            assert found.node.is_directory == (kind == "a directory")
            assert found.attributes.size == size

    run(body(), logged=["archived"] if kind == "archived" else [])


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.UNREACHABLE])
def test_a_get_that_fails_leaves_it_to_the_head(fault: Fault) -> None:
    async def body() -> None:
        async with tree(FILES, lifetime=LIFETIME) as t:
            await begin(t)
            for number in range(3):
                await read(t, number)
            t.store.fail("peek", StoreError(fault, "no"))
            assert (await look(t, 3)).attributes.size == len(content(3))

    run(body())


@on_loop()
async def test_an_upload_of_ours_is_not_mixed_with_what_came_before_it() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(3):
            await read(t, number)
        found = await look(t, 3)
        await t.put("d/003", b"ours")
        handle = await t.open_node(found.node.id)
        assert await t.read(handle, 0, 128 * KIB) == b"ours"
        await t.close(handle)


@on_loop()
async def test_who_opens_to_write_takes_nothing() -> None:
    async with tree(FILES, lifetime=LIFETIME) as t:
        await begin(t)
        for number in range(3):
            await read(t, number)
        found = await look(t, 3)
        handle = await t.open_node(found.node.id, os.O_WRONLY)
        await t.close(handle)
        await asyncio.sleep(2)
        assert t.pool.statistics().used == 0


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_stored_below_the_name_of_a_file_that_is_read_shows_within_a_minute(
    *, listed: bool
) -> None:
    """[S88] Where programs read the small files of a directory one after another, a name stays a
    file for up to a minute after another client has stored something below it.
    """

    async def body() -> None:
        async with tree(FILES, lifetime=LIFETIME) as t:
            await begin(t, listed=listed)
            for number in range(4):
                await read(t, number)
            t.store.write("d/003/below", b"")
            begun, expired = t.metadata.now(), t.metadata.now()
            seen = []
            while t.metadata.now() - begun < 60:
                if t.metadata.now() - expired > 30:  # as a session does
                    t.fs.expire()
                    expired = t.metadata.now()
                seen.append((await look(t, 3)).node.is_directory)
                for number in range(2):
                    await read(t, number)
            assert seen[-1]
            assert seen == sorted(seen)
            assert not listed or not seen[0]

    run(body())


# -- what is kept ---------------------------------------------------------------------------------


def info(name: str, size: int = 100, etag: str = '"e"') -> ObjectInfo:
    return ObjectInfo(name, size, 0, etag)


def kept(*names: str, budget: int = 1 << 20) -> tuple[Pool, Beginnings]:
    pool = Pool(budget)
    beginnings = Beginnings(pool)
    for name in names:
        beginnings.keep(info(name), memoryview(bytes(100)))
    return pool, beginnings


@on_loop()
async def test_a_version_gets_its_own_bytes_once() -> None:
    pool, beginnings = kept("d/a")
    assert beginnings.take(info("d/b")) is None
    assert bytes(beginnings.take(info("d/a")) or b"") == bytes(100)
    assert beginnings.take(info("d/a")) is None
    pool.uncharge(100)
    beginnings.keep(info("d/a"), memoryview(b"x"))
    assert beginnings.take(info("d/a", etag='"other"')) is None
    assert pool.statistics().used == 0
    beginnings.close()


@on_loop()
async def test_what_is_kept_is_bounded_in_number_memory_and_time() -> None:
    pool, beginnings = kept(*(f"d/{number}" for number in range(100)))
    assert pool.statistics().used == 64 * 100
    assert beginnings.take(info("d/35")) is None
    assert beginnings.take(info("d/36")) is not None
    pool.uncharge(100)
    await asyncio.sleep(1.1)
    assert pool.statistics().used == 0
    beginnings.close()
    pool, beginnings = kept("d/a", "d/b", budget=150)
    assert beginnings.take(info("d/b")) is None
    beginnings.close()
    assert pool.statistics().used == 0


@on_loop()
async def test_it_makes_room_for_who_waits() -> None:
    pool, beginnings = kept("d/a", "d/b", budget=250)
    await asyncio.wait_for(pool.charge(250), 0.1)
    pool.uncharge(250)
    beginnings.close()
    await settle()


@on_loop()
async def test_each_directory_has_its_own_habit() -> None:
    _, beginnings = kept()
    for name in ("d/a", "d/b", "e/a", "large/a", "large/b", "empty/a", "empty/b"):
        size = {"large": SMALL + 1, "empty": 0}.get(name.split("/")[0], SMALL)
        beginnings.opened(info(name, size))
    expected = {key for key in ("d/", "e/", "large/", "empty/", "f/") if beginnings.expected(key)}
    assert expected == {"d/"}
    beginnings.opened(info("d/c", SMALL + 1))
    assert not beginnings.expected("d/")
    beginnings.close()


@on_loop()
async def test_directories_are_not_remembered_without_end() -> None:
    _, beginnings = kept()
    for number in range(2_000):
        for name in "ab":
            beginnings.opened(info(f"{number}/{name}"))
    assert sum(beginnings.expected(f"{number}/") for number in range(2_000)) == 1_000
    beginnings.close()
