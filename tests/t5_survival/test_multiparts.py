"""Multipart uploads that no file makes: a large object gets other headers by copying its parts."""

import pytest

from fuse_s3_worker.config.units import GIB
from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.survival.multiparts import remembering
from support.rawserver import RawServer, Request, reply
from support.storekit import ONCE, make_store, run
from support.succession import Succession

OLD, NEW = '"00c0ffee00c0ffee00c0ffee00c0ffee"', '"feedbeeffeedbeeffeedbeeffeedbeef"'
LARGE = ObjectInfo("large", 5 * GIB + 1, 0, OLD)
DATE = "Wed, 01 Apr 2026 12:00:00 GMT"


def server(request: Request, *, dying: bool) -> bytes:
    """Be a bucket with one large object; a `dying` one copies no part and aborts nothing."""
    if request.method == "HEAD":
        told = {"content-length": str(LARGE.size), "etag": OLD, "last-modified": DATE}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()
    if request.method == "GET":
        return reply(200, b"<Tagging><TagSet></TagSet></Tagging>")
    if request.method == "POST":
        kind = (
            "InitiateMultipartUpload" if "uploads" in request.query else "CompleteMultipartUpload"
        )
        body = f"<{kind}Result><UploadId>u1</UploadId><ETag>{NEW}</ETag></{kind}Result>"
        return reply(200, body.encode(), date=DATE)
    if dying:
        return reply(403)
    if request.method == "DELETE":
        return reply(204)
    return reply(200, f"<CopyPartResult><ETag>{NEW}</ETag></CopyPartResult>".encode())


@pytest.mark.parametrize("dying", [True, False])
def test_other_headers_of_a_large_object_leave_no_orphan_behind(dying: bool) -> None:
    """What neither could be made an object nor aborted is left to the next worker."""

    async def main() -> list[tuple[str, str]]:
        store = make_store(raw.url, patience=ONCE)
        mount = Succession(store)
        try:
            await remembering(store, mount.recorder).set_headers(LARGE, {"x-amz-meta-mode": "1"})
            assert not dying
        except StoreError:
            assert dying
        finally:
            left = mount.die().multiparts
            mount.close()
        return [(upload.key, upload.upload_id) for upload in left]

    with RawServer.answering(lambda request: server(request, dying=dying)) as raw:
        left = run(main())
    assert {request.method for request in raw.requests} >= {"POST", "PUT"}
    assert left == ([("large", "u1")] if dying else [])
