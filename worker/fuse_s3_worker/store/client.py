"""`ObjectStore` over HTTP: what is sent for each operation, and what its reply must be.

Signing, sending, retrying and correcting are in `calls`; this module is the S3 API.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.log import event
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.checksums import Algorithm, algorithm
from fuse_s3_worker.store.failures import request_id, server_time
from fuse_s3_worker.store.ranges import BeginningReceiver, RangeReceiver
from fuse_s3_worker.store.sigv4 import encode_path
from fuse_s3_worker.store.types import (
    Body,
    ListPage,
    MultipartUpload,
    ObjectInfo,
    PartResult,
    RangeSink,
)
from fuse_s3_worker.store.wire import Request

__all__ = ["S3Store"]

_log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
# Where S3 says that there is no such upload, Ceph says InternalError; the others are replies lost.
_MAY_BE_DONE = frozenset(
    {Fault.NO_SUCH_UPLOAD, Fault.UNAVAILABLE, Fault.UNREACHABLE, Fault.BAD_REPLY}
)
_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


class S3Store:
    """One bucket."""

    def __init__(self, caller: Caller, bucket: str, settings: Settings) -> None:
        self._call = caller.call
        self._caller = caller
        self._bucket = bucket
        chosen = settings.upload_checksum
        self._checksum_name = {"auto": "crc64nvme", "off": ""}.get(chosen, chosen)
        self._new_object_headers = _new_object_headers(settings)
        caller.on_checksum_refused = self._do_without_checksum

    @property
    def _checksum(self) -> Algorithm | None:
        return algorithm(self._checksum_name) if self._checksum_name else None

    # -- reading --------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """API: HeadObject."""
        try:
            return await self._head(key)
        except StoreError as error:
            if error.fault is not Fault.BAD_REQUEST:
                raise
        # Of a key that has expired S3 says no more than 400 here: a HEAD has no document. A
        # listing is told the reason, and what can be put right is put right on the way.
        await self.list_page(key, max_keys=1)
        return await self._head(key)

    async def _head(self, key: str) -> ObjectInfo:
        request = Request("HeadObject", "HEAD", key)
        return await self._caller.ask(request, lambda reply: _info(key, reply))

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
        query = {
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(max_keys),
            "prefix": prefix,
        }
        if delimiter:
            query["delimiter"] = delimiter
        if token is not None:
            query["continuation-token"] = token
        request = Request("ListObjectsV2", "GET", "", query)

        async def attempt() -> ListPage:
            reply = await self._caller.attempt(request)
            following = documents.peek_token(reply.body) if on_token is not None else ""
            if following and on_token is not None:
                on_token(following)
                await asyncio.sleep(0)  # what it began goes out now
            return documents.parse_list_page(reply.body)

        return await self._caller.retrier.run(attempt)

    async def peek(self, key: str, limit: int) -> tuple[ObjectInfo, memoryview]:
        """API: GetObject with Range."""
        headers = {"range": f"bytes=0-{limit - 1}"}
        request = Request("GetObject", "GET", key, headers=headers, urgent=False)

        async def attempt() -> tuple[ObjectInfo, memoryview]:
            beginning = BeginningReceiver(limit)
            reply = await self._caller.attempt(request, beginning)
            return _info(key, reply)._replace(size=beginning.size), beginning.data

        return await self._caller.retrier.run(attempt)

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """API: GetObject with If-Match and Range; resumes where an attempt was cut off."""

        async def attempt() -> Reply:
            at = start + sink.filled
            headers = {"range": f"bytes={at}-{end - 1}"}
            if etag:
                headers["if-match"] = etag
            request = Request("GetObject", "GET", key, headers=headers, urgent=False)
            return await self._caller.attempt(request, RangeReceiver(sink, at, end, etag))

        await self._caller.retrier.run(attempt, progress=lambda: sink.filled)

    # -- writing --------------------------------------------------------------------------------

    async def put(self, key: str, body: Body, *, content_type: str = "") -> ObjectInfo:
        """API: PutObject."""
        request = Request("PutObject", "PUT", key, headers=self._headers(content_type), body=body)
        request.urgent = False
        if self._checksum:
            request.checksums = {self._checksum.header: self._checksum.of(body.pieces)}
        return _stored(key, body.size, await self._call(request))

    async def delete(self, key: str) -> None:
        """API: DeleteObject."""
        try:
            await self._call(Request("DeleteObject", "DELETE", key))
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise

    async def create_multipart(self, key: str, *, content_type: str = "") -> MultipartUpload:
        """API: CreateMultipartUpload."""
        request = Request("CreateMultipartUpload", "POST", key, {"uploads": ""})
        request.headers = self._headers(content_type)
        if self._checksum:
            request.checksums = {
                "x-amz-checksum-algorithm": self._checksum.label,
                "x-amz-checksum-type": "FULL_OBJECT",
            }
        return await self._caller.ask(request, lambda reply: _begun(key, reply))

    async def upload_part(self, upload: MultipartUpload, number: int, body: Body) -> PartResult:
        """API: UploadPart."""
        request = Request("UploadPart", "PUT", upload.key, _part_query(upload, number), body=body)
        request.urgent = False
        checksum = self._checksum.of(body.pieces) if self._checksum else ""
        if self._checksum:
            request.checksums = {self._checksum.header: checksum}
        reply = await self._call(request)
        etag = reply.head.headers.get("etag", "")
        if not etag:
            raise StoreError(Fault.BAD_REPLY, f"part {number} of {upload.key!r} has no ETag")
        return PartResult(number, body.size, etag, checksum if self._checksum else "")

    async def copy_part(
        self, upload: MultipartUpload, number: int, source: ObjectInfo, start: int, end: int
    ) -> PartResult:
        """API: UploadPartCopy."""
        request = Request("UploadPartCopy", "PUT", upload.key, _part_query(upload, number))
        request.headers = {
            "x-amz-copy-source": self._copy_source(source.key),
            "x-amz-copy-source-range": f"bytes={start}-{end - 1}",
        }
        if source.etag:
            request.headers["x-amz-copy-source-if-match"] = source.etag
        etag = await self._caller.ask(request, lambda r: documents.parse_copy_part(r.body))
        return PartResult(number, end - start, etag, "")

    async def complete_multipart(
        self, upload: MultipartUpload, parts: Sequence[PartResult]
    ) -> ObjectInfo:
        """API: CompleteMultipartUpload.

        The reply may be lost after the parts became an object, and a second try is then told
        that there is no such upload. Whether there is the right object decides.
        """
        size = sum(part.size for part in parts)
        element = self._checksum.element if self._checksum else ""
        document = documents.complete_multipart_document(parts, element)
        request = Request("CompleteMultipartUpload", "POST", upload.key)
        request.query = {"uploadId": upload.upload_id}
        request.headers = {"x-amz-mp-object-size": str(size), "content-type": "application/xml"}
        request.body = Body((document,), len(document))
        if self._checksum and all(part.checksum for part in parts):
            sums = [(part.checksum, part.size) for part in parts]
            request.checksums = {
                self._checksum.header: self._checksum.of_parts(sums),
                "x-amz-checksum-type": "FULL_OBJECT",
            }

        async def attempt() -> ObjectInfo:
            try:
                reply = await self._caller.attempt(request)
                return await self._completed(upload.key, size, reply)
            except StoreError as error:
                return await self._completed_already(upload.key, size, parts, error)

        return await self._caller.retrier.run(attempt)

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """API: AbortMultipartUpload."""
        query = {"uploadId": upload.upload_id}
        try:
            await self._call(Request("AbortMultipartUpload", "DELETE", upload.key, query))
        except StoreError as error:
            if error.fault not in {Fault.NO_SUCH_UPLOAD, Fault.NOT_FOUND}:
                raise

    # -- details --------------------------------------------------------------------------------

    async def _completed(self, key: str, size: int, reply: Reply) -> ObjectInfo:
        name = "CompleteMultipartUploadResult"
        etag = documents.quoted(documents.parse_result(reply.body, name, "ETag").strip('"'))
        if not etag:
            return await self.head(key)  # Ceph leaves it empty here and knows it there
        return ObjectInfo(key, size, _clock(reply), etag)

    async def _completed_already(
        self, key: str, size: int, parts: Sequence[PartResult], error: StoreError
    ) -> ObjectInfo:
        """Return the object if it is the one these parts make; otherwise raise `error`."""
        expected = _multipart_etag(parts)
        if error.fault not in _MAY_BE_DONE or not expected:
            raise error
        try:
            found = await self.head(key)
        except StoreError:
            raise error from None  # the file was not stored, whatever there is or is not
        if found.etag != expected or found.size != size:
            raise error
        event(_log, logging.INFO, "upload_was_complete", {"key": key, "reason": error})
        return found

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = dict(self._new_object_headers)
        if content_type:
            headers["content-type"] = content_type
        return headers

    def _copy_source(self, key: str) -> str:
        if self._bucket.startswith("arn:"):
            return encode_path(f"{self._bucket}/object/{key}")
        return encode_path(f"/{self._bucket}/{key}")

    def _do_without_checksum(self, error: StoreError) -> None:
        """Remember that this server knows no such checksums."""
        if self._checksum:
            details = {"algorithm": self._checksum.name, "reason": error}
            event(_log, logging.WARNING, "upload_checksum_refused", details | error.details)
            self._checksum_name = ""


def _new_object_headers(settings: Settings) -> dict[str, str]:
    headers = {
        "x-amz-storage-class": settings.storage_class,
        "x-amz-server-side-encryption": settings.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": settings.sse_kms_key_id,
    }
    return {name: value for name, value in headers.items() if value}


def _begun(key: str, reply: Reply) -> MultipartUpload:
    """Read the reply to CreateMultipartUpload."""
    name = "InitiateMultipartUploadResult"
    upload_id = documents.parse_result(reply.body, name, "UploadId")
    if not upload_id:
        raise StoreError(Fault.BAD_REPLY, f"no upload id for {key!r}")
    return MultipartUpload(key, upload_id)


def _part_query(upload: MultipartUpload, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": upload.upload_id}


def _info(key: str, reply: Reply) -> ObjectInfo:
    """Read the headers of HeadObject, or of GetObject."""
    headers, size = reply.head.headers, reply.head.content_length
    try:
        mtime = int(parsedate_to_datetime(headers["last-modified"]).timestamp()) * _SECOND
    except (KeyError, ValueError, TypeError, OverflowError):
        mtime = 0
    if size is None:
        raise StoreError(
            Fault.BAD_REPLY, f"HEAD of {key!r} tells no size", request_id=request_id(reply)
        )
    storage_class = headers.get("x-amz-storage-class", "")
    return ObjectInfo(key, size, mtime, headers.get("etag", ""), storage_class)


def _stored(key: str, size: int, reply: Reply) -> ObjectInfo:
    return ObjectInfo(key, size, _clock(reply), reply.head.headers.get("etag", ""))


def _clock(reply: Reply) -> int:
    """Return the time of a reply: what Last-Modified will be, to a second or so."""
    return int(server_time(reply) or 0) * _SECOND


def _multipart_etag(parts: Sequence[PartResult]) -> str:
    """Return the ETag that S3 gives an object of these parts; "" when they are no MD5 sums."""
    sums = [match[1] for part in parts if (match := _MD5_ETAG.fullmatch(part.etag))]
    if len(sums) != len(parts):
        return ""
    joined = b"".join(map(bytes.fromhex, sums))
    digest = hashlib.md5(joined, usedforsecurity=False).hexdigest()
    return f'"{digest}-{len(parts)}"'
