"""The product of this tree, installed as long as the tests need it."""

import contextlib
import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.process import ROOT

__all__ = ["installed"]

_LOCK = Path("/run/fuse-s3-test.lock")
_HELPER = Path("/sbin/mount.s3")
# Where every installation begins afresh, so that a stamp never outlives what it is about.
_STAMP = Path("/usr/lib/fuse-s3/site/tests.stamp")
_SOURCES = ("helper", "shared", "worker", "tools", "systemd")
_FILES = ("pyproject.toml", "constraints.txt", "Makefile")


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Have this tree's product in the system; afterwards, nothing if there was nothing before.

    Only one test run at a time may do so on a machine, and mount: another one waits here.
    """
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_there = _HELPER.exists()
        stamp = _fingerprint()
        if not was_there or not _STAMP.exists() or _STAMP.read_text() != stamp:
            _make("install")
            _STAMP.write_text(stamp)
        _make_runtime()  # gone with the last boot, while the rest stays
        try:
            yield
        finally:
            if not was_there:
                _make("uninstall")


def _make_runtime() -> None:
    subprocess.run([sys.executable, ROOT / "tools/install.py", "runtime"], check=True)


def _fingerprint() -> str:
    """Return a digest of everything that an installation is made from."""
    digest = hashlib.sha256()
    paths = [path for top in _SOURCES for path in (ROOT / top).rglob("*") if _counts(path)]
    for path in sorted(paths + [ROOT / name for name in _FILES]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _counts(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _make(target: str) -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), target], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"make {target} failed:\n{done.stdout}\n{done.stderr}")
