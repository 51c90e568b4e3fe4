"""Files that only root may be able to read, read here, handed over as sealed memfds.

The worker has no power to open them and learns no path that it could use. What it gets is a
copy that nobody can change afterwards; a rotated key takes effect with the next mount.
"""

import fcntl
import os
import pwd
import stat
import sys
from typing import NamedTuple

from fuse_s3_helper.errors import UsageError
from fuse_s3_shared.limits import FILE_MAX


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


def open_files(asked: dict[str, str], *, with_homes: bool) -> dict[str, tuple[str, int]]:
    """Open what the options name, else what the environment names, else the usual places.

    Args:
        asked: option name to path, from the command line.
        with_homes: also look into the home of whoever mounts.

    Returns:
        Option name to (path, descriptor). The descriptors are close-on-exec.

    Raises:
        UsageError: a file that was named cannot be used. One that was not named is left out.
    """
    files: dict[str, tuple[str, int]] = {}
    for option in _OPTIONS:
        named = asked.get(option.names[0]) or os.environ.get(option.environment, "")
        if named:
            files[option.names[0]] = named, _open(option, named)
        else:
            files |= _first_usable(option, with_homes=with_homes)
    return files


def _first_usable(option: FileOption, *, with_homes: bool) -> dict[str, tuple[str, int]]:
    home = pwd.getpwuid(os.geteuid()).pw_dir
    for default in option.defaults:
        path = default.replace("~", home, 1)
        if (default == path or with_homes) and os.path.exists(path):
            try:
                return {option.names[0]: (path, _open(option, path))}
            except UsageError as error:
                # Nobody asked for this one: say why it does not count, and go on without it.
                print(f"mount.s3: warning: not used: {error}", file=sys.stderr)
    return {}


def _open(option: FileOption, path: str) -> int:
    # Safe with root's powers: whoever runs this named the path or owns the home it lies in, the
    # kernel opens it with their rights (the helper is not setuid), and only a bounded regular
    # file passes. O_NONBLOCK: a FIFO must not hold up the mount.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW if option.append else os.O_RDONLY
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise UsageError(f"{option.names[0]}={path}: {error.strerror}") from None
    try:
        _check(option, path, os.fstat(fd))
        return os.dup(fd) if option.append else _sealed_copy(option, fd)
    finally:
        os.close(fd)


def _check(option: FileOption, path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{option.names[0]}={path}: not a regular file")
    if not option.append and status.st_size > FILE_MAX:
        raise UsageError(f"{option.names[0]}={path}: larger than {FILE_MAX} bytes")
    # s3fs's rule: nobody else at all, but the system-wide file may be readable by its group.
    allowed = 0o740 if path == "/etc/passwd-s3fs" else 0o700
    if option.secret and status.st_mode & 0o777 & ~allowed:
        raise UsageError(
            f"{option.names[0]}={path}: others may read or change it (mode "
            f"{stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}",
        )


def _sealed_copy(option: FileOption, fd: int) -> int:
    copy = os.memfd_create(option.names[0], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    remaining = FILE_MAX
    while remaining and (data := os.read(fd, remaining)):
        remaining -= len(data)
        os.write(copy, data)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    return copy
