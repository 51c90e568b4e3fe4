"""The files of staged files: in the cache directory a directory for each bucket and prefix.

A staged file is two of them, `ID.data` with its bytes, each at its place, and `ID.map`, its
journal. Who works with it holds a lock on the first; so a second mount of the same bucket leaves
it alone, and what has no holder was left behind by a worker that ended too soon. Without a journal
there is no staged file: data alone was never written to, or is done with.

Everything here blocks, and is called in a thread.
"""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import secrets
import stat
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Self

from fuse_s3_worker.transfer.journal import Description, JournalError, Log, Record, decode

__all__ = [
    "CacheDirectoryError",
    "Entry",
    "EntryInUseError",
    "Place",
    "StageDirectory",
    "open_cache",
    "write_all",
]

_ABOUT = "bucket.json"
_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_IN_THE_UNIT = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108  no file
_JOURNAL_MAX = 1 << 30  # bytes; what is larger is none of ours
_ADDED_MAX = 1 << 20  # bytes of records that a journal is allowed in any case


class CacheDirectoryError(Exception):
    """This directory cannot be used; one line with the next step."""


class EntryInUseError(Exception):
    """Another program holds this staged file."""


class Place(NamedTuple):
    """What a directory of staged files is for: part of its name, so that no two share one."""

    endpoint: str
    bucket: str
    prefix: str

    @property
    def name(self) -> str:
        """The name of the directory."""
        digest = blake2b("\0".join(self).encode("utf-8", "surrogatepass"), digest_size=8)
        readable = re.sub(r"[^A-Za-z0-9.-]", "_", self.bucket)[:64]
        return f"{readable}-{digest.hexdigest()}"


def open_cache(path: str) -> int:
    """Return a descriptor of a cache directory that is ours alone.

    Raises:
        CacheDirectoryError: it is not there, or not ours, or others may write to it.
    """
    if not path.startswith("/"):
        raise CacheDirectoryError(f"cache={path}: give an absolute path")
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        text = f"cache={path}: {error.strerror}: make it with mkdir, and chown it to "
        text += f"the worker's user {_whoami()}{_hint(path, error)}"
        raise CacheDirectoryError(text) from None
    found = os.fstat(fd)
    writable_by_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid == os.geteuid() and not writable_by_others:
        return fd
    os.close(fd)
    reason = "others may write to it" if writable_by_others else "it is not the worker's"
    raise CacheDirectoryError(f"cache={path}: {reason}: chown {_whoami()} and chmod 0700 it")


def _hint(path: str, error: OSError) -> str:
    """Return what to do where it is the unit's doing, and the directory is as it should be."""
    if error.errno == errno.EROFS:
        unit = "name it in ReadWritePaths= of a drop-in"
    elif path.startswith(_NOT_IN_THE_UNIT):
        unit = "choose one that is not in a home or in /tmp, which are not there for it"
    else:
        return ""
    return f"; if systemd starts the worker, {unit} (see docs/systemd.md)"


def _whoami() -> str:
    """Return the name of this process's user, or the number of one that has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class StageDirectory:
    """The staged files of one bucket and prefix.

    Attributes:
        path: where it is, for people to find.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    @classmethod
    def open(cls, cache: str, place: Place, about: dict[str, str]) -> Self:
        """Open it, and make it if it is not there; `about` tells how to get to the bucket.

        Raises:
            CacheDirectoryError: it cannot be used.
        """
        fd = open_cache(cache)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place.name, 0o700, dir_fd=fd)
            made = cls(os.open(place.name, _DIRECTORY, dir_fd=fd), Path(cache) / place.name)
            os.close(made.write(_ABOUT, json.dumps(about, indent=1).encode()))
        except OSError as error:
            raise CacheDirectoryError(
                f"cache={cache}: {error.strerror}{_hint(cache, error)}"
            ) from None
        finally:
            os.close(fd)
        return made

    @classmethod
    def all_in(cls, cache: str) -> Iterator[Self]:
        """Yield those that there are in a cache directory.

        Raises:
            CacheDirectoryError: it cannot be used.
        """
        fd = open_cache(cache)
        try:
            for name in sorted(os.listdir(fd)):
                with contextlib.suppress(OSError):
                    yield cls(os.open(name, _DIRECTORY, dir_fd=fd), Path(cache) / name)
        finally:
            os.close(fd)

    @property
    def about(self) -> dict[str, str]:
        """How to get to the bucket; empty when that is not known."""
        try:
            found = json.loads(self._read(_ABOUT))
        except (OSError, ValueError):
            return {}
        good = isinstance(found, dict) and all(isinstance(v, str) for v in found.values())
        return found if good else {}

    def close(self) -> None:
        """Give the descriptor up; entries go on without it."""
        os.close(self._fd)

    # -- entries --------------------------------------------------------------------------------

    def create(self, known: Description) -> "Entry":
        """Make the files of a new staged file, and hold them."""
        entry_id = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
        flags = _FILE | os.O_CREAT | os.O_EXCL
        with self._alone():
            fd = os.open(f"{entry_id}.data", flags, 0o600, dir_fd=self._fd)
            entry = Entry(self, entry_id, fd, Log())
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.snapshot(known)
            except BaseException:
                with contextlib.suppress(OSError):
                    entry.remove()
                raise
        return entry

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from making staged files, and from taking half of one for a rest of one."""
        fd = os.open(".", _DIRECTORY, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def ids(self) -> list[str]:
        """Return the ids of all staged files, oldest first; remove what is done with."""
        with self._alone():
            names = set(os.listdir(self._fd))
            for name in names:
                stem, _, ending = name.rpartition(".")
                done_with = ending == "data" and f"{stem}.map" not in names
                if _ID.fullmatch(stem) and (done_with or ending == "new"):
                    self._remove_if_nobodys(stem, name)
        stems = {name.removesuffix(".map") for name in names if name.endswith(".map")}
        return sorted(stem for stem in stems if _ID.fullmatch(stem))

    def _remove_if_nobodys(self, entry_id: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, EntryInUseError):
            fd = self._hold(entry_id)
            os.unlink(name, dir_fd=self._fd)
            os.close(fd)

    def _hold(self, entry_id: str) -> int:
        """Return a descriptor of a staged file's bytes, with the lock on it.

        Raises:
            EntryInUseError: another program has the lock.
        """
        fd = os.open(f"{entry_id}.data", _FILE, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise EntryInUseError(entry_id) from None
        return fd

    def hold(self, entry_id: str) -> tuple["Entry", Description]:
        """Take over a staged file that nobody holds.

        Raises:
            EntryInUseError: somebody does.
            JournalError: its journal cannot be relied on; it stays as it is.
            OSError: its files cannot be read.
        """
        fd = self._hold(entry_id)
        try:
            known, log = self.read(entry_id)
            entry = Entry(self, entry_id, fd, log)
            if known.torn:
                entry.snapshot(known)  # what is added must not follow half a line
        except BaseException:
            os.close(fd)
            raise
        return entry, known

    def in_use(self, entry_id: str) -> bool:
        """Tell whether somebody holds a staged file."""
        try:
            os.close(self._hold(entry_id))
        except EntryInUseError:
            return True
        except OSError:
            pass  # its bytes are gone, or no file of ours
        return False

    def discard(self, entry_id: str) -> None:
        """Remove a staged file that nobody holds, whatever its journal says.

        Raises:
            EntryInUseError: somebody does.
            OSError: it cannot be removed.
        """
        try:
            fd = self._hold(entry_id)
        except FileNotFoundError:
            fd = -1  # a journal alone
        try:
            self.unlink(f"{entry_id}.map")  # first: without it there is nothing to be stored
            self.unlink(f"{entry_id}.data")
        finally:
            if fd >= 0:
                os.close(fd)

    def read(self, entry_id: str) -> tuple[Description, Log]:
        """Read the journal of a staged file, held or not.

        Raises:
            JournalError: it cannot be relied on.
            OSError: it cannot be read.
        """
        return decode(self._read(f"{entry_id}.map"))

    # -- files ----------------------------------------------------------------------------------

    def _read(self, name: str) -> bytes:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._fd), "rb") as file:
            if os.fstat(file.fileno()).st_size > _JOURNAL_MAX:
                raise JournalError("it is larger than any")
            return file.read()

    def write(self, name: str, content: bytes, *, durable: bool = True) -> int:
        """Put a file into the place of another in one step; return a descriptor to append to it.

        With `durable`, the content is on the disk before it has the name, and the name before
        this returns.
        """
        temporary = f"{name.rpartition('.')[0]}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=self._fd)
        try:
            write_all(fd, content)
            if durable:
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            if durable:
                os.fsync(self._fd)
        except BaseException:
            os.close(fd)
            self.unlink(temporary)
            raise
        return fd

    def unlink(self, name: str) -> None:
        """Remove a name, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def open_file(self, name: str, flags: int) -> int:
        """Return a descriptor of a file that is there."""
        return os.open(name, flags, dir_fd=self._fd)


class Entry:
    """The files of one staged file, held.

    Attributes:
        fd: of its bytes.
        path: where these are, for people to find.
    """

    def __init__(self, directory: StageDirectory, entry_id: str, fd: int, log: Log) -> None:
        self.fd = fd
        self.path = directory.path / f"{entry_id}.data"
        self.log = log
        self._directory = directory
        self._id = entry_id
        self._journal = -1
        self._snapshot_size = 0
        self._added = 0

    def snapshot(self, known: Description, *, durable: bool = False) -> None:
        """Write the journal anew.

        Raises:
            OSError: the one before is still there, whole.
        """
        log = Log()
        content = log.snapshot(known)
        fd = self._directory.write(f"{self._id}.map", content, durable=durable)
        self._close_journal()
        self._journal, self.log = fd, log
        self._snapshot_size, self._added = len(content), 0

    def seal(self, known: Description) -> None:
        """Have bytes and journal on the disk, in this order: what is closed is not lost."""
        os.fdatasync(self.fd)
        self.snapshot(known, durable=True)

    def add(self, record: Record) -> None:
        """Add a record to the journal.

        Raises:
            OSError: it was not added, and the journal is whole without it.
        """
        if self._journal < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._journal = self._directory.open_file(f"{self._id}.map", flags)
        before, log = os.fstat(self._journal).st_size, self.log.copy()
        content = log.lines(record)
        try:
            write_all(self._journal, content)
        except OSError:
            os.ftruncate(self._journal, before)
            raise
        self.log = log
        self._added += len(content)

    @property
    def worth_a_snapshot(self) -> bool:
        """Tell whether so much was added that a new snapshot would be much smaller."""
        return self._added > max(_ADDED_MAX, 4 * self._snapshot_size)

    def sync_journal(self) -> None:
        """Have what was added on the disk."""
        if self._journal >= 0:
            os.fdatasync(self._journal)

    def remove(self) -> None:
        """Remove the files, the journal first: without it there is nothing to be stored."""
        self._directory.unlink(f"{self._id}.map")
        self._directory.unlink(f"{self._id}.data")
        self.close()

    def unlink(self) -> None:
        """Remove the names; the bytes are there until `close`."""
        self._directory.unlink(f"{self._id}.map")
        self._directory.unlink(f"{self._id}.data")

    def close(self) -> None:
        """Let go of the files."""
        self._close_journal()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _close_journal(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def write_all(fd: int, content: bytes) -> None:
    """Write everything, however many calls that takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
