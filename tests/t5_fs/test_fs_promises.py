"""Statements of docs/semantics.md that the file system keeps without a kernel, in virtual time."""

import asyncio
import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_shared import handoff
from fuse_s3_worker.config.parse import configure
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs import namespace
from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fs.plain import Plain
from fuse_s3_worker.preparation import owner_of
from fuse_s3_worker.serve import ownership_of
from support.tree import LIFETIME, Tree, tree
from support.virtualtime import on_loop, run

SECOND = 1_000_000_000


# -- attributes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "owner", "modes"),
    [
        ("", (1000, 1001), (0o644, 0o755)),
        ("uid=0", (0, 1001), (0o644, 0o755)),
        ("gid=0", (1000, 0), (0o644, 0o755)),
        ("uid=5,gid=6,umask=0027", (5, 6), (0o640, 0o750)),
        ("file_mode=0440", (1000, 1001), (0o440, 0o755)),
        ("dir_mode=0500,umask=0", (1000, 1001), (0o666, 0o500)),
        ("file_mode=0,dir_mode=0", (1000, 1001), (0, 0)),
    ],
)
def test_one_owner_for_everything(
    options: str, owner: tuple[int, int], modes: tuple[int, int]
) -> None:
    """[S7] All files have one owner, group and mode, and so have all directories: those that the
    options give; without options they belong to whoever mounted.
    """
    order = handoff.Mount(
        1, "bucket", options, 1000, 1001,
        read_only=False, sloppy=False, dry_run=False, foreground=False,
    )  # fmt: skip
    configuration = configure(order.spec, order.options, sloppy=order.sloppy)
    ownership = ownership_of(configuration.settings, owner_of(configuration, order))

    async def body() -> None:
        objects = {"file": b"1", "d/file": b"22", "marked/": b"", "marked/e/file": b""}
        async with tree(objects) as t:
            t.fs._core.inodes = Plain(ownership, t.metadata.lifetime)
            await t.mkdir("made")
            await t.mknod("made/node")
            await t.put("stored", b"333")
            await t.create("being written")
            found = await _everything(t)
            assert {path for path, a in found.items() if stat.S_ISDIR(a.mode)} == {
                *("", "d", "marked", "marked/e", "made")
            }
            assert {(a.uid, a.gid) for a in found.values()} == {owner}
            expected = {stat.S_IFREG | modes[0], stat.S_IFDIR | modes[1]}
            assert {a.mode for a in found.values()} == expected

    run(body())


async def _everything(t: Tree, path: str = "") -> dict[str, Attributes]:
    """Return the attributes of all that is there, by path."""
    found = {path: await t.stat(path)}
    for name, directory in (await t.list(path)).items():
        below = f"{path}/{name}".lstrip("/")
        found |= await _everything(t, below) if directory else {below: await t.stat(below)}
    return found


async def _by_lookup(t: Tree) -> Attributes:
    return (await t.lookup(await t.walk("d"), "file")).attributes


async def _by_listing(t: Tree) -> Attributes:
    number = t.fs.directories.opendir(await t.walk("d"))
    records = [r async for r in t.fs.directories.entries(number, 0) if not r.is_dot]
    (found,) = (t.fs.directories.take(number, record) for record in records)
    assert found is not None
    t.fs.directories.releasedir(number)
    return t.remember(found).attributes


async def _by_fstat(t: Tree) -> Attributes:
    node = await t.walk("d/file")
    await asyncio.sleep(LIFETIME)
    return await t.attributes(node)


async def _by_fstat_of_a_new_version(t: Tree) -> Attributes:
    node = await t.walk("d/file")
    t.store.write("d/file", b"another, later version")
    await asyncio.sleep(LIFETIME)
    return await t.attributes(node)


async def _by_fstat_after_a_listing(t: Tree) -> Attributes:
    node = await t.walk("d/file")
    t.store.write("d/file", b"another, later version")
    await asyncio.sleep(LIFETIME)
    await t.list("d")
    return await t.attributes(node)


async def _after_writing(t: Tree) -> Attributes:
    await t.put("d/file", b"written here")
    return await t.stat("d/file")


async def _after_making(t: Tree) -> Attributes:
    await t.unlink("d/file")
    node = await t.mknod("d/file")
    return await t.attributes(node)


async def _after_truncating(t: Tree) -> Attributes:
    return await t.set(await t.walk("d/file"), size=3)


@pytest.mark.parametrize(
    "look",
    [
        *(_by_lookup, _by_listing),
        *(_by_fstat, _by_fstat_of_a_new_version, _by_fstat_after_a_listing),
        *(_after_writing, _after_making, _after_truncating),
    ],
)
def test_size_and_time_are_the_objects(look: Callable[[Tree], Awaitable[Attributes]]) -> None:
    """[S8] Size and modification time of a file are its object's, the time in whole seconds; access
    and change time are the same as the modification time.
    """

    async def body() -> None:
        async with tree({"d/file": b"some text"}) as t:
            await asyncio.sleep(5.7)  # the store's clock goes on, and tells whole seconds
            found = await look(t)
            stored = t.store.stored("d/file")
            assert stored is not None
            assert found.size == len(stored.data)
            assert found.mtime == stored.info.mtime
            assert found.mtime % SECOND == 0
            assert found.atime == found.ctime == found.mtime

    run(body())


CHANGES = {
    "chmod": Overrides(0.0, mode=0o100751),
    "chown": Overrides(0.0, uid=77, gid=88),
    "utimens": Overrides(0.0, atime=1_000_000_001, mtime=-5),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("path", ["d/file", "d", "", "being written"])
def test_what_is_set_is_shown_for_a_lifetime(
    what: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S10] chmod, chown and utimens succeed, show for `metadata_ttl` seconds, and are not kept."""

    async def body() -> None:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        async with tree({"d/file": b"data"}) as t:
            await t.create("being written")
            node = await t.walk(path)
            plain = await t.attributes(node)
            change = CHANGES[what]
            given = {k: v for k, v in change._asdict().items() if k != "until" and v is not None}
            if "mode" in given:
                given["mode"] = stat.S_IFMT(plain.mode) | 0o751
            shown = plain._replace(**given)
            assert await t.set(node, overrides=change) == shown
            assert await t.stat(path) == shown
            await asyncio.sleep(LIFETIME - 0.1)
            assert await t.stat(path) == shown
            await asyncio.sleep(0.1)
            assert await t.stat(path) == plain
            # nothing went to the store, where it could be kept
            assert {operation for operation, _ in t.store.requests} <= {
                "HeadObject",
                "ListObjectsV2",
            }

    run(body())


# -- what others do -------------------------------------------------------------------------------


async def _learn_by_names(t: Tree) -> None:
    """Look at each name alone."""
    for path in ("changes", "goes", "d/changes", "d/goes"):
        await t.stat(path)
    for path in ("comes", "d/comes"):
        assert not await t.exists(path)


async def _learn_by_listing(t: Tree) -> None:
    """List the directories, which tells what is in them and what is not."""
    await t.list()
    await t.list("d")
    assert not await t.exists("d/comes")


@pytest.mark.parametrize("learn", [_learn_by_names, _learn_by_listing])
def test_what_is_known_is_believed_for_a_lifetime(
    learn: Callable[[Tree], Awaitable[None]],
) -> None:
    """[S14] Names, sizes and times are believed for `metadata_ttl` seconds, and so is a name's
    absence; then the bucket is asked again.
    """

    async def body() -> None:
        paths = ["changes", "goes", "comes", "d/changes", "d/goes", "d/comes"]
        objects = {path: b"old" for path in paths if "comes" not in path}
        async with tree(objects) as t:
            await learn(t)
            before = {path: await _seen(t, path) for path in paths}
            await asyncio.sleep(10)
            for path in paths:
                if "goes" in path:
                    t.store.remove(path)
                else:
                    t.store.write(path, b"new and longer")
            asked = len(t.store.requests)
            for waited in (0.0, LIFETIME - 10.1):
                await asyncio.sleep(waited)
                assert {path: await _seen(t, path) for path in paths} == before
            assert len(t.store.requests) == asked
            await asyncio.sleep(0.1)
            for path in paths:
                seen = await _seen(t, path)
                if "goes" in path:
                    assert seen is None
                else:
                    stored = t.store.stored(path)
                    assert stored is not None
                    assert seen == (14, stored.info.mtime)

    run(body())


async def _seen(t: Tree, path: str) -> tuple[int, int] | None:
    """Return size and time that a program sees; None when there is no such name."""
    if not await t.exists(path):
        return None
    found = await t.stat(path)
    return found.size, found.mtime


@on_loop()
async def test_the_kernel_is_told_no_more_time_than_is_left() -> None:
    """What it believes by itself ends with the lifetime, too."""
    async with tree({"file": b"", "d/file": b""}) as t:
        await t.list("d")
        node = await t.walk("file")
        assert not await t.exists("none")
        directory = await t.walk("d")
        for age in range(0, int(LIFETIME), 20):
            found = [
                *(await t.lookup(ROOT_ID, "file"), await t.lookup(directory, "file")),
                t.fs.getattr_nowait(node),
            ]
            assert [answer.seconds for answer in found if answer] == [LIFETIME - age] * 3
            for parent in (ROOT_ID, directory):
                assert t.fs.names.lookup_nowait(parent, b"none") == LIFETIME - age
            await asyncio.sleep(20)


# -- directories ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "pages"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
@pytest.mark.parametrize("plus", [True, False])
def test_the_requests_of_a_listing(names: int, pages: int, *, plus: bool) -> None:
    """[S22] A listing asks the bucket once for every 1,000 names, and brings sizes and times
    along.
    """

    async def body() -> None:
        # Each fifth name is a directory: one name, whatever is in it.
        sizes = {f"{n:04}": n % 7 for n in range(names) if n % 5}
        expected = {f"{n:04}": not n % 5 for n in range(names)}
        objects = {f"d/{name}": b"x" * size for name, size in sizes.items()}
        for name in expected.keys() - sizes.keys():
            objects |= {f"d/{name}/{number}": b"" for number in range(3)}
        async with tree(objects or {"d/": b""}) as t:
            directory = await t.walk("d")
            t.store.requests.clear()
            assert await t.list("d", plus=plus) == expected
            assert t.store.requests == [("ListObjectsV2", "d/")] * pages
            for name, size in sizes.items():
                found = (await t.lookup(directory, name)).attributes
                stored = t.store.stored(f"d/{name}")
                assert stored is not None
                assert (found.size, found.mtime) == (size, stored.info.mtime)
            assert await t.list("d", plus=plus) == expected
            assert len(t.store.requests) == pages

    run(body())


class _Remover:
    """Removes trees as `rm -r` does, resting between its steps as long as it is told to."""

    def __init__(self, t: Tree, rests: list[float]) -> None:
        self._t = t
        self._rests = rests

    async def _rest(self) -> None:
        if self._rests:
            await asyncio.sleep(self._rests.pop())

    async def remove(self, path: str) -> None:
        for name, directory in (await self._t.list(path, plus=True)).items():
            await self._rest()
            below = f"{path}/{name}"
            await (self.remove(below) if directory else self._t.unlink(below))
        await self._rest()
        await self._t.rmdir(path)


COMPONENTS = st.sampled_from(["a", "b", "a-b", "c", "é"])
RESTS = st.lists(st.sampled_from([0.0, 0.3, namespace._KEEP_AFTER, 2.5]), max_size=12)
BESIDE = ["top!", "top-most", "toq"]  # before and after "top/" in the bucket


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.lists(COMPONENTS, min_size=1, max_size=3), st.booleans()), min_size=1),
    st.integers(1, 3),
    RESTS,
    st.sampled_from([0.0, 1.0, LIFETIME]),
)
def test_what_is_removed_with_all_below_it_leaves_no_key(
    paths: list[tuple[list[str], bool]], page: int, rests: list[float], lifetime: float
) -> None:
    """[S27] After `rm -r` of a directory no key is left below it."""
    keys = {"top/" + "/".join(parts) + ("/" if marker else "") for parts, marker in paths}
    hidden = {key for key in keys if any(other.startswith(f"{key}/") for other in keys)}

    async def body() -> None:
        objects = dict.fromkeys([*(keys - hidden), *BESIDE], b"")
        async with tree(objects, lifetime=lifetime) as t:
            t.store.page_max = page
            await _Remover(t, rests).remove("top")
            for _ in range(2):  # neither now nor later
                assert t.store.keys() == BESIDE
                assert await t.list() == dict.fromkeys(BESIDE, False)
                await asyncio.sleep(LIFETIME)

    run(body())


@on_loop()
async def test_a_file_that_a_directory_has_hidden_is_no_silent_rest() -> None:
    """It shows when the directory is gone, and rm says that there is something left."""
    async with tree({"top/name": b"", "top/name/x": b""}) as t:
        with pytest.raises(FileSystemError) as refused:
            await _Remover(t, []).remove("top")
        assert refused.value.errno == errno.ENOTEMPTY
        assert t.store.keys() == ["top/name"]
        await asyncio.sleep(LIFETIME)
        await _Remover(t, []).remove("top")
        assert t.store.keys() == []


@on_loop()
async def test_a_tree_that_this_mount_made_is_removed_whole() -> None:
    """Among it what is being written: it is gone when it is unlinked, and stays gone."""
    async with tree() as t:
        for path in ("top", "top/d", "top/d/e"):
            await t.mkdir(path)
        await t.put("top/d/file", b"stored")
        handle = await t.create("top/d/e/new", os.O_WRONLY)
        await t.write(handle, 0, b"half")
        await _Remover(t, []).remove("top")
        assert t.store.keys() == []
        await t.close(handle)
        await asyncio.sleep(LIFETIME)
        assert t.store.keys() == []
        assert await t.list() == {}


@on_loop()
async def test_a_file_that_is_stored_has_its_objects_time_although_it_is_still_open() -> None:
    async with tree() as t:
        handle = await t.create("new")
        await t.write(handle, 0, b"x")
        await t.fs.files.fsync(handle)
        stored = t.store.stored("new")
        assert stored is not None
        assert (await t.stat("new")).mtime == stored.info.mtime


@on_loop()
async def test_what_is_not_kept_is_not_given_to_the_kernel_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(time, "monotonic", loop.time)
    async with tree({"file": b"x"}) as t:
        node = await t.walk("file")
        await asyncio.sleep(LIFETIME / 2)
        changed_at = loop.time()
        await t.set(node, overrides=Overrides(0.0, mode=0o700))
        await asyncio.sleep(LIFETIME / 2 + 1)
        found = await t.lookup(ROOT_ID, "file")
        assert found.attributes.mode & 0o777 == 0o700
        assert loop.time() + found.seconds <= changed_at + LIFETIME
