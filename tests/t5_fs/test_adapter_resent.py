"""Requests that the kernel has sent before, to a worker that did not live to answer them."""

import errno
from struct import pack

import pytest

from fuse_s3_worker.fs.nodes import ROOT_ID
from fuse_s3_worker.fuse.abi import UNIQUE_RESEND, Opcode
from support.kernel import Kernel, Reply, frame
from support.tree import Tree, tree
from support.virtualtime import on_loop, settle

# What is asked of the root, what the worker before had begun, and what that is without it.
REQUESTS: dict[Opcode, tuple[bytes, str, int]] = {
    Opcode.MKDIR: (pack("<II", 0o755, 0) + b"made\0", "make\0made/", errno.EEXIST),
    Opcode.MKNOD: (pack("<IIII", 0o100644, 0, 0, 0) + b"f\0", "make\0f", errno.EEXIST),
    Opcode.SYMLINK: (b"f\0f\0", "make\0f", errno.EEXIST),
    Opcode.UNLINK: (b"gone\0", "remove\0gone", errno.ENOENT),
    Opcode.RMDIR: (b"gone\0", "remove\0gone/", errno.ENOENT),
    Opcode.RENAME: (pack("<Q", ROOT_ID) + b"gone\0f\0", "rename\0gone\0f\0{f}", errno.ENOENT),
    Opcode.RENAME2: (
        pack("<QII", ROOT_ID, 0, 0) + b"gone\0f\0",
        "rename\0gone\0f\0{f}",
        errno.ENOENT,
    ),
}  # fmt: skip


async def answer(t: Tree, kernel: Kernel, opcode: Opcode, unique: int) -> Reply:
    kernel.send(frame(opcode, REQUESTS[opcode][0], unique=unique, nodeid=ROOT_ID))
    await settle()
    (reply,) = kernel.channel.replies[unique]
    if not reply.error and opcode in {Opcode.MKDIR, Opcode.MKNOD, Opcode.SYMLINK}:
        t.references[int.from_bytes(reply.body[:8], "little")] += 1
    return reply


@pytest.mark.parametrize("posix", [False, True], ids=["plain", "posix"])
@pytest.mark.parametrize("opcode", REQUESTS)
@on_loop()
async def test_what_was_done_is_no_error(opcode: Opcode, *, posix: bool) -> None:
    posix = posix or opcode is Opcode.SYMLINK  # there are no links without
    async with tree({"f": b"f", "made/": b""}, posix=posix) as t:
        kernel = Kernel(t.fs)
        node = await t.walk("f")
        _, begun, error = REQUESTS[opcode]
        t.fs._core.attempts.restore([begun.format(f=node)])
        assert (await answer(t, kernel, opcode, 1000)).error == error
        assert (await answer(t, kernel, opcode, 1000 | UNIQUE_RESEND)).error == 0
