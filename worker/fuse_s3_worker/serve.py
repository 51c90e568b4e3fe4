"""A session: from a descriptor with a mount behind it to the last byte stored after unmount."""

import asyncio
import logging
import signal
import time
from typing import NamedTuple

from fuse_s3_worker.adapter import Adapter
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fs.attributes import Ownership
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.movejournal import Journals
from fuse_s3_worker.fs.posix import Posix
from fuse_s3_worker.fs.treerename import Moving
from fuse_s3_worker.fuse.channel import AbortedError, Channel, UnmountedError
from fuse_s3_worker.log import event
from fuse_s3_worker.posix.inode import Defaults
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.readstream import Readers
from fuse_s3_worker.transfer.stagedir import StageDirectory
from fuse_s3_worker.transfer.staging import Staging
from fuse_s3_worker.transfer.uploads import Uploads
from fuse_s3_worker.transfer.writer import Writers

__all__ = ["Owner", "Session", "build_file_system", "ownership_of"]

_log = logging.getLogger(__name__)

_REQUESTS_A_TURN = 32  # of the kernel, before the connections get theirs
_EXPIRE_EVERY = 30.0  # seconds


class Owner(NamedTuple):
    """Who owns all files."""

    uid: int
    gid: int


def ownership_of(settings: Settings, owner: Owner) -> Ownership:
    """Return the attributes that options give to files, and defaults to what they leave open."""
    file_mode, dir_mode = settings.file_mode, settings.dir_mode
    return Ownership(
        uid=owner.uid,
        gid=owner.gid,
        file_mode=0o666 & ~settings.umask if file_mode is None else file_mode,
        dir_mode=0o777 & ~settings.umask if dir_mode is None else dir_mode,
        mounted_at=int(time.time()) * 1_000_000_000,
    )


def build_file_system(
    store: ObjectStore,
    settings: Settings,
    owner: Owner,
    prefix: str,
    directory: StageDirectory | None = None,
) -> FileSystem:
    """Put the parts of a mount together; `directory` is where files that are changed are staged."""
    pool = Pool(settings.memory_target)
    ownership = ownership_of(settings, owner)
    shown: Ownership | Posix = ownership
    if settings.posix:
        *defaults, mounted_at = ownership
        shown = Posix(store, Defaults(*defaults), mounted_at)
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


class Session:
    """Serves a channel on the running loop until it is unmounted."""

    def __init__(self, channel: Channel, fs: FileSystem) -> None:
        self.adapter = Adapter(channel, fs)
        self._channel = channel
        self._fs = fs
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Begin to read requests; a connection must stand behind the channel by now."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fd, self._readable)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        loop.call_later(_EXPIRE_EVERY, self._expire)
        self._fs.start()

    def _readable(self) -> None:
        """Read a request, serve it, and again; stop to let others have a turn."""
        try:
            for _ in range(_REQUESTS_A_TURN):
                request = self._channel.receive_nowait()
                if request is None:
                    return
                self.adapter.dispatch(request)
        except UnmountedError:
            self._end("unmounted")
        except AbortedError:
            self._end("aborted")
        except OSError as error:
            event(_log, logging.ERROR, "device_failed", {"reason": error})
            self._end("failed")

    def _end(self, how: str) -> None:
        asyncio.get_running_loop().remove_reader(self._channel.fd)
        if not self._over.done():
            self._over.set_result(how)

    async def run(self) -> None:
        """Wait for the end of the mount, then for everything that was closed to be stored."""
        how = await self._over
        event(_log, logging.INFO, how, {"requests": self.adapter.requests})
        await self.adapter.drain()
        await self._fs.close()
        self._channel.close()

    def _signalled(self, number: int) -> None:
        # At shutdown systemd signals everything at once; programs that still use the mount would
        # get ENOTCONN. The worker ends when the mount does.
        name = signal.Signals(number).name
        event(_log, logging.INFO, "signal", {"name": name, "advice": "umount ends the worker"})

    def _expire(self) -> None:
        self._fs.expire()
        if not self._over.done():
            asyncio.get_running_loop().call_later(_EXPIRE_EVERY, self._expire)
