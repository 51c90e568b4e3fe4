"""The directory of the control sockets, where no systemd has made it: containers, mostly."""

import os
import pwd
from pathlib import Path

from fuse_s3_control.places import RUNTIME

__all__ = ["make_runtime"]

_USER = "fuse-s3"


def make_runtime(path: Path = RUNTIME) -> bool:
    """Make it for the workers' user, unless there is something; tell whether it was made.

    That it cannot be made is no reason not to mount.
    """
    try:
        account = pwd.getpwnam(_USER)
        if os.geteuid() != 0 or account.pw_uid == 0:
            return False
        path.parent.mkdir(mode=0o755, exist_ok=True)  # root's, and what is in there already
        path.mkdir(mode=0o755)
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except (KeyError, OSError):
        return False
    return True
