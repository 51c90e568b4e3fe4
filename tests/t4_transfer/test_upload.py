"""Writing a file in order: what commit says is in the bucket is what was written, whole."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB, TIB
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.partsize import largest_object
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle
from support.writing import KEY, PART, append, read, write, writing

# -- how an object is sent ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "requests"),
    [
        (0, {"PutObject": 1}),
        (1, {"PutObject": 1}),
        (PART - 1, {"PutObject": 1}),
        (PART, {"PutObject": 1}),
        (PART + 1, {"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1}),
        (2 * PART, {"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1}),
        (3 * PART + 5, {"CreateMultipartUpload": 1, "UploadPart": 4, "CompleteMultipartUpload": 1}),
    ],
)
@pytest.mark.parametrize("piece", [1000_000, MIB, 5 * PART])
def test_the_requests_of_a_file(size: int, piece: int, requests: dict[str, int]) -> None:
    async def body() -> None:
        async with writing() as w:
            data = pattern(size)
            upload = w.begin()
            await append(upload, data, piece)
            assert upload.size == size
            assert w.stored() is None
            info = await upload.commit()
            assert w.stored() == data
            stored = w.store.stored(KEY)
            assert stored is not None
            assert info == stored.info
            assert {name: w.store.count(name) for name in w.requests} == requests

    run(body())


@on_loop()
async def test_nothing_is_sent_twice() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, b"once")
        first = await upload.commit()
        assert not upload.dirty
        assert await upload.commit() == first
        assert await upload.commit() == first
        assert w.requests == ["PutObject"]


@on_loop()
async def test_a_file_that_was_only_opened_is_not_sent() -> None:
    async with writing() as w:
        base = w.base(b"as it was")
        upload = w.begin(base)
        assert not upload.dirty
        assert upload.size == 9
        assert upload.mtime == base.mtime
        assert await upload.commit() == base
        assert w.requests == []


@on_loop()
async def test_parts_go_side_by_side_while_the_program_writes() -> None:
    async with writing() as w:
        w.store.hold("upload_part")
        upload = w.begin()
        data = memoryview(pattern(4 * PART + 10))
        for at in range(0, len(data), MIB):
            assert upload.write_nowait(at, data[at : at + MIB]) == len(data[at : at + MIB])
            await asyncio.sleep(0)
        await settle()
        assert w.store.most_under_way["upload_part"] == 4
        assert w.store.count("CreateMultipartUpload") == 1
        w.store.let_go("upload_part")
        await upload.commit()
        assert w.stored() == bytes(data)


@on_loop()
async def test_what_was_sent_is_kept_for_a_while_and_then_goes_part_by_part() -> None:
    async with writing() as w:  # a quarter of 64 MiB may be kept
        upload = w.begin()
        await append(upload, pattern(2 * PART + 10))
        await settle()
        assert w.pool.statistics().used == 2 * PART + 16 * 1024
        await append(upload, pattern(PART))
        await settle()
        assert w.pool.statistics().used <= MIB
        await append(upload, pattern(5 * PART))
        await settle()
        assert w.pool.statistics().used <= MIB
        await upload.commit()
        assert w.pool.statistics().used == 0


@on_loop()
async def test_what_is_kept_gives_way_to_everything_else() -> None:
    async with writing(budget=32 * MIB) as w:
        first, second = w.begin(key="first"), w.begin(key="second")
        await append(first, pattern(PART + 1))
        await settle()
        taken = w.pool.available
        assert w.pool.charge_nowait(taken)
        await append(second, pattern(MIB))  # at the cost of what the first one keeps
        w.pool.uncharge(taken)
        await append(first, pattern(PART, 2))
        for upload in (first, second):
            await upload.commit()
        assert w.stored("first") == pattern(PART + 1) + pattern(PART, 2)


@on_loop()
async def test_a_writer_that_waits_for_memory_keeps_nothing() -> None:
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        await append(upload, pattern(PART))
        taken = w.pool.available
        assert w.pool.charge_nowait(taken)
        await append(upload, pattern(PART, 2))
        await append(upload, pattern(PART, 3))
        await upload.commit()
        assert w.stored() == pattern(PART) + pattern(PART, 2) + pattern(PART, 3)
        w.pool.uncharge(taken)


@on_loop()
async def test_all_files_together_keep_a_quarter_of_the_memory() -> None:
    async with writing() as w:
        uploads = [w.begin(key=f"{number}") for number in range(4)]
        for number, upload in enumerate(uploads):
            await append(upload, pattern(PART + 1, number))
            await settle()
            assert w.pool.statistics().used <= 16 * MIB + (number + 1) * 16 * 1024
        for number, upload in enumerate(uploads):
            await upload.commit()
            assert w.stored(f"{number}") == pattern(PART + 1, number)


@on_loop()
async def test_a_small_file_takes_little_memory() -> None:
    async with writing() as w:
        for number in range(100):
            await write(w.begin(key=f"{number}"), 0, b"small")
        assert w.pool.statistics().used == 100 * 16 * 1024


# -- in memory, anything goes ---------------------------------------------------------------------


@on_loop()
async def test_the_part_in_memory_can_be_changed_cut_and_stretched() -> None:
    async with writing() as w:
        upload = w.begin()
        await write(upload, 0, b"0123456789")
        await write(upload, 3, b"xyz")
        await write(upload, 15, b"end")
        assert await read(upload, 0, 100) == b"012xyz6789\0\0\0\0\0end"
        await upload.truncate(5)
        await upload.truncate(8)
        await write(upload, 6, b"ab")
        assert await read(upload, 2, 5) == b"2xy\0a"
        assert await read(upload, 8, 5) == b""
        assert await read(upload, 800, 5) == b""
        await upload.commit()
        assert w.stored() == b"012xy\0ab"
        assert w.requests == ["PutObject"]


def test_behind_parts_that_are_gone_only_the_new_one_can_be_changed() -> None:
    """What was sent is not in memory any more, and nothing in the bucket has it yet."""

    async def body() -> None:
        async with writing() as w:
            data = pattern(3 * PART + 100)
            upload = w.begin()
            await append(upload, data)
            start = 3 * PART
            await write(upload, start + 50, b"!")
            await write(upload, start, b"?")
            await upload.truncate(start + 60)
            changed = bytearray(data[: start + 60])
            changed[start + 50], changed[start] = ord("!"), ord("?")
            deeds = [write(upload, at, b"x" * 5) for at in (0, PART - 1, start - 1)]
            deeds += [upload.truncate(size) for size in (1, start - 1)]
            deeds += [upload.zero(0, 5), upload.put([Extent(5, 6)])]
            for deed in deeds:
                with pytest.raises(FileSystemError) as refused:
                    await deed
                assert refused.value.errno == errno.EOPNOTSUPP
            with pytest.raises(FileSystemError) as busy:
                await read(upload, PART, 10)
            assert busy.value.errno == errno.EBUSY
            assert await read(upload, start + 45, 100) == changed[start + 45 :]
            assert upload.size == len(changed)
            await upload.truncate(start)
            await append(upload, bytes(changed[start:]))
            await upload.commit()
            assert w.stored() == bytes(changed)
            # and then everything is possible again
            await write(upload, 0, b"after the commit")
            await upload.commit()
            assert w.stored() == b"after the commit" + bytes(changed[16:])

    run(body())


@pytest.mark.parametrize("beyond", [1, PART, 2 * PART + 5])
@pytest.mark.parametrize("how", ["write", "truncate"])
def test_a_gap_is_zeros_also_where_nothing_can_be_staged_any_more(beyond: int, how: str) -> None:
    async def body() -> None:
        async with writing() as w:
            data = pattern(3 * PART + 100)
            upload = w.begin()
            await append(upload, data)
            if how == "write":
                await write(upload, len(data) + beyond, b"end")
            else:
                await upload.truncate(len(data) + beyond)
                await append(upload, b"end")
            await upload.commit()
            assert w.stored() == data + bytes(beyond) + b"end"
            assert w.store.count("PutObject") == 0

    run(body())


@pytest.mark.parametrize("size", [0, 10, 2 * PART + 10])
def test_truncated_to_nothing_a_file_begins_anew(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin()
            await append(upload, pattern(size))
            await upload.truncate(0)
            assert upload.size == 0
            assert w.pool.statistics().used == 0
            await append(upload, b"anew")
            await upload.commit()
            assert w.stored() == b"anew"

    run(body())


# -- limits ---------------------------------------------------------------------------------------


@on_loop()
async def test_no_object_is_larger_than_5_tib() -> None:
    async with writing() as w:
        w.uploads.size_limit = 5 * TIB
        upload = w.begin()
        for offset in (5 * TIB, 5 * TIB - 1):
            with pytest.raises(FileSystemError, match="5 TiB") as refused:
                upload.write_nowait(offset, memoryview(b"xx"))
            assert refused.value.errno == errno.EFBIG
        with pytest.raises(FileSystemError, match="5 TiB"):
            await upload.truncate(5 * TIB + 1)


@pytest.mark.parametrize(("budget", "largest"), [(32, 8), (33, 8), (100, 25), (256, 64)])
def test_a_part_has_a_quarter_of_the_memory_at_most(budget: int, largest: int) -> None:
    async def body() -> None:
        async with writing(budget=budget * MIB) as w:
            assert w.uploads.largest_part == largest * MIB
            assert w.uploads.size_limit == largest_object(PART, largest * MIB)

    run(body())


@on_loop()
async def test_what_memory_does_not_allow_is_refused_in_time() -> None:
    async with writing(budget=32 * MIB) as w:
        assert w.uploads.largest_part == 8 * MIB
        assert w.uploads.size_limit == 80_000 * MIB
        w.uploads.size_limit = 100
        upload = w.begin()
        await append(upload, bytes(100))
        with pytest.raises(FileSystemError, match="memory_target=") as refused:
            await append(upload, b"x")
        assert refused.value.errno == errno.EFBIG
        await upload.commit()
        assert w.stored() == bytes(100)
