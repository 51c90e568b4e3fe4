"""What is in the bucket before anybody mounts it; put there as files, not through the server."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from bench.content import CHUNK, Content
from bench.server.nginx import Server

__all__ = ["BIG", "SMALL_FILES", "Data", "flat", "links", "medium", "nested", "small"]

BIG = "big"
SMALL_FILES = 100

_GIB = 1 << 30
_SMALL_SIZE = 64 << 10
_WIDTH = 100  # names in each directory of a nested tree
_LINKS = 20
_MEDIUM, _DIFFERENT = 5 << 20, 8


class Data:
    """The objects; sets of them are made when a workload first asks for them.

    Attributes:
        content: what BIG has in it, and what is written.
    """

    def __init__(self, server: Server, content: Content) -> None:
        self._server = server
        self.content = content
        self._made: dict[str, list[str]] = {}
        self._root = server.file("")

    def begin(self) -> None:
        """Put there what is always there: BIG, and SMALL_FILES without a byte."""
        with self._server.file(BIG).open("xb") as file:
            for chunk in self.content.chunks():
                file.write(chunk)
        for number in range(SMALL_FILES):
            self._server.file(f"small-{number:03}").touch()
        self._server.adopt()

    def scaled(self, count: int) -> int:
        """Return less than `count` for a content below a gibibyte: who tries out is in a hurry."""
        return max(min(count, count * self.content.size // _GIB), 4)

    def need(self, name: str, make: Callable[["Data", Path], Iterator[Path]]) -> list[str]:
        """Return the keys of a set, which `make` puts into the directory `name` at first."""
        if name not in self._made:
            directory = self._root / name
            directory.mkdir()
            self._made[name] = [str(path.relative_to(self._root)) for path in make(self, directory)]
            self._server.adopt(f"{name}/")
        return self._made[name]

    def imagine(self, name: str, count: int, width: int = 0) -> int:
        """Have keys listed in the directory `name` that are not there; return how many."""
        count = self.scaled(count)
        if name not in self._made:
            self._server.imagine(f"{name}/", count, width)
            self._made[name] = []
        return count

    def discard(self, prefix: str) -> None:
        """Delete everything below a directory, which a contestant has written."""
        shutil.rmtree(self._root / prefix, ignore_errors=True)
        self._server.adopt(prefix)


def flat(count: int) -> Callable[[Data, Path], Iterator[Path]]:
    """Make names without bytes in one directory."""

    def make(data: Data, directory: Path) -> Iterator[Path]:
        for number in range(data.scaled(count)):
            yield _touched(directory / f"name-{number:06}")

    return make


def nested(count: int) -> Callable[[Data, Path], Iterator[Path]]:
    """Make names without bytes, 100 in each directory, and 100 directories in each directory."""

    def make(data: Data, directory: Path) -> Iterator[Path]:
        for number in range(data.scaled(count)):
            leaf = directory / f"{number // _WIDTH**2:02}" / f"{number // _WIDTH % _WIDTH:02}"
            if number % _WIDTH == 0:
                leaf.mkdir(parents=True)
            yield _touched(leaf / f"name-{number:06}")

    return make


def small(count: int) -> Callable[[Data, Path], Iterator[Path]]:
    """Make files of 64 KiB, 500 in each directory."""

    def make(data: Data, directory: Path) -> Iterator[Path]:
        chunk = next(Content(CHUNK).chunks())
        for number in range(data.scaled(count)):
            path = directory / f"{number // 500:02}" / f"{number:05}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(chunk[number : number + _SMALL_SIZE])
            yield path

    return make


def medium(count: int) -> Callable[[Data, Path], Iterator[Path]]:
    """Make files of 5 MiB: a few, each with many names, which take no memory."""

    def make(data: Data, directory: Path) -> Iterator[Path]:
        for number in range(data.scaled(count)):
            path = directory / f"{number:03}"
            if number < _DIFFERENT:
                with path.open("xb") as file:
                    for chunk in islice(
                        Content(_MEDIUM * (number + 1)).chunks(), number, number + 5
                    ):
                        file.write(chunk)
            else:
                path.hardlink_to(directory / f"{number % _DIFFERENT:03}")
            yield path

    return make


def links(_: Data, directory: Path) -> Iterator[Path]:
    """Make further names of BIG, so that the kernel has no page of them."""
    for number in range(_LINKS):
        path = directory / f"big-{number:02}"
        path.hardlink_to(directory.parent / BIG)
        yield path


def _touched(path: Path) -> Path:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
    return path
