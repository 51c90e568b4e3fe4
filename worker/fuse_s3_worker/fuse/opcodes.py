"""What is served: one row for each opcode, and ENOSYS for every other.

The kernel remembers ENOSYS for most opcodes and does not ask again. LINK is in the table although
nothing can have two names: the kernel would say EPERM for ENOSYS, which looks as if somebody else
might.
"""

from collections.abc import Callable
from typing import NamedTuple

from fuse_s3_worker.fuse import linking, requests
from fuse_s3_worker.fuse.abi import Opcode

__all__ = ["SERVED", "Row"]


class Row(NamedTuple):
    """How one opcode is served.

    `handler` is the method of the adapter; it is called with the header and the decoded message.
    `replies` is False where the kernel waits for no answer; `interruptible` where a signal to
    the caller may end it half done: looking and reading, never changing or closing.
    """

    decode: Callable[[memoryview], requests.Message | linking.LinkingMessage]
    handler: str
    replies: bool = True
    interruptible: bool = False


SERVED: dict[int, Row] = {
    Opcode.LOOKUP: Row(requests.Named.decode, "lookup", interruptible=True),
    Opcode.FORGET: Row(requests.Forget.decode, "forget", replies=False),
    Opcode.GETATTR: Row(requests.Getattr.decode, "getattr", interruptible=True),
    Opcode.SETATTR: Row(requests.Setattr.decode, "setattr"),
    Opcode.READLINK: Row(requests.Empty.decode, "readlink", interruptible=True),
    Opcode.SYMLINK: Row(linking.Symlink.decode, "symlink"),
    Opcode.MKNOD: Row(requests.Mknod.decode, "mknod"),
    Opcode.MKDIR: Row(requests.Mkdir.decode, "mkdir"),
    Opcode.UNLINK: Row(requests.Named.decode, "unlink"),
    Opcode.RMDIR: Row(requests.Named.decode, "rmdir"),
    Opcode.RENAME: Row(requests.Rename.decode, "rename"),
    Opcode.LINK: Row(linking.Link.decode, "link"),
    Opcode.OPEN: Row(requests.Open.decode, "open", interruptible=True),
    Opcode.READ: Row(requests.Read.decode, "read", interruptible=True),
    Opcode.WRITE: Row(requests.Write.decode, "write"),
    Opcode.STATFS: Row(requests.Empty.decode, "statfs"),
    Opcode.RELEASE: Row(requests.Release.decode, "release"),
    Opcode.FSYNC: Row(requests.Fsync.decode, "fsync"),
    Opcode.SETXATTR: Row(linking.Setxattr.decode, "setxattr"),
    Opcode.GETXATTR: Row(linking.Getxattr.decode, "getxattr", interruptible=True),
    Opcode.LISTXATTR: Row(linking.Listxattr.decode, "listxattr", interruptible=True),
    Opcode.REMOVEXATTR: Row(linking.Removexattr.decode, "removexattr"),
    Opcode.FLUSH: Row(requests.Flush.decode, "flush"),
    Opcode.INIT: Row(requests.Init.decode, "init"),
    Opcode.OPENDIR: Row(requests.Open.decode, "opendir"),
    Opcode.READDIR: Row(requests.Read.decode, "readdir", interruptible=True),
    Opcode.RELEASEDIR: Row(requests.Release.decode, "releasedir"),
    Opcode.FSYNCDIR: Row(requests.Fsync.decode, "fsyncdir"),
    Opcode.ACCESS: Row(requests.Access.decode, "access"),
    Opcode.CREATE: Row(requests.Create.decode, "create"),
    Opcode.INTERRUPT: Row(requests.Interrupt.decode, "interrupt", replies=False),
    Opcode.DESTROY: Row(requests.Empty.decode, "destroy"),
    Opcode.BATCH_FORGET: Row(requests.BatchForget.decode, "batch_forget", replies=False),
    Opcode.FALLOCATE: Row(requests.Fallocate.decode, "fallocate"),
    Opcode.READDIRPLUS: Row(requests.Read.decode, "readdirplus", interruptible=True),
    Opcode.RENAME2: Row(requests.Rename.decode2, "rename"),
    Opcode.LSEEK: Row(requests.Lseek.decode, "lseek"),
    Opcode.COPY_FILE_RANGE: Row(requests.CopyFileRange.decode, "copy_file_range"),
    Opcode.COPY_FILE_RANGE_64: Row(requests.CopyFileRange.decode, "copy_file_range_64"),
}
