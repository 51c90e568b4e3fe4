"""What the rest of the worker sees of an object store."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.http.connection import Buffer, Sink

__all__ = [
    "Body",
    "Description",
    "ListPage",
    "MultipartUpload",
    "ObjectHead",
    "ObjectInfo",
    "ObjectStore",
    "PartResult",
    "RangeSink",
    "same_version",
]


class ObjectInfo(NamedTuple):
    """One object, as LIST, HEAD or PUT describe it.

    Attributes:
        key: the whole key, prefix included.
        size: bytes.
        mtime: Last-Modified, in nanoseconds since the epoch.
        etag: the entity tag with its quotes: what If-Match takes; "" where the store gave none.
        storage_class: "" for the store's default.
        archived: whether it has to be restored before it can be read.
    """

    key: str
    size: int
    mtime: int
    etag: str
    storage_class: str = ""
    archived: bool = False


class ObjectHead(NamedTuple):
    """One object with everything that HEAD says of it.

    Attributes:
        headers: of the reply, with lower-case names; the storage class is always told.
        age: seconds since Last-Modified by the store's own clock; 0.0 when it does not tell.
    """

    info: ObjectInfo
    headers: Mapping[str, str]
    age: float


def same_version(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Tell whether two entity tags may be one version's: they are equal, or one is missing."""
    tags = [info.etag.removeprefix("W/").strip('"') for info in (one, other)]
    return not all(tags) or tags[0] == tags[1]


class Description(NamedTuple):
    """An object, and the headers that make a new one like it: metadata, tags, storage class."""

    info: ObjectInfo
    headers: Mapping[str, str]


class ListPage(NamedTuple):
    """One page of ListObjectsV2, in the store's order; `token` is None on the last one."""

    objects: list[ObjectInfo]
    prefixes: list[str]
    token: str | None


class Body(NamedTuple):
    """The bytes of a PUT or of a part, in pieces that are not copied together."""

    pieces: Sequence[Buffer]
    size: int


class PartResult(NamedTuple):
    """One uploaded part: what CompleteMultipartUpload needs to know."""

    number: int
    size: int
    etag: str
    checksum: str  # base64, "" when none was sent


class MultipartUpload(NamedTuple):
    """A multipart upload under way."""

    key: str
    upload_id: str


class RangeSink(Sink, Protocol):
    """Memory for a range; after an interruption the rest is asked for again."""

    @property
    def filled(self) -> int:
        """Bytes that have arrived, from the start of the range on."""


class ObjectStore(Protocol):
    """A bucket. Every method raises `errors.StoreError`, after retrying what can be retried."""

    async def head(self, key: str) -> ObjectInfo:
        """Describe one object (NOT_FOUND when there is none)."""

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        """Do the same in full; what is not `urgent` gives way to what is."""

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = 1000,
        on_token: Callable[[str], None] | None = None,
    ) -> ListPage:
        """Return one page of the keys that begin with `prefix`.

        `on_token` is told the token of the page behind it before the page is read: reading one
        takes as long as the store takes for the next. It is told again when this one is asked for
        again.
        """

    async def peek(self, key: str, limit: int) -> tuple[ObjectHead, memoryview]:
        """Describe one object and return its first bytes, at most `limit`, in one request.

        Of an object without a byte there are none to ask for: CHANGED.
        """

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        """Fetch bytes [start, end) of the version `etag` into `sink` (CHANGED when it is gone)."""

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str = "",
        replaces: ObjectInfo | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store an object in one request.

        With `replaces`, it is stored only in the place of that version (CHANGED when another one
        is there, or none). `headers` go along: metadata, and what shall be other than the mount's
        options say.
        """

    async def delete(self, key: str) -> None:
        """Delete an object; that there is none is no error."""

    async def create_multipart(
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """Begin a multipart upload; `headers` as for `put`."""

    async def upload_part(self, upload: MultipartUpload, number: int, body: Body) -> PartResult:
        """Upload one part; part numbers begin at 1."""

    async def copy_part(
        self, upload: MultipartUpload, number: int, source: ObjectInfo, start: int, end: int
    ) -> PartResult:
        """Make bytes [start, end) of an existing object a part, without moving them through us.

        Not every store heeds that it shall be the version `source`: see that it still is.
        """

    async def copy(
        self,
        source: ObjectInfo,
        key: str,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Make the whole of an existing object another one (CHANGED when it is not `source`).

        Of the source it has nothing but the bytes; `headers` as for `put`.
        """

    async def set_headers(
        self,
        source: ObjectInfo,
        headers: Mapping[str, str],
        *,
        through: "ObjectStore | None" = None,
    ) -> ObjectInfo:
        """Give a version these headers instead of those it has; its bytes stay (CHANGED).

        Storage class and encryption are those of `headers`, and where they say nothing, those of
        new objects. NOT_IMPLEMENTED: the store cannot, and it is too large to be sent again.
        If that takes a multipart upload, it is made `through` this store, which wraps ours.
        """

    def how_to_restore(self, key: str) -> str:
        """Return the command that brings an object back from an archive."""

    def copies_from(self, key: str) -> bool:
        """Tell whether `copy` and `copy_part` can be tried with a source of this name."""

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        """Make the parts one object; `replaces` as for `put`."""

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        """Give up an upload; that it is gone already is no error."""

    # -- moving ---------------------------------------------------------------------------------

    @property
    def copy_max(self) -> int:
        """Bytes of the largest object that `duplicate` is right for."""

    @property
    def renames(self) -> bool:
        """Tell whether `rename_object` is there."""

    @property
    def heeds_conditions(self) -> bool:
        """Tell whether the store is known to heed every condition, so that nobody need look."""

    async def headers_to_copy(self, key: str) -> Description:
        """Describe one object, with what `put` and `create_multipart` need for one like it."""

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """Copy an object with all that belongs to it.

        CHANGED when it is not the version `source`, which not every store heeds, or, with
        `exclusive`, when there is something at `key`, which not every store heeds either.
        NOT_IMPLEMENTED when the store does not copy.
        """

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        """Give an object another key in one step, on the same conditions."""

    async def delete_version(self, info: ObjectInfo) -> bool:
        """Delete an object if it is this version; False when it is another, and stays.

        A store that does not heed this deletes whatever is there.
        """

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        """Delete objects; return why, by key, what could not be deleted.

        Where a store heeds it, CHANGED says that one is another version, and stays.
        """
