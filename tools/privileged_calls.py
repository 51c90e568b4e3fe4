"""Where the helper does what takes a privilege, by line: the checklist in docs/security.md.

A call that is not in the table, or in the table and not in the code, fails a test; the lines are
written by `make docs`.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

__all__ = ["CHECKLIST", "privileged_calls", "with_lines"]

ROOT = Path(__file__).resolve().parent.parent
CHECKLIST = ROOT / "docs/security.md"

# What needs a privilege, spends one, or gives one up, and whatever starts or ends a process.
_OS = frozenset(
    "open fork execv execve posix_spawn kill killpg setsid setgroups setresgid setresuid "
    "memfd_create pidfd_open closerange fstat".split()
)
_ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| [0-9, ]* \|", re.MULTILINE)


def privileged_calls() -> dict[tuple[str, str], list[int]]:
    """Return (call, module.function) of every privileged call of the helper, and its lines."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for path in sorted((ROOT / "helper/fuse_s3_helper").glob("*.py")):
        if path.name == "syscalls.py":
            continue  # names for system calls, each called by the others
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and (name := _name(call)):
                        found[name, f"{path.stem}.{function.name}"].append(call.lineno)
    return {where: sorted(lines) for where, lines in found.items()}


def _name(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(value=ast.Name(id="syscalls"), attr=name):
            return f"syscalls.{name}"
        case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in _OS:
            return f"os.{name}"
        case ast.Name(id="setns"):
            return "setns"
        case ast.Attribute(attr="connect"):
            return "connect"
        case ast.Name(id="open") if len(call.args) > 1:
            return "open"  # for writing
    return ""


def with_lines(text: str) -> str:
    """Return `text` with the lines of today in the table."""
    calls = privileged_calls()

    def row(match: re.Match[str]) -> str:
        lines = ", ".join(map(str, calls.get((match[1], match[2]), ())))
        return f"| `{match[1]}` | `{match[2]}` | {lines} |"

    return _ROW.sub(row, text)
