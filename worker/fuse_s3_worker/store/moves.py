"""What a rename is made of: whole copies, deleting one version or a thousand, RenameObject.

What a server makes of conditions is found out by using them. One that refuses a header is asked
without it from then on; one that ignores a header cannot be told from one that heeds it, so
whoever asks looks for himself where it matters.
"""

import asyncio
import base64
import hashlib
import logging
import secrets
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from fuse_s3_worker.config.units import GIB, MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Reply
from fuse_s3_worker.log import event
from fuse_s3_worker.store import documents
from fuse_s3_worker.store.calls import Caller
from fuse_s3_worker.store.encryption import Encryption
from fuse_s3_worker.store.failures import fault_of
from fuse_s3_worker.store.sigv4 import encode_path
from fuse_s3_worker.store.types import Body, ObjectInfo
from fuse_s3_worker.store.wire import Request

__all__ = ["DELETES_MAX", "Kind", "Moves"]

_log = logging.getLogger(__name__)

DELETES_MAX = 1_000  # keys that DeleteObjects takes
_COPY_MAX = 5 * GIB  # "Copying objects" in the S3 user guide: what CopyObject takes
# Amazon copies what is larger in parts side by side, which take as long as one of them. Ceph
# copies a whole object by reference, and parts by their bytes: fifteen times as long for 1 GiB.
_COPY_MAX_AMAZON = 512 * MIB
_COPY_PATIENCE = 300.0  # seconds: not every server sends spaces while it copies

_REFUSED = frozenset({Fault.NOT_IMPLEMENTED, Fault.BAD_REQUEST})
_NO_BATCHES = _REFUSED | {Fault.NOT_FOUND}

# What a server may refuse to do, in the words of the log.
_EXCLUSIVE_COPY = "If-None-Match of CopyObject"
_CONDITIONAL_DELETE = "If-Match of DeleteObject"
_BATCHES = "DeleteObjects"
_TAGS = "GetObjectTagging"


class Kind(NamedTuple):
    """What is known of a server before it is asked."""

    amazon: bool = False
    directory_bucket: bool = False


class Moves:
    """The S3 API, as far as renaming needs it.

    Attributes:
        kind: what the bucket is.
        copy_max: bytes that are copied in one request at most.
    """

    def __init__(
        self,
        caller: Caller,
        head: Callable[[str], Awaitable[ObjectInfo]],
        copy_source: Callable[[str], str],
        kind: Kind,
        encryption: Encryption,
    ) -> None:
        self.kind = kind
        self.copy_max = _COPY_MAX_AMAZON if kind.amazon else _COPY_MAX
        self._caller = caller
        self._head = head
        self._copy_source = copy_source
        self._encryption = encryption
        self._refused: set[str] = set()  # of operations, what this server does not take

    # -- copying --------------------------------------------------------------------------------

    async def duplicate(
        self, source: ObjectInfo, key: str, headers: Mapping[str, str], *, exclusive: bool
    ) -> ObjectInfo:
        """API: CopyObject, with metadata and tags."""
        condition = {"if-none-match": "*"} if exclusive else {}
        if _EXCLUSIVE_COPY in self._refused:
            condition = {}
        asked = {**headers, **condition, "x-amz-copy-source": self._copy_source(source.key)}
        if source.etag:
            asked["x-amz-copy-source-if-match"] = source.etag
        if source.storage_class:
            # Copies get the usual class otherwise.
            asked["x-amz-storage-class"] = source.storage_class

        async def send(opened: dict[str, str]) -> documents.Copy:
            request = Request("CopyObject", "PUT", key, urgent=False, patience=_COPY_PATIENCE)
            request.headers = asked | opened
            return await self._caller.ask(request, lambda reply: read(str(request), reply))

        def read(what: str, reply: Reply) -> documents.Copy:
            self._encryption.verify(what, asked, reply.head.headers)
            return _copied(reply)

        try:
            made = await self._encryption.read(source.key, send, copies=True)
        except StoreError as error:
            if not condition or error.fault not in _REFUSED:
                raise
            del asked["if-none-match"]  # which may be what was refused
            made = await self._encryption.read(source.key, send, copies=True)
            self._note_refusal(_EXCLUSIVE_COPY, error)
        return ObjectInfo(key, source.size, made.mtime, made.etag, source.storage_class)

    async def tags(self, key: str) -> dict[str, str]:
        """API: GetObjectTagging; return a header with the tags, if there are any."""
        request = Request("GetObjectTagging", "GET", key, {"tagging": ""})
        if _TAGS in self._refused:
            return {}
        try:
            found = await self._caller.ask(request, lambda r: documents.parse_tags(r.body))
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:  # what some say when there are none
                return {}
            if error.fault is not Fault.NOT_IMPLEMENTED:
                raise
            self._note_refusal(_TAGS, error)
            return {}
        return {"x-amz-tagging": found} if found else {}

    # -- renaming -------------------------------------------------------------------------------

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """API: RenameObject, which only directory buckets have."""
        request = Request("RenameObject", "PUT", key, {"renameObject": ""})
        request.headers = {
            "x-amz-rename-source": encode_path(source.key),
            # A second try of a rename that was done is told so, and not that there is no source.
            "x-amz-client-token": secrets.token_hex(16),
        }
        if source.etag:
            request.headers["x-amz-rename-source-if-match"] = source.etag
        if exclusive:
            request.headers["if-none-match"] = "*"
        await self._caller.call(request)
        return source._replace(key=key)

    # -- deleting -------------------------------------------------------------------------------

    async def delete_version(self, info: ObjectInfo) -> bool:
        """API: DeleteObject with If-Match, as far as the server heeds it."""
        if not info.etag or _CONDITIONAL_DELETE in self._refused:
            await self._delete(info.key, {})
            return True
        try:
            await self._delete(info.key, {"if-match": info.etag})
        except StoreError as error:
            if error.fault is Fault.CHANGED:
                if not await self._is_still(info):
                    return False
            elif error.fault not in _REFUSED:
                raise
            # Refused, or compared in a way that no entity tag meets.
            await self._delete(info.key, {})
            self._note_refusal(_CONDITIONAL_DELETE, error)
        return True

    async def _is_still(self, info: ObjectInfo) -> bool:
        try:
            return (await self._head(info.key)).etag == info.etag
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return False
            raise

    async def _delete(self, key: str, condition: dict[str, str]) -> None:
        try:
            await self._caller.call(Request("DeleteObject", "DELETE", key, headers=condition))
        except StoreError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        """API: DeleteObjects; DeleteObject for what cannot be named there."""
        refused: dict[str, StoreError] = {}
        singly = [info for info in objects if not documents.expressible(info.key)]
        batched = [info for info in objects if documents.expressible(info.key)]
        for at in range(0, len(batched), DELETES_MAX):
            batch = batched[at : at + DELETES_MAX]
            if _BATCHES in self._refused:
                singly += batch
            else:
                refused |= await self._delete_batch(batch)
        return refused | await self._delete_singly(singly)

    async def _delete_batch(self, batch: Sequence[ObjectInfo]) -> dict[str, StoreError]:
        left = {info.key: info for info in batch}
        refused: dict[str, StoreError] = {}

        async def attempt() -> None:
            reply = await self._caller.attempt(self._batch_request(list(left.values())))
            errors = [_failure(*entry) for entry in documents.parse_delete_errors(reply.body)]
            again = {key: error for key, error in errors if error.temporary and key in left}
            refused.update((key, error) for key, error in errors if key not in again)
            for key in left.keys() - again.keys():
                del left[key]
            if again:
                raise next(iter(again.values()))

        try:
            await self._caller.retrier.run(attempt)
        except StoreError as error:
            if error.fault not in _NO_BATCHES or len(left) < len(batch):
                return refused | dict.fromkeys(left, error)
            if error.fault is not Fault.BAD_REQUEST:  # which may be about one of the keys
                self._note_refusal(_BATCHES, error)
            return refused | await self._delete_singly(list(left.values()))
        return refused

    def _batch_request(self, batch: Sequence[ObjectInfo]) -> Request:
        document = documents.delete_document(batch, versions=self.kind.amazon)
        request = Request("DeleteObjects", "POST", "", {"delete": ""}, urgent=False)
        request.headers = {"content-type": "application/xml"} | self._digest(document)
        request.body = Body((document,), len(document))
        return request

    def _digest(self, document: bytes) -> dict[str, str]:
        """Return what S3 wants to see of this document in particular."""
        if self.kind.directory_bucket:
            return {"x-amz-checksum-crc32": _base64(zlib.crc32(document).to_bytes(4, "big"))}
        md5 = hashlib.md5(document, usedforsecurity=False)  # every server knows this one
        return {"content-md5": _base64(md5.digest())}

    async def _delete_singly(self, objects: Sequence[ObjectInfo]) -> dict[str, StoreError]:
        refused: dict[str, StoreError] = {}

        async def delete(info: ObjectInfo) -> None:
            try:
                await self._delete(info.key, {})
            except StoreError as error:
                refused[info.key] = error

        await asyncio.gather(*map(delete, objects))
        return refused

    def _note_refusal(self, what: str, error: StoreError) -> None:
        if what not in self._refused:
            self._refused.add(what)
            details: dict[str, object] = {"what": what, "reason": error}
            event(_log, logging.INFO, "server_refuses", details | error.details)


def _copied(reply: Reply) -> documents.Copy:
    """Read the reply to CopyObject."""
    if not reply.body and "etag" in reply.head.headers:
        # It does not know what the header with the source means.
        text = "the server took a copy for an empty object"
        raise StoreError(Fault.NOT_IMPLEMENTED, text, status=reply.head.status)
    return documents.parse_copy(reply.body)


def _failure(key: str, code: str, message: str) -> tuple[str, StoreError]:
    """Return a key that could not be deleted, and why."""
    text = f"DeleteObjects {key!r}: {message or code}"
    return key, StoreError(fault_of(code), text, status=200, code=code)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
