"""The table of what is served."""

import inspect

import pytest

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.fuse import requests
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.fuse.opcodes import SERVED

# Everything else is ENOSYS, which the kernel remembers where it can do without.
OPCODES = (
    "LOOKUP FORGET GETATTR SETATTR READLINK SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK OPEN READ "
    "WRITE STATFS RELEASE FSYNC SETXATTR GETXATTR LISTXATTR REMOVEXATTR FLUSH INIT OPENDIR READDIR "
    "RELEASEDIR FSYNCDIR ACCESS CREATE INTERRUPT DESTROY BATCH_FORGET READDIRPLUS RENAME2 "
    "FALLOCATE LSEEK COPY_FILE_RANGE COPY_FILE_RANGE_64"
)

# fuse.h and linux/fs/fuse/dev.c: requests that are forced without a reply
WITHOUT_REPLY = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}

# What only looks or reads: to end it half done leaves nothing half done.
INTERRUPTIBLE = {
    *(Opcode.LOOKUP, Opcode.GETATTR, Opcode.OPEN, Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS),
    *(Opcode.READLINK, Opcode.GETXATTR, Opcode.LISTXATTR),
}


def test_what_is_served() -> None:
    assert SERVED.keys() == {Opcode[name] for name in OPCODES.split()}


def test_what_waits_for_no_reply() -> None:
    assert {opcode for opcode, row in SERVED.items() if not row.replies} == WITHOUT_REPLY


def test_what_a_signal_may_end() -> None:
    assert {opcode for opcode, row in SERVED.items() if row.interruptible} == INTERRUPTIBLE


@pytest.mark.parametrize("opcode", SERVED)
def test_a_row_fits_its_handler(opcode: Opcode) -> None:
    """The handler is there and takes the very message that the row decodes."""
    row = SERVED[opcode]
    handler = getattr(Adapter, f"_{row.handler}")
    _, header, message = inspect.signature(handler).parameters.values()
    assert header.annotation is requests.Header
    assert message.annotation is row.decode.__self__  # type: ignore[attr-defined]


@pytest.mark.parametrize("opcode", SERVED)
def test_a_handler_has_the_name_of_its_opcode(opcode: Opcode) -> None:
    assert SERVED[opcode].handler == Opcode(opcode).name.lower().replace("rename2", "rename")


def test_every_handler_is_served() -> None:
    """Nothing in the adapter that takes a request is out of reach."""
    takes_requests = {
        name.removeprefix("_")
        for name, method in inspect.getmembers(Adapter, inspect.isfunction)
        if len(annotations := list(inspect.get_annotations(method).values())) >= 2
        and annotations[0] is requests.Header
        and annotations[1] in {row.decode.__self__ for row in SERVED.values()}  # type: ignore[attr-defined]
    }
    helpers = {name for name in takes_requests if name.endswith("_slowly")} | {"fill"}
    assert takes_requests - helpers == {row.handler for row in SERVED.values()} - helpers
