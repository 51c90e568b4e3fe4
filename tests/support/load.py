"""A program that writes all the time, and what each of its files must be at every moment.

`python -m support.load DIRECTORY JOURNAL STOP SEED` changes the files of a directory, version by
version, until there is a file STOP or an operation fails; a signal would interrupt what it does.
What a version does to a file follows from its number alone, so whoever knows which versions were
begun knows what the file may be. The journal says which: a line before a version is begun, one when
fsync has returned, one when it is closed.
"""

import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILES", "Progress", "changed", "main", "read_journal"]

MIB = 1 << 20
# Small files and one of several parts, changed in place; a log; two that are replaced as a whole.
FILES = ("small", "other", "large", "log", "renamed", "rewritten")
_WHOLE = {"renamed", "rewritten"}
_SIZES = {"large": 6 * MIB}
_SIZE = 40_000


class Change(NamedTuple):
    """Bytes that a version writes."""

    offset: int
    data: bytes


def _changes(name: str, version: int, size: int) -> tuple[int, list[Change]]:
    """Return what a version does to a file of `size` bytes: where it ends, and what is written."""
    chance = random.Random(f"{name} {version}")
    stamp = f"{name} {version:06} ".encode()
    if name in _WHOLE or not size:
        length = _SIZES.get(name, chance.randrange(1, 2 * _SIZE))
        return 0, [Change(0, _filled(stamp, length))]
    if name == "log":
        return size, [Change(size, _filled(stamp, chance.randrange(1, 5000)))]
    end = chance.randrange(1, 2 * _SIZE) if name != "large" and chance.random() < 0.2 else size
    places = [chance.randrange(end) for _ in range(chance.randint(1, 6))]
    return end, [Change(at, _filled(stamp, chance.randrange(1, 9000))) for at in places]


def _filled(stamp: bytes, length: int) -> bytes:
    return (stamp * (length // len(stamp) + 1))[:length]


def changed(name: str, version: int, content: bytes) -> bytes:
    """Return what a file is after a version, and was `content` before it."""
    end, changes = _changes(name, version, len(content))
    made = bytearray(content[:end].ljust(end, b"\0"))
    for offset, data in changes:
        made[offset : offset + len(data)] = data
    return bytes(made)


class Progress(NamedTuple):
    """How far a file came: the last version that was begun, fsynced, and closed."""

    begun: int
    synced: int
    closed: int


def read_journal(path: Path) -> dict[str, Progress]:
    """Return how far each file came."""
    found = dict.fromkeys(FILES, Progress(0, 0, 0))
    for line in path.read_text().splitlines() if path.exists() else ():
        what, name, number = line.split()
        found[name] = found[name]._replace(**{what: int(number)})
    return found


class Load:
    """Writes."""

    def __init__(self, directory: Path, journal: Path, stop: Path, seed: int) -> None:
        self._directory = directory
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._chance = random.Random(seed)
        self._stop = stop
        self._versions = {name: progress.begun for name, progress in read_journal(journal).items()}

    def run(self) -> None:
        """Write until that fails, or somebody says that it is enough."""
        while not self._stop.exists():
            name = self._chance.choice(FILES)
            self._versions[name] += 1
            self._write(name, self._versions[name])

    def _note(self, what: str, name: str, version: int) -> None:
        os.write(self._journal, f"{what} {name} {version}\n".encode())

    def _write(self, name: str, version: int) -> None:
        path = self._directory / name
        size = path.stat().st_size if path.exists() else 0
        end, changes = _changes(name, version, size)
        self._note("begun", name, version)
        target = self._directory / "new" if name == "renamed" else path
        truncates = os.O_TRUNC if name in _WHOLE else 0
        fd = os.open(target, os.O_RDWR | os.O_CREAT | truncates, 0o644)
        try:
            if end != size and not truncates:
                os.ftruncate(fd, end)
            for offset, data in changes:
                self._write_all(fd, data, offset)
            if self._chance.random() < 0.5 or name == "renamed":
                os.fsync(fd)
                if name != "renamed":
                    self._note("synced", name, version)
        finally:
            os.close(fd)
        if name == "renamed":
            target.rename(path)
            self._note("synced", name, version)
        self._note("closed", name, version)

    def _write_all(self, fd: int, data: bytes, offset: int) -> None:
        while data:
            done = os.pwrite(fd, data, offset)
            data, offset = data[done:], offset + done


def main() -> None:
    """Write as the command line says."""
    directory, journal, stop, seed = sys.argv[1:]
    Load(Path(directory), Path(journal), Path(stop), int(seed)).run()


if __name__ == "__main__":
    main()
