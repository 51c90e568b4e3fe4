"""Workers are killed while programs write: what was said to be stored is, and nothing is mixed.

Each round lets a program write, and kills the worker at a random point. Programs are told of what
is lost, and the next worker, or the next mount, stores what was only on the disk. Then every file
is looked at in the bucket.
"""

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from support.load import FILES, changed, read_journal
from support.mounts import Mount
from support.process import ROOT, service_user, wait_until
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

# Who was writing is told, and what cannot be stored by itself is left for people to look at.
TOLD = ("request_failed op=[A-Z0-9]+ .*errno=E(IO|STALE)", "staged_conflict key=")
LOSS = re.compile(rf"\w+Error: \[Errno ({errno.EIO}|{errno.ESTALE})\]")
KILLS_PER_MOUNT = 5


@pytest.fixture
def cache(public: Path) -> Path:
    """A directory that is the worker's."""
    path = public / "cache"
    path.mkdir(mode=0o700)
    user = service_user("fuse-s3")
    assert user
    shutil.chown(path, user, user)
    return path


def _is_settled(path: Path) -> bool:
    """Wait for what an earlier worker left of a file; tell whether all was stored.

    As long as the program that was told of a loss is not gone for the kernel, others are told, too.
    """
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in {errno.EIO, errno.ESTALE}:
                raise
            return False
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
    return True


class Rounds:
    """Kills, one after the other, and what is known of the files.

    Attributes:
        base: what each file was in the bucket when `versions` had been begun of it.
        versions: numbers; what is begun next gets the next one.
    """

    def __init__(self, bucket: Bucket, cache: Path, journal: Path, seed: int) -> None:
        self.bucket = bucket
        self.base: dict[str, bytes] = dict.fromkeys(FILES, b"")
        self.versions = dict.fromkeys(FILES, 0)
        self._cache = cache
        self._journal = journal
        self._stop = journal.with_suffix(".stop")
        self._chance = random.Random(seed)
        self._killed = 0

    def run(self, count: int) -> None:
        """Kill `count` workers; in every second mount, files are stored some time after close."""
        for number in range(count // KILLS_PER_MOUNT):
            options = ["write_back=1"] if number % 2 else []
            with self._mounted(*options) as mount:
                for _ in range(KILLS_PER_MOUNT):
                    self._write_and_kill(mount)
                    try:
                        self._recover(mount)
                    except AssertionError as error:
                        error.add_note(f"{options} {mount.log.text[-6000:]}")
                        error.add_note(self._journal.read_text()[-1500:])
                        raise
        with self._mounted() as mount:
            self._recover(mount)

    def _mounted(self, *options: str) -> Mount:
        options += (f"cache={self._cache}", "part_size=5M", "restart_limit=1000")
        return Mount(self.bucket, *options, allowed=TOLD)

    def _recover(self, mount: Mount) -> None:
        """See what has become of the files, when what was closed of each is stored."""
        for name in FILES:
            wait_until(partial(_is_settled, mount / name), f"{name} is settled")
        for name, progress in read_journal(self._journal).items():
            content = self.bucket.get(name) if self.bucket.has(name) else b""
            self._check(name, content, max(progress.synced, progress.closed), progress.begun)
            seen = (mount / name).read_bytes() if self.bucket.has(name) else b""
            assert seen == content, f"{name}: {len(seen)} bytes are read, {len(content)} stored"
            # A version that is lost is not begun again: its number is used once.
            self.base[name], self.versions[name] = content, progress.begun

    def _check(self, name: str, content: bytes, stored: int, begun: int) -> None:
        """See that a file is the version that was `stored`, or a later one that was begun."""
        candidate, first = self.base[name], self.versions[name]
        may_be = [candidate] if stored <= first else []
        for version in range(first + 1, begun + 1):
            candidate = changed(name, version, candidate)
            may_be += [candidate] if version >= stored else []
        assert content in may_be, (
            f"{name}: {len(content)} bytes in the bucket, no version from {stored} to {begun}"
        )

    def _write_and_kill(self, mount: Mount) -> None:
        until, worker = self._lines() + self._chance.randrange(25), mount.pid
        places = (str(mount.path), str(self._journal), str(self._stop))
        command = [sys.executable, "-m", "support.load", *places]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        self._killed += 1
        with subprocess.Popen(
            [*command, str(self._killed)], env=environment, stderr=subprocess.PIPE, text=True
        ) as load:
            wait_until(lambda: self._lines() > until or load.poll() is not None, "writing")
            assert load.poll() is None, f"it failed by itself: {load.communicate()[1]}"
            for _ in range(self._chance.randrange(20_000)):
                pass  # somewhere within what comes next
            os.kill(worker, signal.SIGKILL)
            mount.worker_after(worker)
            self._stop.touch()  # it ends between two versions, if it was not told of a loss before
            problem = load.communicate(timeout=60)[1]
        self._stop.unlink()
        assert not problem or LOSS.match(problem.splitlines()[-1]), problem

    def _lines(self) -> int:
        return self._journal.read_bytes().count(b"\n") if self._journal.exists() else 0


def test_thirty_kills(bucket: Bucket, cache: Path, tmp_path: Path) -> None:
    Rounds(bucket, cache, tmp_path / "journal", seed=1).run(30)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_hundred_kills(bucket: Bucket, cache: Path, tmp_path: Path) -> None:
    Rounds(bucket, cache, tmp_path / "journal", seed=2).run(200)
