"""Real mounts, made as a user makes them: `mount -t s3`. None of them outlives its test."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from support.process import wait_until
from support.s3 import Bucket, Store
from support.workerlog import WorkerLog

__all__ = [
    "Mount",
    "MountEntry",
    "MountFailedError",
    "abort",
    "check_no_worker_is_left",
    "clean_environment",
    "entries_at",
    "run",
    "workers",
]

_WORKER = "/usr/lib/fuse-s3/bin/fuse-s3-worker"
_PATIENCE = 60.0  # seconds; far more than anything here takes
_SOCKET = Path("/run/fuse-s3/worker.sock")  # where systemd is asked for workers
_CONNECTIONS = Path("/sys/fs/fuse/connections")


class MountFailedError(Exception):
    """mount(8) said no; the text is what it said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status
        self.text = text


class MountEntry(NamedTuple):
    """One line of the mount table; see proc(5), mountinfo."""

    device: str
    path: str
    options: str
    fstype: str
    source: str


def entries_at(path: Path | str) -> list[MountEntry]:
    """Return what is mounted at `path`, the topmost last. Nothing is asked of the mounts."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    entries = []
    for line in table.splitlines():
        words = line.split(" ")
        dash = words.index("-")
        place, source = (_unescape(word) for word in (words[4], words[dash + 2]))
        entries.append(MountEntry(words[2], place, words[5], words[dash + 1], source))
    return [entry for entry in entries if entry.path == str(path)]


def _unescape(word: str) -> str:
    return (
        word.encode("latin-1", "surrogateescape").decode("unicode_escape")
        if "\\" in word
        else (word)
    )


def check_no_worker_is_left(before: set[int]) -> None:
    """Check that there are those workers that there were, and no other.

    mount.s3 waits for the end of one that it has started; one in a unit ends by itself.
    """
    if _SOCKET.exists():
        wait_until(lambda: workers() <= before, "the end of the worker")
    assert workers() == before


def workers() -> set[int]:
    """Return the process ids of all workers on this machine."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if _WORKER.encode() in words:
                found.add(int(process.name))
    return found


def clean_environment(store: Store | None = None) -> dict[str, str]:
    """Return an environment with a store's key and nothing else of ours."""
    basic = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    return basic | (store.environment if store else {})


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None, seconds: float = _PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a program with a clean environment and return what it said; it is killed if it hangs."""
    environment = clean_environment() if environment is None else environment
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=seconds,
        env=environment,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )


def abort(device: str) -> None:
    """End a FUSE connection by force: whatever waits for it gets an error."""
    if not (_CONNECTIONS / "0").parent.is_dir() or not os.listdir(_CONNECTIONS):  # noqa: PTH208
        run("mount", "-t", "fusectl", "none", _CONNECTIONS)
    with contextlib.suppress(OSError):
        (_CONNECTIONS / device.partition(":")[2] / "abort").write_text("1")


class Mount:
    """A bucket, or a part of it, mounted on a directory of its own.

    Attributes:
        path: where it is mounted.
        log: what the worker has to say.
        pid: the worker.
        allowed: patterns of loud log lines that this test expects.
    """

    def __init__(
        self,
        bucket: Bucket,
        *options: str,
        source: str = "",
        store: Store | None = None,
        environment: Mapping[str, str] | None = None,
        allowed: Iterable[str] = (),
        command: str = "mount -t s3 SPEC DIR -o OPTIONS",
    ) -> None:
        """Describe a mount.

        Args:
            bucket: what to mount.
            command: how, with the capital words to be filled in.
            options: of -o.
            source: SPEC, when it is not the bucket's name alone.
            store: the server by another name, such as a proxy's.
            environment: the only variables that mount(8) gets beside PATH.
            allowed: see above.
        """
        self.store = store or bucket.store
        self.source = source or bucket.name
        self.allowed = list(allowed)
        self.pid = 0
        self._command = command.split()
        self._environment = clean_environment() | dict(environment or self.store.environment)
        self._home = Path(tempfile.mkdtemp(prefix="fuse-s3-test-"))
        self._home.chmod(0o755)  # ordinary users shall get as far as the mount
        self.path = self._home / "mnt"
        self.path.mkdir()
        self.log = WorkerLog(self._home / "log")
        self._options = [f"endpoint_url={self.store.endpoint}", f"log_file={self.log.path}"]
        if self.store.ca_bundle:
            self._options.append(f"ca_bundle={self.store.ca_bundle}")
        self._options += options
        self._pidfd = -1
        self._device = ""
        self._times_mounted = 0

    @property
    def options(self) -> str:
        """The option string."""
        return ",".join(self._options)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def names(self, directory: str = "") -> list[str]:
        """Return the sorted names in a directory below the mount."""
        return sorted(entry.name for entry in (self.path / directory).iterdir())

    # -- mounting -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.mount()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, _traceback: object) -> None:
        problems = self.close()
        if kind is None and problems:
            raise AssertionError("\n".join(problems))
        if isinstance(error, BaseException):
            for problem in problems:
                error.add_note(problem)

    def mount(self) -> None:
        """Mount it.

        Raises:
            MountFailedError: it cannot be mounted.
        """
        words = {"SPEC": self.source, "DIR": str(self.path), "OPTIONS": self.options}
        command = [words.get(word, word) for word in self._command]
        done = run(*command, environment=self._environment)
        if done.returncode:
            raise MountFailedError(done.returncode, done.stdout + done.stderr)
        self.watch()

    def watch(self) -> None:
        """Take note of the worker behind a mount that was made in another way."""
        self._device = entries_at(self.path)[-1].device
        times = self._times_mounted + 1
        wait_until(
            lambda: len(self.log.lines("mounted")) >= times, "the worker's word that it is mounted"
        )
        lines = self.log.lines("mounted")
        self.pid, self._times_mounted = lines[-1].pid, len(lines)
        # A descriptor, not the number: that may be another process's by the time it is used.
        self._pidfd = os.pidfd_open(self.pid)

    def worker_after(self, pid: int) -> int:
        """Return the worker that goes on after that one, as soon as it does."""
        wait_until(lambda: self._resumed() != pid and self._resumed(), "the next worker")
        self.pid = self._resumed()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = os.pidfd_open(self.pid)
        return self.pid

    def _resumed(self) -> int:
        lines = self.log.lines("resumed")
        return lines[-1].pid if lines else 0

    # -- unmounting -----------------------------------------------------------------------------

    def unmount(self, *switches: str) -> subprocess.CompletedProcess[str]:
        """Run umount(8)."""
        return run("umount", *switches, self.path)

    def wait_for_worker(self, seconds: float = _PATIENCE) -> bool:
        """Wait for the worker's end; tell whether it came."""
        if self._pidfd < 0:
            return True
        with contextlib.suppress(OSError):
            ready, _, _ = select.select([self._pidfd], [], [], seconds)
            if not ready:
                return False
        os.close(self._pidfd)
        self._pidfd = -1
        return True

    def close(self) -> list[str]:
        """Take everything away, by force where it must be; return what was not as it should be."""
        problems = []
        if not self._unmount_in_time():
            problems.append(f"{self.path} is still in use: {_users_of(self.path)}")
            self.unmount("-l")
        if not self.wait_for_worker(_PATIENCE if not problems else 2.0):
            problems.append(f"worker {self.pid} did not end with its mount")
            abort(self._device)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait_for_worker()
        problems += [f"in the log: {text}" for text in self.log.unexpected(self.allowed)]
        shutil.rmtree(self._home, ignore_errors=True)
        return problems

    def _unmount_in_time(self) -> bool:
        """Unmount; wait a little for programs that are on their way out."""
        until = time.monotonic() + 5.0
        while entries_at(self.path):
            try:
                done = self.unmount()
            except subprocess.TimeoutExpired:
                abort(self._device)
                return False
            if done.returncode and time.monotonic() > until:
                return False
        return True


def _users_of(path: Path) -> list[str]:
    """Name the processes that have something open below `path`."""
    users = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = os.readlink(link)  # noqa: PTH115  a Path would be resolved, and hang
            if target.startswith(str(path)):
                users.append(f"{link.parts[2]} has {target}")
    return users
