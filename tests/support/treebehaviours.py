"""What programs rely on in a directory: removing, renaming and copying, and names of all kinds."""

import os
from pathlib import Path

from support.conformance import Behaviour, errno_of, shell
from support.pattern import pattern

__all__ = ["TREE_BEHAVIOURS"]

MIB = 1 << 20


def _names(place: Path) -> list[str]:
    return sorted(os.listdir(place))  # noqa: PTH208  names, not paths


def _tree(place: Path) -> dict[str, str]:
    """Return what is below a directory: `/` for a directory, else the text."""
    return {
        str(path.relative_to(place)): "/" if path.is_dir() else path.read_text()
        for path in sorted(place.rglob("*"))
    }


# -- removing, renaming, copying -------------------------------------------------------------------


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


def remove_a_tree(place: Path) -> object:
    for name in ("a/b/c/1", "a/b/2", "a/3"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return shell("rm -r a; ls", place)


def move_files(place: Path) -> object:
    (place / "d").mkdir()
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    failed = shell("mv a c; mv c d; mv b d/c2; mv d/c2 d/c; touch e; mv -n e d/c; rm -f e", place)
    return failed, _tree(place)


def move_trees(place: Path) -> object:
    for name in ("tree/one/1", "tree/one/2", "tree/two/deep/3", "other/4"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    (place / "tree/empty").mkdir()
    failed = shell("mv tree moved; mv moved/one/2 moved/two; mv moved other/; rmdir tree", place)
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


def copy_a_tree(place: Path) -> object:
    for number in range(12):
        path = place / "tree" / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(number * 10_000))
    (place / "tree/empty").mkdir()
    return shell("cp -r tree copy && diff -r tree copy && du -a copy | wc -l", place)


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
        shell("ls -a | head -n 2; ls | wc -l; find . -type d | sort", place),
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


TREE_BEHAVIOURS = (
    Behaviour(unlink_what_is_being_written, ([], b"first and more", b"second")),
    Behaviour(unlink_what_is_read, ("ok", [])),
    Behaviour(remove_a_tree, ""),
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
    Behaviour(copy_a_tree, "17\n"),
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
)  # fmt: skip
"""Of every mount."""
