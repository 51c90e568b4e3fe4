"""Files in many hands: written through several handles, unlinked while open, closed too early."""

import asyncio
import errno

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import StoreError
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle
from support.writing import KEY, PART, append, read, write, writing

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
