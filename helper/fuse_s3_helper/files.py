"""What only whoever mounts may be able to read, read here, handed over as sealed memfds.

The worker has no power to open these files and learns no path that it could use. What it gets is
a copy that nobody can change afterwards; a rotated key takes effect with the next mount. The
environment goes the same way, so that it is at hand for the next worker, too.
"""

import fcntl
import os
import pwd
import stat
from collections.abc import Mapping
from typing import NamedTuple

from fuse_s3_helper.errors import UsageError, warn
from fuse_s3_shared.limits import FILE_MAX

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class FileOption(NamedTuple):
    """One option that names a file.

    `environment` is the AWS CLI's variable for it; `defaults` are looked at, in order, when
    neither option nor variable is given (`~` is the home of whoever mounts). A `secret` that
    others may read is refused, as s3fs does; `append` opens for writing log lines.
    """

    names: tuple[str, ...]
    environment: str = ""
    defaults: tuple[str, ...] = ()
    secret: bool = False
    append: bool = False


_OPTIONS = (
    FileOption(("passwd_file",), secret=True),
    # What lies around counts for less than what was asked for: the worker has to tell them apart.
    FileOption(("passwd_default",), "", ("~/.passwd-s3fs", "/etc/passwd-s3fs"), secret=True),
    FileOption(
        ("shared_credentials_file",), "AWS_SHARED_CREDENTIALS_FILE", ("~/.aws/credentials",)
    ),
    FileOption(("config_file",), "AWS_CONFIG_FILE", ("~/.aws/config",)),
    FileOption(("sse_c_key_file",), secret=True),
    FileOption(("ca_bundle", "ca-bundle"), "AWS_CA_BUNDLE"),
    FileOption(("log_file", "logfile"), append=True),
)

FILE_OPTIONS = {name: option.names[0] for option in _OPTIONS for name in option.names}


def open_files(asked: Mapping[str, str], *, with_homes: bool) -> dict[str, tuple[str, int]]:
    """Open what the options name, else what the environment names, else the usual places.

    Args:
        asked: option name to path, from the command line.
        with_homes: also look into the home of whoever mounts.

    Returns:
        Option name to (path, descriptor), and the `environment`. The descriptors are
        close-on-exec.

    Raises:
        UsageError: a file that was named cannot be used. One that was not named is left out.
    """
    files: dict[str, tuple[str, int]] = {}
    home = pwd.getpwuid(os.geteuid()).pw_dir if with_homes else "/nowhere"
    for option in _OPTIONS:
        name = option.names[0]
        named = asked.get(name) or os.environ.get(option.environment, "")
        usual = [path.replace("~", home, 1) for path in option.defaults]
        for path in [named] if named else filter(os.path.exists, usual):
            try:
                files[name] = path, _open(option, path)
                break
            except UsageError as error:
                if named:
                    raise
                # Nobody asked for this one: say why it does not count, and go on without it.
                warn(f"not used: {error}")
    return files | {"environment": ("", _environment())}


def _environment() -> int:
    """Copy the variables that tell of credentials and of the way to the store.

    The worker picks those it knows out of them. It is started with none of them, so nothing here
    can steer its interpreter or its loader.
    """
    names = [n for n in os.environ if n.startswith("AWS_") or n.lower().endswith("_proxy")]
    text = "".join(f"{name}={os.environ[name]}\0" for name in names)
    return _sealed_copy("environment", os.fsencode(text))


def _open(option: FileOption, path: str) -> int:
    # Safe with root's powers: whoever runs this named the path or owns the home it lies in, the
    # kernel opens it with their rights (the helper is not setuid), and only a bounded regular
    # file passes. O_NONBLOCK: a FIFO must not hold up the mount.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW if option.append else os.O_RDONLY
    named = f"{option.names[0]}={path}"
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise UsageError(f"{named}: {error.strerror}") from None
    try:
        _check(option, path, os.fstat(fd).st_mode)
        if option.append:
            return os.dup(fd)
        with open(fd, "rb", closefd=False) as file:
            return _sealed_copy(named, file.read(FILE_MAX + 1))
    finally:
        os.close(fd)


def _check(option: FileOption, path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UsageError(f"{option.names[0]}={path}: not a regular file")
    # s3fs's rule: nobody else at all, but the system-wide file may be readable by its group.
    allowed = 0o740 if path == "/etc/passwd-s3fs" else 0o700
    if option.secret and mode & 0o777 & ~allowed:
        raise UsageError(
            f"{option.names[0]}={path}: others may read or change it (mode "
            f"{stat.S_IMODE(mode):04o}): chmod 600 {path}"
        )


def _sealed_copy(name: str, data: bytes) -> int:
    """Return a descriptor of memory that holds `data` and cannot change."""
    if len(data) > FILE_MAX:
        raise UsageError(f"{name}: larger than {FILE_MAX} bytes")
    copy = os.memfd_create(name.partition("=")[0], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(copy, data)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy
