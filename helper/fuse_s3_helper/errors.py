"""What the helper says to mount(8): the exit codes of its manual page, and who is at fault."""

import sys


class MountError(Exception):
    """The mount failed: one line for the user. `code` is the exit status of mount(8)."""

    code = 32


class UsageError(MountError):
    """Whoever asked must ask differently, or is not permitted to ask."""

    code = 1


class SystemFailure(MountError):
    """This machine cannot do it: no device, no such system call."""

    code = 2


class WorkerError(MountError):
    """The worker broke the protocol: a bug, or a worker that is not ours any more."""

    code = 4


INTERRUPTED = 8


def warn(text: str) -> None:
    """Say something that does not keep the mount from being made."""
    print(f"mount.s3: warning: {text}", file=sys.stderr)
