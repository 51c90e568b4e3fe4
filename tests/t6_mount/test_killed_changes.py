"""Workers are killed while programs make, remove and rename: each sees what a local disk shows.

Programs do the same to a directory of the mount and to one of a local disk, and every answer must
be the same. What a worker did not live to say is said by the next one.
"""

import errno
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from support.mounts import Mount
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

PROGRAMS = 3
NAMES = ("a", "b", "c")
DEPTH = 3
PAUSE = 1.2  # seconds between two kills, at most: a keeper gives up after 100 a minute


Change = Callable[[Path, str, str], None]


class Program:
    """Changes names at random, here and there.

    Attributes:
        done: how many changes succeeded.
    """

    def __init__(self, here: Path, there: Path, seed: int) -> None:
        self.done = 0
        self._places = here, there
        self._chance = random.Random(seed)

    def run(self, over: Event) -> None:
        """Go on until it is over."""
        while not over.is_set():
            what = self._chance.choice(CHANGES)
            paths = self._path(), self._path()
            here, there = [_answer(what, place, paths) for place in self._places]
            assert here == there, f"{what.__name__} {paths}: {here} instead of {there}"
            self.done += here == "0"

    def _path(self) -> str:
        depth = self._chance.randint(1, DEPTH)
        return "/".join(self._chance.choice(NAMES) for _ in range(depth))


def mkdir(place: Path, path: str, _: str) -> None:
    (place / path).mkdir()


def unlink(place: Path, path: str, _: str) -> None:
    (place / path).unlink()


def rmdir(place: Path, path: str, _: str) -> None:
    (place / path).rmdir()


def symlink(place: Path, path: str, target: str) -> None:
    (place / path).symlink_to(target)


def mkfifo(place: Path, path: str, _: str) -> None:
    os.mkfifo(place / path)


def rename(place: Path, old: str, new: str) -> None:
    (place / old).rename(place / new)


CHANGES = (mkdir, unlink, rmdir, symlink, mkfifo, rename, rename, rename)


def _answer(what: Change, place: Path, paths: tuple[str, str]) -> str:
    try:
        what(place, *paths)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "0"


def tree_of(top: Path) -> dict[str, object]:
    """Return what there is: directories, links, FIFOs, and what is in files."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(top))
        if stat.S_ISLNK(mode):
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
    return found


def kill_now_and_then(mnt: Mount, kills: int, chance: random.Random, work: Future[None]) -> None:
    for _ in range(kills):
        time.sleep(chance.random() * PAUSE)
        if work.done():
            return
        os.kill(mnt.pid, signal.SIGKILL)
        mnt.worker_after(mnt.pid)


def kill_while_names_change(bucket: Bucket, local: Path, seed: int, kills: int) -> None:
    for number in range(PROGRAMS):
        for name in NAMES:
            bucket.put(f"{number}/{name}/a", f"{number}{name}".encode())
    options, over = ("posix", "restart_limit=1000"), Event()
    with Mount(bucket, *options) as mnt, ThreadPoolExecutor() as threads:
        programs = []
        for number in range(PROGRAMS):
            here, there = mnt / str(number), local / str(number)
            for name in NAMES:
                (there / name).mkdir(parents=True)
                (there / name / "a").write_bytes((here / name / "a").read_bytes())
            programs.append(Program(here, there, seed + number))
        working = [threads.submit(program.run, over) for program in programs]
        try:
            kill_now_and_then(mnt, kills, random.Random(seed), working[0])
        finally:
            over.set()
        for one in working:
            try:
                one.result()
            except AssertionError as error:
                error.add_note(mnt.log.text[-4000:])
                raise
        assert all(program.done for program in programs)
        assert tree_of(mnt.path) == tree_of(local)
    with Mount(bucket, *options) as mnt:
        assert tree_of(mnt.path) == tree_of(local)


def test_twenty_kills(bucket: Bucket, tmp_path: Path) -> None:
    kill_while_names_change(bucket, tmp_path, seed=1, kills=20)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_five_hundred_kills(bucket: Bucket, tmp_path: Path) -> None:
    kill_while_names_change(bucket, tmp_path, seed=2, kills=500)
