"""What a refusal says is wrong is put right: the clock, the key, checksums; and not for ever."""

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.sigv4 import Credentials
from fuse_s3_worker.store.types import Body, MultipartUpload
from support.rawserver import Answer, RawServer, Request, reply
from support.segments import until
from support.storekit import KEY, PERSISTENT, make_store, run, signature_is_right

UPLOAD = MultipartUpload("k", "u1")
STORED = reply(200, etag='"e"')
# A reply to HEAD has the length of what it has not.
FOUND = (
    b'HTTP/1.1 200 OK\r\ncontent-length: 3\r\netag: "e"\r\n'
    b"last-modified: Fri, 20 Nov 2026 16:28:24 GMT\r\n\r\n"
)


def error(status: int, code: str, **headers: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
    return reply(status, body, **headers)


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


def only_new_and_no_reason_for_heads(request: Request) -> bytes:
    if request.headers["x-amz-security-token"] == "old" and request.method == "HEAD":
        return reply(400)
    return FOUND if request.method == "HEAD" else only_new(request)


def test_a_head_that_is_not_told_that_its_key_is_over() -> None:
    async def main() -> None:
        with RawServer.answering(only_new_and_no_reason_for_heads) as server:
            store = make_store(server.url, provider=Renewable(OLD, NEW))
            assert (await store.head("k")).size == 3
            assert (await store.head("k")).size == 3
            methods = [request.method for request in server.requests]
            assert methods == ["HEAD", "GET", "GET", "HEAD", "HEAD"]
        with RawServer.answering(only_new_and_no_reason_for_heads) as server:
            with pytest.raises(StoreError, match="ExpiredToken it is") as caught:
                await make_store(server.url, provider=Renewable(OLD)).head("k")
            assert caught.value.fault is Fault.EXPIRED_CREDENTIALS

    run(main())


def test_a_head_that_is_refused_for_a_reason_of_its_own() -> None:
    """Such as an object that was encrypted with a key of its owner's."""

    async def main() -> None:
        def script(request: Request) -> bytes:
            return reply(400) if request.method == "HEAD" else reply(200, b"<ListBucketResult/>")

        with RawServer.answering(script) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url).head("k")
            assert caught.value.fault is Fault.BAD_REQUEST
            assert len(server.requests) == 3

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
    return STORED


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
        answers = [error(400, "InvalidArgument"), error(400, "InvalidArgument"), STORED]
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
        answers = [error(400, "BadDigest"), STORED]
        with RawServer.answering(answers) as server:
            await make_store(server.url, patience=PERSISTENT).put("k", Body((b"x",), 1))
            for request in server.requests:
                assert "x-amz-checksum-crc64nvme" in request.headers

    run(main())
