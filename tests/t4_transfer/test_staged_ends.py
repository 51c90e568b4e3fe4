"""What becomes of a staged file in the end: unlinked, deferred, kept, renamed, or just closed."""

import asyncio
import os
from pathlib import Path

import pytest

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.transfer.journal import State
from support.gatedstore import unreachable
from support.staging import BIG, KEY, WHERE, cache, changed, full_disk, staged
from support.virtualtime import on_loop, run, settle
from support.writing import read, write

REFUSED = StoreError(Fault.FORBIDDEN, "no", status=403, code="AccessDenied")

# -- names -----------------------------------------------------------------------------------------


@WHERE
def test_an_unlinked_file_is_there_for_who_has_it_open(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin()
            await write(file, 0, b"scratch")
            await file.discard()
            assert not file.dirty
            await write(file, 100, b"more")
            await file.truncate(102)
            assert await read(file) == b"scratch" + bytes(93) + b"mo"
            assert await file.commit() is None
            assert not await file.defer()
            assert s.left == []
            assert s.requests == []
            late = s.begin(key="late")
            await late.discard()
            await write(late, 0, b"x")
            assert await read(late) == b"x"
            assert s.left == []

    run(body())


@WHERE
@pytest.mark.parametrize("stored", [False, True])
def test_a_renamed_file_is_stored_under_its_new_name(
    tmp_path: Path, where: str, *, stored: bool
) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"!")
            if stored:
                await file.commit()
                await write(file, 1, b"!")
            base = s.base(s.stored() or b"", "new name")
            s.store.remove(KEY)
            await file.retarget("new name", base)
            assert await read(file, 5, 5) == BIG[5:10]
            await file.commit()
            assert s.stored("new name") == changed(BIG, 0, b"!!" if stored else b"!")
            assert s.stored() is None
            untouched = s.begin(s.base(BIG, "a"), "a")
            await untouched.retarget("b", s.base(BIG, "b"))
            await write(untouched, 0, b"?")
            await untouched.commit()
            assert s.stored("b") == changed(BIG, 0, b"?")

    run(body())


@on_loop()
async def test_a_file_that_failed_is_not_renamed() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.fail("complete_multipart", REFUSED)
        with pytest.raises(StoreError):
            await file.commit()
        with pytest.raises(StoreError):
            await file.retarget("new", None)


# -- deferred --------------------------------------------------------------------------------------


def test_what_is_deferred_survives_as_what_is_to_be_stored(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"closed")
            assert await file.defer()
            assert await file.defer()
            assert s.requests == []
            (entry_id,) = s.directory.ids()
            assert s.directory.read(entry_id)[0].state is State.COMMITTING
            # it can be read, and whoever changes it waits until it is stored as it was closed
            assert await read(file, 0, 10) == b"closed" + BIG[6:10]
            assert file.write_nowait(0, memoryview(b"x")) == 0
            await write(file, 0, b"opened")
            assert s.stored() == changed(BIG, 0, b"closed")
            assert file.dirty
            await file.commit()
            assert s.stored() == changed(BIG, 0, b"opened")

    run(body())


def test_what_is_deferred_is_kept_when_the_mount_ends_before(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"closed")
            assert await file.defer()
            await file.close()
            assert len(s.directory.ids()) == 1
            assert s.stored() == BIG

    run(body())


@on_loop()
async def test_what_is_in_memory_is_not_deferred() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        assert not await file.defer()
        await write(file, 0, b"x")
        assert not await file.defer()


def test_a_disk_that_cannot_keep_a_file_does_not_defer_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"x")
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full_disk)
                assert not await file.defer()
            await file.commit()
            assert s.stored() == changed(BIG, 0, b"x")

    run(body())


# -- closed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_half_of_a_change_is_kept_if_it_shall_be(tmp_path: Path, *, keep: bool) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"half")
            await file.close(keep=keep)
            assert len(s.directory.ids()) == keep
            if keep:
                (entry_id,) = s.directory.ids()
                assert s.directory.read(entry_id)[0].state is State.OPEN

    run(body())


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_stored_is_not_kept(tmp_path: Path, *, keep: bool) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"all")
            await file.commit()
            await file.close(keep=keep)
            assert s.left == []

    run(body())


@on_loop()
async def test_closing_ends_what_is_on_its_way() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.by_hand = True
        reading = asyncio.create_task(file.read(1000, 10))
        await settle()
        await file.close()
        with pytest.raises((ServeError, asyncio.CancelledError)):
            await reading
        s.store.by_hand = False
        assert unreachable().temporary
