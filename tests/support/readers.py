"""Programs that read a mount without end and check every byte: each one's life is one process.

    python -m support.readers KIND DIRECTORY SEED

What takes long is printed, a line each: when it began and when it ended, in monotonic seconds. An
error or a wrong byte ends the program with a line that says so, and status 1. It ends with its
standard input, after the round that it is in.
"""

import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.pattern import pattern

if TYPE_CHECKING:
    from support.s3 import Bucket  # whose packages a reader does without

__all__ = ["DIRECTORIES", "FILES", "KINDS", "Pause", "Reader", "fill", "reading"]

FILES = {f"file{number}": (3 << 20) + number * 4321 for number in range(4)}
DIRECTORIES = {f"dir{number}": 40 for number in range(3)}  # of so many small files
_SLOW = 0.02  # seconds
_PATIENCE = 60.0  # seconds


def fill(bucket: "Bucket", prefix: str = "") -> None:
    """Put there what the readers expect."""
    for seed, (name, size) in enumerate(FILES.items()):
        bucket.put(prefix + name, pattern(size, seed))
    bucket.put_many(
        (f"{prefix}{directory}/{number:03}", b"")
        for directory, count in DIRECTORIES.items()
        for number in range(count)
    )


# -- inside of a reader ----------------------------------------------------------------------------


@contextmanager
def _timed() -> Iterator[None]:
    began = time.monotonic()
    yield
    ended = time.monotonic()
    if ended - began > _SLOW:
        print(began, ended, flush=True)


def _sequential(root: Path, chance: random.Random) -> None:
    seed, (name, _) = chance.choice(list(enumerate(FILES.items())))
    content, at = pattern(FILES[name], seed), 0
    with _timed():
        file = (root / name).open("rb", buffering=0)
    with file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the worker again
        while True:
            with _timed():
                data = file.read(chance.choice((4096, 100_000, 1 << 20)))
            if data != content[at : at + len(data)]:
                raise ValueError(f"{name}: wrong bytes at {at}")
            if not data:
                break
            at += len(data)
    if at != len(content):
        raise ValueError(f"{name}: {at} bytes instead of {len(content)}")


def _random(root: Path, chance: random.Random) -> None:
    seed, (name, size) = chance.choice(list(enumerate(FILES.items())))
    content = pattern(size, seed)
    with (root / name).open("rb", buffering=0) as file:
        for _ in range(20):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            at, length = chance.randrange(size), chance.randrange(1, 70_000)
            with _timed():
                data = os.pread(file.fileno(), length, at)
            if data != content[at : at + length]:
                raise ValueError(f"{name}: wrong bytes at {at}")


def _list(root: Path, _: random.Random) -> None:
    done = subprocess.run(  # as a whole it says nothing about how long one request has waited
        ["ls", "-lR", "--time-style=+", root], check=False, capture_output=True, text=True
    )
    if done.returncode or done.stderr:
        raise ValueError(f"ls: {done.stderr}")
    names = sum(line.startswith("-") for line in done.stdout.splitlines())
    if names != len(FILES) + sum(DIRECTORIES.values()):
        raise ValueError(f"ls sees {names} files:\n{done.stdout}")


def _stat(root: Path, chance: random.Random) -> None:
    for _ in range(50):
        directory, count = chance.choice(list(DIRECTORIES.items()))
        with _timed():
            size = (root / directory / f"{chance.randrange(count):03}").stat().st_size
        if size:
            raise ValueError(f"{directory}: a file of {size} bytes")
        with _timed():
            absent = (root / directory / f"absent{chance.randrange(10)}").exists()
        if absent:
            raise ValueError(f"{directory}: a file that is not there")


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "sequential": _sequential,
    "random": _random,
    "list": _list,
    "stat": _stat,
}


def main() -> int:
    """Read until standard input ends."""
    kind, directory, seed = sys.argv[1:]
    root, chance, rounds = Path(directory), random.Random(int(seed)), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            KINDS[kind](root, chance)
        except (OSError, ValueError) as error:
            print(f"{kind} after {rounds} rounds: {error}", flush=True)
            return 1
        rounds += 1
    print(f"{rounds} rounds", flush=True)
    return 0


# -- outside of it ---------------------------------------------------------------------------------


class Pause(NamedTuple):
    """What took long, in monotonic seconds."""

    began: float
    ended: float


class Reader:
    """A reader that runs."""

    def __init__(self, kind: str, directory: Path, seed: int) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.readers", kind, str(directory), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | {"PYTHONPATH": "."},
        )

    def end(self) -> tuple[list[Pause], str]:
        """Have it end; return what took long, and its last line."""
        output, _ = self._process.communicate(timeout=_PATIENCE)
        *lines, last = output.splitlines() or ["nothing"]
        pauses = [Pause(*map(float, line.split())) for line in lines]
        if self._process.returncode:
            raise AssertionError(f"a reader ended: {last}")
        return pauses, f"{self.kind}: {last}"

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def reading(directory: Path, each: int = 2) -> Iterator[list[Reader]]:
    """Have so many readers of each kind read; what they see is the caller's to ask."""
    readers = [Reader(kind, directory, seed) for seed in range(each) for kind in KINDS]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.kill()


if __name__ == "__main__":
    sys.exit(main())
