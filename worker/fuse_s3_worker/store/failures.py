"""What a reply that is no success means: one table by S3's error code, one by status."""

from email.utils import parsedate_to_datetime

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.store.documents import parse_error

__all__ = ["ReplyError", "classify", "fault_of", "request_id", "server_time"]


class ReplyError(StoreError):
    """A refusal with the reply that brought it, which may say what to do about it."""

    reply: Reply


# API: "Error responses" of Amazon S3, and what Ceph, MinIO and Swift say instead.
_BY_CODE = {
    "NoSuchKey": Fault.NOT_FOUND,
    "NoSuchVersion": Fault.NOT_FOUND,
    "NoSuchBucket": Fault.NO_SUCH_BUCKET,
    "NoSuchUpload": Fault.NO_SUCH_UPLOAD,
    "AccessDenied": Fault.FORBIDDEN,  # has come with status 200
    "ExpiredToken": Fault.EXPIRED_CREDENTIALS,
    "TokenRefreshRequired": Fault.EXPIRED_CREDENTIALS,
    "InvalidToken": Fault.EXPIRED_CREDENTIALS,
    "RequestTimeTooSkewed": Fault.CLOCK_SKEW,
    "RequestExpired": Fault.CLOCK_SKEW,
    "PermanentRedirect": Fault.WRONG_REGION,
    "TemporaryRedirect": Fault.WRONG_REGION,
    "AuthorizationHeaderMalformed": Fault.WRONG_REGION,
    "PreconditionFailed": Fault.CHANGED,
    "InvalidRange": Fault.CHANGED,
    "InvalidObjectState": Fault.ARCHIVED,
    "KeyTooLongError": Fault.KEY_TOO_LONG,
    "EntityTooLarge": Fault.TOO_LARGE,
    "MetadataTooLarge": Fault.METADATA_TOO_LARGE,
    "QuotaExceeded": Fault.QUOTA,
    "NotImplemented": Fault.NOT_IMPLEMENTED,
    "BadDigest": Fault.BAD_DIGEST,
    "XAmzContentSHA256Mismatch": Fault.BAD_DIGEST,
    "XAmzContentChecksumMismatch": Fault.BAD_DIGEST,
    "SlowDown": Fault.THROTTLED,
    "ServiceUnavailable": Fault.THROTTLED,
    "Throttling": Fault.THROTTLED,
    "TooManyRequests": Fault.THROTTLED,
    "RequestLimitExceeded": Fault.THROTTLED,
    "BandwidthLimitExceeded": Fault.THROTTLED,
    "InternalError": Fault.UNAVAILABLE,
    "OperationAborted": Fault.UNAVAILABLE,
    "RequestTimeout": Fault.UNAVAILABLE,
    "ConditionalRequestConflict": Fault.UNAVAILABLE,
}

_BY_STATUS = {
    301: Fault.WRONG_REGION,
    302: Fault.WRONG_REGION,
    307: Fault.WRONG_REGION,
    308: Fault.WRONG_REGION,
    401: Fault.FORBIDDEN,
    403: Fault.FORBIDDEN,
    404: Fault.NOT_FOUND,
    405: Fault.NOT_IMPLEMENTED,
    408: Fault.UNAVAILABLE,
    409: Fault.UNAVAILABLE,
    412: Fault.CHANGED,
    413: Fault.TOO_LARGE,
    416: Fault.CHANGED,
    425: Fault.THROTTLED,
    429: Fault.THROTTLED,
    500: Fault.UNAVAILABLE,
    501: Fault.NOT_IMPLEMENTED,
    502: Fault.UNAVAILABLE,
    503: Fault.THROTTLED,
    504: Fault.UNAVAILABLE,
    507: Fault.QUOTA,
}

_SUCCESS = range(200, 300)
_CLIENT_ERRORS = range(400, 500)
_SKEW_LIMIT = 300.0  # seconds; S3 allows 900, and a clock this far off explains a 403


def classify(reply: Reply, what: str, *, clock: float | None = None) -> ReplyError:
    """Return the error that `reply` to the request `what` stands for.

    `clock` is the time that the request was signed with, in seconds since the epoch: a HEAD has
    no document, so a refusal is put down to the clock when the server's is far from it.
    """
    fields = parse_error(reply.body)
    code = fields.get("Code", "")
    status = reply.head.status
    told = status in _CLIENT_ERRORS or (code and status in _SUCCESS)
    fallback = Fault.BAD_REQUEST if told else Fault.BAD_REPLY
    fault = _BY_CODE.get(code) or _BY_STATUS.get(status, fallback)
    theirs = server_time(reply)
    if fault is Fault.FORBIDDEN and not code and clock and theirs:
        fault = Fault.CLOCK_SKEW if abs(theirs - clock) > _SKEW_LIMIT else fault
    if status == 400 and not code and reply.head.headers.get("x-amz-bucket-region"):  # noqa: PLR2004
        fault = Fault.WRONG_REGION  # HEAD again: S3 says so only in the header
    message = fields.get("Message") or code or f"HTTP status {status}"
    error = ReplyError(
        fault,
        f"{what}: {message}",
        status=status,
        code=code,
        request_id=request_id(reply),
        retry_after=_retry_after(reply),
    )
    error.reply = reply
    return error


def fault_of(code: str) -> Fault:
    """Return the fault that an error's code stands for, where there is no status beside it."""
    return _BY_CODE.get(code, Fault.BAD_REQUEST)


def request_id(reply: Reply) -> str:
    """Return the id that the server gave the request; moto has another name for it."""
    headers = reply.head.headers
    return headers.get("x-amz-request-id") or headers.get("x-amzn-requestid", "")


def server_time(reply: Reply) -> float | None:
    """Return the server's clock, in seconds since the epoch, if it told the time."""
    try:
        return parsedate_to_datetime(reply.head.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _retry_after(reply: Reply) -> float | None:
    value = reply.head.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None
