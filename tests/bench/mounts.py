"""Mounting a contestant, and the certainty that it is gone afterwards."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from bench import processes
from bench.contestants import Contestant, Kind, Setting

__all__ = ["MountFailedError", "Mounted", "clean_up", "mounted"]

_PATIENCE = 60.0  # seconds until something counts as hung
_POLL = 0.001
_MERCY = 0.2  # seconds to end in


class MountFailedError(Exception):
    """A contestant did not mount; the message has the end of what it said."""


class Mounted:
    """A mounted bucket.

    Attributes:
        directory: where.
        started: when mounting began, by time.perf_counter.
    """

    def __init__(self, directory: Path, started: float, others: set[int]) -> None:
        self.directory = directory
        self.started = started
        self._others = others

    @cached_property
    def pids(self) -> frozenset[int]:
        """The processes that serve it: found when first asked for, before others may start."""
        return frozenset(processes.descendants() - self._others)

    def abandon(self) -> None:
        """Kill who serves it, which ends whoever waits for it: no signal would."""
        processes.end(processes.descendants() - self._others, patience=_MERCY)


@contextlib.contextmanager
def mounted(contestant: Contestant, setting: Setting, kind: Kind) -> Iterator[Mounted]:
    """Mount for as long as this lasts."""
    setting.directory.mkdir()
    environment = contestant.prepare(setting)
    command = contestant.command(setting, kind)
    others = processes.descendants()
    log = setting.scratch / "log"
    try:
        with log.open("ab") as output:
            started = time.perf_counter()
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then unmount
            )
        _wait_until_mounted(child, contestant, setting)
        yield Mounted(setting.directory, started, others)
    finally:
        _unmount(setting.directory)
        ours = processes.descendants() - others
        processes.end(processes.wait_for_end(ours, _PATIENCE / 4))
        child.wait(_PATIENCE)
        setting.directory.rmdir()


def _wait_until_mounted(
    child: subprocess.Popen[bytes], contestant: Contestant, setting: Setting
) -> None:
    until = time.monotonic() + _PATIENCE
    while child.poll() is None and not (contestant.stays and _is_mounted(setting.directory)):
        if time.monotonic() > until:
            break
        time.sleep(_POLL)
    if not _is_mounted(setting.directory):
        text = (setting.scratch / "log").read_text(errors="replace").strip()
        raise MountFailedError(f"{contestant.name} did not mount: {text[-500:] or 'no reason'}")


def clean_up(base: Path) -> None:
    """Take away what is mounted below `base`, and every process that is left.

    There is something only after an interruption at a bad moment.
    """
    for directory in [path for path in _mount_points() if base in path.parents]:
        _unmount(directory)
    processes.end(processes.descendants())


def _is_mounted(directory: Path) -> bool:
    # Not by looking at the directory: that would be a request to whoever serves it.
    return directory in _mount_points()


def _mount_points() -> list[Path]:
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4]) for line in table]


def _unmount(directory: Path) -> None:
    """Unmount, lazily if it must be; that nothing is mounted is no error."""
    for options in ([], [], ["-l"]):
        if not _is_mounted(directory):
            return
        command = ["umount", *options, str(directory)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            time.sleep(0.5)
