"""Going on with what the bucket has: fetched when it is small, copied when it is large."""

import errno

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.transfer.planner import Limits
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle
from support.writing import KEY, PART, append, read, write, writing

# -- small objects --------------------------------------------------------------------------------


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


# -- large objects --------------------------------------------------------------------------------


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


# -- other clients --------------------------------------------------------------------------------


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
