"""The demo, for real: it ends well, and leaves nothing behind however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import workers
from support.process import ROOT

HELPER = Path("/sbin/mount.s3")


def start(home: Path, **variables: str) -> "subprocess.Popen[str]":
    """Start it without a terminal; all its temporary files are below `home`."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools/demo.py")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=keep | {"PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(home)} | variables,
    )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory that the demo must leave as empty as it was, and the machine as it was."""
    before = workers()
    yield tmp_path
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list(tmp_path.iterdir()) == []
    assert workers() == before
    assert not servers_below(tmp_path)
    assert HELPER.exists()  # it was there before


def servers_below(home: Path) -> list[str]:
    """Return the servers whose files are below `home`, or were."""
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            target = os.readlink(fd)  # noqa: PTH115  a Path would be resolved
        except OSError:
            continue
        if target.startswith(str(home)):
            found.append(f"{fd.parts[2]}: {target}")
    return found


@pytest.mark.mount
@pytest.mark.usefixtures("product")
def test_it_ends_well(home: Path) -> None:
    with start(home) as demo:
        output, _ = demo.communicate(timeout=250)
    assert demo.returncode == 0, output
    assert "is installed already: it is used, and left alone" in output
    assert "no difference" in output
    assert output.endswith("everything is as it should be, and nothing is left behind\n")


@pytest.mark.mount
@pytest.mark.usefixtures("product")
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("Fill the bucket", signal.SIGINT),
        ("$ mount", signal.SIGINT),
        ("$ diff", signal.SIGTERM),
        ("$ dd", signal.SIGINT),
    ],
)
def test_interrupted_it_leaves_nothing(home: Path, place: str, number: signal.Signals) -> None:
    with start(home) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if place in line:
                break
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130, output
    assert output.endswith("interrupted: nothing is left behind\n")


@pytest.mark.mount
@pytest.mark.usefixtures("product")
def test_a_difference_is_a_failure(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    programs = tmp_path_factory.mktemp("bin")
    diff = programs / "diff"
    diff.write_text("#!/bin/sh\necho Files differ\nexit 1\n")
    diff.chmod(0o755)
    with start(home, PATH=f"{programs}:{os.environ['PATH']}") as demo:
        output, _ = demo.communicate(timeout=250)
    assert demo.returncode == 1
    assert output.endswith("the demo failed: diff -r source mnt: status 1 instead of 0\n")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SERVER": "none"}, "SERVER=none: give one of moto, rgw"),
        ({"ENDPOINT": "http://127.0.0.1:1"}, "ENDPOINT= needs BUCKET="),
        ({"BUCKET": "b-b", "ENDPOINT": "http://127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    with start(tmp_path, **variables, **keys) as demo:
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    last = output.splitlines()[-1]
    assert last.startswith("the demo failed: ")
    assert line in last
    assert list(tmp_path.iterdir()) == []
