"""Child processes that end with this one, and waiting for something that somebody else does."""

import os
import pwd
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = [
    "ROOT",
    "Child",
    "ChildEndedError",
    "free_port",
    "service_user",
    "wait_for_port",
    "wait_until",
]

ROOT = Path(__file__).resolve().parent.parent.parent

# Below the range that the kernel takes outgoing ports from: what is free now, stays free.
_PORTS = range(20_000, 32_000)
_POLL = 0.02  # seconds


class Child:
    """A child process with a log, in a session of its own; it is killed when we die."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        *,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`. `user` is who it runs as; only root can choose."""
        self.name = Path(command[0]).name
        self._log = log
        wrapper = ["setpriv", "--pdeathsig", "KILL"]
        if user is not None:
            account = pwd.getpwnam(user)
            ids = ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid)]
            wrapper += [*ids, "--clear-groups"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*wrapper, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def must_live(self) -> None:
        """Raise ChildEndedError, with the end of its log, if it has ended."""
        if self._process.poll() is not None:
            text = self._log.read_text(errors="replace").strip()
            status = self._process.returncode
            raise ChildEndedError(f"{self.name} ended with status {status}: {text[-2000:]}")

    def stop(self, *, patience: float = 5.0) -> None:
        """End it: ask, and kill what has not gone after `patience` seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM if patience else signal.SIGKILL)
        try:
            self._process.wait(patience or None)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ChildEndedError(Exception):
    """A server ended before it was told to; the message has the end of its log."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port found on the loopback interface")


def service_user(*names: str) -> str | None:
    """Return the first of these users that exists; None unless we are root and can become it."""
    if os.geteuid() != 0:
        return None
    known = {account.pw_name for account in pwd.getpwall()}
    return next((name for name in names if name in known), None)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return as soon as `condition` holds.

    Raises:
        TimeoutError: it did not within `seconds`, which is far more than it should need.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:.0f} s for: {what}")
        time.sleep(_POLL)


def wait_for_port(port: int, *servers: Child) -> None:
    """Return once somebody listens on a port of the loopback interface.

    Raises:
        ChildEndedError: one of the servers that should have ended instead.
    """

    def listens() -> bool:
        for server in servers:
            server.must_live()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, f"port {port}")
