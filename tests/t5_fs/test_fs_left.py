"""What an earlier worker left is there for everybody who looks, before the bucket has it."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.recording import HandleRecord, NodeRecord, Remains
from fuse_s3_worker.transfer.recovery import Left, Recovery
from support.gatedstore import GatedStore
from support.posixtree import PosixTree
from support.tree import Tree
from support.virtualtime import end_all, run, settle

LATER = 3600.0  # seconds after which a file that was closed is stored: never, here


OPEN, HANDLE = 20, 30  # a node and a handle that the one before has given to the kernel


def remains(name: str, flags: int) -> Remains:
    """Return what a predecessor leaves that has `name` open, which it has changed."""
    node = NodeRecord(OPEN, ROOT_ID, name, directory=False, nlookup=1, slot=0)
    handle = HandleRecord(HANDLE, OPEN, flags, os.getpid())
    return Remains([node], set(), [handle], [], {}, set(), {OPEN}, OPEN + 1, HANDLE + 1)


@asynccontextmanager
async def left(
    cache: Path,
    *,
    of: type[Tree] = Tree,
    lifetime: float = 60.0,
    remains: Remains | None = None,
) -> AsyncIterator[Tree]:
    """Set up a mount after one that was killed; what that left waits at the store's gate."""
    store = GatedStore({"dir/old": b"old", "dir/other": b"other", "top": b"top"})
    first = of(store=store, cache=cache, write_back=LATER)
    for path in ("dir/new", "dir/old", "new"):
        await first.put(path, b"what was closed")
    await end_all()
    store.hold("put")
    second = of(store=store, cache=cache, write_back=LATER, lifetime=lifetime)
    if remains is not None:
        second.fs.restore(remains)
        second.references[OPEN] += 1
        second.handles[HANDLE] = OPEN
    second.fs.start()
    try:
        yield second
    except BaseException:
        await end_all()  # what waits at the gate would wait for ever, and that be all one sees
        raise
    await second.finish()


async def wait(t: Tree, work: Coroutine[object, object, object]) -> object:
    """Return what comes of something that waits for what was left to be stored."""
    task = asyncio.ensure_future(work)
    await settle()
    assert not task.done()
    t.store.let_go("put")
    return await task


TREES = pytest.mark.parametrize("of", [Tree, PosixTree], ids=["plain", "posix"])


@TREES
@pytest.mark.parametrize("plus", [False, True], ids=["readdir", "readdirplus"])
def test_listings_have_its_names(tmp_path: Path, of: type[Tree], *, plus: bool) -> None:
    async def body() -> None:
        async with left(tmp_path, of=of) as t:
            assert await t.list(plus=plus) == {"dir": True, "new": False, "top": False}
            assert set(await t.list("dir", plus=plus)) == {"new", "old", "other"}
            assert len(t.fs.recovering) == 3  # nobody had to wait for that
            t.store.let_go("put")
            await settle()
            assert not t.fs.recovering
            assert set(await t.list("dir", plus=plus)) == {"new", "old", "other"}

    run(body())


def test_listings_wait_until_it_is_known_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_look, find = asyncio.Event(), Recovery._find

    async def find_late(recovery: Recovery) -> list[Left]:
        await may_look.wait()
        return await find(recovery)

    monkeypatch.setattr(Recovery, "_find", find_late)

    async def body() -> None:
        async with left(tmp_path) as t:
            listing = asyncio.ensure_future(t.list())
            await settle()
            assert not listing.done()
            may_look.set()
            assert "new" in await listing
            t.store.let_go("put")

    run(body())


@pytest.mark.parametrize("name", ["new", "old"])
def test_listings_bring_no_sizes_of_it(tmp_path: Path, name: str) -> None:
    """What the bucket says of a file that is about to be replaced is not what was closed."""

    async def body() -> None:
        async with left(tmp_path) as t:
            fs = t.fs.directories
            number = fs.opendir(await t.walk("dir"))
            records = [record async for record in fs.entries(number, 0)]
            brought = {r.name.decode(): fs.take(number, r) for r in records if not r.is_dot}
            fs.releasedir(number)
            assert brought["new"] is brought["old"] is None
            assert brought["other"] is not None
            t.remember(brought["other"])
            found = await wait(t, t.stat(f"dir/{name}"))
            assert found == await t.stat(f"dir/{name}")
            assert (await t.stat(f"dir/{name}")).size == len(b"what was closed")

    run(body())


def test_a_listing_that_was_begun_before_brings_no_file_without_a_size(tmp_path: Path) -> None:
    async def body() -> None:
        async with left(tmp_path, lifetime=0.0) as t:
            fs = t.fs.directories
            number = fs.opendir(await t.walk("dir"))
            records = [record async for record in fs.entries(number, 0)]
            t.store.let_go("put")
            await settle()
            (record,) = (record for record in records if record.name == b"new")
            assert fs.take(number, record) is None
            fs.releasedir(number)
            assert (await t.stat("dir/new")).size == len(b"what was closed")

    run(body())


def test_a_directory_that_is_only_left_exists(tmp_path: Path) -> None:
    """Somebody has removed the rest of it from the bucket meanwhile."""

    async def body() -> None:
        async with left(tmp_path) as t:
            for key in ("dir/old", "dir/other"):
                t.store.remove(key)
            assert await t.list() == {"dir": True, "new": False, "top": False}
            assert await t.exists("nothing") is False
            await wait(t, t.walk("dir"))
            assert "new" in await t.list("dir")

    run(body())


def test_a_directory_is_not_removed_from_around_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with left(tmp_path) as t:
            for key in ("dir/old", "dir/other"):
                t.store.remove(key)
            t.store.write("dir/", b"")
            await t.walk("dir")
            with pytest.raises(FileSystemError) as refused:
                await wait(t, t.rmdir("dir"))
            assert refused.value.errno == errno.ENOTEMPTY
            assert t.store.stored("dir/new") is not None

    run(body())


@pytest.mark.parametrize("look", [Tree.exists, Tree.open], ids=["stat", "open"])
def test_who_asks_for_it_waits(
    tmp_path: Path, look: Callable[[Tree, str], Coroutine[object, object, object]]
) -> None:
    async def body() -> None:
        async with left(tmp_path) as t:
            assert await wait(t, look(t, "new"))

    run(body())


# -- those who have it open ------------------------------------------------------------------------


async def write(t: Tree) -> bytes:
    await t.write(HANDLE, 5, b"is ")
    await t.fs.files.fsync(HANDLE)
    return t.store.read("new")


OPERATIONS: dict[str, tuple[int, Callable[[Tree], Coroutine[object, object, object]], object]] = {
    "read": (os.O_RDONLY, lambda t: t.read(HANDLE), b"what was closed"),
    "read and write": (os.O_RDWR, lambda t: t.read(HANDLE), b"what was closed"),
    "write": (os.O_WRONLY, write, b"what is  closed"),
    "fsync": (os.O_WRONLY, lambda t: t.fs.files.fsync(HANDLE), None),
    "close": (os.O_WRONLY, lambda t: t.close(HANDLE), None),
    "release": (os.O_WRONLY, lambda t: t.fs.files.release(t.handles.pop(0, HANDLE)), None),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_has_it_open_waits_and_goes_on(tmp_path: Path, operation: str) -> None:
    flags, work, expected = OPERATIONS[operation]

    async def body() -> None:
        async with left(tmp_path, remains=remains("new", flags)) as t:
            assert await wait(t, work(t)) == expected
            assert t.store.stored("new") is not None

    run(body())


@pytest.mark.parametrize("operation", ["write", "fsync", "close"])
def test_what_another_client_has_stored_meanwhile_is_in_its_way(
    tmp_path: Path, operation: str
) -> None:
    """It is kept, and to those who have it open it is lost."""
    flags, work, _ = OPERATIONS[operation]

    async def body() -> None:
        async with left(tmp_path, remains=remains("new", flags)) as t:
            t.store.write("new", b"theirs")
            with pytest.raises(FileSystemError) as lost:
                await wait(t, work(t))
            assert lost.value.errno == errno.EIO
            assert t.store.read("new") == b"theirs"

    run(body(), logged=["staged_conflict"])
