"""What is kept of a file in an object's headers: golden headers of other programs, and round trips.

Those of s3fs were written by s3fs 1.90 itself.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.posix import acl
from fuse_s3_worker.posix.headers import (
    METADATA_MAX,
    Described,
    decode,
    encode,
    for_copy,
    for_new_bytes,
    largest_size,
    metadata_size,
    relevant,
)
from fuse_s3_worker.posix.inode import Defaults, Inode

SECOND = 1_000_000_000
DEFAULTS = Defaults(uid=1001, gid=1002, file_mode=0o640, dir_mode=0o750)
MODIFIED = 1_700_000_000 * SECOND
SHOWN = Inode(stat.S_IFREG | 0o640, 1001, 1002, MODIFIED, MODIFIED, MODIFIED)
"""What an object that keeps nothing is shown with."""
DIRECTORY = SHOWN._replace(mode=stat.S_IFDIR | 0o750)


def meta(**values: str) -> dict[str, str]:
    """Return metadata headers."""
    return {f"x-amz-meta-{name}": value for name, value in values.items()}


def read(headers: Mapping[str, str], *, directory: bool = False) -> Described:
    return decode(headers, MODIFIED, DEFAULTS, directory=directory)


# -- s3fs ------------------------------------------------------------------------------------------

A_FILE = {
    "content-type": "application/octet-stream",
    "x-amz-meta-atime": "981173106.789000000",
    "x-amz-meta-ctime": "1795661561",
    "x-amz-meta-gid": "34",
    "x-amz-meta-mode": "33257",
    "x-amz-meta-mtime": "981173106.789000000",
    "x-amz-meta-uid": "12",
    "x-amz-meta-xattr": "%7B%22user.a%22%3A%22AP8rL3ZhbA%3D%3D%22%7D",
}
A_LIST = {
    **A_FILE,
    "x-amz-meta-mode": "33216",
    "x-amz-meta-xattr": "%7B%22system.posix_acl_access%22%3A%22"
    "AgAAAAEABwD/////BAAFAP////8gAAEA/////w%3D%3D%22%7D",
}
OF_S3FS = {
    "a file": (
        A_FILE,
        Inode(
            0o100751, 12, 34, 981_173_106_789_000_000, 981_173_106_789_000_000,
            1_795_661_561 * SECOND, xattrs={b"user.a": b"\x00\xff+/val"},
        ),
    ),
    "an access control list": (
        A_LIST,
        Inode(
            0o100700, 12, 34, 981_173_106_789_000_000, 981_173_106_789_000_000,
            1_795_661_561 * SECOND,
            xattrs={
                acl.ACCESS: b"\2\0\0\0" b"\1\0\7\0\xff\xff\xff\xff" b"\4\0\5\0\xff\xff\xff\xff"
                b"\x20\0\1\0\xff\xff\xff\xff"
            },
        ),
    ),
    "a symbolic link": (
        meta(atime="5", ctime="6", gid="0", mode="41471", mtime="7", uid="0"),
        Inode(0o120777, 0, 0, 5 * SECOND, 7 * SECOND, 6 * SECOND),
    ),
    "a FIFO": (meta(mode="4516", uid="0", gid="0"), SHOWN._replace(mode=0o10644, uid=0, gid=0)),
    "a socket": (meta(mode="49645"), SHOWN._replace(mode=0o140755)),
    "a device without its number": (meta(mode="8612"), SHOWN._replace(mode=0o20644)),
    "a device with its number": (
        meta(mode="25008", rdev="1793"),
        SHOWN._replace(mode=0o60660, rdev=0x701),
    ),
    "a number that is no device's": (
        meta(mode="33188", rdev="1793"),
        SHOWN._replace(mode=0o100644),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "expected"), OF_S3FS.values(), ids=OF_S3FS.keys())
def test_what_s3fs_writes_is_read(headers: dict[str, str], expected: Inode) -> None:
    found = read(headers)
    assert found.inode == expected
    assert found.nonsense == ()


@pytest.mark.parametrize("headers", [A_FILE, A_LIST], ids=["a file", "an access control list"])
def test_what_is_written_is_what_s3fs_writes(headers: dict[str, str]) -> None:
    found = read(headers)
    assert found.rest == {"content-type": "application/octet-stream"}
    assert encode(found.inode, found.rest) == headers


OF_DIRECTORIES = {
    "with its type": (meta(mode="17407", uid="0"), DIRECTORY._replace(mode=0o41777, uid=0)),
    "as mkdir of s3fs leaves it": (meta(mode="493"), DIRECTORY._replace(mode=0o40755)),
    "without any permission": (meta(mode="0"), DIRECTORY._replace(mode=0o40500)),
    "which somebody has taken away": (meta(mode="16384"), DIRECTORY._replace(mode=0o40000)),
    "that keeps nothing": ({"content-type": "application/x-directory"}, DIRECTORY),
}


@pytest.mark.parametrize(("headers", "expected"), OF_DIRECTORIES.values(), ids=OF_DIRECTORIES)
def test_a_directory(headers: dict[str, str], expected: Inode) -> None:
    assert read(headers, directory=True).inode == expected


# The text of a mode, and what it is; s3fs reads it with strtol(3) and base 0.
MODES = {
    "decimal": ("33188", 0o100644),
    "octal": ("0100644", 0o100644),
    "hexadecimal": ("0x81a4", 0o100644),
    "blanks around": (" 33188 ", 0o100644),
    "permissions alone": ("420", 0o100644),
    "permissions alone, in octal": ("0644", 0o100644),
    "setuid": ("35309", 0o104755),
    "nothing at all": ("0", 0o100400),
    "only setuid": ("04000", 0o104400),
    "a file without permissions": ("32768", 0o100000),
}


@pytest.mark.parametrize(("text", "expected"), MODES.values(), ids=MODES.keys())
def test_a_mode(text: str, expected: int) -> None:
    assert read(meta(mode=text)).inode.mode == expected


TIMES = {
    "seconds": ("1000000000", 1_000_000_000_000_000_000),
    "nine digits": ("1000000000.000000005", 1_000_000_000_000_000_005),
    "a decimal fraction": ("1000000000.5", 1_000_000_000_500_000_000),  # s3fs shows 5 ns
    "rclone's": ("1354040105.123456789", 1_354_040_105_123_456_789),
    "more digits than there are": ("1.1234567899", 1_123_456_789),
    "before 1970": ("-1", -1_000_000_000),
    "before 1970, as s3fs counts": ("-2.500000000", -1_500_000_000),
    "before 1970, as decimal fractions go": ("-1.5", -1_500_000_000),
    "the beginning": ("0", 0),
}


@pytest.mark.parametrize(("text", "expected"), TIMES.values(), ids=TIMES.keys())
def test_a_time(text: str, expected: int) -> None:
    assert read(meta(mtime=text)).inode.mtime == expected


def test_times_that_are_not_kept_are_those_of_the_object() -> None:
    inode = read(meta(mtime="7")).inode
    assert (inode.atime, inode.mtime, inode.ctime) == (7 * SECOND, 7 * SECOND, MODIFIED)


# -- others ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """What another program leaves, what it means, and what becomes of it by a change of ours."""

    headers: dict[str, str]
    inode: Inode
    changed: dict[str, str] = field(default_factory=dict)


def changed(inode: Inode) -> Inode:
    """Return an inode after a change of everything."""
    return inode._replace(mode=0o100600, uid=7, gid=8, mtime=9_000_000_010, atime=11_000_000_000)


OTHERS = {
    "s3sync": Other(
        meta(permissions="33261", owner="500", group="501"),
        SHOWN._replace(mode=0o100755, uid=500, gid=501),
        meta(permissions="33152", owner="7", group="8"),
    ),
    "DataSync and FSx for Lustre": Other(
        {
            "x-amz-meta-file-permissions": "0100664",
            "x-amz-meta-file-owner": "500",
            "x-amz-meta-file-group": "501",
            "x-amz-meta-file-atime": "1595002920000000001ns",
            "x-amz-meta-file-mtime": "1595002920000000002ns",
        },
        SHOWN._replace(
            mode=0o100664, uid=500, gid=501,
            atime=1_595_002_920_000_000_001, mtime=1_595_002_920_000_000_002,
        ),
        {
            "x-amz-meta-file-permissions": "0100600",
            "x-amz-meta-file-owner": "7",
            "x-amz-meta-file-group": "8",
            "x-amz-meta-file-atime": "11000000000ns",
            "x-amz-meta-file-mtime": "9000000010ns",
        },
    ),
    "times that somebody has put there for FSx": Other(
        {"x-amz-meta-file-mtime": "1595002920001"}, SHOWN._replace(
            mtime=1_595_002_920_001_000_000, atime=1_595_002_920_001_000_000
        ),
        {"x-amz-meta-file-mtime": "9000000010ns"},
    ),
    "gsutil": Other(
        {
            "x-amz-meta-goog-reserved-posix-mode": "755",
            "x-amz-meta-goog-reserved-posix-uid": "500",
            "x-amz-meta-goog-reserved-posix-gid": "501",
            "x-amz-meta-goog-reserved-file-mtime": "1595002920",
            "x-amz-meta-goog-reserved-file-atime": "1595002921",
        },
        SHOWN._replace(
            mode=0o100755, uid=500, gid=501,
            mtime=1_595_002_920 * SECOND, atime=1_595_002_921 * SECOND,
        ),
        {
            "x-amz-meta-goog-reserved-posix-mode": "0100600",
            "x-amz-meta-goog-reserved-posix-uid": "7",
            "x-amz-meta-goog-reserved-posix-gid": "8",
            "x-amz-meta-goog-reserved-file-mtime": "9",
            "x-amz-meta-goog-reserved-file-atime": "11",
        },
    ),
    "gcsfuse": Other(
        {"x-amz-meta-gcsfuse_mtime": "2024-05-06T07:08:09.123456789Z"},
        SHOWN._replace(mtime=1_714_979_289_123_456_789, atime=1_714_979_289_123_456_789),
        {"x-amz-meta-gcsfuse_mtime": "1970-01-01T00:00:09.000000010Z"},
    ),
    "rclone": Other(
        meta(mtime="1714979289.5"),
        SHOWN._replace(mtime=1_714_979_289_500_000_000, atime=1_714_979_289_500_000_000),
    ),
    "s3fs before all others": Other(
        meta(mode="33188", uid="1", gid="2", mtime="3")
        | {"x-amz-meta-file-permissions": "0100777"},
        SHOWN._replace(mode=0o100644, uid=1, gid=2, mtime=3 * SECOND, atime=3 * SECOND),
        {"x-amz-meta-file-permissions": "0100600"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_others_write_is_read(other: Other) -> None:
    """[S104] Modes, owners and times as AWS DataSync and FSx, rclone, s3sync, gcsfuse and Google's
    tools keep them are shown too, and are kept up to date for them.
    """
    found = read(other.headers)
    assert found.inode == other.inode
    assert found.nonsense == ()


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_change_is_told_in_the_words_of_others_too(other: Other) -> None:
    """[S104] Modes, owners and times as AWS DataSync and FSx, rclone, s3sync, gcsfuse and Google's
    tools keep them are shown too, and are kept up to date for them.
    """
    found = read(other.headers)
    written = encode(changed(found.inode), found.rest)
    assert written.items() >= other.changed.items()
    assert read(written).inode == changed(found.inode)
    ours = {"mode": "33152", "uid": "7", "gid": "8", "mtime": "9.000000010", "atime": "11"}
    assert written.items() >= meta(**ours).items()
    assert written.keys() - other.changed.keys() == {
        f"x-amz-meta-{name}" for name in (*ours, "ctime")
    }


LINKS = {
    "by the type of its mode": (meta(mode="41471"), None),
    "by gsutil's word": ({"x-amz-meta-goog-reserved-file-is-symlink": "true"}, None),
    "by gcsfuse's header": ({"x-amz-meta-gcsfuse_symlink_target": "a/b"}, b"a/b"),
}


@pytest.mark.parametrize(("headers", "target"), LINKS.values(), ids=LINKS.keys())
def test_a_symbolic_link(headers: dict[str, str], target: bytes | None) -> None:
    found = read(headers)
    assert found.inode.mode == 0o120777
    assert found.target == target


# -- nonsense --------------------------------------------------------------------------------------

NONSENSE = {
    "a word": meta(mode="rw-r--r--"),
    "a number with something behind it": meta(mode="33188z"),
    "digits that octal does not have": meta(mode="0188"),
    "more bits than there are": meta(mode="4294967295"),
    "a type that there is none of": meta(mode=str(0o130644)),
    "a directory without a slash": meta(mode="16877"),
    "an empty mode": meta(mode=""),
    "a mode of a thousand digits": meta(mode="1" * 1000),
    "a negative mode": meta(mode="-1"),
    "a name of a user": meta(uid="alice"),
    "a negative user": meta(uid="-1"),
    "a user beyond all": meta(uid="4294967296"),
    "the user that is none": meta(gid="4294967295"),
    "a float": meta(uid="1e3"),
    "a time in words": meta(mtime="yesterday"),
    "a time that is no number": meta(mtime="nan"),
    "a time beyond all": meta(mtime="9" * 30),
    "a time of two dots": meta(mtime="1.2.3"),
    "a time for ever": meta(mtime="inf"),
    "ticks of something else": {"x-amz-meta-file-mtime": "12hours"},
    "ticks beyond all": {"x-amz-meta-file-mtime": "9" * 21},
    "octal that is none": {"x-amz-meta-file-permissions": "0100999"},
    "a date that is none": {"x-amz-meta-gcsfuse_mtime": "2024-13-06T07:08:09Z"},
    "a date with a fraction of nothing": {"x-amz-meta-gcsfuse_mtime": "2024-05-06T07:08:09.Z"},
    "attributes that are no JSON": meta(xattr="%7B"),
    "attributes without braces": meta(xattr="user.a"),
    "attributes that are a list": meta(xattr="%5B1%5D"),
    "attributes that are numbers": meta(xattr='{"user.a":1}'),
    "an attribute without a name": meta(xattr='{"":"YQ=="}'),
    "an attribute with a NUL in its name": meta(xattr='{"user.\\u0000":"YQ=="}'),
    "an attribute that is no text": meta(xattr='{"user.\\ud800":"YQ=="}'),
    "attributes that are no base64": meta(xattr='{"user.a":"%%%"}'),
    "attributes cut off": meta(xattr='{"user.a":"YQ==","use'),
    "attributes nested too deeply": meta(xattr="[" * 100_000),
    "an access control list cut off": meta(xattr='{"system.posix_acl_access":"AgAAAAEA"}'),
}


@pytest.mark.parametrize("headers", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_told_and_shown_as_nothing(headers: dict[str, str]) -> None:
    found = read(headers)
    assert found.inode == SHOWN
    assert len(found.nonsense) == 1


def test_a_header_that_makes_no_sense_does_not_hide_the_next() -> None:
    found = read(meta(mode="x", permissions="33261"))
    assert (found.inode.mode, found.nonsense) == (0o100755, ("x-amz-meta-mode",))


def test_a_marker_with_the_type_of_a_file_is_a_directory() -> None:
    found = read(meta(mode="33188"), directory=True)
    assert (found.inode.mode, found.nonsense) == (0o40750, ("mode",))


# -- xattrs ----------------------------------------------------------------------------------------

XATTRS = {
    "none": ("%7B%7D", {}),
    "not percent-encoded": ('{"user.a":"YQ=="}', {b"user.a": b"a"}),
    "blanks": ('{ "user.a" : "YQ==" , "user.b":"Yg==" }', {b"user.a": b"a", b"user.b": b"b"}),
    "an empty value": ('{"user.a":""}', {b"user.a": b""}),
    "a quote, as s3fs leaves it": (
        "%7B%22user.a%22%3A%22AP8rL3ZhbA%3D%3D%22%2C%22user.q%22c%2C%22%3A%22MQ%3D%3D%22%7D",
        {b"user.a": b"\x00\xff+/val", b'user.q"c,': b"1"},
    ),
    "UTF-8": ("%7B%22user.%C3%A4%22%3A%22YQ%3D%3D%22%7D", {"user.ä".encode(): b"a"}),
    "bytes": ("%7B%22user.%FF%22%3A%22YQ%3D%3D%22%7D", {b"user.\xff": b"a"}),
}


@pytest.mark.parametrize(("text", "expected"), XATTRS.values(), ids=XATTRS.keys())
def test_extended_attributes(text: str, expected: dict[bytes, bytes]) -> None:
    found = read(meta(xattr=text))
    assert found.inode.xattrs == expected
    assert found.nonsense == ()


# -- round trips -----------------------------------------------------------------------------------

times = st.integers(-(10**10) * SECOND, 10**11 * SECOND)
names = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"\0" not in name and name not in acl.NAMES
)
inodes = st.builds(
    Inode,
    mode=st.sampled_from([stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK]).flatmap(
        lambda kind: st.integers(0, 0o7777).map(lambda bits: kind | bits)
    ),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    atime=times,
    mtime=times,
    ctime=times,
    rdev=st.just(0),
    xattrs=st.dictionaries(names, st.binary(max_size=100), max_size=5),
)


@given(inodes)
def test_what_is_written_is_read(inode: Inode) -> None:
    headers = encode(inode, {})
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    found = read(headers)
    assert found.inode == inode
    assert found.nonsense == ()


@given(st.integers(0, 2**32 - 1), st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]))
def test_device_numbers_come_back(rdev: int, kind: int) -> None:
    inode = SHOWN._replace(mode=kind | 0o600, rdev=rdev)
    assert read(encode(inode, {})).inode == inode


@given(st.dictionaries(st.sampled_from(sorted({*A_FILE, *OTHERS["gsutil"].headers})), st.text()))
def test_nothing_that_is_in_headers_fails(headers: dict[str, str]) -> None:
    for directory in (False, True):
        found = read(headers, directory=directory)
        assert read(encode(found.inode, {}), directory=directory).inode == found.inode


# -- what goes along -------------------------------------------------------------------------------

ALL = {
    "content-type": "text/html",
    "cache-control": "max-age=60",
    "content-disposition": "inline",
    "content-language": "en",
    "content-encoding": "gzip",
    "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
    "x-amz-website-redirect-location": "/else",
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:x",
    "x-amz-server-side-encryption-bucket-key-enabled": "true",
    "x-amz-meta-colour": "blue",
}
TOLD = {"x-amz-tagging-count": "2", "x-amz-missing-meta": "1"}
OF_THE_REPLY = {"etag": '"1"', "last-modified": "x", "content-length": "1", "x-amz-request-id": "1"}


def test_what_is_not_the_objects_is_left_out() -> None:
    assert relevant(ALL | TOLD | OF_THE_REPLY) == ALL | TOLD
    assert read(ALL | TOLD | OF_THE_REPLY).rest == ALL | TOLD


def test_a_copy_keeps_everything() -> None:
    assert for_copy(encode(SHOWN, ALL | TOLD)) == encode(SHOWN, ALL)


def test_new_bytes_keep_what_is_said_of_the_name() -> None:
    kept = {name: ALL[name] for name in list(ALL)[:4]} | {"x-amz-meta-colour": "blue"}
    assert for_new_bytes(ALL | TOLD) == kept


def test_a_type_that_nobody_chose_is_not_kept_for_new_bytes() -> None:
    assert for_new_bytes({"content-type": "binary/octet-stream"}) == {}


def test_times_can_be_left_to_the_object() -> None:
    headers = encode(SHOWN, {"x-amz-meta-file-mtime": "1ns"}, times=False)
    assert headers == meta(mode="33184", uid="1001", gid="1002")


# -- sizes -----------------------------------------------------------------------------------------


def test_metadata_is_counted_as_s3_does() -> None:
    # "user metadata size is limited to 2k bytes for the total length of all values and keys",
    # and keys begin with x-amz-meta-.
    assert metadata_size({"x-amz-meta-ab": "cde", "content-type": "text/plain"}) == 13 + 3


@given(inodes, inodes)
def test_owners_and_times_always_fit(inode: Inode, other: Inode) -> None:
    bound = largest_size(inode, ALL)
    for changed in (inode, inode._replace(uid=other.uid, gid=other.gid)):
        for late in (changed, changed._replace(atime=1, mtime=10**10 * SECOND + 1, ctime=-1)):
            assert metadata_size(encode(late, ALL)) <= bound


def test_the_limit_leaves_room_for_something() -> None:
    assert largest_size(SHOWN, {}) < METADATA_MAX / 5
