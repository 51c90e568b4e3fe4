"""A file system whose worker dies: what the kernel names means the same to the next one."""

import errno
import os
import random
from collections.abc import Awaitable, Callable

import pytest

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.survival.multiparts import abort_all
from support.pattern import pattern
from support.succession import ORDER, Succession, succession
from support.virtualtime import on_loop, settle

MIB = 1024 * 1024


async def fails(work: Awaitable[object]) -> str:
    """Return the name of the errno that `work` fails with."""
    with pytest.raises(ServeError) as caught:
        await work
    return errno.errorcode[caught.value.errno]


# -- the mount -------------------------------------------------------------------------------------


@on_loop()
async def test_what_is_known_of_the_mount() -> None:
    with succession() as (_, mount):
        mount.recorder.mounted("/mnt/a b")
        state = mount.die()
        assert (state.order, state.directory) == (ORDER, "/mnt/a b")
        assert (state.mounting.uid, state.mounting.gid, state.mounting.minor) == (7, 8, 45)
        assert [start.time for start in state.starts] == [1.0]
        mount.recorder.start(2.5)
        mount.recorder.handed_over()
        assert mount.die().handed_over
        mount.recorder.start(3.5)
        state = mount.die()
        assert [(start.time, start.orderly) for start in state.starts] == [
            (1.0, False), (2.5, False), (3.5, True),
        ]  # fmt: skip
        assert not state.handed_over


# -- nodes -----------------------------------------------------------------------------------------


@on_loop()
async def test_nodes_keep_their_ids_and_references() -> None:
    with succession(d__e__f=b"1", g=b"22") as (_, mount):
        directory = (await mount.look(ROOT_ID, "d")).node.id
        inner = (await mount.look(directory, "e")).node.id
        file = (await mount.look(inner, "f")).node.id
        other = (await mount.look(ROOT_ID, "g")).node.id
        await mount.look(ROOT_ID, "g")
        mount.die()
        found = await mount.fs.getattr(file)
        assert (found.node.key, found.attributes.size) == ("d/e/f", 1)
        assert (await mount.look(ROOT_ID, "g")).node.id == other
        mount.fs.forget(other, 2)
        mount.die()
        assert (await mount.fs.getattr(other)).attributes.size == 2
        mount.fs.forget(other, 1)
        mount.fs.forget(inner, 1)
        mount.die()
        assert await fails(mount.fs.getattr(other)) == "ESTALE"
        assert (await mount.fs.getattr(inner)).node.key == "d/e/"  # a child is known
        mount.fs.forget(file, 1)
        mount.die()
        assert await fails(mount.fs.getattr(inner)) == "ESTALE"
        assert (await mount.fs.getattr(directory)).node.key == "d/"


@on_loop()
async def test_an_id_is_never_given_twice() -> None:
    """The kernel's FORGET of the one before may still be under way."""
    with succession(a=b"", b=b"") as (_, mount):
        first = (await mount.look(ROOT_ID, "a")).node.id
        mount.fs.forget(first, 1)
        mount.die()
        second = (await mount.look(ROOT_ID, "b")).node.id
        assert second > first
        handle = await mount.open(second)
        await mount.fs.files.release(handle)
        mount.recorder.renew()
        await settle()
        mount.fs.forget(second, 1)
        mount.die()
        third = await mount.look(ROOT_ID, "a")
        assert third.node.id > second
        assert await mount.open(third.node.id) > handle


@on_loop()
async def test_chmod_and_truncate_of_a_node_that_nobody_has_looked_at_since() -> None:
    """What they answer, and what they write, is about the object and not about nothing."""
    with succession(f=b"content") as (store, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        mount.die()
        assert (await mount.fs.setattr(node, None, None)).attributes.size == 7
        mount.die()
        assert (await mount.fs.setattr(node, 3, None)).attributes.size == 3
        assert store.read("f") == b"con"


@on_loop()
async def test_a_file_that_was_replaced_keeps_its_readers_apart() -> None:
    with succession(f=b"old") as (store, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        handle = await mount.open(node)
        assert await mount.pread(handle, 0, 2) == b"ol"
        store.write("f", b"new!")
        mount.die()
        fresh = await mount.look(ROOT_ID, "f")
        assert fresh.node.id != node
        assert fresh.attributes.size == 4
        assert await fails(mount.pread(handle, 2, 1)) == "ESTALE"
        mount.die()  # the one without a name is known as such
        assert (await mount.look(ROOT_ID, "f")).node.id == fresh.node.id
        assert (await mount.fs.getattr(node)).attributes.size == 3
        await mount.fs.files.release(handle)
        mount.die()
        assert await fails(mount.fs.getattr(node)) == "ESTALE"


@on_loop()
async def test_what_was_renamed_has_its_new_place() -> None:
    """A child may have a lower number than the directory it was moved to; an order that is told."""
    whole = pattern(3 * MIB)
    with succession(d__e__f=whole, z__x=b"1") as (store, mount):
        directory = (await mount.look(ROOT_ID, "d")).node.id
        inner = (await mount.look(directory, "e")).node.id
        file = (await mount.look(inner, "f")).node.id
        target = (await mount.look(ROOT_ID, "z")).node.id
        handle = await mount.open(file)
        assert await mount.pread(handle, 0, MIB) == whole[:MIB]
        await mount.fs.renames.rename((directory, b"e"), (target, b"moved"), 0)
        mount.die()
        assert (await mount.fs.getattr(file)).node.key == "z/moved/f"
        assert (await mount.look(target, "moved")).node.id == inner
        assert await mount.pread(handle, MIB, MIB) == whole[MIB:][:MIB]
        await mount.fs.renames.rename((inner, b"f"), (ROOT_ID, b"g"), 0)
        await mount.fs.renames.rename((target, b"moved"), (ROOT_ID, b"d2"), 0)
        mount.recorder.renew()
        await settle()
        mount.die()
        assert (await mount.fs.getattr(file)).node.key == "g"
        assert await mount.pread(handle, 2 * MIB, MIB) == whole[2 * MIB :]
        assert store.keys() == ["d2/", "g", "z/x"]


@on_loop()
async def test_what_was_replaced_by_a_rename_has_no_name_any_more() -> None:
    with succession(a=b"new", b=b"old") as (_, mount):
        new, old = [(await mount.look(ROOT_ID, name)).node.id for name in "ab"]
        await mount.fs.renames.rename((ROOT_ID, b"a"), (ROOT_ID, b"b"), 0)
        mount.die()
        assert (await mount.look(ROOT_ID, "b")).node.id == new != old
        assert await fails(mount.fs.getattr(old)) == "ESTALE"


# -- open files ------------------------------------------------------------------------------------


@on_loop()
async def test_a_reader_goes_on_in_the_same_version() -> None:
    whole = pattern(3 * MIB)
    with succession(f=whole) as (_, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        handle = await mount.open(node)
        for at in range(0, 3 * MIB, MIB // 2):
            assert await mount.pread(handle, at, MIB // 2) == whole[at : at + MIB // 2]
            mount.die()
        assert await mount.pread(handle, 3 * MIB, 10) == b""


@on_loop()
async def test_a_file_that_nobody_has_read_yet_is_read_in_its_new_version() -> None:
    with succession(f=b"old") as (store, mount):
        handle = await mount.open((await mount.look(ROOT_ID, "f")).node.id)
        store.write("f", b"new")
        mount.die()
        assert await mount.pread(handle, 0, 10) == b"new"
        mount.die()
        store.write("f", b"newest")
        assert await fails(mount.pread(handle, 0, 10)) == "ESTALE"


@on_loop()
async def test_what_is_opened_after_a_release_is_todays_version() -> None:
    """What an earlier handle has read must not hold the later one back."""
    with succession(f=b"old") as (store, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        handle = await mount.open(node)
        assert await mount.pread(handle, 0, 10) == b"old"
        await mount.fs.files.release(handle)
        store.write("f", b"newer")
        mount.fs._core.metadata.forget("", "f")
        handle = await mount.open(node)
        mount.die()
        assert await mount.pread(handle, 0, 10) == b"newer"


@on_loop()
async def test_an_empty_file_that_is_open() -> None:
    with succession(f=b"") as (_, mount):
        handle = await mount.open((await mount.look(ROOT_ID, "f")).node.id)
        mount.die()
        assert await mount.pread(handle, 0, 10) == b""


# -- files that are written ------------------------------------------------------------------------


async def create(mount: Succession, name: str) -> tuple[int, int]:
    """Make a file; return node and handle."""
    found, opened = await mount.fs.files.create(ROOT_ID, name.encode(), os.O_RDWR, os.getpid())
    mount.fs.remember(found)
    return found.node.id, opened.handle


STEPS: dict[str, Callable[[Succession, int], Awaitable[object]]] = {
    "write": lambda mount, handle: mount.fs.files.write(handle, 3, memoryview(b"more")),
    "fsync": lambda mount, handle: mount.fs.files.fsync(handle),
    "close": lambda mount, handle: mount.fs.files.flush(handle, os.getpid()),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("existing", [True, False])
@on_loop()
async def test_what_was_being_written_is_lost_and_says_so(step: str, existing: bool) -> None:
    objects = {"f": b"what it had"} if existing else {}
    with succession(**objects) as (store, mount):
        if existing:
            node = (await mount.look(ROOT_ID, "f")).node.id
            handle = await mount.open(node, os.O_WRONLY | os.O_TRUNC)
        else:
            node, handle = await create(mount, "f")
        await mount.fs.files.write(handle, 0, memoryview(b"abc"))
        mount.die()
        assert await fails(STEPS[step](mount, handle)) == "EIO"
        assert await fails(mount.fs.files.flush(handle, os.getpid())) == "EIO"
        with pytest.raises(ServeError):
            await mount.fs.files.release(handle)  # nobody waits for it; the log has it
        assert (store.stored("f") is not None) == existing
        if existing:
            assert store.read("f") == b"what it had"
            found = await mount.look(ROOT_ID, "f")
            assert await mount.pread(await mount.open(found.node.id), 0, 20) == b"what it had"
        else:
            assert not isinstance(await mount.fs.names.lookup(ROOT_ID, b"f"), Found)


@on_loop()
async def test_its_multipart_upload_is_aborted_by_the_next_one() -> None:
    with succession() as (store, mount):
        _, handle = await create(mount, "f")
        data = memoryview(pattern(20 * MIB))
        for at in range(0, len(data), MIB):
            await mount.fs.files.write(handle, at, data[at : at + MIB])
        await settle()
        (upload,) = store.uploads
        state = mount.die()
        assert [(found.key, found.upload_id) for found in state.multiparts] == [("f", upload)]
        await abort_all(store, state.multiparts, mount.recorder)
        assert not store.uploads
        assert not mount.die().multiparts
        assert store.stored("f") is None


@on_loop()
async def test_a_multipart_upload_that_is_complete_is_left_alone() -> None:
    with succession() as (store, mount):
        _, handle = await create(mount, "f")
        data = memoryview(pattern(20 * MIB))
        for at in range(0, len(data), MIB):
            await mount.fs.files.write(handle, at, data[at : at + MIB])
        await mount.fs.files.flush(handle, os.getpid())
        assert not mount.die().multiparts
        assert store.read("f") == data


@pytest.mark.parametrize("how", ["opened", "stored"])
@on_loop()
async def test_a_writer_with_nothing_to_lose_loses_nothing(how: str) -> None:
    with succession(f=b"0123456789") as (store, mount):
        node = (await mount.look(ROOT_ID, "f")).node.id
        handle = await mount.open(node, os.O_RDWR)
        if how == "stored":
            await mount.fs.files.write(handle, 0, memoryview(b"ab"))
            await mount.fs.files.fsync(handle)
        mount.die()
        await mount.fs.files.write(handle, 8, memoryview(b"xyz"))
        await mount.fs.files.flush(handle, os.getpid())
        assert store.read("f") == (b"ab234567xyz" if how == "stored" else b"01234567xyz")
        await mount.fs.files.release(handle)
        mount.die()
        assert (await mount.fs.getattr(node)).attributes.size == 11


@on_loop()
async def test_changes_count_from_the_first_byte_on() -> None:
    """Another write after an fsync is another change."""
    with succession(f=b"0123456789") as (store, mount):
        handle = await mount.open((await mount.look(ROOT_ID, "f")).node.id, os.O_RDWR)
        for data in (b"ab", b"cd"):
            await mount.fs.files.write(handle, 0, memoryview(data))
            await mount.fs.files.fsync(handle)
        mount.fs.files.write_nowait(handle, 0, memoryview(b"ef"))
        mount.die()
        assert await fails(mount.fs.files.fsync(handle)) == "EIO"
        assert store.read("f") == b"cd23456789"


# -- open directories ------------------------------------------------------------------------------

NAMES = [f"n{number:04}" for number in range(2500)]


@on_loop()
async def test_a_listing_goes_on() -> None:
    with succession(**dict.fromkeys(NAMES, b"")) as (_, mount):
        handle, found, offset = mount.fs.directories.opendir(ROOT_ID), list[str](), 0
        while names := await mount.names(handle, offset, most=400):
            found += names
            offset = mount.offset
            mount.die()
        assert found == NAMES
        mount.fs.directories.releasedir(handle)
        assert not mount.die().remains.directories


@on_loop()
async def test_a_listing_goes_on_where_the_bucket_has_changed() -> None:
    """Every name that was there all the time comes, and comes once."""
    with succession(**dict.fromkeys(NAMES, b"")) as (store, mount):
        handle, found, offset = mount.fs.directories.opendir(ROOT_ID), list[str](), 0
        changes = random.Random(7)
        removed, made = set[str](), set[str]()
        while names := await mount.names(handle, offset, most=300):
            found += names
            offset = mount.offset
            for name in changes.sample(NAMES, 20):
                store.remove(name)
                removed.add(name)
            for name in changes.sample(NAMES, 20):
                store.write(f"{name}-new", b"")
                made.add(f"{name}-new")
            mount.die()
        assert len(found) == len(set(found))
        assert set(NAMES) - removed <= set(found) <= set(NAMES) | made


@on_loop()
async def test_a_directory_that_is_rewound_after_its_worker_died() -> None:
    with succession(a=b"", b=b"") as (store, mount):
        handle = mount.fs.directories.opendir(ROOT_ID)
        assert await mount.names(handle) == ["a", "b"]
        mount.die()
        store.write("c", b"")
        assert await mount.names(handle) == ["a", "b", "c"]
