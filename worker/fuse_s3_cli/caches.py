"""Cache directories: where there are any, and who looks into them, which is never root.

What lies there was written by a worker. It is read by a process with the rights of its owner, and
stored by a worker that mount.s3 starts for that; this program hears what these two say.
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from fuse_s3_shared.mountopts import MountOption, OptionSyntaxError, join_options, split_options

__all__ = ["CommandError", "Staged", "do_there", "known_caches", "run_errand", "staged_in"]

_USUAL = "/var/cache/fuse-s3"
_FSTAB = Path("/etc/fstab")
_TYPES = frozenset({"s3", "fuse.s3"})
_WORKER = "fuse-s3-worker"
_LEFT = "fuse_s3_worker.left"
_HELPER_PLACES = "/sbin:/usr/sbin:/usr/local/sbin"
_SERVICE_USERS = ("fuse-s3", "nobody")  # whom mount.s3 takes, the first that there is
# A directory of staged files; see fuse_s3_worker.transfer.stagedir.
_PLACE = re.compile(r"(?P<cache>/.+)/[A-Za-z0-9._-]+-[0-9a-f]{16}")


class CommandError(Exception):
    """Something cannot be done; one line for the user, with the next step."""


class Staged(NamedTuple):
    """One staged file, as the worker's code describes it; names are those of --json.

    Attributes:
        state: committing, open, conflict or damaged; see `staged` for what they are called.
        written: bytes that are nowhere else.
        missing: bytes that are in the bucket alone.
        mtime: nanoseconds since the epoch.
        spec: of the mount that made it; with the next three, how to get to its bucket.
    """

    cache: str
    id: str
    state: str
    in_use: bool
    key: str
    problem: str
    path: str
    size: int
    written: int
    missing: int
    mtime: int
    spec: str
    options: str
    files: str
    endpoint: str


# -- where there are any ---------------------------------------------------------------------------


def known_caches() -> list[str]:
    """Return the cache directories of today's mounts and of fstab, and the usual one."""
    found = {*_of_mounts(), *_of_fstab(), _USUAL}
    return sorted(path for path in found if Path(path).is_dir())


def _of_mounts() -> Iterator[str]:
    """Yield those that a worker has open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _WORKER.encode() not in (process / "cmdline").read_bytes():
                continue
            for fd in (process / "fd").iterdir():
                match = _PLACE.fullmatch(str(fd.readlink()))
                if match:
                    yield match["cache"]


def _of_fstab() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in _FSTAB.read_text(errors="replace").splitlines():
            match line.split():
                case [spec, _, kind, text, *_] if kind in _TYPES and not spec.startswith("#"):
                    yield from _of_options(text)


def _of_options(text: str) -> Iterator[str]:
    with contextlib.suppress(OptionSyntaxError):
        options = split_options(text)
        yield from (value for name, value in options if name == "cache" and value)


# -- on this machine -------------------------------------------------------------------------------


def staged_in(cache: str) -> list[Staged]:
    """Return what is left in a cache directory, oldest first.

    Raises:
        CommandError: it cannot be looked into.
    """
    lines = do_there(cache, "list").splitlines()
    return sorted((Staged(cache, **json.loads(line)) for line in lines), key=lambda one: one.id)


def do_there(cache: str, action: str, *words: str, output: IO[bytes] | None = None) -> str:
    """Have something done in a cache directory by a process with its owner's rights.

    Returns:
        What it printed, unless that went to `output`.

    Raises:
        CommandError: it was not done.
    """
    owner = _owner_of(cache)
    root = os.geteuid() == 0
    done = subprocess.run(  # noqa: S603  a program of ours
        [sys.executable, "-IS", "-c", _code(), cache, action, *words],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        cwd="/",
        text=True,
        user=owner.user if root else None,
        group=owner.group if root else None,
        extra_groups=[] if root else None,
        umask=0o077,
    )
    if done.returncode:
        last = done.stderr.strip() or f"status {done.returncode}"
        raise CommandError(last.removeprefix("fuse-s3: "))
    return done.stdout or ""


class _Identity(NamedTuple):
    user: int
    group: int


def _owner_of(cache: str) -> _Identity:
    try:
        status = Path(cache).lstat()
    except OSError as error:
        raise CommandError(f"{cache}: {error.strerror}") from None
    if os.geteuid() == 0 and 0 in {status.st_uid, status.st_gid}:
        raise CommandError(f"{cache} belongs to root, whom no worker runs as: chown it")
    return _Identity(status.st_uid, status.st_gid)


def _code() -> str:
    """Return what starts the worker's code with the packages of this program and no others."""
    return f"import sys; sys.path[:] = {sys.path!r}; from {_LEFT} import main; sys.exit(main())"


# -- in the bucket ---------------------------------------------------------------------------------


def run_errand(what: str, staged: list[Staged]) -> None:
    """Have a worker do something to staged files of one bucket; its log goes to standard error.

    Raises:
        CommandError: there was no worker to do it.
    """
    if os.geteuid() != 0:
        raise CommandError("only root can have a worker started, as for a mount: use sudo")
    helper = shutil.which("mount.s3", path=_HELPER_PLACES)
    if helper is None:
        raise CommandError("mount.s3 is not installed: make install")
    first = staged[0]
    if not first.spec:
        raise CommandError(
            f"nothing is known of how to get to the bucket of {first.path}: mount it with "
            f"cache={first.cache}"
        )
    errand = ":".join([what, *(one.id for one in staged)])
    command = [helper, "-f", first.spec, "/", "-o", _options(first, errand)]
    with subprocess.Popen(  # noqa: S603  a program of ours
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
    ) as process:
        assert process.stderr is not None  # noqa: S101  it was asked for
        # Its end is the worker's: that goes on when mount.s3 has done what it has to do.
        for line in process.stderr:
            os.write(2, line)
    if process.returncode:
        raise CommandError(f"{first.spec} could not be reached: give the access key as for a mount")


def _options(first: Staged, errand: str) -> str:
    """Return the options of the mount that is not made; the last of equal ones counts."""
    own = [MountOption("foreground"), MountOption("cache", first.cache)]
    if first.endpoint:
        own.append(MountOption("endpoint_url", first.endpoint))
    own += [*_worker_user(first.cache), MountOption("log_level", "warning")]
    own.append(MountOption("errand", errand))
    return ",".join(filter(None, [first.options, first.files, join_options(own)]))


def _worker_user(cache: str) -> list[MountOption]:
    """Return the option that has the worker run as the owner of a directory, if it needs one."""
    try:
        owner = pwd.getpwuid(_owner_of(cache).user).pw_name
    except KeyError:
        raise CommandError(f"{cache} belongs to a user without a name: chown it") from None
    usual = next(filter(_exists, _SERVICE_USERS), "")
    return [] if owner == usual else [MountOption("worker_user", owner)]


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
