"""A real systemd that boots in a container: this machine's programs, a root directory of its own.

/usr is this machine's, with the product in it; /etc is a copy without what is enabled here; the
network is shared, so that servers of the tests are reached, and what is installed is known there.
Nothing is downloaded, and a boot takes a second. See systemd-nspawn(1).
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from support.process import ROOT

__all__ = ["Container", "why_not"]

_MERGED = ("bin", "sbin", "lib", "lib64")
_EMPTY = ("usr", "proc", "sys", "dev", "run", "tmp", "var/tmp", "var/log", "root", "home", "mnt")
_NOT_COPIED = ("fstab", "systemd/system", "systemd/user", "machine-id", "rc*.d", "cron*", "ssh")

# A view of this machine with a control group tree as systemd wants one, and a /run of its own.
_START = """\
set -e
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
group=$(mktemp -d /sys/fs/cgroup/fuse-s3-test-XXXXXX)
echo $$ >$group/cgroup.procs
mount --bind /usr "$1/usr"
LANDLOCK="landlock_create_ruleset landlock_add_rule landlock_restrict_self"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
setpriv --pdeathsig KILL systemd-nspawn --quiet --directory="$1" \\
    --register=no --keep-unit --console=pipe \\
    --system-call-filter="$LANDLOCK" --bind=/dev/fuse --bind=/dev/autofs --bind-ro="$2" \\
    --bind-ro=/var/lib/dpkg \\
    --boot </dev/null
echo $$ >/sys/fs/cgroup/cgroup.procs
find $group -depth -type d -exec rmdir {} +
"""


@functools.cache
def why_not() -> str:
    """Say what is missing on this machine; nothing, if a container boots."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    programs = ("systemd-nspawn", "unshare")
    missing = [name for name in programs if not shutil.which(name)]
    missing += [path for path in ("/dev/autofs", "/lib/systemd/systemd") if not Path(path).exists()]
    if missing:
        return f"no container boots without: {', '.join(missing)}"
    probe = ["unshare", "--user", "--map-root-user", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        return "no namespaces of users: forbidden here, or this is a chroot"
    return ""


class Container:
    """A root directory that can be booted.

    Attributes:
        root: the directory.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="fuse-s3-test-", dir="/dev/shm"))
        self.root.chmod(0o755)
        for name in _EMPTY:
            (self.root / name).mkdir(parents=True)
        for name in ("tmp", "var/tmp"):
            (self.root / name).chmod(0o1777)
        for name in _MERGED:
            if (Path("/") / name).is_symlink():
                (self.root / name).symlink_to(f"usr/{name}")
        shutil.copytree(
            "/etc", self.root / "etc", symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED)
        )
        shutil.rmtree(self.root / "etc/systemd/system", ignore_errors=True)
        self.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        self._want("multi-user.target", "/usr/lib/systemd/system/remote-fs.target")  # usually is

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def unit(self, name: str, text: str, *, wanted_by: str = "") -> None:
        """Write a unit, and have it started."""
        self.write(f"etc/systemd/system/{name}", text)
        if wanted_by:
            self._want(wanted_by, f"/etc/systemd/system/{name}")

    def _want(self, by: str, path: str) -> None:
        wants = self.root / f"etc/systemd/system/{by}.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / Path(path).name).symlink_to(path)

    def boot(self, environment: Mapping[str, str], *, patience: float = 900.0) -> str:
        """Boot it, and wait until it has powered itself off; return what it printed.

        Raises:
            TimeoutExpired: it has not.
        """
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, "sh"]
        done = subprocess.run(
            [*command, str(self.root), str(ROOT)],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            env=os.environ | environment,
        )
        return done.stdout + done.stderr

    def close(self) -> None:
        """Take it away."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.root)
