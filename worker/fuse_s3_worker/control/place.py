"""A worker's own directory for its control socket: made before the sandbox closes, used after.

The socket is bound before, because its mode has to be set, and the filter has no chmod(2). The
directory's name is new for each worker, so nothing that an earlier one left is in the way.
"""

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path
from typing import NamedTuple

from fuse_s3_control.places import ABOUT, CONTROL, RUNTIME, USERS, About, is_own, listens

__all__ = ["NoPlaceError", "SocketPlace", "make_place"]

_DIRECTORY_MODE = 0o311  # not to be listed: a name in it that nobody was told is a secret
_SOCKET_MODE = 0o666  # whoever comes is asked who he is
_BACKLOG = 16
_STALE_AFTER = 60.0  # seconds; a younger one may be about to be bound


class NoPlaceError(Exception):
    """There is nowhere to put a control socket; the text says why."""


class SocketPlace(NamedTuple):
    """A directory with a socket that listens."""

    path: Path
    listener: socket.socket

    def write_about(self, about: About) -> None:
        """Tell everybody which mount this is.

        Raises:
            OSError: that cannot be written.
        """
        fresh = self.path / f"{ABOUT}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(about.model_dump_json().encode())
            os.fchmod(fd, 0o644)
        fresh.rename(self.path / ABOUT)

    def close(self) -> None:
        """Stop listening and leave nothing but an empty directory, which the next one removes."""
        self.listener.close()
        _empty(self.path)


def make_place(runtime: Path = RUNTIME, users: Path = USERS) -> SocketPlace:
    """Make a directory of our own, with a socket that everybody may connect to.

    Raises:
        NoPlaceError: that cannot be.
    """
    try:
        home = _home(runtime, users)
        _remove_stale(home)
        path = home / f"{os.getpid()}-{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.settimeout(0)
            listener.bind(str(path / CONTROL))
            (path / CONTROL).chmod(_SOCKET_MODE)
            path.chmod(_DIRECTORY_MODE)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise NoPlaceError(f"{error.filename or runtime}: {error.strerror}") from None
    return SocketPlace(path, listener)


def _home(runtime: Path, users: Path) -> Path:
    """Return the first directory in which this process's user alone decides what there is."""
    uid = os.geteuid()
    own = users / str(uid) / "fuse-s3"
    with contextlib.suppress(OSError):
        if is_own(own.parent.stat(), uid):
            own.mkdir(mode=0o755, exist_ok=True)
    for home in (runtime, own):
        with contextlib.suppress(OSError):
            if is_own(home.stat(follow_symlinks=False), uid):
                return home
    raise NoPlaceError(f"{runtime} is not there, or is not this worker's")


def _remove_stale(home: Path) -> None:
    """Remove what workers left that were killed."""
    for path in home.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_AFTER and not listens(path):
                _empty(path)
                path.rmdir()


def _empty(path: Path) -> None:
    """Remove what a worker puts into its directory; names that are made up at its end."""
    with contextlib.suppress(OSError):
        path.chmod(0o700)  # to list it; in the sandbox this fails, and these names do
    names = {CONTROL, ABOUT, f"{ABOUT}.new"}
    with contextlib.suppress(OSError):
        names |= set(os.listdir(path))  # noqa: PTH208
    for name in names:
        with contextlib.suppress(OSError):
            (path / name).unlink()
