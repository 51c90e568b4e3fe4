"""Taking the reply to a ranged GET: only the bytes that were asked for, of the right version.

And of an object that nobody has looked at yet: its first bytes, of whatever version they are.
"""

import re

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import ReplyHead
from fuse_s3_worker.store.types import RangeSink

__all__ = ["BeginningReceiver", "RangeReceiver", "ViewSink"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")
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


class BeginningReceiver:
    """The sink of a GET of an object's first `limit` bytes.

    Attributes:
        data: these bytes.
        size: how many bytes the object has in all.
    """

    def __init__(self, limit: int) -> None:
        self.data = memoryview(b"")
        self.size = 0
        self._limit = limit
        self._filled = 0

    def begin(self, head: ReplyHead) -> bool:
        """Take a body that is the beginning, or all, of an object; leave error documents.

        Raises:
            StoreError: BAD_REPLY for anything else.
        """
        if head.status not in {_OK, _PARTIAL}:
            return False
        length = head.content_length
        self.size = _whole_size(head) if head.status == _PARTIAL else length or 0
        if length != min(self.size, self._limit) or "etag" not in head.headers:
            text = f"{length} bytes of {self.size} (status {head.status})"
            raise StoreError(Fault.BAD_REPLY, f"the server does not send an object's first: {text}")
        self.data = memoryview(bytearray(length))
        return True

    def buffer(self) -> memoryview:
        """Return where the next bytes go."""
        return self.data[self._filled :]

    def advance(self, count: int) -> None:
        """Count bytes that arrived."""
        self._filled += count


def _whole_size(head: ReplyHead) -> int:
    """Return the size of an object of which the first bytes come; 0 when they are no such."""
    match = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
    if not match or match[1] != "0" or int(match[2]) + 1 != head.content_length:
        return 0
    return int(match[3]) if match[3].isdecimal() else 0


class ViewSink:
    """Memory for a range, in one piece or several (store.types.RangeSink)."""

    def __init__(self, *views: memoryview) -> None:
        self._views = [view for view in views if view]
        self.filled = 0

    def begin(self, head: ReplyHead) -> bool:
        """Take it."""
        del head
        return True

    def buffer(self) -> memoryview:
        """Return where the next bytes go."""
        return self._views[0]

    def advance(self, count: int) -> None:
        """Count bytes that arrived."""
        self.filled += count
        if count == len(self._views[0]):
            self._views.pop(0)
        else:
            self._views[0] = self._views[0][count:]
