"""Writing a file in order: what commit says is in the bucket is what was written, whole."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB, TIB
from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.partsize import largest_object
from fuse_s3_worker.transfer.planner import Limits
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


# -- going on after a commit ----------------------------------------------------------------------


@on_loop()
async def test_a_small_object_is_fetched_to_be_changed() -> None:
    async with writing() as w:
        upload = w.begin(w.base(b"0123456789"))
        await write(upload, 5, b"-")
        assert await read(upload, 0, 100) == b"01234-6789"
        await append(upload, b"ab")
        await upload.commit()
        assert w.stored() == b"01234-6789ab"
        assert w.requests == ["GetObject", "PutObject"]
        # and again, from what was committed just now
        await upload.truncate(3)
        await upload.commit()
        assert w.stored() == b"012"


@pytest.mark.parametrize("size", [1, PART - 1, PART])
def test_what_fits_into_one_part_is_fetched_and_not_copied_while_it_is_written(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size)))
            await append(upload, b"more")
            assert w.requests == ["GetObject"]
            await upload.commit()
            assert w.stored() == pattern(size) + b"more"
            assert "UploadPartCopy" not in w.requests

    run(body())


@on_loop()
async def test_a_small_object_may_grow_into_a_large_one() -> None:
    async with writing() as w:
        upload = w.begin(w.base(pattern(1000)))
        await append(upload, pattern(2 * PART, seed=2))
        await upload.commit()
        assert w.stored() == pattern(1000) + pattern(2 * PART, seed=2)
        assert "UploadPartCopy" not in w.requests


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_however_much_follows_a_small_object_it_is_sent_and_not_staged(size: int) -> None:
    """A shell redirection stores an empty file first, when it closes the descriptor it has."""

    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size)))
            for number in range(20):
                await append(upload, pattern(PART, seed=number))
            assert w.staging._memory.used == 0
            await upload.commit()
            expected = b"".join(pattern(PART, seed=number) for number in range(20))
            assert w.stored() == pattern(size) + expected

    run(body())


@on_loop()
async def test_what_was_cut_of_a_small_object_does_not_come_back_with_a_stage() -> None:
    async with writing() as w:
        upload = w.begin(w.base(b"ab"))
        await append(upload, b"c")
        await upload.truncate(1)
        await upload.zero(0, 1)
        assert upload.size == 1
        await upload.commit()
        assert w.stored() == b"\0"


@on_loop()
async def test_what_another_client_stored_is_not_replaced_by_what_follows_a_small_one() -> None:
    async with writing() as w:
        for size in (0, 10):
            upload = w.begin(w.base(pattern(size)))
            await append(upload, b"more")
            w.store.write(KEY, b"theirs")
            with pytest.raises(StoreError) as refused:
                await upload.commit()
            assert refused.value.fault is Fault.CHANGED
            assert w.stored() == b"theirs"
            await upload.close()


@on_loop()
async def test_a_large_object_becomes_the_first_part_by_copy_while_its_end_is_written() -> None:
    async with writing() as w:
        data = pattern(PART + 1)
        upload = w.begin(w.base(data))
        await append(upload, b"more")
        await settle()
        assert w.requests == ["CreateMultipartUpload", "UploadPartCopy"]
        await upload.commit()
        assert w.stored() == data + b"more"
        assert "GetObject" not in w.requests
        assert w.store.count("UploadPartCopy") == 1


@on_loop()
async def test_more_than_memory_has_can_be_appended() -> None:
    async with writing(budget=32 * MIB) as w:
        data = pattern(PART + 1)
        upload = w.begin(w.base(data))
        for number in range(6):
            await append(upload, pattern(PART, number))
        assert await read(upload, 5, 10) == data[5:15]  # what it goes on from is still there
        await upload.commit()
        assert w.stored() == data + b"".join(pattern(PART, number) for number in range(6))


@on_loop()
async def test_what_another_client_has_replaced_is_not_appended_to() -> None:
    async with writing() as w:
        for name, size in (("small", 4), ("large", 2 * PART)):
            upload = w.begin(w.base(pattern(size), name), name)
            await append(upload, b"more")
            await settle()
            w.store.write(name, b"theirs")
            with pytest.raises(StoreError) as stale:
                await upload.commit()
            assert stale.value.errno == errno.ESTALE
            assert w.stored(name) == b"theirs"


@pytest.mark.parametrize("size", [PART + 1, 2 * PART, 3 * PART + 7])
def test_what_cannot_be_copied_by_its_name_is_fetched(size: int) -> None:
    """Ceph 16 decodes the name of a copy's source twice."""
    key = "100%41"

    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size), key), key)
            await append(upload, b"more")
            await upload.commit()
            assert w.stored(key) == pattern(size) + b"more"
            assert "UploadPartCopy" not in w.requests

    run(body())


@pytest.mark.parametrize("fault", [Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST, Fault.FORBIDDEN])
@pytest.mark.parametrize("written", [4, 2 * PART])
def test_a_copy_that_is_refused_is_made_good(fault: Fault, written: int) -> None:
    """Every byte is still here, so it is fetched and sent instead."""

    async def body() -> None:
        async with writing() as w:
            data = pattern(2 * PART + 5)
            upload = w.begin(w.base(data))
            w.store.fail_all("copy_part", StoreError(fault, "cannot"))
            await append(upload, pattern(written, 2))
            await settle()
            await append(upload, b"end")
            await upload.commit()
            assert w.stored() == data + pattern(written, 2) + b"end"

    run(body())


@on_loop()
async def test_a_copy_that_is_refused_when_it_is_too_late_is_an_error() -> None:
    async with writing() as w:
        data = pattern(2 * PART)
        upload = w.begin(w.base(data))
        w.store.fail("copy_part", StoreError(Fault.NOT_IMPLEMENTED, "cannot"))
        w.store.hold("copy_part")
        await append(upload, pattern(4 * PART, 2))
        w.store.let_go("copy_part")
        await settle()
        with pytest.raises(StoreError, match="cannot") as failed:
            await upload.commit()
        assert failed.value.errno == errno.EOPNOTSUPP
        assert w.stored() == data


@on_loop()
async def test_writing_behind_the_end_of_a_large_object_keeps_it() -> None:
    async with writing() as w:
        data = pattern(PART + 1)
        upload = w.begin(w.base(data))
        await write(upload, PART + 11, b"more")
        await upload.commit()
        assert w.stored() == data + bytes(10) + b"more"


@pytest.mark.parametrize("beyond", [0, 1, 5 * MIB - 1, 5 * MIB, 16 * MIB])
def test_a_huge_object_is_copied_in_parts_that_s3_takes(beyond: int) -> None:
    """No part is larger than the most, and none but the last smaller than the least."""

    async def body() -> None:
        async with writing() as w:
            w.uploads.limits = Limits(PART, PART, part_max=16 * MIB, copy=16 * MIB)
            data = pattern(2 * 16 * MIB + beyond)
            upload = w.begin(w.base(data))
            await append(upload, b"more")
            await upload.commit()
            assert w.stored() == data + b"more"
            assert w.store.count("UploadPartCopy") >= 2

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


@pytest.mark.parametrize("size", [0, 100, PART + 5])
def test_what_was_unlinked_is_there_for_who_has_it_open(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin()
            await append(upload, pattern(size))
            await upload.discard()
            assert w.store.uploads == {}
            await append(upload, pattern(PART, 2))
            await write(upload, 0, b"begin")
            expected = (b"begin" + (pattern(size) + pattern(PART, 2))[5:])[: size + PART]
            assert await read(upload, 0, size + PART) == expected
            await upload.truncate(10)
            await upload.truncate(0)
            await append(upload, b"nowhere")
            assert await read(upload, 0, 100) == b"nowhere"
            assert upload.size == 7
            assert await upload.commit() is None
            assert w.store.keys() == []
            assert "PutObject" not in w.requests

    run(body())


@on_loop()
async def test_what_was_sent_in_part_and_is_unlinked_leads_nowhere() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, pattern(4 * PART))
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


@pytest.mark.parametrize("size", [5, 3 * PART])
def test_a_file_that_goes_on_after_it_was_unlinked_and_stored_before(size: int) -> None:
    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(size)))
            await upload.discard()
            w.store.remove(KEY)
            await append(upload, b"more")
            assert await read(upload, size, 10) == b"more"
            with pytest.raises(StoreError) as gone:
                await read(upload, 0, 3)  # nothing of it is here
            assert gone.value.errno == errno.ESTALE
            assert await upload.commit() == upload.base
            assert w.store.keys() == []

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
