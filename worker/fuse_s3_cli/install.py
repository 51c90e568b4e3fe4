"""`fuse-s3 install --root DIR`: what is installed here, in the root of an image as well.

The installation has written down what belongs to it. That is copied, path by path, as it is here:
modes, links, and root as the owner. No program of the image is run, so no user is made there;
systemd-sysusers does that, from the file that goes along, at the image's first boot.
"""

import argparse
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FILES", "run"]

FILES = "lib/fuse-s3/files"
"""Below the prefix: the paths that were installed, one a line."""

_EXPLANATION = """\
Copies the installed fuse-s3 into the root directory of an image: programs, units, manual pages.
"""


class _NotPossibleError(Exception):
    """It cannot be installed there; one line with the next step."""


def run(arguments: list[str]) -> int:
    """Install into an image; return an exit status."""
    parser = argparse.ArgumentParser(prog="fuse-s3 install", description=_EXPLANATION)
    parser.add_argument("--root", required=True, metavar="DIR", help="the root of the image")
    root = Path(parser.parse_args(arguments).root)
    try:
        _see_whether_possible(root)
        count = sum(_copy(path, _inside(root, path)) for path in _installed(_manifest()))
    except (_NotPossibleError, OSError) as error:
        sys.stderr.write(f"fuse-s3 install: {error}\n")
        return 1
    print(f"{count} files are in {root}")
    print(f"the image makes the user fuse-s3 when it boots; or now: systemd-sysusers --root={root}")
    return 0


def _see_whether_possible(root: Path) -> None:
    if os.geteuid() != 0:
        raise _NotPossibleError("only root can install: what mount(8) runs has to be root's")
    if not root.is_dir() or root.is_symlink():
        raise _NotPossibleError(f"{root} is no directory: give the root of an image")
    if root.resolve() == Path("/"):
        raise _NotPossibleError("it is installed here already; --root is for other roots")
    python = f"usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if (root / "usr/bin").is_dir() and not (root / python).exists():
        raise _NotPossibleError(
            f"{root} has no /{python}, which this installation is for: install fuse-s3 on a "
            "system of the image's kind, and copy it from there"
        )


def _manifest() -> Path:
    """Return the list of what is installed, which lies beside the packages that run this."""
    site = Path(__file__).resolve().parent.parent
    manifest = site.parent / Path(FILES).name
    if site.name != "site" or not manifest.is_file():
        raise _NotPossibleError("this is no installed fuse-s3: make install first")
    return manifest


def _installed(manifest: Path) -> Iterator[Path]:
    """Yield everything that is installed, directories before what is in them."""
    for line in manifest.read_text().splitlines():
        top = Path(line)
        yield top
        if top.is_dir() and not top.is_symlink():
            yield from (path for path in sorted(top.rglob("*")) if "__pycache__" not in path.parts)


def _inside(root: Path, path: Path) -> Path:
    """Return where a path is in the image; links in there lead to places in there.

    /sbin and /lib are links in most images, some of them absolute.
    """
    place = root
    for part in path.parts[1:-1]:
        place /= part
        for _ in range(40):  # as many links as the kernel follows
            if not place.is_symlink():
                break
            target = place.readlink()
            base = root if target.is_absolute() else place.parent
            place = Path(os.path.normpath(base / str(target).lstrip("/")))
        if not place.resolve().is_relative_to(root.resolve()):
            raise _NotPossibleError(f"{place} leads out of {root}")
    return place / path.name


def _copy(path: Path, target: Path) -> int:
    """Copy one thing, in one step where there is something already; return 1 for a file."""
    if path.is_dir() and not path.is_symlink():
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(stat.S_IMODE(path.stat().st_mode))
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    shutil.copy2(path, fresh, follow_symlinks=False)
    os.chown(fresh, 0, 0, follow_symlinks=False)
    fresh.replace(target)
    return 1
