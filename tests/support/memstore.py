"""A bucket in memory that behaves as S3 does: `ObjectStore` without a network.

What S3 documents and programs come to rely on is kept: keys in the order of their UTF-8, entity
tags that are MD5 sums, whole seconds, pages with opaque tokens, parts that have a least size, and
nothing of an upload to be seen before it is complete. Refusals are built as the error documents
of S3 and pass through the product's own `classify`, so that a fault here is the fault there.

Tests are also the other client: `write`, `remove` and `read` act at once and are not counted.
"""

import asyncio
import base64
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.http.connection import Reply, ReplyHead
from fuse_s3_worker.posix.headers import METADATA_MAX, for_copy, metadata_size
from fuse_s3_worker.store.failures import ReplyError, classify
from fuse_s3_worker.store.ranges import RangeReceiver
from fuse_s3_worker.store.types import (
    Body,
    Description,
    ListPage,
    MultipartUpload,
    ObjectHead,
    ObjectInfo,
    ObjectStore,
    PartResult,
    RangeSink,
)

__all__ = ["MemoryStore", "StoredObject"]

# "Amazon S3 multipart upload limits" and "Object key naming guidelines" in the S3 user guide.
_PARTS_MAX = 10_000
_PART_MIN = 5 * 1024 * 1024
_COPY_SOURCE_MIN = 5 * 1024 * 1024  # a range can be copied only out of something larger
_KEY_MAX = 1024
_PAGE_MAX = 1000
_COPY_MAX = 5 * 1024 * 1024 * 1024
_DELETES_MAX = 1000

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


@dataclass(slots=True)
class _Upload:
    """A multipart upload that is neither complete nor aborted; parts by number."""

    key: str
    content_type: str
    headers: Mapping[str, str]
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class MemoryStore:
    """One bucket.

    Attributes:
        requests: (operation, key or prefix) of every request, in order; the S3 API's names.
        uploads: multipart uploads under way, by id: what is left here is left in the bucket.
        piece: bytes of a GET that arrive at once.
        sent: bytes of bodies that came.
        fetched: bytes that went.
        strict: whether conditions are heeded, which not every store does.
        renames: whether there is RenameObject, which only directory buckets have.
        copy_max: bytes that are copied in one request.
        copying: whether the store copies objects and parts, which not every one does.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        part_min: int = _PART_MIN,
        piece: int = 64 * 1024,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        self.uploads: dict[str, _Upload] = {}
        self.piece = piece
        self.sent = 0
        self.fetched = 0
        self.copying = True
        self.strict = True
        self.renames = False
        self.copy_max = _COPY_MAX
        self._clock = clock
        self._part_min = part_min
        self._objects: dict[str, StoredObject] = {}
        self._upload_ids = (f"upload-{number}" for number in itertools.count(1))
        for key, data in (objects or {}).items():
            self.write(key, data)

    # -- the other client -----------------------------------------------------------------------

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
        return self._store(key, data, _etag(data), content_type, headers, storage_class)

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

    # -- ObjectStore: reading -------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """API: HeadObject."""
        return (await self.describe(key)).info

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        """API: HeadObject."""
        del urgent
        await self._request("HeadObject", key)
        found = self._objects.get(key)
        if found is None:
            raise _refusal("NoSuchKey", "HeadObject", key, document=False)
        return self._head(found)

    def _head(self, found: StoredObject) -> ObjectHead:
        headers = {"content-type": found.content_type or "binary/octet-stream", **found.headers}
        headers["x-amz-storage-class"] = found.info.storage_class or "STANDARD"
        # Whole seconds, as the Date of a reply has.
        age = int(self._clock()) - found.info.mtime / _SECOND
        return ObjectHead(found.info, headers, age)

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = 1000,
        on_token: Callable[[str], None] | None = None,
    ) -> ListPage:
        """API: ListObjectsV2."""
        await self._request("ListObjectsV2", prefix)
        after = _opened(token, prefix)
        page = ListPage([], [], None)
        most = min(max_keys, _PAGE_MAX)
        last = ""
        for item in self._items(prefix, delimiter, after):
            if len(page.objects) + len(page.prefixes) == most:
                # Nothing at all was asked for: such a page says that it is complete.
                if not most:
                    return page
                if on_token is not None:
                    on_token(_sealed(last))
                    await asyncio.sleep(0)
                return page._replace(token=_sealed(last))
            if isinstance(item, str):
                page.prefixes.append(item)
                last = item
            else:
                page.objects.append(item)
                last = item.key
        return page

    def _items(self, prefix: str, delimiter: str, after: str) -> Iterator[ObjectInfo | str]:
        """Yield objects and common prefixes after the one named `after`, each once."""
        passed = after
        for key in self.keys():
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = prefix + head + delimiter if found else key
            if name.encode() <= passed.encode():
                continue
            passed = name
            yield name if found else self._objects[key].info

    async def peek(self, key: str, limit: int) -> tuple[ObjectHead, memoryview]:
        """API: GetObject with Range."""
        await self._request("GetObject", key)
        found = self._readable(key, "", "GetObject")
        if not found.info.size:
            raise _refusal("InvalidRange", "GetObject", key)
        return self._head(found), memoryview(found.data[:limit])

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """API: GetObject with If-Match and Range, in pieces."""
        await self._request("GetObject", key)
        found = self._readable(key, etag, "GetObject")
        at, size = start + sink.filled, found.info.size
        if at >= size:
            raise _refusal("InvalidRange", "GetObject", key)
        stop = min(end, size)
        receiver = RangeReceiver(sink, at, end, etag)
        headers = {
            "content-length": str(stop - at),
            "content-range": f"bytes {at}-{stop - 1}/{size}",
            "etag": found.info.etag,
        }
        if not receiver.begin(ReplyHead(206, headers, keep_alive=True)):
            return
        while at < stop:
            taken = self._fill(receiver.buffer(), found.data[at : min(at + self.piece, stop)])
            receiver.advance(taken)
            self.fetched += taken
            at += taken
            await asyncio.sleep(0)

    @staticmethod
    def _fill(memory: memoryview, data: bytes) -> int:
        taken = min(len(memory), len(data))
        memory[:taken] = data[:taken]
        return taken

    def _readable(self, key: str, etag: str, operation: str) -> StoredObject:
        found = self._objects.get(key)
        if found is None:
            raise _refusal("NoSuchKey", operation, key)
        if etag and etag != found.info.etag:
            raise _refusal("PreconditionFailed", operation, key)
        if found.info.storage_class in _ARCHIVED:
            raise _refusal("InvalidObjectState", operation, key)
        return found

    # -- ObjectStore: writing -------------------------------------------------------------------

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str = "",
        replaces: ObjectInfo | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """API: PutObject."""
        data = await self._take(body, "PutObject", key)
        self._check_key(key, "PutObject")
        self._check_headers(key, headers, "PutObject")
        self._check_replaced(key, replaces, "PutObject")
        return self._store(key, data, _etag(data), content_type, headers)

    async def delete(self, key: str) -> None:
        """API: DeleteObject."""
        await self._request("DeleteObject", key)
        self._objects.pop(key, None)

    async def create_multipart(
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """API: CreateMultipartUpload."""
        await self._request("CreateMultipartUpload", key)
        self._check_key(key, "CreateMultipartUpload")
        self._check_headers(key, headers, "CreateMultipartUpload")
        upload_id = next(self._upload_ids)
        self.uploads[upload_id] = _Upload(key, content_type, headers or {})
        return MultipartUpload(key, upload_id)

    async def upload_part(self, upload: MultipartUpload, number: int, body: Body) -> PartResult:
        """API: UploadPart."""
        data = await self._take(body, "UploadPart", upload.key)
        return self._add_part(upload, number, data, "UploadPart")

    async def copy_part(
        self, upload: MultipartUpload, number: int, source: ObjectInfo, start: int, end: int
    ) -> PartResult:
        """API: UploadPartCopy."""
        operation = "UploadPartCopy"
        await self._request(operation, upload.key)
        if not self.copying:
            raise _refusal("NotImplemented", operation, upload.key)
        found = self._readable(source.key, source.etag, operation)
        if not 0 <= start < end <= found.info.size:
            raise _refusal("InvalidRange", operation, upload.key)
        if found.info.size <= min(_COPY_SOURCE_MIN, self._part_min):
            raise _refusal("InvalidRequest", operation, upload.key)
        return self._add_part(upload, number, found.data[start:end], operation)

    async def copy(
        self,
        source: ObjectInfo,
        key: str,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """API: CopyObject. The entity tag is that of one PUT, whatever that of the source was."""
        await self._request("CopyObject", key)
        if not self.copying:
            raise _refusal("NotImplemented", "CopyObject", key)
        self._check_key(key, "CopyObject")
        self._check_headers(key, headers, "CopyObject")
        found = self._readable(source.key, source.etag, "CopyObject")
        return self._store(key, found.data, _etag(found.data), content_type, headers)

    async def set_headers(self, source: ObjectInfo, headers: Mapping[str, str]) -> ObjectInfo:
        """API: CopyObject, of an object onto itself."""
        kind = headers.get("content-type", "")
        return await self.copy(source, source.key, content_type=kind, headers=for_copy(headers))

    def how_to_restore(self, key: str) -> str:
        """Return something to be found in the log."""
        return f"restore {key}"

    def copies_from(self, key: str) -> bool:
        """Tell whether copies are made, and not refused."""
        return self.copying and "%" not in key

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        """API: CompleteMultipartUpload."""
        operation = "CompleteMultipartUpload"
        await self._request(operation, upload.key)
        under_way = self._under_way(upload, operation)
        if not parts:
            raise _refusal("MalformedXML", operation, upload.key)
        numbers = [part.number for part in parts]
        if numbers != sorted(set(numbers)):
            raise _refusal("InvalidPartOrder", operation, upload.key)
        pieces = [self._part(under_way, part) for part in parts]
        if any(len(data) < self._part_min for data in pieces[:-1]):
            raise _refusal("EntityTooSmall", operation, upload.key)
        self._check_replaced(upload.key, replaces, operation)
        sums = b"".join(hashlib.md5(data, usedforsecurity=False).digest() for data in pieces)
        etag = f'"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(pieces)}"'
        del self.uploads[upload.upload_id]
        whole = b"".join(pieces)
        return self._store(upload.key, whole, etag, under_way.content_type, under_way.headers)

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """API: AbortMultipartUpload."""
        await self._request("AbortMultipartUpload", upload.key)
        self.uploads.pop(upload.upload_id, None)

    # -- ObjectStore: moving --------------------------------------------------------------------

    @property
    def heeds_conditions(self) -> bool:
        """Tell whether conditions are heeded."""
        return self.strict

    async def headers_to_copy(self, key: str) -> Description:
        """API: HeadObject."""
        head = await MemoryStore.describe(self, key)
        return Description(head.info, for_copy(head.headers))

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: CopyObject."""
        await self._request("CopyObject", key)
        if not self.copying:
            raise _refusal("NotImplemented", "CopyObject", key)
        self._check_key(key, "CopyObject")
        if source.key == key or source.size > self.copy_max:
            raise _refusal("InvalidRequest", "CopyObject", key)
        found = self._readable(source.key, source.etag if self.strict else "", "CopyObject")
        if exclusive and self.strict and key in self._objects:
            raise _refusal("PreconditionFailed", "CopyObject", key)
        self._store(key, found.data, _etag(found.data), found.content_type, found.headers)
        made = self._objects[key].info._replace(storage_class=found.info.storage_class)
        self._objects[key] = replace(self._objects[key], info=made)
        return made

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: RenameObject."""
        await self._request("RenameObject", key)
        found = self._readable(source.key, source.etag, "RenameObject")
        if exclusive and key in self._objects:
            raise _refusal("PreconditionFailed", "RenameObject", key)
        info = found.info._replace(key=key)
        del self._objects[source.key]
        self._objects[key] = replace(found, info=info)
        return info

    async def delete_version(self, info: ObjectInfo) -> bool:
        """API: DeleteObject with If-Match."""
        await self._request("DeleteObject", info.key)
        found = self._objects.get(info.key)
        if self.strict and found is not None and found.info.etag != info.etag:
            return False
        self._objects.pop(info.key, None)
        return True

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        """API: DeleteObjects."""
        refused: dict[str, StoreError] = {}
        for at in range(0, len(objects), _DELETES_MAX):
            await self._request("DeleteObjects", objects[at].key)
            for info in objects[at : at + _DELETES_MAX]:
                found = self._objects.get(info.key)
                if self.strict and found is not None and found.info.etag != info.etag:
                    refused[info.key] = _refusal("PreconditionFailed", "DeleteObjects", info.key)
                else:
                    self._objects.pop(info.key, None)
        return refused

    # -- details --------------------------------------------------------------------------------

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
            raise _refusal("IncompleteBody", operation, key)
        if received != signed:
            raise _refusal("BadDigest", operation, key)
        self.sent += len(received)
        return received

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

    def _check_headers(self, key: str, headers: Mapping[str, str] | None, operation: str) -> None:
        if metadata_size(headers or {}) > METADATA_MAX:
            raise _refusal("MetadataTooLarge", operation, key)

    def _check_replaced(self, key: str, replaces: ObjectInfo | None, operation: str) -> None:
        found = self._objects.get(key)
        if replaces and (found is None or found.info.etag != replaces.etag):
            raise _refusal("PreconditionFailed", operation, key)

    def _check_key(self, key: str, operation: str) -> None:
        if not 0 < len(key.encode()) <= _KEY_MAX:
            raise _refusal("KeyTooLongError" if key else "InvalidRequest", operation, key)

    def _under_way(self, upload: MultipartUpload, operation: str) -> _Upload:
        found = self.uploads.get(upload.upload_id)
        if found is None or found.key != upload.key:
            raise _refusal("NoSuchUpload", operation, upload.key)
        return found

    def _add_part(
        self, upload: MultipartUpload, number: int, data: bytes, operation: str
    ) -> PartResult:
        under_way = self._under_way(upload, operation)
        if not 1 <= number <= _PARTS_MAX:
            raise _refusal("InvalidArgument", operation, upload.key)
        etag = _etag(data)
        under_way.parts[number] = data, etag
        return PartResult(number, len(data), etag, "")

    def _part(self, under_way: _Upload, part: PartResult) -> bytes:
        data, etag = under_way.parts.get(part.number, (b"", ""))
        if not etag or etag != part.etag:
            raise _refusal("InvalidPart", "CompleteMultipartUpload", under_way.key)
        return data


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _sealed(name: str) -> str:
    """Return a token that nobody is tempted to take apart."""
    return base64.urlsafe_b64encode(b"1/" + name.encode()).decode()


def _opened(token: str | None, prefix: str) -> str:
    if token is None:
        return ""
    try:
        mark, _, name = base64.urlsafe_b64decode(token.encode()).decode().partition("/")
    except ValueError:
        mark = name = ""
    if mark != "1":
        raise _refusal("InvalidArgument", "ListObjectsV2", prefix)
    return name


def _refusal(code: str, operation: str, key: str, *, document: bool = True) -> ReplyError:
    """Return the error that the product makes of this reply; one to HEAD has no document."""
    text = f"<Error><Code>{code}</Code><Message>{code} of the store</Message>"
    text += f"<Key>{escape(key)}</Key></Error>"
    head = ReplyHead(_STATUS[code], {"x-amz-request-id": "0123456789ABCDEF"}, keep_alive=True)
    return classify(Reply(head, text.encode() if document else b""), f"{operation} {key!r}")


def _conforms(store: MemoryStore) -> ObjectStore:
    """Have the type checker hold this class against the protocol."""
    return store
