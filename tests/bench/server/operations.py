"""The S3 API's names for requests: for the back end, which answers them, and for counting them."""

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

__all__ = ["UNKNOWN", "Target", "operation", "split_target"]

UNKNOWN = "Unknown"

COPY = "x-amz-copy-source"


class Target(NamedTuple):
    """Where a request goes; `key` is "" when it concerns the bucket."""

    bucket: str
    key: str
    query: dict[str, str]


class _Rule(NamedTuple):
    method: str
    about_key: bool
    marks: frozenset[str]  # query parameters, and COPY for the header
    name: str


def _rule(method: str, about: str, marks: str, name: str) -> _Rule:
    return _Rule(method, about == "key", frozenset(marks.split()), name)


# The first row whose marks are all there; what has the most of them comes first.
_RULES = (
    _rule("HEAD", "bucket", "", "HeadBucket"),
    _rule("GET", "bucket", "location", "GetBucketLocation"),
    _rule("GET", "bucket", "uploads", "ListMultipartUploads"),
    _rule("GET", "bucket", "list-type", "ListObjectsV2"),
    _rule("GET", "bucket", "", "ListObjects"),
    _rule("PUT", "bucket", "", "CreateBucket"),
    _rule("POST", "bucket", "delete", "DeleteObjects"),
    _rule("HEAD", "key", "", "HeadObject"),
    _rule("GET", "key", "uploadId", "ListParts"),
    _rule("GET", "key", "", "GetObject"),
    _rule("PUT", "key", f"partNumber uploadId {COPY}", "UploadPartCopy"),
    _rule("PUT", "key", "partNumber uploadId", "UploadPart"),
    _rule("PUT", "key", COPY, "CopyObject"),
    _rule("PUT", "key", "", "PutObject"),
    _rule("POST", "key", "uploads", "CreateMultipartUpload"),
    _rule("POST", "key", "uploadId", "CompleteMultipartUpload"),
    _rule("DELETE", "key", "uploadId", "AbortMultipartUpload"),
    _rule("DELETE", "key", "", "DeleteObject"),
)

# A request for one of these is none of the above, although it looks like one.
_ELSEWHERE = frozenset(
    "accelerate acl attributes cors encryption legal-hold lifecycle logging notification "
    "object-lock policy policyStatus publicAccessBlock replication requestPayment restore "
    "retention select tagging torrent versioning versions website".split()
)


def split_target(target: str) -> Target:
    """Read the target of a request line."""
    path, _, query = target.partition("?")
    bucket, _, key = path.removeprefix("/").partition("/")
    fields = dict(parse_qsl(query, keep_blank_values=True))
    return Target(unquote(bucket), unquote(key), fields)


def operation(method: str, target: Target, *, copies: bool) -> str:
    """Return the operation's name; `copies` tells whether the request names a copy source."""
    marks = target.query.keys() | ({COPY} if copies else set())
    if marks & _ELSEWHERE or not target.bucket:
        return UNKNOWN
    for rule in _RULES:
        if (rule.method, rule.about_key) == (method, bool(target.key)) and rule.marks <= marks:
            return rule.name
    return UNKNOWN
