"""Count the lines of code that run with root's powers: helper/ and shared/."""

import ast
import io
import sys
import tokenize
from pathlib import Path

BUDGET = 900

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return the number of lines that hold code; a docstring is not code, any other string is."""
    docstrings: set[tuple[int, int]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.add((node.body[0].lineno, node.body[0].col_offset))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE and token.start not in docstrings:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code)


def privileged_files(root: Path) -> list[Path]:
    """Return every module that runs with the helper's rights."""
    return sorted(path for top in ("helper", "shared") for path in (root / top).rglob("*.py"))


def main() -> int:
    """Print the count of each module; fail above the budget."""
    root = Path(__file__).resolve().parent.parent
    total = 0
    for path in privileged_files(root):
        lines = code_lines(path.read_text())
        total += lines
        print(f"{lines:5}  {path.relative_to(root)}")
    print(f"{total:5}  of {BUDGET}")
    return int(total > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
