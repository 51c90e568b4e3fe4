"""How many bytes go over the wire for a small change of a large file, counted by the server."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.server.nginx import Server
from bench.server.requests import Count
from support.mounts import Mount
from support.process import ROOT, wait_until
from support.s3 import Bucket, Keys, Store

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
GIB = 1 << 30
LIMIT = 10 * MIB
KEY = "large"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    done = subprocess.run(
        [ROOT / "tools/need", "nginx"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no nginx: {done.stderr.strip()}")
    with Server(tmp_path) as running:
        yield running


def put_gibibyte(server: Server) -> None:
    """Have an object of a gibibyte, most of which is a hole on the server's disk."""
    with server.file(KEY).open("xb") as file:
        for at in range(0, GIB, 64 * MIB):
            os.pwrite(file.fileno(), b"%08x" % at, at)
        file.truncate(GIB)
    server.adopt()


def counted(server: Server, last: str) -> Count:
    """Return what was asked since the last time, when the `last` request is in the log."""
    seen: list[Count] = []

    def is_there() -> bool:
        seen.append(server.requests.take())
        return any(last in count.operations for count in seen)

    wait_until(is_there, f"{last} in the server's log")
    operations: Counter[str] = Counter()
    for count in seen:
        operations.update(count.operations)
    received, sent = (sum(getattr(c, name) for c in seen) for name in ("received", "sent"))
    return Count(dict(operations), 0.0, received=received, sent=sent)


def test_small_changes_of_a_gibibyte(server: Server) -> None:
    """A byte in the middle, a mebibyte at the end, another name: at most 10 MiB go either way."""
    put_gibibyte(server)
    bucket = Bucket(Store("nginx", server.url, Keys("any", "any")), server.bucket)
    middle = GIB // 2 + 4711
    with Mount(bucket) as mnt:
        server.requests.skip()
        with (mnt / KEY).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x", middle)
        changed = counted(server, "CompleteMultipartUpload")
        assert changed.operations["UploadPart"] >= 1
        assert 0 < changed.received <= LIMIT, changed
        assert changed.sent <= LIMIT, changed
        with (mnt / KEY).open("ab", buffering=0) as file:
            file.write(b"y" * MIB)
        appended = counted(server, "CompleteMultipartUpload")
        assert MIB < appended.received <= LIMIT, appended
        assert appended.sent <= LIMIT, appended
        (mnt / KEY).rename(mnt / "renamed")
        renamed = counted(server, "DeleteObject")
        assert renamed.received + renamed.sent < 64 << 10, renamed
        assert (mnt / "renamed").stat().st_size == GIB + MIB
    with server.file("renamed").open("rb") as stored:
        for at in range(0, GIB, 64 * MIB):
            assert os.pread(stored.fileno(), 9, at) == b"%08x\0" % at
        assert os.pread(stored.fileno(), 3, middle - 1) == b"\0x\0"
        assert os.pread(stored.fileno(), 2 * MIB, GIB - 1) == b"\0" + b"y" * MIB
    bucket.client.close()
