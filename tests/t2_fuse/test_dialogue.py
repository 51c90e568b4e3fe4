"""Requests and the replies they get, through the adapter and a whole file system: to the byte.

What a file system means is tested without the protocol; here it is that every opcode's reply has
the fields of the right node, in the right form, exactly once.
"""

import errno
import os
import stat
import time
from struct import pack, unpack

import pytest

from fuse_s3_worker.fs.nodes import inode_number
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.abi import DIRENT, Fattr, FopenFlag, Opcode
from fuse_s3_worker.fuse.replies import FOREVER
from support.dialogue import (
    DIRECTORY,
    FILE,
    MOUNTED,
    OBJECTS,
    OK,
    ROOT,
    WRITTEN,
    Session,
    attr,
    entry,
    read_in,
    release_in,
    write_in,
)
from support.kernel import Reply, frame
from support.virtualtime import on_loop, settle


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every time known."""
    monkeypatch.setattr(time, "time", lambda: float(MOUNTED))
    monkeypatch.setattr(time, "time_ns", lambda: WRITTEN)


# -- looking ---------------------------------------------------------------------------------------


@on_loop()
async def test_init_and_destroy() -> None:
    session = Session()
    assert not session.kernel.adapter.initialized.is_set()
    reply = await session.ask(Opcode.INIT, pack("<IIII", 7, 45, 131072, 0x73FFFFFB) + bytes(48))
    assert reply.body[:16] == pack("<IIII", 7, 45, 131072, 0x5064F029)
    assert session.kernel.adapter.initialized.is_set()
    assert await session.ask(Opcode.DESTROY) == OK
    await session.end()


@on_loop()
async def test_init_of_a_newer_major_version_is_asked_again() -> None:
    session = Session()
    await session.ask(Opcode.INIT, pack("<IIII", 8, 0, 0, 0) + bytes(48))
    assert not session.kernel.adapter.initialized.is_set()
    await session.ask(Opcode.INIT, pack("<IIII", 7, 45, 0, 0) + bytes(48))
    assert session.kernel.adapter.initialized.is_set()
    await session.end()


@on_loop("request_failed")
async def test_init_of_an_older_kernel() -> None:
    session = Session()
    assert await session.ask(Opcode.INIT, pack("<IIII", 7, 30, 0, 0)) == Reply(errno.EPROTO, b"")
    assert not session.kernel.adapter.initialized.is_set()
    await session.end()


@on_loop()
async def test_lookup_and_getattr() -> None:
    session = Session()
    ask = session.ask
    assert await ask(Opcode.LOOKUP, b"d\0") == Reply(0, entry(2, DIRECTORY))
    assert await ask(Opcode.LOOKUP, b"file\0", nodeid=2) == Reply(0, entry(3, FILE))
    assert await ask(Opcode.LOOKUP, b"d\0") == Reply(0, entry(2, DIRECTORY))  # out of the cache
    implicit = attr("p/implicit/", stat.S_IFDIR)
    assert await ask(Opcode.LOOKUP, b"implicit\0") == Reply(0, entry(4, implicit))
    for _ in range(2):
        assert await ask(Opcode.LOOKUP, b"none\0") == Reply(0, replies.negative_entry(FOREVER))
    for nodeid, attributes in ((1, ROOT), (2, DIRECTORY), (3, FILE), (4, implicit)):
        expected = Reply(0, replies.attr_out(attributes, FOREVER))
        assert await ask(Opcode.GETATTR, bytes(16), nodeid=nodeid) == expected
    await session.end()


@on_loop()
async def test_lifetimes_are_those_of_the_option() -> None:
    session = Session(metadata_ttl="2.5")
    reply = await session.ask(Opcode.LOOKUP, b"d\0")
    assert unpack("<QQQQII", reply.body[:40]) == (2, 0, 2, 2, 500_000_000, 500_000_000)
    reply = await session.ask(Opcode.LOOKUP, b"none\0")
    assert unpack("<QQQQII", reply.body[:40]) == (0, 0, 2, 0, 500_000_000, 0)
    # What is left of it, for an answer that is remembered; how much that is the clock decides.
    reply = await session.ask(Opcode.GETATTR, bytes(16), nodeid=2)
    seconds, nanoseconds = unpack("<QI", reply.body[:12])
    assert seconds * 10**9 + nanoseconds <= 2_500_000_000
    await session.end()


@on_loop()
async def test_a_lifetime_of_nothing() -> None:
    session = Session(metadata_ttl="0")
    reply = await session.ask(Opcode.LOOKUP, b"d\0")
    assert unpack("<QQQQII", reply.body[:40]) == (2, 0, 0, 0, 0, 0)
    await session.end()


@on_loop()
async def test_statfs_and_access() -> None:
    session = Session()
    expected = replies.Statfs(1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 20, 255, 1 << 20)
    assert await session.ask(Opcode.STATFS) == Reply(0, expected.encode())
    assert await session.ask(Opcode.ACCESS, pack("<II", 7, 0)) == OK
    await session.end()


# -- reading ---------------------------------------------------------------------------------------


def records(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return directory records: inode, next offset, type, name."""
    packed = (DIRENT.pack(ino, off, len(name), kind) + name for ino, off, kind, name in entries)
    return b"".join(record + bytes(-len(record) % 8) for record in packed)


@on_loop()
async def test_a_directory() -> None:
    session = Session()
    ask = session.ask
    assert await ask(Opcode.OPENDIR, bytes(8)) == Reply(0, replies.open_out(1, FopenFlag(0)))
    everything = [
        (1, 1, 4, b"."),
        (1, 2, 4, b".."),
        (inode_number("p/d/"), 3, 4, b"d"),
        (inode_number("p/implicit/"), 4, 4, b"implicit"),
    ]
    for offset in range(5):
        expected = Reply(0, records(*everything[offset:]))
        assert await ask(Opcode.READDIR, read_in(1, offset, 4096)) == expected
    # A byte less than two records: one of them.
    expected = Reply(0, records(everything[2]))
    assert await ask(Opcode.READDIR, read_in(1, 2, 32 + 31)) == expected
    assert await ask(Opcode.READDIR, read_in(1, 2, 31)) == OK
    assert await ask(Opcode.FSYNCDIR, pack("<QII", 1, 0, 0)) == OK
    assert await ask(Opcode.RELEASEDIR, release_in(1)) == OK
    await session.end()


@on_loop()
async def test_a_directory_with_attributes() -> None:
    session = Session()
    ask, nodes = session.ask, session.fs._core.nodes
    parent = await session.lookup(b"d")
    await ask(Opcode.OPENDIR, bytes(8), nodeid=parent)
    plain = (
        bytes(128) + records((inode_number("p/d/"), 1, 4, b".")),
        bytes(128) + records((1, 2, 4, b"..")),
        entry(3, FILE) + records((FILE.ino, 3, 8, b"file")),
    )
    request = read_in(1, 0, 4096)
    assert await ask(Opcode.READDIRPLUS, request, nodeid=parent) == Reply(0, b"".join(plain))
    node = nodes.get(3)
    assert node is not None
    assert node.nlookup == 1  # the kernel was told of it ...
    await session.kernel.forget(3)
    assert nodes.get(3) is None
    # ... and was not where the record did not fit.
    room = len(plain[0] + plain[1]) + len(plain[2]) - 1
    request = read_in(1, 0, room)
    assert await ask(Opcode.READDIRPLUS, request, nodeid=parent) == Reply(0, plain[0] + plain[1])
    assert len(nodes) == 2
    await ask(Opcode.RELEASEDIR, release_in(1), nodeid=parent)
    await session.end()


@on_loop()
async def test_a_file_that_is_read() -> None:
    session = Session()
    ask = session.ask
    file = await session.lookup(b"file", await session.lookup(b"d"))
    request = pack("<II", os.O_RDONLY, 0)
    first = Reply(0, replies.open_out(1, FopenFlag.NOFLUSH))
    again = Reply(0, replies.open_out(2, FopenFlag.NOFLUSH | FopenFlag.KEEP_CACHE))
    assert await ask(Opcode.OPEN, request, nodeid=file) == first
    for offset, size in ((0, 4096), (0, 5), (6, 100), (10, 1), (11, 1), (5000, 4096)):
        expected = Reply(0, b"hello world"[offset : offset + size])
        assert await ask(Opcode.READ, read_in(1, offset, size), nodeid=file) == expected
    assert await ask(Opcode.OPEN, request, nodeid=file) == again  # the pages are of this version
    assert await ask(Opcode.FLUSH, release_in(1), nodeid=file) == OK
    for handle in (1, 2):
        assert await ask(Opcode.RELEASE, release_in(handle), nodeid=file) == OK
    await session.end()


# -- writing ---------------------------------------------------------------------------------------


@on_loop()
async def test_a_file_that_is_made() -> None:
    session = Session()
    ask = session.ask
    body = pack("<IIII", os.O_WRONLY | os.O_CREAT, stat.S_IFREG | 0o600, 0o22, 0) + b"new\0"
    made = attr("p/new", stat.S_IFREG, time_ns=WRITTEN)
    expected = Reply(0, entry(2, made) + replies.open_out(1, FopenFlag(0)))
    assert await ask(Opcode.CREATE, body) == expected
    assert await ask(Opcode.WRITE, write_in(1, 0, b"some "), nodeid=2) == Reply(
        0, pack("<II", 5, 0)
    )
    assert await ask(Opcode.WRITE, write_in(1, 5, b"text"), nodeid=2) == Reply(0, pack("<II", 4, 0))
    shown = replies.attr_out(made._replace(size=9), FOREVER)
    assert await ask(Opcode.GETATTR, bytes(16), nodeid=2) == Reply(0, shown)
    assert session.bucket.stored("p/new") is None
    assert await ask(Opcode.FSYNC, pack("<QII", 1, 0, 0), nodeid=2) == OK
    assert session.bucket.read("p/new") == b"some text"
    assert await ask(Opcode.WRITE, write_in(1, 9, b"!"), nodeid=2) == Reply(0, pack("<II", 1, 0))
    assert await ask(Opcode.FLUSH, release_in(1), nodeid=2) == OK
    assert session.bucket.read("p/new") == b"some text!"
    assert await ask(Opcode.RELEASE, release_in(1), nodeid=2) == OK
    await session.end()


@on_loop()
async def test_a_write_that_has_to_wait_is_answered_with_its_whole_size() -> None:
    """The rest of it is copied: the next request goes into the same memory."""
    session = Session(memory_target="32M", part_size="8M")
    ask, kernel = session.ask, session.kernel
    body = pack("<IIII", os.O_WRONLY, stat.S_IFREG, 0, 0) + b"new\0"
    await ask(Opcode.CREATE, body)
    session.bucket.hold("upload_part")
    memory = bytearray(frame(Opcode.WRITE, write_in(1, 0, bytes(1 << 20))))
    content = bytearray()
    for number in range(34):
        piece = bytes([number]) * (1 << 20)
        content += piece
        unique = 1000 + 2 * number
        memory[:] = frame(Opcode.WRITE, write_in(1, number << 20, piece), unique=unique, nodeid=2)
        kernel.channel.expect(unique, bytes(memory))
        kernel.adapter.dispatch(memoryview(memory))
        memory[:] = b"\xff" * len(memory)
    await settle()
    assert kernel.channel.waiting  # memory is short, and nothing is sent
    session.bucket.let_go("upload_part")
    await kernel.quiet()
    assert {tuple(kernel.channel.replies[1000 + 2 * n]) for n in range(34)} == {
        (Reply(0, pack("<II", 1 << 20, 0)),)
    }
    await ask(Opcode.RELEASE, release_in(1), nodeid=2)
    assert session.bucket.read("p/new") == content
    await session.end()


@on_loop()
async def test_names_that_are_made_and_removed() -> None:
    session = Session()
    ask = session.ask
    body = pack("<IIII", stat.S_IFREG | 0o600, 0, 0o22, 0) + b"node\0"
    assert await ask(Opcode.MKNOD, body) == Reply(0, entry(2, attr("p/node", stat.S_IFREG)))
    body = pack("<II", stat.S_IFDIR | 0o700, 0o22) + b"dir\0"
    assert await ask(Opcode.MKDIR, body) == Reply(0, entry(3, attr("p/dir/", stat.S_IFDIR)))
    assert {"p/node", "p/dir/"} < set(session.bucket.keys())
    assert await ask(Opcode.UNLINK, b"node\0") == OK
    assert await ask(Opcode.RMDIR, b"dir\0") == OK
    assert set(session.bucket.keys()) == OBJECTS.keys()
    await session.end()


@on_loop()
async def test_attributes_that_are_set() -> None:
    """They are shown and not kept; the size is kept."""
    session = Session()
    ask = session.ask
    file = await session.lookup(b"file", await session.lookup(b"d"))
    what = Fattr.MODE | Fattr.UID | Fattr.GID | Fattr.ATIME | Fattr.MTIME
    body = pack(
        "<IIQQQQQQIIIIIIII",
        *(what, 0, 0, 0, 0),
        *(1_000_000_001, 1_000_000_002, 0, 11, 12, 0),
        *(0o7, 0, 77, 88, 0),
    )
    changed = FILE._replace(
        mode=stat.S_IFREG | 0o007,
        uid=77,
        gid=88,
        atime=1_000_000_001_000_000_011,
        mtime=1_000_000_002_000_000_012,
    )
    shown = Reply(0, replies.attr_out(changed, FOREVER))
    assert await ask(Opcode.SETATTR, body, nodeid=file) == shown
    assert await ask(Opcode.GETATTR, bytes(16), nodeid=file) == shown
    body = pack("<IIQQ", Fattr.SIZE, 0, 0, 5) + bytes(64)
    cut = changed._replace(size=5)
    reply = await ask(Opcode.SETATTR, body, nodeid=file)
    assert reply == Reply(0, replies.attr_out(cut, FOREVER))
    assert session.bucket.read("p/d/file") == b"hello"
    await session.end()


# -- references and notifications ------------------------------------------------------------------


@on_loop()
async def test_forgetting() -> None:
    session = Session()
    nodes = session.fs._core.nodes
    await session.lookup(b"d")
    await session.lookup(b"d")
    directory = await session.lookup(b"d")
    file = await session.lookup(b"file", directory)
    await session.kernel.forget(directory, 2)
    assert len(nodes) == 3
    session.kernel.tell(Opcode.BATCH_FORGET, pack("<IIQQQQ", 2, 0, file, 1, directory, 1))
    assert len(nodes) == 1
    await session.kernel.forget(1, 100)  # the root stays
    await session.kernel.forget(99)
    assert len(nodes) == 1
    await session.end()


@on_loop()
async def test_a_version_that_was_replaced_before_it_was_read() -> None:
    """The kernel is told that what it knows of the file is out of date."""
    session = Session()
    file = await session.lookup(b"file", await session.lookup(b"d"))
    handle = await session.opened(file)
    session.bucket.write("p/d/file", b"another version")
    reply = await session.ask(Opcode.READ, read_in(handle, 0, 4096), nodeid=file)
    assert not reply.error
    # Attributes only: pages under READ are the kernel's to drop, or it would wait for us.
    assert session.kernel.channel.notifications == [(2, pack("<Qqq", file, -1, 0))]
    await session.ask(Opcode.RELEASE, release_in(handle), nodeid=file)
    await session.end()
