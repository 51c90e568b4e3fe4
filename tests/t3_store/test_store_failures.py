"""What S3 says, whose fault that is, and the errno it becomes."""

import errno
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.errors import ERRNO, Fault, FileSystemError, ServeError, StoreError
from fuse_s3_worker.http.connection import Reply, ReplyHead
from fuse_s3_worker.store.failures import ReplyError, classify, request_id, server_time

NOON = "Wed, 01 Apr 2026 12:00:00 GMT"
NOON_SECONDS = 1775044800.0


def reply(status: int, code: str = "", message: str = "", **headers: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(ReplyHead(status, fields, keep_alive=True), body.encode())


# Status, code, fault, errno, whether it may be tried again.
REFUSALS = [
    (404, "NoSuchKey", Fault.NOT_FOUND, errno.ENOENT, False),
    (404, "NoSuchVersion", Fault.NOT_FOUND, errno.ENOENT, False),
    (404, "", Fault.NOT_FOUND, errno.ENOENT, False),
    (404, "NoSuchBucket", Fault.NO_SUCH_BUCKET, errno.EIO, False),
    (404, "NoSuchUpload", Fault.NO_SUCH_UPLOAD, errno.EIO, False),
    (403, "AccessDenied", Fault.FORBIDDEN, errno.EACCES, False),
    (403, "InvalidAccessKeyId", Fault.FORBIDDEN, errno.EACCES, False),
    (403, "SignatureDoesNotMatch", Fault.FORBIDDEN, errno.EACCES, False),
    (403, "AllAccessDisabled", Fault.FORBIDDEN, errno.EACCES, False),
    (403, "", Fault.FORBIDDEN, errno.EACCES, False),
    (401, "", Fault.FORBIDDEN, errno.EACCES, False),
    (400, "ExpiredToken", Fault.EXPIRED_CREDENTIALS, errno.EACCES, False),
    (400, "InvalidToken", Fault.EXPIRED_CREDENTIALS, errno.EACCES, False),
    (400, "TokenRefreshRequired", Fault.EXPIRED_CREDENTIALS, errno.EACCES, False),
    (403, "RequestTimeTooSkewed", Fault.CLOCK_SKEW, errno.EACCES, False),
    (403, "RequestExpired", Fault.CLOCK_SKEW, errno.EACCES, False),
    (301, "PermanentRedirect", Fault.WRONG_REGION, errno.EIO, False),
    (307, "TemporaryRedirect", Fault.WRONG_REGION, errno.EIO, False),
    (400, "AuthorizationHeaderMalformed", Fault.WRONG_REGION, errno.EIO, False),
    (301, "", Fault.WRONG_REGION, errno.EIO, False),
    (302, "", Fault.WRONG_REGION, errno.EIO, False),
    (307, "", Fault.WRONG_REGION, errno.EIO, False),
    (308, "", Fault.WRONG_REGION, errno.EIO, False),
    (412, "PreconditionFailed", Fault.CHANGED, errno.ESTALE, False),
    (412, "", Fault.CHANGED, errno.ESTALE, False),
    (416, "InvalidRange", Fault.CHANGED, errno.ESTALE, False),
    (416, "", Fault.CHANGED, errno.ESTALE, False),
    (403, "InvalidObjectState", Fault.ARCHIVED, errno.EACCES, False),
    (400, "KeyTooLongError", Fault.KEY_TOO_LONG, errno.ENAMETOOLONG, False),
    (400, "EntityTooLarge", Fault.TOO_LARGE, errno.EFBIG, False),
    (413, "", Fault.TOO_LARGE, errno.EFBIG, False),
    (403, "QuotaExceeded", Fault.QUOTA, errno.EDQUOT, False),
    (507, "", Fault.QUOTA, errno.EDQUOT, False),
    (501, "NotImplemented", Fault.NOT_IMPLEMENTED, errno.EOPNOTSUPP, False),
    (501, "", Fault.NOT_IMPLEMENTED, errno.EOPNOTSUPP, False),
    (405, "MethodNotAllowed", Fault.NOT_IMPLEMENTED, errno.EOPNOTSUPP, False),
    (400, "BadDigest", Fault.BAD_DIGEST, errno.EIO, True),
    (400, "XAmzContentSHA256Mismatch", Fault.BAD_DIGEST, errno.EIO, True),
    (400, "XAmzContentChecksumMismatch", Fault.BAD_DIGEST, errno.EIO, True),
    (400, "InvalidRequest", Fault.BAD_REQUEST, errno.EIO, False),
    (400, "", Fault.BAD_REQUEST, errno.EIO, False),
    (411, "MissingContentLength", Fault.BAD_REQUEST, errno.EIO, False),
    (418, "", Fault.BAD_REQUEST, errno.EIO, False),
    (503, "SlowDown", Fault.THROTTLED, errno.EIO, True),
    (503, "ServiceUnavailable", Fault.THROTTLED, errno.EIO, True),
    (503, "", Fault.THROTTLED, errno.EIO, True),
    (429, "TooManyRequests", Fault.THROTTLED, errno.EIO, True),
    (429, "", Fault.THROTTLED, errno.EIO, True),
    (400, "RequestLimitExceeded", Fault.THROTTLED, errno.EIO, True),
    (500, "InternalError", Fault.UNAVAILABLE, errno.EIO, True),
    (200, "InternalError", Fault.UNAVAILABLE, errno.EIO, True),
    (200, "SlowDown", Fault.THROTTLED, errno.EIO, True),
    (200, "AccessDenied", Fault.FORBIDDEN, errno.EACCES, False),
    (200, "SomethingNew", Fault.BAD_REQUEST, errno.EIO, False),
    (500, "", Fault.UNAVAILABLE, errno.EIO, True),
    (502, "", Fault.UNAVAILABLE, errno.EIO, True),
    (504, "", Fault.UNAVAILABLE, errno.EIO, True),
    (400, "RequestTimeout", Fault.UNAVAILABLE, errno.EIO, True),
    (408, "", Fault.UNAVAILABLE, errno.EIO, True),
    (409, "OperationAborted", Fault.UNAVAILABLE, errno.EIO, True),
    (409, "ConditionalRequestConflict", Fault.UNAVAILABLE, errno.EIO, True),
    (599, "", Fault.BAD_REPLY, errno.EIO, True),
    (304, "", Fault.BAD_REPLY, errno.EIO, True),
]


@pytest.mark.parametrize(("status", "code", "fault", "number", "temporary"), REFUSALS)
def test_the_meaning_of_a_refusal(
    status: int, code: str, fault: Fault, number: int, temporary: bool
) -> None:
    """Beside what users are told of.

    [S70] What the store forbids gives EACCES. [S72] An object in an archive storage class gives
    EACCES when it is read. [S73] A store that is full gives EDQUOT.
    """
    error = classify(reply(status, code), "GetObject 'k'")
    assert (error.fault, error.errno, error.temporary) == (fault, number, temporary)
    assert (error.status, error.code) == (status, code)


def test_a_code_says_more_than_a_status() -> None:
    """Ceph sends 404 for uploads, Swift 400 for throttling; unknown codes leave the status."""
    assert classify(reply(500, "SlowDown"), "x").fault is Fault.THROTTLED
    assert classify(reply(404, "SomethingNew"), "x").fault is Fault.NOT_FOUND
    assert classify(reply(503, "SomethingNew"), "x").fault is Fault.THROTTLED


def test_the_message_is_the_servers_and_names_the_request() -> None:
    error = classify(
        reply(403, "AccessDenied", "No &lt;way&gt;", x_amz_request_id="R7"), "PutObject 'a b'"
    )
    assert str(error) == "PutObject 'a b': No <way>"
    assert error.details == {"http": 403, "code": "AccessDenied", "request_id": "R7"}
    assert isinstance(error, ReplyError)
    assert error.reply.head.status == 403
    assert str(classify(reply(403, "AccessDenied"), "x")) == "x: AccessDenied"
    assert str(classify(reply(403), "x")) == "x: HTTP status 403"


def test_motos_name_for_the_request_id() -> None:
    assert request_id(reply(200, x_amzn_requestid="M")) == "M"
    assert request_id(reply(200, x_amz_request_id="A", x_amzn_requestid="M")) == "A"
    assert request_id(reply(200)) == ""


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"<Error><Code>Slow", b"\xff\xfe"])
def test_a_body_that_is_no_document_leaves_the_status(body: bytes) -> None:
    error = classify(Reply(ReplyHead(502, {}, keep_alive=False), body), "x")
    assert (error.fault, error.code) == (Fault.UNAVAILABLE, "")


# -- a refusal of HEAD has no document -------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "fault"),
    [
        (0.0, Fault.FORBIDDEN),
        (299.0, Fault.FORBIDDEN),
        (-299.0, Fault.FORBIDDEN),
        (301.0, Fault.CLOCK_SKEW),
        (-86400.0, Fault.CLOCK_SKEW),
    ],
)
def test_a_bare_403_is_put_down_to_a_clock_that_is_far_off(off: float, fault: Fault) -> None:
    assert classify(reply(403, date=NOON), "x", clock=NOON_SECONDS + off).fault is fault


def test_a_403_that_has_a_code_is_not_put_down_to_the_clock() -> None:
    error = classify(reply(403, "AccessDenied", date=NOON), "x", clock=NOON_SECONDS + 9999)
    assert error.fault is Fault.FORBIDDEN


def test_a_bare_403_without_a_date_is_what_it_says() -> None:
    for date in ("", "yesterday"):
        error = classify(reply(403, date=date), "x", clock=NOON_SECONDS)
        assert error.fault is Fault.FORBIDDEN
    assert classify(reply(403, date=NOON), "x").fault is Fault.FORBIDDEN


def test_a_bare_400_that_names_a_region_is_about_the_region() -> None:
    error = classify(reply(400, x_amz_bucket_region="eu-west-1"), "x")
    assert error.fault is Fault.WRONG_REGION
    error = classify(reply(400, "InvalidArgument", x_amz_bucket_region="eu-west-1"), "x")
    assert error.fault is Fault.BAD_REQUEST


# -- times and pauses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "pause"),
    [("", None), ("0", 0.0), ("7", 7.0), ("120", 120.0), (NOON, None), ("-1", None), ("1.5", None)],
)
def test_retry_after(value: str, pause: float | None) -> None:
    assert classify(reply(503, retry_after=value), "x").retry_after == pause


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (NOON, NOON_SECONDS),
        ("Wed, 1 Apr 2026 14:00:00 +0200", NOON_SECONDS),
        ("", None),
        ("today", None),
        ("Wed, 01 Apr 99999 12:00:00 GMT", None),
        ("Wed, 01 Abc 2026 12:00:00 GMT", None),
        ("Wed, 01 Apr 2026 99:00:00 GMT", None),
        ("Wed, 01 Apr 2026 12:00:00 +99999999999999999", None),
    ],
)
def test_the_servers_clock(date: str, expected: float | None) -> None:
    assert server_time(reply(200, date=date)) == expected
    if not date:
        assert server_time(reply(200)) is None


@given(st.text(max_size=60), st.text(max_size=20), st.binary(max_size=100), st.integers(100, 999))
def test_no_reply_makes_the_judgement_fail(date: str, pause: str, body: bytes, status: int) -> None:
    head = ReplyHead(status, {"date": date, "retry-after": pause}, keep_alive=True)
    assert isinstance(classify(Reply(head, body), "x", clock=NOON_SECONDS), ReplyError)


# -- the table of errors ---------------------------------------------------------------------------


def test_every_fault_has_an_errno_and_nothing_else_has() -> None:
    assert set(ERRNO) == set(Fault)
    assert all(number in errno.errorcode for number in ERRNO.values())
    # FUSE replies of these would be understood as something else by the kernel.
    assert not set(ERRNO.values()) & {errno.ENOSYS, errno.EINTR, errno.EAGAIN, errno.ENODEV}


@pytest.mark.parametrize("fault", Fault)
def test_a_store_error_carries_its_errno_and_what_is_worth_logging(fault: Fault) -> None:
    error = StoreError(fault, "text")
    assert isinstance(error, ServeError)
    assert error.errno == ERRNO[fault]
    assert error.details == {}
    assert str(error) == "text"
    # That a name is not there is the most ordinary of answers.
    assert error.level == (logging.DEBUG if fault is Fault.NOT_FOUND else logging.WARNING)


def test_what_is_temporary_is_what_may_pass() -> None:
    assert {fault for fault in Fault if StoreError(fault, "").temporary} == {
        Fault.THROTTLED,
        Fault.UNAVAILABLE,
        Fault.UNREACHABLE,
        Fault.BAD_REPLY,
        Fault.BAD_DIGEST,
    }


def test_a_file_system_error_says_how_loud_it_is() -> None:
    error = FileSystemError(errno.ENOTEMPTY, "it is not empty")
    assert (error.errno, error.level, str(error)) == (
        errno.ENOTEMPTY,
        logging.DEBUG,
        "it is not empty",
    )
    assert FileSystemError(errno.EIO, "x", logging.ERROR).level == logging.ERROR
    assert error.details == {}
