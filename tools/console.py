"""What a tool tells its reader while it works: steps, the commands it runs, and how far it is.

On a terminal progress is one line that is written over; elsewhere it is a line every few seconds.
Commands run in a session of their own, so that Ctrl-C reaches this program alone, which then ends
them in good order.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

__all__ = ["CommandFailedError", "Console"]

_EVERY = {True: 0.2, False: 3.0}  # seconds between progress reports: on a terminal, elsewhere
_POLL = 0.05
_Command = tuple[str | os.PathLike[str], ...]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0  # seconds for a command to end by itself after SIGTERM


class CommandFailedError(Exception):
    """A command ended with another status than it should."""


class Console:
    """Writes to standard output; one a program, since it takes over the signals.

    Attributes:
        directory: where commands run.
        terminal: whether somebody watches.
    """

    def __init__(self, steps: int) -> None:
        """Begin; `steps` is how many there will be."""
        self.directory = Path.cwd()
        self.terminal = sys.stdout.isatty()
        self._steps = steps
        self._step = 0
        self._reported = 0.0
        self._line = False
        self._deferring = 0
        self._pending = False
        for number in _SIGNALS:
            signal.signal(number, self._signalled)

    # -- signals --------------------------------------------------------------------------------

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self._deferring:
            self._pending = True
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let a signal wait: between making a thing and writing down that it must be undone."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1
        if self._pending and not self._deferring:
            self._pending = False
            raise KeyboardInterrupt

    @staticmethod
    def ignore_signals() -> None:
        """From here on only cleaning up is left, and that is not interrupted."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    # -- words ----------------------------------------------------------------------------------

    def step(self, text: str) -> None:
        """Begin a step."""
        self._step += 1
        self.say(f"\n[{self._step}/{self._steps}] {text}")

    def say(self, text: str) -> None:
        """Write a line."""
        self._end_line()
        print(text, flush=True)

    def progress(self, text: str, *, done: bool = False) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if not done and now - self._reported < _EVERY[self.terminal]:
            return
        self._reported = now
        if self.terminal:
            print(f"\r\033[K  {text}", end="", flush=True)
            self._line = True
        else:
            print(f"  {text}", flush=True)
        if done:
            self._end_line()

    def _end_line(self) -> None:
        if self._line:
            print(flush=True)
            self._line = False

    def change_directory(self, directory: Path) -> None:
        """Run commands there from now on."""
        self.say(f"$ cd {shlex.quote(str(directory))}")
        self.directory = directory

    # -- commands -------------------------------------------------------------------------------

    def run(
        self,
        *command: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        progress: Callable[[int, float], str] | None = None,
        status: int = 0,
    ) -> str:
        """Show a command and run it; return what it wrote, which is shown too.

        Args:
            command: its words.
            environment: variables beside those of this process.
            progress: makes a line from its process id and the seconds it has run.
            status: with what it must end.

        Raises:
            CommandFailedError: it ended with another status.
        """
        line = shlex.join(map(str, command))
        self.say(f"$ {line}")
        with self._process(command, environment) as process:
            output = self._relay(process, progress)
        if process.returncode != status:
            raise CommandFailedError(f"{line}: status {process.returncode} instead of {status}")
        return output

    @contextlib.contextmanager
    def _process(
        self, command: _Command, environment: Mapping[str, str] | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = None
        try:
            with self.undisturbed():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=dict(os.environ) | dict(environment or {}),
                    cwd=self.directory,
                    start_new_session=True,
                )
            yield process
        finally:
            if process is not None:
                with self.undisturbed():
                    _end(process)

    def _relay(
        self, process: subprocess.Popen[bytes], progress: Callable[[int, float], str] | None
    ) -> str:
        """Show what a process writes, until it has ended; return all of it."""
        assert process.stdout is not None  # noqa: S101  a pipe, as asked for
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        began, shown, output = time.monotonic(), 0, b""
        while True:
            # In this order: what was written before the end is read after it.
            ended = process.poll() is not None
            data = _read(pipe)
            output += data
            for line in output[shown:].splitlines(keepends=True):
                if line.endswith(b"\n") or (ended and not data):
                    self.say(f"  {line.decode(errors='replace').rstrip()}")
                    shown += len(line)
            if ended and not data:
                return output.decode(errors="replace")
            if progress is not None:
                self.progress(progress(process.pid, time.monotonic() - began))
            if not data:
                time.sleep(_POLL)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 64 * 1024)
    except BlockingIOError:
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that is no longer wanted, with everything it started in its session."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    # Safe: not reaped yet, so the group is still the one that was made for it. It may outlive its
    # leader: mount(8) dies at once, its helper takes back first what it has begun.
    os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while _group_lives(process) and time.monotonic() < until:
        time.sleep(_POLL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)  # not for ever: whoever waits for a dead disk cannot be killed


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a command or anything else in its process group still runs."""
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
