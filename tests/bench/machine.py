"""What the figures were measured on, and whether it had something else to do."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from bench import processes
from bench.contestants import Contestant, program
from bench.server import nginx

__all__ = ["background_load", "describe", "installed_differs"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_LOOK = 2.0  # seconds
_INSTALLED = Path("/usr/lib/fuse-s3/site")  # where tools/install.py puts the worker
_PACKAGES = {"worker": ("fuse_s3_worker",), "shared": ("fuse_s3_shared",)}


def background_load() -> float:
    """Return how many processors are busy with something else."""
    before, begin = processes.machine_cpu_seconds(), time.perf_counter()
    time.sleep(_LOOK)
    return (processes.machine_cpu_seconds() - before) / (time.perf_counter() - begin)


def describe(contestants: Iterable[Contestant]) -> dict[str, object]:
    """Return the machine's shape and the versions of what runs on it."""
    executables = {row.executable: row for row in contestants}
    return {
        "processors": os.cpu_count(),
        "processor": _field("/proc/cpuinfo", "model name"),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": nginx.version(),
        **{name: _version(name) for name in executables},
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _version(executable: str) -> str:
    path = program(executable) or executable
    done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
    return done.stdout.partition("\n")[0].strip()


def installed_differs() -> bool:
    """Tell whether the installed worker is another one than this tree's."""
    for place, packages in _PACKAGES.items():
        for package in packages:
            for source in (_ROOT / place / package).rglob("*.py"):
                installed = _INSTALLED / source.relative_to(_ROOT / place)
                if not installed.exists() or installed.read_bytes() != source.read_bytes():
                    return True
    return False
