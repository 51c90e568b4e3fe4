"""Requests that cannot be served, through the adapter and a whole file system: one errno each.

Nobody serves them, what they name is not there, they have no form, or the store fails.
"""

import errno
import os
import stat
from struct import pack

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fuse.abi import Fattr, Opcode
from fuse_s3_worker.fuse.opcodes import SERVED
from support.dialogue import OK, Session, read_in, release_in, write_in
from support.kernel import Reply, frame
from support.virtualtime import on_loop

# -- requests that are refused ---------------------------------------------------------------------


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


# -- failures of the store -------------------------------------------------------------------------


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
