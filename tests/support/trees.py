"""Trees of files to copy around, and what a tree contains."""

import hashlib
import sys
import sysconfig
from pathlib import Path

__all__ = ["copy_part", "digest_of", "listing_of", "standard_library"]

_KEEP_OUT = {"__pycache__", "site-packages", "dist-packages", "idlelib", "test"}


def standard_library() -> Path:
    """Return the machine's Python standard library: a real tree that is always there."""
    return Path(sysconfig.get_path("stdlib"))


def copy_part(target: Path, count: int = sys.maxsize) -> int:
    """Copy up to `count` files of the standard library to `target`; return how many.

    Links become files: the default mode of a mount has none.
    """
    source = standard_library()
    copied = 0
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if _KEEP_OUT & set(relative.parts) or not path.is_file():
            continue
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        copied += 1
        if copied == count:
            break
    return copied


def listing_of(root: Path) -> dict[str, int]:
    """Return the relative path and size of every file below `root`; -1 for a directory."""
    return {
        str(path.relative_to(root)): -1 if path.is_dir() else path.stat().st_size
        for path in root.rglob("*")
    }


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
