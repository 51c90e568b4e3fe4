"""Writing a file: what commit says is in the bucket is what was written, in the fewest requests."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB, TIB
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.transfer import upload as upload_module
from fuse_s3_worker.transfer.partsize import largest_object
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle
from support.writing import KEY, PART, append, write, writing

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
async def test_memory_goes_back_part_by_part() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, pattern(3 * PART + 10))
        await settle()
        assert w.pool.statistics().used <= MIB
        await upload.commit()
        assert w.pool.statistics().used == 0


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
        assert b"".join(upload.read(0, 100)) == b"012xyz6789\0\0\0\0\0end"
        await upload.truncate(5)
        await upload.truncate(8)
        await write(upload, 6, b"ab")
        assert b"".join(upload.read(2, 5)) == b"2xy\0a"
        assert b"".join(upload.read(8, 5)) == b""
        assert b"".join(upload.read(800, 5)) == b""
        await upload.commit()
        assert w.stored() == b"012xy\0ab"


@on_loop()
async def test_behind_a_part_that_is_on_its_way_only_the_new_part_can_be_changed() -> None:
    async with writing() as w:
        data = pattern(PART + 100)
        upload = w.begin()
        await append(upload, data)
        await write(upload, PART + 50, b"!")
        await write(upload, PART, b"?")
        await upload.truncate(PART + 60)
        changed = bytearray(data[: PART + 60])
        changed[PART + 50], changed[PART] = ord("!"), ord("?")
        for offset, length in ((0, 1), (PART - 1, 1), (PART - 1, 5), (upload.size + PART, 1)):
            with pytest.raises(FileSystemError, match="write at") as refused:
                await write(upload, offset, b"x" * length)
            assert refused.value.errno == errno.EOPNOTSUPP
        for size in (PART - 1, 1, 2 * PART + 1):
            with pytest.raises(FileSystemError) as refused:
                await upload.truncate(size)
            assert refused.value.errno == errno.EOPNOTSUPP
        with pytest.raises(FileSystemError) as busy:
            upload.read(PART, 10)
        assert busy.value.errno == errno.EBUSY
        assert upload.size == len(changed)
        await upload.truncate(PART)
        await append(upload, bytes(changed[PART:]))
        await upload.commit()
        assert w.stored() == bytes(changed)


@on_loop()
async def test_a_gap_is_zeros_up_to_the_end_of_the_part() -> None:
    async with writing() as w:
        upload = w.begin()
        await write(upload, PART - 1, b"x")
        with pytest.raises(FileSystemError) as refused:
            await write(upload, 2 * PART, b"x")
        assert refused.value.errno == errno.EOPNOTSUPP
        await append(upload, b"y")
        await upload.commit()
        assert w.stored() == bytes(PART - 1) + b"xy"


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


# -- going on after a commit ----------------------------------------------------------------------


@on_loop()
async def test_a_small_object_is_fetched_back_to_be_changed() -> None:
    async with writing() as w:
        upload = w.begin(w.base(b"0123456789"))
        await write(upload, 5, b"-")
        assert b"".join(upload.read(0, 100)) == b"01234-6789"
        await append(upload, b"ab")
        await upload.commit()
        assert w.stored() == b"01234-6789ab"
        assert w.requests == ["GetObject", "PutObject"]
        # and again, from what was committed just now
        await upload.truncate(3)
        await upload.commit()
        assert w.stored() == b"012"


@pytest.mark.parametrize("size", [1, PART - 1, PART])
def test_what_fits_into_one_part_is_fetched_back_and_not_copied(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size)))
            await append(upload, b"more")
            await upload.commit()
            assert w.stored() == pattern(size) + b"more"
            assert w.store.count("GetObject") == 1
            assert w.store.count("UploadPartCopy") == 0

    run(body())


@on_loop()
async def test_a_small_object_may_grow_into_a_large_one() -> None:
    async with writing() as w:
        upload = w.begin(w.base(pattern(1000)))
        await append(upload, pattern(2 * PART, seed=2))
        await upload.commit()
        assert w.stored() == pattern(1000) + pattern(2 * PART, seed=2)
        assert "UploadPartCopy" not in w.requests


@on_loop()
async def test_a_large_object_becomes_the_first_part_by_copy() -> None:
    async with writing() as w:
        data = pattern(PART + 1)
        upload = w.begin(w.base(data))
        await append(upload, b"more")
        await upload.commit()
        assert w.stored() == data + b"more"
        assert "GetObject" not in w.requests
        assert w.store.count("UploadPartCopy") == 1
        # its beginning can be changed no more than before
        with pytest.raises(FileSystemError) as refused:
            await write(upload, 0, b"x")
        assert refused.value.errno == errno.EOPNOTSUPP
        with pytest.raises(FileSystemError) as refused:
            await upload.truncate(PART)
        assert refused.value.errno == errno.EOPNOTSUPP
        await upload.truncate(upload.size + 5)
        await upload.commit()
        assert w.stored() == data + b"more" + bytes(5)


@pytest.mark.parametrize("size", [PART + 1, 2 * PART, 3 * PART + 7])
def test_what_cannot_be_copied_by_its_name_is_fetched_back(size: int) -> None:
    """Ceph 16 decodes the name of a copy's source twice."""
    key = "100%41"

    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size), key), key)
            await append(upload, b"more")
            await upload.commit()
            assert w.stored(key) == pattern(size) + b"more"
            assert "UploadPartCopy" not in w.requests
            assert w.store.count("GetObject") == -(-size // PART)

    run(body())


@on_loop()
async def test_writing_behind_the_end_of_a_large_object_keeps_it() -> None:
    async with writing() as w:
        data = pattern(PART + 1)
        upload = w.begin(w.base(data))
        await write(upload, PART + 11, b"more")
        await upload.commit()
        assert w.stored() == data + bytes(10) + b"more"


@pytest.mark.parametrize("beyond", [0, 1, 5 * MIB - 1, 5 * MIB, 16 * MIB])
def test_a_huge_object_is_copied_in_parts_that_s3_takes(
    beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part is larger than the most, and none but the last smaller than the least."""
    monkeypatch.setattr(upload_module, "PART_MAX", 16 * MIB)

    async def body() -> None:
        async with writing() as w:
            data = pattern(2 * 16 * MIB + beyond)
            upload = w.begin(w.base(data))
            await append(upload, b"more")
            await upload.commit()
            assert w.stored() == data + b"more"

    run(body())


@on_loop()
async def test_appending_in_several_sessions() -> None:
    async with writing() as w:
        upload = w.begin()
        everything = b""
        for number in range(6):
            data = pattern(3 * MIB, seed=number)
            await append(upload, data)
            everything += data
            info = await upload.commit()
            assert w.stored() == everything
            assert info is not None
            if number % 2:
                await upload.close()
                upload = w.begin(info)


# -- giving up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 3 * PART])
def test_what_was_unlinked_is_not_stored_and_writing_on_leads_nowhere(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin()
            await append(upload, pattern(size))
            await upload.discard()
            assert w.pool.statistics().used == 0
            assert w.store.uploads == {}
            await append(upload, pattern(2 * PART))
            await upload.truncate(10)
            await upload.truncate(0)
            await append(upload, b"nowhere")
            assert upload.size == 7
            assert await upload.commit() is None
            assert w.store.keys() == []
            assert w.pool.statistics().used == 0

    run(body())


@pytest.mark.parametrize("size", [100, 3 * PART + 1])
@pytest.mark.parametrize("operation", ["create_multipart", "upload_part"])
def test_closing_without_commit_leaves_nothing(size: int, operation: str) -> None:
    async def body() -> None:
        async with writing() as w:
            base = w.base(b"old")
            upload = w.begin(base)
            await upload.truncate(0)
            w.store.hold(operation)
            await append(upload, pattern(size))
            await settle()
            if operation == "create_multipart":  # what was begun must be ended
                asyncio.get_running_loop().call_later(1, w.store.let_go, operation)
            await upload.close()
            assert w.stored() == b"old"
            assert w.store.uploads == {}
            assert w.pool.statistics().used == 0

    run(body())


# -- several writers ------------------------------------------------------------------------------


@on_loop()
async def test_commits_of_several_handles_at_once_are_one() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, pattern(2 * PART + 1))
        infos = await asyncio.gather(*(upload.commit() for _ in range(3)))
        assert len(set(infos)) == 1
        assert w.store.count("CompleteMultipartUpload") == 1
        assert w.stored() == pattern(2 * PART + 1)


@on_loop()
async def test_writing_while_another_handle_commits_is_in_the_next_commit() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, b"first")
        w.store.hold("put")
        committing = asyncio.create_task(upload.commit())
        await settle()
        assert upload.write_nowait(5, memoryview(b"second")) == 0  # it has to wait
        writer = asyncio.create_task(upload.write(5, memoryview(b"second")))
        await settle()
        assert not writer.done()
        w.store.let_go("put")
        await committing
        assert w.stored() == b"first"
        await writer
        assert upload.dirty
        await upload.commit()
        assert w.stored() == b"firstsecond"


@on_loop()
async def test_two_programs_that_append_by_turns() -> None:
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        everything = bytearray()
        inode = asyncio.Lock()  # the kernel lets one write(2) at a time change a file

        async def program(seed: int) -> None:
            for number in range(20):
                data = pattern(300_000 + number, seed)
                async with inode:
                    everything.extend(data)
                    await write(upload, upload.size, data)
                if number % 7 == seed:
                    await upload.commit()

        async with asyncio.TaskGroup() as group:
            for seed in (2, 3):
                group.create_task(program(seed))
        await upload.commit()
        assert w.stored() == bytes(everything)
