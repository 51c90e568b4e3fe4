"""Other headers for an object whose bytes stay: S3 knows no such operation, but copies.

The copy of an object onto itself may name new headers; above 5 GiB it is a multipart upload whose
parts are copied. A store that copies nothing is sent small objects again; large ones keep what
they have, and whoever asked is told.
"""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fuse_s3_worker.config.units import GIB, MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.posix.headers import for_copy
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.conditions import Conditions
from fuse_s3_worker.store.encryption import Encryption
from fuse_s3_worker.store.multipart import Target, assemble
from fuse_s3_worker.store.ranges import ViewSink
from fuse_s3_worker.store.replies import copied
from fuse_s3_worker.store.types import (
    Body,
    MultipartUpload,
    ObjectInfo,
    ObjectStore,
    PartResult,
)
from fuse_s3_worker.store.wire import Request

if TYPE_CHECKING:
    from fuse_s3_worker.store.client import S3Store

__all__ = ["Rewriter"]

_log = logging.getLogger(__name__)

_TAGS = "x-amz-tagging-count"  # of HEAD, where there are any
_COPY_MAX = 5 * GIB  # "Copying objects" in the S3 user guide: by one request
_PART = 512 * MIB  # a store takes its time for each; side by side they are done sooner
_PARTS_MAX = 10_000
_PARTS_AT_ONCE = 8


class Rewriter:
    """Sets headers of objects.

    Args:
        store: for what is put together from parts, or sent again.
        small: bytes of an object that is sent again where nothing is copied.
    """

    def __init__(
        self,
        store: "S3Store",
        caller: Caller,
        conditions: Conditions,
        encryption: Encryption,
        *,
        small: int,
    ) -> None:
        self._store = store
        self._caller = caller
        self._conditions = conditions
        self._encryption = encryption
        self._small = small

    async def set_headers(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        *,
        through: ObjectStore | None = None,
    ) -> ObjectInfo:
        """Give the version `source` these headers instead of those it has.

        API: CopyObject of an object onto itself, or a multipart upload that copies it.

        Raises:
            StoreError: CHANGED, another version is there; NOT_IMPLEMENTED, the store cannot.
        """
        if "x-amz-missing-meta" in headers:
            text = f"{source.key!r} has metadata that HTTP cannot show, and would lose it"
            raise StoreError(Fault.NOT_IMPLEMENTED, text)
        kept = for_copy(headers) | self._encryption.same_as(source.key, headers)
        if self._store.copies_from(source.key):
            try:
                if source.size > _COPY_MAX:
                    return await self._copy_by_parts(source, kept, headers, through or self._store)
                return await self._copy(source, kept)
            except StoreError as error:
                if error.fault is not Fault.NOT_IMPLEMENTED:
                    raise
        return await self._send_again(source, kept)

    async def _copy(self, source: ObjectInfo, headers: Mapping[str, str]) -> ObjectInfo:
        """API: CopyObject."""
        asked = self._store.headers_of(source.key, headers) | {
            "x-amz-copy-source": self._store.copy_source(source.key),
            "x-amz-metadata-directive": "REPLACE",
        }

        async def send(condition: dict[str, str]) -> ObjectInfo:
            conditions = {f"x-amz-copy-source-{name}": etag for name, etag in condition.items()}

            async def attempt(opened: dict[str, str]) -> ObjectInfo:
                request = Request("CopyObject", "PUT", source.key)
                request.headers = asked | conditions | opened
                reply = await self._caller.call(request)
                self._encryption.verify(str(request), asked, reply.head.headers)
                return copied(source.key, source.size, reply)

            return await self._encryption.read(source.key, attempt, copies=True)

        try:
            info = await self._conditions.run("CopyObject", source, send)
        except StoreError as error:
            self._store.note_whether_it_copies(error)
            if error.fault is not Fault.CHANGED:
                raise
            info = await self._done_already(source, headers, error)
        return info._replace(storage_class=source.storage_class)

    async def _done_already(
        self, source: ObjectInfo, headers: Mapping[str, str], error: StoreError
    ) -> ObjectInfo:
        """Return the object if it is what was asked for: the reply was lost, and its tag is new."""
        try:
            found = await self._store.describe(source.key)
        except StoreError:
            raise error from None
        wanted = {n: v for n, v in headers.items() if n.startswith("x-amz-meta-")}
        if found.info.size != source.size or not wanted.items() <= found.headers.items():
            raise error
        return found.info

    async def _copy_by_parts(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        told: Mapping[str, str],
        through: ObjectStore,
    ) -> ObjectInfo:
        """API: CreateMultipartUpload and UploadPartCopy; only CopyObject keeps tags by itself."""
        tags = await self._tags(source.key, must=_TAGS in told)
        if tags:
            headers = {**headers, "x-amz-tagging": tags}
        turns = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def copy(upload: MultipartUpload, number: int, start: int, end: int) -> PartResult:
            async with turns:
                return await through.copy_part(upload, number, source, start, end)

        size = max(_PART, -(-source.size // _PARTS_MAX))
        bounds = [*range(0, source.size, size), source.size]
        target = Target(source.key, headers, replaces=source)
        info = await assemble(through, target, bounds, copy)
        if tags and await self._tags(source.key, must=True) != tags:
            await self._put_tags(source.key, tags)  # Ceph does not take them with an upload
        return info._replace(storage_class=source.storage_class)

    async def _tags(self, key: str, *, must: bool) -> str:
        """API: GetObjectTagging; return tags as x-amz-tagging takes them.

        Not every server tells in a HEAD that there are some; where it did, they `must` be had.
        """
        request = Request("GetObjectTagging", "GET", key, {"tagging": ""})
        try:
            return await self._caller.ask(request, lambda reply: documents.parse_tags(reply.body))
        except StoreError:
            if must:
                raise
            return ""

    async def _put_tags(self, key: str, tags: str) -> None:
        """API: PutObjectTagging."""
        document = documents.tagging_document(tags)
        md5 = hashlib.md5(document, usedforsecurity=False).digest()
        headers = {"content-md5": base64.b64encode(md5).decode()}
        request = Request("PutObjectTagging", "PUT", key, {"tagging": ""}, headers)
        request.body = Body((document,), len(document))
        await self._caller.call(request)

    async def _send_again(self, source: ObjectInfo, headers: Mapping[str, str]) -> ObjectInfo:
        """API: GetObject and PutObject."""
        if source.size > self._small:
            event(_log, logging.WARNING, "headers_cannot_change", {
                "key": source.key, "bytes": source.size,
                "reason": f"this server copies nothing, and more than {self._small} bytes "
                "(part_size=) are not sent again",
            })  # fmt: skip
            raise StoreError(
                Fault.NOT_IMPLEMENTED, f"{source.key!r} cannot get other metadata on this server"
            )
        memory = memoryview(bytearray(source.size))
        if source.size:
            sink = ViewSink(memory)
            await self._store.get_range(source.key, source.etag, 0, source.size, sink)
        body = Body((memory,), source.size)
        return await self._store.put(source.key, body, replaces=source, headers=headers)
