"""Number the statements of docs/semantics.md in order, and the quotes of them in the tests.

A statement is told by its words, so that one that is new may have any number at first. A quote
whose words are no statement's keeps its number, and a test says so.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

_NUMBER = re.compile(r"\[S\d+\]$", re.MULTILINE)


def main() -> int:
    """Rewrite the document, and the tests that quote it."""
    from support.statements import statements  # noqa: PLC0415  tests are no package of ours

    document = ROOT / "docs" / "semantics.md"
    count = 0

    def number(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"[S{count}]"

    document.write_text(_NUMBER.sub(number, document.read_text()))
    numbered = statements(document.read_text())
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text()
        for name, text in numbered:
            words = r"\s+(?:# )?".join(map(re.escape, text.split()))
            source = re.sub(rf"\[S\d+\](?=\s+(?:# )?{words})", f"[{name}]", source)
        if source != path.read_text():
            path.write_text(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
