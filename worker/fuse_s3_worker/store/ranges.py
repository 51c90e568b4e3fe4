"""Taking the reply to a ranged GET: only the bytes that were asked for, of the right version."""

import re

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.store.types import RangeSink

__all__ = ["RangeReceiver"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/(?:[0-9]+|\*)")
_OK, _PARTIAL = 200, 206


class RangeReceiver:
    """The sink of one attempt, between the connection and a stream's memory.

    A server may answer a range with the whole object (200), with other bytes, or with another
    version. All of it is found in the head, before a byte reaches the stream.
    """

    def __init__(self, sink: RangeSink, start: int, end: int, etag: str) -> None:
        self._sink = sink
        self._start = start
        self._end = end
        self._etag = etag
        self.buffer = sink.buffer  # hot: no call in between
        self.advance = sink.advance

    def begin(self, head: ReplyHead) -> bool:
        """Take a body that is bytes [start, end) of the version; leave error documents.

        Raises:
            StoreError: BAD_REPLY for other bytes, CHANGED for another version.
        """
        if head.status not in {_OK, _PARTIAL}:
            return False
        if head.status == _PARTIAL or self._start:
            self._check_range(head)
        length = self._end - self._start
        if head.content_length != length:
            raise self._bad(f"{head.content_length} bytes instead of {length}")
        etag = head.headers.get("etag", "")
        if self._etag and etag and etag.strip('W/"') != self._etag.strip('W/"'):
            raise StoreError(Fault.CHANGED, f"another version came: {etag}, not {self._etag}")
        return True

    def _check_range(self, head: ReplyHead) -> None:
        value = head.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(value)
        if not match or (int(match[1]), int(match[2]) + 1) != (self._start, self._end):
            raise self._bad(f"content-range {value or 'missing'} (status {head.status})")

    def _bad(self, what: str) -> StoreError:
        asked = f"bytes {self._start} to {self._end - 1}"
        return StoreError(Fault.BAD_REPLY, f"the server does not send {asked}: {what}")
