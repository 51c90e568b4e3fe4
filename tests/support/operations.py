"""Which operation of the S3 API a request is, by its method, path, query and headers."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Target", "target_of"]

_COPY = "x-amz-copy-source"  # a header that tells operations apart, as query words do

# Method, what the path names, the words that must be there: the first row that fits counts.
_ROWS = (
    ("GET", "service", (), "ListBuckets"),
    ("GET", "bucket", ("list-type",), "ListObjectsV2"),
    ("GET", "bucket", ("uploads",), "ListMultipartUploads"),
    ("GET", "bucket", ("location",), "GetBucketLocation"),
    ("GET", "bucket", (), "ListObjects"),
    ("HEAD", "bucket", (), "HeadBucket"),
    ("PUT", "bucket", ("policy",), "PutBucketPolicy"),
    ("PUT", "bucket", (), "CreateBucket"),
    ("POST", "bucket", ("delete",), "DeleteObjects"),
    ("DELETE", "bucket", (), "DeleteBucket"),
    ("GET", "object", ("uploadId",), "ListParts"),
    ("GET", "object", (), "GetObject"),
    ("HEAD", "object", (), "HeadObject"),
    ("PUT", "object", ("uploadId", _COPY), "UploadPartCopy"),
    ("PUT", "object", ("uploadId",), "UploadPart"),
    ("PUT", "object", (_COPY,), "CopyObject"),
    ("PUT", "object", (), "PutObject"),
    ("POST", "object", ("uploads",), "CreateMultipartUpload"),
    ("POST", "object", ("uploadId",), "CompleteMultipartUpload"),
    ("DELETE", "object", ("uploadId",), "AbortMultipartUpload"),
    ("DELETE", "object", (), "DeleteObject"),
)


class Target(NamedTuple):
    """What a request is about; addresses are path-style."""

    operation: str
    bucket: str
    key: str
    query: dict[str, str]


def target_of(method: str, url: str, headers: Mapping[str, str]) -> Target:
    """Return the target of a request; the operation of one that is no S3 is its method."""
    parts = urlsplit(url)
    bucket, _, key = parts.path.lstrip("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(parts.query, True).items()}
    kind = "object" if key else "bucket" if bucket else "service"
    words = query.keys() | (headers.keys() & {_COPY})
    operation = next(
        (
            name
            for row_method, row_kind, needed, name in _ROWS
            if (row_method, row_kind) == (method, kind) and words >= set(needed)
        ),
        method,
    )
    return Target(operation, unquote(bucket), unquote(key, errors="surrogateescape"), query)
