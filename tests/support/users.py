"""Ordinary users: programs run as somebody else, and what they are refused."""

import subprocess

from support.mounts import run

__all__ = ["NOBODY", "SOMEBODY", "run_as"]

NOBODY = 65534
SOMEBODY = 12345  # has no name on any system


def run_as(
    user: int, *command: object, group: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program as the user `user`, in the group of the same number unless told otherwise."""
    ids = ("--reuid", str(user), "--regid", str(user if group is None else group))
    return run("setpriv", *ids, "--clear-groups", "--", *map(str, command))
