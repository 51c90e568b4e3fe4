"""The bucket in memory, with a hand on every request: held, let go, failed at will."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.store.types import (
    Body,
    Description,
    ListPage,
    MultipartUpload,
    ObjectHead,
    ObjectInfo,
    ObjectStore,
    PartResult,
    RangeSink,
)
from fuse_s3_worker.transfer.partsize import PART_MIN
from support.memstore import MemoryStore

__all__ = ["Arrival", "GatedStore", "unreachable"]


def unreachable() -> StoreError:
    """Return the error of a store that is away."""
    return StoreError(Fault.UNREACHABLE, "the network is down")


_T = TypeVar("_T")
_ANY = "any"  # in place of an operation


class Arrival:
    """A GET whose bytes arrive when the test says so.

    Attributes:
        start: the first byte that was asked for.
        end: the byte behind the last one.
    """

    def __init__(self, data: bytes, start: int, end: int, sink: RangeSink) -> None:
        self.start = start
        self.end = end
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = data
        self._sink = sink
        head = ReplyHead(206, {"content-length": str(end - start)}, keep_alive=True)
        assert sink.begin(head)

    def __repr__(self) -> str:
        return f"Arrival({self.start}..{self.end})"

    @property
    def missing(self) -> int:
        """Bytes that have not arrived."""
        return self.end - self.start - self._sink.filled

    def feed(self, count: int | None = None) -> None:
        """Have `count` bytes arrive, or all; the last one ends the transfer."""
        left = self.missing if count is None else min(count, self.missing)
        while left:
            memory = self._sink.buffer()
            assert len(memory) > 0
            taken = min(left, len(memory))
            at = self.start + self._sink.filled
            memory[:taken] = self._data[at : at + taken]
            self._sink.advance(taken)
            left -= taken
        if not self.missing:
            self.done.set_result(None)

    def fail(self, error: StoreError) -> None:
        """Have the transfer end here."""
        self.done.set_exception(error)


class GatedStore(MemoryStore):
    """One bucket.

    Operations go by the names of the protocol's methods.

    Attributes:
        arrivals: GETs under way whose bytes the test brings; see `by_hand`.
        by_hand: whether GETs wait for the test.
        delay: seconds that every request takes.
        page_max: most names in a page of a listing.
        most_under_way: how many requests of a kind there were at once.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        part_min: int = PART_MIN,
    ) -> None:
        super().__init__(objects, clock=clock, part_min=part_min)
        self.arrivals: list[Arrival] = []
        self.by_hand = False
        self.page_max = 1000
        self.delay = 0.0
        self._passing: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self._gates: dict[str, tuple[asyncio.Event, int]] = {}
        self._calls: Counter[str] = Counter()
        self._failures: dict[tuple[str, int], tuple[StoreError, bool]] = {}
        self._last = math.inf

    # -- the hand ---------------------------------------------------------------------------------

    def hold(self, operation: str, *, nth: int = 1) -> None:
        """Let no request of this kind through, from the `nth` from now on."""
        self._gates[operation] = asyncio.Event(), self._calls[operation] + nth

    def let_go(self, operation: str) -> None:
        """Let them through, those that wait too."""
        self._gates.pop(operation)[0].set()

    def fail(
        self,
        operation: str,
        error: StoreError | None = None,
        *,
        nth: int = 1,
        afterwards: bool = False,
    ) -> None:
        """Have the `nth` request of this kind from now on fail.

        Args:
            operation: which.
            error: how; by default the store is unreachable.
            nth: 1 is the next one.
            afterwards: whether it does its work, and only the reply is lost.
        """
        self._failures[operation, self._calls[operation] + nth] = (
            error or unreachable(),
            afterwards,
        )

    def fail_all(self, operation: str, error: StoreError | None = None) -> None:
        """Have all requests of this kind fail from now on."""
        for nth in range(1, 100):
            self.fail(operation, error, nth=nth)

    def fail_request(
        self, nth: int, error: StoreError | None = None, *, afterwards: bool = False
    ) -> None:
        """Have the `nth` request from now on fail, of whatever kind it is."""
        self.fail(_ANY, error, nth=nth, afterwards=afterwards)

    def stop_after(self, count: int) -> None:
        """Answer so many requests more, and then none ever again, as if the worker had died."""
        self._last = self._calls[_ANY] + count

    def asked(self, operation: str) -> int:
        """Return how many requests of this kind have been sent, whatever became of them."""
        return self._calls[operation]

    def mend(self) -> None:
        """Have nothing fail any more."""
        self._failures.clear()
        self._last = math.inf

    async def _enter(self, operation: str) -> StoreError | None:
        """Wait at the gate, then fail if this is to; return the error that is to come later."""
        self._calls[operation] += 1
        self._calls[_ANY] += 1
        number = self._calls[operation]
        if self._calls[_ANY] > self._last:
            await asyncio.Event().wait()
        nothing = None, False
        error, afterwards = self._failures.pop((operation, number), nothing)
        if error is None:
            error, afterwards = self._failures.pop((_ANY, self._calls[_ANY]), nothing)
        self._passing[operation] += 1
        self.most_under_way |= self._passing
        try:
            gate, first = self._gates.get(operation, (None, 0))
            if gate is not None and number >= first:
                await gate.wait()
            await asyncio.sleep(self.delay)
        finally:
            self._passing[operation] -= 1
        if error is not None and not afterwards:
            raise error
        return error

    # -- ObjectStore ------------------------------------------------------------------------------

    async def describe(self, key: str, *, urgent: bool = True) -> ObjectHead:
        await self._enter("head")
        return await super().describe(key, urgent=urgent)

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = 1000,
        on_token: Callable[[str], None] | None = None,
    ) -> ListPage:
        late = await self._enter("list_page")
        most = min(max_keys, self.page_max)
        page = await super().list_page(
            prefix, delimiter=delimiter, token=token, max_keys=most, on_token=on_token
        )
        return _unless(late, page)

    async def peek(self, key: str, limit: int) -> tuple[ObjectHead, memoryview]:
        late = await self._enter("peek")
        return _unless(late, await super().peek(key, limit))

    async def get_range(self, key: str, etag: str, start: int, end: int, sink: RangeSink) -> None:
        await self._enter("get_range")
        if not self.by_hand:
            await super().get_range(key, etag, start, end, sink)
            return
        await self._request("GetObject", key)
        found = self._readable(key, etag, "GetObject")
        arrival = Arrival(found.data, start + sink.filled, min(end, found.info.size), sink)
        self.arrivals.append(arrival)
        try:
            await arrival.done
        finally:
            self.arrivals.remove(arrival)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str = "",
        replaces: ObjectInfo | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        before = b"".join(body.pieces)
        late = await self._enter("put")
        assert before == b"".join(body.pieces)
        info = await super().put(
            key, body, content_type=content_type, replaces=replaces, headers=headers
        )
        return _unless(late, info)

    async def delete(self, key: str) -> None:
        await self._enter("delete")
        await super().delete(key)

    async def create_multipart(
        self, key: str, *, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        await self._enter("create_multipart")
        return await super().create_multipart(key, content_type=content_type, headers=headers)

    async def upload_part(self, upload: MultipartUpload, number: int, body: Body) -> PartResult:
        # What is sent is read when the request begins; it must be the same when it ends.
        before = b"".join(body.pieces)
        await self._enter("upload_part")
        assert before == b"".join(body.pieces)
        return await super().upload_part(upload, number, body)

    async def copy_part(
        self, upload: MultipartUpload, number: int, source: ObjectInfo, start: int, end: int
    ) -> PartResult:
        await self._enter("copy_part")
        return await super().copy_part(upload, number, source, start, end)

    async def copy(
        self,
        source: ObjectInfo,
        key: str,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        late = await self._enter("copy")
        info = await super().copy(source, key, content_type=content_type, headers=headers)
        return _unless(late, info)

    async def complete_multipart(
        self,
        upload: MultipartUpload,
        parts: Sequence[PartResult],
        *,
        replaces: ObjectInfo | None = None,
    ) -> ObjectInfo:
        late = await self._enter("complete_multipart")
        return _unless(late, await super().complete_multipart(upload, parts, replaces=replaces))

    async def abort_multipart(self, upload: MultipartUpload) -> None:
        await self._enter("abort_multipart")
        await super().abort_multipart(upload)

    async def headers_to_copy(self, key: str) -> Description:
        await self._enter("headers_to_copy")
        return await super().headers_to_copy(key)

    async def duplicate(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        late = await self._enter("duplicate")
        return _unless(late, await super().duplicate(source, key, exclusive=exclusive))

    async def rename_object(
        self, source: ObjectInfo, key: str, *, exclusive: bool = False
    ) -> ObjectInfo:
        late = await self._enter("rename_object")
        return _unless(late, await super().rename_object(source, key, exclusive=exclusive))

    async def delete_version(self, info: ObjectInfo) -> bool:
        late = await self._enter("delete_version")
        return _unless(late, await super().delete_version(info))

    async def delete_many(self, objects: Sequence[ObjectInfo]) -> Mapping[str, StoreError]:
        late = await self._enter("delete_many")
        return _unless(late, await super().delete_many(objects))


def _unless(error: StoreError | None, found: _T) -> _T:
    if error is not None:
        raise error
    return found


def _conforms(store: GatedStore) -> ObjectStore:
    """Have the type checker hold this class against the protocol."""
    return store
