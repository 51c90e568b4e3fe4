"""The worker is killed while programs write: what they were told is stored is, and nothing is mixed.

Each round mounts, lets a program write, and kills the worker at a random point. Then every file is
looked at in the bucket, and once more after the next mount has stored what was left.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.load import FILES, changed, read_journal
from support.mounts import Mount
from support.process import ROOT, service_user, wait_until
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

# What a worker says of what it finds: it is for people, and no error of this one.
FOUND = ("staged_", "request_failed", "upload_abort")


@pytest.fixture
def cache(public: Path) -> Iterator[Path]:
    """A directory that is the worker's."""
    path = public / "cache"
    path.mkdir(mode=0o700)
    user = service_user("fuse-s3")
    assert user
    shutil.chown(path, user, user)
    yield path


class Rounds:
    """Kills, one after the other, and what is known of the files.

    Attributes:
        base: what each file was when the version `versions` of it was the last one.
    """

    def __init__(self, bucket: Bucket, cache: Path, journal: Path, seed: int) -> None:
        self.bucket = bucket
        self.base: dict[str, bytes] = dict.fromkeys(FILES, b"")
        self.versions = dict.fromkeys(FILES, 0)
        self._cache = cache
        self._journal = journal
        self._chance = random.Random(seed)
        self._killed = 0
        self._found: dict[str, int] = {}

    def run(self, count: int) -> None:
        """Kill `count` workers, half of which store some time after close."""
        for number in range(count):
            write_back = number % 2 == 1
            with self._mounted(*(["write_back=1"] if write_back else [])) as mount:
                self._recover(mount)
                self._write_and_kill(mount)
                self._found = self._look(closed=not write_back)
        with self._mounted() as mount:
            self._recover(mount)

    def _mounted(self, *options: str) -> Mount:
        return Mount(self.bucket, f"cache={self._cache}", "part_size=5M", *options, allowed=FOUND)

    def _recover(self, mount: Mount) -> None:
        """See what has become of what was left: nothing that was closed is lost, nothing older."""
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):
                (mount / name).open("rb").close()  # which waits until that is stored
        again = self._look(closed=True)
        for name, version in self._found.items():
            assert again[name] >= version, f"{name} has gone back"
        for name, progress in read_journal(self._journal).items():
            self.base[name] = self._content(name)
            # What was begun and is lost is not begun again: a version's number is used once.
            self.versions[name] = progress.begun

    def _content(self, name: str) -> bytes:
        return self.bucket.get(name) if self.bucket.has(name) else b""

    def _write_and_kill(self, mount: Mount) -> None:
        lines = self._lines()
        until = lines + self._chance.randrange(40)
        command = [sys.executable, "-m", "support.load", str(mount.path), str(self._journal)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        with subprocess.Popen(
            [*command, str(self._killed)], env=environment, stderr=subprocess.DEVNULL
        ) as load:
            wait_until(lambda: self._lines() > until or load.poll() is not None, "writing")
            assert load.poll() is None, "the program that writes has failed by itself"
            for _ in range(self._chance.randrange(20_000)):
                pass  # somewhere within what comes next
            os.kill(mount.pid, signal.SIGKILL)
            self._killed += 1
            load.wait(60)

    def _lines(self) -> int:
        return self._journal.read_bytes().count(b"\n") if self._journal.exists() else 0

    def _look(self, *, closed: bool) -> dict[str, int]:
        """Return which version of each file is in the bucket, and see that it may be."""
        found = {}
        for name, progress in read_journal(self._journal).items():
            content = self._content(name)
            kept = max(progress.synced, progress.closed if closed else 0, self.versions[name])
            found[name] = self._version_of(name, content, kept, progress.begun)
        return found

    def _version_of(self, name: str, content: bytes, first: int, last: int) -> int:
        candidate, matches = self.base[name], []
        for version in range(self.versions[name], last + 1):
            if version > self.versions[name]:
                candidate = changed(name, version, candidate)
            if candidate == content:
                matches.append(version)
        assert matches, f"{name} is none of {self.versions[name]} to {last}: a mixture"
        assert matches[-1] >= first, f"{name} is {matches[-1]} in the bucket, {first} was stored"
        return matches[-1]


def test_thirty_kills(bucket: Bucket, cache: Path, tmp_path: Path) -> None:
    Rounds(bucket, cache, tmp_path / "journal", seed=1).run(30)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_hundred_kills(bucket: Bucket, cache: Path, tmp_path: Path) -> None:
    Rounds(bucket, cache, tmp_path / "journal", seed=2).run(200)
