"""Requests and the replies they get, through the adapter and a whole file system: to the byte.

What a file system means is tested without the protocol; here it is that every opcode's reply has
the fields of the right node, in the right form, exactly once.
"""

import errno
import os
import stat
import time
from collections.abc import Iterable
from struct import pack, unpack

import pytest

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.nodes import inode_number
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.abi import DIRENT, Fattr, FopenFlag, Opcode
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.replies import FOREVER, Attr, Entry
from fuse_s3_worker.serve import Owner, build_file_system
from support.gatedstore import GatedStore
from support.kernel import Kernel, Reply, frame
from support.virtualtime import on_loop, settle

STORED = 1_700_000_000  # seconds: when the objects were stored
MOUNTED = 1_600_000_000
WRITTEN = 1_800_000_000_123_456_789  # nanoseconds: when programs write

OBJECTS = {"p/d/": b"", "p/d/file": b"hello world", "p/implicit/x": b"x", "other": b"not mounted"}
MODES = {"umask": "027"}


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every time known."""
    monkeypatch.setattr(time, "time", lambda: float(MOUNTED))
    monkeypatch.setattr(time, "time_ns", lambda: WRITTEN)


class Session:
    """A mount of OBJECTS below `p/`."""

    def __init__(self, **settings: str) -> None:
        self.bucket = GatedStore(OBJECTS, clock=lambda: STORED)
        given = Settings.model_validate({"metadata_ttl": "indefinite", **MODES, **settings})
        self.fs = build_file_system(self.bucket, given, Owner(1001, 1002), "p/")
        self.kernel = Kernel(self.fs)
        self.ask = self.kernel.ask

    async def lookup(self, name: bytes, parent: int = 1) -> int:
        """Look a name up; return its node."""
        reply = await self.ask(Opcode.LOOKUP, name + b"\0", nodeid=parent)
        assert not reply.error
        return int.from_bytes(reply.body[:8], "little")

    async def opened(self, nodeid: int, flags: int = os.O_RDONLY) -> int:
        """Open a file; return its handle."""
        reply = await self.ask(Opcode.OPEN, pack("<II", flags, 0), nodeid=nodeid)
        assert not reply.error
        return int.from_bytes(reply.body[:8], "little")

    async def end(self) -> None:
        """Unmount: nothing is left, and the kernel had nothing to complain of."""
        await self.kernel.adapter.drain()
        await self.fs.close()
        assert not self.kernel.channel.violations
        assert not self.kernel.channel.waiting


def attr(key: str, kind: int, size: int = 0, time_ns: int = STORED * 10**9) -> Attr:
    """Return the attributes that the options give to a key."""
    directory = kind == stat.S_IFDIR
    if directory:
        time_ns = MOUNTED * 10**9
    return Attr(
        ino=inode_number(key) if key != "p/" else 1,
        size=size,
        mode=kind | (0o750 if directory else 0o640),
        nlink=2 if directory else 1,
        uid=1001,
        gid=1002,
        atime=time_ns,
        mtime=time_ns,
        ctime=time_ns,
        blksize=1 << 20,
    )


def entry(nodeid: int, attributes: Attr) -> bytes:
    return Entry(nodeid, 0, FOREVER, FOREVER, attributes).encode()


ROOT = attr("p/", stat.S_IFDIR)
DIRECTORY = attr("p/d/", stat.S_IFDIR)
FILE = attr("p/d/file", stat.S_IFREG, 11)

OK = Reply(0, b"")


def read_in(fh: int, offset: int, size: int) -> bytes:
    return pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)


def write_in(fh: int, offset: int, data: bytes) -> bytes:
    return pack("<QQIIQII", fh, offset, len(data), 0, 0, 0, 0) + data


def release_in(fh: int) -> bytes:
    return pack("<QIIQ", fh, 0, 0, 0)


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


# -- what cannot be done ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opcode", [*sorted(set(Opcode) - SERVED.keys()), 0, 7, 54, 4096, 2**32 - 1]
)
def test_what_is_not_served(opcode: int) -> None:
    """Not so much as looked at: the kernel does not ask again, or does it by itself."""

    @on_loop()
    async def ask() -> None:
        session = Session()
        assert await session.ask(opcode, b"whatever") == Reply(errno.ENOSYS, b"")
        await session.end()

    ask()


REFUSALS: dict[str, tuple[Opcode, bytes, int, int]] = {
    "no such node": (Opcode.GETATTR, bytes(16), 99, errno.ESTALE),
    "no such directory": (Opcode.LOOKUP, b"x\0", 99, errno.ESTALE),
    "no such handle": (Opcode.READ, read_in(9, 0, 1), 1, errno.EBADF),
    "no such handle to write": (Opcode.WRITE, write_in(9, 0, b"x"), 1, errno.EBADF),
    "no such handle to flush": (Opcode.FLUSH, release_in(9), 1, errno.EBADF),
    "no such open directory": (Opcode.READDIR, read_in(9, 0, 99), 1, errno.EBADF),
    "a directory as a file": (Opcode.OPEN, bytes(8), 1, errno.EISDIR),
    "the size of a directory": (
        *(Opcode.SETATTR, pack("<IIQQ", Fattr.SIZE, 0, 0, 5) + bytes(64), 1, errno.EISDIR),
    ),
    "a name too long": (Opcode.LOOKUP, b"x" * 256 + b"\0", 1, errno.ENAMETOOLONG),
    "a name that is not UTF-8": (Opcode.LOOKUP, b"\xff\0", 1, errno.EILSEQ),
    "a device": (Opcode.MKNOD, pack("<IIII", stat.S_IFCHR, 1, 0, 0) + b"x\0", 1, errno.EPERM),
    "what exists": (Opcode.MKDIR, bytes(8) + b"d\0", 1, errno.EEXIST),
    "a name that is not there": (Opcode.UNLINK, b"none\0", 1, errno.ENOENT),
    "a directory with something in it": (Opcode.RMDIR, b"d\0", 1, errno.ENOTEMPTY),
    "a rename of nothing": (Opcode.RENAME, pack("<Q", 1) + b"none\0e\0", 1, errno.ENOENT),
    "a rename to nowhere": (Opcode.RENAME, pack("<Q", 99) + b"d\0e\0", 1, errno.ESTALE),
    "an exchange": (Opcode.RENAME2, pack("<QII", 1, 2, 0) + b"d\0e\0", 1, errno.EINVAL),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    opcode, body, nodeid, number = REFUSALS[name]

    @on_loop()
    async def ask() -> None:
        session = Session()
        assert await session.ask(opcode, body, nodeid=nodeid) == Reply(number, b"")
        await session.end()

    ask()


@pytest.mark.parametrize("opcode", [*SERVED])
def test_a_malformed_request_gets_one_answer(opcode: Opcode) -> None:
    """EINVAL, in the log too; nothing for those that wait for nothing."""

    @on_loop("request_failed")
    async def ask() -> None:
        session = Session()
        answered = SERVED[opcode].replies
        session.kernel.send(frame(opcode, b"\1\2\3"), answered=answered)
        await session.kernel.quiet()
        given = session.kernel.channel.replies
        assert given == ({2: [Reply(errno.EINVAL, b"")]} if answered else {})
        await session.end()

    ask()


@pytest.mark.parametrize("size", [0, 1, 39])
def test_what_has_no_header_has_nobody_to_answer(size: int) -> None:
    @on_loop("malformed_request")
    async def ask() -> None:
        session = Session()
        session.kernel.adapter.dispatch(memoryview(frame(Opcode.STATFS)[:size]))
        assert session.kernel.adapter.requests == 1
        await session.end()

    ask()


# (what is asked, the store's operation that fails, its fault): errno
FAILURES: list[tuple[Opcode, bytes, str, Fault, int]] = [
    (Opcode.LOOKUP, b"x\0", "head", Fault.FORBIDDEN, errno.EACCES),
    (Opcode.LOOKUP, b"x\0", "list_page", Fault.THROTTLED, errno.EIO),
    (Opcode.MKDIR, bytes(8) + b"x\0", "put", Fault.QUOTA, errno.EDQUOT),
    (Opcode.UNLINK, b"file\0", "delete", Fault.FORBIDDEN, errno.EACCES),
]


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: f"{case[0].name} {case[2]}")
def test_failures_of_the_store(case: tuple[Opcode, bytes, str, Fault, int]) -> None:
    opcode, body, operation, fault, number = case

    @on_loop("request_failed")
    async def ask() -> None:
        session = Session()
        parent = await session.lookup(b"d")
        session.bucket.fail(operation, StoreError(fault, "not today"))
        assert await session.ask(opcode, body, nodeid=parent) == Reply(number, b"")
        assert await session.ask(opcode, body, nodeid=parent) != Reply(number, b"")
        await session.end()

    ask()


@on_loop("request_failed")
async def test_a_failed_read_is_answered_once() -> None:
    session = Session()
    file = await session.lookup(b"file", await session.lookup(b"d"))
    handle = await session.opened(file)
    session.bucket.fail("get_range", StoreError(Fault.UNREACHABLE, "no network"))
    reply = await session.ask(Opcode.READ, read_in(handle, 0, 4096), nodeid=file)
    assert reply == Reply(errno.EIO, b"")
    await session.ask(Opcode.RELEASE, release_in(handle), nodeid=file)
    await session.end()


@on_loop("request_failed")
async def test_release_is_answered_although_storing_failed() -> None:
    """The kernel asks for no reason; close(2) was told by FLUSH."""
    session = Session()
    body = pack("<IIII", os.O_WRONLY, stat.S_IFREG, 0, 0) + b"new\0"
    await session.ask(Opcode.CREATE, body)
    await session.ask(Opcode.WRITE, write_in(1, 0, b"x"), nodeid=2)
    session.bucket.fail_all("put", StoreError(Fault.FORBIDDEN, "read only"))
    assert await session.ask(Opcode.FLUSH, release_in(1), nodeid=2) == Reply(errno.EACCES, b"")
    assert await session.ask(Opcode.RELEASE, release_in(1), nodeid=2) == OK
    await session.end()


# -- signals ---------------------------------------------------------------------------------------

INTERRUPTED = Reply(errno.EINTR, b"")


def interrupt(session: Session, unique: int) -> None:
    session.kernel.send(
        frame(Opcode.INTERRUPT, pack("<Q", unique), unique=unique | 1), answered=False
    )


async def interrupted(
    session: Session, requests: Iterable[tuple[Opcode, bytes]], *, turns: int, nodeid: int = 1
) -> list[Reply]:
    """Make requests, interrupt each after so many turns of the loop; return the replies."""
    given: list[Reply] = []
    for number, (opcode, body) in enumerate(requests):
        unique = 5000 + 2 * number
        session.kernel.send(frame(opcode, body, unique=unique, nodeid=nodeid))
        await settle(turns)
        interrupt(session, unique)
        interrupt(session, unique)  # another signal
        await settle()
        given += session.kernel.channel.replies[unique]
    return given


@pytest.mark.parametrize("turns", [0, 1, 50])
def test_looking_can_be_interrupted(turns: int) -> None:
    """Also in the moment it began: both requests may come with one look at the device."""

    @on_loop()
    async def ask() -> None:
        session = Session(metadata_ttl="0")
        file = await session.lookup(b"file", await session.lookup(b"d"))
        await session.ask(Opcode.OPENDIR, bytes(8))
        session.bucket.hold("head")
        session.bucket.hold("list_page")
        names = [
            (Opcode.LOOKUP, b"a\0"),
            (Opcode.READDIR, read_in(1, 3, 99)),
            (Opcode.READDIRPLUS, read_in(1, 3, 999)),
        ]
        assert await interrupted(session, names, turns=turns) == [INTERRUPTED] * 3
        files = [(Opcode.GETATTR, bytes(16)), (Opcode.OPEN, bytes(8))]
        assert await interrupted(session, files, turns=turns, nodeid=file) == [INTERRUPTED] * 2
        assert len(session.fs.files) == 0
        session.bucket.let_go("head")
        session.bucket.let_go("list_page")
        await session.ask(Opcode.RELEASEDIR, release_in(1))
        await session.end()

    ask()


@pytest.mark.parametrize("turns", [0, 1, 50])
def test_reading_can_be_interrupted(turns: int) -> None:
    @on_loop()
    async def ask() -> None:
        session = Session()
        file = await session.lookup(b"file", await session.lookup(b"d"))
        handle = await session.opened(file)
        session.bucket.hold("get_range")
        request = (Opcode.READ, read_in(handle, 0, 4096))
        given = await interrupted(session, [request], turns=turns, nodeid=file)
        assert given == [INTERRUPTED]
        session.bucket.let_go("get_range")
        reply = await session.ask(*request, nodeid=file)
        assert reply == Reply(0, b"hello world")
        await session.ask(Opcode.RELEASE, release_in(handle), nodeid=file)
        await session.end()

    ask()


@pytest.mark.parametrize("turns", [0, 1, 50])
def test_changing_cannot_be_interrupted(turns: int) -> None:
    """What is half done is done to its end; a signal must not leave a marker nobody knows of."""

    @on_loop()
    async def ask() -> None:
        session = Session()
        session.bucket.hold("put")
        requests = [(Opcode.MKDIR, bytes(8) + b"dir\0")]
        assert await interrupted(session, requests, turns=turns) == []
        session.bucket.let_go("put")
        await session.kernel.quiet()
        (given,) = session.kernel.channel.replies[5000]
        assert not given.error
        assert session.bucket.stored("p/dir/") is not None
        await session.end()

    ask()


@on_loop()
async def test_an_interrupt_that_comes_too_late() -> None:
    session = Session()
    session.kernel.send(frame(Opcode.STATFS, unique=4))
    interrupt(session, 4)
    interrupt(session, 6)
    await session.kernel.quiet()
    assert len(session.kernel.channel.replies[4]) == 1
    await session.end()


@on_loop()
async def test_at_the_end_nobody_who_only_looks_is_waited_for() -> None:
    session = Session()
    session.bucket.hold("head")
    session.kernel.send(frame(Opcode.LOOKUP, b"a\0", unique=4))
    session.kernel.send(frame(Opcode.MKDIR, bytes(8) + b"dir\0", unique=6))
    await settle()
    session.kernel.send(frame(Opcode.LOOKUP, b"b\0", unique=8))  # not even begun
    session.bucket.let_go("head")
    await session.kernel.adapter.drain()
    assert session.kernel.channel.replies[4] == [INTERRUPTED]
    assert session.kernel.channel.replies[8] == [INTERRUPTED]
    assert session.bucket.stored("p/dir/") is not None
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
