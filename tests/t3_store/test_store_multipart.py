"""Multipart uploads: what is sent, what must come back, and replies that were lost."""

import base64
import hashlib
import logging
import random
from collections.abc import Callable
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import pytest
from awscrt import checksums

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.checksums import algorithm as checksum
from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo, PartResult
from support.rawserver import Answer, End, RawServer, Request, reply
from support.segments import Memory
from support.storekit import ONCE, PERSISTENT, make_store, run

UPLOAD = MultipartUpload("k", "u1")
PARTS = [
    PartResult(1, 5 << 20, '"d41d8cd98f00b204e9800998ecf8427e"', "AAAAAAAAAAA="),
    PartResult(2, 77, '"900150983cd24fb0d6963f7d28e17f72"', "AAAAAAAAAAA="),
]
SIZE = (5 << 20) + 77
# What S3 makes of the parts' MD5 sums.
_SUMS = "d41d8cd98f00b204e9800998ecf8427e900150983cd24fb0d6963f7d28e17f72"
ETAG = f'"{hashlib.md5(bytes.fromhex(_SUMS)).hexdigest()}-2"'

DATE = "Wed, 01 Apr 2026 12:00:00 GMT"
NOON = 1775044800_000_000_000

Script = list[Answer | bytes] | Callable[[Request], Answer | bytes]


def result(etag: str) -> bytes:
    name = "CompleteMultipartUploadResult"
    document = f'<?xml version="1.0"?>\n<{name}><ETag>{etag}</ETag></{name}>'
    return reply(200, document.encode(), date=DATE)


def error(status: int, code: str) -> bytes:
    return reply(status, f"<Error><Code>{code}</Code></Error>".encode(), date=DATE)


def there(etag: str = ETAG, size: int = SIZE) -> bytes:
    lines = f"Content-Length: {size}\r\nETag: {etag}\r\nLast-Modified: {DATE}\r\n"
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()


def complete(script: Script, parts: list[PartResult] | None = None) -> tuple[
    ObjectInfo | StoreError, list[Request]
]:  # fmt: skip
    """Return what completing comes to, and what was asked."""

    async def main() -> ObjectInfo | StoreError:
        try:
            store = make_store(server.url, patience=PERSISTENT)
            return await store.complete_multipart(UPLOAD, parts or PARTS)
        except StoreError as failure:
            return failure

    with RawServer.answering(script) as server:
        return run(main()), server.requests


# -- beginning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"<InitiateMultipartUploadResult><UploadId></UploadId></InitiateMultipartUploadResult>",
        b"<InitiateMultipartUploadResult/>",
        b"<html/>",
        b"",
    ],
)
def test_an_upload_without_an_id_is_a_bad_reply(body: bytes) -> None:
    async def main() -> None:
        with RawServer.answering([reply(200, body)]) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url, patience=ONCE).create_multipart("k")
            assert caught.value.fault is Fault.BAD_REPLY

    run(main())


@pytest.mark.parametrize("algorithm", ["crc32c", "crc64nvme"])
def test_the_checksum_is_announced_for_the_whole_object(algorithm: str) -> None:
    async def main() -> None:
        name = "InitiateMultipartUploadResult"
        body = f"<{name}><UploadId>u+/1</UploadId></{name}>".encode()
        with RawServer.answering([reply(200, body)]) as server:
            store = make_store(server.url, f"upload_checksum={algorithm}")
            upload = await store.create_multipart("k", content_type="text/plain")
            assert upload == MultipartUpload("k", "u+/1")
            (request,) = server.requests
            assert request.headers["x-amz-checksum-algorithm"] == algorithm.upper()
            assert request.headers["x-amz-checksum-type"] == "FULL_OBJECT"
            assert request.headers["content-type"] == "text/plain"

    run(main())


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "function", "size"),
    [("crc32c", checksums.crc32c, 4), ("crc64nvme", checksums.crc64nvme, 8)],
)
def test_sums_of_parts_make_the_sum_of_the_whole(
    algorithm: str, function: Callable[[bytes], int], size: int
) -> None:
    dice = random.Random(3)
    pieces = [dice.randbytes(length) for length in (100_000, 1, 0, 70_001, 5)]
    whole = b"".join(pieces)

    async def main() -> None:
        def script(request: Request) -> bytes:
            number = request.query.get("partNumber", "")
            return reply(200, etag=f'"{number}"') if number else result('"x-5"')

        with RawServer.answering(script) as server:
            store = make_store(server.url, f"upload_checksum={algorithm}")
            parts = []
            for number, piece in enumerate(pieces, 1):
                middle = len(piece) // 3
                body = Body((piece[:middle], memoryview(piece)[middle:]), len(piece))
                parts.append(await store.upload_part(UPLOAD, number, body))
            await store.complete_multipart(UPLOAD, parts)
            *uploads, last = server.requests
            for request, part, piece in zip(uploads, parts, pieces, strict=True):
                expected = base64.b64encode(function(piece).to_bytes(size, "big")).decode()
                assert request.headers[f"x-amz-checksum-{algorithm}"] == expected
                assert part == PartResult(part.number, len(piece), f'"{part.number}"', expected)
                assert request.body == piece
            expected = base64.b64encode(function(whole).to_bytes(size, "big")).decode()
            assert last.headers[f"x-amz-checksum-{algorithm}"] == expected
            assert last.headers["x-amz-checksum-type"] == "FULL_OBJECT"
            assert last.headers["x-amz-mp-object-size"] == str(len(whole))
            assert checksum(algorithm).element.encode() in last.body

    run(main())


def test_a_part_without_an_etag_is_a_bad_reply() -> None:
    async def main() -> None:
        with (
            RawServer.answering([reply(200)]) as server,
            pytest.raises(StoreError, match="UploadPart 'k': status 200, but not from S3"),
        ):
            await make_store(server.url).upload_part(UPLOAD, 3, Body((b"x",), 1))

    run(main())


def copy_requests(source: ObjectInfo, *, bucket: str = "bucket", options: str = "") -> Request:
    async def main() -> None:
        store = make_store(server.url, options, bucket=bucket)
        part = await store.copy_part(UPLOAD, 4, source, 10, 25)
        assert part == PartResult(4, 15, '"c"', "")

    body = b"<CopyPartResult><ETag>&quot;c&quot;</ETag></CopyPartResult>"
    with RawServer.answering([reply(200, body)]) as server:
        run(main())
    return server.requests[0]


def test_a_copied_part_names_source_range_and_version() -> None:
    request = copy_requests(ObjectInfo("a b/ü+?", 100, 0, '"e"'))
    assert request.headers["x-amz-copy-source"] == "/bucket/a%20b/%C3%BC%2B%3F"
    assert request.headers["x-amz-copy-source-range"] == "bytes=10-24"
    assert request.headers["x-amz-copy-source-if-match"] == '"e"'
    assert request.query == {"partNumber": "4", "uploadId": "u1"}
    assert (request.method, request.body) == ("PUT", b"")


def test_an_access_point_is_named_as_the_source_by_its_arn() -> None:
    """API: UploadPartCopy, x-amz-copy-source."""

    async def main() -> None:
        bucket = "arn:aws:s3:us-west-2:123456789012:accesspoint/my-point"
        source = make_store("", bucket=bucket).copy_source("a b")
        assert unquote(source) == f"{bucket}/object/a b"
        assert quote(unquote(source), safe="/") == source

    run(main())


def test_a_copied_part_of_a_source_without_an_etag_has_no_condition() -> None:
    request = copy_requests(ObjectInfo("k", 100, 0, ""))
    assert "x-amz-copy-source-if-match" not in request.headers


DISGUISES = [
    b"<Error><Code>InternalError</Code></Error>",
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code></Error>',
    b'<?xml version="1.0"?>' + b" " * 600 + b"<Error><Code>InternalError</Code></Error>",
    b'<?xml version="1.0"?><Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Code>InternalError</Code></Error>",
]


@pytest.mark.parametrize("disguised", DISGUISES)
def test_an_error_in_a_200_is_an_error_and_tried_again(disguised: bytes) -> None:
    """S3 keeps the connection alive with spaces and says 200 before it knows the outcome."""
    # After a failure that may have come too late to count, the object is looked for first.
    looks = [] if b"SlowDown" in disguised else [reply(404)]
    found, requests = complete([reply(200, disguised), *looks, result(ETAG)])
    assert isinstance(found, ObjectInfo), found
    assert [r.method for r in requests] == ["POST", *["HEAD" for _ in looks], "POST"]

    async def copy() -> None:
        body = b"<CopyPartResult><ETag>&quot;c&quot;</ETag></CopyPartResult>"
        with RawServer.answering([reply(200, disguised), reply(200, body)]) as server:
            store = make_store(server.url, patience=PERSISTENT)
            part = await store.copy_part(UPLOAD, 1, ObjectInfo("k", 9, 0, '"e"'), 0, 9)
            assert part.etag == '"c"'

    run(copy())


def test_an_error_in_a_200_that_is_final() -> None:
    found, _ = complete([reply(200, DISGUISES[1].replace(b"SlowDown", b"AccessDenied"))])
    assert isinstance(found, StoreError)
    assert (found.fault, found.status) == (Fault.FORBIDDEN, 200)


def test_an_object_that_begins_like_an_error_is_an_object() -> None:
    """Only the documents that S3 writes are looked into, not what users store."""
    content = DISGUISES[0]

    async def main() -> None:
        where = f"bytes 0-{len(content) - 1}/{len(content)}"
        with RawServer.answering([reply(206, content, content_range=where, etag='"e"')]) as server:
            sink = Memory(len(content))
            await make_store(server.url).get_range("k", '"e"', 0, len(content), sink)
            assert sink.content == content

    run(main())


# -- the end ---------------------------------------------------------------------------------------


def test_the_parts_are_named_in_the_order_given() -> None:
    found, (request,) = complete([result(ETAG.replace('"', "&quot;"))])
    assert found == ObjectInfo("k", SIZE, NOON, ETAG)
    assert request.headers["x-amz-mp-object-size"] == str(SIZE)
    root = ElementTree.fromstring(request.body)
    numbers = [element.text for element in root.iter() if element.tag.endswith("PartNumber")]
    assert numbers == ["1", "2"]


def test_parts_that_were_copied_have_no_sum_and_so_has_the_whole() -> None:
    _, (request,) = complete([result(ETAG)], [PARTS[0], PARTS[1]._replace(checksum="")])
    assert not [name for name in request.headers if name.startswith("x-amz-checksum")]


@pytest.mark.parametrize("etag", ["", "&quot;&quot;"])
def test_an_empty_etag_is_asked_for_again(etag: str) -> None:
    """Ceph."""
    found, requests = complete([result(etag), there()])
    assert found == ObjectInfo("k", SIZE, NOON, ETAG)
    assert [request.method for request in requests] == ["POST", "HEAD"]


LOST = Answer(b"", End.CLOSE)


@pytest.mark.parametrize(
    "second", [error(404, "NoSuchUpload"), error(500, "InternalError")], ids=["S3", "Ceph"]
)
def test_a_lost_reply_is_made_good_by_the_object_itself(
    second: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def script(request: Request) -> Answer | bytes:
        if request.method == "HEAD":
            return there()
        first = not seen
        seen.append(request)
        return LOST if first else second

    seen: list[Request] = []

    async def main() -> ObjectInfo:
        # Once lost, then refused until the patience is over: Ceph says so for ever.
        store = make_store(server.url, patience=PERSISTENT._replace(otherwise=0.3))
        return await store.complete_multipart(UPLOAD, PARTS)

    with RawServer.answering(script) as server:
        assert run(main()) == ObjectInfo("k", SIZE, NOON, ETAG)
    assert any(
        record.getMessage().startswith("upload_was_complete key=k ") for record in caplog.records
    )


OTHERS = {
    "another object": there(etag='"00000000000000000000000000000000-2"'),
    "the same sums in one part": there(etag=ETAG.replace("-2", "")),
    "another size": there(size=SIZE - 1),
    "no object": reply(404),
    "no permission to look": reply(403),
    "no answer": Answer(b"", End.CLOSE),
}


@pytest.mark.parametrize("found", OTHERS.values(), ids=OTHERS.keys())
def test_a_lost_upload_is_an_error_of_the_upload(found: Answer | bytes) -> None:
    """Not ENOENT or EACCES: close() would say that about a file that it did not store."""

    def script(request: Request) -> Answer | bytes:
        return found if request.method == "HEAD" else error(404, "NoSuchUpload")

    async def main() -> None:
        with RawServer.answering(script) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).complete_multipart(UPLOAD, PARTS)
            assert caught.value.fault is Fault.NO_SUCH_UPLOAD

    run(main())


def test_etags_that_are_no_sums_prove_nothing() -> None:
    parts = [PARTS[0]._replace(etag='"opaque"', checksum=""), PARTS[1]]
    found, requests = complete([error(404, "NoSuchUpload"), there()], parts)
    assert isinstance(found, StoreError)
    assert found.fault is Fault.NO_SUCH_UPLOAD
    assert len(requests) == 1


@pytest.mark.parametrize("code", ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"])
def test_a_refusal_of_the_parts_is_final(code: str) -> None:
    found, _ = complete([error(400, code)] * 3)
    assert isinstance(found, StoreError)
    assert (found.fault, found.code) == (Fault.BAD_REQUEST, code)


# -- giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [reply(204), error(404, "NoSuchUpload"), reply(404)])
def test_giving_up_an_upload_that_is_gone_is_no_error(answer: bytes) -> None:
    async def main() -> None:
        with RawServer.answering([answer]) as server:
            await make_store(server.url).abort_multipart(UPLOAD)
            (request,) = server.requests
            assert (request.method, request.query) == ("DELETE", {"uploadId": "u1"})

    run(main())


def test_giving_up_that_is_refused_is_an_error() -> None:
    async def main() -> None:
        with RawServer.answering([error(403, "AccessDenied")]) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).abort_multipart(UPLOAD)
            assert caught.value.fault is Fault.FORBIDDEN

    run(main())
