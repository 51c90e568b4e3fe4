"""The numbered statements of docs/semantics.md, and where tests quote them.

A statement is a list item that ends with its number, `- A file has a name. [S7]`. A test quotes it
word for word, `[S7] A file has a name.`, in its docstring, in a comment inside of it, or in the
comment lines right above it.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Quote", "quotes", "statements"]

_ITEM = re.compile(r"^- (?P<text>.+?) \[(?P<number>S\d+)\]$", re.MULTILINE)
_QUOTE = re.compile(r"\[(?P<number>S\d+)\] (?P<text>.*?)(?=\s*\[S\d+\]|$)")


class Quote(NamedTuple):
    """A test that says it holds up a statement; `text` begins with the statement's words."""

    number: str
    text: str
    test: str


def statements(document: str) -> list[tuple[str, str]]:
    """Return number and text of every statement, in order."""
    unwrapped = re.sub(r"\n  +", " ", document)
    return [(match["number"], match["text"]) for match in _ITEM.finditer(unwrapped)]


def quotes(path: Path) -> list[Quote]:
    """Return the quotes in a file of tests."""
    source = path.read_text()
    comments = _comments(source)
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            name = f"{path.name}::{node.name}"
            for said in _said(node, comments):
                matches = _QUOTE.finditer(" ".join(said.split()))
                found += [Quote(match["number"], match["text"], name) for match in matches]
    return found


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Return the comments by line, and whether each has its line for itself."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _said(
    node: ast.FunctionDef | ast.AsyncFunctionDef, comments: dict[int, tuple[str, bool]]
) -> list[str]:
    """Return what is written about a test in words: its docstring, each block of comments."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    while comments.get(first - 1, ("", False))[1]:
        first -= 1
    lines = range(first, (node.end_lineno or node.lineno) + 1)
    return [ast.get_docstring(node) or "", *_blocks(comments, lines)]


def _blocks(comments: dict[int, tuple[str, bool]], lines: range) -> Iterator[str]:
    """Yield the comments of some lines; those that follow one another belong together."""
    block: list[str] = []
    for line in lines:
        if line in comments:
            block.append(comments[line][0])
        elif block:
            yield " ".join(block)
            block = []
    if block:
        yield " ".join(block)
