"""What programs rely on with -o posix: modes, owners, times, links and what else a file has."""

import os
import stat
from pathlib import Path

from support.conformance import Behaviour, errno_of, shell

__all__ = ["POSIX_BEHAVIOURS"]


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
    failed = shell("touch -a -d @7.25 file; touch -m -d @8.5 file", place)
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
        shell("(echo through >fifo) & cat fifo; wait", place),
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
    failed = shell(
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
    another = "setpriv --reuid=1234 --regid=1234 --clear-groups sh -c '{}'"
    inner = "cat private 2>/dev/null || echo refused; echo x >>program; echo new >new"
    printed = shell(another.format(f"{inner}; umask 077; mkdir d"), place)
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
