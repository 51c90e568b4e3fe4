"""Rules of the project that a reviewer would otherwise have to look after."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import count_privileged
from count_privileged import BUDGET, code_lines, privileged_files

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAMS = ("helper", "shared", "worker")
MODULES = sorted(path for top in PROGRAMS for path in (ROOT / top).rglob("*.py"))

MODULE_LINES_MAX = 500

# Not ours, or not written by hand.
LEFT_OUT = {"build", "dist", "__pycache__", "LICENSE"}


def files(*tops: str) -> Iterator[Path]:
    """Yield the files of the project, or of some of its directories."""
    for start in [ROOT / top for top in tops] or [ROOT]:
        for directory, names, filenames in os.walk(start):
            names[:] = [n for n in names if n not in LEFT_OUT and not _is_cache(Path(directory, n))]
            yield from (Path(directory, name) for name in filenames if name not in LEFT_OUT)


def _is_cache(path: Path) -> bool:
    """Tell whether a directory is some tool's: hidden, and not the project's own .ci."""
    return path.name.startswith(".") and path.name != ".ci"


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""  # a picture or the like


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


BY_MODULE = pytest.mark.parametrize("path", MODULES, ids=shown)

# -- who may import whom ---------------------------------------------------------------------------


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the packages below `root`."""
    search = os.pathsep.join(str(root / top) for top in PROGRAMS)
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": search, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_are_kept() -> None:
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# An import that must not be: where, what, and the contract that breaks.
PLANTED = {
    "the worker imports the helper": (
        "worker/fuse_s3_worker/log.py", "fuse_s3_helper.errors",
        "nothing imports the helper",
    ),
    "shared imports the helper": (
        "shared/fuse_s3_shared/limits.py", "fuse_s3_helper.argv",
        "nothing imports the helper",
    ),
    "shared imports the worker": (
        "shared/fuse_s3_shared/fdpass.py", "fuse_s3_worker.log",
        "programs above, shared below",
    ),
    "the helper imports the worker": (
        "helper/fuse_s3_helper/main.py", "fuse_s3_worker.log",
        "programs above, shared below",
    ),
    "the command imports the worker": (
        "worker/fuse_s3_cli/main.py", "fuse_s3_worker.main",
        "programs above, shared below",
    ),
    "the file system imports the protocol": (
        "worker/fuse_s3_worker/fs/core.py", "fuse_s3_worker.fuse.abi",
        "import downward only",
    ),
    "the protocol imports the file system": (
        "worker/fuse_s3_worker/fuse/abi.py", "fuse_s3_worker.fs.core",
        "import downward only",
    ),
    "the store imports what uses it": (
        "worker/fuse_s3_worker/store/types.py", "fuse_s3_worker.fs.core",
        "downward only",
    ),
    "connections import the store": (
        "worker/fuse_s3_worker/http/pool.py", "fuse_s3_worker.store.types",
        "downward only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_breaks_a_contract(name: str, tmp_path: Path) -> None:
    where, what, contract = PLANTED[name]
    for top in PROGRAMS:
        shutil.copytree(
            ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / where).open("a") as module:
        module.write(f"\nimport {what}\n")
    done = contracts(tmp_path)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if line.rstrip().endswith("BROKEN")]
    assert any(contract in line for line in broken), done.stdout


def test_every_part_of_the_worker_has_a_layer() -> None:
    """The contract on layers says nothing of a part that it does not name."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (
        contract
        for contract in configuration["tool"]["importlinter"]["contracts"]
        if contract["id"] == "worker"
    )
    layers = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    parts = {
        path.stem
        for path in (ROOT / "worker/fuse_s3_worker").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert parts == layers


def imports_of(path: Path) -> set[str]:
    """Return the top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{shown(path)}: a relative import"
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Name) and node.id in {"__import__", "eval", "exec"}:
            found.add(node.id)
    return found


@pytest.mark.parametrize("path", privileged_files(ROOT), ids=shown)
def test_what_runs_with_roots_powers_imports_the_standard_library_alone(path: Path) -> None:
    allowed = (sys.stdlib_module_names | {"fuse_s3_shared"}) - {"importlib", "runpy", "pickle"}
    if "helper" in path.parts:
        allowed |= {"fuse_s3_helper"}
    assert imports_of(path) <= allowed


# -- how much runs with root's powers --------------------------------------------------------------


def test_the_budget_of_privileged_code() -> None:
    assert BUDGET == 900
    done = subprocess.run(
        [sys.executable, ROOT / "tools/count_privileged.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    *modules, total = done.stdout.splitlines()
    assert total.split()[1:] == ["of", str(BUDGET)]
    assert int(total.split()[0]) == sum(int(line.split()[0]) for line in modules) <= BUDGET
    counted = {line.split()[1] for line in modules}
    assert counted == {shown(path) for path in files("helper", "shared") if path.suffix == ".py"}


def test_above_the_budget_the_count_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    total = sum(code_lines(path.read_text()) for path in privileged_files(ROOT))
    monkeypatch.setattr(count_privileged, "BUDGET", total)
    assert count_privileged.main() == 0
    monkeypatch.setattr(count_privileged, "BUDGET", total - 1)
    assert count_privileged.main() == 1
    assert capsys.readouterr().out.endswith(f"{total:5}  of {total - 1}\n")


COUNTED = {
    "": 0,
    "\n\n# a comment\n": 0,
    '"""A module."""\n': 0,
    '"""A module.\n\nIn many lines.\n"""\nimport os\n': 1,
    "import os  # a comment\n": 1,
    "x = (\n    1,\n\n    # why\n    2,\n)\n": 4,
    'def f():\n    """Do.\n\n    More.\n    """\n    return 1\n': 2,
    'async def f():\n    """Do."""\n    return 1\n': 2,
    'class A:\n    """Be."""\n\n    x: int = 1\n': 2,
    '@wraps(\n    g\n)\ndef f():\n    """Do."""\n': 4,
    # A string that documents nothing is code.
    'x = """a\nb\n"""\n': 3,
    'if x:\n    """not a docstring"""\n': 2,
    '"""A module."""\n"""nor this"""\n': 1,
    'raise E(f"""{\nx}""")\n': 2,
    # A docstring hides nothing that is in its lines.
    'class A: """Be."""\n': 1,
    '"""A module."""; import os\n': 1,
}


@pytest.mark.parametrize("source", COUNTED)
def test_what_counts_as_a_line_of_code(source: str) -> None:
    assert code_lines(source) == COUNTED[source]


# -- every module ----------------------------------------------------------------------------------


@BY_MODULE
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@BY_MODULE
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX


# -- the whole tree --------------------------------------------------------------------------------


def machine_paths() -> set[str]:
    """Return beginnings of paths that mean something on this machine alone."""
    places = {ROOT, Path(sys.prefix), Path(sys.prefix).parent}
    return {f"{place}" for place in places if len(place.parts) > 2 and "usr" not in place.parts}


def test_no_path_of_this_machine() -> None:
    found = {
        shown(path): place
        for path in files()
        for place in machine_paths()
        if place in text_of(path)
    }
    assert found == {}


def test_nothing_is_left_to_be_done() -> None:
    """What is not done is not there; what is there is done."""
    marks = ["TO" + "DO", "FIX" + "ME"]
    found = [
        f"{shown(path)}:{number}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert found == []


def test_nothing_is_forgotten_in_the_tree() -> None:
    """Neither left over by an editor or a merge, nor compiled."""
    endings = (".orig", ".rej", ".pyc", ".swp", ".bak", "~", ".log")
    assert [shown(path) for path in files() if path.name.endswith(endings)] == []


def lines_that_say_something(*tops: str) -> int:
    texts = (text_of(path) for path in files(*tops))
    return sum(bool(line.strip()) for text in texts for line in text.splitlines())


def test_there_is_as_much_test_as_there_is_code() -> None:
    assert lines_that_say_something("tests") >= lines_that_say_something(*PROGRAMS, "tools")
