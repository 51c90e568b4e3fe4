"""Programs that give keys (credential_process), which nobody may start inside the sandbox.

A process of its own starts them. It is forked before the sandbox closes, holds one socket, and
knows the command lines of the configuration; the worker says by number which of them it wants, and
gets what it printed. Whoever takes the worker over can have these run again, and no others.
"""

import errno
import os
import shlex
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from fuse_s3_worker.sandbox import close_all_but

__all__ = ["Finished", "Programs"]

_DEADLINE = 60.0  # seconds; a key that takes longer is none for a program that waits
_OUTPUT_MAX = 64 * 1024  # bytes of output, and of complaints; a key with its token has a few
_REQUEST = struct.Struct("=H")
_ANSWER = struct.Struct("=iiI")  # errno, exit status, bytes of standard output; then both outputs
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Finished(NamedTuple):
    """A program that has run: as much of subprocess.Popen as botocore uses."""

    returncode: int
    stdout: bytes
    stderr: bytes

    def communicate(self) -> tuple[bytes, bytes]:
        """Return what it printed."""
        return self.stdout, self.stderr


class Programs:
    """The process that starts programs; it ends with this one."""

    def __init__(self, commands: Sequence[str]) -> None:
        """Fork it. There must not be a second thread yet."""
        self._commands = [_words(command) for command in commands]
        self._turn = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            self._socket.close()
            _serve(theirs, self._commands)
        theirs.close()

    def popen(self, command: list[str], **_streams: object) -> Finished:
        """Run a command of the configuration; see subprocess.Popen.

        Raises:
            OSError: it is none of them, or cannot be started, or gives no answer.
        """
        if command not in self._commands:
            raise PermissionError(errno.EPERM, "not configured when the mount was made", command[0])
        with self._turn:
            try:
                self._socket.send(_REQUEST.pack(self._commands.index(command)))
                answer = self._socket.recv(_ANSWER.size + 2 * _OUTPUT_MAX)
            except ConnectionError:
                answer = b""
        if not answer:
            raise ChildProcessError(errno.ECHILD, "who starts programs has ended", command[0])
        number, status, length = _ANSWER.unpack_from(answer)
        if number:
            raise OSError(number, os.strerror(number), command[0])
        output = answer[_ANSWER.size :]
        return Finished(status, output[:length], output[length:])

    def close(self) -> None:
        """Let it end."""
        self._socket.close()


def _words(command: str) -> list[str]:
    """Split as botocore does; what cannot be split is refused by botocore, too."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _serve(requests: socket.socket, commands: list[list[str]]) -> NoReturn:
    """Start what is asked for, until there is nobody who could ask."""
    try:
        close_all_but(requests.fileno())
        for number in _SIGNALS:  # as the worker, which outlives them; programs get the usual ones
            signal.signal(number, lambda *_: None)
        while request := requests.recv(_REQUEST.size):
            (index,) = _REQUEST.unpack(request)
            requests.send(_run(commands[index]))
    finally:
        os._exit(0)


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603  root's or the user's own configuration names it
            command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE
        )
    except subprocess.TimeoutExpired:
        return _ANSWER.pack(errno.ETIMEDOUT, 0, 0)
    except (OSError, ValueError) as error:
        return _ANSWER.pack(getattr(error, "errno", None) or errno.EINVAL, 0, 0)
    output, complaints = done.stdout[:_OUTPUT_MAX], done.stderr[:_OUTPUT_MAX]
    return _ANSWER.pack(0, done.returncode, len(output)) + output + complaints
