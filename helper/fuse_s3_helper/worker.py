"""The conversation with a worker: a stranger, whoever started it.

Every message comes from the table in `handoff`, every wait has a deadline, and what a worker says
reaches the user only as one printable line. It has nothing to give but words: no descriptor is
taken from it.
"""

import contextlib
import os
import pwd
import signal
import socket
import stat
import time
from collections.abc import Iterator
from typing import TypeVar

from fuse_s3_helper.errors import MountError, UsageError, WorkerError, warn
from fuse_s3_helper.process import end_of, fork_worker
from fuse_s3_shared import handoff, limits
from fuse_s3_shared.fdpass import PacketError, peer_uid, receive_packet, send_packet

_M = TypeVar("_M", handoff.Hello, handoff.Ready, handoff.Serving)

_CONNECTION_FD = 3
_SO_PASSRIGHTS = 83  # asm-generic/socket.h, since Linux 6.16
_SERVICE_USERS = ("fuse-s3", "nobody")
_RUN = "/run/fuse-s3"
_SOCKET = f"{_RUN}/worker.sock"  # of systemd/fuse-s3-worker.socket
_BY_OTHERS = 0o022  # may be written


def identity(worker_user: str | None) -> pwd.struct_passwd:
    """Return the account that the worker runs under: for an ordinary user, their own.

    Raises:
        UsageError: there is no such account, or it is root's.
    """
    if os.geteuid() and worker_user:
        raise UsageError(f"worker_user={worker_user}: only root can start it as somebody else")
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    names = (worker_user,) if worker_user else _SERVICE_USERS
    for name in names:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            if account.pw_uid == 0 or account.pw_gid == 0:
                raise UsageError(f"worker_user={name}: a worker never runs as root")
            return account
    raise UsageError(f"worker_user={' or '.join(names)}: no such user")


class Worker:
    """The helper's end of the conversation.

    `keeper` is the process that keeps the worker, and its process group; `stderr` is where both
    say why they end. There are neither where systemd starts it. Nothing is waited for beyond the
    `deadline`, in monotonic seconds.
    """

    def __init__(self, sock: socket.socket, keeper: int = 0, stderr: int = -1) -> None:
        with contextlib.suppress(OSError):
            # What is never received need not be closed.
            sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        self._sock = sock
        self._keeper = keeper
        self._stderr = stderr
        self.deadline = time.monotonic() + limits.START_DEADLINE

    @property
    def seconds_left(self) -> float:
        """What is left until the deadline, at least a moment."""
        return max(0.001, self.deadline - time.monotonic())

    def say(self, message: handoff.Message, fd: int | None = None) -> None:
        """Send `message`, with the descriptor that belongs to it."""
        try:
            packet = handoff.encode(message)
        except handoff.HandoffError as error:
            raise UsageError(f"too long for a mount: {error}") from None
        with self._failures():
            send_packet(self._sock, packet, fd)

    def expect(self, kind: type[_M]) -> _M:
        """Wait for a message of this `kind`.

        Raises:
            MountError: the worker refused, died, lied, or let the deadline pass.
        """
        with self._failures():
            packet, fd = receive_packet(self._sock, limits.PACKET_MAX)
            if fd is not None:
                os.close(fd)  # the table has no message of a worker with a descriptor
            if not packet:
                raise EOFError
            message = handoff.decode(packet, handoff.WORKER_SENDS, has_fd=fd is not None)
        if isinstance(message, handoff.Refuse):
            raise MountError(handoff.printable(message.reason) or os.strerror(message.errno))
        if not isinstance(message, kind):
            raise WorkerError(f"the worker said {type(message).__name__} out of turn")
        return message

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Wait no longer than the deadline allows, and say of each failure whose it is."""
        self._sock.settimeout(self.seconds_left)
        try:
            yield
        except TimeoutError:
            raise MountError("no answer from the worker in time") from None
        except (PacketError, handoff.HandoffError) as error:
            raise WorkerError(f"the worker broke the handoff protocol: {error}") from None
        except (OSError, EOFError):
            raise MountError(self._last_words()) from None

    def greet(self) -> None:
        """Wait for the worker's first word, and see that it speaks as we do."""
        hello = self.expect(handoff.Hello)
        if not hello.version_min <= limits.PROTOCOL_VERSION <= hello.version_max:
            raise MountError(
                f"the worker speaks handoff versions {hello.version_min} to {hello.version_max}, "
                f"mount.s3 speaks {limits.PROTOCOL_VERSION}: install both from one release"
            )

    def stop(self) -> None:
        """End the worker: its socket closes, which it understands; else it is killed."""
        self._sock.close()
        if self._keeper and end_of(self._keeper, limits.STOP_DEADLINE) is None:
            # Safe: an unreaped child of this process, so the number cannot have passed to another.
            os.killpg(self._keeper, signal.SIGKILL)
            os.waitpid(self._keeper, 0)

    def _last_words(self) -> str:
        """Say why a worker died; it writes there only before it has a log."""
        try:
            os.set_blocking(self._stderr, False)
            text = os.read(self._stderr, limits.PACKET_MAX).decode(errors="replace").strip()
        except OSError:
            text = ""
        last = handoff.printable(text.rsplit("\n", 1)[-1])
        return f"the worker ended before it could serve: {last or 'look into its log'}"


def start_worker(account: pwd.struct_passwd, command: str, *, foreground: bool) -> Worker:
    """Have a keeper start `command` as `account`, and wait for its first word."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    fds = {2: 2 if foreground else error_write, _CONNECTION_FD: theirs.fileno()}
    pid = fork_worker(account, [command], fds)
    theirs.close()
    os.close(error_write)
    worker = Worker(ours, pid, error_read)
    try:
        worker.greet()
    except BaseException:
        worker.stop()
        raise
    return worker


def activated_worker() -> Worker | None:
    """Return a worker that systemd started for us, once it has said its first word.

    None where there is no such socket, and, with a warning, where it is of no use.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _connect(sock)
        worker = Worker(sock)
        worker.deadline = time.monotonic() + limits.ACTIVATION_DEADLINE
        worker.greet()
    except (MountError, OSError) as error:
        sock.close()
        if not isinstance(error, FileNotFoundError):
            warn(f"{_SOCKET} is of no use, so systemd does not start the worker: {error}")
        return None
    worker.deadline = time.monotonic() + limits.START_DEADLINE
    return worker


def _connect(sock: socket.socket) -> None:
    # Safe: nobody but root can have put there, or can replace, what is in root's directory; and
    # the kernel, not the listener, tells who listens.
    for path, is_kind in ((_RUN, stat.S_ISDIR), (_SOCKET, stat.S_ISSOCK)):
        status = os.lstat(path)
        if status.st_uid or not is_kind(status.st_mode) or status.st_mode & _BY_OTHERS:
            raise MountError(f"{path} is not root's alone")
    sock.settimeout(limits.ACTIVATION_DEADLINE)
    sock.connect(_SOCKET)
    if peer_uid(sock):
        raise MountError(f"user {peer_uid(sock)} listens there")
