"""One request from start to end: what is sent and signed, and connections that end."""

import asyncio
import hashlib
from collections.abc import Iterable

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Buffer, Reply, Sink
from fuse_s3_worker.http.pool import Pool
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.documents import parse_list_page
from fuse_s3_worker.store.sigv4 import EMPTY_SHA256
from fuse_s3_worker.store.types import Body, ListPage, MultipartUpload, PartResult
from support.rawserver import Answer, End, RawServer, Request, certificate, reply
from support.storekit import ONCE, PERSISTENT, caller_of, make_store, run, signature_is_right

DATE = "Fri, 14 Feb 2025 09:00:00 GMT"
HEAD_OK = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\n'
    b"Last-Modified: " + DATE.encode() + b"\r\n\r\n"
)
PUT_OK = reply(200, etag='"e"')
UPLOAD = MultipartUpload("k", "u/1+2=")


def error(status: int, code: str, **headers: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
    return reply(status, body, **headers)


def fault_of(answers: Iterable[Answer | bytes]) -> StoreError:
    """Return what HEAD fails with."""

    async def main() -> StoreError:
        with RawServer.answering(answers) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).head("k")
            return caught.value

    return run(main())


# -- pages -----------------------------------------------------------------------------------------

_TOKEN = "<NextContinuationToken>a/b+c=</NextContinuationToken>"
_PAGE = f"<ListBucketResult><IsTruncated>true</IsTruncated>{_TOKEN}</ListBucketResult>".encode()


def test_the_next_page_is_asked_for_before_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with RawServer.answering([reply(200, _PAGE), reply(200, b"<ListBucketResult/>")]) as server:
            store = make_store(server.url)
            sent = caller_of(store).requests
            sent_when_read: list[int] = []
            following: list[asyncio.Task[ListPage]] = []

            def read(body: bytes) -> ListPage:
                sent_when_read.append(sent["ListObjectsV2"])
                return parse_list_page(body)

            def ask(token: str) -> None:
                following.append(asyncio.create_task(store.list_page("", token=token)))

            monkeypatch.setattr(documents, "parse_list_page", read)
            assert (await store.list_page("", on_token=ask)).token == "a/b+c="
            await following[0]
            assert sent_when_read == [2, 2]
            assert server.requests[1].query["continuation-token"] == "a/b+c="

    run(main())


@pytest.mark.parametrize(
    "document",
    [
        b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        _PAGE.replace(b"a/b+c=", b""),
        _PAGE.replace(b"a/b+c=", b"&#x1;"),
    ],
    ids=["the last page", "no token", "a token for the parser alone"],
)
def test_a_page_whose_token_is_not_sure_is_read_first(document: bytes) -> None:
    assert documents.peek_token(document) == ""


# -- what is sent ----------------------------------------------------------------------------------


async def everything(store: S3Store) -> None:
    """Use every operation that has a reply of its own."""
    await store.head("a b")
    await store.list_page("p/", delimiter="/", token="t+/=")
    await store.put("k+", Body((b"abc",), 3), content_type="text/plain")
    await store.create_multipart("k")
    await store.upload_part(UPLOAD, 7, Body((b"x" * 70_000, b"y"), 70_001))
    await store.complete_multipart(UPLOAD, [PartResult(1, 5, '"e"', "AAAAAAAAAAA=")])
    await store.abort_multipart(UPLOAD)
    await store.delete("k")


def answer(request: Request) -> bytes:
    if request.method == "HEAD":
        return HEAD_OK
    if "list-type" in request.query:
        return reply(200, b"<ListBucketResult/>")
    # A store tells how it encrypts what it is sent.
    sse = {n.replace("-", "_"): v for n, v in request.headers.items() if "encryption" in n}
    if "uploads" in request.query:
        name = "InitiateMultipartUploadResult"
        body = f"<{name}><UploadId>{UPLOAD.upload_id}</UploadId></{name}>".encode()
        return reply(200, body, **sse)
    if request.method == "POST":
        name = "CompleteMultipartUploadResult"
        return reply(200, f'<{name}><ETag>"e-1"</ETag></{name}>'.encode())
    return reply(204) if request.method == "DELETE" else reply(200, b"", etag='"e"', **sse)


def sent(options: str = "", *, secure: bool = False) -> list[Request]:
    """Return the requests that all operations send."""

    async def main() -> None:
        store = make_store(
            server.url, options, ca_bundle=certificate().certificate.read_text() if secure else None
        )
        await everything(store)

    with RawServer.answering(answer, tls=certificate() if secure else None) as server:
        run(main())
    assert len(server.requests) == 8
    return server.requests


def test_every_request_is_signed_as_botocore_would() -> None:
    for request in sent():
        assert signature_is_right(request), request
        assert request.headers["user-agent"].startswith("fuse-s3/")


def test_another_region_is_another_signature() -> None:
    for request in sent("region=eu-south-2"):
        assert "/eu-south-2/s3/aws4_request" in request.headers["authorization"]
        assert signature_is_right(request, region="eu-south-2")


def test_over_http_bodies_are_signed() -> None:
    requests = sent()
    for request in requests:
        assert request.headers["x-amz-content-sha256"] == hashlib.sha256(request.body).hexdigest()
    assert {len(request.body) for request in requests} >= {0, 3, 70_001}, "in line and in a thread"


def test_over_https_bodies_are_protected_by_tls_alone() -> None:
    for request in sent(secure=True):
        expected = "UNSIGNED-PAYLOAD" if request.body else EMPTY_SHA256
        assert request.headers["x-amz-content-sha256"] == expected
        assert signature_is_right(request)


def test_anonymous_requests_have_no_signature_at_all() -> None:
    for request in sent("no_sign_request"):
        assert "authorization" not in request.headers
        assert "x-amz-date" not in request.headers
        assert "x-amz-content-sha256" not in request.headers


def test_what_every_request_has() -> None:
    expected = {
        "x-amz-expected-bucket-owner": "123456789012",
        "x-amz-request-payer": "requester",
    }
    for request in sent("expected_bucket_owner=123456789012,requester_pays"):
        assert expected.items() <= request.headers.items()
        assert signature_is_right(request)


def test_what_only_new_objects_have() -> None:
    options = "storage_class=standard_ia,sse=aws:kms,sse_kms_key_id=arn:aws:kms:eu:1:key/x"
    expected = {
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu:1:key/x",
    }
    creating = []
    for request in sent(options):
        if expected.keys() & request.headers.keys():
            assert expected.items() <= request.headers.items()
            assert signature_is_right(request)
            creating.append((request.method, "uploads" in request.query))
    assert creating == [("PUT", False), ("POST", True)]


def test_without_options_no_such_headers_are_sent() -> None:
    ours = {"x-amz-date", "x-amz-content-sha256"}
    for request in sent("upload_checksum=off"):
        extra = {name for name in request.headers if name.startswith("x-amz-")} - ours
        assert extra <= {"x-amz-mp-object-size", "x-amz-optional-object-attributes"}


def test_every_upload_carries_a_checksum() -> None:
    """[S50] Every upload carries a checksum that the store verifies, unless the store does not
    know such checksums or `upload_checksum=off` is given.
    """
    for options, expected in (("", True), ("upload_checksum=off", False)):
        uploads = [request for request in sent(options) if request.method == "PUT"]
        assert len(uploads) == 2
        for request in uploads:
            carried = [name for name in request.headers if name.startswith("x-amz-checksum-")]
            assert bool(carried) is expected


def test_bodies_are_announced_and_only_where_there_may_be_one() -> None:
    for request in sent():
        announced = request.headers.get("content-length")
        assert announced == (str(len(request.body)) if request.method in {"PUT", "POST"} else None)


def test_keys_and_queries_arrive_as_they_are() -> None:
    head, listing, put, create, part, complete, abort, delete = sent()
    assert (head.path, put.path) == ("/bucket/a b", "/bucket/k+")
    assert {request.path for request in (create, part, complete, abort, delete)} == {"/bucket/k"}
    assert listing.path == "/bucket/"
    assert listing.query == {
        "list-type": "2",
        "encoding-type": "url",
        "max-keys": "1000",
        "prefix": "p/",
        "delimiter": "/",
        "continuation-token": "t+/=",
    }
    assert create.query == {"uploads": ""}
    assert part.query == {"partNumber": "7", "uploadId": UPLOAD.upload_id}
    assert complete.query == abort.query == {"uploadId": UPLOAD.upload_id}
    assert put.headers["content-type"] == "text/plain"


def test_operations_are_counted() -> None:
    async def main() -> None:
        with RawServer.answering(answer) as server:
            store = make_store(server.url)
            await everything(store)
            await store.head("again")
            assert caller_of(store).requests == {
                "HeadObject": 2,
                "ListObjectsV2": 1,
                "PutObject": 1,
                "CreateMultipartUpload": 1,
                "UploadPart": 1,
                "CompleteMultipartUpload": 1,
                "AbortMultipartUpload": 1,
                "DeleteObject": 1,
            }

    run(main())


def test_only_what_carries_data_waits_behind_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    exchange = Pool.exchange

    async def noted(
        pool: Pool,
        head: bytes,
        body: Iterable[Buffer],
        sink: Sink | None,
        *,
        urgent: bool,
        patience: float,
    ) -> Reply:
        given.append(urgent)
        return await exchange(pool, head, body, sink, urgent=urgent, patience=patience)

    monkeypatch.setattr(Pool, "exchange", noted)
    carries_data = [len(request.body) > 0 and request.method == "PUT" for request in sent()]
    assert sum(carries_data) == 2
    assert given == [not data for data in carries_data]


@pytest.mark.parametrize("length", ["", "content-length: many\r\n", "content-length: -1\r\n"])
def test_an_object_without_a_size_is_none(length: str) -> None:
    """Its size would be taken for 0, and a program would read an empty file."""
    head = f'HTTP/1.1 200 OK\r\n{length}etag: "e"\r\nlast-modified: {DATE}\r\n\r\n'
    failure = fault_of([Answer(head.encode(), End.CLOSE)])
    assert failure.fault in {Fault.BAD_REPLY, Fault.UNREACHABLE}
    if not length:
        assert str(failure) == "HEAD of 'k' tells no size"


# -- removing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 204, 200])
def test_what_is_gone_already_is_removed(status: int) -> None:
    """Another client was faster, or the reply to the first try was lost."""
    gone = {"DeleteObject": "NoSuchKey", "AbortMultipartUpload": "NoSuchUpload"}

    async def main() -> None:
        answers = [error(404, code) if status == 404 else reply(status) for code in gone.values()]
        with RawServer.answering(answers) as server:
            store = make_store(server.url)
            await store.delete("k")
            await store.abort_multipart(UPLOAD)
            assert len(server.requests) == 2

    run(main())


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [(403, "AccessDenied", Fault.FORBIDDEN), (404, "NoSuchBucket", Fault.NO_SUCH_BUCKET)],
)
def test_what_cannot_be_removed_is_an_error(status: int, code: str, fault: Fault) -> None:
    async def main() -> None:
        with RawServer.answering([error(status, code)] * 2) as server:
            store = make_store(server.url)
            for work in (store.delete("k"), store.abort_multipart(UPLOAD)):
                with pytest.raises(StoreError) as caught:
                    await work
                assert caught.value.fault is fault

    run(main())


# -- connections that end --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
def test_an_idle_connection_that_the_server_closed_costs_nothing(end: End) -> None:
    """No retry, no pause, no line in the log: it happens every few seconds."""

    async def main() -> None:
        with RawServer.answering([HEAD_OK, Answer(b"", end), HEAD_OK]) as server:
            store = make_store(server.url, patience=ONCE)
            await store.head("one")
            await store.head("two")
            assert caller_of(store).retrier.retries == 0
            assert [request.path for request in server.requests] == [
                "/bucket/one",
                "/bucket/two",
                "/bucket/two",
            ]

    run(main())


def test_a_new_connection_that_closes_is_a_failure_that_is_tried_again() -> None:
    async def main() -> None:
        closes = Answer(b"", End.CLOSE)
        with RawServer.answering([closes, closes, HEAD_OK]) as server:
            store = make_store(server.url, patience=PERSISTENT)
            await store.head("k")
            assert caller_of(store).retrier.retries == 2

    run(main())


def test_what_is_left_of_it_names_request_and_server() -> None:
    failure = fault_of([Answer(b"HTTP/1.1 200", End.CLOSE)])
    assert failure.fault is Fault.UNREACHABLE
    assert str(failure) == "HeadObject 'k': the peer closed the connection"

    async def main() -> None:
        with RawServer.answering([]) as server:
            url = server.url
        with pytest.raises(StoreError, match=f"HeadObject 'k': cannot connect to {url}: "):
            await make_store(url).head("k")

    run(main())


@pytest.mark.parametrize(
    "first",
    [
        error(503, "SlowDown"),
        error(500, "InternalError"),
        reply(502, b"<html>Bad Gateway</html>"),
        error(400, "RequestTimeout"),
        b"garbage\r\n\r\n",
        Answer(reply(200, b"<ListBucketResult/>")[:-3], End.CLOSE),
    ],
)
def test_a_temporary_failure_is_tried_again(first: Answer | bytes) -> None:
    async def main() -> None:
        with RawServer.answering([first, first, reply(200, b"<ListBucketResult/>")]) as server:
            page = await make_store(server.url, patience=PERSISTENT).list_page("")
            assert page.objects == []
            assert len(server.requests) == 3

    run(main())
