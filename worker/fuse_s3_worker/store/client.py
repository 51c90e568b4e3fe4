"""`ObjectStore` over HTTP: what is sent for each operation, and what its reply must be.

Signing, sending, retrying and correcting are in `calls`; this module is the S3 API.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.log import event
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.checksums import Algorithm, algorithm, md5_etag, multipart_etag
from fuse_s3_worker.store.conditions import Conditions
from fuse_s3_worker.store.endpoint import is_directory_bucket
from fuse_s3_worker.store.failures import request_id, server_time
from fuse_s3_worker.store.moves import Kind, Moves, kept_headers
from fuse_s3_worker.store.ranges import BeginningReceiver, RangeReceiver
from fuse_s3_worker.store.sigv4 import encode_path
from fuse_s3_worker.store.types import (
    Body,
    Description,
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
_STORAGE_CLASS = "x-amz-storage-class"
# Where S3 says that there is no such upload, Ceph says InternalError; the others are replies lost.
_MAY_BE_DONE = frozenset(
    {
        *(Fault.NO_SUCH_UPLOAD, Fault.UNAVAILABLE, Fault.UNREACHABLE, Fault.BAD_REPLY),
        *(Fault.CHANGED, Fault.NOT_FOUND),  # a condition that was met before the reply was lost
    }
)
_CANNOT_COPY = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST})


class S3Store:
    """One bucket.

    Attributes:
        address: of its server, as it was given; "" for Amazon's.
        caller: who sends its requests.
    """

    def __init__(
        self, caller: Caller, bucket: str, settings: Settings, *, address: str | None = None
    ) -> None:
        """Use a bucket at `address`; "" is Amazon's, whose ways are known."""
        self._call = caller.call
        self.caller = self._caller = caller
        self._bucket = bucket
        chosen = settings.upload_checksum
        self._checksum_name = {"auto": "crc64nvme", "off": ""}.get(chosen, chosen)
        self._new_object_headers = _new_object_headers(settings)
        self.address = address or ""
        self._amazon = address == ""
        self._conditions = Conditions(self.head, amazon=self._amazon)
        kind = Kind(amazon=self._amazon, directory_bucket=is_directory_bucket(bucket))
        self._moves = Moves(caller, self.head, self._copy_source, kind)
        self._copies = True
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

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str = "",
        replaces: ObjectInfo | None = None,
        like: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """API: PutObject, with If-Match where it must replace a version."""
        checksum = self._checksum.of(body.pieces) if self._checksum else ""

        async def send(condition: dict[str, str]) -> ObjectInfo:
            request = Request("PutObject", "PUT", key, body=body, urgent=False)
            request.headers = self._headers(content_type, like) | condition
            if self._checksum:
                request.checksums = {self._checksum.header: checksum}
            return _stored(key, body.size, await self._call(request))

        try:
            return await self._conditions.run("PutObject", replaces, send)
        except StoreError as error:
            if error.fault is not Fault.CHANGED:
                raise
            # A reply that was lost, and the second try found what the first one had stored.
            etag = await asyncio.to_thread(md5_etag, body.pieces)
            return await self._stored_already(key, body.size, etag, checksum, error)

    async def delete(self, key: str) -> None:
        """API: DeleteObject."""
        try:
            await self._call(Request("DeleteObject", "DELETE", key))
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise

    async def create_multipart(
        self, key: str, *, content_type: str = "", like: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """API: CreateMultipartUpload."""
        request = Request("CreateMultipartUpload", "POST", key, {"uploads": ""})
        request.headers = self._headers(content_type, like)
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
        try:
            etag = await self._caller.ask(request, _copied_part)
        except StoreError as error:
            self._note_whether_it_copies(error)
            raise
        return PartResult(number, end - start, etag, "")

    async def copy(self, source: ObjectInfo, key: str, *, content_type: str = "") -> ObjectInfo:
        """API: CopyObject, with nothing but the bytes of the source.

        A server that does not mind the condition on the source may have made a copy of a newer
        version: a whole one, and the caller is told.
        """
        request = Request("CopyObject", "PUT", key, headers=self._headers(content_type))
        request.headers |= {
            "x-amz-copy-source": self._copy_source(source.key),
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-tagging-directive": "REPLACE",
        }
        if source.etag:
            request.headers["x-amz-copy-source-if-match"] = source.etag
        try:
            found = await self._caller.ask(request, lambda r: _copied(key, source.size, r))
        except StoreError as error:
            self._note_whether_it_copies(error)
            raise
        if not self._amazon and found.etag != source.etag:
            await self._conditions.look(source)
        return found

    def copies_from(self, key: str) -> bool:
        """Tell whether this server copies.

        Ceph, as of 16, decodes the name of a source twice, and some names end the server.
        """
        return self._copies and (self._amazon or "%" not in key)

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        """API: CompleteMultipartUpload, with If-Match where it must replace a version.

        The reply may be lost after the parts became an object, and a second try is then told
        that there is no such upload. Whether there is the right object decides.
        """
        size = sum(part.size for part in parts)
        element = self._checksum.element if self._checksum else ""
        document = documents.complete_multipart_document(parts, element)
        checksums: dict[str, str] = {}
        whole = ""
        if self._checksum and all(part.checksum for part in parts):
            whole = self._checksum.of_parts([(part.checksum, part.size) for part in parts])
            checksums = {self._checksum.header: whole, "x-amz-checksum-type": "FULL_OBJECT"}

        async def attempt(condition: dict[str, str]) -> ObjectInfo:
            request = Request("CompleteMultipartUpload", "POST", upload.key)
            request.query = {"uploadId": upload.upload_id}
            request.headers = {"x-amz-mp-object-size": str(size), "content-type": "application/xml"}
            request.headers |= condition
            request.body = Body((document,), len(document))
            request.checksums = dict(checksums)
            try:
                reply = await self._caller.attempt(request)
                return await self._completed(upload.key, size, reply)
            except StoreError as error:
                if error.fault not in _MAY_BE_DONE:
                    raise
                etag = multipart_etag(parts)
                return await self._stored_already(upload.key, size, etag, whole, error)

        async def send(condition: dict[str, str]) -> ObjectInfo:
            return await self._caller.retrier.run(lambda: attempt(condition))

        return await self._conditions.run("CompleteMultipartUpload", replaces, send)

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """API: AbortMultipartUpload."""
        query = {"uploadId": upload.upload_id}
        try:
            await self._call(Request("AbortMultipartUpload", "DELETE", upload.key, query))
        except StoreError as error:
            if error.fault not in {Fault.NO_SUCH_UPLOAD, Fault.NOT_FOUND}:
                raise

    # -- moving; see `moves` --------------------------------------------------------------------

    @property
    def copy_max(self) -> int:
        """Bytes of the largest object that `duplicate` is right for."""
        return self._moves.copy_max

    @property
    def renames(self) -> bool:
        """Tell whether there is RenameObject."""
        return self._moves.kind.directory_bucket

    @property
    def heeds_conditions(self) -> bool:
        """Tell whether this server is known to heed them all."""
        return self._amazon

    async def describe(self, key: str) -> Description:
        """API: HeadObject, and GetObjectTagging where there are tags."""
        reply = await self._call(Request("HeadObject", "HEAD", key))
        info, headers = _info(key, reply), kept_headers(reply.head.headers)
        if info.storage_class:
            headers[_STORAGE_CLASS] = info.storage_class
        # Ceph, as of 16, does not tell how many tags there are.
        if reply.head.headers.get("x-amz-tagging-count") or not self._amazon:
            headers |= await self._moves.tags(key)
        return Description(info, headers)

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: CopyObject, with all that belongs to the source."""
        if not self._copies:
            raise StoreError(Fault.NOT_IMPLEMENTED, f"copy of {source.key!r}: not tried again")
        headers = self._headers("", {})
        try:
            return await self._moves.duplicate(source, key, headers, exclusive=exclusive)
        except StoreError as error:
            if error.fault is Fault.NOT_IMPLEMENTED:
                self._note_whether_it_copies(error)
            raise

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: RenameObject."""
        return await self._moves.rename_object(source, key, exclusive=exclusive)

    async def delete_version(self, info: ObjectInfo) -> bool:
        """API: DeleteObject with If-Match."""
        return await self._moves.delete_version(info)

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        """API: DeleteObjects."""
        return await self._moves.delete_many(objects)

    # -- details --------------------------------------------------------------------------------

    async def _completed(self, key: str, size: int, reply: Reply) -> ObjectInfo:
        name = "CompleteMultipartUploadResult"
        etag = documents.quoted(documents.parse_result(reply.body, name, "ETag").strip('"'))
        if not etag:
            return await self.head(key)  # Ceph leaves it empty here and knows it there
        return ObjectInfo(key, size, _clock(reply), etag)

    async def _stored_already(
        self, key: str, size: int, etag: str, checksum: str, error: StoreError
    ) -> ObjectInfo:
        """Return the object if it is what was to be stored; otherwise raise `error`."""
        if not (etag or checksum):
            raise error
        request = Request("HeadObject", "HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"})
        try:
            reply = await self._call(request)
            found = _info(key, reply)
        except StoreError:
            raise error from None  # it was not stored, whatever there is or is not
        theirs = reply.head.headers.get(self._checksum.header, "") if self._checksum else ""
        same = (checksum and theirs == checksum) or (etag and found.etag == etag)
        if not same or found.size != size:
            raise error
        event(_log, logging.INFO, "upload_was_complete", {"key": key, "reason": error})
        return found

    def _headers(self, content_type: str, like: Mapping[str, str] | None = None) -> dict[str, str]:
        headers = dict(self._new_object_headers)
        if like is not None:
            headers.pop(_STORAGE_CLASS, None)
            headers.update(like)
        if content_type:
            headers["content-type"] = content_type
        return headers

    def _copy_source(self, key: str) -> str:
        if self._bucket.startswith("arn:"):
            return encode_path(f"{self._bucket}/object/{key}")
        return encode_path(f"/{self._bucket}/{key}")

    def _note_whether_it_copies(self, error: StoreError) -> None:
        """Remember that this server does not copy, if that is what `error` says."""
        if error.fault in _CANNOT_COPY and self._copies:
            self._copies = False
            details = {
                "reason": error,
                "advice": "what could be copied is fetched and sent instead",
            }
            event(_log, logging.INFO, "copy_refused", details | error.details)

    def _do_without_checksum(self, error: StoreError) -> None:
        """Remember that this server knows no such checksums."""
        if self._checksum:
            details = {"algorithm": self._checksum.name, "reason": error}
            event(_log, logging.WARNING, "upload_checksum_refused", details | error.details)
            self._checksum_name = ""


def _new_object_headers(settings: Settings) -> dict[str, str]:
    headers = {
        _STORAGE_CLASS: settings.storage_class,
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


def _copied(key: str, size: int, reply: Reply) -> ObjectInfo:
    """Read the reply to CopyObject."""
    copy = documents.parse_copy(reply.body)
    return ObjectInfo(key, size, copy.mtime or _clock(reply), copy.etag)


def _copied_part(reply: Reply) -> str:
    """Read the reply to UploadPartCopy: the part's ETag."""
    if not reply.body and "etag" in reply.head.headers:
        # It does not know what the header with the source means.
        text = "the server took a copy for a part without bytes"
        raise StoreError(Fault.NOT_IMPLEMENTED, text, status=reply.head.status)
    return documents.parse_copy(reply.body, "CopyPartResult").etag


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
    storage_class = headers.get(_STORAGE_CLASS, "")
    return ObjectInfo(key, size, mtime, headers.get("etag", ""), storage_class)


def _stored(key: str, size: int, reply: Reply) -> ObjectInfo:
    return ObjectInfo(key, size, _clock(reply), reply.head.headers.get("etag", ""))


def _clock(reply: Reply) -> int:
    """Return the time of a reply: what Last-Modified will be, to a second or so."""
    return int(server_time(reply) or 0) * _SECOND
