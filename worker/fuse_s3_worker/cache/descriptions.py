"""What headers say of objects, remembered by version.

What an object says of its file does not change without its Last-Modified, which has whole seconds:
two changes within one second look the same. So what was heard of an object that was not two seconds
old then is believed for a lifetime, like everything else, and what was heard later for good.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from fuse_s3_worker.posix.headers import Described
from fuse_s3_worker.store.types import ObjectInfo

__all__ = ["FOREVER", "SETTLED_AFTER", "Believed", "Descriptions"]

FOREVER = float("inf")
SETTLED_AFTER = 2.0  # seconds: one for the fraction, one for a server of several clocks
_OBJECTS_MAX = 50_000  # about 50 MB; those not used for longest are forgotten first


class Believed(NamedTuple):
    """What is known of one version, and until when."""

    described: Described
    until: float


class Descriptions:
    """The memory."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, limit: int = _OBJECTS_MAX
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._held: OrderedDict[str, tuple[str, int, Believed]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, info: ObjectInfo) -> Believed | None:
        """Return what is known of the version `info`, as long as that is believed."""
        believed = self.last(info)
        if believed is None or believed.until <= self._clock():
            return None
        self._held.move_to_end(info.key)
        return believed

    def last(self, info: ObjectInfo) -> Believed | None:
        """Return what was heard last of the version `info`, believed or not."""
        etag, mtime, believed = self._held.get(info.key, ("", 0, None))
        return believed if (etag, mtime) == (info.etag, info.mtime) else None

    def put(self, info: ObjectInfo, described: Described, until: float) -> None:
        """Remember what is known of the version `info`, in place of any other."""
        self._held[info.key] = info.etag, info.mtime, Believed(described, until)
        self._held.move_to_end(info.key)
        if len(self._held) > self._limit:
            self._held.popitem(last=False)

    def forget(self, key: str) -> None:
        """Know nothing of an object any more."""
        self._held.pop(key, None)
