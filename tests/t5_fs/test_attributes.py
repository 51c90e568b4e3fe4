"""What stat(2) shows."""

import stat

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.attributes import Attributes, Overrides, Ownership
from fuse_s3_worker.fs.nodes import Node, Nodes, inode_number
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writer import Writers
from support.memstore import MemoryStore
from support.virtualtime import on_loop

SECOND = 1_000_000_000
NOW = 1000.0  # monotonic seconds
OWNERSHIP = Ownership(
    uid=1234, gid=5678, file_mode=0o640, dir_mode=0o751, mounted_at=1_600_000_000 * SECOND
)
INFO = ObjectInfo("dir/file", 4321, 1_700_000_000 * SECOND, '"etag"')


@pytest.fixture
def nodes() -> Nodes:
    return Nodes("")


@pytest.fixture
def file(nodes: Nodes) -> Node:
    directory = nodes.child(nodes.root, "dir", directory=True)
    node = nodes.child(directory, "file", directory=False)
    node.info = INFO
    return node


def test_a_file_is_what_the_object_says(file: Node) -> None:
    assert OWNERSHIP.of(file, NOW) == Attributes(
        ino=inode_number("dir/file"),
        size=4321,
        mode=stat.S_IFREG | 0o640,
        nlink=1,
        uid=1234,
        gid=5678,
        atime=INFO.mtime,
        mtime=INFO.mtime,
        ctime=INFO.mtime,
        blksize=MIB,
    )


@pytest.mark.parametrize("marker", [None, INFO])
def test_a_directory_is_from_when_it_was_mounted(file: Node, marker: ObjectInfo | None) -> None:
    assert file.parent is not None
    file.parent.info = marker
    found = OWNERSHIP.of(file.parent, NOW)
    assert found.mode == stat.S_IFDIR | 0o751
    assert (found.nlink, found.size) == (2, 0)
    assert found.mtime == found.ctime == found.atime == 1_600_000_000 * SECOND
    assert found.ino == inode_number("dir/")


def test_the_root_is_inode_1(nodes: Nodes) -> None:
    assert OWNERSHIP.of(nodes.root, NOW).ino == 1


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("mode", 0o104755, stat.S_IFREG | 0o4755),
        ("mode", 0o600, stat.S_IFREG | 0o600),
        ("mode", 0, stat.S_IFREG),
        ("uid", 0, 0),
        ("gid", 7, 7),
        ("atime", 5, 5),
        ("mtime", -3 * SECOND, -3 * SECOND),
    ],
)
def test_what_was_set_is_shown_for_a_while_and_nothing_else_changes(
    file: Node, field: str, value: int, shown: int
) -> None:
    plain = OWNERSHIP.of(file, NOW)
    file.overrides = Overrides(until=NOW + 1)._replace(**{field: value})
    assert OWNERSHIP.of(file, NOW) == plain._replace(**{field: shown})
    assert OWNERSHIP.of(file, NOW + 0.9) == plain._replace(**{field: shown})
    assert OWNERSHIP.of(file, NOW + 1) == plain
    assert file.overrides is None


@on_loop()
async def test_a_file_that_is_being_written_is_what_was_written() -> None:
    nodes = Nodes("")
    node = nodes.child(nodes.root, "file", directory=False)
    node.info = INFO
    store, pool = MemoryStore(), Pool(32 * MIB)
    uploads = Uploads(store, pool, 8 * MIB)
    writers = Writers(uploads, Staging(store, pool, uploads.limits, uploads.size_limit))
    node.upload = writers.begin("file")
    node.upload.write_nowait(0, memoryview(b"written"))
    found = OWNERSHIP.of(node, NOW)
    assert (found.size, found.mtime) == (7, node.upload.mtime)
    node.upload.fail(StoreError(Fault.FORBIDDEN, "no"))
    assert OWNERSHIP.of(node, NOW).size == 4321
    await node.upload.close()
