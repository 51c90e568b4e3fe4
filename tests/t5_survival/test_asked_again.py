"""Changes of names in the middle of which a worker dies: asked again, the next one has done them.

Each is cut off at every request to the store, once before the store has done what it was asked and
once after, and then asked again as the kernel does it. A program must see what it would have seen.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.inodes import Made
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.renames import RENAME_NOREPLACE
from support.gatedstore import GatedStore
from support.mortal import Mortal
from support.succession import Succession
from support.virtualtime import end_all, on_loop, settle

BUCKET = {
    "f": b"f", "g": b"the other", "d/": b"", "e/": b"", "t/": b"", "t/a": b"a", "t/s/b": b"bb",
}  # fmt: skip
NONE: Mapping[str, Any] = MappingProxyType({})
POSIX = {"posix": "true"}
MADE = Made(0o100640, 0o022, 7, 8)
KNOWN = ("f", "g", "d", "e", "t")
REQUESTS_MAX = 40

Ask = Callable[[Succession, bool], Awaitable[object]]


class Operation(NamedTuple):
    """What is asked, of which mount, and which keys come and go."""

    ask: Ask
    gone: AbstractSet[str] = frozenset()
    new: Mapping[str, bytes] = NONE
    options: Mapping[str, str] = NONE
    renames: bool = False

    @property
    def moved(self) -> tuple[str, str] | None:
        """Which name of the root becomes which."""
        if not self.gone or not self.new:
            return None
        old, new = (min(keys).split("/")[0] for keys in (self.gone, self.new))
        return old, new


def rename(old: bytes, new: bytes, flags: int = 0) -> Ask:
    places = (ROOT_ID, old), (ROOT_ID, new)
    return lambda m, resent: m.fs.renames.rename(*places, flags, resent=resent)


def make(m: Succession, resent: bool, mode: int) -> Awaitable[object]:
    assert m.fs.links is not None
    return m.fs.links.mknod(ROOT_ID, b"new", MADE._replace(mode=mode), resent=resent)


def link(m: Succession, resent: bool) -> Awaitable[object]:
    assert m.fs.links is not None
    made = MADE._replace(mode=0o120777)
    return m.fs.links.symlink(ROOT_ID, b"new", b"f", made, resent=resent)


def mkdir(m: Succession, resent: bool) -> Awaitable[object]:
    return m.fs.names.mkdir(ROOT_ID, b"new", MADE._replace(mode=0o040750), resent=resent)


TREE = {"t/", "t/a", "t/s/b"}
OPERATIONS = {
    "mkdir": Operation(mkdir, new={"new/": b""}),
    "mkdir, posix": Operation(mkdir, new={"new/": b""}, options=POSIX),
    "mknod": Operation(
        lambda m, resent: m.fs.names.mknod(ROOT_ID, b"new", resent=resent), new={"new": b""}
    ),
    "mknod, posix": Operation(
        lambda m, resent: make(m, resent, 0o100600), new={"new": b""}, options=POSIX
    ),
    "a FIFO": Operation(
        lambda m, resent: make(m, resent, 0o010600), new={"new": b""}, options=POSIX
    ),
    "symlink": Operation(link, new={"new": b"f"}, options=POSIX),
    "unlink": Operation(
        lambda m, resent: m.fs.names.unlink(ROOT_ID, b"f", resent=resent), gone={"f"}
    ),
    "rmdir": Operation(
        lambda m, resent: m.fs.names.rmdir(ROOT_ID, b"d", resent=resent), gone={"d/"}
    ),
    "rename": Operation(rename(b"f", b"new"), {"f"}, {"new": b"f"}),
    "rename, posix": Operation(rename(b"f", b"new"), {"f"}, {"new": b"f"}, POSIX),
    "rename onto another": Operation(rename(b"f", b"g"), {"f"}, {"g": b"f"}),
    "rename onto none": Operation(rename(b"f", b"new", RENAME_NOREPLACE), {"f"}, {"new": b"f"}),
    "rename by the store": Operation(rename(b"f", b"g"), {"f"}, {"g": b"f"}, renames=True),
    "rename by the store onto none": Operation(
        rename(b"f", b"new", RENAME_NOREPLACE), {"f"}, {"new": b"f"}, renames=True
    ),
    "rename a directory": Operation(
        rename(b"t", b"new"), TREE, {"new/": b"", "new/a": b"a", "new/s/b": b"bb"}
    ),
    "rename a directory, posix": Operation(
        rename(b"t", b"new"), TREE, {"new/": b"", "new/a": b"a", "new/s/b": b"bb"}, POSIX
    ),
    "rename a directory onto an empty one": Operation(
        rename(b"t", b"e"), TREE, {"e/": b"", "e/a": b"a", "e/s/b": b"bb"}
    ),
    "rename a directory onto none": Operation(
        rename(b"t", b"new", RENAME_NOREPLACE),
        TREE,
        {"new/": b"", "new/a": b"a", "new/s/b": b"bb"},
    ),
    "rename an empty directory": Operation(rename(b"d", b"new"), {"d/"}, {"new/": b""}),
}


@asynccontextmanager
async def mounted(operation: Operation) -> AsyncIterator[tuple[Mortal, Succession]]:
    """Set up a mount; the kernel knows every name in its root, and has the files open."""
    store = Mortal(GatedStore(BUCKET))
    store.inner.renames = operation.renames
    mount = Succession(store.as_store, **operation.options)
    try:
        yield store, mount
    finally:
        await end_all()
        mount.close()


def contents(store: Mortal) -> dict[str, bytes]:
    return {key: store.inner.read(key) for key in sorted(store.inner.keys())}


async def tree_of(mount: Succession, parent: int = ROOT_ID) -> dict[str, object]:
    """Return what a program sees: names, and the bytes of files."""
    handle = mount.fs.directories.opendir(parent)
    found: dict[str, object] = {}
    for name in await mount.names(handle):
        node = (await mount.look(parent, name)).node
        if node.is_directory:
            found[name] = await tree_of(mount, node.id)
        else:
            opened = await mount.open(node.id)
            size = node.info.size if node.info else 0
            found[name] = await mount.pread(opened, 0, 100) if size else b""
            await mount.fs.files.release(opened)
    mount.fs.directories.releasedir(handle)
    return found


def as_tree(keys: dict[str, bytes]) -> dict[str, object]:
    """Return the same of a bucket's content."""
    root: dict[str, object] = {}
    for key, data in keys.items():
        *above, name = key.split("/")
        place = root
        for part in above:
            inner = place.setdefault(part, {})
            assert isinstance(inner, dict)
            place = inner
        if name:
            place[name] = data
    return root


class Programs:
    """Programs that know every name and have files and a directory open."""

    def __init__(self, mount: Succession) -> None:
        self.mount = mount
        self.nodes: dict[str, int] = {}

    async def begin(self) -> None:
        mount, nodes = self.mount, self.nodes
        for name in KNOWN:
            nodes[name] = (await mount.look(ROOT_ID, name)).node.id
        nodes["t/a"] = (await mount.look(nodes["t"], "a")).node.id
        self.reader = await mount.open(nodes["f"])
        self.writer = await mount.open(nodes["f"], os.O_RDWR)
        self.below = await mount.open(nodes["t/a"])
        assert await mount.pread(self.reader, 0, 1) == b"f"
        assert await mount.pread(self.below, 0, 1) == b"a"
        self.listing = mount.fs.directories.opendir(nodes["t"])
        assert await mount.names(self.listing, most=1) == ["a"]

    async def change_f(self) -> None:
        """Change the file that was called f, whatever it is called now."""
        await self.mount.fs.files.write(self.writer, 1, memoryview(b"!"))
        await self.mount.fs.files.fsync(self.writer)
        assert await self.mount.pread(self.reader, 0, 2) == b"f!"

    async def see_goes_on(self, moved: tuple[str, str] | None) -> None:
        """See that nothing has changed for them, except that a name of the root has `moved`."""
        mount, nodes = self.mount, self.nodes
        assert await mount.names(self.listing, mount.offset) == ["s"]
        assert await mount.pread(self.below, 0, 1) == b"a"
        old, new = moved or ("t", "t")
        assert (await mount.look(ROOT_ID, new)).node.id == nodes[old]
        above = nodes["t"]
        assert (await mount.look(above, "a")).node.id == nodes["t/a"]


@pytest.mark.parametrize("done", ["", "done", "in part"])
@pytest.mark.parametrize("name", OPERATIONS)
@on_loop()
async def test_cut_off_at_every_request(name: str, done: str) -> None:
    operation = OPERATIONS[name]
    for requests in range(REQUESTS_MAX):
        expected = {key: data for key, data in BUCKET.items() if key not in operation.gone}
        expected |= operation.new
        async with mounted(operation) as (store, mount):
            programs = Programs(mount)
            await programs.begin()
            store.die_after(requests, done)
            asking = asyncio.ensure_future(operation.ask(mount, False))
            await settle()
            if asking.done():
                await asking
                assert requests  # it cannot be done without
                return
            mount.die()
            store.live()
            answer = await operation.ask(mount, True)
            if isinstance(answer, Found):
                mount.fs.remember(answer)
            assert contents(store) == expected, requests
            if name_of_f := next((k for k, data in expected.items() if data == b"f"), None):
                await programs.change_f()
                expected[name_of_f] = b"f!"
            assert contents(store) == expected, requests
            assert await tree_of(mount) == as_tree(expected), requests
            await programs.see_goes_on(operation.moved)
    raise AssertionError("it never comes to an end")


SAID = {"mkdir": "EEXIST", "mknod": "EEXIST", "unlink": "ENOENT", "rmdir": "ENOENT"}
SAID |= {"rename": "ENOENT", "rename a directory": "ENOENT"}


@asynccontextmanager
async def known(operation: Operation) -> AsyncIterator[tuple[Mortal, Succession]]:
    """Set up a mount of which the kernel knows the names that are asked for."""
    async with mounted(operation) as (store, mount):
        for name in ("f", "d", "t"):
            await mount.look(ROOT_ID, name)
        yield store, mount


async def see_error(name: str, mount: Succession, *, resent: bool) -> None:
    with pytest.raises(FileSystemError) as said:
        await OPERATIONS[name].ask(mount, resent)
    assert errno.errorcode[said.value.errno] == SAID[name]


async def unanswered(operation: Operation, mount: Succession) -> None:
    """Do it, and die before anybody is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mount.recorder, "ended", lambda _: None)
        await operation.ask(mount, False)
        await settle()


@pytest.mark.parametrize("name", SAID)
@on_loop()
async def test_what_others_have_done_is_an_error(name: str) -> None:
    """The worker that died was asked for it, and had not begun."""
    operation = OPERATIONS[name]
    async with known(operation) as (store, mount):
        mount.die()
        for key in operation.gone:
            store.inner.remove(key)
        for key, data in operation.new.items():
            store.inner.write(key, data)
        await see_error(name, mount, resent=True)


@pytest.mark.parametrize("resent", [False, True])
@pytest.mark.parametrize("name", SAID)
@on_loop()
async def test_what_is_asked_for_the_first_time_is_an_error(name: str, *, resent: bool) -> None:
    """Whatever the worker that died was about to do; or had done before, and said so."""
    operation = OPERATIONS[name]
    async with known(operation) as (_, mount):
        if resent:
            await operation.ask(mount, False)
            await settle()
        else:
            await unanswered(operation, mount)
        mount.die()
        await see_error(name, mount, resent=resent)


@on_loop()
async def test_what_was_answered_by_the_next_worker_is_an_error_of_the_third() -> None:
    for name in SAID:
        operation = OPERATIONS[name]
        async with known(operation) as (_, mount):
            await unanswered(operation, mount)
            assert len(mount.die().remains.begun) == 1
            await operation.ask(mount, True)
            await settle()
            assert mount.die().remains.begun == ()
            await see_error(name, mount, resent=True)


@on_loop()
async def test_a_directory_does_not_vanish_with_its_last_file_and_the_worker() -> None:
    operation = OPERATIONS["unlink"]
    async with mounted(operation) as (store, mount):
        store.inner.remove("t/")
        directory = (await mount.look(ROOT_ID, "t")).node.id
        inner = (await mount.look(directory, "s")).node.id
        await mount.fs.names.unlink(inner, b"b")
        await settle()
        assert store.inner.stored("t/s/") is None
        mount.die()
        mount.fs.start()
        assert (await mount.look(directory, "s")).node.id == inner
        assert mount.die().remains.begun == ("keep\0t/s/",)
        mount.fs.start()
        await asyncio.sleep(5)
        assert store.inner.stored("t/s/") is not None
        assert mount.die().remains.begun == ()


@on_loop("rename_failed")
async def test_a_rename_that_failed_fills_no_directory_later() -> None:
    """Only a rename that was cut off may find something at its new place."""
    operation = OPERATIONS["rename a directory"]
    async with mounted(operation) as (store, mount):
        await mount.look(ROOT_ID, "t")
        store.inner.fail_all("duplicate", StoreError(Fault.FORBIDDEN, "no"))
        with pytest.raises(StoreError):
            await operation.ask(mount, False)
        store.inner.mend()
        await settle()
        store.inner.write("new/theirs", b"theirs")
        mount.die()
        with pytest.raises(FileSystemError) as said:
            await operation.ask(mount, True)
        assert said.value.errno == errno.ENOTEMPTY
        assert contents(store) == BUCKET | {"new/theirs": b"theirs"}
