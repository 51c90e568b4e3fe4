"""Reading a file that another client replaces or deletes: the bytes of one version, or an error."""

import asyncio
import errno

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import BLOCK
from support.pattern import pattern
from support.reading import KEY, SIZE, reading
from support.virtualtime import on_loop, run, settle

# -- before the first byte ------------------------------------------------------------------------


@on_loop()
async def test_a_file_replaced_before_its_first_byte_is_read_as_it_is_now() -> None:
    async with reading() as s:
        stream = s.open()
        new = pattern(3 * BLOCK, seed=1)
        info = s.store.write(KEY, new)
        uniques = [s.read(stream, offset, BLOCK) for offset in range(0, 4 * BLOCK, BLOCK)]
        await settle()
        assert [s.answers.data[unique] for unique in uniques] == [
            new[:BLOCK],
            new[BLOCK : 2 * BLOCK],
            new[2 * BLOCK :],
            b"",
        ]
        assert s.reopened == 1
        assert stream.info == info


@on_loop()
async def test_a_read_that_the_new_version_has_more_bytes_for_gets_them() -> None:
    """The rest of the page would be taken for zeros."""
    async with reading(3) as s:
        stream = s.open()
        s.store.write(KEY, b"longer than it was")
        assert await s.read_now(stream, 0, 4096) == b"longer than it was"


@on_loop()
async def test_a_file_replaced_again_and_again_is_stale_the_second_time() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, pattern(SIZE, seed=1))
        s.store.hold("head")
        unique = s.read(stream, 0, 4096)
        await settle()
        assert s.reopened == 1
        s.store.let_go("head")
        s.store.hold("get_range")
        await settle()
        s.store.write(KEY, pattern(SIZE, seed=2))
        s.store.let_go("get_range")
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        assert s.reopened == 1


@on_loop()
async def test_a_file_that_is_gone_before_its_first_byte_gives_what_opening_it_gives() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.remove(KEY)
        unique = s.read(stream, 0, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ENOENT}  # of the HEAD that was to find it


# -- after it -------------------------------------------------------------------------------------


@on_loop()
async def test_a_file_replaced_after_its_first_byte_is_stale() -> None:
    async with reading() as s:
        stream = s.open()
        await s.read_now(stream, 0, 4096)
        s.store.write(KEY, pattern(SIZE, seed=1))
        unique = s.read(stream, 30 * BLOCK, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        assert s.reopened == 0


@on_loop()
async def test_a_file_that_is_deleted_while_it_is_read_is_stale() -> None:
    async with reading() as s:
        stream = s.open()
        await s.read_now(stream, 0, 4096)
        s.store.remove(KEY)
        unique = s.read(stream, 30 * BLOCK, 4096)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}
        error = s.answers.errors[unique]
        assert isinstance(error, StoreError)
        assert error.fault is Fault.CHANGED
        assert error.status == 404


# -- opened anew ----------------------------------------------------------------------------------


@on_loop()
async def test_reads_sent_while_it_is_opened_anew_get_the_new_version() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, b"a new version")
        s.store.hold("head")
        first = s.read(stream, 0, 4096)
        await settle()
        second = s.read(stream, 2, 3)
        await settle()
        s.store.let_go("head")
        await settle()
        assert s.answers.data == {first: b"a new version", second: b"new"}


@on_loop()
async def test_a_late_failure_of_the_old_version_does_not_reach_reads_of_the_new_one() -> None:
    async with reading() as s:
        s.store.by_hand = True
        stream = s.open()
        first, second = s.read(stream, 0, BLOCK), s.read(stream, 20 * BLOCK, BLOCK)
        await settle()
        replaced = StoreError(Fault.CHANGED, "replaced")
        new = s.store.write(KEY, pattern(SIZE, seed=1))
        woken: asyncio.Future[ObjectInfo] = asyncio.get_running_loop().create_future()

        async def reopen() -> ObjectInfo:
            return await woken

        s.reopen = reopen  # type: ignore[method-assign]
        old = s.arrival(20 * BLOCK)
        s.arrival(0).fail(replaced)
        await settle()
        # both in one turn of the loop: the answer about today's version, and the second refusal
        old.fail(replaced)
        woken.set_result(new)
        await settle()
        for arrival in s.store.arrivals[:]:
            arrival.feed()
        await settle()
        assert s.answers.errors == {}
        assert s.answers.data[second] == pattern(SIZE, seed=1)[20 * BLOCK : 21 * BLOCK]
        assert s.answers.data[first] == pattern(SIZE, seed=1)[:BLOCK]


@on_loop()
async def test_what_finding_the_new_version_raises_is_told() -> None:
    async with reading() as s:
        stream = s.open()
        s.store.write(KEY, b"new")

        async def reopen() -> ObjectInfo:
            raise FileSystemError(errno.ESTALE, "it is a directory now")

        s.reopen = reopen  # type: ignore[method-assign]
        unique = s.read(stream, 0, 10)
        await settle()
        assert s.answers.errnos == {unique: errno.ESTALE}


@pytest.mark.parametrize("gone", [False, True])
def test_reads_after_a_failed_reopening_fail_too_instead_of_waiting(*, gone: bool) -> None:
    """The kernel sends another READ of the same page when one has failed."""

    async def body() -> None:
        async with reading() as s:
            stream = s.open()
            if gone:
                s.store.remove(KEY)
            else:
                s.store.write(KEY, b"new")
                s.store.fail("head")
            for _ in range(3):
                unique = s.read(stream, 0, 4096)
                await settle()
                assert unique in s.answers.errors

    run(body())
