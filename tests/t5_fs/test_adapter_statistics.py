"""What the adapter counts: each request once, whoever answers it, and how."""

import errno
import os
from struct import pack

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fuse.abi import Opcode
from support.kernel import Kernel, frame
from support.pattern import pattern
from support.tree import Tree
from support.virtualtime import on_loop, settle

REFUSED = StoreError(Fault.FORBIDDEN, "no")


def counted(adapter: Adapter) -> dict[int, int]:
    return {opcode: times.number for opcode, times in adapter.statistics.by_opcode()}


async def opened(kernel: Kernel, name: bytes, flags: int = os.O_RDONLY) -> tuple[int, int]:
    """Look a file up and open it; return node and handle."""
    entry = await kernel.ask(Opcode.LOOKUP, name + b"\0")
    node = int.from_bytes(entry.body[:8], "little")
    reply = await kernel.ask(Opcode.OPEN, pack("<II", flags, 0), nodeid=node)
    return node, int.from_bytes(reply.body[:8], "little")


def read_in(handle: int, offset: int, size: int) -> bytes:
    return pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


async def close(kernel: Kernel, node: int, handle: int) -> None:
    await kernel.ask(Opcode.RELEASE, pack("<QIIQ", handle, 0, 0, 0), nodeid=node)
    await kernel.forget(node)


@on_loop()
async def test_every_request_is_counted_once_whoever_answers_it() -> None:
    t = Tree({"a": pattern(100)})
    kernel = Kernel(t.fs)
    node, handle = await opened(kernel, b"a")
    for offset in (0, 50, 100):  # waits for the store, is there already, is behind the end
        await kernel.ask(Opcode.READ, read_in(handle, offset, 50), nodeid=node)
    await kernel.ask(Opcode.GETATTR, pack("<IIQ", 0, 0, 0), nodeid=node)
    await close(kernel, node, handle)
    assert counted(kernel.adapter) == {
        Opcode.LOOKUP: 1, Opcode.OPEN: 1, Opcode.READ: 3, Opcode.GETATTR: 1, Opcode.RELEASE: 1,
        Opcode.FORGET: 1,
    }  # fmt: skip
    assert sum(counted(kernel.adapter).values()) == kernel.adapter.requests
    assert kernel.adapter.statistics.bytes_read == 100
    assert not kernel.adapter.statistics.waiting
    assert not kernel.adapter.statistics.errors
    t.fs.directories.close()
    await t.fs.close()


@on_loop()
async def test_what_is_written_is_counted_in_bytes() -> None:
    t = Tree({})
    kernel = Kernel(t.fs)
    made = await kernel.ask(Opcode.CREATE, pack("<IIII", os.O_RDWR, 0o100644, 0, 0) + b"new\0")
    node = int.from_bytes(made.body[:8], "little")
    handle = int.from_bytes(made.body[128:136], "little")
    head = pack("<QQIIQII", handle, 0, 300, 0, 0, 0, 0)
    await kernel.ask(Opcode.WRITE, head + b"x" * 300, nodeid=node)
    (dirty,) = t.fs.dirty_files()
    assert (dirty.key, dirty.size, dirty.problem) == ("new", 300, "")
    assert not dirty.closed
    await kernel.ask(Opcode.FLUSH, pack("<QIIQ", handle, 0, 0, 0), nodeid=node)
    await close(kernel, node, handle)
    assert kernel.adapter.statistics.bytes_written == 300
    assert not [*t.fs.dirty_files()]
    await t.fs.close()


@on_loop("request_failed")
async def test_failures_are_counted_by_errno_and_as_requests() -> None:
    t = Tree({"a": pattern(100)})
    kernel = Kernel(t.fs)
    node, handle = await opened(kernel, b"a")
    t.store.fail_all("peek", REFUSED)
    t.store.fail_all("get_range", REFUSED)
    reply = await kernel.ask(Opcode.READ, read_in(handle, 0, 50), nodeid=node)
    assert reply.error == errno.EACCES
    reply = await kernel.ask(Opcode.READ, read_in(handle + 1, 0, 50), nodeid=node)
    assert reply.error == errno.EBADF
    reply = await kernel.ask(Opcode.READ, b"short", nodeid=node)
    assert reply.error == errno.EINVAL
    kernel.send(frame(Opcode.GETLK, unique=1002))
    assert kernel.adapter.statistics.errors == {
        errno.EACCES: 1, errno.EBADF: 1, errno.EINVAL: 1, errno.ENOSYS: 1,
    }  # fmt: skip
    assert counted(kernel.adapter)[Opcode.READ] >= 2
    assert not kernel.adapter.statistics.waiting
    await close(kernel, node, handle)
    await t.fs.close()


@on_loop()
async def test_an_interrupted_read_is_over() -> None:
    t = Tree({"a": pattern(100)})
    kernel = Kernel(t.fs)
    node, handle = await opened(kernel, b"a")
    t.store.hold("get_range")
    t.store.hold("peek")
    unique = 4000
    kernel.send(frame(Opcode.READ, read_in(handle, 0, 50), unique=unique, nodeid=node))
    await settle()
    assert list(kernel.adapter.statistics.waiting) == [unique]
    kernel.tell(Opcode.INTERRUPT, pack("<Q", unique))
    await settle()
    assert kernel.channel.replies[unique][0].error == errno.EINTR
    assert not kernel.adapter.statistics.waiting
    assert kernel.adapter.statistics.errors == {errno.EINTR: 1}
    assert counted(kernel.adapter)[Opcode.READ] == 1
    t.store.let_go("get_range")
    t.store.let_go("peek")
    await close(kernel, node, handle)
    await t.fs.close()


def test_the_table_of_opcodes_fits_into_the_counts() -> None:
    from fuse_s3_worker.fuse.opcodes import SERVED  # noqa: PLC0415
    from fuse_s3_worker.statistics import KernelStatistics  # noqa: PLC0415

    assert max(SERVED) < len(KernelStatistics().counts)
