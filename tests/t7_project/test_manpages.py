"""Markdown to manual pages: every construct, every refusal, and what groff and mandoc think."""

import re
import subprocess
from pathlib import Path

import pytest

from build_helper import version
from manpage import SOURCES, ManPageError, render, write_pages

ROOT = Path(__file__).resolve().parent.parent.parent

TITLE = "# thing(8) - does a thing\n\n"

BLOCKS = [
    ("## FILES", ['.SH "FILES"']),
    ("## Lower case", ['.SH "LOWER CASE"']),
    ("### A part of it", ['.SS "A part of it"']),
    ("Plain text.", [".PP", "Plain text."]),
    ("One line\nand another.", [".PP", "One line and another."]),
    # A sentence a line, so that the formatter knows where sentences end.
    ("First one. Second one.", [".PP", "First one.", "Second one."]),
    ("`-o ro` and **-f**", [".PP", r"\fB\-o ro\fR and \fB\-f\fR"]),
    ("*SPEC*, see [options](options.md)", [".PP", r"\fISPEC\fR, see options"]),
    # Bold over the end of a line.
    ("a **b\nc** d", [".PP", r"a \fBb c\fR d"]),
    (r"a \ b", [".PP", r"a \e b"]),
    ("it's `x'y`", [".PP", r"it\(aqs \fBx\(aqy\fR"]),
    # A line that begins with a dot would be a request.
    (".hidden file", [".PP", r"\&.hidden file"]),
    ("    mount -f\n    ls", [".PP", ".RS 4", ".nf", r"mount \-f", "ls", ".fi", ".RE"]),
    ("```\na\n\n.b\n```", [".PP", ".RS 4", ".nf", "a", "", r"\&.b", ".fi", ".RE"]),
    ("- one\n  more\n- two", [r".IP \(bu 2", "one more", r".IP \(bu 2", "two"]),
    (
        "| option | values | meaning |\n|---|---|---|\n| `a_b` | 1 to 2 | what |\n| `c` | | x |",
        [".TP", r"\fBa_b\fR", "what.", "Values: 1 to 2.", ".TP", r"\fBc\fR", "x."],
    ),
    ("<!-- not for\nreaders -->\ntext", [".PP", "text"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "requests"), BLOCKS)
def test_a_block(source: str, requests: list[str]) -> None:
    page = render(f"{TITLE}First.\n\n{source}\n", "1.2")
    body = page.splitlines()[7:]
    assert body == requests


def test_a_heading_begins_a_paragraph() -> None:
    lines = render(f"{TITLE}## A\n\ntext\n\ntext\n", "1.2").splitlines()
    assert lines[-4:] == ['.SH "A"', "text", ".PP", "text"]


def test_the_head_of_a_page() -> None:
    head = render(TITLE, "1.2").splitlines()
    assert head[0] == '.TH "THING" 8 "" "fuse-s3 1.2" "System Administration"'
    assert head[-2:] == [".SH NAME", r"thing \- does a thing"]


@pytest.mark.parametrize(
    "source",
    [
        "no title",
        "# thing(9) - of no section here",
        "## NAME",
        f"{TITLE}1. numbered",
        f"{TITLE}> quoted",
        f"{TITLE}* starred",
        f"{TITLE}![picture](x.png)",
        f"{TITLE}#### too deep",
        f"{TITLE}---",
        f"{TITLE}- a\nb",
        f"{TITLE}```\nnever closed",
    ],
)
def test_what_is_not_understood_is_refused(source: str) -> None:
    with pytest.raises(ManPageError):
        render(source + "\n", "1.2")


# -- the real pages --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pages(tmp_path_factory.mktemp("man"), version())


def need(package: str) -> None:
    """Have a formatter, or say loudly that there is none."""
    done = subprocess.run(
        [ROOT / "tools/need", package], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no {package}: {done.stderr.strip().splitlines()[-1]}")


def test_each_source_makes_a_page(pages: list[Path]) -> None:
    assert {page.name for page in pages} == {"mount.s3.8", "fuse-s3.1"}
    assert len(pages) == len(list(SOURCES.glob("*.md")))


def test_groff_has_nothing_to_say(pages: list[Path]) -> None:
    need("groff-base")
    for page in pages:
        command = ["groff", "-man", "-Tutf8", "-ww", "-rLL=80n", str(page)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        assert "DESCRIPTION" in re.sub(".\b", "", done.stdout)  # bold is overstruck


def test_mandoc_has_nothing_to_say(pages: list[Path]) -> None:
    need("mandoc")
    for page in pages:
        command = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        # The pages have no date: the version says more.
        found = [line for line in done.stdout.splitlines() if "missing date" not in line]
        assert found == []


def test_a_warning_would_be_seen(tmp_path: Path) -> None:
    need("groff-base")
    page = tmp_path / "bad.8"
    page.write_text(render(TITLE, "1.2") + ".XX no such request\n")
    command = ["groff", "-man", "-Tutf8", "-ww", str(page)]
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr
