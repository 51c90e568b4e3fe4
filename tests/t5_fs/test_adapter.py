"""The skin between protocol and file system: references, pages that are kept, and interrupts.

That replies have the right bytes is tested with the protocol; here it is what they promise.
"""

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from struct import pack, unpack_from

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fuse.abi import DIRENT, FopenFlag, NotifyCode, Opcode
from support.kernel import Kernel, Reply, frame
from support.pattern import pattern
from support.tree import LIFETIME, Tree
from support.virtualtime import on_loop, run, settle

ENTRY_SIZE = 128  # fuse_entry_out with its attributes
REFUSED = StoreError(Fault.FORBIDDEN, "no")


class Mounted:
    """A kernel that keeps count of its references, as the real one does."""

    def __init__(self, objects: Mapping[str, bytes], lifetime: float) -> None:
        self.t = Tree(objects, lifetime=lifetime)
        self.kernel = Kernel(self.t.fs)
        self.references: Counter[int] = Counter()
        self.files: list[int] = []

    def _noted(self, reply: Reply) -> Reply:
        """Count the reference that a reply with an entry brings."""
        node = int.from_bytes(reply.body[:8], "little")
        if not reply.error and node:
            self.references[node] += 1
        return reply

    async def lookup(self, name: bytes, parent: int = 1) -> int:
        """Look a name up; return its node, 0 for none."""
        reply = self._noted(await self.kernel.ask(Opcode.LOOKUP, name + b"\0", nodeid=parent))
        assert not reply.error
        return int.from_bytes(reply.body[:8], "little")

    async def make(self, opcode: Opcode, name: bytes, parent: int = 1) -> Reply:
        """Make a file or a directory."""
        head = {
            Opcode.MKDIR: pack("<II", 0o755, 0),
            Opcode.MKNOD: pack("<IIII", 0o100644, 0, 0, 0),
            Opcode.CREATE: pack("<IIII", os.O_RDWR, 0o100644, 0, 0),
        }[opcode]
        reply = self._noted(await self.kernel.ask(opcode, head + name + b"\0", nodeid=parent))
        if opcode is Opcode.CREATE and not reply.error:
            self.files.append(int.from_bytes(reply.body[ENTRY_SIZE : ENTRY_SIZE + 8], "little"))
        return reply

    async def open(self, node: int, flags: int = os.O_RDONLY) -> FopenFlag:
        """Open a file; return what the kernel may do with it."""
        reply = await self.kernel.ask(Opcode.OPEN, pack("<II", flags, 0), nodeid=node)
        assert not reply.error
        handle, given = unpack_from("<QI", reply.body)
        self.files.append(handle)
        return FopenFlag(given)

    async def close(self, *, flush: bool = True) -> int:
        """Close the file that was opened last; return what close(2) says."""
        handle = self.files.pop()
        error = 0
        if flush:
            error = (await self.kernel.ask(Opcode.FLUSH, pack("<QIIQ", handle, 0, 0, 0))).error
        await self.kernel.ask(Opcode.RELEASE, pack("<QIIQ", handle, 0, 0, 0))
        return error

    async def write(self, offset: int, data: bytes) -> int:
        """Write to the file that was opened last; return the errno."""
        body = pack("<QQIIQII", self.files[-1], offset, len(data), 0, 0, 0, 0) + data
        return (await self.kernel.ask(Opcode.WRITE, body)).error

    async def read(self, offset: int, size: int) -> bytes:
        """Read from the file that was opened last."""
        body = pack("<QQIIQII", self.files[-1], offset, size, 0, 0, 0, 0)
        return (await self.kernel.ask(Opcode.READ, body)).body

    async def readdirplus(self, handle: int, offset: int, size: int) -> list[tuple[bytes, int]]:
        """Read a directory; return names and nodes, and count the references."""
        body = pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)
        reply = await self.kernel.ask(Opcode.READDIRPLUS, body)
        assert not reply.error
        found, at = [], 0
        while at < len(reply.body):
            node = int.from_bytes(reply.body[at : at + 8], "little")
            _, _, length, _ = DIRENT.unpack_from(reply.body, at + ENTRY_SIZE)
            begin = at + ENTRY_SIZE + DIRENT.size
            found.append((reply.body[begin : begin + length], node))
            self.references[node] += bool(node)
            at = begin + -(-length // 8) * 8
        return found

    def start(self, opcode: Opcode, body: bytes, *, node: int = 1, unique: int = 1000) -> None:
        """Make a request and do not wait for the answer."""
        self.kernel.send(frame(opcode, body, unique=unique, nodeid=node))

    def interrupt(self, unique: int = 1000) -> None:
        """Say that whoever made a request was sent a signal."""
        self.kernel.tell(Opcode.INTERRUPT, pack("<Q", unique))

    def answer(self, unique: int = 1000) -> Reply | None:
        """Return the answer to a request, if there is one by now."""
        answers = self.kernel.channel.replies[unique]
        return answers[0] if answers else None

    async def forget_all(self) -> None:
        """Give all references back, in one request."""
        pairs = b"".join(pack("<QQ", node, count) for node, count in self.references.items())
        self.kernel.tell(Opcode.BATCH_FORGET, pack("<II", len(self.references), 0) + pairs)
        self.references.clear()


@asynccontextmanager
async def mounted(
    objects: Mapping[str, bytes] | None = None, *, lifetime: float = LIFETIME
) -> AsyncIterator[Mounted]:
    """Set up; in the end every reference is given back, and then there are no nodes left."""
    made = Mounted(objects or {}, lifetime)
    yield made
    while made.files:
        await made.close(flush=False)
    await made.forget_all()
    await made.kernel.adapter.drain()
    await made.t.finish()
    assert made.kernel.channel.violations == []
    assert made.kernel.channel.waiting == []


# -- references -----------------------------------------------------------------------------------


@on_loop()
async def test_each_answer_with_a_node_is_one_reference() -> None:
    async with mounted({"file": b"", "d/x": b""}) as m:
        node = await m.lookup(b"file")
        for _ in range(3):
            assert await m.lookup(b"file") == node
        assert await m.lookup(b"nothing") == 0
        made = [await m.make(op, b"%d" % op) for op in (Opcode.MKDIR, Opcode.MKNOD, Opcode.CREATE)]
        assert not any(reply.error for reply in made)
        assert m.references[node] == 4
        assert m.t.fs.statistics().nodes == 1 + 4
        await m.close()
        await m.kernel.forget(node, 3)
        assert m.t.fs.statistics().nodes == 1 + 4
        await m.kernel.forget(node)
        assert m.t.fs.statistics().nodes == 1 + 3
        del m.references[node]


@pytest.mark.parametrize("opcode", [Opcode.MKDIR, Opcode.MKNOD, Opcode.CREATE])
def test_an_answer_that_is_an_error_is_none(opcode: Opcode) -> None:
    async def body() -> None:
        async with mounted({"file": b""}) as m:
            m.t.store.fail_all("put", REFUSED)
            name = b"n" * 300 if opcode is Opcode.CREATE else b"new"
            assert (await m.make(opcode, name)).error
            assert m.t.fs.statistics().nodes == 1
            m.t.store.mend()

    run(body(), may_log=["request_failed"])


@pytest.mark.parametrize("size", [4096, 600, 100_000])
def test_records_that_did_not_fit_are_no_references(size: int) -> None:
    async def body() -> None:
        names = [b"%02d" % number for number in range(30)]
        async with mounted({name.decode(): b"" for name in names}) as m:
            reply = await m.kernel.ask(Opcode.OPENDIR, pack("<II", 0, 0))
            handle = int.from_bytes(reply.body[:8], "little")
            found: list[tuple[bytes, int]] = []
            while fresh := await m.readdirplus(handle, len(found), size):
                found += fresh
                assert m.t.fs.statistics().nodes == 1 + max(len(found) - 2, 0)
            assert [name for name, _ in found] == [b".", b"..", *names]
            assert [node for _, node in found[:2]] == [0, 0]
            assert len({node for _, node in found[2:]}) == 30
            await m.kernel.ask(Opcode.RELEASEDIR, pack("<QIIQ", handle, 0, 0, 0))

    run(body())


@on_loop()
async def test_a_record_is_a_reference_like_any_other() -> None:
    async with mounted({"file": b""}) as m:
        reply = await m.kernel.ask(Opcode.OPENDIR, pack("<II", 0, 0))
        handle = int.from_bytes(reply.body[:8], "little")
        node = dict(await m.readdirplus(handle, 0, 4096))[b"file"]
        assert await m.lookup(b"file") == node
        await m.kernel.forget(node)
        assert m.t.fs.statistics().nodes == 2
        await m.kernel.forget(node)
        assert m.t.fs.statistics().nodes == 1
        m.references.clear()
        await m.kernel.ask(Opcode.RELEASEDIR, pack("<QIIQ", handle, 0, 0, 0))


@on_loop()
async def test_a_record_of_a_name_that_was_removed_meanwhile_has_no_node() -> None:
    async with mounted({"a": b"", "b": b""}) as m:
        reply = await m.kernel.ask(Opcode.OPENDIR, pack("<II", 0, 0))
        handle = int.from_bytes(reply.body[:8], "little")
        await m.readdirplus(handle, 0, 400)  # both are listed, and not more than the dots taken
        assert not (await m.kernel.ask(Opcode.UNLINK, b"a\0")).error
        found = dict(await m.readdirplus(handle, 2, 4096))
        assert found.get(b"a", 0) == 0
        assert found[b"b"] != 0
        await m.kernel.ask(Opcode.RELEASEDIR, pack("<QIIQ", handle, 0, 0, 0))


@on_loop()
async def test_a_file_that_was_forgotten_while_it_is_open_can_be_used() -> None:
    async with mounted({"file": b"0123"}) as m:
        node = await m.lookup(b"file")
        await m.open(node, os.O_RDWR)
        await m.forget_all()
        assert await m.write(4, b"4567") == 0
        assert await m.close() == 0
        assert m.t.store.read("file") == b"01234567"
        assert m.t.fs.statistics().nodes == 1


# -- pages that are kept --------------------------------------------------------------------------


@on_loop()
async def test_pages_are_kept_from_open_to_open_while_the_object_is_the_same() -> None:
    async with mounted({"file": b"old"}, lifetime=0.0) as m:
        node = await m.lookup(b"file")
        for expected in (False, True):
            given = await m.open(node)
            assert (FopenFlag.KEEP_CACHE in given) is expected
            assert FopenFlag.NOFLUSH in given
            assert await m.read(0, 3) == b"old"
            assert await m.close(flush=False) == 0
        m.t.store.write("file", b"new")
        assert FopenFlag.KEEP_CACHE not in await m.open(node)


@on_loop()
async def test_who_writes_is_asked_at_each_close() -> None:
    async with mounted({"file": b"old"}) as m:
        node = await m.lookup(b"file")
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            assert FopenFlag.NOFLUSH not in await m.open(node, flags)
            assert await m.close() == 0
        # what was written went through the pages, so they are what is stored
        assert FopenFlag.KEEP_CACHE in await m.open(node)


@on_loop()
async def test_a_created_file_is_flushed_and_then_kept() -> None:
    async with mounted() as m:
        reply = await m.make(Opcode.CREATE, b"new")
        given = FopenFlag(unpack_from("<I", reply.body, ENTRY_SIZE + 8)[0])
        assert given == FopenFlag(0)
        assert await m.write(0, b"data") == 0
        assert await m.close() == 0
        assert FopenFlag.KEEP_CACHE in await m.open(await m.lookup(b"new"))


@on_loop()
async def test_the_kernel_is_told_of_a_new_version_without_a_wait_for_its_pages() -> None:
    """Dropping pages would wait for the READ that is under way, which waits for us."""
    async with mounted({"file": b"old"}) as m:
        node = await m.lookup(b"file")
        await m.open(node)
        m.t.store.write("file", b"newer")
        m.start(Opcode.READ, pack("<QQIIQII", m.files[-1], 0, 4096, 0, 0, 0, 0), node=node)
        await settle()
        assert m.answer() == Reply(0, b"newer")
        ((code, body),) = m.kernel.channel.notifications
        assert code == NotifyCode.INVAL_INODE
        assert unpack_from("<Qqq", body) == (node, -1, 0)


# -- interrupts -----------------------------------------------------------------------------------


@on_loop()
async def test_an_interrupted_read_is_answered_and_the_next_one_served() -> None:
    async with mounted({"file": b"data"}) as m:
        node = await m.lookup(b"file")
        await m.open(node)
        m.t.store.by_hand = True
        read = pack("<QQIIQII", m.files[-1], 0, 4096, 0, 0, 0, 0)
        m.start(Opcode.READ, read, node=node)
        m.start(Opcode.READ, read, node=node, unique=1002)
        await settle()
        m.interrupt()
        assert m.answer() == Reply(errno.EINTR, b"")
        assert m.answer(1002) is None
        m.t.store.arrivals[0].feed()
        assert m.answer(1002) == Reply(0, b"data")


@on_loop()
async def test_an_open_can_be_interrupted_and_leaves_nothing() -> None:
    async with mounted({"file": b"data"}, lifetime=0.0) as m:
        node = await m.lookup(b"file")
        m.t.store.hold("peek")
        m.start(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node=node)
        await settle()
        m.interrupt()
        await settle()
        assert m.answer() == Reply(errno.EINTR, b"")
        m.t.store.let_go("peek")
        await settle()
        assert m.t.fs.statistics().open_files == 0


@on_loop()
async def test_an_open_that_truncates_cannot_be_interrupted() -> None:
    """It ends what another handle has sent already; half of that would be neither."""
    async with mounted() as m:
        await m.make(Opcode.CREATE, b"file")
        node = await m.lookup(b"file")
        for at in range(0, 20 * MIB, MIB):
            assert await m.write(at, pattern(20 * MIB)[at : at + MIB]) == 0
        m.t.store.hold("abort_multipart")
        m.start(Opcode.OPEN, pack("<II", os.O_WRONLY | os.O_TRUNC, 0), node=node)
        await settle()
        m.interrupt()
        await settle()
        assert m.answer() is None
        m.t.store.let_go("abort_multipart")
        await settle()
        answer = m.answer()
        assert answer is not None
        assert not answer.error
        m.files.append(int.from_bytes(answer.body[:8], "little"))
        assert m.t.store.uploads == {}
        assert await m.write(0, b"new") == 0
        assert await m.close() == 0
        assert m.t.store.read("file") == b"new"


@on_loop()
async def test_storing_cannot_be_interrupted() -> None:
    async with mounted() as m:
        await m.make(Opcode.CREATE, b"file")
        assert await m.write(0, b"data") == 0
        m.t.store.hold("put")
        m.start(Opcode.FSYNC, pack("<QII", m.files[-1], 0, 0))
        await settle()
        m.interrupt()
        await settle()
        assert m.answer() is None
        m.t.store.let_go("put")
        await settle()
        assert m.answer() == Reply(0, b"")
        assert m.t.store.read("file") == b"data"


# -- the end --------------------------------------------------------------------------------------


@on_loop()
async def test_the_end_waits_for_what_was_closed_and_for_nothing_else() -> None:
    async with mounted({"other": b""}, lifetime=0.0) as m:
        await m.make(Opcode.CREATE, b"file")
        assert await m.write(0, b"data") == 0
        m.t.store.hold("put")
        m.t.store.hold("head")
        m.start(Opcode.RELEASE, pack("<QIIQ", m.files.pop(), 0, 0, 0))
        m.start(Opcode.LOOKUP, b"other\0", unique=1002)
        await settle()
        ending = asyncio.create_task(m.kernel.adapter.drain())
        await settle()
        assert m.answer(1002) == Reply(errno.EINTR, b"")
        assert not ending.done()
        m.t.store.let_go("put")
        await ending
        assert m.t.store.read("file") == b"data"
        m.t.store.let_go("head")
