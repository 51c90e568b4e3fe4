"""Turn the Markdown of docs/man into manual pages, in the language of man(7).

Only what those pages use is understood: one first-level heading `name(section) - what it is`,
headings below it, paragraphs, indented or fenced examples, bullets, tables, and in a line `code`,
**bold**, *italic* and links. Anything else is an error, not a page that looks odd.

A table becomes a list of tagged paragraphs: the first cell is the tag, the column `meaning` the
text, every other cell a sentence that begins with its column's name.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ManPageError", "SOURCES", "render", "write_pages"]

SOURCES = Path(__file__).resolve().parent.parent / "docs/man"

_TITLE = re.compile(r"(?P<name>[\w.-]+)\((?P<section>\d)\) - (?P<what>.+)")
_SECTIONS = {"1": "User Commands", "8": "System Administration"}
_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\*(?P<italic>[^*]+)\*"
    r"|\[(?P<text>[^\]]+)\]\([^)]+\)"
)
_FONTS = {"code": r"\fB", "bold": r"\fB", "italic": r"\fI", "text": ""}
_BETWEEN_SENTENCES = re.compile(r"(?<=[a-z0-9)R]\.) (?=[A-Z\\])")
_UNKNOWN = re.compile(r"(\d+\.|>|\+|\* |!\[|---|===|\|)")


class ManPageError(ValueError):
    """Something in the source that no page is made from; the message has the block."""


class _Block(NamedTuple):
    kind: str
    lines: list[str]


def render(source: str, version: str) -> str:
    """Return the manual page for `source`.

    Raises:
        ManPageError: it has something that is not understood.
    """
    blocks = list(_blocks(source))
    title = _title(blocks.pop(0))
    head = [
        f'.TH {_quoted(title["name"].upper())} {title["section"]} "" '
        f'{_quoted("fuse-s3 " + version)} "{_SECTIONS[title["section"]]}"',
        ".nh",  # names of options must not be divided
        ".ad l",
        ".SH NAME",
        rf"{_text(title['name'])} \- {_text(title['what'])}",
    ]
    body = [line for block in blocks for line in _RENDER[block.kind](block)]
    return "\n".join([*head, *_without_empty_paragraphs(body)]) + "\n"


def _without_empty_paragraphs(lines: list[str]) -> Iterator[str]:
    """Leave out what begins a paragraph where a heading has just done so."""
    after_heading = False
    for line in lines:
        if not (line == ".PP" and after_heading):
            yield line
        after_heading = line.startswith((".SH ", ".SS "))


def write_pages(directory: Path, version: str) -> list[Path]:
    """Write every page of docs/man into `directory`; return where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sorted(SOURCES.glob("*.md")):
        written.append(directory / source.stem)
        written[-1].write_text(render(source.read_text(), version))
    return written


def _title(block: _Block) -> re.Match[str]:
    match = _TITLE.fullmatch(block.lines[0].removeprefix("# "))
    if block.kind != "heading" or not match or match["section"] not in _SECTIONS:
        raise ManPageError(f"a page begins with '# name(section) - what', not {block.lines[0]!r}")
    return match


# -- from lines to blocks ---------------------------------------------------------------------


def _blocks(source: str) -> Iterator[_Block]:
    """Cut the source at empty lines; an example may have some."""
    without_comments = re.sub(r"<!--.*?-->\n?", "", source, flags=re.DOTALL)
    lines: list[str] = []
    fenced = False
    for line in [*without_comments.splitlines(), ""]:
        if line.startswith("```"):
            fenced = not fenced
            if not fenced:
                yield _Block("example", lines)
                lines = []
        elif line.strip() or fenced:
            lines.append(line)
        elif lines:
            yield _Block(_kind(lines), lines)
            lines = []
    if fenced:
        raise ManPageError("an example is never closed")


def _kind(lines: list[str]) -> str:
    first = lines[0]
    if first.startswith("#") and len(lines) == 1:
        return "heading"
    if all(line.startswith("    ") for line in lines):
        return "indented"
    if first.startswith("- "):
        return "bullets"
    if first.startswith("| ") and all(line.startswith("|") for line in lines):
        return "table"
    if _UNKNOWN.match(first) or first.startswith("#"):
        raise ManPageError(f"no page is made from: {first!r}")
    return "paragraph"


# -- from blocks to requests ------------------------------------------------------------------


def _heading(block: _Block) -> list[str]:
    marks, _, text = block.lines[0].partition(" ")
    request = {"##": ".SH", "###": ".SS"}.get(marks)
    if request is None:
        raise ManPageError(f"no page is made from: {block.lines[0]!r}")
    return [f"{request} {_quoted(_text(text).upper() if marks == '##' else _text(text))}"]


def _paragraph(block: _Block) -> list[str]:
    return [".PP", *_filled(block.lines)]


def _example(block: _Block) -> list[str]:
    return [
        ".PP",
        ".RS 4",
        ".nf",
        *(_protected(_escape(line)) for line in block.lines),
        ".fi",
        ".RE",
    ]


def _indented(block: _Block) -> list[str]:
    return _example(_Block("example", [line[4:] for line in block.lines]))


def _bullets(block: _Block) -> list[str]:
    items: list[list[str]] = []
    for line in block.lines:
        if line.startswith("- "):
            items.append([line[2:]])
        elif line.startswith("  "):
            items[-1].append(line)
        else:
            raise ManPageError(f"neither a bullet nor more of one: {line!r}")
    return [request for item in items for request in ([r".IP \(bu 2", *_filled(item)])]


def _table(block: _Block) -> list[str]:
    titles, _, *rows = [_cells(line) for line in block.lines]
    requests = []
    for row in rows:
        named = dict(zip(titles, row, strict=True))
        meaning = named.pop("meaning", "")
        sentences = [
            f"{title.capitalize()}: {cell}." for title, cell in list(named.items())[1:] if cell
        ]
        text = [f"{meaning}.", *sentences] if meaning else sentences
        requests += [".TP", _protected(_text(row[0])), *_filled([" ".join(text)])]
    return requests


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


_RENDER: dict[str, Callable[[_Block], list[str]]] = {
    "heading": _heading,
    "paragraph": _paragraph,
    "example": _example,
    "indented": _indented,
    "bullets": _bullets,
    "table": _table,
}


# -- from text to troff -----------------------------------------------------------------------


def _filled(lines: list[str]) -> list[str]:
    """Return running text, a sentence a line, as man(7) wants it for the space between them."""
    text = _text(" ".join(line.strip() for line in lines))
    return [_protected(line) for line in _BETWEEN_SENTENCES.split(text)]


def _text(text: str) -> str:
    parts, at = [], 0
    for match in _INLINE.finditer(text):
        kind = match.lastgroup or ""
        font, inner = _FONTS[kind], _escape(match[kind])
        parts += [_escape(text[at : match.start()]), f"{font}{inner}\\fR" if font else inner]
        at = match.end()
    return "".join([*parts, _escape(text[at:])])


def _escape(text: str) -> str:
    # A bare hyphen may become a typographic one, which nobody can paste into a shell.
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")


def _protected(line: str) -> str:
    return rf"\&{line}" if line.startswith(".") else line


def _quoted(text: str) -> str:
    return '"' + text.replace('"', r"\(dq") + '"'
