"""What programs rely on in one file: what is written to it, its attributes, its locks."""

import fcntl
import multiprocessing
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.conformance import Behaviour, errno_of, shell
from support.pattern import pattern

__all__ = ["FILE_BEHAVIOURS"]

MIB = 1 << 20


# -- writing ---------------------------------------------------------------------------------------


def append(place: Path) -> object:
    file = place / "log"
    for word in ("one", "two", "three"):
        with file.open("a") as log:
            log.write(f"{word}\n")
    return file.read_text()


def append_by_two_descriptors(place: Path) -> object:
    """Each write goes to the end as it is by then."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    first, second = (os.open(place / "log", flags) for _ in range(2))
    for word in ("a", "b", "c"):
        os.write(first, f"1{word} ".encode())
        os.write(second, f"2{word} ".encode())
    os.close(first)
    os.close(second)
    return (place / "log").read_text()


def append_by_two_processes(place: Path) -> object:
    """No line is lost, and none is mixed with another."""
    script = 'for n in $(seq 20); do echo "$1 $n" >&9; done'
    both = f"exec 9>>log; (sh -c '{script}' sh a) & (sh -c '{script}' sh b) & wait"
    failed = shell(f"{both}; sort -o log log", place)
    lines = (place / "log").read_text().splitlines()
    return failed, sorted(lines) == sorted(f"{who} {n}" for who in "ab" for n in range(1, 21))


def truncate(place: Path) -> object:
    file = place / "file"
    file.write_bytes(b"0123456789")
    seen = []
    for size in (4, 8, 0, 3):
        os.truncate(file, size)
        seen.append((file.stat().st_size, file.read_bytes()))
    return seen


def truncate_what_is_open(place: Path) -> object:
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(b"0123456789")
        file.truncate(4)
        sizes = [os.fstat(file.fileno()).st_size, (place / "file").stat().st_size]
        file.write(b"xy")  # at 10: where the descriptor is, not at the end
        return sizes, os.pread(file.fileno(), 100, 0)


def replace_what_is_read(place: Path) -> object:
    """A reader goes on with what the file was; a local file system has one file for both."""
    file = place / "file"
    file.write_bytes(b"before")
    with file.open("rb", buffering=0) as reader:
        first = reader.read(3)
        file.write_bytes(b"after, and longer")
        return first, reader.read(), file.read_bytes()


def redirects(place: Path) -> object:
    return shell(
        "echo one >out; echo two >>out; { echo three; echo four; } >>out; ls missing 2>err || :;"
        "cat out - >all <<END\nfive\nEND\nwc -l <all; grep -c missing err; : >out; wc -c <out;"
        "(echo a; (echo b); echo c) | tee copy | tr abc xyz >tr; cat copy tr",
        place,
    )


def holes(place: Path) -> object:
    with (place / "file").open("w+b", buffering=0) as file:
        file.seek(3 * MIB)
        file.write(b"end")
        file.seek(MIB)
        file.write(b"middle")
    data = (place / "file").read_bytes()
    return len(data), data[MIB : MIB + 6], data[-3:], sum(data[:MIB]), sum(data[MIB + 6 : -3])


def change_in_the_middle(place: Path) -> object:
    content = bytearray(pattern(6 * MIB))
    (place / "file").write_bytes(content)
    with (place / "file").open("r+b", buffering=0) as file:
        for offset in (5 * MIB + 17, 11, 2 * MIB):
            os.pwrite(file.fileno(), b"changed", offset)
            content[offset : offset + 7] = b"changed"
        during = os.pread(file.fileno(), 7, 11)
    return during, (place / "file").read_bytes() == content


def change_in_place(place: Path) -> object:
    (place / "file").write_text("one\ntwo\nthree\n")
    return shell(
        "sed -i s/two/2/ file; printf X | dd of=file bs=1 seek=4 conv=notrunc status=none;"
        "gzip file; gzip -d file.gz; cp --sparse=always file sparse; truncate -s 5 sparse;"
        "cat file sparse; ls",
        place,
    )


def read_what_is_being_written(place: Path) -> object:
    """By the same descriptor, by another one, and by its size."""
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(b"written, not closed")
        by_itself = os.pread(file.fileno(), 7, 0)
        return by_itself, (place / "file").read_bytes(), (place / "file").stat().st_size


def read_and_write_the_wrong_way(place: Path) -> object:
    (place / "file").write_text("x")
    seen = []
    for flags, call in ((os.O_RDONLY, lambda fd: os.write(fd, b"y")),
                        (os.O_WRONLY, lambda fd: os.read(fd, 1))):  # fmt: skip
        descriptor = os.open(place / "file", flags)
        seen.append(errno_of(call, descriptor))
        os.close(descriptor)
    return seen


def synchronize(place: Path) -> object:
    descriptor = os.open(place / "file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x" * 1000)
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    directory = os.open(place, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    os.close(descriptor)
    return (place / "file").stat().st_size


def inherited_by_a_child(place: Path) -> object:
    """What several processes write to one descriptor is one file."""
    return shell("exec >out; echo a; sh -c 'echo b'; /bin/echo c; exec >&2; cat out >&1", place)


def _write_lines(path: Path, number: int) -> None:
    with path.open("r+b", buffering=0) as file:
        for line in range(number, 40, 4):
            os.pwrite(file.fileno(), f"{line:09d}\n".encode(), line * 10)


def write_side_by_side(place: Path) -> object:
    """Four threads, and then four processes, each a quarter of the lines of one file."""
    makers: tuple[Callable[..., Any], ...] = (
        threading.Thread,
        multiprocessing.get_context("fork").Process,
    )
    expected = b"".join(b"%09d\n" % line for line in range(40))
    seen = []
    for number, make in enumerate(makers):
        path = place / f"file{number}"
        path.touch()
        with path.open("r+b"):  # they write one version together
            writers = [make(target=_write_lines, args=(path, n)) for n in range(4)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
        seen.append(path.read_bytes() == expected)
    return seen


# -- attributes, locks, programs -------------------------------------------------------------------


def attributes(place: Path) -> object:
    (place / "file").write_bytes(b"x" * 1025)
    file, directory = (place / "file").stat(), place.stat()
    numbers = {entry.name: entry.inode() for entry in os.scandir(place)}
    volume = os.statvfs(place)
    return {
        "types": [stat.S_ISREG(file.st_mode), stat.S_ISDIR(directory.st_mode)],
        "size": (file.st_size, file.st_blocks >= 3, file.st_nlink),
        "times": abs(file.st_mtime - directory.st_mtime) < 86400,
        "numbers": numbers["file"] == file.st_ino != directory.st_ino,
        "longest name": volume.f_namemax,
        "space": volume.f_bavail > 0,
    }


def modes_and_times_right_after(place: Path) -> object:
    """What install, cp -p and tar look at in the same moment."""
    file = place / "file"
    file.touch()
    file.chmod(0o640)
    os.utime(file, ns=(1_000_000_001_000_000_000, 1_111_111_111_000_000_000))
    found = file.stat()
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(file, ns=(5_000_000_000, 6_000_000_000))
    failed = shell("touch -a -d @7 file", place)
    kept = file.stat()
    failed += shell("install -m 600 file copy; cp -p file kept; tar c file | tar xp", place)
    return oct(found.st_mode), times, (kept.st_atime, kept.st_mtime), failed


def locks(place: Path) -> object:
    """By flock(2) and by fcntl(2), between processes."""
    with (place / "file").open("w") as file:
        seen = [shell("flock -n file true", place)]
        fcntl.flock(file, fcntl.LOCK_EX)
        seen.append(shell("flock -n file true", place))
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX)
        script = "import fcntl; fcntl.lockf(open('file', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        seen.append(shell('python3 -c "$1" 2>&1 | tail -n 1', place, script))
        return seen


def programs_run_from_it(place: Path) -> object:
    (place / "package").mkdir()
    (place / "package/__init__.py").write_text("VALUE = 42\n")
    (place / "__main__.py").write_text("import package; print(package.VALUE)\n")
    return shell(
        "python3 . && python3 . && cp /bin/true . && chmod 755 true && ./true"
        "; rm -r __pycache__ package/__pycache__",
        place,
    )


FILE_BEHAVIOURS = (
    Behaviour(append, "one\ntwo\nthree\n"),
    Behaviour(append_by_two_descriptors, "1a 2a 1b 2b 1c 2c "),
    Behaviour(append_by_two_processes, ("", True)),
    Behaviour(truncate, [(4, b"0123"), (8, b"0123\0\0\0\0"), (0, b""), (3, b"\0\0\0")]),
    Behaviour(truncate_what_is_open, ([4, 4], b"0123\0\0\0\0\0\0xy")),
    Behaviour(replace_what_is_read, (b"bef", b"ore", b"after, and longer"), local=False),
    Behaviour(redirects, "5\n1\n0\na\nb\nc\nx\ny\nz\n"),
    Behaviour(holes, (3 * MIB + 3, b"middle", b"end", 0, 0)),
    Behaviour(change_in_the_middle, (b"changed", True)),
    Behaviour(change_in_place, "one\nX\nthree\none\nXfile\nsparse\n"),
    Behaviour(read_what_is_being_written, (b"written", b"written, not closed", 19)),
    Behaviour(read_and_write_the_wrong_way, ["EBADF", "EBADF"]),
    Behaviour(synchronize, 1000),
    Behaviour(inherited_by_a_child, "a\nb\nc\n"),
    Behaviour(write_side_by_side, [True, True]),
    Behaviour(attributes, {
        "types": [True, True],
        "size": (1025, True, 1),
        "times": True,
        "numbers": True,
        "longest name": 255,
        "space": True,
    }),
    Behaviour(modes_and_times_right_after, (
        "0o100640", (1_000_000_001_000_000_000, 1_111_111_111_000_000_000), (7, 6), "",
    )),
    Behaviour(locks, ["", "status 1", "BlockingIOError: [Errno 11] "
                      "Resource temporarily unavailable\n"]),
    Behaviour(programs_run_from_it, "42\n42\n"),
)  # fmt: skip
"""Of every mount."""
