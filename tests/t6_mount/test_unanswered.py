"""A worker that dies when the store has done what it was asked, and no program has an answer."""

import errno
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import faults
from support.cachedir import CacheDirectory
from support.mounts import Mount
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

BUCKET = {"f": b"f", "g": b"the other", "empty/": b"", "d/a": b"a", "d/s/b": b"bb"}
MOVED = {"new/a": b"a", "new/s/b": b"bb"}

# What a program does in the mount, the request whose reply is lost, and which keys come and go.
Row = tuple[Callable[[Path], object], str, set[str], dict[str, bytes]]
CHANGES: dict[str, Row] = {
    "mkdir": (lambda m: (m / "new").mkdir(), "PutObject", set(), {"new/": b""}),
    "rmdir": (lambda m: (m / "empty").rmdir(), "DeleteObject", {"empty/"}, {}),
    "unlink": (lambda m: (m / "f").unlink(), "DeleteObject", {"f"}, {}),
    "symlink": (lambda m: (m / "new").symlink_to("f"), "PutObject", set(), {"new": b"f"}),
    "mkfifo": (lambda m: os.mkfifo(m / "new"), "PutObject", set(), {"new": b""}),
    "rename": (lambda m: (m / "f").rename(m / "new"), "DeleteObject", {"f"}, {"new": b"f"}),
    "copied": (lambda m: (m / "f").rename(m / "new"), "CopyObject", {"f"}, {"new": b"f"}),
    "replaced": (lambda m: (m / "f").rename(m / "g"), "DeleteObject", {"f"}, {"g": b"f"}),
    "tree": (lambda m: (m / "d").rename(m / "new"), "DeleteObjects", {"d/a", "d/s/b"}, MOVED),
    "tree copied": (lambda m: (m / "d").rename(m / "new"), "CopyObject", {"d/a", "d/s/b"}, MOVED),
}


# What is written down in a cache directory is finished or taken back before it is asked for again.
CASES = [(change, False) for change in CHANGES]
CASES += [(change, True) for change in ("rename", "tree", "tree copied")]


@pytest.mark.parametrize(("change", "cached"), CASES)
def test_succeeds(
    bucket: Bucket, proxy: Proxy, cache: CacheDirectory, change: str, *, cached: bool
) -> None:
    """[S82] When the worker dies, however it dies, the next one goes on within a moment: what
    waits is answered, with success where the store has done it already, open files and listings
    stay open, and readers stay in the version they began with.
    """
    work, request, gone, new = CHANGES[change]
    for key, data in BUCKET.items():
        bucket.put(key, data)
    gate = faults.Gate()
    proxy.on(request, gate.hold_after)
    options = ["posix", *([cache.option] if cached else [])]
    through = bucket.store.at(proxy.endpoint)
    with Mount(bucket, *options, store=through, allowed=["rename_resumed"]) as mnt:
        before = {name: (mnt / name).stat() for name in ("f", "g", "d", "empty")}
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(work, mnt.path)
            wait_until(lambda: gate.waiting, "the request")
            os.kill(mnt.pid, signal.SIGKILL)
            mnt.worker_after(mnt.pid)
            working.result()
        assert bool(mnt.log.lines("rename_resumed")) == (cached and "tree" in change)
        expected = {key: data for key, data in BUCKET.items() if key not in gone} | new
        assert dict(zip(bucket.keys(), map(bucket.get, bucket.keys()), strict=True)) == expected
        names = {key.split("/")[0] for key in expected}
        assert set(mnt.names()) == names
        for name in names & before.keys():
            assert (mnt / name).stat().st_mode == before[name].st_mode
    gate.open()


def test_nobody_knows_that_a_file_was_stored(bucket: Bucket, proxy: Proxy) -> None:
    """[S83] A file that is being written when the worker dies is lost: its next write, fsync or
    close gives EIO, and the bucket keeps what it had, or has all of it if it had just been stored.
    """
    gate = faults.Gate()
    proxy.on("PutObject", gate.hold_after)
    through = bucket.store.at(proxy.endpoint)
    with Mount(bucket, store=through, allowed=[r"op=(FLUSH|RELEASE) .*errno=EIO"]) as mnt:
        file = (mnt / "f").open("wb", buffering=0)
        file.write(b"all of it")
        with ThreadPoolExecutor(1) as thread:
            closing = thread.submit(file.close)
            wait_until(lambda: gate.waiting, "the upload")
            os.kill(mnt.pid, signal.SIGKILL)
            mnt.worker_after(mnt.pid)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                closing.result()
        assert (mnt / "f").read_bytes() == b"all of it"
    gate.open()
