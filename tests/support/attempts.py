"""Mounts that are refused, and everything that is true of each of them."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from support.mounts import (
    check_no_worker_is_left,
    clean_environment,
    entries_at,
    run,
    workers,
)
from support.s3 import Store

__all__ = ["FAILURE", "SECRET", "USAGE", "Attempt"]

USAGE, FAILURE = 1, 32  # exit status of mount(8)
SECRET = "a-secret-that-nobody-may-see"


@dataclass
class Attempt:
    """A mount that is about to be refused."""

    store: Store
    spec: str
    directory: Path
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] | None = None
    command: tuple[str, ...] = ("mount", "-t", "s3")

    def refused(self, status: int, *words: str) -> None:
        """Try it; check everything that is true of all refusals, and that the line has `words`."""
        before = workers()
        done = self.outcome()
        check_no_worker_is_left(before)
        self.check(done, status, *words)

    def outcome(self) -> subprocess.CompletedProcess[str]:
        """Try it; return what became of it."""
        options = [f"endpoint_url={self.store.endpoint}", *self.options]
        command = [*self.command, "-o", ",".join(options), "--", self.spec, str(self.directory)]
        environment = self.environment or self.store.environment
        return run(*command, environment=clean_environment() | environment)

    def check(self, done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
        """Check what is true of all refusals, but for workers, and that the line has `words`."""
        assert not entries_at(self.directory), run("umount", self.directory)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("mount.s3: ")
        for word in words:
            assert word in line
        assert done.returncode == status, line
        for secret in (SECRET, self.store.keys.secret):
            assert secret not in line
