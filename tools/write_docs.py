"""Write what is generated: options, lines of calls, of the unit, manual pages in build/man.

tools/write_docs.py             write
tools/write_docs.py --check     change nothing; fail when a table is not what would be written
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from build_helper import version
from fuse_s3_worker.config.describe import markdown_table
from fuse_s3_worker.sandbox import unit_lines
from manpage import SOURCES, write_pages
from privileged_calls import CHECKLIST, with_lines

__all__ = ["WITH_OPTIONS", "stale", "with_options"]

ROOT = Path(__file__).resolve().parent.parent

_BEGIN, _END = "<!-- options: written by make docs -->\n", "<!-- end of options -->\n"
_FROM_HERE = "# written by make docs\n\n"
WITH_OPTIONS = (ROOT / "docs/options.md", SOURCES / "mount.s3.8.md")


def with_options(text: str) -> str:
    """Return `text` with the table of today between its two markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError("no markers for the options")
    return f"{before}{begin}\n{markdown_table()}\n{end}{after}"


def with_unit_lines(text: str) -> str:
    """Return the text of the worker's unit, with what the sandbox's table says at its end."""
    before, marker, _ = text.partition(_FROM_HERE)
    if not marker:
        raise ValueError("no marker for the lines of the sandbox")
    return before + marker + "\n".join(unit_lines()) + "\n"


GENERATED: dict[Path, Callable[[str], str]] = {
    **dict.fromkeys(WITH_OPTIONS, with_options),
    CHECKLIST: with_lines,
    ROOT / "systemd/fuse-s3-worker@.service": with_unit_lines,
}


def stale() -> list[Path]:
    """Return the documents whose table is not today's."""
    return [
        path for path, write in GENERATED.items() if path.read_text() != write(path.read_text())
    ]


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write what is generated.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    check = parser.parse_args().check
    out_of_date = stale()
    for path in out_of_date:
        if not check:
            path.write_text(GENERATED[path](path.read_text()))
        print(f"{path.relative_to(ROOT)}: {'out of date: make docs' if check else 'written'}")
    if not check:
        for path in write_pages(ROOT / "build/man", version()):
            print(f"{path.relative_to(ROOT)}: written")
    return int(check and bool(out_of_date))


if __name__ == "__main__":
    sys.exit(main())
