"""Staged files: what moves for a change, who is told of a conflict, what happens side by side."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import State
from fuse_s3_worker.transfer.staged import StagedFile
from support.gatedstore import unreachable
from support.pattern import pattern
from support.staging import KEY, LIMITS, PART_MIN, full_disk, staged
from support.virtualtime import on_loop, run, settle

BIG = pattern(20 * PART_MIN, 1)
REFUSED = StoreError(Fault.FORBIDDEN, "no", status=403, code="AccessDenied")

WHERE = pytest.mark.parametrize("where", ["memory", "disk"])


def cache(tmp_path: Path, where: str) -> Path | None:
    return tmp_path if where == "disk" else None


async def write(file: StagedFile, offset: int, data: bytes) -> None:
    view = memoryview(data)
    if not file.write_nowait(offset, view):
        await file.write(offset, view)


async def read(file: StagedFile, offset: int = 0, size: int = 1 << 30) -> bytes:
    views = file.read_nowait(offset, size)
    return b"".join(views) if views is not None else bytes(await file.read(offset, size))


def changed(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


# -- what moves ------------------------------------------------------------------------------------


@WHERE
def test_a_small_change_of_a_large_object_moves_little(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG))
            await write(file, 10 * PART_MIN, b"!")
            assert s.requests == []  # nothing moves before it must
            await file.commit()
            assert s.stored() == changed(BIG, 10 * PART_MIN, b"!")
            assert s.store.count("UploadPart") == 1
            assert s.store.count("GetObject") == 1
            assert s.moved == (PART_MIN, PART_MIN - 1)

    run(body())


@WHERE
def test_appending_fetches_nothing(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG))
            expected = BIG
            for number in range(3):
                await write(file, len(expected), pattern(1000, number))
                expected += pattern(1000, number)
                await file.commit()
                assert s.stored() == expected
            assert s.store.count("GetObject") == 0

    run(body())


@WHERE
def test_what_was_stored_once_is_not_fetched_for_the_next_time(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(b"0123456789"))
            await write(file, 5, b"-")
            await file.commit()
            assert s.store.count("GetObject") == 1
            assert await read(file) == b"01234-6789"
            await write(file, 6, b"+")
            await file.commit()
            assert s.stored() == b"01234-+789"
            assert s.requests == ["GetObject", "PutObject", "PutObject"]

    run(body())


@on_loop()
async def test_what_was_read_is_not_fetched_again() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        assert await read(file, 100, 1000) == BIG[100:1100]
        assert await read(file, 5000, 1000) == BIG[5000:6000]
        assert s.store.count("GetObject") == 1
        await file.commit()
        assert s.store.count("GetObject") == 1


@on_loop()
async def test_nothing_is_stored_of_a_file_that_is_as_it_was() -> None:
    async with staged() as s:
        base = s.base(b"")
        file = s.begin(base)
        await file.truncate(100)
        await file.truncate(0)
        for dirty in (True, False):
            assert file.dirty == dirty
            assert await file.commit() == base
        assert s.requests == []


@on_loop()
async def test_many_small_changes_do_not_make_as_many_requests() -> None:
    async with staged() as s:
        expected = bytearray(BIG)
        file = s.begin(s.base(BIG))
        for at in range(PART_MIN, 2 * PART_MIN, 1000):
            await write(file, at, b"!")
            expected[at] = ord("!")
        await file.truncate(0 + len(BIG))
        assert await read(file, PART_MIN + 10_000, 20_000) == expected[PART_MIN + 10_000 :][:20_000]
        assert s.store.count("GetObject") == 1
        await file.commit()
        assert s.store.count("GetObject") <= 3
        assert s.stored() == bytes(expected)


@on_loop()
async def test_a_whole_copy_is_one_request() -> None:
    async with staged() as s:
        other = s.base(BIG[: 2 * PART_MIN], "other")
        file = s.begin()
        await file.put([Extent(0, other.size, other, 0)])
        await file.commit()
        assert s.stored() == BIG[: 2 * PART_MIN]
        assert s.requests == ["CopyObject"]
        await file.commit()
        assert s.requests == ["CopyObject"]


@on_loop()
async def test_an_empty_new_file_is_stored() -> None:
    async with staged() as s:
        file = s.begin()
        assert file.dirty
        await file.commit()
        assert s.stored() == b""
        assert s.requests == ["PutObject"]


@pytest.mark.parametrize("size", [5, 3 * PART_MIN, 6 * PART_MIN])
def test_zeros_take_no_memory(size: int) -> None:
    async def body() -> None:
        async with staged(budget=32 * MIB) as s:
            file = s.begin()
            await file.truncate(size)
            taken = s.pool.available
            assert s.pool.charge_nowait(taken)
            await file.commit()
            s.pool.uncharge(taken)
            assert s.stored() == bytes(size)
            assert await read(file, size - 3, 10) == bytes(3)

    run(body())


# -- stores that cannot do everything --------------------------------------------------------------


@WHERE
@pytest.mark.parametrize("parts", [1, 20])
def test_where_nothing_is_copied_it_is_fetched_and_sent(
    tmp_path: Path, where: str, parts: int
) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            s.store.copying = False
            data = BIG[: parts * PART_MIN]
            file = s.begin(s.base(data))
            await write(file, 10, b"!")
            await file.commit()
            assert s.stored() == changed(data, 10, b"!")
            assert s.store.count("UploadPartCopy") == 0  # known before
            assert s.store.uploads == {}

    run(body())


@pytest.mark.parametrize("fault", [Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST, Fault.FORBIDDEN])
@pytest.mark.parametrize("operation", ["copy", "copy_part"])
def test_a_copy_that_is_refused_is_made_good(fault: Fault, operation: str) -> None:
    async def body() -> None:
        async with staged() as s:
            source = s.base(BIG, "other")
            file = s.begin(None if operation == "copy" else s.base(BIG))
            if operation == "copy":
                source = s.base(BIG[: 3 * PART_MIN], "other")
                await file.put([Extent(0, source.size, source, 0)])
            else:
                await write(file, 0, b"!")
            s.store.fail(operation, StoreError(fault, "cannot"))
            await file.commit()
            expected = BIG[: 3 * PART_MIN] if operation == "copy" else changed(BIG, 0, b"!")
            assert s.stored() == expected

    run(body())


@on_loop()
async def test_a_store_that_takes_it_in_no_way_is_an_error() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.fail_all("copy_part", StoreError(Fault.FORBIDDEN, "cannot"))
        s.store.fail_all("get_range", StoreError(Fault.FORBIDDEN, "cannot either"))
        with pytest.raises(StoreError, match="cannot either") as failed:
            await file.commit()
        assert failed.value.errno == errno.EACCES
        assert s.stored() == BIG


@on_loop()
async def test_names_that_are_not_copied_from_are_fetched() -> None:
    """Ceph 16 decodes the name of a copy's source twice."""
    async with staged() as s:
        file = s.begin(s.base(BIG, "100%41"), "100%41")
        await write(file, len(BIG), b"more")
        await file.commit()
        assert s.stored("100%41") == BIG + b"more"
        assert "UploadPartCopy" not in s.requests


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


# -- memory ----------------------------------------------------------------------------------------


@on_loop()
async def test_more_than_memory_may_hold_is_refused_with_the_way_out() -> None:
    async with staged(budget=32 * MIB) as s:
        file = s.begin(s.base(BIG))
        for at in range(0, 16 * MIB, MIB):
            await write(file, at, pattern(MIB, at))
        with pytest.raises(FileSystemError, match="cache=DIRECTORY") as full:
            await write(file, 16 * MIB, b"x")
        assert full.value.errno == errno.ENOSPC
        await write(file, 0, b"what is there can be changed")
        await file.commit()
        expected = b"".join(pattern(MIB, at) for at in range(0, 16 * MIB, MIB))
        assert s.stored() == changed(expected, 0, b"what is there can be changed")
        # and once it is stored, it can be fetched again, so there is room
        await write(file, 16 * MIB, b"x")
        await file.commit()
        assert s.stored() == changed(expected, 0, b"what is there can be changed") + b"x"


@on_loop()
async def test_loaded_bytes_make_room_for_others() -> None:
    async with staged(budget=32 * MIB) as s:
        data = pattern(12 * MIB, 5)
        file = s.begin(s.base(data))
        await write(file, 0, b"!")
        for at in range(0, 12 * MIB, MIB):
            assert len(await read(file, at, MIB)) == MIB
        await settle()
        assert s.staging._memory.used > 8 * MIB
        assert s.pool.charge_nowait(s.pool.available)
        await s.pool.charge(4 * MIB)  # whoever waits gets it
        assert s.staging._memory.used < MIB
        s.pool.uncharge(s.pool.statistics().used - s.staging._memory.used)
        assert await read(file, 5 * MIB, 10) == data[5 * MIB :][:10]


@on_loop()
async def test_parts_wait_for_memory_one_after_the_other() -> None:
    """Two that each have half of what they need would wait for one another for ever."""
    limits = LIMITS._replace(send=6 * MIB, send_max=8 * MIB, part_min=5 * MIB)
    async with staged(budget=32 * MIB, limits=limits) as s:
        taken = s.pool.available - 14 * MIB
        assert s.pool.charge_nowait(taken)
        s.store.copying = False
        data = pattern(24 * MIB, 3)
        files = [s.begin(s.base(data, f"{n}"), f"{n}") for n in range(3)]
        for file in files:
            await write(file, 7, b"!")
        await asyncio.gather(*(file.commit() for file in files))
        assert all(s.stored(f"{n}") == changed(data, 7, b"!") for n in range(3))
        s.pool.uncharge(taken)


@on_loop()
async def test_storing_waits_a_minute_for_memory() -> None:
    async with staged(budget=32 * MIB) as s:
        file = s.begin(s.base(b"x" * 1000))
        await write(file, 0, b"!")
        left = s.pool.available
        assert s.pool.charge_nowait(left)
        with pytest.raises(StoreError, match="memory_target=") as refused:
            await file.commit()
        assert refused.value.errno == errno.ENOMEM
        s.pool.uncharge(left)


# -- side by side ----------------------------------------------------------------------------------


@WHERE
def test_a_write_while_bytes_are_on_their_way_is_not_undone(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            file = s.begin(s.base(BIG))
            await write(file, 0, b"!")
            s.store.by_hand = True
            reading = asyncio.create_task(file.read(1000, 1000))
            await settle()
            await write(file, 1200, b"written meanwhile")
            await file.truncate(1900)
            for arrival in list(s.store.arrivals):
                arrival.feed()
            await reading
            s.store.by_hand = False
            expected = changed(BIG[:1900], 1200, b"written meanwhile")
            assert await read(file, 1, 5000) == expected[1:]

    run(body())


@on_loop()
async def test_bytes_that_belonged_elsewhere_are_not_taken_for_others() -> None:
    """While they were on their way, the place in the file became another object's."""
    async with staged() as s:
        other = s.base(pattern(20 * PART_MIN, 7), "other")
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.by_hand = True
        first = asyncio.create_task(file.read(PART_MIN, 1000))
        await settle()
        await file.put([Extent(PART_MIN, 3 * PART_MIN, other, 5)])
        second = asyncio.create_task(file.read(PART_MIN, 1000))
        await settle()
        assert len(s.store.arrivals) == 2
        for arrival in reversed(s.store.arrivals[:]):
            arrival.feed()
        assert bytes(await first) == BIG[PART_MIN:][:1000]
        assert bytes(await second) == pattern(20 * PART_MIN, 7)[5:1005]
        s.store.by_hand = False
        assert await read(file, PART_MIN, 1000) == pattern(20 * PART_MIN, 7)[5:1005]


@on_loop()
async def test_readers_of_the_same_bytes_wait_for_one_request() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.by_hand = True
        readers = [asyncio.create_task(file.read(at, 700)) for at in (1000, 1000, 1500)]
        await settle()
        assert len(s.store.arrivals) == 1
        readers[0].cancel()  # whoever gives up does not take it from the others
        await settle()
        s.store.arrivals[0].feed()
        assert bytes(await readers[1]) == BIG[1000:1700]
        assert bytes(await readers[2]) == BIG[1500:2200]


@on_loop()
async def test_a_request_that_fails_is_made_again_by_the_next_reader() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        s.store.fail("get_range")
        with pytest.raises(StoreError) as failed:
            await read(file, 1000, 10)
        assert failed.value.errno == errno.EIO
        assert await read(file, 1000, 10) == BIG[1000:1010]


@on_loop()
async def test_who_reads_on_gets_more_at_once() -> None:
    async with staged(limits=LIMITS) as s:
        data = pattern(24 * MIB, 2)
        file = s.begin(s.base(data))
        await write(file, 0, b"!")
        got = b"!" + b"".join(
            [await read(file, at, 128 * KIB) for at in range(1, 24 * MIB, 128 * KIB)]
        )
        assert got == changed(data, 0, b"!")
        assert s.store.count("GetObject") < 24
        # and one that jumps about gets what it asks for, and little around it
        s.store.requests.clear()
        other = s.begin(s.base(data, "jumps"), "jumps")
        await write(other, 0, b"!")
        before = s.pool.statistics().used
        for at in range(20, 2, -3):
            assert await read(other, at * MIB, 100) == data[at * MIB :][:100]
        assert s.store.count("GetObject") == 6
        assert s.pool.statistics().used - before <= 6 * 64 * KIB


@on_loop()
async def test_reading_while_the_file_is_stored_does_not_wait_for_that() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 10 * PART_MIN, b"!")
        s.store.hold("complete_multipart")
        committing = asyncio.create_task(file.commit())
        await settle()
        assert await read(file, PART_MIN, 1000) == BIG[PART_MIN:][:1000]
        s.store.let_go("complete_multipart")
        await committing


@on_loop()
async def test_bytes_that_were_on_their_way_when_the_file_was_stored_are_the_same_bytes() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 10 * PART_MIN, b"!")
        s.store.hold("get_range")
        reading = asyncio.create_task(file.read(PART_MIN, 100))
        await settle()
        s.store.let_go("get_range")
        s.store.fail("get_range")  # nothing: all that is needed is on its way
        s.store.mend()
        await file.commit()
        assert bytes(await reading) == BIG[PART_MIN:][:100]


@on_loop()
async def test_a_version_that_went_because_we_replaced_it_is_read_in_the_new_one() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 10 * PART_MIN, b"!")
        s.store.by_hand = True
        reading = asyncio.create_task(file.read(PART_MIN, 100))
        await settle()
        (arrival,) = s.store.arrivals
        s.store.by_hand = False
        await file.commit()
        arrival.fail(StoreError(Fault.CHANGED, "another version is there now"))
        assert bytes(await reading) == BIG[PART_MIN:][:100]


@on_loop()
async def test_writing_waits_for_what_is_being_stored_and_is_in_the_next_commit() -> None:
    async with staged() as s:
        file = s.begin(s.base(b"0123456789"))
        await write(file, 0, b"a")
        s.store.hold("put")
        committing = asyncio.create_task(file.commit())
        await settle()
        assert file.write_nowait(1, memoryview(b"b")) == 0
        writing = asyncio.create_task(file.write(1, memoryview(b"b")))
        await settle()
        assert not writing.done()
        s.store.let_go("put")
        await committing
        assert s.stored() == b"a123456789"
        await writing
        assert file.dirty
        await file.commit()
        assert s.stored() == b"ab23456789"


@on_loop()
async def test_commits_of_several_handles_at_once_are_one() -> None:
    async with staged() as s:
        file = s.begin(s.base(BIG))
        await write(file, 0, b"!")
        infos = await asyncio.gather(*(file.commit() for _ in range(3)))
        assert len(set(infos)) == 1
        assert s.store.count("CompleteMultipartUpload") == 1


# -- made of other objects -------------------------------------------------------------------------


@WHERE
def test_what_is_borrowed_is_taken_before_it_goes(tmp_path: Path, where: str) -> None:
    async def body() -> None:
        async with staged(cache(tmp_path, where)) as s:
            other = s.base(BIG, "other")
            file = s.begin(s.base(b"x" * 10))
            await file.put([Extent(10, 10 + 5 * PART_MIN, other, 3)])
            await write(file, 100, b"!")
            await read(file, 200, 100)
            await s.staging.about_to_change("other")
            s.store.remove("other")
            expected = changed(b"x" * 10 + BIG[3:][: 5 * PART_MIN], 100, b"!")
            assert await read(file) == expected
            await file.commit()
            assert s.stored() == expected

    run(body())


@on_loop()
async def test_who_stores_a_file_that_others_borrow_from_gives_it_to_them_first() -> None:
    async with staged() as s:
        source = s.begin(s.base(BIG, "source"), "source")
        await write(source, 0, b"!")
        borrower = s.begin()
        await borrower.put([Extent(0, len(BIG), source.base, 0)])
        await source.commit()
        assert s.stored("source") == changed(BIG, 0, b"!")
        await borrower.commit()
        assert s.stored() == BIG


@on_loop()
async def test_two_that_borrow_from_one_another_do_not_wait_for_ever() -> None:
    async with staged() as s:
        infos = [s.base(pattern(5 * PART_MIN, n), f"{n}") for n in range(2)]
        files = [s.begin(infos[n], f"{n}") for n in range(2)]
        for n in range(2):
            await files[n].put([Extent(0, 2 * PART_MIN, infos[1 - n], 0)])
        await asyncio.gather(*(file.commit() for file in files))
        for n in range(2):
            theirs, ours = (pattern(5 * PART_MIN, m) for m in (1 - n, n))
            assert s.stored(f"{n}") == theirs[: 2 * PART_MIN] + ours[2 * PART_MIN :]


@on_loop()
async def test_what_cannot_be_taken_stays_where_it_is() -> None:
    async with staged(budget=32 * MIB) as s:
        other = s.base(pattern(20 * MIB, 4), "other")
        file = s.begin()
        await file.put([Extent(0, 20 * MIB, other, 0)])
        with pytest.raises(ServeError) as refused:
            await s.staging.about_to_change("other")
        assert refused.value.errno == errno.ENOSPC
        await file.commit()
        assert s.stored() == pattern(20 * MIB, 4)


# -- other ends ------------------------------------------------------------------------------------


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


@on_loop()
async def test_seek() -> None:
    async with staged() as s:
        file = s.begin(s.base(b"d" * 100))
        await file.truncate(200)
        await write(file, 150, b"x" * 10)
        cases = {
            (0, False): 0, (0, True): 100, (99, True): 100, (100, True): 100, (100, False): 150,
            (155, False): 155, (155, True): 160, (160, True): 160,
        }  # fmt: skip
        for (offset, hole), expected in cases.items():
            assert file.seek(offset, hole=hole) == expected
        for offset, hole in ((160, False), (200, True), (200, False), (999, True)):
            with pytest.raises(FileSystemError) as nothing:
                file.seek(offset, hole=hole)
            assert nothing.value.errno == errno.ENXIO
        await write(file, 199, b"x")
        assert file.seek(199, hole=True) == 200


@on_loop()
async def test_times() -> None:
    async with staged() as s:
        base = s.base(BIG)._replace(mtime=5)
        file = s.begin(base)
        assert file.mtime == 5
        await write(file, 0, b"!")
        assert file.mtime > 1_000_000_000_000_000_000
        s.base(BIG)
        info = await file.commit()
        assert info is not None
        assert file.mtime == info.mtime
