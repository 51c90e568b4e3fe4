"""Anything at all from the device: nothing is raised, and who waits is answered exactly once.

The requests are random, but not wildly so: names, nodes and handles come from a few, so that they
often mean something, and then a part of them is damaged. Every reply is judged as the kernel
judges it (see support.kernel). In the end the mount is given up, and nothing may be left.
"""

import logging
import os
import random
from struct import pack

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fuse.abi import IN_HEADER, Opcode
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header, MalformedRequestError
from fuse_s3_worker.serve import Owner, build_file_system
from support.kernel import UNANSWERED, Kernel, frame
from support.memstore import MemoryStore
from support.virtualtime import run

OBJECTS = {
    "a": b"short",
    "b": bytes(3 * 1024 * 1024),
    "d/": b"",
    "d/a": b"x" * 1000,
    "d/d/b": b"",
    "//odd": b"",
    "d/../up": b"",
    "c\udcff".encode("utf-8", "surrogateescape").decode("latin-1"): b"",
}

# What a mount with -o posix has besides: a link, a device, nonsense.
KEPT = {
    "b": {"x-amz-meta-mode": "41471"},
    "d/a": {"x-amz-meta-mode": "25008", "x-amz-meta-rdev": "1281", "x-amz-meta-uid": "-7"},
    "c": {"x-amz-meta-xattr": "%7B%22user.a%22%3A%22Yg%3D%3D%22%7D", "x-amz-meta-mtime": "x"},
}

# -- requests --------------------------------------------------------------------------------------

U64, U32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
NAME = st.sampled_from([b"a", b"b", b"c", b"d", b"new", b".", b"..", b"\xff", b"n" * 256]).map(
    lambda name: name + b"\0"
)
# Repeated is what means something.
NODE = st.sampled_from([1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 0, 99, 2**64 - 1])
HANDLE = st.sampled_from([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 0, 99, 2**64 - 1])
OFFSET = st.sampled_from([0, 0, 0, 1, 2, 3, 5, 999, 1 << 20, 5 * 10**12, 2**63, 2**64 - 1])
SIZE = st.sampled_from([0, 1, 32, 160, 4096, 1 << 20, 2**32 - 1])
OPEN_FLAGS = st.sampled_from([0, 1, 2, 0o1000, 0o1001, 0o2001, 2**32 - 1])
MODE = st.sampled_from([0o100644, 0o104755, 0o040755, 0o010644, 0o020620, 0, 2**32 - 1])
XATTR = st.sampled_from(
    [b"user.a", b"user.b", b"system.posix_acl_access", b"system.posix_acl_default", b"a", b""]
).map(lambda name: name + b"\0")
# Of u::rw-,g::r--,o::r-- and one with a mask.
LIST = pack("<IHHIHHIHHI", 2, 1, 6, 2**32 - 1, 4, 4, 2**32 - 1, 32, 4, 2**32 - 1)
VALUE = st.binary(max_size=20) | st.sampled_from([b"x" * 1900, b"x" * 2100, LIST, LIST[:-1]])


def packed(layout: str, *fields: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.tuples(*fields).map(lambda values: pack(layout, *values))


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def read_in() -> st.SearchStrategy[bytes]:
    return packed("<QQIIQII", HANDLE, OFFSET, SIZE, U32, U64, U32, U32)


def write_in() -> st.SearchStrategy[bytes]:
    return st.tuples(HANDLE, OFFSET, st.binary(max_size=20) | st.just(bytes(100_000))).map(
        lambda w: pack("<QQIIQII", w[0], w[1], len(w[2]), 0, 0, 0, 0) + w[2]
    )


def init_in() -> st.SearchStrategy[bytes]:
    short = packed("<IIII", st.integers(5, 9), st.integers(29, 50), U32, U32)
    return short | joined(short, packed("<I44x", U32))


def setxattr_in() -> st.SearchStrategy[bytes]:
    flags = st.sampled_from([0, 0, 1, 2]) | U32
    return st.tuples(flags, flags, XATTR, VALUE).map(
        lambda x: pack("<IIII", len(x[3]), x[0], x[1], 0) + x[2] + x[3]
    )


FH_IN = packed("<QIIQ", HANDLE, U32, U32, U64)
BODIES: dict[int, st.SearchStrategy[bytes]] = {
    **dict.fromkeys((Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR), NAME),
    **dict.fromkeys((Opcode.OPEN, Opcode.OPENDIR), packed("<II", OPEN_FLAGS, U32)),
    **dict.fromkeys((Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS), read_in()),
    **dict.fromkeys((Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FLUSH), FH_IN),
    **dict.fromkeys((Opcode.FSYNC, Opcode.FSYNCDIR), packed("<QII", HANDLE, U32, U32)),
    **dict.fromkeys((Opcode.STATFS, Opcode.DESTROY, Opcode.READLINK), st.just(b"")),
    Opcode.SYMLINK: joined(NAME, st.sampled_from([b"\0", b"to/there\0", b"x" * 4095 + b"\0"])),
    Opcode.LINK: joined(packed("<Q", NODE), NAME),
    Opcode.SETXATTR: setxattr_in(),
    Opcode.GETXATTR: joined(packed("<II", SIZE, U32), XATTR),
    Opcode.LISTXATTR: packed("<II", SIZE, U32),
    Opcode.REMOVEXATTR: XATTR,
    Opcode.FORGET: packed("<Q", st.integers(0, 3) | U64),
    Opcode.BATCH_FORGET: st.lists(packed("<QQ", NODE, st.integers(0, 3)), max_size=4).map(
        lambda pairs: pack("<II", len(pairs), 0) + b"".join(pairs)
    ),
    Opcode.GETATTR: packed("<IIQ", U32, U32, HANDLE),
    Opcode.SETATTR: packed(
        "<IIQQQQQQIIIIIIII",
        *(st.sampled_from([1, 8, 9, 0x30, 0x180, 0x7FF]) | U32, U32, HANDLE, OFFSET, U64),
        *(U64, U64, U64, U32, U32, U32, MODE, U32, U32, U32, U32),
    ),
    Opcode.MKNOD: joined(packed("<IIII", MODE, U32, U32, U32), NAME),
    Opcode.MKDIR: joined(packed("<II", MODE, U32), NAME),
    Opcode.RENAME: joined(packed("<Q", NODE), NAME, NAME),
    Opcode.RENAME2: joined(packed("<QII", NODE, U32, U32), NAME, NAME),
    Opcode.WRITE: write_in(),
    Opcode.FALLOCATE: packed(
        "<QQQII", HANDLE, OFFSET, OFFSET, st.sampled_from([0, 1, 2, 3, 16, 17]) | U32, U32
    ),
    Opcode.LSEEK: packed("<QQII", HANDLE, OFFSET, st.sampled_from([3, 4]) | U32, U32),
    **dict.fromkeys(
        (Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64),
        packed("<7Q", HANDLE, OFFSET, NODE, HANDLE, OFFSET, SIZE | U64, U64),
    ),
    Opcode.INIT: init_in(),
    Opcode.ACCESS: packed("<II", U32, U32),
    Opcode.CREATE: joined(packed("<IIII", OPEN_FLAGS, MODE, U32, U32), NAME),
    # the unique of another request: they count up by two
    Opcode.INTERRUPT: packed("<Q", st.integers(0, 40).map(lambda n: 2 * n) | U64),
}


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    """A request that fuse.h describes."""
    opcode = draw(st.sampled_from(sorted(BODIES)))
    return frame(opcode, draw(BODIES[opcode]), nodeid=draw(NODE))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One that was cut, lengthened, or has a byte changed; its length may be made right again."""
    request = bytearray(draw(well_formed()))
    how = draw(st.sampled_from(["cut", "longer", "changed"]))
    at = draw(st.integers(0, len(request) - 1))
    if how == "cut":
        del request[at:]
    elif how == "longer":
        request += draw(st.binary(min_size=1, max_size=60))
    else:
        request[at] ^= draw(st.integers(1, 255))
    if len(request) >= 4 and draw(st.booleans()):
        request[:4] = len(request).to_bytes(4, "little")
    return bytes(request)


@st.composite
def unknown(draw: st.DrawFn) -> bytes:
    """An opcode that is not served, or no request at all."""
    opcode = draw(st.integers(0, 100) | U32)
    return draw(st.binary(max_size=90) | st.just(frame(opcode, draw(st.binary(max_size=90)))))


# So that most nodes and handles mean something: nodes 2 to 5, files 1 to 3, directory 1.
OPENING = [
    frame(Opcode.LOOKUP, b"d\0"),
    frame(Opcode.LOOKUP, b"a\0"),
    frame(Opcode.LOOKUP, b"b\0"),
    frame(Opcode.OPENDIR, bytes(8)),
    frame(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), nodeid=4),
    frame(Opcode.OPEN, pack("<II", os.O_RDWR, 0), nodeid=3),
    frame(Opcode.CREATE, pack("<IIII", os.O_RDWR, 0o100644, 0, 0) + b"new\0"),
]

REQUEST = st.one_of(well_formed(), well_formed(), well_formed(), damaged(), unknown())
REQUESTS = st.lists(REQUEST, min_size=20, max_size=60)


def test_every_served_opcode_is_fuzzed() -> None:
    assert BODIES.keys() == SERVED.keys()


_SIZE_MAX = 300_000

# -- what must not happen --------------------------------------------------------------------------


class Bugs(logging.Handler):
    """Keeps what the adapter calls a bug: an exception that nobody thought of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


async def serve(requests: list[bytes], pauses: random.Random, bugs: Bugs) -> None:
    """Make all requests, some before the earlier ones are answered."""
    store = MemoryStore(OBJECTS)
    for key, headers in KEPT.items():
        store.write(key, OBJECTS.get(key, b""), headers=headers)
    lifetime = pauses.choice(["0", "1", "indefinite"])
    options = Settings.model_validate({"metadata_ttl": lifetime, "posix": pauses.choice([0, 1])})
    fs = build_file_system(store, options, Owner(0, 0), "")
    # Any size can be had, and is stored, if only of zeros: that takes no time up to here.
    fs._core.writers.uploads.size_limit = fs._core.writers.staging.size_limit = _SIZE_MAX
    kernel = Kernel(fs)
    for number, request in enumerate(OPENING + requests):
        # The kernel's numbers are unique, so those of damaged requests are, too.
        whole = request[:8] + (2 * number + 2).to_bytes(8, "little") + request[16:]
        kernel.send(whole, answered=wants_answer(whole))
        if number < len(OPENING) or pauses.random() < 0.5:
            await kernel.quiet()
    await kernel.quiet()
    assert not bugs.found, bugs.found
    assert not kernel.channel.violations
    assert all(len(given) == 1 for given in kernel.channel.replies.values())
    await kernel.adapter.drain()
    await fs.close()
    assert not store.uploads


def wants_answer(request: bytes) -> bool:
    try:
        header = Header.decode(memoryview(request))
    except MalformedRequestError:
        return False
    return header.opcode not in UNANSWERED


MAY_BE_LOGGED = (
    *("malformed_request", "request_failed", "keys_without_a_path", "marker_failed", "init"),
    *("metadata_nonsense", "metadata_failed"),
)


def fuzz(requests: list[bytes], seed: int) -> None:
    bugs = Bugs()
    logger = logging.getLogger("fuse_s3_worker")
    logger.addHandler(bugs)
    try:
        run(serve(requests, random.Random(seed), bugs), may_log=MAY_BE_LOGGED)
    finally:
        logger.removeHandler(bugs)


SEEDS = st.integers(0, 2**32)


@settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
@given(REQUESTS, SEEDS)
@example([frame(opcode) for opcode in range(64)], 1)
@example([IN_HEADER.pack(40, 1, 0, 1, 0, 0, 0, 0, 0)], 2)
def test_anything_at_all(requests: list[bytes], seed: int) -> None:
    fuzz(requests, seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(REQUESTS, SEEDS)
def test_anything_at_all_for_minutes(requests: list[bytes], seed: int) -> None:
    fuzz(requests, seed)
