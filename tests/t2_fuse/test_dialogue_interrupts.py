"""Signals, through the adapter and a whole file system: what they end, and what they cannot."""

import errno
from collections.abc import Iterable
from struct import pack

import pytest

from fuse_s3_worker.fuse.abi import Opcode
from support.dialogue import Session, read_in, release_in
from support.kernel import Reply, frame
from support.virtualtime import on_loop, settle

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
