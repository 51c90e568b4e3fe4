"""Files that only root may read: what is refused, what is looked for, and the sealed copy."""

import errno
import fcntl
import mmap
import os
import pwd
import stat
from pathlib import Path

import pytest

from fuse_s3_helper import files
from fuse_s3_helper.errors import UsageError
from fuse_s3_helper.files import FILE_OPTIONS, open_files
from fuse_s3_shared.limits import FILE_MAX
from support.isolation import in_child, open_descriptors

VARIABLES = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no variables: what is found is what a test put there."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    path.mkdir()
    account = pwd.struct_passwd(("who", "x", os.geteuid(), os.getegid(), "", str(path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): account}.__getitem__)
    return path


def make(path: Path, content: bytes = b"AKIA:secret\n", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def content(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()


def opened(*, with_homes: bool = False, **asked: str) -> dict[str, tuple[str, bytes]]:
    """Open files; return what is in them, the environment excepted."""
    found = open_files(asked, with_homes=with_homes)
    os.close(found.pop("environment")[1])
    return {name: (path, content(fd)) for name, (path, fd) in found.items()}


def without_system_default(found: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    """Leave out /etc/passwd-s3fs, which this machine may have."""
    return {name: file for name, file in found.items() if file[0] != "/etc/passwd-s3fs"}


# -- the sealed copy -------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> int:
    """A descriptor as the worker gets it."""
    path = make(tmp_path / "passwd")
    return open_files({"passwd_file": str(path)}, with_homes=False)["passwd_file"][1]


def test_a_copy_is_no_path_to_the_file(copy: int, tmp_path: Path) -> None:
    make(tmp_path / "passwd", b"rotated")
    assert str(Path(f"/proc/self/fd/{copy}").readlink()).startswith("/memfd:passwd_file")
    assert content(copy) == b"AKIA:secret\n"


def test_a_large_file_is_copied_whole(tmp_path: Path) -> None:
    whole = os.urandom(FILE_MAX)
    assert opened(ca_bundle=str(make(tmp_path / "ca", whole)))["ca_bundle"][1] == whole


def test_a_copy_cannot_be_changed(copy: int) -> None:
    everything = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == everything
    for act in (
        lambda: os.pwrite(copy, b"x", 0),
        lambda: os.ftruncate(copy, 0),
        lambda: os.ftruncate(copy, 100),
        lambda: mmap.mmap(copy, 1, mmap.MAP_SHARED, mmap.PROT_WRITE),
        lambda: fcntl.fcntl(copy, fcntl.F_ADD_SEALS, 0),
    ):
        with pytest.raises(PermissionError):
            act()
    os.close(copy)


def test_a_copy_does_not_survive_exec(copy: int) -> None:
    assert not os.get_inheritable(copy)
    os.close(copy)


def test_a_file_without_a_size_is_copied(tmp_path: Path) -> None:
    """A regular file of /proc says that it has 0 bytes."""
    assert opened(config_file="/proc/self/limits")["config_file"][1].startswith(b"Limit")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o500])
def test_a_secret_of_its_owner_alone(tmp_path: Path, mode: int) -> None:
    path = str(make(tmp_path / "passwd", mode=mode))
    assert opened(passwd_file=path)["passwd_file"] == (path, b"AKIA:secret\n")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o777])
def test_a_secret_that_others_may_touch(tmp_path: Path, mode: int) -> None:
    path = make(tmp_path / "passwd", mode=mode)
    with pytest.raises(UsageError, match=rf"passwd_file={path}: .*{mode:04o}\): chmod 600 {path}$"):
        opened(passwd_file=str(path))


@pytest.mark.parametrize(
    ("path", "mode", "good"),
    [
        ("/etc/passwd-s3fs", 0o640, True),
        ("/etc/passwd-s3fs", 0o600, True),
        ("/etc/passwd-s3fs", 0o660, False),
        ("/etc/passwd-s3fs", 0o644, False),
        ("/etc/other", 0o640, False),
    ],
)
def test_the_group_may_read_the_system_wide_file(path: str, mode: int, good: bool) -> None:
    """s3fs's rule, see its manual: "640 for /etc/passwd-s3fs, 600 for others"."""
    option = next(o for o in files._OPTIONS if o.names[0] == "passwd_default")
    if good:
        files._check(option, path, stat.S_IFREG | mode)
        return
    with pytest.raises(UsageError, match="others may read or change it"):
        files._check(option, path, stat.S_IFREG | mode)


def test_what_is_no_secret_may_be_public(tmp_path: Path) -> None:
    path = str(make(tmp_path / "ca.pem", b"-----BEGIN", 0o644))
    assert opened(ca_bundle=path)["ca_bundle"] == (path, b"-----BEGIN")


@pytest.mark.parametrize("size", [0, FILE_MAX])
def test_sizes_that_pass(tmp_path: Path, size: int) -> None:
    path = str(make(tmp_path / "ca", b"x" * size))
    assert opened(ca_bundle=path)["ca_bundle"][1] == b"x" * size


def test_a_size_too_large(tmp_path: Path) -> None:
    path = make(tmp_path / "ca", b"x" * (FILE_MAX + 1))
    with pytest.raises(UsageError, match=f"ca_bundle={path}: larger than {FILE_MAX} bytes"):
        opened(ca_bundle=str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"config_file={tmp_path}/none: No such file"):
        opened(config_file=f"{tmp_path}/none")


def test_only_regular_files(tmp_path: Path) -> None:
    """Neither hangs at a FIFO nor reads a device, and nothing stays open."""
    os.mkfifo(tmp_path / "fifo")
    before = open_descriptors()
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(UsageError, match="not a regular file"):
            opened(config_file=str(path))
    assert open_descriptors() == before


# -- where files are looked for --------------------------------------------------------------------


def test_nothing_is_found_where_nothing_is() -> None:
    assert without_system_default(opened(with_homes=True)) == {}


def test_the_usual_places(home: Path) -> None:
    make(home / ".passwd-s3fs", b"p")
    make(home / ".aws/credentials", b"c")
    make(home / ".aws/config", b"f")
    assert opened(with_homes=True) == {
        "passwd_default": (f"{home}/.passwd-s3fs", b"p"),
        "shared_credentials_file": (f"{home}/.aws/credentials", b"c"),
        "config_file": (f"{home}/.aws/config", b"f"),
    }
    # With worker_user= somebody else is meant, and nobody's home is looked into.
    assert without_system_default(opened(with_homes=False)) == {}


def test_the_environment_goes_before_the_usual_places(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(home / ".aws/credentials", b"home")
    for name in VARIABLES:
        monkeypatch.setenv(name, str(make(tmp_path / name, name.encode())))
    expected = {
        "shared_credentials_file": b"AWS_SHARED_CREDENTIALS_FILE",
        "config_file": b"AWS_CONFIG_FILE",
        "ca_bundle": b"AWS_CA_BUNDLE",
    }
    for with_homes in (True, False):
        found = without_system_default(opened(with_homes=with_homes))
        assert {name: data for name, (_, data) in found.items()} == expected


def test_the_option_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(make(tmp_path / "variable", b"variable")))
    path = str(make(tmp_path / "option", b"option"))
    assert opened(ca_bundle=path)["ca_bundle"] == (path, b"option")


def test_a_variable_that_names_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere/config")
    with pytest.raises(UsageError, match="config_file=/nowhere/config: No such file"):
        opened()


def test_a_default_that_cannot_be_used_is_left_out_with_a_warning(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(home / ".passwd-s3fs", mode=0o644)
    (home / ".aws/config").mkdir(parents=True)
    assert without_system_default(opened(with_homes=True)) == {}
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert warnings[0].startswith(f"mount.s3: warning: not used: passwd_default={path}: others may")
    assert warnings[1].endswith("/.aws/config: not a regular file")


def test_option_names() -> None:
    assert FILE_OPTIONS == {
        "passwd_file": "passwd_file",
        "passwd_default": "passwd_default",
        "shared_credentials_file": "shared_credentials_file",
        "config_file": "config_file",
        "sse_c_key_file": "sse_c_key_file",
        "ca_bundle": "ca_bundle",
        "ca-bundle": "ca_bundle",
        "log_file": "log_file",
        "logfile": "log_file",
    }


# -- the environment -------------------------------------------------------------------------------


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> bytes:
    """Return what a worker is handed of this environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy() | variables)
    path, fd = open_files({}, with_homes=False)["environment"]
    assert path == ""
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals == files._SEALS
    return content(fd)


def test_the_environment_that_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    text = environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID="AKIA",
        AWS_SECRET_ACCESS_KEY="with = signs\n",
        https_proxy="http://proxy",
        NO_PROXY="*",
        LD_PRELOAD="/evil",
        PYTHONPATH="/evil",
        OPENSSL_CONF="/evil",
        SECRET_OF_ROOT="not a word of it",
    )
    assert sorted(text.split(b"\0")) == [
        b"",
        b"AWS_ACCESS_KEY_ID=AKIA",
        b"AWS_SECRET_ACCESS_KEY=with = signs\n",
        b"NO_PROXY=*",
        b"https_proxy=http://proxy",
    ]


def test_an_environment_that_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"AWS_PROFILE=\xff\0" in environment(monkeypatch, AWS_PROFILE="\udcff")


def test_an_environment_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "x" * FILE_MAX)
    with pytest.raises(UsageError, match=f"^environment: larger than {FILE_MAX} bytes$"):
        open_files({}, with_homes=False)


# -- the log ---------------------------------------------------------------------------------------


def log_of(path: Path) -> int:
    return open_files({"log_file": str(path)}, with_homes=False)["log_file"][1]


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    path = make(tmp_path / "log", b"earlier\n")
    fd = log_of(path)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"later\n")
    assert path.read_bytes() == b"earlier\nlater\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(fd, 1)  # what others logged is not for the worker to read
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_log_is_made_for_owner_and_group(tmp_path: Path) -> None:
    def make_log() -> int:
        os.umask(0)
        return os.fstat(log_of(tmp_path / "log")).st_mode

    assert in_child(make_log) == stat.S_IFREG | 0o640


def test_a_log_has_no_size_limit(tmp_path: Path) -> None:
    os.close(log_of(make(tmp_path / "log", b"x" * (FILE_MAX + 1))))


def test_a_log_is_no_symbolic_link(tmp_path: Path) -> None:
    """In a directory of somebody else it could lead to any file of root's."""
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match=os.strerror(errno.ELOOP)):
        log_of(tmp_path / "log")
    assert not (tmp_path / "target").exists()


def test_a_log_is_no_fifo_and_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    before = open_descriptors()
    for path in (tmp_path / "fifo", Path("/dev/null"), tmp_path):
        with pytest.raises(UsageError):
            log_of(path)
    assert open_descriptors() == before
    os.close(reader)
    with pytest.raises(UsageError):
        log_of(tmp_path / "fifo")  # nobody reads: no waiting either
