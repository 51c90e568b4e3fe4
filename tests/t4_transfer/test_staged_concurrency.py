"""Staged files in use from several sides: who waits, for what, and what memory they share."""

import asyncio
import errno
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.transfer.extents import Extent
from support.pattern import pattern
from support.staging import BIG, LIMITS, PART_MIN, WHERE, cache, changed, staged
from support.virtualtime import on_loop, run, settle
from support.writing import read, write

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
