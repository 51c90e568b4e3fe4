"""Uploads that fail: an error each time, the old object untouched, nothing left behind."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.transfer import upload as upload_module
from fuse_s3_worker.transfer.writer import FileWriter
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle
from support.writing import KEY, PART, Writing, append, write, writing

REFUSED = StoreError(Fault.FORBIDDEN, "no", status=403, code="AccessDenied")

CASES = {
    "put": ("put", 1, 100),
    "create": ("create_multipart", 1, 3 * PART + 1),
    "first part": ("upload_part", 1, 3 * PART + 1),
    "a part in the middle": ("upload_part", 2, 3 * PART + 1),
    "last part": ("upload_part", 4, 3 * PART + 1),
    "complete": ("complete_multipart", 1, 3 * PART + 1),
}


async def _write_all(upload: FileWriter, size: int) -> ServeError:
    """Write and commit; return the error that it must come to."""
    try:
        await append(upload, pattern(size))
        await settle()
        await upload.commit()
    except ServeError as error:
        return error
    raise AssertionError("it said that all is well")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("old", [b"old", None])
def test_a_request_that_fails(case: str, old: bytes | None) -> None:
    operation, nth, size = CASES[case]

    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(old) if old else None)
            await upload.truncate(0)
            w.store.fail(operation, REFUSED, nth=nth)
            error = await _write_all(upload, size)
            assert error is REFUSED
            assert error.errno == errno.EACCES
            assert upload.failed is REFUSED
            # whoever closes it next is told too, and nobody can go on
            with pytest.raises(StoreError) as again:
                await upload.commit()
            assert again.value is REFUSED
            with pytest.raises(StoreError):
                await append(upload, b"more")
            with pytest.raises(StoreError):
                await upload.truncate(1)
            assert w.stored() == old
            assert w.store.uploads == {}
            assert w.pool.statistics().used == 0
            if operation != "put" and case != "create":
                assert w.store.count("AbortMultipartUpload") == 1

    run(body())


@pytest.mark.parametrize("instead", [b"theirs", None])
def test_a_copy_of_what_another_client_has_replaced_is_not_stored(instead: bytes | None) -> None:
    """Not all stores heed the condition on the source of a copy."""

    async def body() -> None:
        async with writing() as w:
            upload = w.begin(w.base(pattern(PART + 1)))
            await append(upload, b"more")
            await settle()  # the copy is made
            if instead is None:
                w.store.remove(KEY)
            else:
                w.store.write(KEY, instead)
            with pytest.raises(StoreError) as changed:
                await upload.commit()
            assert changed.value.errno == errno.ESTALE
            assert w.stored() == instead

    run(body())


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_failed_can_be_written_anew(case: str) -> None:
    operation, nth, size = CASES[case]

    async def body() -> None:
        async with writing() as w:
            upload = w.begin()
            w.store.fail(operation, REFUSED, nth=nth)
            await _write_all(upload, size)
            await upload.truncate(0)
            assert upload.failed is None
            await append(upload, pattern(size, seed=2))
            await upload.commit()
            assert w.stored() == pattern(size, seed=2)

    run(body())


@on_loop()
async def test_an_empty_file_that_failed_can_be_written_anew() -> None:
    async with writing() as w:
        upload = w.begin()
        w.store.fail("put", REFUSED)
        await _write_all(upload, 0)
        await upload.truncate(0)  # O_TRUNC of the next open(2)
        await upload.commit()
        assert w.stored() == b""


@on_loop()
async def test_a_failed_part_is_told_to_the_next_write() -> None:
    async with writing() as w:
        upload = w.begin()
        w.store.fail("upload_part", REFUSED)
        await append(upload, pattern(PART + 1))
        await settle()
        with pytest.raises(StoreError) as refused:
            upload.write_nowait(upload.size, memoryview(b"x"))
        assert refused.value is REFUSED


@on_loop()
async def test_a_write_that_waits_for_memory_is_told_when_a_part_fails() -> None:
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        w.store.hold("upload_part")
        w.store.fail("upload_part", REFUSED, nth=2)
        writer = asyncio.create_task(append(upload, pattern(6 * PART)))
        await settle()
        assert not writer.done()
        w.store.let_go("upload_part")
        with pytest.raises(StoreError) as refused:
            await writer
        assert refused.value is REFUSED


@on_loop("abort_failed")
async def test_an_abort_that_fails_too_is_logged_and_hides_nothing() -> None:
    async with writing() as w:
        upload = w.begin()
        w.store.fail("complete_multipart", REFUSED)
        w.store.fail("abort_multipart")
        assert await _write_all(upload, 2 * PART) is REFUSED
        assert len(w.store.uploads) == 1
        w.store.uploads.clear()


@on_loop()
async def test_something_unforeseen_is_an_error_too() -> None:
    async with writing() as w:
        upload = w.begin()
        await append(upload, b"data")
        w.store.put = None  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreError, match="upload failed: TypeError"):
            await upload.commit()


# -- too little memory ----------------------------------------------------------------------------


async def _use_up(w: Writing) -> int:
    """Take all memory that is left."""
    left = w.pool.available
    assert w.pool.charge_nowait(left)
    return left


@on_loop()
async def test_writing_waits_for_memory() -> None:
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        taken = await _use_up(w)
        writer = asyncio.create_task(append(upload, pattern(3 * PART)))
        await asyncio.sleep(upload_module._MEMORY_PATIENCE - 1)
        assert not writer.done()
        w.pool.uncharge(taken)
        await writer
        await upload.commit()
        assert w.stored() == pattern(3 * PART)


@pytest.mark.parametrize("already", [0, 100, 3 * MIB])
def test_a_write_waits_a_minute_for_memory(already: int) -> None:
    """[S48] A write that needs memory waits for it, up to 60 seconds, and then gives ENOMEM."""

    async def body() -> None:
        async with writing(budget=32 * MIB) as w:
            loop = asyncio.get_running_loop()
            patient, refused = w.begin(key="patient"), w.begin(key="refused")
            for upload in (patient, refused):
                await append(upload, pattern(already))
            began = loop.time()
            loop.call_later(59.9, w.pool.uncharge, await _use_up(w))
            await write(patient, already, b"x" * MIB)
            assert loop.time() == pytest.approx(began + 59.9)
            await patient.commit()
            assert w.stored("patient") == pattern(already) + b"x" * MIB
            taken = await _use_up(w)
            began = loop.time()
            with pytest.raises(StoreError) as error:
                await write(refused, already, b"x" * MIB)
            assert error.value.errno == errno.ENOMEM
            assert loop.time() == pytest.approx(began + 60)
            w.pool.uncharge(taken)

    run(body())


@pytest.mark.parametrize("already", [0, 3 * MIB + 7])
def test_waiting_for_memory_ends_with_an_error_and_nothing_half_done(already: int) -> None:
    async def body() -> None:
        async with writing(budget=32 * MIB) as w:
            base = w.base(b"old")
            upload = w.begin(base)
            await upload.truncate(0)
            await append(upload, pattern(already))
            taken = await _use_up(w)
            with pytest.raises(StoreError, match="memory_target=") as refused:
                await write(upload, upload.size, pattern(2 * MIB))
            assert refused.value.errno == errno.ENOMEM
            w.pool.uncharge(taken)
            # the program may ignore it, and close(2) must not publish what lacks something
            with pytest.raises(StoreError):
                await upload.commit()
            assert w.stored() == b"old"

    run(body())


@pytest.mark.parametrize("what", ["truncate", "fetch back"])
def test_nothing_waits_for_memory_without_end(what: str) -> None:
    async def body() -> None:
        async with writing(budget=32 * MIB) as w:
            upload = w.begin(w.base(b"x" * MIB) if what == "fetch back" else None)
            taken = await _use_up(w)
            work = write(upload, 5, b"y") if what == "fetch back" else upload.truncate(MIB)
            with pytest.raises(StoreError) as refused:
                await work
            assert refused.value.errno == errno.ENOMEM
            w.pool.uncharge(taken)

    run(body())


@on_loop()
async def test_a_write_across_parts_waits_for_memory_in_between() -> None:
    """It goes on where it was, with the beginning of it on its way already."""
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        await append(upload, pattern(PART - 100))
        taken = w.pool.available
        assert w.pool.charge_nowait(taken)
        w.store.hold("upload_part")
        data = memoryview(pattern(300_000, seed=2))
        assert upload.write_nowait(PART - 100, data) == 100
        writer = asyncio.create_task(upload.write(PART, data[100:]))
        await settle()
        assert w.store.most_under_way["upload_part"] == 1
        assert not writer.done()
        w.store.let_go("upload_part")
        await writer
        await upload.commit()
        assert w.stored() == pattern(PART - 100) + data
        w.pool.uncharge(taken)


@on_loop()
async def test_under_pressure_parts_are_sent_early() -> None:
    async with writing(budget=32 * MIB, first_part=PART) as w:
        idle = [w.begin(key=f"{number}") for number in range(5)]
        for upload in idle:
            await append(upload, pattern(6 * MIB))
        busy = w.begin(key="busy")
        await append(busy, pattern(PART))
        await settle()
        assert w.store.count("UploadPart") >= 1
        await busy.commit()
        for number, upload in enumerate(idle):
            await append(upload, b"end")
            await upload.commit()
            assert w.stored(f"{number}") == pattern(6 * MIB) + b"end"


@on_loop()
async def test_what_is_being_stored_is_not_sent_a_second_time() -> None:
    async with writing(budget=32 * MIB) as w:
        upload = w.begin()
        await append(upload, pattern(6 * MIB))
        w.store.hold("put")
        committing = asyncio.create_task(upload.commit())
        await settle()
        waiting = asyncio.create_task(w.pool.charge(30 * MIB))
        await settle()
        assert w.store.count("UploadPart") == 0
        w.store.let_go("put")
        await committing
        await waiting
        w.pool.uncharge(30 * MIB)
        assert w.stored() == pattern(6 * MIB)
        assert w.requests == ["PutObject"]


@on_loop()
async def test_a_part_that_s3_would_not_take_is_not_sent_early() -> None:
    async with writing(budget=32 * MIB) as w:
        idle = [w.begin(key=f"{number}") for number in range(8)]
        for upload in idle:
            await append(upload, pattern(4 * MIB))
        with pytest.raises(StoreError) as refused:
            await append(w.begin(key="one more"), b"x")
        assert refused.value.errno == errno.ENOMEM
        for number, upload in enumerate(idle):
            await upload.commit()
            assert w.stored(f"{number}") == pattern(4 * MIB)


@on_loop()
async def test_a_writer_that_waits_sends_what_it_has() -> None:
    """All the memory is its own and that of files that nobody writes to just now."""
    async with writing(budget=32 * MIB) as w:
        others = [w.begin(key=f"{number}") for number in range(5)]
        for upload in others:
            await append(upload, pattern(4 * MIB + 1))
        mine = w.begin()
        await append(mine, pattern(3 * PART))
        await mine.commit()
        assert w.stored() == pattern(3 * PART)


@on_loop()
async def test_many_large_files_at_once_in_little_memory() -> None:
    async with writing(budget=32 * MIB, first_part=5 * MIB) as w:

        async def program(number: int) -> None:
            upload = w.begin(key=f"{number}")
            await append(upload, pattern(14 * MIB, seed=number), piece=1000 * 1000)
            assert w.pool.statistics().used <= 32 * MIB
            await upload.commit()
            assert w.stored(f"{number}") == pattern(14 * MIB, seed=number)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(program(number))
