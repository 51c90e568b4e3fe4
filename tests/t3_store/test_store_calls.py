"""One request from start to end: what is sent and signed, and what a refusal leads to."""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.sigv4 import EMPTY_SHA256, Credentials
from fuse_s3_worker.store.types import Body, MultipartUpload, PartResult
from support.rawserver import Answer, End, RawServer, Request, certificate, reply
from support.segments import until
from support.storekit import KEY, ONCE, PERSISTENT, caller_of, make_store, run, signature_is_right

HEAD_OK = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\n\r\n'
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
    if "uploads" in request.query:
        name = "InitiateMultipartUploadResult"
        return reply(200, f"<{name}><UploadId>{UPLOAD.upload_id}</UploadId></{name}>".encode())
    if request.method == "POST":
        name = "CompleteMultipartUploadResult"
        return reply(200, f'<{name}><ETag>"e-1"</ETag></{name}>'.encode())
    return reply(204) if request.method == "DELETE" else PUT_OK


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
        assert extra <= {"x-amz-mp-object-size"}


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


# -- the clock -------------------------------------------------------------------------------------


class ServersClock:
    """A server whose clock is hours ahead, and that refuses what is signed by another."""

    def __init__(self, ahead: timedelta, *, bare: bool = False, tells: bool = True) -> None:
        self._ahead = ahead
        self._bare = bare
        self._tells = tells

    def __call__(self, request: Request) -> bytes:
        now = datetime.now(UTC) + self._ahead
        signed = datetime.strptime(request.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        date = format_datetime(now, usegmt=True) if self._tells else "not told"
        if abs(signed - now) < timedelta(minutes=15):
            return reply(200, b"<ListBucketResult/>", date=date)
        if self._bare:
            return reply(403, date=date)
        return error(403, "RequestTimeTooSkewed", date=date)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(days=-400)])
def test_a_clock_that_differs_is_adopted(
    ahead: timedelta, bare: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with RawServer.answering(ServersClock(ahead, bare=bare)) as server:
            store = make_store(server.url)
            for _ in range(3):
                await store.list_page("")
            assert len(server.requests) == 4, "found out once, and kept"
            assert all(signature_is_right(request) for request in server.requests)

    caplog.set_level(logging.INFO)
    run(main())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("clock_differs seconds=")
    assert abs(int(line.split()[1].split("=")[1]) - ahead.total_seconds()) < 120


def test_requests_that_fail_by_the_clock_together_are_all_sent_again() -> None:
    """A laptop that wakes up has many requests under way; one finds out, all shall profit."""

    async def main() -> None:
        with RawServer.answering(ServersClock(timedelta(hours=3))) as server:
            store = make_store(server.url)
            pages = await asyncio.gather(*(store.list_page(f"{n}") for n in range(8)))
            assert len(pages) == 8
            assert 9 <= len(server.requests) <= 16

    run(main())


def test_a_server_that_does_not_tell_the_time_cannot_be_followed() -> None:
    async def main() -> None:
        clock = ServersClock(timedelta(hours=3), tells=False)
        with RawServer.answering(clock) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).list_page("")
            assert caught.value.fault is Fault.CLOCK_SKEW
            assert len(server.requests) == 1

    run(main())


def test_a_server_that_is_never_content_with_the_time_is_not_asked_for_ever() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    answers = [error(403, "RequestTimeTooSkewed", date=date)] * 20

    async def main() -> None:
        with RawServer.answering(answers) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).list_page("")
            assert caught.value.fault is Fault.CLOCK_SKEW
            assert len(server.requests) <= 4

    run(main())


# -- credentials -----------------------------------------------------------------------------------


class Renewable:
    """Credentials that can be renewed: each time there is the next of a list."""

    def __init__(self, *keys: Credentials) -> None:
        self._keys = list(keys)
        self.renewals = 0

    async def current(self) -> Credentials | None:
        return self._keys[0]

    async def renew(self) -> bool:
        self.renewals += 1
        await asyncio.sleep(0)
        if len(self._keys) == 1:
            return False
        del self._keys[0]
        return True


OLD = KEY._replace(token="old")
NEW = KEY._replace(token="new")


def only_new(request: Request) -> bytes:
    if request.headers["x-amz-security-token"] == "new":
        return reply(200, b"<ListBucketResult/>")
    return error(400, "ExpiredToken")


def test_a_key_that_is_over_is_renewed_once() -> None:
    async def main() -> None:
        keys = Renewable(OLD, NEW)
        with RawServer.answering(only_new) as server:
            store = make_store(server.url, provider=keys)
            await store.list_page("")
            await store.list_page("")
            assert keys.renewals == 1
            assert [request.headers["x-amz-security-token"] for request in server.requests] == [
                "old",
                "new",
                "new",
            ]
            assert signature_is_right(server.requests[0], OLD)
            assert signature_is_right(server.requests[2], NEW)

    run(main())


def test_a_key_that_cannot_be_renewed_ends_it() -> None:
    async def main() -> None:
        keys = Renewable(OLD)
        with RawServer.answering(only_new) as server:
            with pytest.raises(StoreError, match="ExpiredToken it is") as caught:
                await make_store(server.url, provider=keys).list_page("")
            assert caught.value.fault is Fault.EXPIRED_CREDENTIALS
            assert len(server.requests) == 1

    run(main())


def test_keys_that_are_all_over_are_not_tried_for_ever() -> None:
    async def main() -> None:
        keys = Renewable(*[OLD] * 50)
        with RawServer.answering(only_new) as server:
            with pytest.raises(StoreError):
                await make_store(server.url, provider=keys).list_page("")
            assert len(server.requests) <= 4

    run(main())


def test_a_request_that_fails_after_another_one_had_the_key_renewed_uses_the_new_key() -> None:
    """Two were signed with the old key; the second learns of it when the first is long done."""
    gate = threading.Event()

    async def main() -> None:
        def script(request: Request) -> Answer | bytes:
            if request.query["prefix"] == "late" and "old" in str(request.headers):
                return Answer(only_new(request), gate=gate)
            return only_new(request)

        with RawServer.answering(script) as server:
            store = make_store(server.url, provider=Renewable(OLD, NEW))
            late = asyncio.ensure_future(store.list_page("late"))
            await until(lambda: len(server.requests) == 1)
            await store.list_page("early")
            gate.set()
            await late

    run(main())


# -- checksums that a server does not know ---------------------------------------------------------


def refuses_checksums(request: Request) -> bytes:
    if any("checksum" in name for name in request.headers):
        return error(501, "NotImplemented")
    return answer(request)


def test_every_upload_carries_a_checksum() -> None:
    """[S45] Every upload carries a checksum that the store verifies, unless the store does not
    know such checksums or `upload_checksum=off` is given.
    """
    for options, expected in (("", True), ("upload_checksum=off", False)):
        uploads = [request for request in sent(options) if request.method == "PUT"]
        assert len(uploads) == 2
        for request in uploads:
            carried = [name for name in request.headers if name.startswith("x-amz-checksum-")]
            assert bool(carried) is expected


def test_a_refused_checksum_is_left_out_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        with RawServer.answering(refuses_checksums) as server:
            store = make_store(server.url)
            await store.put("one", Body((b"x",), 1))
            await store.put("two", Body((b"x",), 1))
            part = await store.upload_part(UPLOAD, 1, Body((b"x",), 1))
            assert part.checksum == ""
            assert [request.path for request in server.requests] == [
                "/bucket/one",
                "/bucket/one",
                "/bucket/two",
                "/bucket/k",
            ]

    run(main())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("upload_checksum_refused algorithm=crc64nvme reason=")
    assert "http=501 code=NotImplemented" in line


def test_a_refusal_for_another_reason_says_nothing_about_checksums() -> None:
    async def main() -> None:
        answers = [error(400, "InvalidArgument"), error(400, "InvalidArgument"), PUT_OK]
        with RawServer.answering(answers) as server:
            store = make_store(server.url)
            with pytest.raises(StoreError) as caught:
                await store.put("one", Body((b"x",), 1))
            assert caught.value.fault is Fault.BAD_REQUEST
            await store.put("two", Body((b"x",), 1))
            assert "x-amz-checksum-crc64nvme" in server.requests[-1].headers

    run(main())


def test_a_wrong_checksum_is_not_answered_by_leaving_it_out() -> None:
    """The sum was right when it was made: the bytes went wrong on their way."""

    async def main() -> None:
        answers = [error(400, "BadDigest"), PUT_OK]
        with RawServer.answering(answers) as server:
            await make_store(server.url, patience=PERSISTENT).put("k", Body((b"x",), 1))
            for request in server.requests:
                assert "x-amz-checksum-crc64nvme" in request.headers

    run(main())
