"""Stages: bytes and what is known of them change together, or not at all."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fuse_s3_worker.config.units import KIB, MIB
from fuse_s3_worker.errors import FileSystemError, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.journal import Description, State
from fuse_s3_worker.transfer.stage import DiskStage, MemoryStage, StageMemory, Threads
from fuse_s3_worker.transfer.stagedir import Entry, StageDirectory
from support.pattern import pattern
from support.staging import PLACE, AtOnce
from support.virtualtime import on_loop, run, settle

BASE = ObjectInfo("k", 1000 * KIB, 5, '"e"')
PAGE = os.sysconf("SC_PAGESIZE")


def read(stage: MemoryStage | DiskStage, start: int, size: int) -> Coroutine[Any, Any, bytes]:
    async def body() -> bytes:
        first, second = bytearray(size // 3), bytearray(size - size // 3)
        await stage.read(start, [memoryview(first), memoryview(b""), memoryview(second)])
        return bytes(first + second)

    return body()


# -- in memory -------------------------------------------------------------------------------------


class Memory:
    """A stage in memory, and what it may take."""

    def __init__(self, budget: int = 64 * MIB) -> None:
        self.pool = Pool(budget)
        self.memory = StageMemory(self.pool)
        self.stages: list[MemoryStage] = []

    def stage(self, base: ObjectInfo | None = None) -> MemoryStage:
        self.stages.append(MemoryStage(Description.of("k", base), self.memory))
        return self.stages[-1]

    @property
    def used(self) -> int:
        assert self.pool.statistics().used == self.memory.used
        return self.memory.used

    async def finish(self) -> None:
        for stage in self.stages:
            await stage.close(keep=True)
        assert self.used == 0


def write(stage: MemoryStage, start: int, data: bytes) -> bool:
    return stage.write_nowait(start, memoryview(data), ("w", start, start + len(data), 1))


@on_loop()
async def test_memory_is_charged_by_the_page_and_once() -> None:
    m = Memory()
    stage = m.stage()
    for start, size, pages in (
        (0, 1, 1),
        (1, PAGE - 1, 1),
        (PAGE - 1, 2, 2),
        (PAGE * 100, PAGE * 10, 12),
        (PAGE * 95, PAGE * 20, 22),
        (0, PAGE * 3, 23),
        (PAGE * 1000 + 7, 10, 24),
        (PAGE * 1000 + 50, 10, 24),
    ):
        assert write(stage, start, pattern(size))
        assert m.used == pages * PAGE
        assert await read(stage, start, size) == pattern(size)
    await m.finish()


@on_loop()
async def test_what_is_not_needed_is_given_back() -> None:
    m = Memory()
    stage = m.stage()
    write(stage, 0, pattern(100 * PAGE))
    await stage.change(("z", 10 * PAGE, 20 * PAGE, 2), [(10 * PAGE, 20 * PAGE)])
    assert m.used == 90 * PAGE
    await stage.change(("t", 50 * PAGE, 3), [(50 * PAGE, 100 * PAGE)])
    assert m.used == 40 * PAGE
    assert stage.known.size == 50 * PAGE
    await stage.change(("z", 30 * PAGE + 1, 31 * PAGE, 3), [(30 * PAGE + 1, 31 * PAGE)])
    assert m.used == 40 * PAGE  # a page that is needed in part is kept, and is zeros there
    assert await read(stage, 30 * PAGE, 5) == pattern(100 * PAGE)[30 * PAGE :][:1] + bytes(4)
    await m.finish()


@on_loop()
async def test_staged_files_have_half_of_the_memory_in_all() -> None:
    m = Memory(32 * MIB)
    first, second = m.stage(), m.stage()
    assert write(first, 0, bytes(10 * MIB))
    assert write(second, 0, bytes(6 * MIB))
    assert not write(first, 20 * MIB, b"x")
    with pytest.raises(FileSystemError, match="cache=") as full:
        await first.write(20 * MIB, b"x", ("w", 20 * MIB, 20 * MIB + 1, 1))
    assert full.value.errno == errno.ENOSPC
    assert first.known.size == 10 * MIB
    assert write(first, 5 * MIB, b"what is there can be changed")
    await second.close(keep=False)
    await first.write(20 * MIB, b"x", ("w", 20 * MIB, 20 * MIB + 1, 1))
    await m.finish()


@on_loop()
async def test_what_can_be_fetched_again_makes_room() -> None:
    m = Memory(32 * MIB)
    loaded = m.stage(BASE)
    assert write(loaded, 0, bytes(16 * MIB))

    def reclaim() -> int:
        loaded.change_nowait(("t", 0, 1), [(0, 16 * MIB)])
        return 16 * MIB

    m.memory.add_reclaimer(loaded, reclaim)
    other = m.stage()
    await other.write(0, b"x", ("w", 0, 1, 1))
    assert m.used == PAGE
    m.memory.remove_reclaimer(loaded)
    m.memory.remove_reclaimer(loaded)
    await m.finish()


@on_loop()
async def test_a_stage_waits_a_minute_for_memory_that_others_have() -> None:
    m = Memory(32 * MIB)
    stage = m.stage()
    assert m.pool.charge_nowait(32 * MIB)
    assert not write(stage, 0, b"x")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(StoreError) as refused:
        await stage.write(0, b"x", ("w", 0, 1, 1))
    assert refused.value.errno == errno.ENOMEM
    assert loop.time() == begun + 60
    assert m.memory.used == 0
    assert stage.known.size == 0
    loop.call_later(59, m.pool.uncharge, 32 * MIB)
    await stage.write(0, b"x", ("w", 0, 1, 1))
    await m.finish()


@on_loop()
async def test_what_memory_cannot_do_it_does_not_pretend() -> None:
    m = Memory()
    stage = m.stage()
    assert stage.path == ""
    await stage.seal()
    await stage.flush_journal()
    await stage.forget_name()
    assert stage.known.state is State.OPEN
    write(stage, 0, b"x")
    await stage.stored(BASE._replace(size=1))
    assert not stage.known.changed
    assert stage.read_nowait(0, [memoryview(bytearray(1))])
    await m.finish()


# -- on disk ---------------------------------------------------------------------------------------


class Disk:
    """A stage on disk."""

    def __init__(self, cache: Path, base: ObjectInfo | None = BASE) -> None:
        self.directory = StageDirectory.open(str(cache), PLACE, {})
        known = Description.of("k", base)
        self.entry: Entry = self.directory.create(known)
        self.stage = DiskStage(self.entry, known, Threads(AtOnce()))

    @property
    def journaled(self) -> Description:
        (entry_id,) = self.directory.ids()
        return self.directory.read(entry_id)[0]

    def agrees(self) -> bool:
        found, known = self.journaled, self.stage.known
        return (list(found.extents), found.state, found.base, found.torn) == (
            *(list(known.extents), known.state, known.base, False),
        )


@on_loop()
async def test_bytes_and_journal_are_written_together(tmp_path: Path) -> None:
    d = Disk(tmp_path)
    stage = d.stage
    assert stage.path == str(d.entry.path)
    assert not stage.write_nowait(0, memoryview(b"x"), ("w", 0, 1, 1))
    assert not stage.read_nowait(0, [])
    await stage.write(70_000, pattern(5_000), ("w", 70_000, 75_000, 1))
    await stage.write(0, b"loaded", ("l", 0, 6))
    assert await read(stage, 70_000, 5_000) == pattern(5_000)
    await stage.change(("z", 71_000, 72_000, 2), [(71_000, 72_000)])
    assert await read(stage, 71_000, 1_000) == bytes(1_000)
    await stage.change(("t", 73_000, 3), [(73_000, 75_000)])
    assert d.agrees()
    await stage.seal()
    assert d.journaled.state is State.COMMITTING
    await stage.stored(BASE._replace(size=73_000, etag='"new"'))
    assert d.agrees()
    assert not stage.known.changed
    await stage.close(keep=False)
    assert d.directory.ids() == []


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_kept_is_there(tmp_path: Path, *, keep: bool) -> None:
    async def body() -> None:
        d = Disk(tmp_path)
        await d.stage.write(0, b"x", ("w", 0, 1, 1))
        await d.stage.close(keep=keep)
        assert bool(d.directory.ids()) == keep

    run(body())


Failure = Callable[..., int]


def no_space(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*_: object, **__: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["pwrite", "write"])
@pytest.mark.parametrize(("failure", "number"), [(no_space, errno.ENOSPC), (broken, errno.EIO)])
def test_a_write_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failure: Failure, number: int
) -> None:
    async def body() -> None:
        d = Disk(tmp_path)
        await d.stage.write(0, b"before", ("w", 0, 6, 1))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failure)
            with pytest.raises(FileSystemError) as failed:
                await d.stage.write(500, b"data", ("w", 500, 504, 2))
        assert failed.value.errno == number
        assert str(d.entry.path) in str(failed.value)
        assert [(e.start, e.end) for e in d.stage.known.extents if e.written] == [(0, 6)]
        await d.stage.write(600, b"after", ("w", 600, 605, 3))
        assert d.agrees()
        assert await read(d.stage, 600, 5) == b"after"

    run(body())


@pytest.mark.parametrize("call", ["pwrite", "write"])
def test_what_may_be_half_overwritten_is_not_what_was_loaded_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def body() -> None:
        d = Disk(tmp_path)
        await d.stage.write(0, b"loaded", ("l", 0, 6))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, no_space)
            with pytest.raises(FileSystemError):
                await d.stage.write(2, b"xx", ("w", 2, 4, 2))
        assert [e.missing for e in d.stage.known.extents.between(0, 6)] == [False, True, False]
        # and the journal says so before anything else is changed
        await d.stage.write(600, b"x", ("w", 600, 601, 3))
        assert d.agrees()

    run(body())


@on_loop()
async def test_a_change_that_cannot_be_journaled_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = Disk(tmp_path)
    await d.stage.write(0, b"before", ("w", 0, 6, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        with pytest.raises(FileSystemError) as full:
            await d.stage.change(("z", 0, 6, 2), [(0, 6)])
    assert full.value.errno == errno.ENOSPC
    assert await read(d.stage, 0, 6) == b"before"
    assert d.agrees()


@on_loop()
async def test_bytes_that_are_gone_are_an_error(tmp_path: Path) -> None:
    """Somebody has cut the file; that must not become zeros in the bucket."""
    d = Disk(tmp_path)
    await d.stage.write(0, b"0123456789", ("w", 0, 10, 1))
    os.ftruncate(d.entry.fd, 5)
    with pytest.raises(FileSystemError, match="missing") as gone:
        await read(d.stage, 0, 10)
    assert gone.value.errno == errno.EIO


@on_loop()
async def test_sealing_that_fails_leaves_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = Disk(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(FileSystemError):
            await d.stage.seal()
    assert d.stage.known.state is State.OPEN
    assert d.agrees()


@pytest.mark.parametrize("journaled", [True, False])
def test_nothing_is_changed_while_the_disk_says_that_it_is_to_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, journaled: bool
) -> None:
    """Or a power cut would leave a mixture, which the next worker would store."""
    deeds: list[str] = []

    async def body() -> None:
        d = Disk(tmp_path)
        await d.stage.write(0, b"stored", ("w", 0, 6, 1))
        await d.stage.seal()
        with monkeypatch.context() as patch:
            if not journaled:
                patch.setattr(os, "write", no_space)
            await d.stage.stored(BASE._replace(etag='"new"'))
        assert not d.stage.known.changed  # here, in any case
        _watch(monkeypatch, deeds)
        await d.stage.write(0, b"again!", ("w", 0, 6, 2))
        expected = ["fdatasync", "pwrite"] if journaled else ["fsync", "fsync", "fdatasync"]
        assert deeds[: len(expected)] == expected
        assert d.agrees()
        deeds.clear()
        await d.stage.write(0, b"once more", ("w", 0, 9, 3))
        assert deeds == ["pwrite"]

    run(body())


def _watch(monkeypatch: pytest.MonkeyPatch, deeds: list[str]) -> None:
    for name in ("fsync", "fdatasync", "pwrite"):
        real = getattr(os, name)

        def watched(*arguments: Any, name: str = name, real: Any = real) -> Any:  # noqa: ANN401
            deeds.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, watched)


# -- threads ---------------------------------------------------------------------------------------


def test_a_disk_that_takes_its_time_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """With real threads: a write that hangs leaves everything else alone."""
    gate = threading.Event()

    async def body() -> None:
        with ThreadPoolExecutor(2) as executor:
            work = asyncio.create_task(Threads(executor).run(lambda: gate.wait(20)))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not work.done()
            gate.set()
            assert await work

    asyncio.run(body())


def test_who_gives_up_waiting_waits_all_the_same() -> None:
    """The thread still works with memory that would be somebody else's by then."""
    gate, told = threading.Event(), list[str]()

    def work() -> str:
        assert gate.wait(20)
        return "done"

    async def body() -> None:
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.create_task(Threads(executor).run(work, told.append))
            for _ in range(3):
                await asyncio.sleep(0)
                task.cancel()
            assert not task.done()
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert told == ["done"]

    asyncio.run(body())


@on_loop()
async def test_what_fails_in_a_thread_fails() -> None:
    def work() -> None:
        raise OSError(errno.EIO, "no")

    with pytest.raises(OSError, match="no"):
        await Threads(AtOnce()).run(work)
    await settle()
