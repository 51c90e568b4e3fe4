"""What programs rely on, as a list: each behaviour is a function that looks, and what it must see.

Each function gets an empty directory of a mount and returns what it observed, in plain values. The
same list runs on every engine, and where a local file system does the same, on one of those, too:
that is what keeps the list itself honest.
"""

import errno
import fcntl
import multiprocessing
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from support.pattern import pattern

__all__ = ["BEHAVIOURS", "POSIX_BEHAVIOURS", "Behaviour", "errno_of", "expectations", "observe"]

MIB = 1 << 20


class Behaviour(NamedTuple):
    """A behaviour: how to look, and what is to be seen.

    Attributes:
        look: makes what it needs in an empty directory, and returns what it observed.
        expected: what that must be.
        local: whether a local file system does the same.
    """

    look: Callable[[Path], object]
    expected: object
    local: bool = True

    @property
    def name(self) -> str:
        """What it is called: as the function is."""
        return self.look.__name__


def observe(root: Path, behaviours: Iterable[Behaviour]) -> dict[str, object]:
    """Look at all behaviours, each in a directory of its own below `root`."""
    seen: dict[str, object] = {}
    for behaviour in behaviours:
        place = root / behaviour.name
        place.mkdir()
        try:
            seen[behaviour.name] = behaviour.look(place)
        except Exception as error:  # noqa: BLE001  that, too, is an observation
            seen[behaviour.name] = f"{type(error).__name__}: {error}"
    return seen


def errno_of(call: Callable[..., object], *arguments: object) -> str:
    """Return the name of the errno that a call fails with; `ok` if it does not."""
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if call is os.open:
        os.close(int(str(result)))
    return "ok"


def _shell(script: str, place: Path, *words: object) -> str:
    """Run a script in a directory; return what it printed, and how it failed, if it did."""
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *map(str, words)],
        cwd=place, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")


def _names(place: Path) -> list[str]:
    return sorted(os.listdir(place))  # noqa: PTH208  names, not paths


def _tree(place: Path) -> dict[str, str]:
    """Return what is below a directory: `/` for a directory, else the text."""
    return {
        str(path.relative_to(place)): "/" if path.is_dir() else path.read_text()
        for path in sorted(place.rglob("*"))
    }


# -- writing -------------------------------------------------------------------------------------


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
    failed = _shell(f"{both}; sort -o log log", place)
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
    return _shell(
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


def read_what_is_being_written(place: Path) -> object:
    """By the same descriptor, by another one, and by its size."""
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(b"written, not closed")
        by_itself = os.pread(file.fileno(), 7, 0)
        return by_itself, (place / "file").read_bytes(), (place / "file").stat().st_size


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
    return _shell("exec >out; echo a; sh -c 'echo b'; /bin/echo c; exec >&2; cat out >&1", place)


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


# -- removing and renaming -------------------------------------------------------------------------


def unlink_what_is_being_written(place: Path) -> object:
    """It goes on, leads nowhere, and the name is free."""
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(b"first")
        (place / "file").unlink()
        names = _names(place)
        file.write(b" and more")
        (place / "file").write_bytes(b"second")
        data = os.pread(file.fileno(), 100, 0)
    return names, data, (place / "file").read_bytes()


def unlink_what_is_read(place: Path) -> object:
    """It is fetched before it is removed, unless it is too large."""
    (place / "file").write_bytes(pattern(9 * MIB))
    with (place / "file").open("rb", buffering=0) as file:
        (place / "file").unlink()
        return errno_of(os.pread, file.fileno(), 100, 8 * MIB), _names(place)


def move_files(place: Path) -> object:
    (place / "d").mkdir()
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    failed = _shell("mv a c; mv c d; mv b d/c2; mv d/c2 d/c; touch e; mv -n e d/c; rm -f e", place)
    return failed, _tree(place)


def move_trees(place: Path) -> object:
    for name in ("tree/one/1", "tree/one/2", "tree/two/deep/3", "other/4"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    (place / "tree/empty").mkdir()
    failed = _shell("mv tree moved; mv moved/one/2 moved/two; mv moved other/; rmdir tree", place)
    return failed.replace("rmdir: failed to remove 'tree': ", ""), _tree(place)


def rename_what_is_being_written(place: Path) -> object:
    with (place / "file").open("wb", buffering=0) as file:
        file.write(b"before, ")
        (place / "file").rename(place / "moved")
        file.write(b"after")
        size = os.fstat(file.fileno()).st_size
    return size, _tree(place)


def rename_refused(place: Path) -> object:
    for name in ("full/below", "empty", "file"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).mkdir() if name != "file" else (place / name).touch()
    pairs = (("missing", "x"), ("empty", "full"), ("full", "full/below/x"), ("file", "empty"),
             ("empty", "file"), ("file", "missing/x"), ("file", "file/x"), ("file", "file"),
             ("empty", "full/below"), ("file", "x" * 256))  # fmt: skip
    return [errno_of(os.rename, place / old, place / new) for old, new in pairs]


# -- names -----------------------------------------------------------------------------------------


def read_a_directory(place: Path) -> object:
    """More names than come at once; types; and a look again from the beginning, and in parts."""
    names = [f"{number:03d}" * 50 for number in range(40)]
    for name in names:
        (place / name).touch()
    (place / "directory").mkdir()
    with os.scandir(place) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    again = _names(place)
    (place / names[7]).unlink()
    return (
        [name for name, is_directory in found.items() if is_directory],
        sorted(found) == again == [*names, "directory"],
        len(_names(place)),
        _shell("ls -a | head -n 2; ls | wc -l; find . -type d | sort", place),
    )


def names_of_all_kinds(place: Path) -> object:
    names = ["x" * 255, "ü" * 127, "with space", "-dash", "%41+&=#?", "\u202e\u2067", "😀" * 63]
    for name in names:
        (place / name).write_text(name)
        (place / name).rename(place / f"{name[:-1]}~")
    return _names(place) == sorted(f"{name[:-1]}~" for name in names)


def names_that_cannot_be(place: Path) -> object:
    """A local file system takes what is not UTF-8; an object's key cannot be it."""
    bad = (b"x" * 256, b"\xff\xfe", b"ok\xc3", "ü".encode() * 128)
    flags = os.O_WRONLY | os.O_CREAT
    paths = [bytes(place) + b"/" + name for name in bad]
    return [
        [errno_of(call, path) for path in paths]
        for call in (lambda path: os.open(path, flags), os.mkdir, os.stat, os.unlink)
    ] + [_names(place)]


def too_long_for_a_key(place: Path) -> object:
    path = place
    seen = []
    for _ in range(6):
        path /= "d" * 250
        seen.append(errno_of(os.mkdir, path))
    return list(dict.fromkeys(seen))


def refusals(place: Path) -> object:
    """One errno for each mistake."""
    (place / "file").write_text("x")
    (place / "full").mkdir()
    (place / "full/x").touch()
    file, full, missing = place / "file", place / "full", place / "missing"
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return {
        "mkdir over a file": errno_of(os.mkdir, file),
        "mkdir twice": errno_of(os.mkdir, full),
        "mkdir below what is missing": errno_of(os.mkdir, missing / "x"),
        "mkdir below a file": errno_of(os.mkdir, file / "x"),
        "rmdir of what is full": errno_of(os.rmdir, full),
        "rmdir of a file": errno_of(os.rmdir, file),
        "rmdir of what is missing": errno_of(os.rmdir, missing),
        "unlink of a directory": errno_of(os.unlink, full),
        "unlink of what is missing": errno_of(os.unlink, missing),
        "open of what is missing": errno_of(os.open, missing, os.O_RDONLY),
        "open of a directory to write": errno_of(os.open, full, os.O_WRONLY),
        "open below a file": errno_of(os.open, file / "x", os.O_RDONLY),
        "create what is there": errno_of(os.open, file, exclusive),
        "truncate of a directory": errno_of(os.truncate, full, 0),
        "truncate of what is missing": errno_of(os.truncate, missing, 0),
        "chmod of what is missing": errno_of(os.chmod, missing, 0o600),
        "times of what is missing": errno_of(os.utime, missing, (1, 1)),
        "list a file": errno_of(os.listdir, file),
        "link": errno_of(os.link, missing, place / "x"),
        "too large": errno_of(os.truncate, file, 1 << 62),
    }


def read_and_write_the_wrong_way(place: Path) -> object:
    (place / "file").write_text("x")
    seen = []
    for flags, call in ((os.O_RDONLY, lambda fd: os.write(fd, b"y")),
                        (os.O_WRONLY, lambda fd: os.read(fd, 1))):  # fmt: skip
        descriptor = os.open(place / "file", flags)
        seen.append(errno_of(call, descriptor))
        os.close(descriptor)
    return seen


def remove_a_tree(place: Path) -> object:
    for name in ("a/b/c/1", "a/b/2", "a/3"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return _shell("rm -r a; ls", place)


def copy_a_tree(place: Path) -> object:
    for number in range(12):
        path = place / "tree" / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(number * 10_000))
    (place / "tree/empty").mkdir()
    return _shell("cp -r tree copy && diff -r tree copy && du -a copy | wc -l", place)


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
    failed = _shell("touch -a -d @7 file", place)
    kept = file.stat()
    failed += _shell("install -m 600 file copy; cp -p file kept; tar c file | tar xp", place)
    return oct(found.st_mode), times, (kept.st_atime, kept.st_mtime), failed


def locks(place: Path) -> object:
    """By flock(2) and by fcntl(2), between processes."""
    with (place / "file").open("w") as file:
        seen = [_shell("flock -n file true", place)]
        fcntl.flock(file, fcntl.LOCK_EX)
        seen.append(_shell("flock -n file true", place))
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX)
        script = "import fcntl; fcntl.lockf(open('file', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        seen.append(_shell('python3 -c "$1" 2>&1 | tail -n 1', place, script))
        return seen


def programs_run_from_it(place: Path) -> object:
    (place / "package").mkdir()
    (place / "package/__init__.py").write_text("VALUE = 42\n")
    (place / "__main__.py").write_text("import package; print(package.VALUE)\n")
    return _shell(
        "python3 . && python3 . && cp /bin/true . && chmod 755 true && ./true"
        "; rm -r __pycache__ package/__pycache__",
        place,
    )


def change_in_place(place: Path) -> object:
    (place / "file").write_text("one\ntwo\nthree\n")
    return _shell(
        "sed -i s/two/2/ file; printf X | dd of=file bs=1 seek=4 conv=notrunc status=none;"
        "gzip file; gzip -d file.gz; cp --sparse=always file sparse; truncate -s 5 sparse;"
        "cat file sparse; ls",
        place,
    )


BEHAVIOURS = (
    Behaviour(append, "one\ntwo\nthree\n"),
    Behaviour(append_by_two_descriptors, "1a 2a 1b 2b 1c 2c "),
    Behaviour(append_by_two_processes, ("", True)),
    Behaviour(truncate, [(4, b"0123"), (8, b"0123\0\0\0\0"), (0, b""), (3, b"\0\0\0")]),
    Behaviour(truncate_what_is_open, ([4, 4], b"0123\0\0\0\0\0\0xy")),
    Behaviour(replace_what_is_read, (b"bef", b"ore", b"after, and longer"), local=False),
    Behaviour(redirects, "5\n1\n0\na\nb\nc\nx\ny\nz\n"),
    Behaviour(holes, (3 * MIB + 3, b"middle", b"end", 0, 0)),
    Behaviour(change_in_the_middle, (b"changed", True)),
    Behaviour(read_what_is_being_written, (b"written", b"written, not closed", 19)),
    Behaviour(synchronize, 1000),
    Behaviour(inherited_by_a_child, "a\nb\nc\n"),
    Behaviour(write_side_by_side, [True, True]),
    Behaviour(unlink_what_is_being_written, ([], b"first and more", b"second")),
    Behaviour(unlink_what_is_read, ("ok", [])),
    Behaviour(move_files, ("", {"d": "/", "d/c": "b"})),
    Behaviour(
        move_trees,
        ("No such file or directory\nstatus 1", {
            "other": "/", "other/4": "other/4", "other/moved": "/", "other/moved/empty": "/",
            "other/moved/one": "/", "other/moved/one/1": "tree/one/1", "other/moved/two": "/",
            "other/moved/two/2": "tree/one/2", "other/moved/two/deep": "/",
            "other/moved/two/deep/3": "tree/two/deep/3",
        }),
    ),
    Behaviour(rename_what_is_being_written, (13, {"moved": "before, after"})),
    Behaviour(rename_refused, [
        "ENOENT", "ENOTEMPTY", "EINVAL", "EISDIR", "ENOTDIR", "ENOENT", "ENOTDIR", "ok", "ok",
        "ENAMETOOLONG",
    ]),
    Behaviour(read_a_directory, (
        ["directory"], True, 40, ".\n..\n40\n.\n./directory\n",
    )),
    Behaviour(names_of_all_kinds, True),
    Behaviour(names_that_cannot_be, [
        *[["ENAMETOOLONG", "EILSEQ", "EILSEQ", "ENAMETOOLONG"]] * 4, [],
    ], local=False),
    Behaviour(too_long_for_a_key, ["ok", "ENAMETOOLONG"], local=False),
    Behaviour(refusals, {
        "mkdir over a file": "EEXIST",
        "mkdir twice": "EEXIST",
        "mkdir below what is missing": "ENOENT",
        "mkdir below a file": "ENOTDIR",
        "rmdir of what is full": "ENOTEMPTY",
        "rmdir of a file": "ENOTDIR",
        "rmdir of what is missing": "ENOENT",
        "unlink of a directory": "EISDIR",
        "unlink of what is missing": "ENOENT",
        "open of what is missing": "ENOENT",
        "open of a directory to write": "EISDIR",
        "open below a file": "ENOTDIR",
        "create what is there": "EEXIST",
        "truncate of a directory": "EISDIR",
        "truncate of what is missing": "ENOENT",
        "chmod of what is missing": "ENOENT",
        "times of what is missing": "ENOENT",
        "list a file": "ENOTDIR",
        "link": "ENOENT",
        "too large": "EFBIG",
    }),
    Behaviour(read_and_write_the_wrong_way, ["EBADF", "EBADF"]),
    Behaviour(remove_a_tree, ""),
    Behaviour(copy_a_tree, "17\n"),
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
    Behaviour(change_in_place, "one\nX\nthree\none\nXfile\nsparse\n"),
)  # fmt: skip
"""Of every mount."""


# -- with -o posix ---------------------------------------------------------------------------------


def _shown(path: Path) -> tuple[str, int, int]:
    found = path.lstat()
    return oct(found.st_mode), found.st_uid, found.st_gid


def keep_modes_and_owners(place: Path) -> object:
    (place / "file").touch(mode=0o604)
    (place / "directory").mkdir(mode=0o711)
    before = [_shown(place / name) for name in ("file", "directory")]
    os.chown(place / "file", 1234, 5678)
    os.chown(place / "directory", 1234, -1)
    (place / "file").chmod(0o4751)
    (place / "directory").chmod(0o1777)
    return before, [_shown(place / name) for name in ("file", "directory")]


def keep_times(place: Path) -> object:
    """To the nanosecond; either alone; and by what is open."""
    file = place / "file"
    file.write_text("x")
    os.utime(file, ns=(1_000_000_000_123_456_789, 1_111_111_111_987_654_321))
    seen = [(file.stat().st_atime_ns, file.stat().st_mtime_ns)]
    failed = _shell("touch -a -d @7.25 file; touch -m -d @8.5 file", place)
    seen.append((file.stat().st_atime_ns, file.stat().st_mtime_ns))
    descriptor = os.open(file, os.O_RDWR)
    os.utime(descriptor, ns=(10, 20))
    os.close(descriptor)
    return [*seen, (file.stat().st_atime_ns, file.stat().st_mtime_ns)], failed


def symbolic_links(place: Path) -> object:
    (place / "directory").mkdir()
    (place / "directory/file").write_text("found")
    targets = {"link": "directory/file", "broken": "nowhere", "up": "directory/../link",
               "long": "directory/" + "./" * 2000 + "file", "ü": "directory"}  # fmt: skip
    for name, target in targets.items():
        (place / name).symlink_to(target)
    return {
        "targets": {name: os.readlink(place / name) for name in targets} == targets,  # noqa: PTH115
        "kind": stat.S_ISLNK((place / "link").lstat().st_mode),
        "size": (place / "link").lstat().st_size,
        "read": [(place / name).read_text() for name in ("link", "up", "long", "ü/file")],
        "broken": errno_of(os.stat, place / "broken"),
        "no link": errno_of(os.readlink, place / "directory"),
        "there": errno_of(os.symlink, "x", place / "link"),
        "types": sorted(entry.name for entry in os.scandir(place) if entry.is_symlink()),
        "removed": (errno_of(os.unlink, place / "link"), (place / "directory/file").read_text()),
    }


def special_files(place: Path) -> object:
    os.mkfifo(place / "fifo", 0o620)
    os.mknod(place / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(place / "socket", 0o600 | stat.S_IFSOCK)
    device = (place / "device").stat()
    return (
        [oct((place / name).stat().st_mode) for name in ("fifo", "device", "socket")],
        (os.major(device.st_rdev), os.minor(device.st_rdev)),
        _shell("(echo through >fifo) & cat fifo; wait", place),
    )


def extended_attributes(place: Path) -> object:
    file = place / "file"
    file.write_text("x")
    empty = os.listxattr(file)
    os.setxattr(file, "user.one", b"1\0\xff")
    os.setxattr(file, "user.two", b"")
    create, replace = os.XATTR_CREATE, os.XATTR_REPLACE
    refused = [
        errno_of(os.setxattr, file, "user.one", b"", create),
        errno_of(os.setxattr, file, "user.three", b"", replace),
        errno_of(os.getxattr, file, "user.three"),
        errno_of(os.removexattr, file, "user.three"),
        errno_of(os.setxattr, file, "other.name", b""),
    ]
    seen = {name: os.getxattr(file, name) for name in os.listxattr(file)}
    os.setxattr(file, "user.one", b"2", replace)
    os.removexattr(file, "user.two")
    return empty, refused, seen, {name: os.getxattr(file, name) for name in os.listxattr(file)}


def too_many_attributes(place: Path) -> object:
    """S3 has 2 KiB for all that is kept of an object."""
    (place / "file").touch()
    return errno_of(os.setxattr, place / "file", "user.large", b"x" * 3000)


def copy_with_everything(place: Path) -> object:
    """What cp -a and tar keep, and what rsync finds to be the same the second time."""
    tree = place / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("text")
    (tree / "link").symlink_to("sub/file")
    os.mkfifo(tree / "fifo")
    (tree / "sub/file").chmod(0o640)
    os.chown(tree / "sub/file", 11, 22)
    for name in ("sub/file", "sub"):
        os.utime(tree / name, ns=(3_000_000_005, 4_000_000_006))
    failed = _shell(
        "cp -a tree copy; mkdir untarred; tar c -C tree . | tar xp -C untarred;"
        "rsync -a tree/ synced/; rsync -ai tree/ synced/",
        place,
    )
    names = ("sub", "sub/file", "link", "fifo")
    want = [(_shown(tree / name), (tree / name).lstat().st_mtime) for name in names]
    return failed, [
        copy
        for copy in ("copy", "untarred", "synced")
        if [(_shown(place / copy / n), int((place / copy / n).lstat().st_mtime)) for n in names]
        != [(shown, int(mtime)) for shown, mtime in want]
    ]


def as_another(place: Path) -> object:
    """The kernel holds others to the modes, and takes setuid away when they write."""
    place.chmod(0o777)
    for name, mode in (("private", 0o600), ("program", 0o6777)):
        (place / name).write_text(name)
        (place / name).chmod(mode)
    shell = "setpriv --reuid=1234 --regid=1234 --clear-groups sh -c '{}'"
    inner = "cat private 2>/dev/null || echo refused; echo x >>program; echo new >new"
    printed = _shell(shell.format(f"{inner}; umask 077; mkdir d"), place)
    return printed, [_shown(place / name) for name in ("program", "new", "d")]


POSIX_BEHAVIOURS = (
    Behaviour(keep_modes_and_owners, (
        [("0o100604", 0, 0), ("0o40711", 0, 0)], [("0o104751", 1234, 5678), ("0o41777", 1234, 0)],
    )),
    Behaviour(keep_times, (
        [(1_000_000_000_123_456_789, 1_111_111_111_987_654_321),
         (7_250_000_000, 8_500_000_000), (10, 20)], "",
    )),
    Behaviour(symbolic_links, {
        "targets": True, "kind": True, "size": 14, "read": ["found"] * 4, "broken": "ENOENT",
        "no link": "EINVAL", "there": "EEXIST", "types": ["broken", "link", "long", "up", "ü"],
        "removed": ("ok", "found"),
    }),
    Behaviour(special_files, (["0o10600", "0o20600", "0o140600"], (1, 3), "through\n")),
    Behaviour(extended_attributes, (
        [], ["EEXIST", "ENODATA", "ENODATA", "ENODATA", "ENOTSUP"],
        {"user.one": b"1\0\xff", "user.two": b""}, {"user.one": b"2"},
    )),
    Behaviour(too_many_attributes, "ENOSPC", local=False),
    Behaviour(copy_with_everything, ("", [])),
    Behaviour(as_another, (
        "refused\n", [("0o100777", 0, 0), ("0o100644", 1234, 1234), ("0o40700", 1234, 1234)],
    )),
)  # fmt: skip
"""Of a mount with -o posix, beside the others."""


def expectations(behaviours: Iterable[Behaviour]) -> Mapping[str, object]:
    """Return what is to be seen, by name."""
    return {behaviour.name: behaviour.expected for behaviour in behaviours}
