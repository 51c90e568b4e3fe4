"""HEADs ahead of who looks at one name after another: many at once, no more than is needed."""

import asyncio
import random
from collections import Counter

import pytest

from fuse_s3_worker.fs.ahead import AT_ONCE
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.posixtree import PosixTree, kept, posix_tree
from support.virtualtime import on_loop, run, settle

MANY = 3_000


def names(count: int = MANY) -> list[str]:
    return [f"file-{number:05}" for number in range(count)]


async def filled(t: PosixTree, count: int = MANY, *, directories: int = 0) -> list[str]:
    """Put files into the bucket, and let them become old."""
    for number, name in enumerate(names(count)):
        t.store.write(f"d/{name}", b"", headers=kept(uid=number))
    for number in range(directories):
        t.store.write(f"d/sub-{number:03}/x", b"")
    await asyncio.sleep(10)
    return await listed(t)


async def listed(t: PosixTree) -> list[str]:
    """List the directory, as a program does before it looks at names."""
    return list(await t.list("d"))


def heads(t: PosixTree) -> Counter[str]:
    return Counter(key for name, key in t.store.requests if name == "HeadObject")


@on_loop()
async def test_many_are_asked_for_at_once_and_each_once() -> None:
    """Looked at one by one, 3,000 files take as long as a few dozen answers."""
    async with posix_tree() as t:
        found = await filled(t)
        rounds = 0
        t.store.most_under_way.clear()
        for number, name in enumerate(found):
            before = len(t.store.requests)
            assert (await t.stat(f"d/{name}")).uid == number
            rounds += len(t.store.requests) > before
        assert set(heads(t).values()) == {1}
        assert sum(heads(t).values()) - heads(t)["d"] - heads(t)["d/"] == MANY
        assert t.store.most_under_way["head"] > AT_ONCE - 8
        assert rounds < 400


@on_loop()
async def test_no_more_than_so_many_are_under_way() -> None:
    async with posix_tree() as t:
        found = await filled(t)
        t.store.most_under_way.clear()
        for name in found:
            await t.stat(f"d/{name}")
        assert t.store.most_under_way["head"] <= AT_ONCE + 1  # and the one that is waited for


@on_loop()
async def test_what_is_asked_for_ahead_gives_way() -> None:
    """It takes none of the connections that are kept for who waits."""
    urgency: list[bool] = []

    async with posix_tree() as t:
        inner = t.store.describe

        async def describe(key: str, *, urgent: bool = True) -> object:
            urgency.append(urgent)
            return await inner(key, urgent=urgent)

        t.store.describe = describe  # type: ignore[method-assign,assignment]
        for name in (await filled(t, 200))[:100]:
            await t.stat(f"d/{name}")
        assert Counter(urgency)[False] > 100


@on_loop()
async def test_one_name_is_one_request() -> None:
    async with posix_tree() as t:
        found = await filled(t)
        await t.stat(f"d/{found[7]}")
        await settle()
        assert heads(t).keys() == {"d", f"d/{found[7]}"}


@on_loop()
async def test_names_here_and_there_are_a_request_each() -> None:
    async with posix_tree() as t:
        found = await filled(t)
        chosen = random.Random(1).sample(found, 30)
        for name in sorted(chosen, reverse=True):
            await t.stat(f"d/{name}")
        await settle()
        assert heads(t).keys() - {"d"} == {f"d/{name}" for name in chosen}


@on_loop()
async def test_a_program_that_stops_has_not_had_all_of_it_asked_for() -> None:
    async with posix_tree() as t:
        found = await filled(t)
        for name in found[:10]:
            await t.stat(f"d/{name}")
        await settle()
        assert len(heads(t)) < 60


@on_loop()
async def test_directories_are_looked_at_too() -> None:
    async with posix_tree() as t:
        found = await filled(t, 50, directories=100)
        for name in found:
            await t.stat(f"d/{name}")
        markers = {key for key in heads(t) if key.startswith("d/sub-")}
        assert len(markers) == 100
        assert all(key.endswith("/") for key in markers)
        assert t.store.most_under_way["head"] > 50


@on_loop()
async def test_a_listing_that_nobody_looks_at_asks_for_nothing() -> None:
    """The kernel asks for attributes with the first names of every listing, just in case."""
    async with posix_tree() as t:
        await filled(t)
        await t.list("d", plus=True)
        await settle()
        assert heads(t).keys() == {"d"}


@on_loop()
async def test_a_listing_that_brings_attributes_along_goes_on_asking_ahead() -> None:
    """ls -l: names, looks at them, and then records that bring what was asked for ahead."""
    async with posix_tree() as t:
        found = await filled(t)
        for name in found[:20]:
            await t.stat(f"d/{name}")
        await settle()
        number = t.fs.directories.opendir(await t.walk("d"))
        complete = 0
        async for record in t.fs.directories.entries(number, 2 + 20):
            await settle(5)
            taken = t.fs.directories.take(number, record)
            complete += taken is not None
            if taken is not None:
                t.remember(taken)
        t.fs.directories.releasedir(number)
        assert complete > MANY - 200
        assert set(heads(t).values()) == {1}


@on_loop()
async def test_failures_ahead_are_told_to_who_looks() -> None:
    async with posix_tree() as t:
        found = await filled(t, 100)
        await t.stat(f"d/{found[0]}")
        t.store.fail_all("head")
        t.store._failures.pop(("head", t.store.asked("head") + 1))  # the one that is looked at
        await t.stat(f"d/{found[1]}")
        await settle()
        t.store.mend()
        for number, name in enumerate(found):
            assert (await t.stat(f"d/{name}")).uid == number


@on_loop()
async def test_the_end_does_not_wait_for_what_nobody_wants_any_more() -> None:
    async with posix_tree() as t:
        found = await filled(t)
        for name in found[:5]:
            await t.stat(f"d/{name}")
        t.store.hold("head")
        looking = asyncio.create_task(t.stat(f"d/{found[100]}"))
        await settle()
        looking.cancel()
        await t.fs._core.inodes.close()
        t.store.let_go("head")


@pytest.mark.parametrize("lifetime", [0.0, 1.0, 60.0])
def test_whatever_the_lifetime_what_is_shown_is_right(lifetime: float) -> None:
    async def body() -> None:
        async with posix_tree(lifetime=lifetime) as t:
            found = await filled(t, 60)
            for number, name in enumerate(found):
                assert (await t.stat(f"d/{name}")).uid == number

    run(body())


@on_loop()
async def test_the_root_is_a_directory_like_others() -> None:
    async with posix_tree() as t:
        for name in names(300):
            t.store.write(name, b"", headers=kept())
        await asyncio.sleep(10)
        for name in await t.list():
            await t.lookup(ROOT_ID, name)
        assert t.store.most_under_way["head"] > 100
