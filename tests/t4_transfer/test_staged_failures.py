"""Staged files that cannot be stored or changed: who is told, and what is kept."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import State
from support.staging import BIG, KEY, LIMITS, PART_MIN, WHERE, cache, changed, full_disk, staged
from support.virtualtime import on_loop, run, settle
from support.writing import read, write

REFUSED = StoreError(Fault.FORBIDDEN, "no", status=403, code="AccessDenied")

# -- other clients ---------------------------------------------------------------------------------


@WHERE
@pytest.mark.parametrize("size", [1000, len(BIG)])
@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_another_clients_change_is_kept_and_so_is_ours(
    tmp_path: Path, where: str, size: int, theirs: bytes | None
) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG[:size]))
            await write(file, 500, b"ours")
            await read(file, 0, size)  # all of it is here
            if theirs is None:
                s.store.remove(KEY)
            else:
                s.store.write(KEY, theirs)
            for _ in range(2):
                with pytest.raises(StoreError) as stale:
                    await file.commit()
                assert stale.value.errno == errno.ESTALE
            with pytest.raises(StoreError):
                await write(file, 0, b"more")
            assert s.stored() == theirs
            path = file.path
            await file.close()
            if where == "disk":
                (entry_id,) = s.directory.ids()
                known, _ = s.directory.read(entry_id)
                assert known.state is State.CONFLICT
                fd = os.open(path, os.O_RDONLY)
                assert os.pread(fd, 4, 500) == b"ours"
                os.close(fd)
            else:
                assert path == ""

    run(body(), logged=["staged_conflict"] if where == "disk" else [])


@on_loop()
async def test_what_is_copied_is_of_the_version_that_was_meant() -> None:
    """Not all stores heed the condition on the source of a copy."""
    async with staged() as s:
        other = s.base(BIG, "other")
        file = s.begin()
        await file.put([Extent(0, other.size, other, 0)])
        await write(file, 0, b"!")
        s.store.hold("complete_multipart")
        s.store.hold("head")
        committing = asyncio.create_task(file.commit())
        await settle()
        s.store.write("other", b"theirs")  # after the copies, before they are looked at
        s.store.let_go("complete_multipart")
        s.store.let_go("head")
        with pytest.raises(StoreError, match="'other' was replaced") as stale:
            await committing
        assert stale.value.errno == errno.ESTALE
        assert s.stored() is None


@pytest.mark.parametrize("gone", ["replaced", "removed"])
def test_reading_what_another_client_has_replaced_is_stale(gone: str) -> None:
    async def body() -> None:
        async with staged() as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"!")
            if gone == "removed":
                s.store.remove(KEY)
            else:
                s.store.write(KEY, b"theirs")
            assert await read(file, 0, 1) == b"!"
            with pytest.raises(StoreError) as stale:
                await read(file, 10, 10)
            assert stale.value.errno == errno.ESTALE
            assert file.failed is None

    run(body())


# -- failures --------------------------------------------------------------------------------------


@WHERE
@pytest.mark.parametrize(
    "operation", ["create_multipart", "upload_part", "get_range", "complete_multipart"]
)
def test_what_could_not_be_stored_is_told_and_kept(
    tmp_path: Path, where: str, operation: str
) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG))
            await write(file, 7, b"!")
            s.store.fail(operation, REFUSED)
            for _ in range(2):
                with pytest.raises(StoreError) as failed:
                    await file.commit()
                assert failed.value is REFUSED
            for work in (write(file, 5, b"x"), file.truncate(3), file.zero(0, 5), file.defer()):
                with pytest.raises(StoreError):
                    await work
            with pytest.raises(StoreError):
                file.read_nowait(0, 5)
            assert s.stored() == BIG
            assert s.store.uploads == {}
            await file.close()
            if where == "disk":
                (entry_id,) = s.directory.ids()
                assert s.directory.read(entry_id)[0].state is State.COMMITTING

    run(body(), logged=["staged_kept"] if where == "disk" else [])


@on_loop("abort_failed")
async def test_an_abort_that_fails_too_is_logged_and_hides_nothing() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.fail("complete_multipart", REFUSED)
        s.store.fail("abort_multipart")
        with pytest.raises(StoreError) as failed:
            await file.commit()
        assert failed.value is REFUSED
        s.store.uploads.clear()


@on_loop()
async def test_something_unforeseen_is_an_error_too() -> None:
    async with staged() as s:
        file = s.begin(s.base(b"data"))
        await write(file, 0, b"!")
        s.store.put = None  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreError, match="upload failed: TypeError"):
            await file.commit()


@pytest.mark.parametrize("call", ["pwrite", "write"])
def test_a_full_disk_is_told_to_the_writer_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"acknowledged")
            await file.commit()
            await write(file, 100, b"too")
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full_disk)
                with pytest.raises(FileSystemError) as full:
                    await write(file, 50, b"refused")
                assert full.value.errno == errno.ENOSPC
                assert file.failed is None
                # reading goes on, although what it brings cannot be kept
                assert await read(file, 3 * PART_MIN, 10) == BIG[3 * PART_MIN :][:10]
                # and so does storing, although that cannot be journaled
                await file.commit()
            expected = changed(changed(BIG, 0, b"acknowledged"), 100, b"too")
            assert s.stored() == expected
            await write(file, 200, b"again")
            await file.commit()
            assert s.stored() == changed(expected, 200, b"again")

    run(body())


@on_loop()
async def test_no_stage_can_be_made_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as s:
        file = s.begin(s.base(b"data"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            with pytest.raises(FileSystemError, match=str(tmp_path)) as full:
                await write(file, 0, b"x")
            assert full.value.errno == errno.ENOSPC
        assert not file.dirty
        await write(file, 0, b"x")
        await file.commit()
        assert s.stored() == b"xata"


@on_loop()
async def test_a_file_that_is_too_large_is_refused_in_time() -> None:
    async with staged() as s:
        s.staging.size_limit = 1000
        file = s.begin(s.base(b"data"))
        for end in (1001, 6 << 40):
            with pytest.raises(FileSystemError) as refused:
                await file.truncate(end)
            assert refused.value.errno == errno.EFBIG
            with pytest.raises(FileSystemError):
                file.write_nowait(end - 1, memoryview(b"x"))
        assert not file.dirty
        # of an object that is larger already, most is copied
        large = s.begin(s.base(BIG), KEY)
        await write(large, len(BIG), b"more")
        await large.commit()
        assert s.stored() == BIG + b"more"


@on_loop()
async def test_more_parts_than_there_can_be_are_an_error_of_storing() -> None:
    limits = LIMITS._replace(parts_max=3)
    async with staged(limits=limits) as s:
        file = s.begin()
        await file.truncate(20 * limits.send_max)
        with pytest.raises(FileSystemError, match="memory_target=") as refused:
            await file.commit()
        assert refused.value.errno == errno.EFBIG
