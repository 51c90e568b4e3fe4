"""What is forgotten when somebody asks for it, and what is not."""

import errno

import pytest

from fuse_s3_worker.errors import FileSystemError
from support.tree import tree
from support.virtualtime import on_loop


@on_loop()
async def test_a_file_that_was_forgotten_is_looked_at_again() -> None:
    async with tree({"d/a": b"1", "d/b": b"2"}) as t:
        directory = (await t.lookup(1, "d")).node.id
        node = (await t.lookup(directory, "a")).node
        await t.lookup(directory, "b")
        t.store.write("d/a", b"longer")
        assert (await t.lookup(directory, "a")).attributes.size == 1
        assert t.fs.drop_metadata("d/a") == [node]
        before = len(t.store.requests)
        assert (await t.lookup(directory, "a")).attributes.size == 6
        assert len(t.store.requests) != before
        before = len(t.store.requests)
        assert (await t.lookup(directory, "b")).attributes.size == 1
        assert len(t.store.requests) == before  # nobody asked for that one


@on_loop()
async def test_a_directory_is_forgotten_with_all_below_it() -> None:
    async with tree({"d/e/a": b"1", "other": b"2"}) as t:
        directory = (await t.lookup(1, "d")).node.id
        below = (await t.lookup(directory, "e")).node.id
        await t.lookup(below, "a")
        await t.lookup(1, "other")
        told = t.fs.drop_metadata("/d//./")
        assert sorted(node.key for node in told) == ["d/", "d/e/", "d/e/a"]
        t.store.write("d/e/a", b"22")
        t.store.write("other", b"333")
        assert (await t.lookup(below, "a")).attributes.size == 2
        assert (await t.lookup(1, "other")).attributes.size == 1


@pytest.mark.parametrize("prefix", ["", "p/q/"])
def test_everything_is_forgotten_below_a_prefix_or_none(prefix: str) -> None:
    @on_loop()
    async def check() -> None:
        async with tree({f"{prefix}a": b"1"}, prefix=prefix) as t:
            await t.lookup(1, "a")
            t.store.write(f"{prefix}a", b"22")
            told = t.fs.drop_metadata("")
            assert sorted(node.key for node in told) == [prefix, f"{prefix}a"]
            assert t.fs.statistics().names_cached == 0
            assert (await t.lookup(1, "a")).attributes.size == 2

    check()


@on_loop()
async def test_a_name_that_nobody_knows_can_be_forgotten() -> None:
    async with tree({}) as t:
        assert t.fs.drop_metadata("no/such/name") == []
        assert t.fs.drop_metadata("no") == []


@on_loop()
async def test_what_is_no_path_is_refused() -> None:
    async with tree({}) as t:
        for path in ("../x", "a/../b", "a\0b", "x" * 5000):
            with pytest.raises(FileSystemError) as caught:
                t.fs.drop_metadata(path)
            assert caught.value.errno == errno.EINVAL
