"""A bucket in memory that behaves as S3 does: `ObjectStore` without a network.

What S3 documents and programs come to rely on is kept: keys in the order of their UTF-8, entity
tags that are MD5 sums, whole seconds, pages with opaque tokens, parts that have a least size, and
nothing of an upload to be seen before it is complete.

What is in the bucket, and what other clients do to it, is `membucket`'s; uploads in parts are
`memuploads`'.
"""

import asyncio
import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.posix.headers import for_copy
from fuse_s3_worker.store.ranges import RangeReceiver
from fuse_s3_worker.store.types import (
    Body,
    Description,
    ListPage,
    ObjectHead,
    ObjectInfo,
    ObjectStore,
    RangeSink,
)
from support.membucket import etag_of, refusal
from support.memuploads import PART_MIN, MemoryUploads

__all__ = ["MemoryStore"]

_PAGE_MAX = 1000
_COPY_MAX = 5 * 1024 * 1024 * 1024
_DELETES_MAX = 1000


class MemoryStore(MemoryUploads):
    """One bucket.

    Attributes:
        piece: bytes of a GET that arrive at once.
        fetched: bytes that went.
        strict: whether conditions are heeded, which not every store does.
        renames: whether there is RenameObject, which only directory buckets have.
        copy_max: bytes that are copied in one request.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        part_min: int = PART_MIN,
        piece: int = 64 * 1024,
    ) -> None:
        super().__init__(objects, clock=clock, part_min=part_min)
        self.piece = piece
        self.fetched = 0
        self.strict = True
        self.renames = False
        self.copy_max = _COPY_MAX

    # -- reading ----------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """API: HeadObject."""
        return (await self.describe(key)).info

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        """API: HeadObject."""
        del urgent
        await self._request("HeadObject", key)
        found = self._objects.get(key)
        if found is None:
            raise refusal("NoSuchKey", "HeadObject", key, document=False)
        return self._head(found)

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
            raise refusal("InvalidRange", "GetObject", key)
        return self._head(found), memoryview(found.data[:limit])

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """API: GetObject with If-Match and Range, in pieces."""
        await self._request("GetObject", key)
        found = self._readable(key, etag, "GetObject")
        at, size = start + sink.filled, found.info.size
        if at >= size:
            raise refusal("InvalidRange", "GetObject", key)
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

    # -- writing ----------------------------------------------------------------------------------

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
        return self._store(key, data, etag_of(data), content_type, headers)

    async def delete(self, key: str) -> None:
        """API: DeleteObject."""
        await self._request("DeleteObject", key)
        self._objects.pop(key, None)

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
            raise refusal("NotImplemented", "CopyObject", key)
        self._check_key(key, "CopyObject")
        self._check_headers(key, headers, "CopyObject")
        found = self._readable(source.key, source.etag, "CopyObject")
        return self._store(key, found.data, etag_of(found.data), content_type, headers)

    async def set_headers(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        *,
        through: ObjectStore | None = None,
    ) -> ObjectInfo:
        """API: CopyObject, of an object onto itself."""
        del through  # one request does it
        kind = headers.get("content-type", "")
        return await self.copy(source, source.key, content_type=kind, headers=for_copy(headers))

    def how_to_restore(self, key: str) -> str:
        """Return something to be found in the log."""
        return f"restore {key}"

    def copies_from(self, key: str) -> bool:
        """Tell whether copies are made, and not refused."""
        return self.copying and "%" not in key

    # -- moving -----------------------------------------------------------------------------------

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
            raise refusal("NotImplemented", "CopyObject", key)
        self._check_key(key, "CopyObject")
        if source.key == key or source.size > self.copy_max:
            raise refusal("InvalidRequest", "CopyObject", key)
        found = self._readable(source.key, source.etag if self.strict else "", "CopyObject")
        if exclusive and self.strict and key in self._objects:
            raise refusal("PreconditionFailed", "CopyObject", key)
        self._store(key, found.data, etag_of(found.data), found.content_type, found.headers)
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
            raise refusal("PreconditionFailed", "RenameObject", key)
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
                    refused[info.key] = refusal("PreconditionFailed", "DeleteObjects", info.key)
                else:
                    self._objects.pop(info.key, None)
        return refused


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
        raise refusal("InvalidArgument", "ListObjectsV2", prefix)
    return name


def _conforms(store: MemoryStore) -> ObjectStore:
    """Have the type checker hold this class against the protocol."""
    return store
