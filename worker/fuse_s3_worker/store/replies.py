"""What the replies of S3 say, as the rest of the store sees it."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.failures import request_id, server_time
from fuse_s3_worker.store.types import MultipartUpload, ObjectHead, ObjectInfo

__all__ = [
    "begun",
    "completed",
    "copied",
    "copied_part",
    "described",
    "info_of",
    "stored",
]

_SECOND = 1_000_000_000
_STORAGE_CLASS = "x-amz-storage-class"  # of a HEAD of what is not STANDARD


def begun(key: str, reply: Reply) -> tuple[MultipartUpload, dict[str, str]]:
    """Read the reply to CreateMultipartUpload; return its headers, too."""
    name = "InitiateMultipartUploadResult"
    upload_id = documents.parse_result(reply.body, name, "UploadId")
    if not upload_id:
        raise StoreError(Fault.BAD_REPLY, f"no upload id for {key!r}")
    return MultipartUpload(key, upload_id), reply.head.headers


def copied(key: str, size: int, reply: Reply) -> ObjectInfo:
    """Read the reply to CopyObject."""
    copy = documents.parse_copy(reply.body)
    return ObjectInfo(key, size, copy.mtime or _clock(reply), copy.etag)


def copied_part(reply: Reply) -> str:
    """Read the reply to UploadPartCopy: the part's ETag."""
    if not reply.body and "etag" in reply.head.headers:
        # It does not know what the header with the source means.
        text = "the server took a copy for a part without bytes"
        raise StoreError(Fault.NOT_IMPLEMENTED, text, status=reply.head.status)
    return documents.parse_copy(reply.body, "CopyPartResult").etag


def info_of(key: str, reply: Reply) -> ObjectInfo:
    """Read the headers of HeadObject."""
    headers, size = reply.head.headers, reply.head.content_length
    try:
        mtime = int(parsedate_to_datetime(headers["last-modified"]).timestamp()) * _SECOND
    except (KeyError, ValueError, TypeError, OverflowError):
        mtime = 0
    if size is None:
        raise StoreError(
            Fault.BAD_REPLY, f"HEAD of {key!r} tells no size", request_id=request_id(reply)
        )
    storage_class = headers.get(_STORAGE_CLASS, "")
    if storage_class == "STANDARD":  # which Ceph tells of objects that it was told it of
        storage_class = ""
    return ObjectInfo(
        key, size, mtime, headers.get("etag", ""), storage_class, _is_archived(headers)
    )


def _is_archived(headers: Mapping[str, str]) -> bool:
    """Tell whether an object has to be restored; Intelligent-Tiering has archives of its own."""
    archived = headers.get(_STORAGE_CLASS) in documents.ARCHIVES
    archived = archived or "x-amz-archive-status" in headers
    return archived and 'ongoing-request="false"' not in headers.get("x-amz-restore", "")


def described(key: str, reply: Reply) -> ObjectHead:
    """Read the reply to HeadObject."""
    info, now = info_of(key, reply), server_time(reply)
    age = 0.0 if now is None or not info.mtime else max(now - info.mtime / _SECOND, 0.0)
    return ObjectHead(info, {_STORAGE_CLASS: "STANDARD", **reply.head.headers}, age)


def completed(key: str, size: int, reply: Reply) -> ObjectInfo:
    """Read the reply to CompleteMultipartUpload; its ETag may be empty."""
    name = "CompleteMultipartUploadResult"
    etag = documents.parse_result(reply.body, name, "ETag").strip('"')
    return ObjectInfo(key, size, _clock(reply), documents.quoted(etag))


def stored(key: str, size: int, reply: Reply) -> ObjectInfo:
    """Read the reply to PutObject."""
    return ObjectInfo(key, size, _clock(reply), reply.head.headers.get("etag", ""))


def _clock(reply: Reply) -> int:
    """Return the time of a reply: what Last-Modified will be, to a second or so."""
    return int(server_time(reply) or 0) * _SECOND
