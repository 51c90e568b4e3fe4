"""The mounts of this machine, and the workers behind them; none of them is asked anything.

A mount whose worker is dead or stuck must not hold this up, so nothing is looked at through it: the
kernel's table says what is mounted, and a file beside each control socket which mount it is for.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fuse_s3_control.places import RUNTIME, About, found, listens, read_about

__all__ = ["MOUNTINFO", "Mounted", "NoMountError", "Worker", "find", "mounts", "workers"]

MOUNTINFO = Path("/proc/self/mountinfo")
_TYPE = "fuse.s3"
_ESCAPE = re.compile(r"\\([0-7]{3})")


class NoMountError(Exception):
    """There is no such mount; one line with the next step."""


class Mounted(NamedTuple):
    """One line of the mount table; see proc_pid_mountinfo(5).

    `device` is the minor number of st_dev, whose major number is 0; `user` is who mounted it.
    """

    device: int
    directory: str
    spec: str
    read_only: bool
    user: int


class Worker(NamedTuple):
    """A worker that listens.

    `user` is the account that it runs as, and `home` where its directory lies.
    """

    about: About
    path: Path
    user: int


def mounts(table: str | None = None) -> Iterator[Mounted]:
    """Yield what is mounted, in the order in which it was."""
    if table is None:
        table = MOUNTINFO.read_text(errors="surrogateescape")
    for line in table.splitlines():
        words = line.split(" ")
        dash = words.index("-", 6)
        kind, spec, options = words[dash + 1 : dash + 4]
        if kind == _TYPE:
            users = re.search(r"(?:^|,)user_id=(\d+)", options)
            yield Mounted(
                device=int(words[2].partition(":")[2]),
                directory=_unescape(words[4]),
                spec=_unescape(spec),
                read_only="ro" in words[5].split(",") or "ro" in options.split(","),
                user=int(users[1]) if users else 0,
            )


def _unescape(word: str) -> str:
    """Undo what the kernel does to space, tab, newline and backslash."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


def workers(places: Iterable[tuple[Path, int]] | None = None) -> Iterator[Worker]:
    """Yield the workers that listen."""
    for path, user in found() if places is None else places:
        about = read_about(path)
        if about is not None and listens(path):
            yield Worker(about, path, user)


def worker_of(mounted: Mounted, among: Iterable[Worker]) -> Worker | None:
    """Return the worker of a mount, the youngest if several say so; None if none does."""
    mine = [worker for worker in among if _serves(worker, mounted)]
    return max(mine, key=lambda worker: worker.about.since, default=None)


def _serves(worker: Worker, mounted: Mounted) -> bool:
    # What lies in somebody's own runtime directory may say anything: it counts for own mounts.
    if worker.path.parent != RUNTIME and worker.user != mounted.user:
        return False
    if worker.about.device:
        return worker.about.device == mounted.device
    return (worker.about.directory, worker.about.spec) == (mounted.directory, mounted.spec)


def find(name: str) -> tuple[Mounted, Worker]:
    """Return the topmost mount on a directory, and its worker.

    Raises:
        NoMountError: there is none, or nobody answers for it.
    """
    there = [*mounts()]
    mounted = _at(os.path.abspath(name), there)  # noqa: PTH100  nothing is to be looked at
    if mounted is None:
        mounted = _at(os.path.realpath(name), there)
    if mounted is None:
        raise NoMountError(f"{name} is no mounted bucket: see fuse-s3 list")
    worker = worker_of(mounted, workers())
    if worker is None:
        raise NoMountError(
            f"no worker answers for {mounted.directory}: it has no control socket (see its log, "
            "event no_control_socket), or has died (umount it)"
        )
    return mounted, worker


def _at(path: str, there: list[Mounted]) -> Mounted | None:
    return next((one for one in reversed(there) if one.directory == path), None)
