"""Build mount.s3: helper/ and shared/ as one isolated zipapp of the standard library alone.

The first line has `-IS`: no site-packages, no .pth files, no PYTHON* variables, no user
directory. Installers of Python packages would drop these flags, so this is not a wheel's script.
"""

import argparse
import compileall
import os
import py_compile
import shutil
import sys
import tempfile
import time
import tomllib
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERPRETER = "/usr/bin/python3 -IS"


def version() -> str:
    """Return the project's version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def build(target: Path, worker: str, keeper: str) -> None:
    """Write the executable `target`, which will start the programs at these paths."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        for package in ("helper/fuse_s3_helper", "shared/fuse_s3_shared"):
            shutil.copytree(
                ROOT / package,
                tree / Path(package).name,
                ignore=shutil.ignore_patterns("__pycache__", "py.typed"),
            )
        installed = tree / "fuse_s3_helper" / "installed.py"
        installed.write_text(
            '"""Where this helper finds its worker; written when it was built."""\n\n'
            f"VERSION = {version()!r}\n\nWORKER = {worker!r}\nKEEPER = {keeper!r}\n"
        )
        shutil.move(tree / "fuse_s3_helper" / "__main__.py", tree / "__main__.py")
        # Beside each source, which another version of Python falls back to: compiling them anew
        # would take half of the helper's time.
        compileall.compile_dir(
            tree,
            quiet=1,
            legacy=True,
            stripdir=str(tree),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        # The same input makes the same archive: times are local ones in it, from 1980 on.
        beginning = time.mktime((1980, 1, 1, 0, 0, 0, 0, 1, -1))
        for path in tree.rglob("*"):
            os.utime(path, (beginning, beginning))
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        zipapp.create_archive(tree, new, interpreter=INTERPRETER)
        new.chmod(0o755)
        new.replace(target)  # whole or not at all: mount(8) may be looking


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--worker", default="/usr/lib/fuse-s3/bin/fuse-s3-worker")
    parser.add_argument("--keeper", default="/usr/lib/fuse-s3/bin/fuse-s3-keeper")
    arguments = parser.parse_args()
    build(arguments.target, arguments.worker, arguments.keeper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
