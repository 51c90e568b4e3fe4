"""Open directories as readdir(3) sees them: offsets, rewinding, and the nodes it hands out."""

import asyncio
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.directories import DirectoryEntry
from fuse_s3_worker.fs.nodes import ROOT_ID, inode_number
from support.tree import Tree, tree
from support.virtualtime import on_loop, run, settle

DT_REG, DT_DIR = 8, 4


async def read(t: Tree, number: int, offset: int, most: int = 10**6) -> list[DirectoryEntry]:
    """Read up to `most` records from `offset` on."""
    found: list[DirectoryEntry] = []
    records = t.fs.directories.entries(number, offset)
    async for record in records:
        found.append(record)
        if len(found) == most:
            break
    await records.aclose()
    return found


def names(records: list[DirectoryEntry]) -> list[bytes]:
    return [record.name for record in records]


@on_loop()
async def test_dots_come_first_and_then_what_is_there() -> None:
    async with tree({"d/e/x": b"", "d/file": b"12"}) as t:
        number = t.fs.directories.opendir(await t.walk("d"))
        records = await read(t, number, 0)
        assert [record[:4] for record in records] == [
            (b".", 1, inode_number("d/"), DT_DIR),
            (b"..", 2, ROOT_ID, DT_DIR),
            (b"e", 3, inode_number("d/e/"), DT_DIR),
            (b"file", 4, inode_number("d/file"), DT_REG),
        ]
        t.fs.directories.releasedir(number)
        number = t.fs.directories.opendir(ROOT_ID)
        assert [record[:3] for record in await read(t, number, 0, 2)] == [
            (b".", 1, 1),
            (b"..", 2, 1),
        ]
        t.fs.directories.releasedir(number)


@on_loop()
async def test_inode_numbers_are_those_of_stat() -> None:
    async with tree({"d/e/x": b"", "d/file": b"12"}) as t:
        number = t.fs.directories.opendir(await t.walk("d"))
        for record in (await read(t, number, 0))[2:]:
            assert record.ino == (await t.stat(f"d/{record.name.decode()}")).ino
        t.fs.directories.releasedir(number)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 6)), max_size=15), st.integers(1, 5))
def test_reading_goes_on_from_any_offset_it_has_been_at(
    reads: list[tuple[int, int]], page: int
) -> None:
    async def body() -> None:
        async with tree({f"{number:02}": b"" for number in range(10)}) as t:
            t.store.page_max = page
            expected = [b".", b"..", *(b"%02d" % number for number in range(10))]
            number = t.fs.directories.opendir(ROOT_ID)
            for offset, most in reads:
                records = await read(t, number, offset, most)
                assert names(records) == expected[offset : offset + most]
                assert [r.offset for r in records] == list(
                    range(offset + 1, offset + 1 + len(records))
                )
            t.fs.directories.releasedir(number)

    run(body())


@on_loop()
async def test_reading_on_goes_on_with_the_same_listing() -> None:
    """A program reads some records at a time; each page is asked for once, in all."""
    async with tree({f"{number:02}": b"" for number in range(20)}) as t:
        t.store.page_max = 5
        number = t.fs.directories.opendir(ROOT_ID)
        found: list[DirectoryEntry] = []
        while fresh := await read(t, number, len(found), 3):
            found += fresh
        assert len(found) == 2 + 20
        assert t.store.count("ListObjectsV2") == 4
        t.fs.directories.releasedir(number)


@on_loop()
async def test_rewinding_ends_what_was_asked_for_ahead() -> None:
    async with tree({f"{number:02}": b"" for number in range(20)}) as t:
        t.store.page_max = 5
        number = t.fs.directories.opendir(ROOT_ID)
        await read(t, number, 0, 4)
        await settle()
        t.store.hold("list_page")
        await read(t, number, 4, 3)  # and the next page is asked for
        rewound = asyncio.create_task(read(t, number, 0))
        await settle()
        assert len(asyncio.all_tasks()) == 3  # this one, the reader, and its first page
        t.store.let_go("list_page")
        assert len(await rewound) == 2 + 20
        t.fs.directories.releasedir(number)


@pytest.mark.parametrize("before", [{}, {"old": b""}])
def test_rewinding_shows_the_directory_as_it_is_then(before: dict[str, bytes]) -> None:
    async def body() -> None:
        async with tree(before) as t:
            number = t.fs.directories.opendir(ROOT_ID)
            assert len(await read(t, number, 0)) == 2 + len(before)
            await t.put("new", b"")
            assert set(names(await read(t, number, 0))) == {
                b".",
                b"..",
                b"new",
                *(n.encode() for n in before),
            }
            t.fs.directories.releasedir(number)

    run(body())


@on_loop()
async def test_what_is_not_open_is_ebadf() -> None:
    async with tree({"file": b""}) as t:
        with pytest.raises(FileSystemError) as refused:
            await read(t, 4711, 0)
        assert refused.value.errno == errno.EBADF
        t.fs.directories.releasedir(4711)
        with pytest.raises(FileSystemError) as refused:
            t.fs.directories.opendir(await t.walk("file"))
        assert refused.value.errno == errno.ENOTDIR


@on_loop()
async def test_a_directory_that_is_removed_while_it_is_open() -> None:
    async with tree({"d/": b""}) as t:
        number = t.fs.directories.opendir(await t.walk("d"))
        await t.rmdir("d")
        assert names(await read(t, number, 0)) == [b".", b".."]
        t.fs.directories.releasedir(number)


# -- READDIRPLUS: the nodes that are handed out ---------------------------------------------------


async def take(t: Tree, number: int, records: list[DirectoryEntry]) -> dict[bytes, Found]:
    """Take the nodes of records as the kernel does; those that are none any more are left out."""
    found: dict[bytes, Found] = {}
    for record in records:
        if record.is_dot:
            continue
        taken = t.fs.directories.take(number, record)
        if taken is not None:
            found[record.name] = t.remember(taken)
    return found


@on_loop()
async def test_records_bring_nodes_with_attributes() -> None:
    async with tree({"d/x": b"", "file": b"123"}) as t:
        number = t.fs.directories.opendir(ROOT_ID)
        found = await take(t, number, await read(t, number, 0))
        assert found[b"file"].attributes.size == 3
        assert found[b"d"].node.is_directory
        assert found[b"file"].node.id == await t.walk("file")
        assert found[b"file"].seconds == t.metadata.lifetime
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_record_of_what_is_being_written_shows_that() -> None:
    async with tree({"file": b"123"}) as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"12345")
        number = t.fs.directories.opendir(ROOT_ID)
        found = await take(t, number, await read(t, number, 0))
        assert found[b"new"].attributes.size == 5
        assert found[b"new"].node.id == t.handles[handle]
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_record_is_not_older_than_what_this_mount_did() -> None:
    """A size from before a write would cut the file off, for a whole lifetime."""
    async with tree({"file": b"123"}) as t:
        number = t.fs.directories.opendir(ROOT_ID)
        records = await read(t, number, 0)
        await t.put("file", b"12345")
        found = await take(t, number, records)
        assert found[b"file"].attributes.size == 5
        assert (await t.stat("file")).size == 5
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_record_does_not_bring_back_what_was_removed() -> None:
    async with tree({"file": b"123", "other": b""}) as t:
        number = t.fs.directories.opendir(ROOT_ID)
        records = await read(t, number, 0)
        await t.unlink("file")
        assert set(await take(t, number, records)) == {b"other"}
        assert not await t.exists("file")
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_record_that_has_become_something_else_shows_that() -> None:
    async with tree({"name": b"123"}) as t:
        number = t.fs.directories.opendir(ROOT_ID)
        records = await read(t, number, 0)
        await t.unlink("name")
        await t.mkdir("name")
        found = await take(t, number, records)
        assert found[b"name"].node.is_directory
        assert found[b"name"].node.id == await t.walk("name")
        t.fs.directories.releasedir(number)


@on_loop()
async def test_a_record_that_is_out_of_date_holds_for_no_time() -> None:
    async with tree({"file": b"123"}, lifetime=10.0) as t:
        number = t.fs.directories.opendir(ROOT_ID)
        records = await read(t, number, 0)
        await asyncio.sleep(10)
        found = await take(t, number, records)
        assert found[b"file"].seconds == 0.0
        t.fs.directories.releasedir(number)
