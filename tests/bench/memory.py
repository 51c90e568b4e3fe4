"""Memory in which everything happens, and memory that a run may have.

In a virtual machine the first touch of a page can cost the host a fault, five times what copying
a page costs, and what was freed goes back to the host after two seconds, together with whatever
else is free by then. Whoever had bad luck would pay for that. So memory is kept touched between
runs, let go of just before a measurement begins, and taken again just after.
"""

import contextlib
import mmap
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Reserve", "available", "scratch"]

MIB = 1 << 20
_PIECE = 256 * MIB
_WORTH = 64 * MIB  # less is touched in no time
_POPULATE_WRITE = 23  # linux/mman.h: MADV_POPULATE_WRITE
_REPORTING = Path("/sys/module/page_reporting")  # the kernel can give free memory back
_REPORTED_AFTER = 2.3  # seconds: a little more than PAGE_REPORTING_DELAY of mm/page_reporting.c


@contextlib.contextmanager
def scratch(size: int) -> Iterator[Path]:
    """Yield a fresh tmpfs for `size` bytes; it is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="fuse-s3-bench-"))
    try:
        options = f"size={size},mode=0711"
        # Large pages make the server cheaper, where the kernel has them.
        if not _mount(f"{options},huge=within_size", directory, check=False):
            _mount(options, directory, check=True)
        try:
            yield directory
        finally:
            # Lazily: a process that was killed a moment ago may still hold a file.
            subprocess.run(["umount", "-l", str(directory)], check=True)
    finally:
        directory.rmdir()


def _mount(options: str, directory: Path, *, check: bool) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "fuse-s3-bench", str(directory)]
    return subprocess.run(command, check=check, capture_output=not check).returncode == 0


def available() -> int:
    """Return how many bytes the system could give programs now."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


class Reserve:
    """Touched memory."""

    def __init__(self) -> None:
        self._pieces: list[mmap.mmap] = []
        self._since = 0.0

    def close(self) -> None:
        """Give it back."""
        self._hold(0)

    @contextlib.contextmanager
    def lent(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, let go of them for as long as this lasts, and hold them again."""
        if size < _WORTH:
            yield
            return
        self._hold(size)
        if _REPORTING.exists():
            # What was free before is given back while this is not.
            time.sleep(max(self._since + _REPORTED_AFTER - time.monotonic(), 0.0))
        self._hold(0)
        try:
            yield
        finally:
            self._hold(size)

    def _hold(self, size: int) -> None:
        wanted = -(-size // _PIECE)
        while len(self._pieces) > wanted:
            self._pieces.pop().close()
        while len(self._pieces) < wanted:
            piece = mmap.mmap(-1, _PIECE)
            piece.madvise(mmap.MADV_NOHUGEPAGE)
            piece.madvise(_POPULATE_WRITE)
            self._pieces.append(piece)
            self._since = time.monotonic()
