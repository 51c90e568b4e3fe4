"""A mount whose worker dies as often as a test wants: file systems one after the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fuse_s3_shared import handoff
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.fs.core import Found
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.serve import Owner, build_file_system
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.survival.multiparts import remembering
from fuse_s3_worker.survival.recorder import StateRecorder
from fuse_s3_worker.survival.records import Log, newest
from fuse_s3_worker.survival.state import Kind, Mounting, State, read_state
from support.answers import Answers
from support.memstore import MemoryStore

__all__ = ["ORDER", "Succession", "succession"]

ORDER = handoff.Mount(2, "bucket", "uid=7", 0, 0, False, False, False, False)
_SETTINGS = {"memory_target": "32M", "metadata_ttl": "10"}


class Succession:
    """The file system of today, over the memory that all of them share.

    Attributes:
        fs: of the worker that lives.
        recorder: its own.
        state: what it found at its start; None for the first one.
        answers: to READs, by unique number.
        offset: behind the last name that `names` has returned.
    """

    def __init__(self, store: ObjectStore, prefix: str = "", **options: str) -> None:
        self._settings = Settings.model_validate(_SETTINGS | options)
        self._store = store
        self._prefix = prefix
        self._logs = (Log.create("a"), Log.create("b"))
        for log in self._logs:
            log.begin()
        self.recorder = StateRecorder(*self._logs)
        self.recorder.keep(Kind.ORDER, handoff.encode(ORDER))
        self.recorder.settled(Mounting(7, 8, 1_600_000_000_000_000_000, 45, 1 << 39))
        self.recorder.start(1.0)
        self._logs[0].publish(1)
        self.state: State | None = None
        self.answers = Answers()
        self.offset = 0
        self._uniques = 0
        self.fs = self._file_system()

    def _file_system(self) -> FileSystem:
        store = remembering(self._store, self.recorder)
        fs = build_file_system(store, self._settings, Owner(7, 8), self._prefix)
        fs.record(self.recorder)
        self.recorder.attach(fs)
        return fs

    def read(self) -> State:
        """Read what a successor would find now."""
        return read_state(newest([Log(log.fd) for log in self._logs]))

    def die(self) -> State:
        """Let the worker die, without a word, and the next one begin; return what it found."""
        self.recorder._next = None  # what it had yet to do will not be done
        logs = [Log(log.fd) for log in self._logs]
        log = newest(logs)
        self.state = read_state(log)
        other = next(other for other in logs if other is not log)
        self.recorder = StateRecorder(log, other, self.state)
        self.fs = self._file_system()
        self.fs.restore(self.state.remains)
        return self.state

    def close(self) -> None:
        """Give the memory back."""
        for log in self._logs:
            os.close(log.fd)

    # -- what the kernel does -------------------------------------------------------------------

    async def look(self, parent: int, name: str) -> Found:
        """Look a name up, which must exist, and take a reference."""
        found = await self.fs.names.lookup(parent, name.encode())
        assert isinstance(found, Found)
        return self.fs.remember(found)

    async def open(self, node_id: int, flags: int = os.O_RDONLY) -> int:
        """Open a file; return its handle."""
        return (await self.fs.files.open(node_id, flags, os.getpid())).handle

    async def pread(self, handle: int, offset: int, size: int) -> bytes:
        """Read; raise ServeError where the kernel would get an errno."""
        self._uniques += 2
        self.fs.files.read(handle, self._uniques, offset, size, self.answers)
        while self._uniques not in self.answers:
            await self.answers.wait()
        if self._uniques in self.answers.errors:
            raise self.answers.errors[self._uniques]
        return self.answers.data[self._uniques]

    async def names(self, handle: int, offset: int = 0, most: int = 1 << 30) -> list[str]:
        """Read a directory from `offset` on, as READDIRPLUS does, which takes nodes along."""
        names: list[str] = []
        async for record in self.fs.directories.entries(handle, offset):
            if len(names) == most:
                break
            if record.is_dot:
                continue
            found = self.fs.directories.take(handle, record)
            if found is not None:
                self.fs.remember(found)
            self.fs.directories.reached(handle, record)
            names.append(record.name.decode())
            self.offset = record.offset
        return names


@contextmanager
def succession(**objects: bytes) -> Iterator[tuple[MemoryStore, Succession]]:
    """A bucket and its mount; two underscores in a name are a slash."""
    store = MemoryStore({key.replace("__", "/"): data for key, data in objects.items()})
    made = Succession(store)
    yield store, made
    made.close()
