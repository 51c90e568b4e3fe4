"""The argument vector: what mount(8) passes, what a person types, and what is refused."""

from pathlib import Path

import pytest

from fuse_s3_helper.argv import USAGE, MountRequest, parse
from fuse_s3_helper.errors import UsageError
from fuse_s3_helper.words import FLAGS
from fuse_s3_shared.mountopts import MountOption, split_options


def request(*words: str) -> MountRequest:
    return parse(["/sbin/mount.s3", *words])


def options(text: str) -> MountRequest:
    return request("bucket", "/mnt", "-o", text)


# -- switches and operands -------------------------------------------------------------------------

PLAIN = MountRequest("mount", "bucket", "/mnt")
REMOUNT = PLAIN._replace(action="remount", given={"remount": None})

# (words, what they mean). mount(8)'s own order comes first: SPEC DIR -s -f -n -v -o -t -N
VECTORS: dict[str, tuple[list[str], MountRequest]] = {
    "bare": (["bucket", "/mnt"], PLAIN),
    "mount -t s3": (["bucket", "/mnt", "-o", "rw"], PLAIN),
    "mount -sfnv -N": (
        ["bucket", "/mnt", "-s", "-f", "-n", "-v", "-o", "rw", "-N", "/proc/71/ns/mnt"],
        PLAIN._replace(given={"-s": "", "-f": "", "-n": "", "-v": "", "-N": "/proc/71/ns/mnt"}),
    ),
    "mount.fuse -t": (
        ["bucket", "/mnt", "-o", "rw", "-t", "fuse.s3"], PLAIN._replace(given={"-t": "fuse.s3"}),
    ),
    "a person's order": (["-v", "-o", "uid=7", "bucket", "-f", "/mnt"],
        PLAIN._replace(given={"-v": "", "-f": ""}, worker_options="uid=7"),
    ),
    "switches in one word": (
        ["-sfnvo", "uid=7", "bucket", "/mnt"],
        PLAIN._replace(
            given={"-s": "", "-f": "", "-n": "", "-v": ""}, worker_options="uid=7"
        ),
    ),
    "options twice": (
        ["-o", "uid=7", "bucket", "/mnt", "-ogid=8"],
        PLAIN._replace(worker_options="uid=7,gid=8"),
    ),
    "a directory that begins with a dash": (
        ["--", "bucket", "-mnt"], MountRequest("mount", "bucket", "-mnt"),
    ),
    "SPEC with everything": (
        ["s3://bücket/a b,c\udcff", "/mnt"],
        MountRequest("mount", "s3://bücket/a b,c\udcff", "/mnt"),
    ),
    "remount as libmount knows it": (
        ["bucket", "/mnt", "-o", "rw,remount"], REMOUNT,
    ),
    "remount without SPEC": (["/mnt", "-o", "rw,remount"], REMOUNT._replace(spec="")),
    "remount, empty SPEC": (["", "/mnt", "-o", "remount"], REMOUNT._replace(spec="")),
    "help": (["--help"], MountRequest("help")),
    "help, short": (["-h", "bucket"], MountRequest("help")),
    "version": (["--version"], MountRequest("version")),
    "version, short": (["bucket", "/mnt", "-V", "-o", "ro"], MountRequest("version")),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    words, meaning = VECTORS[name]
    assert request(*words) == meaning


REFUSED_VECTORS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "a bucket and a directory are needed"),
    "no directory": (["bucket"], "a bucket and a directory are needed"),
    "no SPEC, as libmount calls it": (["/mnt", "-o", "rw"], "a bucket and a directory are needed"),
    "empty SPEC": (["", "/mnt", "-o", "rw"], "a bucket and a directory are needed"),
    "empty directory": (["bucket", ""], "a bucket and a directory are needed"),
    "remount of nothing": (["-o", "remount"], "a bucket and a directory are needed"),
    "remount of an empty directory": (["", "-o", "remount"], "a bucket and a directory are needed"),
    "a word too many": (["bucket", "/mnt", "more"], "a bucket and a directory are needed"),
    "unknown switch": (["bucket", "/mnt", "-x"], "option -x not recognized"),
    "unknown long switch": (["bucket", "/mnt", "--force"], "option --force not recognized"),
    "-o without a value": (["bucket", "/mnt", "-o"], "option -o requires argument"),
    "-N without a value": (["bucket", "/mnt", "-N"], "option -N requires argument"),
    "an open quote": (["bucket", "/mnt", "-o", 'a="b'], "a double quote is never closed"),
    "a value without a name": (["bucket", "/mnt", "-o", "rw,=x"], "has a value but no name"),
}


@pytest.mark.parametrize("name", REFUSED_VECTORS)
def test_vector_refused(name: str) -> None:
    words, complaint = REFUSED_VECTORS[name]
    with pytest.raises(UsageError, match=complaint) as caught:
        request(*words)
    assert USAGE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bucket_and_directory_the_wrong_way_round(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"mount -t s3 bucket {tmp_path}$"):
        request(str(tmp_path), "bucket")
    # A directory here that has the bucket's name is no mistake as long as the other is one too.
    assert request(str(tmp_path), "/").spec == str(tmp_path)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PLAIN.spec = "other"  # type: ignore[misc]


# -- who an option belongs to ----------------------------------------------------------------------


def test_options_are_sorted_by_owner() -> None:
    made = options(
        'rw,_netdev,noexec,private,x-systemd.automount,context="a:b:c1,c2",worker_user=web,'
        "passwd_file=/etc/p,uid=7,prefix=a\\,b,foreground,nofail,storage_class=STANDARD_IA"
    )
    assert made == MountRequest(
        *("mount", "bucket", "/mnt"),
        given={"_netdev": None, "private": None, "worker_user": "web", "foreground": None},
        worker_options=r"uid=7,prefix=a\,b,storage_class=STANDARD_IA",
        flags=(FLAGS["noexec"],),
        lsm=(MountOption("context", "a:b:c1,c2"),),
        files={"passwd_file": "/etc/p"},
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("private=no", "'private' takes no value"),
        ("foreground=0", "'foreground' takes no value"),
        ("remount=ro", "'remount' takes no value"),
        ("worker_user", "'worker_user' needs a value"),
        ("worker_user=", "'worker_user' needs a value"),
    ],
)
def test_own_words_with_a_wrong_value(text: str, complaint: str) -> None:
    """Who says private=no must not get a private mount, nor another worker than was meant."""
    with pytest.raises(UsageError, match=complaint):
        options(text)


NOBODYS = (
    "defaults auto noauto nofail user user=web nouser users nousers owner group comment=x "
    "helper=s3 uhelper=s3 iversion x-systemd.requires=a.service X-mount.mkdir x-gvfs-show "
    "allow_other default_permissions nonempty dev_t_ino max_read=131072 fsname=x quiet"
)


@pytest.mark.parametrize("word", NOBODYS.split())
def test_words_that_nobody_acts_on(word: str) -> None:
    assert options(word) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "endpoint_url=https://host:9000/x?y=z",
        r"prefix=a\,b\"c\\d",
        "no_such_option",
        "no_such_option=",
        "uid=0,uid=1,uid=0",
        r"größe=\\,\\",
        '"ro,private"=x',
        '"private=no"',
    ],
)
def test_the_workers_options_are_passed_on_unread(text: str) -> None:
    """Split again they are the same, and none of them has become somebody else's."""
    made = options(text)
    assert split_options(made.worker_options) == split_options(text)
    assert made == PLAIN._replace(worker_options=made.worker_options)


@pytest.mark.parametrize(
    "option",
    [MountOption("context", "a:b:c,d"), MountOption("seclabel"), MountOption("fscontext", "x")],
)
def test_words_for_the_security_module(option: MountOption) -> None:
    assert options(
        f"{option.name}" if option.value is None else f'{option.name}="{option.value}"'
    ).lsm == (option,)


# -- flags -----------------------------------------------------------------------------------------

FLAG_CASES: dict[str, set[str]] = {
    "rw": set(),
    "ro": {"ro"},
    "read-only": {"ro"},
    # libmount puts rw in front of what it does not know, or behind it
    "rw,read-only": {"ro"},
    "read-only,rw": {"ro"},
    "ro,noexec,noatime": {"ro", "noexec", "noatime"},
    "noexec,exec": set(),
    "exec,noexec": {"noexec"},
    "noexec,exec,noexec": {"noexec"},
    "sync,async": set(),
    "nosuid,nodev,suid,dev": set(),
    # what user and users of fstab become
    "noexec,nosuid,nodev,user": {"noexec"},
    "noatime,relatime,strictatime": {"noatime", "relatime", "strictatime"},
    "atime,diratime,norelatime,nostrictatime,nolazytime,loud,nomand,nodirsync,symfollow": set(),
    "rw,rw": set(),
    "ro,ro": {"ro"},
}  # fmt: skip


@pytest.mark.parametrize("text", FLAG_CASES)
def test_flags(text: str) -> None:
    assert set(options(text).flags) == {FLAGS[word] for word in FLAG_CASES[text]}


@pytest.mark.parametrize("text", ["ro,rw", "rw,ro", "rw,noexec,ro"])
def test_ro_and_rw_contradict_each_other(text: str) -> None:
    with pytest.raises(UsageError, match="both ro and rw"):
        options(text)


@pytest.mark.parametrize("text", ["ro=1", "noexec=", "nosuid=yes", "async=no"])
def test_flags_take_no_value(text: str) -> None:
    with pytest.raises(UsageError, match=f"option '{text.partition('=')[0]}' takes no value"):
        options(text)


# -- files -----------------------------------------------------------------------------------------

FILE_CASES = {
    "passwd_file=/p": {"passwd_file": "/p"},
    "passwd_default=/p": {"passwd_default": "/p"},
    "shared_credentials_file=/c": {"shared_credentials_file": "/c"},
    "config_file=/c": {"config_file": "/c"},
    "ca_bundle=/c": {"ca_bundle": "/c"},
    "ca-bundle=/c": {"ca_bundle": "/c"},
    "log_file=/l": {"log_file": "/l"},
    "logfile=/l": {"log_file": "/l"},
    "passwd_file=/a,passwd_file=/b": {"passwd_file": "/b"},
    "passwd_file=/with space\\,comma": {"passwd_file": "/with space,comma"},
}


@pytest.mark.parametrize("text", FILE_CASES)
def test_file_options(text: str) -> None:
    made = options(text)
    assert made.files == FILE_CASES[text]
    assert not made.worker_options


@pytest.mark.parametrize("value", ["=key", "=./key", "=~/key", "=", ""])
def test_file_options_need_an_absolute_path(value: str) -> None:
    with pytest.raises(UsageError, match="option 'passwd_file' needs an absolute path"):
        options(f"passwd_file{value}")
