"""`fuse-s3 mount`: the road of mount(8), for terminals and containers.

It runs the same helper with the same words. With --foreground it stays: the worker's log comes to
this process's standard error over a pipe that the worker holds as long as it lives, so the end of
the pipe is the end of the worker. SIGINT and SIGTERM unmount; a busy mount point says so and waits
for the next signal, the third of which detaches it lazily.
"""

import argparse
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading

from fuse_s3_cli.runtime import make_runtime

__all__ = ["run"]

_HELPER_PLACES = "/sbin:/usr/sbin:/usr/local/sbin"
_USAGE, _SYSTEM, _FAILURE = 1, 2, 32  # exit status of mount(8)
_LAZY_AFTER = 3  # signals
_ENDED = 0  # no signal has this number


def run(arguments: list[str]) -> int:
    """Mount; return an exit status of mount(8)."""
    parser = argparse.ArgumentParser(prog="fuse-s3 mount", description="Mount a bucket.")
    parser.add_argument("spec", help="bucket, bucket/prefix, s3://bucket/prefix/ or an ARN")
    parser.add_argument("directory")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay, log here")
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args(arguments)
    helper = shutil.which("mount.s3", path=_HELPER_PLACES)
    if helper is None:
        sys.stderr.write("fuse-s3: mount.s3 is not installed: make install\n")
        return _SYSTEM
    make_runtime()
    options = [*given.options, *(["foreground"] if given.foreground else [])]
    command = [helper, given.spec, given.directory]
    command += ["-o", ",".join(options)] if options else []
    command += ["-v"] if given.verbose else []
    if not given.foreground:
        return subprocess.run(command, check=False).returncode  # noqa: S603
    return _Foreground(command, os.path.realpath(given.directory)).run()


class _Foreground:
    """A mount that this process watches and ends."""

    def __init__(self, command: list[str], directory: str) -> None:
        self._command = command
        self._directory = directory
        self._signals = 0

    def run(self) -> int:
        """Mount, relay the log until the worker ends, and return a status."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        log_read, log_write = os.pipe2(os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        # Its own session: Ctrl-C is for us to turn into an unmount, not for the helper.
        status = subprocess.run(  # noqa: S603
            self._command, check=False, stderr=log_write, start_new_session=True
        ).returncode
        os.close(log_write)
        relay = threading.Thread(target=_relay, args=(log_read, wake_write), daemon=True)
        relay.start()
        if status == 0:
            self._watch(wake_read)
        relay.join()
        return status

    def _watch(self, wake_read: int) -> None:
        """Turn signals into unmounts until the relay has seen the worker's end."""
        with selectors.DefaultSelector() as selector:
            selector.register(wake_read, selectors.EVENT_READ)
            while True:
                selector.select()
                with contextlib.suppress(BlockingIOError):
                    for byte in os.read(wake_read, 64):
                        if byte == _ENDED:
                            return
                        if byte in {signal.SIGINT, signal.SIGTERM}:
                            self._unmount()

    def _unmount(self) -> None:
        self._signals += 1
        command = ["umount", self._directory]
        if self._signals >= _LAZY_AFTER:
            command.insert(1, "-l")
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            advice = "signal again, a third time detaches it lazily"
            sys.stderr.write(f"fuse-s3: {done.stderr.strip()}: {advice}\n")


def _relay(log_read: int, wake_write: int) -> None:
    """Copy the log to standard error; wake the watcher when it ends."""
    while data := os.read(log_read, 64 * 1024):
        with contextlib.suppress(OSError):
            os.write(2, data)
    with contextlib.suppress(OSError):
        os.write(wake_write, bytes([_ENDED]))
