"""Two directories that the same is done to: one on the machine's own file system, one on a mount.

Whatever a program can see of one operation, it must see of both: the value, or the errno. What the
promises of a mount leave open is named in `Twins.differences`.
"""

import ctypes
import errno
import functools
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "KEEP_SIZE",
    "LONG_AGO",
    "PUNCH_HOLE",
    "ZERO_RANGE",
    "RENAME_NOREPLACE",
    "Difference",
    "Node",
    "Opened",
    "Twins",
    "copy_range",
    "fallocate",
    "fallocate_changes",
    "renameat2",
    "same",
    "tree_of",
    "write_mapped",
    "zero_range",
]

PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 0x02, 0x01, 0x10  # linux/falloc.h
RENAME_NOREPLACE = 1
LONG_AGO = 1_600_000_000  # seconds; before it are only times that somebody has set
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2)."""
    if _libc.fallocate(fd, mode, offset, length):
        raise OSError(ctypes.get_errno(), f"fallocate mode {mode:#x}")


def renameat2(old: Path, new: Path, flags: int) -> None:
    """Call renameat2(2)."""
    if _libc.renameat2(_AT_FDCWD, bytes(old), _AT_FDCWD, bytes(new), flags):
        raise OSError(ctypes.get_errno(), f"renameat2 with flags {flags}")


class Node(NamedTuple):
    """What is at one path.

    Attributes:
        kind: the type of st_mode.
        size: of a file.
        content: of a file, or what a link leads to; None where nobody asked.
        attributes: mode, owner, times and the rest, as words; none where nobody asked.
    """

    kind: int
    size: int
    content: bytes | None
    attributes: tuple[str, ...] = ()


def tree_of(root: Path, *, contents: bool, attributes: bool = False) -> dict[str, Node]:
    """Return everything below a directory."""
    return dict(_nodes(root, "", contents=contents, attributes=attributes))


def _nodes(
    root: Path, below: str, *, contents: bool, attributes: bool
) -> Iterator[tuple[str, Node]]:
    with os.scandir(root / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}{entry.name}"
        status = os.stat(root / path, follow_symlinks=False)  # noqa: PTH116  a thousand times
        kind = stat.S_IFMT(status.st_mode)
        # readdir and stat must agree, too.
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode), path
        content = _content(root / path, kind) if contents else None
        size = 0 if stat.S_ISDIR(kind) else status.st_size
        yield (
            path,
            Node(kind, size, content, _attributes(root / path, status) if attributes else ()),
        )
        if stat.S_ISDIR(kind):
            yield from _nodes(root, f"{path}/", contents=contents, attributes=attributes)


def _attributes(path: Path, status: os.stat_result) -> tuple[str, ...]:
    """Return what `-o posix` keeps.

    Times of directories are those of what is done in them on one side only, and two files are
    never written at the same time; so a time counts when somebody has set it, to long ago.
    """
    words = [f"{status.st_mode:o}", f"{status.st_uid}:{status.st_gid}"]
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        words.append(f"device {status.st_rdev:#x}")
    if not stat.S_ISDIR(status.st_mode):
        old = status.st_mtime < LONG_AGO
        words.append(f"modified {status.st_mtime_ns}" if old else "modified lately")
    names = sorted(os.listxattr(path, follow_symlinks=False))
    words += [
        f"{name}={os.getxattr(path, name, follow_symlinks=False)!r}"
        for name in names
        if name.startswith("user.")
    ]
    return tuple(words)


def _content(path: Path, kind: int) -> bytes | None:
    if stat.S_ISLNK(kind):
        return os.fsencode(path.readlink())
    return path.read_bytes() if stat.S_ISREG(kind) else None


class Difference(NamedTuple):
    """An outcome on the mount that is not that of the other side, and allowed all the same."""

    statement: str
    errno: int


@dataclass(eq=False)
class Opened:
    """A file that is open on both sides.

    Attributes:
        model, mount: the descriptors.
        flags: it was opened with.
        before: what it may go on being, after it was replaced by an open with O_TRUNC.
    """

    model: int
    mount: int
    flags: int
    before: list[bytes] = field(default_factory=list)

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def size(self) -> int:
        return os.fstat(self.model).st_size

    @property
    def ino(self) -> int:
        return os.fstat(self.model).st_ino

    def close(self) -> None:
        """Close both."""
        os.close(self.model)
        os.close(self.mount)


class Outcome(NamedTuple):
    """What an operation came to."""

    errno: int
    value: object = None

    def __str__(self) -> str:
        if self.errno:
            return errno.errorcode[self.errno]
        text = repr(self.value)
        return text if len(text) < 200 else f"{text[:200]}... ({len(text)} characters)"


def _outcome(deed: Callable[[], object]) -> Outcome:
    try:
        return Outcome(0, deed())
    except OSError as error:
        return Outcome(error.errno or errno.EIO)


class Twins:
    """The two, and what is open on both.

    Attributes:
        model: the directory that is right.
        mount: the directory on trial.
        opened: what is open.
    """

    def __init__(self, model: Path, mount: Path, *, attributes: bool = False) -> None:
        """Take two directories; with `attributes`, those are compared, too."""
        self.model = model
        self.mount = mount
        self._attributes = attributes
        self.opened: list[Opened] = []

    # -- doing the same -------------------------------------------------------------------------

    def both(self, deed: Callable[[Path], object], *allowed: Difference) -> bool:
        """Do something to both directories, and tell whether it was possible."""
        return self.same(lambda: deed(self.model), lambda: deed(self.mount), allowed)

    def both_open(self, file: Opened, deed: Callable[[int], object], *allowed: Difference) -> bool:
        """Do something to both descriptors of a file, and tell whether it was possible."""
        return self.same(lambda: deed(file.model), lambda: deed(file.mount), allowed)

    def same(
        self,
        right: Callable[[], object],
        trial: Callable[[], object],
        allowed: tuple[Difference, ...] = (),
    ) -> bool:
        """Do two things that come to the same, and tell whether that was possible."""
        expected, found = _outcome(right), _outcome(trial)
        if found != expected and found.errno not in {known.errno for known in allowed}:
            raise AssertionError(f"{found} on the mount, not {expected}")
        return not found.errno

    def open(self, path: str, flags: int) -> Opened | None:
        """Open a file on both sides; not what would wait for another program, or is a device."""
        if self.is_special(path):
            return None
        aside = self._set_aside(path) if flags & os.O_TRUNC else []
        fds = self._both_descriptors(path, flags)
        if not fds:
            return None
        if stat.S_ISDIR(os.fstat(fds[0]).st_mode):
            _close(fds)
            return None
        for file, content in aside:
            file.before.append(content)
        self.opened.append(Opened(fds[0], fds[1], flags))
        return self.opened[-1]

    def _both_descriptors(self, path: str, flags: int) -> list[int]:
        fds: list[int] = []
        try:
            self.both(lambda root: fds.append(os.open(root / path, flags, 0o644)))
        except AssertionError:
            _close(fds)
            raise
        return fds

    def size_of(self, path: str) -> int:
        """Return the size of what is there; -1 for nothing."""
        try:
            return (self.model / path).stat().st_size
        except OSError:
            return -1

    def is_special(self, path: str) -> bool:
        """Tell whether a path leads to what is neither a file nor a directory."""
        try:
            mode = (self.model / path).stat().st_mode
        except OSError:
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    def _set_aside(self, path: str) -> list[tuple[Opened, bytes]]:
        """Return who reads a file, and nobody writes it, with what it was.

        [S33] Opening with O_TRUNC replaces the object at close; a program that was reading the
        file goes on reading what it was.
        """
        try:
            ino = (self.model / path).stat().st_ino
        except OSError:
            return []
        having = [file for file in self.opened if file.ino == ino]
        if any(file.writes for file in having):
            return []
        content = (self.model / path).read_bytes() if having else b""
        return [(file, content) for file in having]

    def close(self, file: Opened) -> None:
        """Close a file."""
        self.opened.remove(file)
        file.close()

    def close_all(self) -> None:
        """Close everything."""
        while self.opened:
            self.close(self.opened[-1])

    # -- comparing ------------------------------------------------------------------------------

    def compare(self, *, contents: bool = True) -> None:
        """Hold one tree against the other."""
        trees = (
            tree_of(root, contents=contents, attributes=self._attributes)
            for root in (self.model, self.mount)
        )
        same(*trees)

    def read(self, file: Opened, offset: int, size: int) -> None:
        """Read from both descriptors."""
        expected = os.pread(file.model, size, offset)
        found = _outcome(lambda: os.pread(file.mount, size, offset))
        allowed = [Outcome(0, before[offset : offset + size]) for before in file.before]
        if file.before:  # [S33], and what was not fetched is gone once the new object is stored
            allowed.append(Outcome(errno.ESTALE))
        if found not in [Outcome(0, expected), *allowed]:
            raise AssertionError(f"{found} on the mount, not {Outcome(0, expected)}")

    def seek(self, file: Opened, offset: int) -> None:
        """Ask where data and holes are: whatever is said, no data may be in a hole."""
        content = os.pread(file.model, file.size, 0) if file.reads else None
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            at = os.lseek(file.mount, 0, os.SEEK_CUR)
            found = _outcome(functools.partial(os.lseek, file.mount, offset, whence))
            os.lseek(file.mount, at, os.SEEK_SET)
            if offset >= file.size:
                assert found.errno == errno.ENXIO, found
            elif whence == os.SEEK_HOLE:
                assert isinstance(found.value, int)
                assert offset <= found.value <= file.size
            else:
                assert found.errno in {0, errno.ENXIO}, found
                until = found.value if isinstance(found.value, int) else file.size
                assert content is None or not any(content[offset:until]), "data is in a hole"


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def same(expected: dict[str, Node], found: dict[str, Node]) -> None:
    """Raise unless two trees are the same, saying shortly where they are not."""
    problems = [
        f"{path}: {_short(found.get(path))} on the mount, not {_short(expected.get(path))}"
        for path in sorted({*expected, *found})
        if expected.get(path) != found.get(path)
    ]
    for path, right in expected.items():
        there = found.get(path)
        if there and right.content is not None and there.content not in {None, right.content}:
            problems.append(f"{path}: {_first_difference(right.content, there.content or b'')}")
    assert not problems, "\n".join(problems)


def _short(node: Node | None) -> str:
    if node is None:
        return "nothing"
    return " ".join((stat.filemode(node.kind)[0], "of", str(node.size), *node.attributes))


def _first_difference(expected: bytes, found: bytes) -> str:
    at = next(
        (at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    return f"differs from {at} on: {found[at : at + 8]!r}, not {expected[at : at + 8]!r}"


def write_mapped(fd: int, offset: int, data: bytes) -> None:
    """Write through a memory map, as far as the file goes."""
    end = min(offset + len(data), os.fstat(fd).st_size)
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    if offset < end:
        with mmap.mmap(fd, end - start, offset=start) as mapped:
            mapped[offset - start : end - start] = data[: end - offset]
            mapped.flush()


def copy_range(source: int, sink: int, start: int, place: int, size: int) -> int:
    """Copy with copy_file_range(2) until there is nothing more; return how much that was."""
    done = 0
    while done < size:
        step = os.copy_file_range(source, sink, size - done, start + done, place + done)
        if not step:
            break
        done += step
    return done


def fallocate_changes(file: Opened, mode: int, offset: int, length: int) -> bool:
    """Tell whether fallocate would change a byte of a file, or its size."""
    return offset < file.size if mode & PUNCH_HOLE else not mode and offset + length > file.size


def zero_range(file: Opened, offset: int, size: int, *, keep: bool) -> None:
    """Make zeros, on the model's side by writing them: not every file system knows the other."""
    end = min(offset + size, file.size) if keep else offset + size
    if offset < end:
        os.pwrite(file.model, bytes(end - offset), offset)
    fallocate(file.mount, ZERO_RANGE | (KEEP_SIZE if keep else 0), offset, size)
