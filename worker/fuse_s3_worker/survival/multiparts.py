"""A store that remembers, for a successor, which multipart uploads were begun and not ended.

Only their own worker has the parts; if it dies they would stay in the bucket, invisible and paid
for. So its successor aborts them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from fuse_s3_worker.store.multipart import give_up
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo, ObjectStore, PartResult

if TYPE_CHECKING:
    from fuse_s3_worker.survival.recorder import StateRecorder

__all__ = ["abort_all", "remembering"]


class _Remembering:
    """Passes everything on."""

    def __init__(self, store: ObjectStore, recorder: "StateRecorder") -> None:
        self._store = store
        self._recorder = recorder

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def set_headers(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        *,
        through: ObjectStore | None = None,
    ) -> ObjectInfo:
        outermost = through or cast(ObjectStore, self)
        return await self._store.set_headers(source, headers, through=outermost)

    async def create_multipart(
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        upload = await self._store.create_multipart(key, content_type=content_type, headers=headers)
        self._recorder.multipart(upload)
        return upload

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        info = await self._store.complete_multipart(upload, parts, replaces=replaces)
        self._recorder.multipart_ended(upload)
        return info

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        await self._store.abort_multipart(upload)
        self._recorder.multipart_ended(upload)


def remembering(store: ObjectStore, recorder: "StateRecorder") -> ObjectStore:
    """Return `store`, with a memory."""
    return cast(ObjectStore, _Remembering(store, recorder))


async def abort_all(
    store: ObjectStore, uploads: Iterable[MultipartUpload], recorder: "StateRecorder"
) -> None:
    """Abort what a predecessor had begun; what cannot be is logged."""
    for upload in uploads:
        await give_up(store, upload)
        recorder.multipart_ended(upload)
