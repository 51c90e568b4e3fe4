"""Files that are open when they are removed or replaced: their bytes stay until they are closed."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs import lasting
from fuse_s3_worker.transfer.journal import Description
from support.pattern import pattern
from support.tree import Tree, tree
from support.virtualtime import on_loop, run

CONTENT = pattern(3 * MIB + 7)
REFUSED = StoreError(Fault.FORBIDDEN, "no")

Removal = Callable[[Tree], Awaitable[None]]


async def _unlink(t: Tree) -> None:
    await t.unlink("file")


async def _replace(t: Tree) -> None:
    await t.rename("other", "file")


REMOVALS = pytest.mark.parametrize("remove", [_unlink, _replace])


@REMOVALS
def test_who_has_it_open_reads_on(remove: Removal) -> None:
    async def body() -> None:
        async with tree({"file": CONTENT, "other": b"other"}) as t:
            readers = [await t.open("file"), await t.open("file", os.O_RDWR)]
            assert await t.read(readers[0], 0, 10) == CONTENT[:10]
            await remove(t)
            for reader in readers:
                assert await t.read(reader, MIB, MIB) == CONTENT[MIB : 2 * MIB]
                assert await t.read(reader, 3 * MIB, MIB) == CONTENT[3 * MIB :]
            await t.write(readers[1], 5, b"changed")
            assert await t.read(readers[0], 0, 15) == CONTENT[:5] + b"changed" + CONTENT[12:15]
            await t.close(readers[1])
            assert await t.read(readers[0], 3, 5) == CONTENT[3:5] + b"cha"
            await t.close(readers[0])
            assert t.store.keys() == (["other"] if remove is _unlink else ["file"])
            assert t.store.read(t.store.keys()[0]) == b"other"

    run(body())


@REMOVALS
def test_what_was_changed_of_it_is_there_with_what_was_not(remove: Removal) -> None:
    async def body() -> None:
        async with tree({"file": CONTENT, "other": b"other"}) as t:
            writer = await t.open("file", os.O_RDWR)
            await t.write(writer, MIB, b"changed")
            await remove(t)
            assert await t.read(writer, MIB - 2, 11) == (
                CONTENT[MIB - 2 : MIB] + b"changed" + CONTENT[MIB + 7 : MIB + 9]
            )
            await t.close(writer)
            assert await t.exists("file") == (remove is _replace)

    run(body())


@on_loop()
async def test_a_file_that_nobody_has_open_is_not_fetched() -> None:
    async with tree({"file": CONTENT}) as t:
        await t.close(await t.open("file"))
        await t.unlink("file")
        assert t.store.fetched == 0


@on_loop()
async def test_what_is_too_large_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "LASTING_MAX", MIB)
    async with tree({"file": CONTENT}) as t:
        reader = await t.open("file")
        await t.unlink("file")
        assert t.store.fetched == 0
        with pytest.raises((FileSystemError, StoreError)):
            await t.read(reader, 0, 10)
        await t.close(reader)


@on_loop()
async def test_a_file_that_cannot_be_deleted_stays_as_it_was() -> None:
    async with tree({"file": CONTENT}) as t:
        reader = await t.open("file")
        t.store.fail("delete", error=REFUSED)
        with pytest.raises(StoreError, match="no"):
            await t.unlink("file")
        t.store.mend()
        assert await t.read(reader, MIB, 10) == CONTENT[MIB : MIB + 10]
        await t.close(reader)
        await t.put("file", b"new")
        assert t.store.read("file") == b"new"


# -- what an earlier worker left -------------------------------------------------------------------


def test_a_handle_that_is_older_than_the_worker_waits_for_what_was_left(tmp_path: Path) -> None:
    """The worker before has closed a change that is only on the disk, and was killed."""

    async def body() -> None:
        async with tree({"file": b"before"}, cache=tmp_path) as t:
            handle = await t.open("file", os.O_RDWR)
            node = t.fs._core.node(t.handles[handle])
            directory = t.fs._core.writers.staging.directory
            assert directory is not None
            known = Description.of("file", node.info)
            left = t.fs._core.writers.begin("file", node.info)
            await left.write(6, memoryview(b", left"))
            assert await left.defer()
            await left.close(keep=True)
            assert known.size == 6
            t.store.hold("put")
            t.fs.start()
            assert t.fs.files.write_nowait(handle, 12, memoryview(b"!")) == 0
            assert t.fs.getattr_nowait(node.id) is None
            t.store.let_go("put")
            await t.write(handle, 12, b"!")
            assert (await t.fs.getattr(node.id)).attributes.size == 13
            await t.close(handle)
            assert t.store.read("file") == b"before, left!"
            assert node.id in t.notices.invalidated

    run(body())
