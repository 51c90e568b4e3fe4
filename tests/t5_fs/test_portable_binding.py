"""libfuse and the loop: the library itself, asked in the kernel's protocol over a pair of sockets.

To libfuse a socket with boundaries between messages is as good as /dev/fuse.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from struct import pack, unpack_from

import pytest

from fuse_s3_worker.fuse.abi import IN_HEADER, OUT_HEADER, Opcode
from fuse_s3_worker.portable import library
from fuse_s3_worker.portable.adapter import OPERATIONS, FailedError, PortableAdapter
from support.kernel import frame
from support.loops import run
from support.pattern import pattern
from support.tree import Tree

library.load()  # before what needs it is imported

from fuse_s3_worker.portable import binding  # noqa: E402
from fuse_s3_worker.portable.binding import LibfuseServer  # noqa: E402

INIT = pack("<IIII", 7, 31, 1 << 17, 0xFFFFFFFF)
ATTR = 16  # of fuse_attr_out: where the attributes begin


class Wire:
    """The kernel's end."""

    def __init__(self, t: Tree) -> None:
        self.t = t
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)  # as the helper opens the device
        self.adapter = PortableAdapter(t.fs)
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.server = LibfuseServer(theirs.detach(), self.adapter)
        self.server.start(self.ended.set_result)
        self.ours.setblocking(False)
        self._uniques = iter(range(2, 1000, 2))

    async def send(self, opcode: Opcode, body: bytes = b"", node: int = 1) -> int:
        """Make a request; return its number."""
        unique = next(self._uniques)
        request = frame(opcode, body, unique=unique, nodeid=node)
        await asyncio.get_running_loop().sock_sendall(self.ours, request)
        return unique

    async def reply(self) -> tuple[int, int, bytes]:
        """Return the next answer: number, errno, body."""
        data = await asyncio.get_running_loop().sock_recv(self.ours, 1 << 18)
        _, error, unique = OUT_HEADER.unpack_from(data)
        return unique, -error, data[OUT_HEADER.size :]

    async def ask(self, opcode: Opcode, body: bytes = b"", node: int = 1) -> tuple[int, bytes]:
        """Make a request; return errno and body of its answer."""
        unique = await self.send(opcode, body, node)
        answered, error, answer = await self.reply()
        assert answered == unique
        return error, answer

    async def lookup(self, name: bytes) -> int:
        """Look a name up; return libfuse's node."""
        error, body = await self.ask(Opcode.LOOKUP, name + b"\0")
        assert error == 0
        return int(unpack_from("<Q", body)[0])


@asynccontextmanager
async def wire(**objects: bytes) -> AsyncIterator[Wire]:
    """Have libfuse serve a bucket in memory; in the end it has ended, and nothing is left."""
    t = Tree(objects)
    made = Wire(t)
    error, body = await made.ask(Opcode.INIT, INIT)
    assert (error, unpack_from("<I", body)[0]) == (0, 7)
    await asyncio.wait_for(made.adapter.initialized.wait(), 10)
    yield made
    made.ours.close()
    assert not await asyncio.wait_for(made.ended, 30)  # a device that ends without a word
    made.adapter.close()
    await t.finish()


def test_it_serves() -> None:
    async def main() -> None:
        async with wire(x=pattern(100_000)) as w:
            node = await w.lookup(b"x")
            error, body = await w.ask(Opcode.GETATTR, pack("<IIQ", 0, 0, 0), node)
            assert (error, unpack_from("<QQ", body, ATTR)[1]) == (0, 100_000)
            error, body = await w.ask(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node)
            handle, flags = unpack_from("<QI", body)
            assert flags == 1  # FOPEN_DIRECT_IO, and not KEEP_CACHE
            read = pack("<QQIIQII", handle, 5, 70_000, 0, 0, 0, 0)
            assert await w.ask(Opcode.READ, read, node) == (0, pattern(100_000)[5:70_005])
            await w.ask(Opcode.RELEASE, pack("<QIIQ", handle, 0, 0, 0), node)
            assert (await w.ask(Opcode.LOOKUP, b"missing\0"))[0] == errno.ENOENT
            assert (await w.ask(Opcode.LOOKUP, b"\xff\0"))[0] == errno.EILSEQ
            assert (await w.ask(Opcode.STATFS))[0] == 0

    run(main())


def test_what_is_written_has_the_flags_of_its_creation() -> None:
    """[S47] All descriptors that write one file write one new version of it."""

    async def main() -> None:
        async with wire() as w:
            flags = os.O_WRONLY | os.O_APPEND
            body = pack("<IIII", flags, stat.S_IFREG | 0o644, 0o022, 0) + b"log\0"
            error, made = await w.ask(Opcode.CREATE, body)
            assert error == 0
            node, handle = unpack_from("<Q", made)[0], unpack_from("<Q", made, 128)[0]
            for word in (b"one ", b"two "):  # both where the file began
                write = pack("<QQIIQII", handle, 0, len(word), 0, 0, 0, 0) + word
                assert (await w.ask(Opcode.WRITE, write, node))[0] == 0
            flush = pack("<QIIQ", handle, 0, 0, 0)
            assert (await w.ask(Opcode.FLUSH, flush, node))[0] == 0
            assert w.t.store.read("log") == b"one two "
            await w.ask(Opcode.RELEASE, flush, node)

    run(main())


def test_an_interrupt_ends_a_read() -> None:
    """[S74] A program that waits while it looks up, opens, lists or reads can be interrupted by a
    signal; storing and deleting are finished.
    """

    async def main() -> None:
        async with wire(x=pattern(1000)) as w:
            w.t.store.by_hand = True
            node = await w.lookup(b"x")
            _, body = await w.ask(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node)
            (handle,) = unpack_from("<Q", body)
            waiting = await w.send(Opcode.READ, pack("<QQIIQII", handle, 0, 10, 0, 0, 0, 0), node)
            await w.send(Opcode.INTERRUPT, pack("<Q", waiting))
            assert await w.reply() == (waiting, errno.EINTR, b"")
            await w.ask(Opcode.RELEASE, pack("<QIIQ", handle, 0, 0, 0), node)

    run(main())


def test_times_are_set_alone() -> None:
    """Neither UTIME_OMIT nor UTIME_NOW is a number of nanoseconds."""

    async def main() -> None:
        async with wire(x=b"") as w:
            node = await w.lookup(b"x")
            before = unpack_from("<6Q", (await w.ask(Opcode.GETATTR, bytes(16), node))[1], ATTR)
            for valid, seconds in ((1 << 4, 7), (1 << 5, 8)):  # FATTR_ATIME, FATTR_MTIME
                times = (seconds, 0) if valid == 1 << 4 else (0, seconds)
                setattr_in = pack("<IIQQQQQQIIIIIIII", valid, 0, 0, 0, 0, *times, *[0] * 9)
                error, body = await w.ask(Opcode.SETATTR, setattr_in, node)
                assert error == 0
                shown = unpack_from("<6Q", body, ATTR)
                assert shown[3:5] == ((7, before[4]) if valid == 1 << 4 else (7, 8))

    run(main())


def test_what_leaves_python_is_no_success(caplog: pytest.LogCaptureFixture) -> None:
    """C would take 0 for what a callback does not return: that a file is stored, say."""

    def raising(error: BaseException) -> int:
        raise error

    assert binding._answer(lambda: None) == 0
    assert binding._answer(lambda: 12) == 12
    assert binding._answer(raising, FailedError(errno.EACCES)) == -errno.EACCES
    assert not caplog.records
    for error in (ValueError("x"), KeyboardInterrupt(), asyncio.CancelledError(), OSError(2, "x")):
        with caplog.at_level(logging.ERROR):
            assert binding._answer(raising, error) == -errno.EIO
        assert caplog.records.pop().message == "this is a bug"


def test_every_operation_is_in_the_table() -> None:
    """Struct fuse_operations has what is served, with fusepy's two names for two of them."""
    table = binding._Calls(lambda *_: 0).table()
    named = {name for name, *_ in table._fields_ if bool(getattr(table, name))}
    flags = {name for name in named if name.startswith("flag_")}
    assert named - flags == {*OPERATIONS, "fgetattr", "ftruncate"}
    assert flags == {"flag_nullpath_ok", "flag_nopath", "flag_utime_omit_ok"}


def test_a_library_that_is_missing_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fuse", "fuse_s3_worker.portable.binding"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(library, "_NAME", "libfuse.so.none")
    with pytest.raises(library.MissingLibraryError, match=r"libfuse2t64 on Debian 13") as missing:
        library.load()
    assert "libfuse.so.none" in str(missing.value)
    monkeypatch.undo()
    library.load()
    assert IN_HEADER.size == 40
