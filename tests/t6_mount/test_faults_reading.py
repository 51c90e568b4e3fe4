"""A network and a server that misbehave while somebody reads: the right bytes, or the right errno.

Whatever happens, a program never gets other bytes than the object has, nor fewer without an error.
"""

import contextlib
import errno
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from support import faults
from support.mounts import Mount
from support.process import wait_until
from support.proxy import Action, Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(3 * MIB + 5)
FAILED = ["request_failed", " retry "]


@pytest.fixture
def mnt(bucket: Bucket, proxy: Proxy) -> Iterator[Mount]:
    """A mount behind the proxy with the file `x` in it."""
    bucket.put("x", CONTENT)
    with Mount(bucket, store=bucket.store.at(proxy.endpoint)) as mount:
        yield mount


def plain(status: HTTPStatus, body: bytes = b"upstream is away\n") -> Action:
    """An answer of a load balancer that is no S3 document."""
    return faults.answer(status, body, {"content-type": "text/plain"})


# What is survived, each twice in a row, by whoever reads the file for the first time.
SURVIVED = {
    "closed": faults.close_before(),
    "reset": faults.reset_before(),
    "reply lost": faults.lose_reply(),
    "cut at the start": faults.cut(0),
    "cut in the middle": faults.cut(300_001),
    "cut before the last byte": faults.cut(len(CONTENT) - 1),
    "body too short": faults.shorten(7),
    "other bytes": faults.headers(content_range=f"bytes 1-{len(CONTENT)}/{len(CONTENT) + 1}"),
    "no content-range": faults.headers(content_range=""),
    "another version": faults.headers(etag='"0123456789abcdef0123456789abcdef"'),
    "whole object": faults.answer(200, CONTENT + b"more than was asked for"),
    "too much": faults.answer(206, CONTENT + b"more", {"content-range": "bytes 0-3145737/3145738"}),
    "a login page": faults.html(),
    "an error page": faults.html(503),
    "500": faults.s3_error(500, "InternalError", "We encountered an internal error."),
    "503 SlowDown": faults.s3_error(503, "SlowDown", headers={"retry-after": "1"}),
    "502": plain(HTTPStatus.BAD_GATEWAY),
    "504": plain(HTTPStatus.GATEWAY_TIMEOUT),
    "429": plain(HTTPStatus.TOO_MANY_REQUESTS),
    "409": faults.s3_error(409, "OperationAborted"),
}


@pytest.mark.parametrize("fault", SURVIVED)
def test_survived(mnt: Mount, proxy: Proxy, fault: str) -> None:
    rule = proxy.on("GetObject", SURVIVED[fault], key="x", times=2)
    assert (mnt / "x").read_bytes() == CONTENT
    assert rule.applied == 2


def test_cut_transfers_go_on_where_they_were(mnt: Mount, proxy: Proxy) -> None:
    proxy.on("GetObject", faults.cut(100_000), times=3)
    with (mnt / "x").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), MIB, 0) == CONTENT[:MIB]
    asked = [
        int(exchange.request.headers["range"].partition("=")[2].partition("-")[0])
        for exchange in proxy.seen
        if exchange.target.operation == "GetObject"
    ]
    # Nothing that was delivered is fetched again.
    assert 100_000 in asked
    assert asked.count(0) == 1


LOOKED_UP = {
    "closed": faults.close_before(),
    "reset": faults.reset_before(),
    "reply lost": faults.lose_reply(),
    "cut": faults.cut(20),
    "a login page": faults.html(),
    "an error page": faults.html(502),
    "500": faults.s3_error(500, "InternalError"),
    "503": faults.s3_error(503, "SlowDown"),
}


@pytest.mark.parametrize("fault", LOOKED_UP)
def test_names_and_listings_survive(mnt: Mount, proxy: Proxy, bucket: Bucket, fault: str) -> None:
    bucket.put("d/y", b"1")
    broken = [proxy.on("ListObjectsV2", LOOKED_UP[fault], times=2)]
    if fault != "cut":  # a reply to HEAD has nothing to cut
        broken.append(proxy.on("HeadObject", LOOKED_UP[fault], times=2))
    assert not (mnt / "absent").exists()
    assert [rule.applied for rule in broken] == [2] * len(broken)
    listing = proxy.on("ListObjectsV2", LOOKED_UP[fault], times=2)
    assert mnt.names() == ["d", "x"]
    assert listing.applied == 2
    assert (mnt / "x").stat().st_size == len(CONTENT)


# Fault, operations, and the errno that a reader of `y`, which it has not seen yet, gets.
REFUSED = {
    "forbidden file": (faults.s3_error(403, "AccessDenied"), "GetObject", errno.EACCES),
    "forbidden head": (faults.answer(403), "HeadObject", errno.EACCES),
    "archived": (faults.s3_error(403, "InvalidObjectState"), "GetObject", errno.EACCES),
    "bucket gone": (faults.s3_error(404, "NoSuchBucket"), "GetObject ListObjectsV2", errno.EIO),
    "not implemented": (faults.s3_error(501, "NotImplemented"), "GetObject", errno.EOPNOTSUPP),
    "bad request": (faults.s3_error(400, "InvalidRequest"), "GetObject", errno.EIO),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(mnt: Mount, proxy: Proxy, bucket: Bucket, fault: str) -> None:
    """[S70] What the store forbids gives EACCES.

    [S72] An object in an archive storage class gives EACCES when it is read.
    """
    action, operations, number = REFUSED[fault]
    mnt.allowed += FAILED
    bucket.put("y", CONTENT)
    rule = proxy.on(operations, action, times=1000)
    with pytest.raises(OSError, match=r"\[Errno") as refused:
        (mnt / "y").read_bytes()
    assert refused.value.errno == number
    assert rule.applied
    # It is not held against the file: when the store is well again, so is the file.
    proxy.heal()
    assert (mnt / "y").read_bytes() == CONTENT


def test_failures_are_logged_with_all_that_an_operator_asks_for(
    mnt: Mount, proxy: Proxy, bucket: Bucket
) -> None:
    mnt.allowed += FAILED
    bucket.put("some/key with spaces", CONTENT)
    proxy.on("GetObject", faults.s3_error(403, "AccessDenied", "Not for you"), times=1000)
    with pytest.raises(PermissionError):
        (mnt / "some/key with spaces").read_bytes()
    line = mnt.log.wait_for("request_failed")[0]
    assert line.level == "WARNING"
    assert line.fields["op"] == "READ"
    assert line.fields["errno"] == "EACCES"
    assert "some/key with spaces" in line.fields["reason"]
    assert "Not for you" in line.fields["reason"]
    assert line.fields["http"] == "403"
    assert line.fields["code"] == "AccessDenied"
    assert line.fields["request_id"] == "FAULT0001"


def test_listing_that_breaks_off_is_an_error(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    """Half a listing would look like a directory from which the other half was deleted."""
    mnt.allowed += FAILED
    bucket.put_many((f"d/{n:04}", b"") for n in range(1500))
    rule = proxy.on("ListObjectsV2", faults.s3_error(403, "AccessDenied"), first=2, times=1000)
    with pytest.raises(PermissionError):
        mnt.names("d")
    assert rule.applied
    proxy.heal()
    assert len(mnt.names("d")) == 1500


# -- other versions --------------------------------------------------------------------------------

OLD, NEW = b"old." * (2 * MIB), b"new!" * (2 * MIB)


def test_object_replaced_while_it_is_read(mnt: Mount, bucket: Bucket) -> None:
    """[S16] One open file shows one version of what others store: once something of it was read, a
    read that would need bytes of another version gives ESTALE. Who opens it anew reads the new
    one.
    """
    mnt.allowed += FAILED
    bucket.put("y", OLD)
    with (mnt / "y").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == OLD[:4096]
        bucket.put("y", NEW)
        pieces: list[bytes] = []
        with pytest.raises(OSError, match="Stale") as stale:
            pieces.extend(iter(lambda: file.read(MIB), b""))
        assert stale.value.errno == errno.ESTALE
        assert OLD.startswith(b"".join(pieces))
        # Open it again, says ESTALE; so that must help, and at once.
        assert (mnt / "y").read_bytes() == NEW
        # Neither the pages nor the size of what was opened first are another version's now.
        assert os.pread(file.fileno(), 4096, 0) == OLD[:4096]
        assert os.fstat(file.fileno()).st_size == len(OLD)
    assert any(line.fields["errno"] == "ESTALE" for line in mnt.log.wait_for("request_failed"))


def test_object_replaced_before_it_is_read(mnt: Mount, bucket: Bucket) -> None:
    """[S17] A file that was replaced between open and the first read is read in its new version."""
    bucket.put("y", OLD)
    with (mnt / "y").open("rb", buffering=0) as file:
        bucket.put("y", NEW[:-4])
        assert file.read(4096) == NEW[:4096]
        assert file.read(4096) == NEW[4096:8192]
        assert os.fstat(file.fileno()).st_size == len(NEW) - 4


def test_kept_pages_are_not_mixed_with_a_new_version(bucket: Bucket) -> None:
    """What the kernel has kept of the old version was read, too, as far as a program can tell."""
    bucket.put("y", OLD)
    with Mount(bucket, "metadata_ttl=60", allowed=FAILED) as mnt:
        with (mnt / "y").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 2 * MIB, 0) == OLD[: 2 * MIB]
        bucket.put("y", NEW)
        pieces: list[bytes] = []
        with (mnt / "y").open("rb", buffering=0) as file, contextlib.suppress(OSError):
            pieces.extend(iter(lambda: file.read(MIB), b""))
        got = b"".join(pieces)
        assert OLD.startswith(got) or NEW.startswith(got)


# -- waiting ---------------------------------------------------------------------------------------


def test_reader_that_waits_can_be_interrupted(mnt: Mount, proxy: Proxy) -> None:
    """[S74] A program that waits while it looks up, opens, lists or reads can be interrupted by a
    signal; storing and deleting are finished.
    """
    for operation, command in (
        ("GetObject", ("cat", "x")),
        ("HeadObject", ("stat", "absent")),
        ("ListObjectsV2", ("ls", ".")),
    ):
        gate = faults.Gate()
        proxy.on(operation, gate.hold_before, times=1000)
        with subprocess.Popen(command, cwd=mnt.path, stdout=subprocess.DEVNULL) as reader:
            _wait_for(gate)
            reader.send_signal(signal.SIGINT)
            assert reader.wait(30) == -signal.SIGINT
        proxy.heal()
        gate.open()
    assert (mnt / "x").read_bytes() == CONTENT


def _wait_for(gate: faults.Gate) -> None:
    wait_until(lambda: gate.waiting, "a request at the gate")


def test_slow_file_holds_up_nobody_else(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    bucket.put("other", b"1")
    gate = faults.Gate()
    proxy.on("GetObject", gate.hold_before, key="x", times=1000)
    with subprocess.Popen(
        ("sha256sum", "x"), cwd=mnt.path, stdout=subprocess.PIPE, text=True
    ) as reader:
        wait_until(lambda: gate.waiting, "the slow file")
        assert (mnt / "other").read_bytes() == b"1"
        assert mnt.names() == ["other", "x"]
        assert reader.poll() is None
        gate.open()
        assert reader.wait(60) == 0


def test_unmount_while_a_reader_waits(mnt: Mount, proxy: Proxy) -> None:
    gate = faults.Gate()
    proxy.on("GetObject", gate.hold_before, times=1000)
    with subprocess.Popen(("cat", "x"), cwd=mnt.path, stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: gate.waiting, "the reader")
        assert mnt.unmount().returncode != 0
        reader.terminate()
        reader.wait(30)
    assert mnt.unmount().returncode == 0
    assert mnt.wait_for_worker()
    gate.open()
