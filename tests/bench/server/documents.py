"""The XML of the back end: what it answers, and what it is sent."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from bench.server.objects import Page, RefusedError

__all__ = [
    "Listing",
    "completed",
    "copied",
    "deleted",
    "error",
    "initiated",
    "listing_v1",
    "listing_v2",
    "location",
    "read_complete",
    "read_delete",
]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

Listing = Callable[[str, dict[str, str], Page], bytes]
"""Writes a page of a bucket's listing, as the query asks for it."""


def error(code: str, message: str) -> bytes:
    """Write an Error document."""
    return _whole("Error", _fields(Code=code, Message=message), namespace=False)


def location() -> bytes:
    """Write where the bucket is: an empty element is us-east-1."""
    return _whole("LocationConstraint", "")


def initiated(bucket: str, key: str, upload_id: str) -> bytes:
    """Write the answer to CreateMultipartUpload."""
    fields = _fields(Bucket=bucket, Key=key, UploadId=upload_id)
    return _whole("InitiateMultipartUploadResult", fields)


def completed(bucket: str, key: str, etag: str) -> bytes:
    """Write the answer to CompleteMultipartUpload."""
    return _whole("CompleteMultipartUploadResult", _fields(Bucket=bucket, Key=key, ETag=etag))


def copied(name: str, etag: str, mtime: int) -> bytes:
    """Write a CopyObjectResult or a CopyPartResult."""
    return _whole(name, _fields(LastModified=_time(mtime), ETag=etag))


def deleted(keys: Iterable[str]) -> bytes:
    """Write the answer to DeleteObjects."""
    rows = (f"<Deleted>{_fields(Key=key)}</Deleted>" for key in keys)
    return _whole("DeleteResult", "".join(rows))


def listing_v2(bucket: str, query: dict[str, str], page: Page) -> bytes:
    """Write a page of ListObjectsV2; the token is the last name of the page."""
    fields = _fields(KeyCount=str(len(page.objects) + len(page.prefixes)))
    if page.next:
        fields += _fields(NextContinuationToken=page.next)
    return _listing(bucket, query, page, fields)


def listing_v1(bucket: str, query: dict[str, str], page: Page) -> bytes:
    """Write a page of ListObjects."""
    fields = _fields(Marker=query.get("marker", ""))
    if page.next:
        fields += _fields(NextMarker=_encoder(query)(page.next))
    return _listing(bucket, query, page, fields)


def _listing(bucket: str, query: dict[str, str], page: Page, fields: str) -> bytes:
    encode = _encoder(query)
    if "encoding-type" in query:
        fields += _fields(EncodingType="url")
    fields += _fields(
        Name=bucket,
        Prefix=encode(query.get("prefix", "")),
        Delimiter=encode(query.get("delimiter", "")),
        MaxKeys=query.get("max-keys", "1000"),
        IsTruncated="true" if page.next else "false",
    )
    # Written out: a page has a thousand of them, and the server's time is not to be the measure.
    rows = [
        f"<Contents><Key>{escape(encode(key))}</Key><LastModified>{_time(entry.mtime)}"
        f"</LastModified><ETag>&quot;{entry.etag[1:-1]}&quot;</ETag><Size>{entry.size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for key, entry in page.objects
    ]
    rows += [
        f"<CommonPrefixes>{_fields(Prefix=encode(prefix))}</CommonPrefixes>"
        for prefix in page.prefixes
    ]
    return _whole("ListBucketResult", fields + "".join(rows))


def _encoder(query: dict[str, str]) -> Callable[[str], str]:
    return quote if query.get("encoding-type") == "url" else str


@lru_cache(maxsize=4096)
def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _fields(**fields: str) -> str:
    return "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())


def _whole(name: str, content: str, *, namespace: bool = True) -> bytes:
    attribute = f' xmlns="{_NAMESPACE}"' if namespace else ""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<{name}{attribute}>{content}</{name}>".encode()


# -- what is sent ----------------------------------------------------------------------------------


def read_complete(body: bytes) -> list[tuple[int, str]]:
    """Read the body of CompleteMultipartUpload: part numbers and ETags."""
    return [
        (int(part.findtext("PartNumber", "0")), part.findtext("ETag", ""))
        for part in _parse(body).iterfind("Part")
    ]


def read_delete(body: bytes) -> list[str]:
    """Read the body of DeleteObjects: the keys."""
    return [entry.findtext("Key", "") for entry in _parse(body).iterfind("Object")]


def _parse(body: bytes) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise RefusedError(400, "MalformedXML", "The XML is not well-formed.") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
