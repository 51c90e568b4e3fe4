"""Multipart uploads to a bucket in memory: parts that have a least size, and then an object.

Nothing of an upload is to be seen before it is complete, and what is neither completed nor aborted
is left in the bucket.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo, PartResult
from support.membucket import MemoryBucket, etag_of, refusal

__all__ = ["PART_MIN", "MemoryUploads"]

# "Amazon S3 multipart upload limits" in the S3 user guide.
_PARTS_MAX = 10_000
PART_MIN = 5 * 1024 * 1024
_COPY_SOURCE_MIN = 5 * 1024 * 1024  # a range can be copied only out of something larger


@dataclass(slots=True)
class _Upload:
    """A multipart upload that is neither complete nor aborted; parts by number."""

    key: str
    content_type: str
    headers: Mapping[str, str]
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class MemoryUploads(MemoryBucket):
    """A bucket with uploads to it.

    Attributes:
        uploads: multipart uploads under way, by id: what is left here is left in the bucket.
        copying: whether the store copies objects and parts, which not every one does.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        part_min: int = PART_MIN,
    ) -> None:
        super().__init__(objects, clock=clock)
        self.uploads: dict[str, _Upload] = {}
        self.copying = True
        self._part_min = part_min
        self._upload_ids = (f"upload-{number}" for number in itertools.count(1))

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
            raise refusal("NotImplemented", operation, upload.key)
        found = self._readable(source.key, source.etag, operation)
        if not 0 <= start < end <= found.info.size:
            raise refusal("InvalidRange", operation, upload.key)
        if found.info.size <= min(_COPY_SOURCE_MIN, self._part_min):
            raise refusal("InvalidRequest", operation, upload.key)
        return self._add_part(upload, number, found.data[start:end], operation)

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
            raise refusal("MalformedXML", operation, upload.key)
        numbers = [part.number for part in parts]
        if numbers != sorted(set(numbers)):
            raise refusal("InvalidPartOrder", operation, upload.key)
        pieces = [self._part(under_way, part) for part in parts]
        if any(len(data) < self._part_min for data in pieces[:-1]):
            raise refusal("EntityTooSmall", operation, upload.key)
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

    def _under_way(self, upload: MultipartUpload, operation: str) -> _Upload:
        found = self.uploads.get(upload.upload_id)
        if found is None or found.key != upload.key:
            raise refusal("NoSuchUpload", operation, upload.key)
        return found

    def _add_part(
        self, upload: MultipartUpload, number: int, data: bytes, operation: str
    ) -> PartResult:
        under_way = self._under_way(upload, operation)
        if not 1 <= number <= _PARTS_MAX:
            raise refusal("InvalidArgument", operation, upload.key)
        etag = etag_of(data)
        under_way.parts[number] = data, etag
        return PartResult(number, len(data), etag, "")

    def _part(self, under_way: _Upload, part: PartResult) -> bytes:
        data, etag = under_way.parts.get(part.number, (b"", ""))
        if not etag or etag != part.etag:
            raise refusal("InvalidPart", "CompleteMultipartUpload", under_way.key)
        return data
