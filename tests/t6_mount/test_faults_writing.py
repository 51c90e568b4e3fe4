"""A network and a server that misbehave while somebody writes: stored whole, or an error in time.

Whatever happens, close(2) or fsync(2) tells, the bucket has the old version or the new one, and no
parts of an upload stay behind.
"""

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator

import pytest

from support import faults
from support.mounts import Mount
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
PART = 5 * MIB
SMALL = random.Random(4).randbytes(70_001)
LARGE = random.Random(5).randbytes(2 * PART + 9)
FAILED = ["request_failed", " retry ", "abort_failed"]


@pytest.fixture
def mnt(bucket: Bucket, proxy: Proxy) -> Iterator[Mount]:
    """A mount behind the proxy with the files `small` and `large` in it, as they were before."""
    bucket.put_many([("small", b"before"), ("large", b"before")])
    with Mount(bucket, "part_size=5M", store=bucket.store.at(proxy.endpoint)) as mount:
        yield mount
    assert bucket.uploads() == []


CREATE, PART_SENT, COMPLETE = "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"
EVERY_STEP = ("PutObject", CREATE, PART_SENT, COMPLETE)
STORING_STEPS = ("PutObject", PART_SENT)

# What happens once to each of these steps, and is survived.
ACTIONS = {
    "closed": (faults.close_before(), EVERY_STEP),
    "reset": (faults.reset_before(), EVERY_STEP),
    # The reply to CreateMultipartUpload has the only name of that upload: see below.
    "reply lost": (faults.lose_reply(), (*STORING_STEPS, COMPLETE)),
    "reply cut": (faults.cut(0), (*STORING_STEPS, COMPLETE)),
    "500": (faults.s3_error(500, "InternalError"), EVERY_STEP),
    "503": (faults.s3_error(503, "SlowDown", headers={"retry-after": "1"}), EVERY_STEP),
    "400 RequestTimeout": (faults.s3_error(400, "RequestTimeout", "Idle."), EVERY_STEP),
    "damaged on the way": (faults.s3_error(400, "BadDigest"), STORING_STEPS),
    "a login page": (faults.html(), EVERY_STEP),
    "an empty success": (faults.answer(200), STORING_STEPS),
}


@pytest.mark.parametrize("fault", ACTIONS)
def test_survived(mnt: Mount, proxy: Proxy, bucket: Bucket, fault: str) -> None:
    action, steps = ACTIONS[fault]
    rules = [proxy.on(step, action) for step in steps]
    for name, content in (("small", SMALL), ("large", LARGE)):
        (mnt / name).write_bytes(content)
        assert bucket.get(name) == content
        assert (mnt / name).read_bytes() == content
    assert [rule.applied for rule in rules] == [1] * len(steps)


STORMS = {
    "500": faults.s3_error(500, "InternalError"),
    "503": faults.s3_error(503, "SlowDown"),
    "reset": faults.reset_before(),
}


@pytest.mark.one_store
@pytest.mark.parametrize("fault", STORMS)
def test_storm(mnt: Mount, proxy: Proxy, bucket: Bucket, fault: str) -> None:
    """Half of all requests fail, several in a row; all that programs notice is the time."""
    mnt.allowed.append(" retry ")
    contents = {f"d/{number}": SMALL[number:] for number in range(2)} | {"large": LARGE}
    bucket.put_many((f"theirs/{name}", content) for name, content in contents.items())
    rule = proxy.on("", faults.in_waves(STORMS[fault], length=3), times=1 << 30)
    (mnt / "d").mkdir()
    for name, content in contents.items():
        (mnt / name).write_bytes(content)
        assert bucket.get(name) == content
        assert (mnt / "theirs" / name).read_bytes() == content
    (mnt / "d/0").unlink()
    assert mnt.names("d") == ["1"]
    assert mnt.names("theirs") == ["d", "large"]
    assert rule.applied > 3 * len(contents)


def test_upload_whose_name_was_lost(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    """Nobody can abort an upload that nobody was told of; but it has no parts, so costs nothing."""
    proxy.on(CREATE, faults.lose_reply())
    (mnt / "large").write_bytes(LARGE)
    assert bucket.get("large") == LARGE
    found = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    for upload in found:
        name = {"Bucket": bucket.name, "Key": "large", "UploadId": upload["UploadId"]}
        assert not bucket.client.list_parts(**name).get("Parts")
        bucket.client.abort_multipart_upload(**name)
    assert len(found) == 1


def test_completion_that_fails_after_its_200(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    """S3 may have said 200 before it knows; the document says what came of it."""
    failure = faults.s3_error(200, "InternalError", "We encountered an internal error.")
    rule = proxy.on("CompleteMultipartUpload", failure, times=2)
    (mnt / "large").write_bytes(LARGE)
    assert rule.applied == 2
    assert bucket.get("large") == LARGE


def test_completion_whose_reply_is_lost_is_not_done_twice(
    mnt: Mount, proxy: Proxy, bucket: Bucket
) -> None:
    proxy.on(COMPLETE, faults.lose_reply())
    # What Amazon says of an upload that is over; not every server remembers.
    rule = proxy.on(COMPLETE, faults.s3_error(404, "NoSuchUpload"))
    (mnt / "large").write_bytes(LARGE)
    assert rule.applied == 1
    assert bucket.get("large") == LARGE
    assert mnt.log.lines("upload_was_complete")


def test_parts_that_fail_here_and_there(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    proxy.on("UploadPart", faults.reset_before(), first=1)
    proxy.on("UploadPart", faults.lose_reply(), first=2)
    proxy.on("UploadPart", faults.s3_error(500, "InternalError"), first=3)
    (mnt / "large").write_bytes(LARGE)
    assert bucket.get("large") == LARGE
    assert proxy.counts("large")["UploadPart"] == 6


# The step that is refused, for good; the code; and what the program is told.
REFUSED = {
    "put forbidden": ("PutObject", 403, "AccessDenied", errno.EACCES),
    "put too large": ("PutObject", 400, "EntityTooLarge", errno.EFBIG),
    "put over quota": ("PutObject", 403, "QuotaExceeded", errno.EDQUOT),
    "bucket gone": ("PutObject", 404, "NoSuchBucket", errno.EIO),
    "create forbidden": ("CreateMultipartUpload", 403, "AccessDenied", errno.EACCES),
    "part forbidden": ("UploadPart", 403, "AccessDenied", errno.EACCES),
    "part over quota": ("UploadPart", 507, "QuotaExceeded", errno.EDQUOT),
    "complete forbidden": ("CompleteMultipartUpload", 403, "AccessDenied", errno.EACCES),
    "aborted by others": ("UploadPart", 404, "NoSuchUpload", errno.EIO),
}


@pytest.mark.one_store
@pytest.mark.parametrize("how", ["close", "fsync"])
@pytest.mark.parametrize("fault", REFUSED)
def test_refused(mnt: Mount, proxy: Proxy, bucket: Bucket, fault: str, how: str) -> None:
    """[S30] When storing fails, fsync or close gives the error, and the bucket has what it had
    before.

    [S73] A store that is full gives EDQUOT.
    """
    step, status, code, number = REFUSED[fault]
    mnt.allowed += FAILED
    name, content = ("small", SMALL) if step == "PutObject" else ("large", LARGE)
    rule = proxy.on(step, faults.s3_error(status, code, f"No: {code}"), times=1000)
    fd = os.open(mnt / name, os.O_WRONLY | os.O_TRUNC)
    with pytest.raises(OSError, match=r"\[Errno") as refused:
        _write(fd, content, how)
    assert refused.value.errno == number
    assert rule.applied
    assert bucket.get(name) == b"before"
    assert bucket.uploads() == []
    line = mnt.log.wait_for("request_failed")[0]
    assert (line.fields["code"], line.fields["request_id"]) == (code, "FAULT0001")
    assert name in line.fields["reason"]
    # The name shows what the bucket has, and can be written anew.
    proxy.heal()
    wait_until(lambda: (mnt / name).read_bytes() == b"before", "what the bucket has")
    (mnt / name).write_bytes(content)
    assert bucket.get(name) == content


def _write(fd: int, content: bytes, how: str) -> None:
    """Write, and end with fsync or not, and close."""
    try:
        view = memoryview(content)
        while view:
            # The error may be known before the last byte is written, and is told then.
            view = view[os.write(fd, view[:MIB]) :]
        if how == "fsync":
            os.fsync(fd)
    finally:
        os.close(fd)


def test_after_a_failure_the_file_stays_failed(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    """[S32] After storing has failed, every further write, fsync and close of that file gives the
    error.
    """
    mnt.allowed += FAILED
    proxy.on("PutObject", faults.s3_error(403, "AccessDenied"))
    fd = os.open(mnt / "small", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, SMALL)
    with pytest.raises(PermissionError):
        os.fsync(fd)
    # The store would take it now; but what is in the buffer is not the whole of it any more.
    with pytest.raises(PermissionError):
        os.write(fd, b"more")
    with pytest.raises(PermissionError):
        os.fsync(fd)
    with pytest.raises(PermissionError):
        os.close(fd)
    assert bucket.get("small") == b"before"


# -- the other operations --------------------------------------------------------------------------

DEEDS: dict[str, tuple[str, str, Callable[[Mount], None]]] = {
    "unlink": ("DeleteObject", "small", lambda mnt: (mnt / "small").unlink()),
    "mkdir": ("PutObject", "d/", lambda mnt: (mnt / "d").mkdir()),
    "rmdir": ("DeleteObject", "e/", lambda mnt: (mnt / "e").rmdir()),
    "truncate": ("PutObject", "small", lambda mnt: os.truncate(mnt / "small", 3)),
}


def _is_as_it_was(mnt: Mount) -> bool:
    names = {name for name in ("small", "d", "e") if (mnt / name).exists()}
    return names == {"small", "e"} and (mnt / "small").stat().st_size == len(b"before")


@pytest.mark.parametrize("deed", DEEDS)
def test_other_changes_survive(mnt: Mount, proxy: Proxy, bucket: Bucket, deed: str) -> None:
    operation, key, act = DEEDS[deed]
    for action in (faults.lose_reply(), faults.reset_before(), faults.s3_error(503, "SlowDown")):
        bucket.put_many([("small", b"before"), ("e/", b"")])
        bucket.delete("d/")
        wait_until(lambda: _is_as_it_was(mnt), "the mount to see all that")
        rule = proxy.on(operation, action, key=key)
        act(mnt)
        assert rule.applied == 1
        assert bucket.has("d/") == (deed == "mkdir")
        assert bucket.has("e/") == (deed != "rmdir")
        assert bucket.has("small") == (deed != "unlink")
        if deed == "truncate":
            assert bucket.get("small") == b"bef"


@pytest.mark.one_store
@pytest.mark.parametrize("deed", DEEDS)
def test_other_changes_that_are_refused(
    mnt: Mount, proxy: Proxy, bucket: Bucket, deed: str
) -> None:
    operation, key, act = DEEDS[deed]
    mnt.allowed += FAILED
    bucket.put("e/", b"")
    before = bucket.keys()
    rule = proxy.on(operation, faults.s3_error(403, "AccessDenied"), key=key, times=1000)
    with pytest.raises(PermissionError):
        act(mnt)
    assert rule.applied
    assert bucket.keys() == before
    assert bucket.get("small") == b"before"
    proxy.heal()
    assert (mnt / "small").read_bytes() == b"before"
    assert not (mnt / "d").exists()
    assert (mnt / "e").is_dir()


def test_checksums_that_the_server_does_not_know(mnt: Mount, proxy: Proxy, bucket: Bucket) -> None:
    """[S50] Every upload carries a checksum that the store verifies, unless the store does not know
    such checksums or `upload_checksum=off` is given.
    """
    (mnt / "small").write_bytes(SMALL)
    sent = [
        exchange.request.headers
        for exchange in proxy.seen
        if exchange.target.operation == "PutObject"
    ]
    assert [header for header in sent[-1] if header.startswith("x-amz-checksum-")]
    mnt.allowed.append("upload_checksum_refused")
    proxy.on("PutObject", faults.s3_error(400, "InvalidArgument", "Unsupported header"))
    (mnt / "small").write_bytes(SMALL[::-1])
    assert bucket.get("small") == SMALL[::-1]
    assert mnt.log.lines("upload_checksum_refused")
    with Mount(bucket, "upload_checksum=off", store=bucket.store.at(proxy.endpoint)) as other:
        (other / "small").write_bytes(SMALL)
    last = [e.request.headers for e in proxy.seen if e.target.operation == "PutObject"][-1]
    assert not [header for header in last if header.startswith("x-amz-checksum-")]


def test_nothing_is_lost_when_the_network_goes_and_comes_back(
    mnt: Mount, proxy: Proxy, bucket: Bucket
) -> None:
    """A program that writes through it all notices nothing but the time it takes."""
    gate = faults.Gate()
    proxy.on("UploadPart", gate.hold_before, times=2)
    with contextlib.closing((mnt / "large").open("wb", buffering=0)) as file:
        file.write(LARGE[:PART])
        file.write(LARGE[PART : 2 * PART])
        file.write(LARGE[2 * PART :])
        wait_until(lambda: gate.waiting == 2, "both parts on their way")
        proxy.on("CompleteMultipartUpload UploadPart", faults.reset_before(), times=3)
        gate.open()
    assert bucket.get("large") == LARGE
