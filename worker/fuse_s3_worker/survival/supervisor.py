"""Who started this worker, and keeps for its successor what it stores: systemd, or the keeper.

Both speak the same: descriptors at the start with their names (sd_listen_fds(3)), and messages of
`NAME=value` lines (sd_notify(3)), to a socket that systemd names in the environment and the keeper
hands over like any other descriptor. See "File Descriptor Store" in systemd's documentation.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, MutableMapping

from fuse_s3_shared.fdpass import send_packet

__all__ = ["Supervisor"]

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_CONNECTION = "connection"  # systemd's name for what a socket unit with Accept=yes hands over
_NOTIFY = "notify"
_MICROSECOND = 1_000_000


class Supervisor:
    """The other end of the notification socket; without one, nothing is kept and nobody listens.

    Attributes:
        connection: the descriptor of a helper that wants a mount, if there is one.
        stored: what predecessors have stored, by name.
        is_systemd: whether it is systemd, whose unit confines this process.
    """

    def __init__(self, given: Mapping[str, int], notify: socket.socket | None) -> None:
        self.connection = given.get(_CONNECTION)
        self.stored = {name: fd for name, fd in given.items() if name not in (_CONNECTION, _NOTIFY)}
        self.is_systemd = notify is not None and _NOTIFY not in given
        self._notify = notify
        self._notify_fd = given.get(_NOTIFY)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Supervisor":
        """Take what was handed over; children of ours would not be meant, so it is removed."""
        given = dict(_given(environment))
        notify, address = None, environment.pop("NOTIFY_SOCKET", "")
        if _NOTIFY in given:
            # A copy: the keeper takes the end of the descriptor for that of the process, so it
            # must not be closed any earlier.
            notify = socket.socket(fileno=os.dup(given[_NOTIFY]))
        elif address:
            notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # Now: a sandbox may close the way there, but not a connection that exists.
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
        return cls(given, notify)

    @property
    def keeps(self) -> bool:
        """Tell whether there is anybody who keeps anything."""
        return self._notify is not None

    def store(self, name: str, fd: int) -> None:
        """Have a copy of `fd` kept, and handed to the next worker under this name."""
        self._send(f"FDSTORE=1\nFDNAME={name}", fd)

    def ready(self) -> None:
        """Say that this worker does what it was started for."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Say what is going on, in a line for people: `systemctl status` shows it."""
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def stopping(self) -> None:
        """Say that this worker is about to end."""
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Ask for so much more time: there is progress."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECOND)}")

    def leave(self) -> None:
        """Have nothing to do with it any more: it takes this process for one that has ended."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        if self._notify_fd is not None:
            os.close(self._notify_fd)
            self._notify_fd = None

    def _send(self, text: str, fd: int | None = None) -> None:
        if self._notify is None:
            return
        with contextlib.suppress(OSError):  # whoever listened is gone: the mount goes on
            send_packet(self._notify, text.encode(), fd)


def _given(environment: MutableMapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield names and descriptors that are meant for this process."""
    pid, count, names = (
        environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()):
        return
    for fd, name in zip(range(_FIRST_FD, _FIRST_FD + int(count)), names.split(":"), strict=False):
        os.set_inheritable(fd, False)  # noqa: FBT003  the standard library's own signature
        yield name, fd
