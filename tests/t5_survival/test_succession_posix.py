"""What is kept of a file is there for the next worker, whatever it is asked for first.

The kernel knows the nodes, and for a while their attributes: so it may ask for anything but those.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fuse_s3_worker.fs.attributes import Overrides
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.memstore import MemoryStore
from support.posixtree import MODE, MOMENT, kept
from support.succession import Succession
from support.virtualtime import on_loop

LINK, FILE, DIRECTORY = 0o120777, 0o104750, 0o040711
XATTRS = {b"user.color": b"red"}
# The names of nodes, what an object keeps, and what is in it.
OBJECTS = {
    "link": ("link", kept(LINK), b"to where"),
    "file": ("file", kept(FILE, xattrs=XATTRS), b"content"),
    "directory": ("directory/", kept(DIRECTORY, xattrs=XATTRS), b""),
}


@asynccontextmanager
async def died() -> AsyncIterator[tuple[MemoryStore, Succession, dict[str, int]]]:
    """Set up a mount whose worker has died; yield the nodes that the kernel knows, too."""
    store = MemoryStore()
    for key, headers, data in OBJECTS.values():
        store.write(key, data, headers=headers)
    mount = Succession(store, posix="true")
    nodes = {name: (await mount.look(ROOT_ID, name)).node.id for name in OBJECTS}
    mount.die()
    yield store, mount, nodes
    await mount.fs.close()
    mount.close()


@on_loop()
async def test_where_a_link_leads() -> None:
    async with died() as (_, mount, nodes):
        links = mount.fs.links
        assert links is not None
        assert links.readlink_nowait(nodes["link"]) is None
        assert await links.readlink(nodes["link"]) == b"to where"
        assert links.readlink_nowait(nodes["link"]) == b"to where"


async def ask_for_attributes(mount: Succession, node: int) -> int:
    return (await mount.fs.getattr(node)).attributes.mode


async def set_time(mount: Succession, node: int) -> int:
    return (await mount.fs.setattr(node, None, Overrides(0.0, mtime=5))).attributes.mode


async def set_times_later(mount: Succession, node: int) -> int:
    return (await mount.fs.setattr(node, None, Overrides(0.0, uid=None, atime=5))).attributes.mode


@pytest.mark.parametrize("ask", [ask_for_attributes, set_time, set_times_later])
@pytest.mark.parametrize("name", ["file", "directory"])
@on_loop()
async def test_the_mode(name: str, ask: Callable[[Succession, int], Awaitable[int]]) -> None:
    async with died() as (_, mount, nodes):
        assert await ask(mount, nodes[name]) == {"file": 0o104750, "directory": 0o040711}[name]


@pytest.mark.parametrize("name", ["file", "directory"])
@on_loop()
async def test_extended_attributes(name: str) -> None:
    async with died() as (store, mount, nodes):
        xattrs, node = mount.fs.xattrs, nodes[name]
        assert xattrs is not None
        assert not xattrs.is_fresh(node)  # so the adapter asks for a look first
        await xattrs.look(node)
        assert xattrs.get(node, b"user.color") == b"red"
        xattrs.set(node, b"user.shape", b"round", 0)
        await asyncio.sleep(MOMENT)
        key, headers, _ = OBJECTS[name]
        found = store.stored(key)
        assert found is not None
        assert found.headers[MODE] == headers[MODE]
        assert found.headers["x-amz-meta-xattr"] != headers["x-amz-meta-xattr"]


async def write(mount: Succession, handle: int, node: int) -> bytes:
    del node
    await mount.fs.files.write(handle, 0, memoryview(b"CON"))
    return b"CONtent"


async def write_at_once(mount: Succession, handle: int, node: int) -> bytes:
    if mount.fs.files.write_nowait(handle, 0, memoryview(b"CON")):
        return b"CONtent"
    return await write(mount, handle, node)


async def allocate(mount: Succession, handle: int, node: int) -> bytes:
    del node
    await mount.fs.ranges.fallocate(handle, 0, 10, 0)
    return b"content\0\0\0"


async def truncate(mount: Succession, handle: int, node: int) -> bytes:
    del handle
    await mount.fs.setattr(node, 3, None)
    return b"con"


@pytest.mark.parametrize("change", [write, write_at_once, allocate, truncate])
@on_loop()
async def test_changing_an_open_file(
    change: Callable[[Succession, int, int], Awaitable[bytes]],
) -> None:
    """It keeps what it has, and shows it."""
    async with died() as (store, mount, nodes):
        node = nodes["file"]
        handle = await mount.open(node, os.O_WRONLY)
        mount.die()
        expected = await change(mount, handle, node)
        shown = await mount.fs.getattr(node)
        assert (shown.attributes.mode, shown.attributes.size) == (FILE, len(expected))
        at_once = mount.fs.getattr_nowait(node)
        assert at_once is not None
        assert at_once.attributes.mode == FILE
        await mount.fs.files.flush(handle, os.getpid())
        found = store.stored("file")
        assert found is not None
        assert found.data == expected
        for header in (MODE, "x-amz-meta-uid", "x-amz-meta-gid", "x-amz-meta-xattr"):
            assert found.headers[header] == OBJECTS["file"][1][header]
        await mount.fs.files.release(handle)


@on_loop()
async def test_a_directory_that_is_kept_for_a_moment() -> None:
    """Its last file is removed, and nobody has looked at itself."""
    async with died() as (store, mount, nodes):
        store.write("directory/f", b"")
        directory = nodes["directory"]
        await mount.look(directory, "f")
        mount.die()
        await mount.fs.names.unlink(directory, b"f")
        assert mount.fs.getattr_nowait(directory) is None
        assert mount.fs.names.lookup_nowait(ROOT_ID, b"directory") is None
        found = await mount.look(ROOT_ID, "directory")
        assert (found.node.id, found.attributes.mode) == (directory, DIRECTORY)
        shown = mount.fs.getattr_nowait(directory)
        assert shown is not None
        assert shown.attributes.mode == DIRECTORY
        await mount.fs.setattr(directory, None, Overrides(0.0, mode=0o700))
        await asyncio.sleep(MOMENT)
        marker = store.stored("directory/")
        assert marker is not None
        assert stat.S_IMODE(int(marker.headers[MODE])) == 0o700
        assert marker.headers["x-amz-meta-uid"] == OBJECTS["directory"][1]["x-amz-meta-uid"]


@on_loop()
async def test_what_is_gone_is_shown_as_the_kind_that_it_was() -> None:
    """Of a file that was removed while it is open, nobody knows what it had."""
    async with died() as (_, mount, nodes):
        node = nodes["file"]
        handle = await mount.open(node)
        assert await mount.pread(handle, 0, 3) == b"con"
        await mount.fs.names.unlink(ROOT_ID, b"file")
        mount.die()
        shown = mount.fs.getattr_nowait(node)
        assert shown is not None
        assert stat.S_ISREG(shown.attributes.mode)


@pytest.mark.parametrize("stored", ["at once", "later"])
@on_loop()
async def test_writing_takes_setuid_away(stored: str) -> None:
    async with died() as (store, mount, nodes):
        handle = await mount.open(nodes["file"], os.O_WRONLY)
        mount.die()  # so nothing is known of a file that is open
        mount.fs.kill_privileges(nodes["file"])
        await mount.fs.files.write(handle, 0, memoryview(b"CON"))
        if stored == "later":
            await asyncio.sleep(MOMENT)
        await mount.fs.files.flush(handle, os.getpid())
        await mount.fs.files.release(handle)
        await asyncio.sleep(MOMENT)
        found = store.stored("file")
        assert found is not None
        assert found.data == b"CONtent"
        assert stat.S_IMODE(int(found.headers[MODE])) == 0o750
