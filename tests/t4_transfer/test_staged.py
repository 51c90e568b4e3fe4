"""Staged files: what moves for a change, what others give to it, and what is known of them."""

import asyncio
import errno
from pathlib import Path

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.transfer.extents import Extent
from support.pattern import pattern
from support.staging import BIG, PART_MIN, WHERE, cache, changed, staged
from support.virtualtime import on_loop, run
from support.writing import read, write

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


# -- what is known of them -------------------------------------------------------------------------


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
