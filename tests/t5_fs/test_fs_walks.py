"""Listing ahead of who walks through a tree: side by side, and nothing twice."""

import asyncio
import random

import pytest

from fuse_s3_worker.errors import StoreError
from support.tree import Tree, tree
from support.virtualtime import on_loop, run, settle

DELAY = 0.02


def objects(count: int) -> dict[str, bytes]:
    return {f"top/{number:03}/{name}": b"" for number in range(count) for name in "abc"}


async def read(t: Tree, node: int) -> list[str]:
    """Open a directory, read it, close it; return its names."""
    number = t.fs.directories.opendir(node)
    try:
        records = [record async for record in t.fs.directories.entries(number, 0)]
    finally:
        t.fs.directories.releasedir(number)
    return [record.name.decode() for record in records if not record.is_dot]


async def begin(t: Tree) -> list[int]:
    """List `top`; return the nodes of its directories, in order, and begin to count."""
    t.store.delay = DELAY
    nodes = [await t.walk(f"top/{name}") for name in await t.list("top")]
    t.store.most_under_way.clear()
    return nodes


async def walk(t: Tree, nodes: list[int], pause: float = 0.0) -> int:
    """Go through directories as find(1) does; return how many listings that took."""
    before = t.store.asked("list_page")
    for node in nodes:
        assert await read(t, node) == ["a", "b", "c"]
        await asyncio.sleep(pause)
    return t.store.asked("list_page") - before


@on_loop()
async def test_a_walk_takes_a_request_for_each_directory_and_few_delays() -> None:
    async with tree(objects(100), lifetime=1.0) as t:
        nodes, started = await begin(t), t.metadata.now()
        assert await walk(t, nodes) == len(nodes)
        assert 8 < t.store.most_under_way["list_page"] <= 1 + 16
        assert t.metadata.now() - started < 15 * DELAY


@on_loop()
async def test_a_tree_is_walked_like_that_at_each_level() -> None:
    found = {f"top/{a}/{b:02}/x": b"" for a in range(5) for b in range(20)}
    async with tree(found, lifetime=1.0) as t:
        t.store.delay = DELAY
        seen = 0
        for a in await t.list("top", plus=True):
            for b in await t.list(f"top/{a}", plus=True):
                seen += len(await t.list(f"top/{a}/{b}", plus=True))
        assert seen == 100
        assert t.store.most_under_way["list_page"] > 8
        assert t.store.count("ListObjectsV2") <= 1 + 1 + 5 + 100


@on_loop()
async def test_nothing_is_listed_ahead_of_who_picks_directories_at_random() -> None:
    async with tree(objects(60)) as t:
        nodes = await begin(t)
        random.Random(5).shuffle(nodes)
        assert await walk(t, nodes) == len(nodes)
        assert t.store.most_under_way["list_page"] == 1


@pytest.mark.parametrize("opened", [1, 2])
def test_nothing_is_listed_ahead_of_the_first_two(opened: int) -> None:
    async def body() -> None:
        async with tree(objects(60)) as t:
            nodes = await begin(t)
            assert await walk(t, nodes[:opened]) == opened

    run(body())


@on_loop()
async def test_nothing_is_listed_ahead_where_nothing_is_believed() -> None:
    async with tree(objects(30), lifetime=0.0) as t:
        nodes = [await t.walk(f"top/{number:03}") for number in range(30)]
        assert await walk(t, nodes) == 30


@on_loop()
async def test_who_stops_walking_has_cost_a_bounded_number_of_requests() -> None:
    async with tree(objects(100)) as t:
        nodes = await begin(t)
        before = t.store.asked("list_page")
        await walk(t, nodes[:30])
        await asyncio.sleep(100)
        assert t.store.asked("list_page") - before <= 30 + 16


@pytest.mark.parametrize("pause", [0.04, 0.3, 0.6, 2.0])
def test_who_takes_long_is_not_listed_ahead_of_in_vain(pause: float) -> None:
    """What is listed too early would have to be listed again."""

    async def body() -> None:
        async with tree(objects(60), lifetime=1.0) as t:
            nodes = await begin(t)
            assert await walk(t, nodes, pause) == len(nodes)
            assert (t.store.most_under_way["list_page"] > 1) == (pause < 0.5)

    run(body())


@on_loop()
async def test_what_was_listed_ahead_and_is_out_of_date_is_listed_again() -> None:
    async with tree(objects(60), lifetime=1.0) as t:
        nodes = await begin(t)
        await walk(t, nodes[:10])
        t.store.write("top/010/new", b"")
        await asyncio.sleep(1.5)
        assert await read(t, nodes[10]) == ["a", "b", "c", "new"]
        assert await walk(t, nodes[11:]) <= 49 + 1


@on_loop()
async def test_what_this_mount_changes_meanwhile_is_seen() -> None:
    async with tree(objects(60)) as t:
        nodes = await begin(t)
        await walk(t, nodes[:10])
        changed = {number: await t.walk(f"top/{number:03}") for number in (12, 13, 14)}
        t.store.hold("list_page")
        reading = asyncio.create_task(read(t, nodes[10]))  # and those behind it are under way
        await settle()
        await t.unlink("top/012/b")
        await t.put("top/013/made", b"1")
        writing = await t.create("top/014/open")
        t.store.let_go("list_page")
        await reading
        assert await read(t, changed[12]) == ["a", "c"]
        assert await read(t, changed[13]) == ["a", "b", "c", "made"]
        assert await read(t, changed[14]) == ["a", "b", "c", "open"]
        await t.close(writing)


@on_loop()
async def test_who_opens_a_directory_whose_listing_failed_ahead_has_it_asked_for_again() -> None:
    async with tree(objects(60)) as t:
        nodes = await begin(t)
        await walk(t, nodes[:2])
        for nth in (2, 3, 5, 7):
            t.store.fail("list_page", nth=nth)
        await walk(t, nodes[2:])
        t.store.fail_all("list_page")
        with pytest.raises(StoreError):
            await read(t, 1)
        t.store.mend()


@on_loop()
async def test_a_directory_of_several_pages_goes_on_where_the_first_one_ended() -> None:
    found = {f"top/{a:02}/{b:02}": b"" for a in range(30) for b in range(10)}
    async with tree(found) as t:
        nodes = await begin(t)
        t.store.page_max = 4
        before = t.store.asked("list_page")
        for node in nodes:
            assert len(await read(t, node)) == 10
        assert t.store.asked("list_page") - before == 30 * 3


@on_loop()
async def test_the_end_of_the_mount_ends_what_is_listed_ahead() -> None:
    async with tree(objects(60)) as t:
        nodes = await begin(t)
        await walk(t, nodes[:10])
        t.store.hold("list_page")
        task = asyncio.create_task(read(t, nodes[20]))
        await settle()
        task.cancel()
        await t.fs.close()
        await settle()
        t.store.let_go("list_page")
