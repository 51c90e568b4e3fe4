"""Names and keys: what can be said in both languages, and what becomes of the rest."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, run
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

# What a program may call a file. All of it is text, since keys are.
NAMES = {
    "plain": "name",
    "255 bytes": "n" * 255,
    "255 bytes of 127 letters": "é" * 127 + "x",
    "space": " a  b ",
    "newline": "a\nb",
    "tab and control": "a\t\x01\x7fb",
    "unicode": "ünïcödé-日本語-🪣",
    "combining": "e\N{COMBINING ACUTE ACCENT}",
    "plus": "a+b c",
    "percent": "100%41",
    "query": "a?b=c&d=e",
    "fragment": "a#b",
    "leading dot": ".hidden",
    "three dots": "...",
    "trailing dot": "dots..",
    "backslash": "a\\b",
    "quotes": 'it\'s "quoted"',
    "colon": "a:b",
    "semicolon": "a;b,c",
    "brackets": "[a]{b}<c>",
    "tilde": "~a^b`c|d",
    "dash": "-rf",
    "star": "*",
    "dollar and at": "$a@b!",
}


def test_any_name_makes_the_round_trip(bucket: Bucket) -> None:
    """[S1] Each slash of a key, below the mounted prefix, separates a directory from what is in
    it.
    """
    # Nobody can see what a server cannot have.
    lacks = "\n" if "no-newline" in bucket.store.quirks else "/"
    names = {case: name for case, name in NAMES.items() if lacks not in name}
    with Mount(bucket) as mnt:
        for case, name in names.items():
            (mnt / name).mkdir()
            (mnt / name / name).write_bytes(name.encode())
            assert mnt.names(name) == [name], case
            assert bucket.get(f"{name}/{name}") == name.encode(), case
            (mnt / f"{name}/{name}").unlink()
            (mnt / name).rmdir()
            assert bucket.keys() == [], case
        bucket.put_many((f"{name}/theirs", case.encode()) for case, name in names.items())
    with Mount(bucket) as fresh:
        for case, name in names.items():
            assert (fresh / name / "theirs").read_bytes() == case.encode()
        assert fresh.names() == sorted(names.values())


def test_names_that_are_too_long(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        for name in ("n" * 256, "é" * 128):
            with pytest.raises(OSError, match="too long") as refused:
                (mnt / name).write_bytes(b"1")
            assert refused.value.errno == errno.ENAMETOOLONG
        # Each part would do, but a key has 1,024 bytes at most.
        deep = "/".join(["d" * 250] * 4)
        (mnt / deep).mkdir(parents=True)
        (mnt / deep / ("n" * 20)).write_bytes(b"1")
        with pytest.raises(OSError, match="too long"):
            (mnt / deep / ("n" * 21)).write_bytes(b"1")
        with pytest.raises(OSError, match="too long"):
            (mnt / deep / ("m" * 20)).mkdir()  # a marker's key has a slash more
        assert len(max(bucket.keys(), key=len)) == 1024


def test_longest_key(bucket: Bucket) -> None:
    key = "/".join(["d" * 250] * 4) + "/" + "n" * 20
    assert len(key) == 1024
    bucket.put(key, b"1")
    with Mount(bucket) as mnt:
        assert (mnt / key).read_bytes() == b"1"  # and not because a listing had it
        (mnt / key).write_bytes(b"2")
        assert bucket.get(key) == b"2"


def test_names_that_are_not_text(bucket: Bucket) -> None:
    """[S5] A name that is not UTF-8 gives EILSEQ; one of more than 255 bytes, or whose key would
    have more than 1,024, gives ENAMETOOLONG.
    """
    with Mount(bucket) as mnt:
        bad = os.fsencode(mnt.path) + b"/caf\xe9"
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_WRONLY | os.O_CREAT):
            with pytest.raises(OSError, match="multibyte") as refused:
                os.open(bad, flags)
            assert refused.value.errno == errno.EILSEQ
        assert mnt.names() == []


# Keys that no program can name: left out of listings, counted, and never touched.
NAMELESS = ["a//b", "//", "./x", "../y", "d/./z", "d/../w", "d//", f"long/{'n' * 256}"]


def test_keys_that_no_path_can_name(bucket: Bucket) -> None:
    """[S4] Keys that no path can name are left out of listings and left alone: those with an empty,
    `.` or `..` component, a NUL, or a component of more than 255 bytes.
    """
    good = ["a/good", "d/good", "good", "long/good"]
    bucket.put_many((key, b"1") for key in good + NAMELESS)
    stored = set(bucket.keys())
    assert stored >= set(good)
    with Mount(bucket) as mnt:
        assert mnt.names() == ["a", "d", "good", "long"]
        for directory in ("a", "d", "long"):
            assert mnt.names(directory) == ["good"]
        assert (mnt / "d/good").read_bytes() == b"1"
        counted = {
            line.fields["directory"]: int(line.fields["keys"])
            for line in mnt.log.lines("keys_without_a_path")
        }
        # By directory; a common prefix such as `a//` counts as one.
        assert counted == {"": 3, "a/": 1, "d/": 3, "long/": 1}
        (mnt / "d/good").unlink()
        (mnt / "d/other").write_bytes(b"2")
    assert stored - {"d/good"} <= set(bucket.keys())


def test_leading_slashes_are_keys_without_a_path(bucket: Bucket) -> None:
    bucket.put_many([("/lead", b"1"), ("ok", b"2")])
    with Mount(bucket) as mnt:
        assert mnt.names() == ["ok"]
        assert [line.fields["keys"] for line in mnt.log.lines("keys_without_a_path")] == ["1"]


# -- directories -----------------------------------------------------------------------------------


def test_directories_that_nobody_made(bucket: Bucket) -> None:
    """[S2] A directory exists when a key begins with its path and a slash; nobody has to have made
    it.
    """
    bucket.put("one/two/three/file", b"1")
    with Mount(bucket, "metadata_ttl=0") as mnt:
        assert (mnt / "one/two/three").is_dir()
        assert not (mnt / "one/tw").exists()
        assert mnt.names("one/two") == ["three"]
        assert (mnt / "one/two").stat().st_nlink == 2
        bucket.delete("one/two/three/file")
        assert not (mnt / "one").exists()


def test_a_directory_shadows_a_file(bucket: Bucket) -> None:
    """[S3] A name that keys make both a file and a directory is a directory; the file is shown
    again when nothing is below it any more.
    """
    bucket.put_many([("x", b"file"), ("x/y", b"below"), ("x-ray", b"between")])
    with Mount(bucket, "metadata_ttl=0") as mnt:
        assert (mnt / "x").is_dir()
        assert mnt.names() == ["x", "x-ray"]
        assert (mnt / "x/y").read_bytes() == b"below"
        bucket.delete("x/y")
        assert (mnt / "x").read_bytes() == b"file"
        assert mnt.names() == ["x", "x-ray"]


def test_mkdir_writes_a_marker(bucket: Bucket) -> None:
    """[S24] mkdir writes a marker, an empty object `name/`, and gives EEXIST where there is
    anything.
    """
    bucket.put("implicit/x", b"1")
    with Mount(bucket) as mnt:
        (mnt / "d").mkdir()
        found = bucket.head("d/")
        assert (found["ContentLength"], found["ContentType"]) == (0, "application/x-directory")
        (mnt / "f").write_bytes(b"1")
        for taken in ("d", "f", "implicit"):
            with pytest.raises(FileExistsError):
                (mnt / taken).mkdir()
        with pytest.raises(FileNotFoundError):
            (mnt / "no/such").mkdir()
        with pytest.raises(NotADirectoryError):
            (mnt / "f/x").mkdir()
        assert mnt.names("d") == []
    with Mount(bucket) as fresh:
        assert (fresh / "d").is_dir()
        assert fresh.names("d") == []


def test_markers_of_others(bucket: Bucket) -> None:
    """What a console, s3fs or a synchronizer leaves as a directory is one."""
    bucket.put("console/", b"")
    bucket.put("filled/", b"content in a marker")
    bucket.put("filled/x", b"1")
    with Mount(bucket) as mnt:
        assert mnt.names() == ["console", "filled"]
        assert mnt.names("console") == []
        assert mnt.names("filled") == ["x"]
        (mnt / "console").rmdir()
        assert not bucket.has("console/")


def test_rmdir(bucket: Bucket) -> None:
    """[S25] rmdir removes the marker of an empty directory; where a key is below it, or a file in
    it is being written, it gives ENOTEMPTY.
    """
    bucket.put("full/x", b"1")
    bucket.put("file", b"1")
    with Mount(bucket) as mnt:
        (mnt / "empty").mkdir()
        (mnt / "writing").mkdir()
        with (mnt / "writing/x").open("wb") as file:
            file.write(b"1")
            for directory in ("full", "writing"):
                with pytest.raises(OSError, match="not empty") as refused:
                    (mnt / directory).rmdir()
                assert refused.value.errno == errno.ENOTEMPTY
        (mnt / "empty").rmdir()
        with pytest.raises(FileNotFoundError):
            (mnt / "empty").rmdir()
        with pytest.raises(NotADirectoryError):
            (mnt / "file").rmdir()
        # Somebody else puts something there meanwhile: the bucket decides, not what we remember.
        (mnt / "surprise").mkdir()
        bucket.put("surprise/x", b"1")
        with pytest.raises(OSError, match="not empty"):
            (mnt / "surprise").rmdir()
        assert set(bucket.keys()) == {
            *("file", "full/x", "surprise/", "surprise/x", "writing/", "writing/x"),
        }


def test_a_directory_outlives_its_content(bucket: Bucket) -> None:
    """[S26] A directory does not vanish with the last file that is removed from it: a second later
    it gets a marker, unless it was removed too.
    """
    bucket.put_many([("stays/x", b"1"), ("goes/x", b"1")])
    with Mount(bucket) as mnt:
        (mnt / "stays/x").unlink()
        assert (mnt / "stays").is_dir()
        (mnt / "goes/x").unlink()
        (mnt / "goes").rmdir()
        assert mnt.names() == ["stays"]
    # Unmounting did not wait for that second, and lost nothing by it.
    assert bucket.keys() == ["stays/"]


def test_a_directory_looks_the_same_whichever_way_it_is_found(bucket: Bucket) -> None:
    """[S9] A directory has the time of the mount: a listing does not tell when its marker was
    made.
    """
    bucket.put("implicit/x", b"1")
    bucket.put("marked/", b"")
    made = bucket.wait_until_old("marked/")
    with Mount(bucket) as mnt:
        with os.scandir(mnt.path) as listed:
            by_listing = {entry.name: entry.stat().st_mtime for entry in listed}
        time.sleep(1.2)  # longer than that is believed
        by_name = {name: (mnt / name).stat().st_mtime for name in by_listing}
        assert by_name["marked"] == by_name["implicit"] > made
        assert by_listing == by_name


# -- listings --------------------------------------------------------------------------------------

MANY = 2500


@pytest.fixture
def many(bucket: Bucket) -> list[str]:
    """A directory of three pages, with names that sort differently with and without a slash."""
    keys = [f"d/{n:05}" for n in range(MANY - 500)]
    keys += [f"d/{n:05}{tail}" for n in range(0, 500, 5) for tail in ("-a", "/x", "0", "/y", "!")]
    bucket.put_many((key, b"") for key in keys)
    return sorted({key.split("/")[1] for key in keys})


def test_each_name_once(bucket: Bucket, many: list[str]) -> None:
    """[S21] A listing has each name once, and every name that was there all the time."""
    with Mount(bucket) as mnt:
        first, again = (os.listdir(mnt / "d") for _ in range(2))  # noqa: PTH208  in their order
        assert sorted(first) == many
        assert again == first
        kinds = {name: stat.S_ISDIR((mnt / "d" / name).stat().st_mode) for name in many[:300]}
        assert [name for name, is_directory in kinds.items() if is_directory] == [
            name for name in many[:300] if len(name) == 5 and int(name) % 5 == 0
        ]


_SEEK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_ushort),
                ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for function in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(libc, function).argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
directory = libc.opendir(os.fsencode(sys.argv[1]))
def read():
    found = libc.readdir(directory)
    return Dirent.from_address(found).name.decode() if found else None
names, places = [], []
while True:
    place = libc.telldir(directory)
    name = read()
    if name is None:
        break
    names.append(name)
    places.append(place)
for index in (0, 1, 2, 999, 1000, 1001, len(names) - 1, 1500, 3, len(names) // 2):
    libc.seekdir(directory, places[index])
    assert read() == names[index], index
    if index + 1 < len(names):
        assert read() == names[index + 1], index
if len(sys.argv) > 2:
    os.close(os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY))
libc.rewinddir(directory)
again = []
while (name := read()) is not None:
    again.append(name)
libc.closedir(directory)
print(len(names), len(set(names)), sorted(set(again) - set(names)), sorted(set(names) - set(again)))
"""


@pytest.mark.one_store
def test_seeking_in_a_directory(bucket: Bucket, many: list[str], tmp_path: Path) -> None:
    """[S23] rewinddir shows the directory as it is then."""
    script = tmp_path / "seek.py"
    script.write_text(_SEEK)
    count = len(many) + 2  # and the dots
    with Mount(bucket) as mnt:
        done = run("python3", script, mnt / "d", mnt / "d/new")
        assert (done.stderr, done.stdout) == ("", f"{count} {count} ['new'] []\n")


def test_inode_numbers(bucket: Bucket) -> None:
    """[S6] The inode number is made from the key: it is the same in every mount of the bucket."""
    bucket.put_many((f"d/{n}", b"") for n in range(200))
    seen = []
    for _ in range(2):
        with Mount(bucket) as mnt:
            with os.scandir(mnt / "d") as listed:
                seen.append({entry.name: entry.inode() for entry in listed})
            assert (mnt / "d/7").stat().st_ino == seen[-1]["7"]
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == 200


# -- what is not there -----------------------------------------------------------------------------


def test_what_is_not_there(bucket: Bucket) -> None:
    """[S67] Symbolic links, hard links and special files cannot be made: EPERM."""
    with Mount(bucket) as mnt:
        path = mnt / "x"
        path.write_bytes(b"1")
        refusals: dict[str, tuple[Callable[[], None], int]] = {
            "symlink": (lambda: (mnt / "link").symlink_to("x"), errno.EPERM),
            "link": (lambda: (mnt / "hard").hardlink_to(path), errno.EPERM),
            "fifo": (lambda: os.mkfifo(mnt / "fifo"), errno.EPERM),
            "device": (lambda: os.mknod(mnt / "null", 0o20666, os.makedev(1, 3)), errno.EPERM),
        }
        for name, (attempt, expected) in refusals.items():
            with pytest.raises(OSError, match=r"\[Errno") as refused:
                attempt()
            assert refused.value.errno == expected, name
        assert mnt.names() == ["x"]


def test_no_extended_attributes(bucket: Bucket) -> None:
    """[S68] There are no extended attributes: EOPNOTSUPP."""
    bucket.put("x", b"1")
    with Mount(bucket) as mnt:
        with pytest.raises(OSError, match="not supported") as refused:
            os.setxattr(mnt / "x", "user.a", b"1")
        assert refused.value.errno == errno.EOPNOTSUPP
        with pytest.raises(OSError, match="not supported"):
            os.getxattr(mnt / "x", "user.a")
        with pytest.raises(OSError, match="not supported"):
            os.listxattr(mnt / "x")


def test_volume(bucket: Bucket) -> None:
    """[S13] The volume has 1 PiB, all of it free: a bucket has no size."""
    with Mount(bucket) as mnt:
        found = os.statvfs(mnt.path)
        assert found.f_blocks * found.f_frsize == found.f_bavail * found.f_frsize == 1 << 50
        assert found.f_namemax == 255
