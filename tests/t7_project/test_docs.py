"""The documents say what is so: options, links, commands, messages, events, privileged calls.

And they are kept: every statement of docs/semantics.md is quoted by a test.
"""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import write_docs
from build_helper import version
from fuse_s3_worker.config.describe import markdown_table
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.config.parse import option_of
from fuse_s3_worker.sandbox import LAYERS
from fuse_s3_worker.serve import End
from manpage import SOURCES, render
from privileged_calls import privileged_calls
from support.statements import quotes, statements

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("s*/README.md")], key=lambda p: p.parts
)
STATEMENTS = statements((DOCS / "semantics.md").read_text())
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

FENCE = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def rows(document: Path, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its title row."""
    text = document.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", write_docs.WITH_OPTIONS, ids=shown)
def test_the_table_of_options_is_todays(path: Path) -> None:
    assert path.read_text() == write_docs.with_options(path.read_text()), "run: make docs"


def test_a_changed_table_is_noticed() -> None:
    text = (DOCS / "options.md").read_text()
    assert write_docs.with_options(text.replace("| `part_size` |", "| `part_siez` |")) == text


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_option_is_in_the_manual_page(name: str) -> None:
    page = render((SOURCES / "mount.s3.8.md").read_text(), version())
    plain = page.replace(r"\-", "-")
    assert rf"\fB{name}\fR" in plain
    for alias in option_of(name).aliases:
        assert rf"\fB{alias.name}\fR" in plain


# mount(8) acts on these by itself, and its helpers never see them: see mount(8), "FILESYSTEM-
# INDEPENDENT MOUNT OPTIONS" and the options for propagation, bind and loop mounts.
KEPT_BY_MOUNT8 = frozenset(
    "shared private slave unbindable rshared rprivate rslave runbindable bind rbind move loop "
    "offset sizelimit encryption defaults auto noauto comment".split()
)


# For `mount.s3` and `fuse-s3 mount`; mount(8) takes the word away, and owner_only stands in for it.
SECOND_NAMES = {"private"}


def test_no_option_is_a_word_that_mount8_keeps_for_itself() -> None:
    tables = markdown_table()
    names = {name for line in tables.splitlines() for name in CODE.findall(line)}
    assert {"part_size", "worker_user", "multipart_size"} < names
    assert names & KEPT_BY_MOUNT8 == SECOND_NAMES


# -- links and commands ----------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return the anchor that is made from a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if fragment:
            assert fragment in map(anchor, HEADING.findall(target.read_text())), link


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line of a document's examples."""
    for block in FENCE.findall(path.read_text()):
        yield from (line.split() for line in block.splitlines() if line.strip())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    found = list(commands(ROOT / name))
    assert found
    for words in found:
        if words[0] == "make":
            assert words[1] in targets, " ".join(words)
        else:
            assert shutil.which(words[0]), " ".join(words)


def test_the_gate_runs_the_test_of_the_readme() -> None:
    gate = (ROOT / ".ci/run").read_text()
    assert ["make", "test"] in commands(ROOT / "README.md")
    assert "make test" in gate
    assert "FUSE_S3_TESTS_MUST_RUN=all" in gate
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


# -- statements ------------------------------------------------------------------------------------


def test_statements_are_numbered_in_order() -> None:
    assert [number for number, _ in STATEMENTS] == [f"S{n}" for n in range(1, len(STATEMENTS) + 1)]
    # None got lost for its form: every number in the document is a statement's.
    assert len(re.findall(r"\[S\d+\]", (DOCS / "semantics.md").read_text())) == len(STATEMENTS)


@pytest.fixture(scope="module")
def quoted() -> dict[str, list[tuple[str, str]]]:
    """Statement number to what tests say it is, and which test it is."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in TESTS:
        for quote in quotes(path):
            found.setdefault(quote.number, []).append((quote.text, quote.test))
    return found


@pytest.mark.parametrize(("number", "text"), STATEMENTS, ids=[n for n, _ in STATEMENTS])
def test_every_statement_is_tested(
    number: str, text: str, quoted: dict[str, list[tuple[str, str]]]
) -> None:
    assert number in quoted, f"no test quotes: [{number}] {text}"
    for words, test in quoted[number]:
        assert words.startswith(text), f"{test} has other words for [{number}] {text}"


def test_no_test_quotes_a_statement_that_is_gone(quoted: dict[str, object]) -> None:
    assert quoted.keys() <= dict(STATEMENTS).keys()


def test_quotes_are_found_where_they_may_be(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(
        "# [S9] belongs to nobody\n"
        "\n"
        "# [S1] One\n"
        "# two.\n"
        "@decorator\n"
        "def test_a():\n"
        '    """[S2] Three\n'
        "\n"
        '    four. [S3] Five."""\n'
        "    x = 1  # [S4] Six.\n"
        "\n"
        "    # [S5] Seven\n"
        "    # eight.\n"
        "    return x\n"
        "\n"
        "def helper():\n"
        '    """[S6] No test says it."""\n'
    )
    assert [(quote.number, quote.text) for quote in quotes(path)] == [
        *(("S2", "Three four."), ("S3", "Five.")),
        *(("S1", "One two."), ("S4", "Six."), ("S5", "Seven eight.")),
    ]


# -- messages and events ---------------------------------------------------------------------------


def strings(*tops: str) -> set[str]:
    """Return every string of the product, as one text where it has values put in."""
    found = set()
    for path in (path for top in tops for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "..." for v in node.values)
                found.add("".join(map(str, parts)))
    return found


def test_messages_of_the_troubleshooting_are_real() -> None:
    not_ours = {"unknown filesystem type 's3'"}  # mount(8) says it
    ours = strings("helper", "shared", "worker")
    phrases = [
        phrase
        for row in rows(DOCS / "troubleshooting.md", "mount fails")
        for phrase in CODE.findall(row[0])
        if phrase not in not_ours
    ]
    assert phrases
    for phrase in phrases:
        # What the kernel says comes after a colon; what differs is written as dots.
        pieces = [piece.strip() for piece in re.split(r"\.\.\.|: (?=[A-Z])|\d+ s$", phrase)]
        told = [piece for piece in pieces if piece and not piece[0].isupper()]
        assert any(all(piece in text for piece in told) for text in ours), phrase


def events() -> set[str]:
    """Return the name of every event that the worker logs."""
    found = set()
    for path in (ROOT / "worker/fuse_s3_worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            # event(logger, level, name ...), spawn(work, name ...)
            place = {"event": 2, "spawn": 1}.get(ast.unparse(node.func).split(".")[-1])
            if place is None or len(node.args) <= place:
                continue
            match node.args[place]:
                case ast.Constant(value=str(name)):
                    found.add(name)
                case ast.IfExp(
                    body=ast.Constant(value=str(one)), orelse=ast.Constant(value=str(other))
                ):
                    found |= {one, other}
                case _:
                    pass  # made elsewhere, and found there
    return found | {end.value for end in End if end is not End.FAILED}  # device_failed has said it


def test_every_event_is_explained() -> None:
    table = rows(DOCS / "troubleshooting.md", "What the log's events mean")
    explained = [name for row in table for name in CODE.findall(row[0])]
    assert sorted(explained) == sorted(events())


# -- what is claimed of the sandbox ----------------------------------------------------------------


def test_every_layer_of_the_sandbox_is_explained() -> None:
    table = rows(DOCS / "security.md", "The sandbox")
    assert [CODE.findall(row[0])[0] for row in table] == list(LAYERS)


def test_every_claim_about_a_hostile_worker_names_its_tests() -> None:
    table = rows(DOCS / "security.md", "What a worker could do that somebody took over")
    assert len(table) > 5
    known = {path.stem for path in TESTS}
    for claim, tests in table:
        assert set(CODE.findall(tests)) <= known, claim
        assert CODE.findall(tests), claim


# -- privileged calls ------------------------------------------------------------------------------


def test_every_privileged_call_is_explained() -> None:
    table = rows(DOCS / "security.md", "Every privileged call")
    listed = [(CODE.findall(row[0])[0], CODE.findall(row[1])[0], row[2]) for row in table]
    assert len(listed) == len({(call, where) for call, where, _ in listed})
    calls = privileged_calls()
    assert {(call, where) for call, where, _ in listed} == calls.keys()
    lines = {(call, where): lines for call, where, lines in listed}
    assert lines == {key: ", ".join(map(str, numbers)) for key, numbers in calls.items()}


def test_a_call_of_every_kind_is_noticed() -> None:
    """The table would say nothing if its test did not look."""
    kinds = {call for call, _ in privileged_calls()}
    assert {"os.open", "open", "setns", "connect", "syscalls.mount", "os.setresuid"} <= kinds
