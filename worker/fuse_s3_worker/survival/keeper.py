"""The keeper: starts a worker where systemd does not, and after its death the next one.

It keeps what a worker stores with it, the FUSE device first of all, hands it to the successor of
a worker that died, and ends when there is nothing to hand over. Towards the worker it speaks the
part of systemd's protocols that this takes, sd_listen_fds(3) at its start and FDSTORE=1 of
sd_notify(3) afterwards, but over a socket that is inherited: nobody else can speak into it.

The helper starts it in place of a worker, as the worker's user and without any privilege; what a
worker stores is counted and named, and never looked into. So there is nothing to be had from it.
It imports little, since it stays as long as the mount does.
"""

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping

from fuse_s3_shared.fdpass import PacketError, receive_packet
from fuse_s3_shared.limits import STORED_MAX

__all__ = ["Keeper", "main"]

_NAME_HERE, _NAME_OF_WORKER = "fuse-s3-keeper", "fuse-s3-worker"  # in one directory
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_OUT_OF_THE_WAY = 64
_NAME = re.compile(r"[a-z0-9_.-]{1,64}")  # of a stored descriptor
_MESSAGE_MAX = 4096  # bytes; sd_notify(3) knows no limit, and the worker's are far shorter

# The worker gives up a restart loop by itself, after fewer failures, and then answers EIO; what
# is left for the keeper is a worker that does not even come so far.
_PAUSE = 0.05  # seconds
_STARTS_MAX, _WITHIN = 100, 60.0  # seconds

# At shutdown everything gets a signal, and programs that still use the mount need the next worker.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Python ignores these by itself; an ignored signal stays ignored across exec.
_RESET = (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ)


def main() -> int:
    """Keep workers until one has ended as it should; return an exit status."""
    if len(sys.argv) != 1 or not _is_socket(_FIRST_FD):
        sys.stderr.write("fuse-s3-keeper is started by mount.s3\n")
        return 1
    # It holds copies of credentials; other processes of the same user shall not look into it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    Keeper([sys.argv[0].removesuffix(_NAME_HERE) + _NAME_OF_WORKER]).run({"connection": _FIRST_FD})
    return 0


def _is_socket(fd: int) -> bool:
    try:
        socket.socket(fileno=os.dup(fd)).close()
    except OSError:
        return False
    return True


class Keeper:
    """Starts `command` again and again, and keeps descriptors meanwhile."""

    def __init__(self, command: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._clock = clock
        self._stored: dict[str, int] = {}
        self._starts: list[float] = []

    def run(self, given: Mapping[str, int]) -> None:
        """Run one worker after the other; only the first one is `given` descriptors, by name."""
        while len(self._starts) < _STARTS_MAX:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                pid = self._start({**given, **self._stored, "notify": theirs.fileno()})
                theirs.close()
                for fd in given.values():
                    os.close(fd)
                given = {}
                self._take(ours)
            os.kill(pid, signal.SIGKILL)  # whoever has nothing more to say has ended
            if os.waitpid(pid, 0)[1] == 0 or not self._stored:
                return  # as it should, or there never was a mount
            self._damp()

    def _start(self, given: Mapping[str, int]) -> int:
        """Start a worker that finds these descriptors; return its process id."""
        pid = os.fork()
        if pid:
            return pid
        try:
            for number in _RESET:
                signal.signal(number, signal.SIG_DFL)
            # Out of the way first: the number one of them goes to may be another one's source.
            copies = [
                fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in given.values()
            ]
            for to, fd in enumerate(copies, _FIRST_FD):
                os.dup2(fd, to)
            listen = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given))}
            listen["LISTEN_FDNAMES"] = ":".join(given)
            os.execve(self._command[0], self._command, os.environ | listen)
        except BaseException as error:  # noqa: BLE001  the child must never run on as a second keeper
            os.write(2, f"{self._command[0]}: {error}\n".encode())
        os._exit(126)

    def _take(self, sock: socket.socket) -> None:
        """Take what a worker stores, until it closes its end, which it does by ending."""
        while True:
            try:
                packet, fd = receive_packet(sock, _MESSAGE_MAX)
            except PacketError:
                continue
            except OSError:
                return
            if fd is not None:
                self._store(packet, fd)
            elif not packet:
                return

    def _store(self, packet: bytes, fd: int) -> None:
        words = dict(line.partition("=")[::2] for line in packet.decode("latin-1").split("\n"))
        name = words.get("FDNAME", "")
        known = name in self._stored or len(self._stored) >= STORED_MAX
        if words.get("FDSTORE") == "1" and _NAME.fullmatch(name) and not known:
            self._stored[name] = fd
        else:
            os.close(fd)

    def _damp(self) -> None:
        """Wait a moment before the next start, and count it."""
        time.sleep(_PAUSE)
        now = self._clock()
        self._starts = [at for at in self._starts if now - at < _WITHIN] + [now]
