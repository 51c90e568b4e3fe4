"""Finding out what objects say of their files: remembered, read from disk, or asked for by HEAD."""

import asyncio
import logging
import stat
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from fuse_s3_worker.cache.descriptions import FOREVER, SETTLED_AFTER, Believed, Descriptions
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.posix.headers import Described, decode, relevant
from fuse_s3_worker.posix.inode import Defaults
from fuse_s3_worker.store.types import ObjectHead, ObjectInfo, ObjectStore

__all__ = ["Describer", "Found", "Results"]

_log = logging.getLogger(__name__)

_TOLD_MAX = 10_000  # objects of which it was told that their headers make no sense

# What may keep somebody from looking at an object that may be listed.
_UNREADABLE = frozenset({Fault.FORBIDDEN, Fault.BAD_REQUEST})


class Results(Protocol):
    """What was heard of objects, kept longer than we live (cache.attributestore)."""

    async def get(self, versions: Sequence[ObjectInfo]) -> list[Mapping[str, str] | None]:
        """Return the headers of each version, None where they are not known. Never fails."""

    def put(self, info: ObjectInfo, headers: Mapping[str, str]) -> None:
        """Keep the headers of a version. Never fails."""

    async def close(self) -> None:
        """Write what is not written yet."""


class Found(NamedTuple):
    """An object as it is now."""

    info: ObjectInfo
    believed: Believed


class Describer:
    """Describes objects.

    Args:
        store: what to ask.
        defaults: what objects are shown with that keep nothing.
        lifetimes: until when something is believed that may change unnoticed.
        results: where answers are kept.
    """

    def __init__(
        self,
        store: ObjectStore,
        defaults: Defaults,
        lifetimes: Metadata,
        results: Results | None = None,
    ) -> None:
        self._store = store
        self._defaults = defaults
        self._lifetimes = lifetimes
        self._results = results
        self._memory = Descriptions(lifetimes.now)
        self._under_way: dict[str, asyncio.Task[Found | None]] = {}
        self._told: OrderedDict[str, None] = OrderedDict()

    def known(self, info: ObjectInfo) -> Believed | None:
        """Return what is known of a version."""
        return self._memory.get(info)

    def last(self, info: ObjectInfo) -> Believed | None:
        """Return what was heard last of a version, which may be just now and not to be believed."""
        return self._memory.last(info)

    def forget(self, key: str) -> None:
        """Know nothing of an object any more."""
        self._memory.forget(key)

    async def describe(
        self, key: str, info: ObjectInfo | None = None, *, urgent: bool = True
    ) -> Found | None:
        """Return what is there now; None when there is nothing.

        Args:
            key: of the object.
            info: the version that is expected, if that is known.
            urgent: whether somebody waits for it.

        Raises:
            StoreError: the store cannot be asked.
        """
        if info is not None and (believed := self.known(info)) is not None:
            return Found(info, believed)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._describe(key, info, urgent=urgent))
            self._under_way[key] = task
            task.add_done_callback(lambda task: self._answered(key, task))
        return await asyncio.shield(task)  # whoever is interrupted does not end it for others

    def _answered(self, key: str, task: "asyncio.Task[Found | None]") -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # everybody who waited may have given up

    async def _describe(self, key: str, info: ObjectInfo | None, *, urgent: bool) -> Found | None:
        if info is not None and (kept := await self._kept([info]))[0] is not None:
            return Found(info, kept[0])
        try:
            head = await self._store.describe(key, urgent=urgent)
        except StoreError as error:
            if error.fault is Fault.NOT_FOUND:
                return None
            if error.fault not in _UNREADABLE:
                raise
            return self._unreadable(key, info, error)
        return Found(head.info, self.heard(head))

    # -- answers --------------------------------------------------------------------------------

    def heard(self, head: ObjectHead) -> Believed:
        """Remember what HEAD said; return what it means."""
        headers = relevant(head.headers)
        settled = head.age >= SETTLED_AFTER and bool(head.info.etag)
        if settled and self._results is not None:
            self._results.put(head.info, headers)
        until = FOREVER if settled else self._lifetimes.until()
        return self._remember(head.info, headers, until)

    def stored(self, info: ObjectInfo, described: Described) -> Believed:
        """Remember what was stored here just now."""
        believed = Believed(described, self._lifetimes.until())
        self._memory.put(info, *believed)
        return believed

    def learned(self, info: ObjectInfo, described: Described) -> None:
        """Remember more of a version, for no longer than what is known of it already."""
        before = self.known(info)
        until = self._lifetimes.until() if before is None else before.until
        self._memory.put(info, described, until)

    async def load(self, versions: Sequence[ObjectInfo]) -> None:
        """Remember what is kept of these versions."""
        await self._kept(versions)

    async def _kept(self, versions: Sequence[ObjectInfo]) -> list[Believed | None]:
        if self._results is None:
            return [None] * len(versions)
        kept = await self._results.get(versions)
        return [
            None if headers is None else self._remember(info, headers, FOREVER)
            for info, headers in zip(versions, kept, strict=True)
        ]

    def _remember(self, info: ObjectInfo, headers: Mapping[str, str], until: float) -> Believed:
        directory = info.key.endswith("/")
        described = decode(headers, info.mtime, self._defaults, directory=directory)
        if described.nonsense:
            details: dict[str, object] = {"key": info.key, "headers": list(described.nonsense)}
            self._tell(info.key, "metadata_nonsense", details)
        self._memory.put(info, described, until)
        return Believed(described, until)

    def _unreadable(self, key: str, info: ObjectInfo | None, error: StoreError) -> Found:
        """Show what nobody may look at as something that nobody may do anything with."""
        self._tell(key, "metadata_unreadable", {"key": key, "reason": error} | error.details)
        info = info or ObjectInfo(key, 0, 0, "")
        described = decode({}, info.mtime, self._defaults, directory=key.endswith("/"))
        inode = described.inode
        described = described._replace(inode=inode._replace(mode=stat.S_IFMT(inode.mode)))
        believed = Believed(described, self._lifetimes.until())
        self._memory.put(info, *believed)
        return Found(info, believed)

    def _tell(self, key: str, name: str, details: dict[str, object]) -> None:
        """Log something of an object, once."""
        if key in self._told:
            return
        self._told[key] = None
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)
        event(_log, logging.WARNING, name, details)

    # -- what is not an object ------------------------------------------------------------------

    def unkept(self, mounted_at: int, *, directory: bool) -> Believed:
        """Return what is shown of what has no object, as a directory without a marker."""
        described = decode({}, mounted_at, self._defaults, directory=directory)
        return Believed(described, self._lifetimes.until())

    async def close(self) -> None:
        """Keep what was heard."""
        if self._results is not None:
            await self._results.close()
