"""A cache directory, what lies in it, and the command that is about that."""

import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.mounts import Mount, clean_environment, run
from support.process import wait_until
from support.s3 import Store

__all__ = ["LATER", "TAKEN", "CacheDirectory", "cache_directory", "kill_worker"]

LATER = "write_back=3600"
"""For a mount: what is closed is stored later than any test ends."""

TAKEN = r"request_failed op=(FLUSH|RELEASE) .*errno=ESTALE", "staged_conflict"
"""What a mount's log has of a file that another one stored in between."""

_WORKER_USER = "fuse-s3"


class CacheDirectory:
    """A directory of the worker's user, for `cache=`.

    Attributes:
        option: for a mount.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.option = f"cache={path}"
        self._environment = clean_environment(store)
        account = pwd.getpwnam(_WORKER_USER)
        os.chown(path, account.pw_uid, account.pw_gid)
        path.chmod(0o700)

    def command(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `fuse-s3 staged` on this directory."""
        given = ("--cache", str(self.path), *map(str, words))
        return run("fuse-s3", "staged", *given, environment=self._environment)

    def succeed(self, *words: object) -> str:
        """Run it; it must succeed, and have nothing to complain of. Return what it printed."""
        done = self.command(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
        return done.stdout

    def left(self) -> list[dict[str, Any]]:
        """Return what is left, as --json has it."""
        return [json.loads(line) for line in self.succeed("list", "--json").splitlines()]

    def states(self) -> dict[str, str]:
        """Return the state of what is left, by key."""
        return {one["key"]: one["state"] for one in self.left()}

    def files(self, ending: str) -> list[Path]:
        """Return the files of staged files with this ending, oldest first."""
        return sorted(self.path.glob(f"*/*.{ending}"), key=lambda path: path.name)


@contextmanager
def cache_directory(path: Path, store: Store) -> Iterator[CacheDirectory]:
    """Make one; it is gone afterwards."""
    path.mkdir()
    try:
        yield CacheDirectory(path, store)
    finally:
        shutil.rmtree(path)


def kill_worker(mnt: Mount) -> None:
    """Kill the worker and who would start another, and take away the mount that they leave."""
    unit = Path(f"/proc/{mnt.pid}/cgroup").read_text().strip().rpartition("/")[2]
    if unit.startswith("fuse-s3-worker@"):  # one that is to stop is not started again
        run("systemctl", "stop", "--no-block", unit)
    os.killpg(os.getpgid(mnt.pid), signal.SIGKILL)
    assert mnt.wait_for_worker()
    wait_until(lambda: not mnt.unmount("-l").returncode, "the mount to go")
