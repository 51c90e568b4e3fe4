"""Write the Python of the control socket's protocol from its description.

tools/write_protocol.py             write
tools/write_protocol.py --check     change nothing; fail when it is not what would be written

Checked in, so that neither an installation nor a package needs a compiler for it.
"""

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

__all__ = ["GENERATED", "generate", "stale"]

ROOT = Path(__file__).resolve().parent.parent
_TOP = ROOT / "worker"
_SOURCE = "fuse_s3_control/control.proto"
_NAMES = tuple(f"fuse_s3_control/control_pb2{ending}" for ending in (".py", ".pyi"))
GENERATED = tuple(_TOP / name for name in _NAMES)


def generate(directory: Path, top: Path = _TOP) -> list[Path]:
    """Write the files below `directory`; return where they are, in the order of GENERATED.

    `top` is where the description is.

    Raises:
        RuntimeError: the description is wrong; the compiler has said why.
    """
    include = files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{top}", f"-I{include}"]
    arguments += [f"--python_out={directory}", f"--pyi_out={directory}", _SOURCE]
    if protoc.main(arguments):
        raise RuntimeError(f"{_SOURCE} cannot be compiled")
    return [directory / name for name in _NAMES]


def stale(top: Path = _TOP) -> list[Path]:
    """Return the files that are not what the description says today."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory), top)
        pairs = zip(GENERATED, fresh, strict=True)
        return [old for old, new in pairs if old.read_bytes() != new.read_bytes()]


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write the Python of the control protocol.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    if parser.parse_args().check:
        found = stale()
        for path in found:
            print(f"{path.relative_to(ROOT)}: out of date: tools/write_protocol.py")
        return int(bool(found))
    for path in generate(_TOP):
        print(f"{path.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
