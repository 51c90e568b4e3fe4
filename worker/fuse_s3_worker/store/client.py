"""`ObjectStore` over HTTP: what is sent for each operation, and what its reply must be.

Signing, sending, retrying and correcting are in `calls`; this module is the S3 API.
"""

import asyncio
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.log import event
from fuse_s3_worker.posix.headers import TAGGING_COUNT, for_copy, relevant
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.checksums import Algorithm, algorithm, md5_etag, multipart_etag
from fuse_s3_worker.store.conditions import Conditions
from fuse_s3_worker.store.encryption import Encryption
from fuse_s3_worker.store.endpoint import is_directory_bucket
from fuse_s3_worker.store.moves import Kind, Moves
from fuse_s3_worker.store.newobjects import NewObjects
from fuse_s3_worker.store.ranges import BeginningReceiver, RangeReceiver
from fuse_s3_worker.store.replies import (
    begun,
    completed,
    copied,
    copied_part,
    described,
    stored,
)
from fuse_s3_worker.store.rewriting import Rewriter
from fuse_s3_worker.store.sigv4 import encode_path
from fuse_s3_worker.store.types import (
    Body,
    Description,
    ListPage,
    MultipartUpload,
    ObjectHead,
    ObjectInfo,
    PartResult,
    RangeSink,
)
from fuse_s3_worker.store.wire import Request

__all__ = ["S3Store"]

_log = logging.getLogger(__name__)

# Where S3 says that there is no such upload, Ceph says InternalError; the others are replies lost.
_MAY_BE_DONE = frozenset(
    {
        *(Fault.NO_SUCH_UPLOAD, Fault.UNAVAILABLE, Fault.UNREACHABLE, Fault.BAD_REPLY),
        *(Fault.CHANGED, Fault.NOT_FOUND),  # a condition that was met before the reply was lost
    }
)
_CANNOT_COPY = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST})


class S3Store:
    """One bucket, whose requests `caller` sends.

    Attributes:
        address: of its server, as it was given; "" for Amazon's.
    """

    def __init__(
        self,
        caller: Caller,
        bucket: str,
        settings: Settings,
        *,
        address: str | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """Use a bucket at `address`; "" is Amazon's, whose ways are known."""
        self._call = caller.call
        self.caller = self._caller = caller
        self._bucket = bucket
        chosen = settings.upload_checksum
        self._checksum_name = {"auto": "crc64nvme", "off": ""}.get(chosen, chosen)
        self._encryption = encryption or Encryption(settings.sse, settings.sse_kms_key_id)
        self._new_objects = NewObjects(settings, self._encryption)
        self.address = address or ""
        self._amazon = address == ""
        self._conditions = Conditions(self.head, amazon=self._amazon)
        kind = Kind(amazon=self._amazon, directory_bucket=is_directory_bucket(bucket))
        self._moves = Moves(caller, self.head, self.copy_source, kind, self._encryption)
        self.rename_object = self._moves.rename_object
        self.delete_version = self._moves.delete_version
        self.delete_many = self._moves.delete_many
        self._copies = True
        self.set_headers = Rewriter(
            self, caller, self._conditions, self._encryption, small=settings.part_size
        ).set_headers
        caller.on_checksum_refused = self._do_without_checksum

    @property
    def _checksum(self) -> Algorithm | None:
        return algorithm(self._checksum_name) if self._checksum_name else None

    # -- reading --------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """API: HeadObject."""
        return (await self.describe(key)).info

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        """API: HeadObject."""
        try:
            return await self._head(key, urgent=urgent)
        except StoreError as error:
            if error.fault is not Fault.BAD_REQUEST:
                raise
        # Of a key that has expired S3 says no more than 400 here: a HEAD has no document. A
        # listing is told the reason, and what can be put right is put right on the way.
        await self.list_page(key, max_keys=1)
        return await self._head(key, urgent=urgent)

    async def _head(
        self, key: str, *, urgent: bool, headers: Mapping[str, str] | None = None
    ) -> ObjectHead:
        async def send(opened: dict[str, str]) -> ObjectHead:
            asked = {**opened, **(headers or {})}
            request = Request("HeadObject", "HEAD", key, headers=asked, urgent=urgent)
            return await self._caller.ask(request, lambda reply: described(key, reply))

        return await self._encryption.read(key, send)

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
        # Else objects that were restored from an archive would look as if they were still there.
        headers = {"x-amz-optional-object-attributes": "RestoreStatus"}
        request = Request("ListObjectsV2", "GET", "", query, headers)

        async def attempt() -> ListPage:
            reply = await self._caller.attempt(request)
            following = documents.peek_token(reply.body) if on_token is not None else ""
            if following and on_token is not None:
                on_token(following)
                await asyncio.sleep(0)  # what it began goes out now
            return documents.parse_list_page(reply.body)

        return await self._caller.retrier.run(attempt)

    async def peek(self, key: str, limit: int) -> tuple[ObjectHead, memoryview]:
        """API: GetObject with Range."""

        async def send(opened: dict[str, str]) -> tuple[ObjectHead, memoryview]:
            headers = {"range": f"bytes=0-{limit - 1}"} | opened
            request = Request("GetObject", "GET", key, headers=headers, urgent=False)
            beginning = BeginningReceiver(limit)
            reply = await self._caller.attempt(request, beginning)
            head = described(key, reply)
            return head._replace(info=head.info._replace(size=beginning.size)), beginning.data

        async def attempt() -> tuple[ObjectHead, memoryview]:
            return await self._encryption.read(key, send)

        return await self._caller.retrier.run(attempt)

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """API: GetObject with If-Match and Range; resumes where an attempt was cut off."""

        async def send(opened: dict[str, str]) -> Reply:
            at = start + sink.filled
            headers = {"range": f"bytes={at}-{end - 1}"} | opened
            if etag:
                headers["if-match"] = etag
            request = Request("GetObject", "GET", key, headers=headers, urgent=False)
            return await self._caller.attempt(request, RangeReceiver(sink, at, end, etag))

        async def attempt() -> Reply:
            return await self._encryption.read(key, send)

        await self._caller.retrier.run(attempt, progress=lambda: sink.filled)

    # -- writing --------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str = "",
        replaces: ObjectInfo | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """API: PutObject, with If-Match where it must replace a version."""
        checksum = self._checksum.of(body.pieces) if self._checksum else ""
        asked = self.headers_of(key, headers, content_type)

        async def send(condition: dict[str, str]) -> ObjectInfo:
            request = Request("PutObject", "PUT", key, body=body, urgent=False)
            request.headers = asked | condition
            if self._checksum:
                request.checksums = {self._checksum.header: checksum}
            reply = await self._call(request)
            self._encryption.verify(str(request), asked, reply.head.headers)
            return stored(key, body.size, reply)

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
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """API: CreateMultipartUpload."""
        request = Request("CreateMultipartUpload", "POST", key, {"uploads": ""})
        asked = request.headers = self.headers_of(key, headers, content_type)
        if self._checksum:
            request.checksums = {
                "x-amz-checksum-algorithm": self._checksum.label,
                "x-amz-checksum-type": "FULL_OBJECT",
            }
        upload, replied = await self._caller.ask(request, lambda reply: begun(key, reply))
        self._encryption.begun(upload.upload_id, asked)
        try:
            self._encryption.verify(str(request), asked, replied)
        except StoreError:
            await self.abort_multipart(upload)
            raise
        return upload

    async def upload_part(self, upload: MultipartUpload, number: int, body: Body) -> PartResult:
        """API: UploadPart."""
        request = Request("UploadPart", "PUT", upload.key, _part_query(upload, number), body=body)
        request.headers |= self._encryption.of_part(upload.upload_id)
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
        asked = {
            "x-amz-copy-source": self.copy_source(source.key),
            "x-amz-copy-source-range": f"bytes={start}-{end - 1}",
            **self._encryption.of_part(upload.upload_id),
        }
        if source.etag:
            asked["x-amz-copy-source-if-match"] = source.etag

        async def send(opened: dict[str, str]) -> str:
            request = Request("UploadPartCopy", "PUT", upload.key, _part_query(upload, number))
            request.headers = asked | opened
            return await self._caller.ask(request, copied_part)

        try:
            etag = await self._encryption.read(source.key, send, copies=True)
        except StoreError as error:
            self.note_whether_it_copies(error)
            raise
        return PartResult(number, end - start, etag, "")

    async def copy(
        self,
        source: ObjectInfo,
        key: str,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """API: CopyObject, with nothing but the bytes of the source.

        A server that does not mind the condition on the source may have made a copy of a newer
        version: a whole one, and the caller is told.
        """
        asked = self.headers_of(key, headers, content_type) | {
            "x-amz-copy-source": self.copy_source(source.key),
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-tagging-directive": "REPLACE",
        }
        if source.etag:
            asked["x-amz-copy-source-if-match"] = source.etag

        async def send(opened: dict[str, str]) -> ObjectInfo:
            request = Request("CopyObject", "PUT", key, headers=asked | opened)
            reply = await self._call(request)
            self._encryption.verify(str(request), asked, reply.head.headers)
            return copied(key, source.size, reply)

        try:
            found = await self._encryption.read(source.key, send, copies=True)
        except StoreError as error:
            self.note_whether_it_copies(error)
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

        info = await self._conditions.run("CompleteMultipartUpload", replaces, send)
        self._encryption.ended(upload.upload_id)
        return info

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """API: AbortMultipartUpload."""
        query = {"uploadId": upload.upload_id}
        self._encryption.ended(upload.upload_id)
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

    async def headers_to_copy(self, key: str) -> Description:
        """API: HeadObject, and GetObjectTagging where there are tags."""
        info, told, _ = await self.describe(key)
        headers = relevant(told) | self._encryption.same_as(key, told)
        if told.get(TAGGING_COUNT) or not self._amazon:  # Ceph, as of 16, does not tell of any
            headers |= await self._moves.tags(key)
        return Description(info, for_copy(headers))

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: CopyObject, with all that belongs to the source."""
        if not self._copies:
            raise StoreError(Fault.NOT_IMPLEMENTED, f"copy of {source.key!r}: not tried again")
        headers = self._new_objects.headers_of_copy(key)
        try:
            return await self._moves.duplicate(source, key, headers, exclusive=exclusive)
        except StoreError as error:
            if error.fault is Fault.NOT_IMPLEMENTED:
                self.note_whether_it_copies(error)
            raise

    # -- details --------------------------------------------------------------------------------

    async def _completed(self, key: str, size: int, reply: Reply) -> ObjectInfo:
        info = completed(key, size, reply)
        return info if info.etag else await self.head(key)  # Ceph knows it there

    async def _stored_already(
        self, key: str, size: int, etag: str, checksum: str, error: StoreError
    ) -> ObjectInfo:
        """Return the object if it is what was to be stored; otherwise raise `error`."""
        if not (etag or checksum):
            raise error
        try:
            found, headers, _ = await self._head(
                key, urgent=True, headers={"x-amz-checksum-mode": "ENABLED"}
            )
        except StoreError:
            raise error from None  # it was not stored, whatever there is or is not
        theirs = headers.get(self._checksum.header, "") if self._checksum else ""
        same = (checksum and theirs == checksum) or (etag and found.etag == etag)
        if not same or found.size != size:
            raise error
        event(_log, logging.INFO, "upload_was_complete", {"key": key, "reason": error})
        return found

    def headers_of(
        self, key: str, asked: Mapping[str, str] | None, content_type: str = ""
    ) -> dict[str, str]:
        """Return the headers of a new object."""
        return self._new_objects.headers(key, asked, content_type)

    def how_to_restore(self, key: str) -> str:
        """Return a command of the AWS CLI."""
        where = "" if self._amazon else f" --endpoint-url {self._caller.line.target.endpoint}"
        return (
            f"aws s3api restore-object --bucket {self._bucket} --key {shlex.quote(key)} "
            f"--restore-request Days=7{where}"
        )

    def copy_source(self, key: str) -> str:
        """Return what names an object of this bucket to the store that copies it."""
        if self._bucket.startswith("arn:"):
            return encode_path(f"{self._bucket}/object/{key}")
        return encode_path(f"/{self._bucket}/{key}")

    def note_whether_it_copies(self, error: StoreError) -> None:
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


def _part_query(upload: MultipartUpload, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": upload.upload_id}
