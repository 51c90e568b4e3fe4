"""A session: from a descriptor with a mount behind it to the last byte stored after unmount."""

import asyncio
import contextlib
import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.cache.attributestore import AttributeStore
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fs.attributes import Ownership
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.movejournal import Journals
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.fs.treerename import Moving
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.channel import AbortedError, Channel, UnmountedError
from fuse_s3_worker.log import event
from fuse_s3_worker.portable.adapter import PortableAdapter
from fuse_s3_worker.posix.inode import Defaults
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.stagedir import StageDirectory
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writer import Writers

__all__ = [
    "End",
    "LibfuseSession",
    "Owner",
    "Serving",
    "Session",
    "build_file_system",
    "ownership_of",
]

_log = logging.getLogger(__name__)

_REQUESTS_A_TURN = 32  # of the kernel, before the connections get theirs
_EXPIRE_EVERY = 30.0  # seconds
_SECOND = 1_000_000_000  # nanoseconds
_HAND_OVER_PATIENCE = 60.0  # seconds for programs that write to close their files
_LOOK_EVERY = 0.02  # seconds between looks whether they have
_FINISH_PATIENCE = 30.0  # seconds, more than any request to the store that is not waited out


class Owner(NamedTuple):
    """Who owns all files."""

    uid: int
    gid: int


def ownership_of(settings: Settings, owner: Owner, mounted_at: int | None = None) -> Ownership:
    """Return the attributes that options give to files, and defaults to what they leave open.

    `mounted_at` is in nanoseconds since the epoch; without it, this is when it is mounted.
    """
    mounted_at = int(time.time()) * _SECOND if mounted_at is None else mounted_at
    file_mode, dir_mode = settings.file_mode, settings.dir_mode
    return Ownership(
        uid=owner.uid,
        gid=owner.gid,
        file_mode=0o666 & ~settings.umask if file_mode is None else file_mode,
        dir_mode=0o777 & ~settings.umask if dir_mode is None else dir_mode,
        mounted_at=mounted_at // _SECOND * _SECOND,
    )


def build_file_system(
    store: ObjectStore,
    settings: Settings,
    owner: Owner,
    prefix: str,
    directory: StageDirectory | None = None,
    mounted_at: int | None = None,
) -> FileSystem:
    """Put the parts of a mount together.

    `directory` is where files that are changed are staged, and where answers are kept.
    """
    pool = Pool(settings.memory_target)
    ownership = ownership_of(settings, owner, mounted_at)
    shown: Ownership | Posix = ownership
    if settings.posix:
        *defaults, since = ownership
        shown = Posix(store, Defaults(*defaults), since, _results(directory))
        store = shown.store
    uploads = Uploads(store, pool, settings.part_size)
    journals = Journals(directory.path) if directory is not None else None
    staging = Staging(store, pool, uploads.limits, uploads.size_limit, directory)
    return FileSystem(
        store,
        Metadata(settings.metadata_ttl),
        shown,
        Readers(store, pool, settings.max_connections),
        Writers(uploads, staging, settings.write_back),
        prefix,
        Moving(settings.rename_dir_limit, settings.max_connections, journals),
    )


def _results(directory: StageDirectory | None) -> AttributeStore | None:
    """Return what keeps answers for the next mount; it is found by what tells buckets apart."""
    if directory is None:
        return None
    return AttributeStore(directory.path, directory.path.name)


class End(Enum):
    """How a session ended."""

    UNMOUNTED = "unmounted"
    ABORTED = "aborted"
    FAILED = "failed"
    HANDED_OVER = "handed_over"


class Serving(ABC):
    """Serves a mount on the running loop until it ends, with one engine or the other."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    @abstractmethod
    def adapter(self) -> Adapter | PortableAdapter:
        """What serves the requests."""

    @property
    @abstractmethod
    def device(self) -> int:
        """The descriptor of the connection."""

    @property
    def channel(self) -> Channel | None:
        """Where the kernel can be told something without being asked, if it can."""
        return None

    def start(self) -> None:
        """Begin to read requests; a connection must stand behind the device by now."""
        loop = asyncio.get_running_loop()
        self._begin()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGUSR1, self.begin_to_hand_over)
        loop.call_later(_EXPIRE_EVERY, self._expire)
        self._fs.start()

    async def run(self, closing: Callable[[], object] = lambda: None) -> End:
        """Serve until the session ends, and finish what it leaves to do; return how it ended.

        Where the mount is gone, everything that was closed is stored; `closing` is called before.
        """
        how = await self._over
        event(_log, logging.INFO, how.value, {"requests": self.adapter.requests})
        if how is End.HANDED_OVER:
            await self._leave()
            return how
        closing()
        await self._drain()
        await self._fs.close()
        self._close()
        return how

    def _signalled(self, number: int) -> None:
        # At shutdown systemd signals everything at once; programs that still use the mount would
        # get ENOTCONN. The worker ends when the mount does.
        name = signal.Signals(number).name
        event(_log, logging.INFO, "signal", {"name": name, "advice": "umount ends the worker"})

    def _expire(self) -> None:
        self._fs.expire()
        if not self._over.done():
            asyncio.get_running_loop().call_later(_EXPIRE_EVERY, self._expire)

    @abstractmethod
    def _begin(self) -> None:
        """Begin to read requests."""

    @abstractmethod
    def begin_to_hand_over(self) -> None:
        """End for the next worker's sake."""

    @abstractmethod
    async def _leave(self) -> None:
        """Finish what is under way and cannot be asked for again; what was open stays so."""

    @abstractmethod
    async def _drain(self) -> None:
        """Wait for the requests that were read."""

    @abstractmethod
    def _close(self) -> None:
        """Give up the device."""


class Session(Serving):
    """Our own engine: serves a channel until it is unmounted, or handed over."""

    def __init__(self, channel: Channel, fs: FileSystem) -> None:
        super().__init__(fs)
        self._adapter = Adapter(channel, fs)
        self._channel = channel
        self._handing_over: asyncio.Task[None] | None = None

    @property
    def adapter(self) -> Adapter:
        """What serves the requests."""
        return self._adapter

    @property
    def device(self) -> int:
        """The descriptor of the connection."""
        return self._channel.fd

    @property
    def channel(self) -> Channel:
        """Where the kernel is told what it has not asked for."""
        return self._channel

    def _begin(self) -> None:
        asyncio.get_running_loop().add_reader(self._channel.fd, self._readable)

    def resume(self) -> None:
        """Begin to read requests, where a predecessor has answered INIT, and has left others."""
        self.adapter.initialized.set()
        self.start()
        self._channel.notify(replies.notify_resend())

    def _readable(self) -> None:
        """Read a request, serve it, and again; stop to let others have a turn."""
        try:
            for _ in range(_REQUESTS_A_TURN):
                request = self._channel.receive_nowait()
                if request is None:
                    return
                self.adapter.dispatch(request)
        except UnmountedError:
            self._end(End.UNMOUNTED)
        except AbortedError:
            self._end(End.ABORTED)
        except OSError as error:
            event(_log, logging.ERROR, "device_failed", {"reason": error})
            self._end(End.FAILED)

    def _end(self, how: End) -> None:
        asyncio.get_running_loop().remove_reader(self._channel.fd)
        if not self._over.done():
            self._over.set_result(how)

    async def _leave(self) -> None:
        """Finish what is under way and cannot be asked for again; what was open stays so."""
        self.adapter.leave_to_next()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_PATIENCE):
                await self.adapter.drain()
                await self._fs.settle()

    # -- handing over ---------------------------------------------------------------------------

    def begin_to_hand_over(self) -> None:
        """End for the next worker's sake, as soon as nothing is written that it could not go on."""
        if self._handing_over is None:
            self._handing_over = asyncio.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        self.adapter.hold_writers()
        self._fs.hurry()
        loop = asyncio.get_running_loop()
        until = loop.time() + _HAND_OVER_PATIENCE
        # Not worth an event that every change of every file would have to set.
        while (unstored := self._fs.unstored()) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)
        if not unstored:
            self._end(End.HANDED_OVER)
            return
        self._handing_over = None
        self.adapter.let_writers_in()
        details = {"files": len(unstored), "key": unstored[0]}
        event(_log, logging.WARNING, "handover_given_up", details)

    async def _drain(self) -> None:
        await self.adapter.drain()

    def _close(self) -> None:
        self._channel.close()


class LibfuseSession(Serving):
    """The portable engine: requests are read by libfuse in its own threads.

    It cannot be handed over: which number stands for which path is libfuse's secret.
    """

    def __init__(self, device: int, fs: FileSystem) -> None:
        from fuse_s3_worker.portable.binding import LibfuseServer  # noqa: PLC0415  needs libfuse

        super().__init__(fs)
        self._device = device
        self._adapter = PortableAdapter(fs)
        self._server = LibfuseServer(device, self._adapter)

    @property
    def adapter(self) -> PortableAdapter:
        """What serves the requests."""
        return self._adapter

    @property
    def device(self) -> int:
        """The descriptor of the connection."""
        return self._device

    def _begin(self) -> None:
        self._server.start(self._ended)

    def _ended(self, well: bool) -> None:  # noqa: FBT001  a callback
        if not well:
            event(_log, logging.ERROR, "device_failed", {"reason": "libfuse gave up"})
        self._adapter.initialized.set()  # or never: who waits for it finds nobody who serves
        self._over.set_result(End.UNMOUNTED if well else End.FAILED)

    def begin_to_hand_over(self) -> None:
        """Go on serving."""
        event(_log, logging.WARNING, "handover_given_up", {"reason": "engine=libfuse"})

    async def _leave(self) -> None:
        """Nothing: there is no next one."""

    async def _drain(self) -> None:
        self._adapter.close()  # libfuse has waited for its threads

    def _close(self) -> None:
        """Nothing: libfuse has closed it."""
