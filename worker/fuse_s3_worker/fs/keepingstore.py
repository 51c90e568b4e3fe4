"""The store as a mount that keeps attributes sees it: whatever is stored carries them.

Everything that writes goes through here, by the key it writes, so that neither uploads nor markers
need to know of attributes. What is sent for one key is sent one after the other: a copy of an
object onto itself that is overtaken by new bytes would put the old ones back.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.names import DIRECTORY_TYPE
from fuse_s3_worker.fs.record import Snapshot
from fuse_s3_worker.fs.turns import Turns
from fuse_s3_worker.posix.headers import for_copy, for_new_bytes, relevant
from fuse_s3_worker.store.types import (
    Body,
    MultipartUpload,
    ObjectHead,
    ObjectInfo,
    ObjectStore,
    PartResult,
    RangeSink,
)

__all__ = ["Keeper", "KeepingStore"]

_EMPTY = Body((), 0)
_SUCCESSORS_MAX = 1_000  # versions that our own copies have taken the place of


class Keeper(Protocol):
    """Who knows what objects shall carry, and wants to know what became of it."""

    def heard(self, head: ObjectHead) -> None:
        """Take note of what an object carries."""

    def snapshot(self, key: str, *, whole: bool) -> Snapshot | None:
        """Return what an object shall carry that gets other bytes; None: nobody knows."""

    def stored(self, key: str, info: ObjectInfo, snapshot: Snapshot) -> None:
        """Take note that an object was stored with that."""

    def deleted(self, key: str) -> None:
        """Take note that an object is gone."""


class KeepingStore:
    """An `ObjectStore` around another one.

    Attributes:
        turns: by key; whoever copies an object onto itself takes one, too.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.turns = Turns()
        self._store = store
        self._keeper: Keeper | None = None
        self._uploads: dict[str, Snapshot] = {}
        self._successors: dict[tuple[str, str], str] = {}
        self.copies_from = store.copies_from
        self.headers_to_copy = store.headers_to_copy
        self.how_to_restore = store.how_to_restore
        self.list_page = store.list_page
        self.upload_part = store.upload_part

    def attach(self, keeper: Keeper) -> None:
        """Tell who knows."""
        self._keeper = keeper

    # -- versions -------------------------------------------------------------------------------

    def succeed(self, old: ObjectInfo, new: ObjectInfo) -> None:
        """Note that a copy of ours made `old` into `new`: the bytes are the same.

        The entity tag of an object that was uploaded in parts changes by that. Whoever goes on
        with the old one means the new one.
        """
        if old.etag == new.etag:
            return
        self._successors[old.key, old.etag] = new.etag
        if len(self._successors) > _SUCCESSORS_MAX:
            del self._successors[next(iter(self._successors))]

    def today(self, info: ObjectInfo) -> ObjectInfo:
        """Return a version by the entity tag that it has now."""
        etag = info.etag
        while (newer := self._successors.get((info.key, etag))) is not None:
            etag = newer
        return info if etag == info.etag else info._replace(etag=etag)

    # -- reading --------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """Describe one object, and note what it carries."""
        return (await self.describe(key)).info

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        """Do the same in full."""
        head = await self._store.describe(key, urgent=urgent)
        if self._keeper is not None:
            self._keeper.heard(head)
        return head

    async def peek(self, key: str, limit: int) -> tuple[ObjectHead, memoryview]:
        """Describe one object with its first bytes, and note what it carries."""
        head, data = await self._store.peek(key, limit)
        if self._keeper is not None:
            self._keeper.heard(head)
        return head, data

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """Fetch bytes of a version, whatever it is called by now."""
        version = ObjectInfo(key, 0, 0, etag)
        sent = self.today(version)
        try:
            await self._store.get_range(key, sent.etag, start, end, sink)
        except StoreError as error:
            if error.fault is not Fault.CHANGED:
                raise
            async with self.turns.of(key):  # a copy of ours may be why, and about to say so
                now = self.today(version)
            if now.etag == sent.etag:
                raise
            await self._store.get_range(key, now.etag, start, end, sink)

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
        """Store an object, with what it shall carry."""
        async with self.turns.of(key):
            sent, kept = await self._to_send(key, headers, whole=True)
            info = await self._store.put(
                key,
                body,
                content_type=content_type,
                replaces=replaces and self.today(replaces),
                headers=sent,
            )
            self._stored(key, info, kept)
        return info

    async def put_in_turn(self, key: str, headers: Mapping[str, str]) -> ObjectInfo:
        """Store a marker with these headers; the caller has the turn."""
        kind = headers.get("content-type", DIRECTORY_TYPE)
        return await self._store.put(key, _EMPTY, content_type=kind, headers=headers)

    async def create_multipart(
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """Begin a multipart upload, with what its object shall carry."""
        sent, kept = await self._to_send(key, headers, whole=False)
        upload = await self._store.create_multipart(key, content_type=content_type, headers=sent)
        if kept is not None:
            self._uploads[upload.upload_id] = kept
        return upload

    async def copy_part(
        self, upload: MultipartUpload, number: int, source: ObjectInfo, start: int, end: int
    ) -> PartResult:
        """Copy a part."""
        return await self._store.copy_part(upload, number, self.today(source), start, end)

    async def copy(
        self,
        source: ObjectInfo,
        key: str,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Copy an object; it carries what is known of the new name, or else what the source does.

        That is, a file that is filled by copying stays what it is, and one that is moved, too.
        """
        async with self.turns.of(key):
            sent, kept = await self._to_send(key, headers, whole=True, source=source.key)
            info = await self._store.copy(
                self.today(source), key, content_type=content_type, headers=sent
            )
            self._stored(key, info, kept)
        return info

    async def set_headers(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        *,
        through: ObjectStore | None = None,
    ) -> ObjectInfo:
        """Give a version other headers; the caller has the turn."""
        info = await self._store.set_headers(self.today(source), headers, through=through)
        self.succeed(source, info)
        return info

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        """Make the parts one object."""
        async with self.turns.of(upload.key):
            info = await self._store.complete_multipart(
                upload, parts, replaces=replaces and self.today(replaces)
            )
            self._stored(upload.key, info, self._uploads.pop(upload.upload_id, None))
        return info

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """Give up an upload."""
        self._uploads.pop(upload.upload_id, None)
        await self._store.abort_multipart(upload)

    async def delete(self, key: str) -> None:
        """Delete an object, after what was sent for it before."""
        async with self.turns.of(key):
            await self._store.delete(key)
            if self._keeper is not None:
                self._keeper.deleted(key)

    # -- moving: what an object carries goes along by itself ------------------------------------

    @property
    def copy_max(self) -> int:
        """Bytes of the largest object that `duplicate` is right for."""
        return self._store.copy_max

    @property
    def renames(self) -> bool:
        """Tell whether `rename_object` is there."""
        return self._store.renames

    @property
    def heeds_conditions(self) -> bool:
        """Tell whether the store is known to heed every condition."""
        return self._store.heeds_conditions

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """Copy an object with all that belongs to it."""
        async with self.turns.of(key):
            return await self._store.duplicate(self.today(source), key, exclusive=exclusive)

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """Give an object another key."""
        async with self.turns.of(key):
            return await self._store.rename_object(self.today(source), key, exclusive=exclusive)

    async def delete_version(self, info: ObjectInfo) -> bool:
        """Delete an object if it is this version."""
        async with self.turns.of(info.key):
            deleted = await self._store.delete_version(self.today(info))
            if deleted and self._keeper is not None:
                self._keeper.deleted(info.key)
        return deleted

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        """Delete objects; return why, by key, what could not be deleted."""
        refused = await self._store.delete_many([self.today(info) for info in objects])
        if self._keeper is not None:
            for info in objects:
                if info.key not in refused:
                    self._keeper.deleted(info.key)
        return refused

    # -- details --------------------------------------------------------------------------------

    async def _to_send(
        self, key: str, asked: Mapping[str, str] | None, *, whole: bool, source: str = ""
    ) -> tuple[Mapping[str, str] | None, Snapshot | None]:
        """Return what an object shall carry, and whom it is from if the keeper has said it."""
        if asked is not None or self._keeper is None:
            return asked, None
        kept = self._keeper.snapshot(key, whole=whole)
        if kept is not None:
            return kept.headers, kept
        carried = await self._carried(source or key)
        return (for_copy if source else for_new_bytes)(carried), None

    async def _carried(self, key: str) -> dict[str, str]:
        """Return what an object carries now; nobody here knows it, so the store is asked."""
        try:
            return relevant((await self._store.describe(key)).headers)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return {}
            raise

    def _stored(self, key: str, info: ObjectInfo, kept: Snapshot | None) -> None:
        if kept is not None and self._keeper is not None:
            self._keeper.stored(key, info, kept)


def _conforms(store: KeepingStore) -> ObjectStore:
    """Have the type checker hold this class against the protocol."""
    return store
