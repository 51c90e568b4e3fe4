"""What an earlier worker left: stored once, in the place of its own version, or kept."""

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.store.types import Body, ObjectInfo
from fuse_s3_worker.transfer.journal import Description, State
from fuse_s3_worker.transfer.recovery import Recovery, load_left, store_left, what_is_left
from support.gatedstore import unreachable
from support.pattern import pattern
from support.staging import KEY, PART_MIN, Staged, changed, full_disk, staged
from support.virtualtime import run, settle

BIG = pattern(10 * PART_MIN, 1)
SMALL = BIG[: PART_MIN // 2]
HEADERS = {"x-amz-meta-mode": "33188"}


async def leave(
    s: Staged,
    data: bytes | None,
    new: bytes = b"ours",
    *,
    offset: int = 500,
    closed: bool = True,
    headers: Mapping[str, str] | None = None,
    key: str = KEY,
) -> None:
    """Change a file, and leave it as a worker does that is killed."""
    s.staging.carried = lambda _: headers
    file = s.begin(None if data is None else s.base(data, key), key)
    await file.write(offset, memoryview(new))
    if closed:
        assert await file.defer()
    await file.close(keep=True)


async def recover(s: Staged) -> Recovery:
    """Do what the next worker does; return it, with what was stored."""
    s.staging.carried = lambda _: None
    recovery = Recovery(s.staging, s.directory)
    stored: list[ObjectInfo] = []

    async def note(info: ObjectInfo) -> None:
        assert info.key in recovery.keys  # whoever waits for it has yet to go on
        stored.append(info)

    await recovery.run(note)
    assert len(stored) == recovery.stored
    assert recovery.keys == set()
    return recovery


async def _do_nothing(_: ObjectInfo) -> None:
    """For whoever does not ask what was stored."""


def states(s: Staged) -> list[State | None]:
    return [left.known.state if left.known else None for left in what_is_left(s.directory)]


# -- stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, SMALL, BIG], ids=["new", "small", "big"])
@pytest.mark.parametrize("headers", [None, HEADERS], ids=["plain", "headers"])
def test_what_was_closed_is_stored(
    tmp_path: Path, data: bytes | None, headers: Mapping[str, str] | None
) -> None:
    """With the headers that it was closed with, if any were known."""

    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, data, headers=headers)
            assert s.stored() == data
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept) == (1, 0)
            assert s.stored() == changed(data or bytes(500), 500, b"ours")
            assert s.left == []
            found = s.store.stored(KEY)
            assert found is not None
            assert dict(found.headers) == dict(headers or {})
            assert (await recover(s)).stored == 0

    run(body())


def test_a_whole_copy_carries_its_headers(tmp_path: Path) -> None:
    """What was closed is a copy of another object, which one request makes."""

    async def body() -> None:
        async with staged(tmp_path) as s:
            s.staging.carried = lambda _: HEADERS
            data = BIG[: 4 * PART_MIN]
            other = s.base(data, "other")
            file = s.begin()
            await file.put(Description.of("other", other).extents.between(0, other.size))
            assert await file.defer()
            await file.close(keep=True)
            assert (await recover(s)).stored == 1
            assert s.store.count("CopyObject") == 1
            found = s.store.stored(KEY)
            assert found is not None
            assert (found.data, dict(found.headers)) == (data, HEADERS)

    run(body())


def test_headers_that_are_set_late_are_in_the_journal(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(SMALL))
            await file.write(0, memoryview(b"ours"))
            assert await file.defer()
            (left,) = what_is_left(s.directory)
            assert left.known is not None
            assert left.known.headers is None
            s.staging.carried = lambda _: HEADERS
            await file.carry()
            await file.close(keep=True)
            (left,) = what_is_left(s.directory)
            assert left.known is not None
            assert left.known.headers == HEADERS
            assert (await recover(s)).stored == 1
            found = s.store.stored(KEY)
            assert found is not None
            assert dict(found.headers) == HEADERS

    run(body())


def test_what_was_stored_already_is_not_stored_again(tmp_path: Path) -> None:
    """The worker was killed between the store's reply and the note of it."""

    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL)
            ours = changed(SMALL, 500, b"ours")
            await s.store.put(KEY, Body((memoryview(ours),), len(ours)))
            before = s.store.count("PutObject")
            assert (await recover(s)).stored == 1
            assert s.store.count("PutObject") == before
            assert (s.stored(), s.left) == (ours, [])

    run(body())


def test_an_upload_that_was_begun_is_ended(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, BIG)
            upload = await s.store.create_multipart(KEY)
            (entry_id,) = s.directory.ids()
            entry, _ = s.directory.hold(entry_id)
            entry.add(("m", upload.upload_id))
            entry.close()
            assert (await recover(s)).stored == 1
            assert s.store.uploads == {}
            assert s.stored() == changed(BIG, 500, b"ours")

    run(body())


def test_who_wants_the_file_waits_for_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL, key="d/one")
            await leave(s, SMALL, closed=False, key="d/half")
            recovery = Recovery(s.staging, s.directory)
            names = ("d/one", "d/half", "other")
            waiting = {name: asyncio.create_task(recovery.wait_for(name)) for name in names}
            below = [asyncio.create_task(recovery.wait_below(name)) for name in ("d/", "e/")]
            await settle()
            assert not any(task.done() for task in (*waiting.values(), *below))
            s.store.hold("put")
            work = asyncio.create_task(recovery.run(_do_nothing))
            await settle()
            assert [task.done() for task in waiting.values()] == [False, True, True]
            assert [task.done() for task in below] == [False, True]
            s.store.let_go("put")
            await asyncio.gather(work, *waiting.values(), *below)
            assert s.stored("d/one") == changed(SMALL, 500, b"ours")

    run(body())


# -- kept ------------------------------------------------------------------------------------------


def test_half_of_a_change_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL, closed=False)
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept, states(s)) == (0, 1, [State.OPEN])
            assert s.stored() == SMALL

    run(body())


def test_what_is_no_change_at_all_is_removed(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            s.directory.create(Description.of(KEY, s.base(SMALL))).close()
            assert (await recover(s)).kept == 0
            assert s.left == []

    run(body())


def another_version(s: Staged) -> None:
    s.store.write(KEY, b"theirs")


def removed(s: Staged) -> None:
    s.store.remove(KEY)


@pytest.mark.parametrize("how", [another_version, removed])
@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_another_clients_version_is_not_replaced(
    tmp_path: Path, data: bytes, how: Callable[[Staged], None]
) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, data)
            how(s)
            theirs = s.stored()
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept) == (0, 1)
            assert s.stored() == theirs
            assert states(s) == [State.CONFLICT]
            assert (await recover(s)).kept == 1  # and stays

    run(body(), logged=["staged_conflict"])


def test_a_new_file_does_not_replace_what_came_meanwhile(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, None)
            s.store.write(KEY, b"theirs")
            assert (await recover(s)).kept == 1
            assert (s.stored(), states(s)) == (b"theirs", [State.CONFLICT])
            # Whoever says so may have it replaced.
            entry, known = s.directory.hold(s.directory.ids()[0])
            assert await store_left(s.staging, entry, known, replace=True) is not None
            assert (s.stored(), s.left) == (bytes(500) + b"ours", [])

    run(body(), logged=["staged_conflict"])


def test_a_version_that_is_gone_cannot_be_gone_on_from(tmp_path: Path) -> None:
    """Not even by force: what was not changed of it is nowhere any more."""

    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL)
            s.store.write(KEY, b"theirs")
            entry, known = s.directory.hold(s.directory.ids()[0])
            assert await store_left(s.staging, entry, known, replace=True) is None
            assert s.stored() == b"theirs"
            assert len(s.left) == 2

    run(body(), logged=["staged_conflict"])


def test_what_cannot_be_stored_now_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL)
            s.store.fail_all("head", unreachable())
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept, states(s)) == (0, 1, [State.COMMITTING])
            s.store.mend()
            assert (await recover(s)).stored == 1

    run(body(), logged=["staged_kept"])


def test_a_damaged_journal_is_kept(tmp_path: Path) -> None:
    """It does not keep what is beside it from being stored."""

    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, SMALL, key="one")
            (path,) = s.directory.path.glob("*.map")
            path.write_bytes(path.read_bytes()[:50])
            await leave(s, SMALL, key="two")
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept) == (1, 1)
            (left,) = what_is_left(s.directory)
            assert (left.known, "not whole" in left.problem or "begin" in left.problem) == (
                None, True,
            )  # fmt: skip
            s.directory.discard(left.entry_id)
            assert s.left == []

    run(body(), logged=["journal_refused"])


def test_what_another_mount_holds_is_left_alone(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            file = s.begin(s.base(SMALL))
            await file.write(0, memoryview(b"ours"))
            assert await file.defer()
            (entry_id,) = s.directory.ids()
            assert s.directory.in_use(entry_id)
            with pytest.raises(Exception, match=entry_id):
                s.directory.discard(entry_id)
            recovery = await recover(s)
            assert (recovery.stored, recovery.kept) == (0, 0)
            await file.close()
            assert not s.directory.in_use(entry_id)

    run(body())


# -- made whole ------------------------------------------------------------------------------------


def test_what_is_missing_can_be_fetched(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, BIG, closed=False)
            (entry_id,) = s.directory.ids()
            await load_left(s.staging, *s.directory.hold(entry_id))
            entry, known = s.directory.hold(entry_id)
            assert known.extents.missing(0, known.size) == []
            assert os.pread(entry.fd, len(BIG), 0) == changed(BIG, 500, b"ours")
            entry.close()
            assert states(s) == [State.OPEN]

    run(body())


def test_what_is_missing_may_be_gone(tmp_path: Path) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, BIG, closed=False)
            s.store.write(KEY, b"theirs")
            (entry_id,) = s.directory.ids()
            with pytest.raises(StoreError) as gone:
                await load_left(s.staging, *s.directory.hold(entry_id))
            assert gone.value.fault is Fault.CHANGED
            assert not s.directory.in_use(entry_id)

    run(body())


def test_there_may_be_no_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with staged(tmp_path) as s:
            await leave(s, BIG, closed=False)
            (entry_id,) = s.directory.ids()
            held = s.directory.hold(entry_id)
            monkeypatch.setattr(os, "pwrite", full_disk)
            with pytest.raises(ServeError) as full:
                await load_left(s.staging, *held)
            assert full.value.errno == errno.ENOSPC
            monkeypatch.undo()
            assert states(s) == [State.OPEN]

    run(body())
