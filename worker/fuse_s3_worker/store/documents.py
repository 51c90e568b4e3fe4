"""S3's XML documents, read with suspicion and written by hand.

The XML parser is expat, which neither fetches entities nor expands bombs; a document type, which
S3 never sends, is refused all the same. Namespaces are dropped: some servers leave them out.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, quote_plus, unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.rows import Row, cut_rows
from fuse_s3_worker.store.types import ListPage, ObjectInfo, PartResult

__all__ = [
    "ARCHIVES",
    "Copy",
    "complete_multipart_document",
    "delete_document",
    "error_code",
    "expressible",
    "parse_copy",
    "parse_delete_errors",
    "parse_error",
    "parse_list_page",
    "parse_result",
    "parse_tags",
    "peek_token",
    "tagging_document",
]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_DECLARATION = f' xmlns="{_NAMESPACE}"'.encode()

# References to control characters: XML 1.0 has none, but Ceph repeats prefixes and makes tokens
# with them. Noncharacters, of which Unicode has as many, stand in for them while expat reads.
_CONTROL = re.compile(rb"&#x([01][0-9a-fA-F]);")
_STAND_INS = 0xFDD0
# What XML 1.0 has no way to write, and what it takes for something else unless it is referred to.
_INEXPRESSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_REFERRED = {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
# Keys cannot look like this in a document; a token with references is left to the parser.
_TOKEN = re.compile(rb"<NextContinuationToken>([^<&]+)</NextContinuationToken>")
_CONTROLS = {_STAND_INS + number: number for number in range(32)}

ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects are read only after somebody has asked for it."""


def parse_list_page(body: bytes) -> ListPage:
    """Read a ListBucketResult (API: ListObjectsV2).

    Keys come percent-encoded when the document says so; one that does not say so is taken as it
    is. Anything else that is missing or no number makes the document a bad one.
    """
    rows, rest = cut_rows(body)
    root = _parse(rest, "ListBucketResult")
    entries = root.findall("Contents")
    if rows and not (len(entries) == 1 and not len(entries[0])):
        # Not all of them, or not in their place: what was cut out may be something else.
        rows, root = [], _parse(body, "ListBucketResult")
        entries = root.findall("Contents")
    decode: Callable[[str], str] = _decoded if _text(root, "EncodingType") == "url" else str
    try:
        objects = [_of_row(row, decode) for row in rows] or [_object(e, decode) for e in entries]
    except ValueError as error:
        raise StoreError(Fault.BAD_REPLY, f"a listing has a bad entry: {error}") from None
    prefixes = [decode(_text(entry, "Prefix")) for entry in root.iterfind("CommonPrefixes")]
    truncated = _text(root, "IsTruncated") == "true"
    token = _text(root, "NextContinuationToken")
    if truncated and not token:
        raise StoreError(Fault.BAD_REPLY, "a listing is truncated but names no continuation")
    return ListPage(objects, prefixes, token if truncated else None)


def peek_token(body: bytes) -> str:
    """Return the continuation token of a listing without reading all of it; "" when in doubt."""
    match = _TOKEN.search(body)
    return match[1].decode("utf-8", "replace") if match else ""


def _decoded(key: str) -> str:
    """Undo the encoding `url`: S3 writes a space as a plus sign here, as in a query string."""
    return unquote_plus(key) if "%" in key or "+" in key else key


def _of_row(row: Row, decode: Callable[[str], str]) -> ObjectInfo:
    key, modified, etag, size, storage = row
    storage_class = "" if storage == "STANDARD" else storage
    # What was restored has more to tell, and is left to the parser.
    archived = storage in ARCHIVES
    return ObjectInfo(
        decode(key), int(size), parse_time(modified), f'"{etag}"', storage_class, archived
    )


def _object(entry: ElementTree.Element, decode: Callable[[str], str]) -> ObjectInfo:
    fields = {child.tag: child.text or "" for child in entry}
    key, size = fields.get("Key", ""), fields.get("Size", "")
    if not key or not size.isdecimal():
        raise ValueError(f"key {key[:100]!r} of size {size[:20]!r}")
    storage_class = fields.get("StorageClass", "")
    return ObjectInfo(
        decode(key),
        int(size),
        parse_time(fields.get("LastModified", "")),
        quoted(fields.get("ETag", "")),
        "" if storage_class == "STANDARD" else storage_class,
        # The time until which it can be read is told of what was restored, and when asked for.
        storage_class in ARCHIVES and not entry.findtext("RestoreStatus/RestoreExpiryDate"),
    )


@lru_cache(maxsize=1024)  # what was stored together has the same time, and a page has a thousand
def parse_time(text: str) -> int:
    """Read ISO 8601; return nanoseconds since the epoch, in whole seconds.

    Headers know seconds only. With the milliseconds that some servers put into listings, an
    object would have two times, and every other look at it would find it changed.
    """
    time = datetime.fromisoformat(text)
    return int(time.replace(tzinfo=time.tzinfo or UTC).timestamp()) * 1_000_000_000


def quoted(etag: str) -> str:
    """Return an entity tag with its quotes; some servers leave them out of documents."""
    return etag if not etag or etag.endswith('"') else f'"{etag}"'


def parse_error(body: bytes) -> dict[str, str]:
    """Read an Error document into its fields; anything else gives an empty one.

    Proxies and captive portals answer in HTML, HEAD has no body, and a server that is falling
    over may send half a document: none of it may hide the status, which is known already.
    """
    try:
        root = _parse(body, "Error")
    except StoreError:
        return {}
    return {child.tag: child.text or "" for child in root}


def error_code(body: bytes) -> str:
    """Return the code of an Error document, "" when it is none."""
    return parse_error(body).get("Code", "")


def parse_result(body: bytes, name: str, field: str) -> str:
    """Return `field` of the document `name`, "" when it is empty; Ceph has empty ETags there."""
    return _text(_parse(body, name), field)


class Copy(NamedTuple):
    """What a copy is: its ETag, and its time in nanoseconds, 0 when that was not told."""

    etag: str
    mtime: int


def parse_copy(body: bytes, name: str = "CopyObjectResult") -> Copy:
    """Read a CopyObjectResult or a CopyPartResult."""
    root = _parse(body, name)
    etag, modified = quoted(_text(root, "ETag")), _text(root, "LastModified")
    if not etag:
        raise StoreError(Fault.BAD_REPLY, f"a {name} without an ETag")
    try:
        return Copy(etag, parse_time(modified) if modified else 0)
    except ValueError as error:
        raise StoreError(Fault.BAD_REPLY, f"a {name} has a bad time: {error}") from None


def parse_tags(body: bytes) -> str:
    """Read a Tagging document (API: GetObjectTagging); return it as x-amz-tagging takes it."""
    if not body:
        return ""  # Ceph's way to say that there are none
    tags = _parse(body, "Tagging").iterfind("TagSet/Tag")
    return "&".join(f"{quote_plus(_text(t, 'Key'))}={quote_plus(_text(t, 'Value'))}" for t in tags)


def tagging_document(tags: str) -> bytes:
    """Write the body of PutObjectTagging, of tags as x-amz-tagging takes them."""
    lines = "".join(
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>"
        for name, value in parse_qsl(tags, keep_blank_values=True)
    )
    return f'<Tagging xmlns="{_NAMESPACE}"><TagSet>{lines}</TagSet></Tagging>'.encode()


def complete_multipart_document(parts: Sequence[PartResult], checksum_element: str) -> bytes:
    """Write the body of CompleteMultipartUpload; `checksum_element` is "" for none."""
    lines = []
    for part in parts:
        checksum = ""
        if checksum_element and part.checksum:
            checksum = f"<{checksum_element}>{part.checksum}</{checksum_element}>"
        lines.append(
            f"<Part><PartNumber>{part.number}</PartNumber>"
            f"<ETag>{escape(part.etag)}</ETag>{checksum}</Part>"
        )
    document = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{"".join(lines)}'
    return f"{document}</CompleteMultipartUpload>".encode()


def expressible(key: str) -> bool:
    """Tell whether a key can be written into a document."""
    return _INEXPRESSIBLE.search(key) is None


def delete_document(objects: Iterable[ObjectInfo], *, versions: bool) -> bytes:
    """Write the body of DeleteObjects; with `versions`, each is deleted as this version only."""
    lines = []
    for info in objects:
        etag = f"<ETag>{escape(info.etag)}</ETag>" if versions and info.etag else ""
        lines.append(f"<Object><Key>{escape(info.key, _REFERRED)}</Key>{etag}</Object>")
    document = f'<Delete xmlns="{_NAMESPACE}"><Quiet>true</Quiet>{"".join(lines)}</Delete>'
    return document.encode()


def parse_delete_errors(body: bytes) -> list[tuple[str, str, str]]:
    """Read a DeleteResult; return key, code and message of what could not be deleted."""
    root = _parse(body, "DeleteResult")
    return [
        (_text(entry, "Key"), _text(entry, "Code"), _text(entry, "Message"))
        for entry in root.iterfind("Error")
    ]


def _parse(body: bytes, name: str) -> ElementTree.Element:
    """Parse a document whose root must be `name`."""
    # A NUL is UTF-16, in which a document type would not be found.
    if b"<!DOCTYPE" in body or b"\0" in body:
        raise _bad_document(body, name)
    readable, controls = _CONTROL.subn(
        lambda match: b"&#%d;" % (_STAND_INS + int(match[1], 16)), body
    )
    # Without its declaration the namespace is in no tag, and thousands need not be looked at. What
    # takes a server long is preceded by spaces, which keep the connection alive.
    readable = readable.replace(_DECLARATION, b"", 1).lstrip()
    try:
        root = ElementTree.fromstring(readable)  # noqa: S314  no entities: see the top
    except (ElementTree.ParseError, LookupError, ValueError):  # these two: a strange encoding
        raise _bad_document(body, name) from None
    if controls or b"xmlns" in readable:
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
            element.text = (element.text or "").translate(_CONTROLS)
    if root.tag != name:
        raise _bad_document(body, name)
    return root


def _bad_document(body: bytes, name: str) -> StoreError:
    start = body[:60].decode("utf-8", "replace")
    return StoreError(Fault.BAD_REPLY, f"not a {name} document: {start!r}")


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(name) or ""
