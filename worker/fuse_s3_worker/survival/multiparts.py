"""A store that remembers, for a successor, which multipart uploads were begun and not ended.

Only their own worker has the parts; if it dies they would stay in the bucket, invisible and paid
for. So its successor aborts them.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.log import event
from fuse_s3_worker.store.types import MultipartUpload, ObjectInfo, ObjectStore, PartResult

if TYPE_CHECKING:
    from fuse_s3_worker.survival.recorder import StateRecorder

__all__ = ["abort_all", "remembering"]

_log = logging.getLogger(__name__)


class _Remembering:
    """Passes everything on."""

    def __init__(self, store: ObjectStore, recorder: "StateRecorder") -> None:
        self._store = store
        self._recorder = recorder

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

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
        try:
            await store.abort_multipart(upload)
        except ServeError as error:
            details: dict[str, object] = {"key": upload.key, "reason": error}
            event(_log, logging.WARNING, "abort_failed", details | error.details)
        recorder.multipart_ended(upload)
