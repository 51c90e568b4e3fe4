"""What a bucket in memory holds, and how it refuses: what `memuploads` and `memstore` stand on.

Refusals are built as the error documents of S3 and pass through the product's own `classify`, so
that a fault here is the fault there.

Tests are also the other client: `write`, `remove` and `read` act at once and are not counted.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from fuse_s3_worker.http.connection import Reply, ReplyHead
from fuse_s3_worker.posix.headers import METADATA_MAX, metadata_size
from fuse_s3_worker.store.failures import ReplyError, classify
from fuse_s3_worker.store.types import Body, ObjectHead, ObjectInfo

__all__ = ["MemoryBucket", "StoredObject", "etag_of", "refusal"]

_KEY_MAX = 1024  # "Object key naming guidelines" in the S3 user guide

_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_SECOND = 1_000_000_000

# Status of the error codes below; see "Error responses" of the S3 API.
_STATUS = {
    "BadDigest": 400,
    "EntityTooSmall": 400,
    "IncompleteBody": 400,
    "InvalidArgument": 400,
    "InvalidObjectState": 403,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MetadataTooLarge": 400,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "PreconditionFailed": 412,
}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object: its bytes, and what the store says of them."""

    data: bytes
    info: ObjectInfo
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class MemoryBucket:
    """Objects by key, and what every request for them has in common.

    Attributes:
        requests: (operation, key or prefix) of every request, in order; the S3 API's names.
        sent: bytes of bodies that came.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self._clock = clock
        self._objects: dict[str, StoredObject] = {}
        for key, data in (objects or {}).items():
            self.write(key, data)

    # -- the other client -------------------------------------------------------------------------

    def write(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "",
        storage_class: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Put an object, at once."""
        return self._store(key, data, etag_of(data), content_type, headers, storage_class)

    def remove(self, key: str) -> None:
        """Delete an object, at once."""
        self._objects.pop(key, None)

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return self._objects[key].data

    def stored(self, key: str) -> StoredObject | None:
        """Return an object, None when there is none."""
        return self._objects.get(key)

    def keys(self) -> list[str]:
        """Return all keys, in the order of a listing."""
        return sorted(self._objects, key=str.encode)

    def count(self, operation: str) -> int:
        """Tell how many requests of a kind there were."""
        return sum(name == operation for name, _ in self.requests)

    # -- requests ---------------------------------------------------------------------------------

    async def _request(self, operation: str, key: str) -> None:
        """Note a request. It is under way for at least one turn of the loop, as every one is."""
        self.requests.append((operation, key))
        await asyncio.sleep(0)

    async def _take(self, body: Body, operation: str, key: str) -> bytes:
        """Receive a body: signed before it is sent, so it must be the same when it arrives."""
        self.requests.append((operation, key))
        signed = b"".join(body.pieces)
        await asyncio.sleep(0)
        received = b"".join(body.pieces)
        if len(signed) != body.size:
            raise refusal("IncompleteBody", operation, key)
        if received != signed:
            raise refusal("BadDigest", operation, key)
        self.sent += len(received)
        return received

    def _readable(self, key: str, etag: str, operation: str) -> StoredObject:
        found = self._objects.get(key)
        if found is None:
            raise refusal("NoSuchKey", operation, key)
        if etag and etag != found.info.etag:
            raise refusal("PreconditionFailed", operation, key)
        if found.info.storage_class in _ARCHIVED:
            raise refusal("InvalidObjectState", operation, key)
        return found

    def _head(self, found: StoredObject) -> ObjectHead:
        headers = {"content-type": found.content_type or "binary/octet-stream", **found.headers}
        headers["x-amz-storage-class"] = found.info.storage_class or "STANDARD"
        # Whole seconds, as the Date of a reply has.
        age = int(self._clock()) - found.info.mtime / _SECOND
        return ObjectHead(found.info, headers, age)

    def _store(
        self,
        key: str,
        data: bytes,
        etag: str,
        content_type: str,
        headers: Mapping[str, str] | None,
        storage_class: str = "",
    ) -> ObjectInfo:
        kept = dict(headers or {})
        named, chosen = kept.pop("content-type", ""), kept.pop("x-amz-storage-class", "")
        content_type, storage_class = content_type or named, storage_class or chosen
        storage_class = "" if storage_class == "STANDARD" else storage_class
        archived = storage_class in _ARCHIVED
        mtime = int(self._clock()) * _SECOND
        info = ObjectInfo(key, len(data), mtime, etag, storage_class, archived)
        self._objects[key] = StoredObject(data, info, content_type, kept)
        return info

    def _check_key(self, key: str, operation: str) -> None:
        if not 0 < len(key.encode()) <= _KEY_MAX:
            raise refusal("KeyTooLongError" if key else "InvalidRequest", operation, key)

    def _check_headers(self, key: str, headers: Mapping[str, str] | None, operation: str) -> None:
        if metadata_size(headers or {}) > METADATA_MAX:
            raise refusal("MetadataTooLarge", operation, key)

    def _check_replaced(self, key: str, replaces: ObjectInfo | None, operation: str) -> None:
        found = self._objects.get(key)
        if replaces and (found is None or found.info.etag != replaces.etag):
            raise refusal("PreconditionFailed", operation, key)


def etag_of(data: bytes) -> str:
    """Return the entity tag of what one request stores."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def refusal(code: str, operation: str, key: str, *, document: bool = True) -> ReplyError:
    """Return the error that the product makes of this reply; one to HEAD has no document."""
    text = f"<Error><Code>{code}</Code><Message>{code} of the store</Message>"
    text += f"<Key>{escape(key)}</Key></Error>"
    head = ReplyHead(_STATUS[code], {"x-amz-request-id": "0123456789ABCDEF"}, keep_alive=True)
    return classify(Reply(head, text.encode() if document else b""), f"{operation} {key!r}")
