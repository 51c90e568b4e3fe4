"""Step 3: a worker without any power, and the conversation with it.

The worker is forked here, loses everything, and is executed anew. From then on it is a stranger:
every message comes from the table in `handoff`, every wait has a deadline, and what it says
reaches the user only as one printable line.
"""

import errno
import fcntl
import os
import pwd
import signal
import socket
import time
from typing import TypeVar

from fuse_s3_helper import syscalls
from fuse_s3_helper.errors import MountError, UsageError, WorkerError
from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import PacketError, receive_packet, send_packet
from fuse_s3_shared.limits import PACKET_MAX, PROTOCOL_VERSION, START_DEADLINE, STOP_DEADLINE

_M = TypeVar("_M", handoff.Hello, handoff.Ready, handoff.Serving)

_HANDOFF_FD = 3
_LAST_CAP = 63  # capability sets have 64 bits; EINVAL comes earlier, after the kernel's last one
_OUT_OF_THE_WAY = 64
_SERVICE_USERS = ("fuse-s3", "nobody")
# Python ignores these, and an ignored signal stays ignored across exec, a blocked one blocked.
_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Credentials come from these, and the way to the endpoint; nothing that steers an interpreter,
# a loader or a library (PYTHON*, LD_*, OPENSSL_CONF ...) gets through.
_ENVIRONMENT = frozenset(
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_SECURITY_TOKEN "
    "AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION "
    "AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL_STS AWS_STS_REGIONAL_ENDPOINTS "
    "AWS_USE_FIPS_ENDPOINT AWS_USE_DUALSTACK_ENDPOINT AWS_IGNORE_CONFIGURED_ENDPOINT_URLS "
    "AWS_ROLE_ARN AWS_ROLE_SESSION_NAME AWS_WEB_IDENTITY_TOKEN_FILE "
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_CONTAINER_CREDENTIALS_FULL_URI "
    "AWS_CONTAINER_AUTHORIZATION_TOKEN AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE "
    "AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_V1_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT "
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE AWS_METADATA_SERVICE_TIMEOUT "
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS "
    "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy".split()
)


def identity(worker_user: str | None) -> pwd.struct_passwd:
    """Return the account that the worker runs under.

    Raises:
        UsageError: there is no such account, or it is root's.
    """
    names = (worker_user,) if worker_user else _SERVICE_USERS
    for name in names:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        if account.pw_uid == 0 or account.pw_gid == 0:
            raise UsageError(f"worker_user={name}: a worker never runs as root")
        return account
    raise UsageError(f"worker_user={' or '.join(names)}: no such user")


class Worker:
    """The helper's end of the conversation with the process `pid`."""

    def __init__(self, pid: int, sock: socket.socket, stderr: int) -> None:
        self.pid = pid
        self._sock = sock
        self._stderr = stderr
        self._deadline = time.monotonic() + START_DEADLINE

    @property
    def seconds_left(self) -> float:
        """What is left of START_DEADLINE, at least a moment."""
        return max(0.001, self._deadline - time.monotonic())

    def say(self, message: handoff.Message, fd: int | None = None) -> None:
        """Send `message`, with the descriptor that belongs to it."""
        self._sock.settimeout(self.seconds_left)
        try:
            send_packet(self._sock, handoff.encode(message), fd)
        except handoff.HandoffError as error:
            raise UsageError(f"too long for a mount: {error}") from None
        except TimeoutError:
            raise _no_answer() from None
        except OSError:
            raise MountError(self._last_words()) from None

    def expect(self, kind: type[_M]) -> _M:
        """Wait for a message of this `kind`.

        Raises:
            MountError: the worker refused, died, lied, or let the deadline pass.
        """
        self._sock.settimeout(self.seconds_left)
        try:
            packet, fd = receive_packet(self._sock, PACKET_MAX)
            if fd is not None:
                os.close(fd)  # the table has no message of a worker with a descriptor
            if not packet:
                raise MountError(self._last_words())
            message = handoff.decode(packet, handoff.WORKER_SENDS, has_fd=fd is not None)
        except TimeoutError:
            raise _no_answer() from None
        except (PacketError, handoff.HandoffError) as error:
            raise WorkerError(f"the worker broke the handoff protocol: {error}") from None
        except OSError:
            raise MountError(self._last_words()) from None
        if isinstance(message, handoff.Refuse):
            raise MountError(handoff.printable(message.reason) or os.strerror(message.errno))
        if not isinstance(message, kind):
            raise WorkerError(f"the worker said {type(message).__name__} out of turn")
        return message

    def greet(self) -> int:
        """Wait for the worker's first word; return the protocol version to speak."""
        hello = self.expect(handoff.Hello)
        if not hello.version_min <= PROTOCOL_VERSION <= hello.version_max:
            raise MountError(
                f"the worker speaks handoff versions {hello.version_min} to {hello.version_max}, "
                f"mount.s3 speaks {PROTOCOL_VERSION}: install both from one release"
            )
        return PROTOCOL_VERSION

    def stop(self) -> None:
        """End the worker: its socket closes, which it understands; else it is killed."""
        self._sock.close()
        until = time.monotonic() + STOP_DEADLINE
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        # Safe: an unreaped child of this process, so the number cannot have passed to another.
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _last_words(self) -> str:
        """Say why a worker died; it writes there only before it has a log."""
        os.set_blocking(self._stderr, False)
        try:
            text = os.read(self._stderr, PACKET_MAX).decode(errors="replace").strip()
        except OSError:
            text = ""
        last = handoff.printable(text.rsplit("\n", 1)[-1])
        return f"the worker ended before it could serve: {last or 'look into its log'}"


def _no_answer() -> MountError:
    return MountError(f"no answer from the worker within {START_DEADLINE:.0f} s")


def start_worker(account: pwd.struct_passwd, command: str, *, foreground: bool) -> Worker:
    """Start `command` as `account`, without privileges, a socket to it as its descriptor 3."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    kept = {2: 2 if foreground else error_write, _HANDOFF_FD: theirs.fileno()}
    pid = fork_worker(account, [command], kept)
    theirs.close()
    os.close(error_write)
    return Worker(pid, ours, error_read)


def fork_worker(account: pwd.struct_passwd, command: list[str], fds: dict[int, int]) -> int:
    """Fork, become `account` for good, and execute `command`; return its process id.

    `fds` are the descriptors it keeps, as number there to number here; the standard three are
    /dev/null where they are not named.
    """
    environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
    environment |= {"PATH": "/usr/bin:/bin", "HOME": account.pw_dir, "LANG": "C.UTF-8"}
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _keep_only(fds)
        _drop_everything(account)
        os.execve(command[0], command, environment)
    except BaseException as error:  # noqa: BLE001  the child must never run on as a second helper
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(126)


def _keep_only(fds: dict[int, int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    wanted = {0: null, 1: null, 2: null} | fds
    # Copies out of the way first: the number one of them goes to may be another one's source.
    copies = {to: fcntl.fcntl(fd, fcntl.F_DUPFD, _OUT_OF_THE_WAY) for to, fd in wanted.items()}
    for to, fd in copies.items():
        os.dup2(fd, to)
    # Not up to the limit on descriptors: it may have been lowered below one that is open.
    os.closerange(max(wanted) + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)


def _drop_everything(account: pwd.struct_passwd) -> None:
    # Safe because of the order: the bounding set while CAP_SETPCAP is still there, the groups
    # while CAP_SETGID is, the user last. Leaving uid 0 in all three ids empties the permitted,
    # effective and ambient sets (capabilities(7)), the inheritable one is emptied by name;
    # no_new_privs makes exec unable to refill them.
    for capability in range(_LAST_CAP + 1):
        try:
            syscalls.set_process(syscalls.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break
            raise
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    syscalls.empty_capabilities()
    syscalls.set_process(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if 0 in os.getresuid() + os.getresgid():
        raise PermissionError("still root after giving it up")
