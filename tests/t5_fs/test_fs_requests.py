"""How many requests things cost: these numbers do not vary, and programs wait for each."""

import asyncio
import os
from collections.abc import Iterable

import pytest

from fuse_s3_worker.fs.core import Found
from support.pattern import pattern
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run, settle

PAGE, COUNT = 10, 95
PAGES = -(-COUNT // PAGE)
FILES = {f"d/{number:03}": b"x" * number for number in range(COUNT)}


def asked(t: Tree) -> list[str]:
    return [operation for operation, _ in t.store.requests]


async def ls_l(t: Tree, *, plus: bool) -> None:
    """Read a directory as `ls -l` does: some records at a time, and lstat(2) of each of them."""
    number = t.fs.directories.opendir(await t.walk("d"))
    t.store.requests.clear()
    offset, seen = 0, 0
    while True:
        records = []
        async for record in t.fs.directories.entries(number, offset):
            records.append(record)
            if len(records) == 7:
                break
        if not records:
            break
        offset = records[-1].offset
        for record in records:
            if record.is_dot:
                continue
            if plus:
                found = t.fs.directories.take(number, record)
                assert found is not None
                assert found.seconds > 0
                t.remember(found)
            else:
                found = await t.lookup(await t.walk("d"), record.name.decode())
            assert isinstance(found, Found)
            assert found.attributes.size == int(record.name)
            seen += 1
    assert seen == COUNT
    t.fs.directories.releasedir(number)


@pytest.mark.parametrize("plus", [True, False])
def test_looking_at_each_name_of_a_listing_costs_its_pages(*, plus: bool) -> None:
    async def body() -> None:
        async with tree(FILES) as t:
            t.store.page_max = PAGE
            await ls_l(t, plus=plus)
            assert asked(t) == ["ListObjectsV2"] * PAGES
            await ls_l(t, plus=plus)
            assert asked(t) == []

    run(body())


@on_loop()
async def test_a_directory_is_known_to_exist_as_long_as_pages_of_it_come() -> None:
    """With a large one that takes many lifetimes, and each name is looked up along its path."""
    files = {f"a/b/{number:03}": b"x" * number for number in range(COUNT)}
    async with tree(files | {"a/marked/": b"", "a/marked/x": b""}, lifetime=1.0) as t:
        t.store.page_max = PAGE
        number = t.fs.directories.opendir(await t.walk("a/b"))
        await t.walk("a/marked")
        t.store.requests.clear()
        async for record in t.fs.directories.entries(number, 0):
            if not record.is_dot:
                await t.walk(f"a/b/{record.name.decode()}")
                await asyncio.sleep(
                    0.04
                )  # a page, which came one ahead, is read within its lifetime
        assert asked(t) == ["ListObjectsV2"] * PAGES
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_page_without_a_name_proves_nothing() -> None:
    async with tree({"a/x": b""}, lifetime=1.0) as t:
        parent = await t.walk("a")
        t.store.remove("a/x")
        await asyncio.sleep(1.5)
        number = t.fs.directories.opendir(parent)
        assert [r.name async for r in t.fs.directories.entries(number, 0)] == [b".", b".."]
        t.fs.directories.releasedir(number)
        assert not await t.exists("a")


@on_loop()
async def test_rows_are_believed_as_long_as_their_page() -> None:
    async with tree(FILES) as t:
        t.store.page_max = PAGE
        parent = await t.walk("d")
        number = t.fs.directories.opendir(parent)
        records = t.fs.directories.entries(number, 0)
        for _ in range(PAGE):
            await anext(records)
        await settle()  # the second page is here, too, although nobody has come to it
        await asyncio.sleep(LIFETIME * 0.75)
        for _ in range(2 * PAGE):
            await anext(records)
        await records.aclose()
        for name, requests in (("003", 0), ("013", 0), ("023", 0)):
            t.store.requests.clear()
            await t.lookup(parent, name)
            assert len(asked(t)) == requests
        await asyncio.sleep(LIFETIME * 0.5)
        for name, requests in (("023", 0), ("013", 2), ("003", 2)):
            t.store.requests.clear()
            await t.lookup(parent, name)
            assert len(asked(t)) == requests
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_page_that_is_older_than_a_change_of_ours_is_not_believed() -> None:
    async with tree(FILES) as t:
        t.store.page_max = PAGE
        parent = await t.walk("d")
        number = t.fs.directories.opendir(parent)
        records = t.fs.directories.entries(number, 0)
        await anext(records)
        await anext(records)
        await anext(records)
        await t.put("d/050", b"ours, and longer than it was before: by far, as anyone can see")
        async for _ in records:
            pass
        await asyncio.sleep(LIFETIME * 0.9)
        assert (await t.stat("d/050")).size == 62
        await asyncio.sleep(LIFETIME * 0.2)
        assert (await t.stat("d/050")).size == 62
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_listed_file_is_opened_and_read_by_one_request() -> None:
    async with tree(FILES | {"large": pattern(1000)}) as t:
        await t.list("d")
        t.store.requests.clear()
        assert await t.read_all("d/042") == b"x" * 42
        assert asked(t) == ["GetObject"]


@on_loop()
async def test_a_new_file_is_stored_by_one_request() -> None:
    async with tree({"d/": b""}) as t:
        await t.list("d")
        t.store.requests.clear()
        handle = await t.create("d/new", os.O_WRONLY)
        await t.write(handle, 0, b"1")
        await t.close(handle)
        assert asked(t) == ["PutObject"]


@on_loop()
async def test_what_is_known_costs_nothing() -> None:
    async with tree(FILES) as t:
        await t.stat("d/001")
        t.store.requests.clear()
        await t.stat("d/001")
        await t.list("d")
        t.store.requests.clear()
        for name in FILES:
            await t.stat(name)
        assert not await t.exists("d/absent")
        assert asked(t) == []


@on_loop()
async def test_an_empty_directory_is_known_to_be_empty() -> None:
    async with tree({"d/": b""}) as t:
        assert await t.list("d") == {}
        t.store.requests.clear()
        assert await t.list("d") == {}
        assert not await t.exists("d/x")
        assert asked(t) == []


# -- names one by one -----------------------------------------------------------------------------


async def look_at(t: Tree, names: Iterable[str]) -> None:
    """Look names up in `d`, whether they are there or not."""
    for name in names:
        await t.exists(f"d/{name}")


@on_loop()
async def test_going_through_a_directory_name_by_name_costs_a_listing() -> None:
    async with tree({f"d/{number}": b"" for number in range(0, 100, 2)}) as t:
        await t.walk("d")
        t.store.requests.clear()
        await look_at(t, map(str, range(100)))
        assert sorted(asked(t)) == ["HeadObject"] * 2 + ["ListObjectsV2"] * 3
        # and again when that is out of date, but not for a name now and then
        await asyncio.sleep(LIFETIME)
        await t.walk("d")
        t.store.requests.clear()
        await look_at(t, map(str, range(100)))
        assert asked(t) == ["ListObjectsV2"]
        for number in range(5):
            await asyncio.sleep(LIFETIME + 0.1)
            await t.walk("d")
            t.store.requests.clear()
            await look_at(t, [str(number)])
            assert sorted(asked(t)) == ["HeadObject", "ListObjectsV2"]


@on_loop()
async def test_those_who_come_together_share_the_listing() -> None:
    async with tree({f"d/{number}": b"" for number in range(100)}) as t:
        await t.walk("d")
        t.store.requests.clear()
        await asyncio.gather(*(t.exists(f"d/{number}") for number in range(100)))
        assert sorted(asked(t)) == ["HeadObject"] * 2 + ["ListObjectsV2"] * 3


@on_loop()
async def test_a_directory_of_several_pages_is_listed_when_that_pays() -> None:
    """All pages together are no more than a quarter of what is asked alone."""
    async with tree(FILES) as t:
        t.store.page_max = PAGE
        await t.walk("d")
        t.store.requests.clear()
        for number in range(200):
            await t.exists(f"d/absent{number}")
            await settle()
        alone = t.store.count("HeadObject")
        assert 128 <= alone < 140  # then the whole directory was listed
        assert t.store.count("ListObjectsV2") - alone == 1 + 2 + 4 + 8 + PAGES
        # By now it is known how many pages there are: listed at once by who goes on, and after
        # some names by who begins.
        for pause, most in ((LIFETIME, 2), (3 * LIFETIME, 8 * PAGES + 10)):
            await asyncio.sleep(pause)
            await t.walk("d")
            t.store.requests.clear()
            for number in range(200):
                await t.exists(f"d/absent{number}")
                await settle()
            alone = t.store.count("HeadObject")
            assert most - 10 <= alone <= most
            assert t.store.count("ListObjectsV2") - alone == PAGES


@on_loop()
async def test_a_huge_directory_is_not_listed_for_single_names() -> None:
    async with tree(FILES) as t:
        t.store.page_max = 2
        await t.walk("d")
        t.store.requests.clear()
        for number in range(500):
            await t.exists(f"d/absent{number}")
            await settle()
        alone = t.store.count("HeadObject")
        assert alone > 450
        assert t.store.count("ListObjectsV2") - alone == 1 + 2 + 4 + 8 + 16


@on_loop()
async def test_a_listing_that_fails_is_nobodys_failure() -> None:
    async with tree({f"d/{number}": b"" for number in range(10)}) as t:
        await look_at(t, ["0", "1"])
        t.store.fail("list_page", nth=1)
        assert await t.exists("d/2")
        t.store.mend()
        assert await t.exists("d/3")
        assert not await t.exists("d/x")


@on_loop()
async def test_without_a_lifetime_nothing_is_listed_ahead() -> None:
    async with tree({f"d/{number}": b"" for number in range(10)}, lifetime=0.0) as t:
        await look_at(t, map(str, range(10)))
        assert t.store.count("HeadObject") == 2 * 10


@on_loop()
async def test_filling_a_new_directory_costs_what_is_put_into_it() -> None:
    async with tree({"x": b""}) as t:
        await t.mkdir("d")
        t.store.requests.clear()
        for number in range(20):
            await t.put(f"d/{number}", b"1")
        await t.mkdir("d/e")
        assert asked(t) == ["PutObject"] * 21
        await asyncio.sleep(LIFETIME)
        t.store.write("d/theirs", b"1")
        assert await t.exists("d/theirs")


@on_loop()
async def test_a_new_directory_is_not_believed_empty_longer_than_its_absence() -> None:
    async with tree({"x": b""}) as t:
        assert not await t.exists("d")
        await asyncio.sleep(LIFETIME * 0.75)
        await t.mkdir("d")
        t.store.write("d/theirs", b"1")
        assert not await t.exists("d/theirs")
        await asyncio.sleep(LIFETIME * 0.25)
        assert await t.exists("d/theirs")


@on_loop()
async def test_many_who_write_into_one_directory_do_not_ask_for_each_name() -> None:
    """Changes are under way all the time, and a listing is still believed for other names."""
    async with tree({"d/": b""}) as t:

        async def write(begin: int) -> None:
            for number in range(begin, begin + 20):
                await t.put(f"d/{number}", b"1")

        await asyncio.gather(*(write(100 * number) for number in range(16)))
        assert t.store.count("PutObject") == 320
        assert len(asked(t)) <= 320 + 10
        assert len(await t.list("d")) == 320
