"""Generations of a state: what counts is carried over, whatever happens meanwhile; and its size."""

import contextlib
import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.survival import recorder as module
from support.memstore import MemoryStore
from support.succession import Succession, succession
from support.virtualtime import on_loop, run, settle

NAMES = [f"n{number:04}" for number in range(2500)]


def known(mount: Succession) -> dict[int, tuple[str, int, bool]]:
    """Return what the kernel may name: key, references, and whether it has a name."""
    return {
        node.id: (node.key, node.nlookup, node.gone) for node in mount.fs.nodes() if node.nlookup
    }


@on_loop()
async def test_a_new_generation_has_what_counts_and_no_more() -> None:
    with succession(**dict.fromkeys(NAMES, b"x")) as (_, mount):
        handle = await mount.open((await mount.look(ROOT_ID, NAMES[0])).node.id)
        assert await mount.pread(handle, 0, 1) == b"x"
        directory = mount.fs.directories.opendir(ROOT_ID)
        await mount.names(directory)
        for node in list(mount.fs.nodes())[100:]:
            mount.fs.forget(node.id, node.nlookup)
        before, size = known(mount), mount.recorder.log.end
        mount.recorder.renew()
        await settle()
        assert mount.recorder.log.end < size // 10
        state = mount.die()
        assert known(mount) == before
        assert [record.number for record in state.remains.handles] == [handle]
        assert [record.number for record in state.remains.directories] == [directory]
        assert len(state.remains.nodes) == len(before) - 1  # the root is not recorded
        assert await mount.pread(handle, 0, 1) == b"x"


@on_loop()
async def test_what_happens_while_a_generation_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies at every possible moment; whichever generation counts, it is complete."""
    monkeypatch.setattr(module, "_SLICE", 1)
    names = NAMES[:12]
    with succession(**dict.fromkeys(names, b"x")) as (_, mount):
        for name in names:
            await mount.look(ROOT_ID, name)
        mount.recorder.renew()
        generation = mount.recorder.log.generation
        for name in names:
            found = await mount.look(ROOT_ID, name)
            handle = await mount.open(found.node.id)
            assert as_left(mount) == as_is(mount)
            if name > names[6]:
                await mount.fs.files.release(handle)
                mount.fs.forget(found.node.id, found.node.nlookup)
            assert as_left(mount) == as_is(mount)
        await settle()
        assert mount.recorder.log.generation == generation + 1
        assert as_left(mount) == as_is(mount)


def as_is(mount: Succession) -> object:
    return known(mount), {record for record, _ in mount.fs.open_files()}


def as_left(mount: Succession) -> object:
    """Return the same as a successor would have it."""
    state = mount.read()
    nodes = {ROOT_ID: ("", 1, False)}
    for node in state.remains.nodes:
        if node.nlookup:
            nodes[node.id] = (node.name, node.nlookup, node.id in state.remains.detached)
    return nodes, set(state.remains.handles)


@on_loop()
async def test_garbage_begins_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GARBAGE_MIN", 4000)
    with succession(f=b"x") as (_, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        for _ in range(20):
            for _ in range(50):
                await mount.fs.files.release(await mount.open(node))
            await settle()
        assert mount.recorder.log.generation > 5
        assert mount.recorder.log.end < 20_000
        assert known(mount) == {ROOT_ID: ("", 1, False), node: ("f", 1, False)}
        mount.die()
        assert known(mount) == {ROOT_ID: ("", 1, False), node: ("f", 1, False)}


@on_loop()
async def test_changes_that_are_under_way_are_carried_over() -> None:
    """Those of the worker before, too, for which the kernel may ask yet."""
    with succession() as (_, mount):
        for change in "abc":
            mount.recorder.begun(change)
        mount.recorder.ended("b")
        assert mount.die().remains.begun == ("a", "c")
        mount.recorder.begun("d")
        mount.recorder.renew()
        for change in "ef":
            mount.recorder.begun(change)
        for change in "cex":
            mount.recorder.ended(change)
        await settle()
        assert mount.die().remains.begun == ("a", "d", "f")
        assert mount.die().remains.begun == ("a", "d", "f")


@on_loop()
async def test_what_is_answered_is_under_way_no_more() -> None:
    with succession(a=b"") as (_, mount):
        await mount.fs.names.unlink(ROOT_ID, b"a")
        assert mount.read().remains.begun == ("remove\0a",)  # it is not answered yet
        await settle()
        assert mount.read().remains.begun == ()


# -- anything --------------------------------------------------------------------------------------

ACTS = (
    "look look look forget open release write store_it replace remove unlink mkdir list_it renew "
    "turn check check"
).split()


class Kernel:
    """Does something at random, and knows what it may name."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = MemoryStore(dict.fromkeys(("a", "b", "d/a", "d/e/a"), b"1"))
        self.mount = Succession(self.store)
        self.directories = [ROOT_ID]
        self.files: list[int] = []
        self.handles: list[tuple[int, int]] = []

    @property
    def name(self) -> bytes:
        return self.random.choice([b"a", b"b", b"d", b"e"])

    @property
    def directory(self) -> int:
        return self.random.choice(self.directories)

    @property
    def file(self) -> int:
        return self.random.choice(self.files or [99])

    async def look(self) -> None:
        found = await self.mount.fs.names.lookup(self.directory, self.name)
        if isinstance(found, Found):
            self.mount.fs.remember(found)
            kind = self.directories if found.node.is_directory else self.files
            kind.append(found.node.id)

    async def forget(self) -> None:
        file = self.file
        if all(node.id != file for _, node in self.mount.fs.open_files()):  # the kernel holds those
            self.mount.fs.forget(file, 1)

    async def open(self) -> None:
        flags = self.random.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
        self.handles.append((await self.mount.open(self.file, flags), flags))

    async def release(self) -> None:
        if self.handles:
            handle, _ = self.handles.pop(self.random.randrange(len(self.handles)))
            await self.mount.fs.files.release(handle)

    async def write(self) -> None:
        for handle, flags in self.handles[:1]:
            if flags != os.O_RDONLY:
                await self.mount.fs.files.write(handle, 0, memoryview(b"written"))

    async def store_it(self) -> None:
        for handle, _ in self.handles[-1:]:
            await self.mount.fs.files.fsync(handle)

    async def replace(self) -> None:
        self.store.write(self.random.choice(["a", "d/a"]), self.random.randbytes(3))
        self.mount.fs._core.metadata.forget("", "a")

    async def remove(self) -> None:
        self.store.remove(self.random.choice(["a", "d/a", "d/e/a"]))

    async def unlink(self) -> None:
        await self.mount.fs.names.unlink(self.directory, self.name)

    async def mkdir(self) -> None:
        self.mount.fs.remember(await self.mount.fs.names.mkdir(self.directory, self.name))

    async def list_it(self) -> None:
        handle = self.mount.fs.directories.opendir(self.directory)
        await self.mount.names(handle)
        self.mount.fs.directories.releasedir(handle)

    async def renew(self) -> None:
        self.mount.recorder.renew()

    async def turn(self) -> None:
        await settle()

    async def check(self) -> None:
        """Let the worker die; compare what its successor knows."""
        before = self.mount.fs
        nodes, handles = known(self.mount), dict(before.open_files())
        changed = {node.id for node in handles.values() if node.changed}
        versions = {
            record: node.info.etag for record, node in handles.items() if node.info is not None
        }
        self.mount.die()
        found = dict(self.mount.fs.open_files())
        open_nodes = {node.id for node in handles.values()}
        for number, what in nodes.items():
            if what[2] and number not in open_nodes and not what[0].endswith("/"):
                continue  # a file without a name that nobody has open is of no use
            assert known(self.mount)[number] == what
        assert {r: node.id for r, node in found.items()} == {r: n.id for r, n in handles.items()}
        # What was written into a file without a name is lost, too, and EIO says no more than that.
        unlinked = {node.id for node in handles.values() if node.unlinked}
        assert {n.id for n in found.values() if n.changed} - unlinked == changed - unlinked
        for record, etag in versions.items():
            if handles[record].id not in changed:
                info = found[record].info
                assert info is not None
                assert info.etag == etag


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ACTS), max_size=60))
def test_anything(seed: int, acts: list[str]) -> None:
    async def play() -> None:
        kernel = Kernel(seed)
        for act in acts:
            with contextlib.suppress(ServeError):  # what cannot be done changes nothing
                await getattr(kernel, act)()
        await kernel.check()
        await settle()
        await kernel.mount.fs.close()
        kernel.mount.close()

    run(play(), may_log=["request_failed"])


# -- how much it takes -----------------------------------------------------------------------------


async def fill(mount: Succession, count: int) -> None:
    """Have the kernel know so many files, in directories of a thousand, as `find` does."""
    core = mount.fs._core
    parent = core.nodes.root
    for number in range(count):
        if not number % 1000:
            parent = core.nodes.child(core.nodes.root, f"directory-{number}", directory=True)
        node = core.nodes.child(parent, f"some-file-name-{number:012}.jpeg", directory=False)
        for each in (parent, node):
            each.nlookup += 1
            mount.recorder.looked_up(each)


def held(mount: Succession) -> int:
    return sum(os.fstat(log.fd).st_blocks * 512 for log in mount._logs)


@on_loop()
async def test_bytes_for_each_node() -> None:
    with succession() as (_, mount):
        await fill(mount, 20_000)
        assert held(mount) / 20_000 < 120


@pytest.mark.long
@on_loop()
async def test_a_million_nodes() -> None:
    with succession() as (_, mount):
        await fill(mount, 1_000_000)
        size = held(mount) / 1_000_000
        begin = time.process_time()
        mount.die()
        seconds = time.process_time() - begin
        print(f"{size:.0f} bytes a node; {seconds:.1f} s of processor time for the next worker")
        assert size <= 200
        assert len(list(mount.fs.nodes())) == 1_001_001
