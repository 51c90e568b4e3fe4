"""The benchmark as a whole, on a small content: it measures, checks, reports and leaves nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.contestants import OURS
from bench.workloads import WORKLOADS
from support.process import ROOT


def test_unknown_names_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--workloads", "seq_read_1g,nonsense"])
    message = capsys.readouterr().err
    assert "unknown: nonsense" in message
    assert "seq_write_1g" in message


def test_without_root_it_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([]) == 1
    assert "needs root" in capsys.readouterr().err


def _command(output: Path, *arguments: str) -> list[str]:
    small = ["--size", str(8 << 20), "--output", str(output / "results")]
    return [sys.executable, "-m", "bench", *small, *arguments]


def _environment(scratch: Path) -> dict[str, str]:
    (scratch / "scratch").mkdir()
    python_path = str(ROOT / "tests")
    own = {"PYTHONPATH": python_path, "TMPDIR": str(scratch / "scratch")}
    return {"PATH": os.environ["PATH"]} | own


def _left(scratch: Path) -> list[str]:
    """Return what lies, or is mounted, in the directory for temporary ones."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = str(scratch / "scratch") + "/"
    files = [str(path) for path in (scratch / "scratch").iterdir()]
    return [path for path in mounts + files if path.startswith(below)]


_CORE = ("seq_read_1g", "seq_write_1g", "mount_to_ls")
_KINDS = (
    *("seq_read_direct", "rand_read_4k_4", "rand_read_files", "seq_read_5m", "mixed_2r2w"),
    *("small_read", "small_write", "create_1b", "ls_l_nested_1k", "ls_f_flat_100k_warm"),
    *("list_1m_flat", "stat_storm", "first_byte", "backward", "parquet", "mount_to_read"),
)


@pytest.mark.mount
@pytest.mark.usefixtures("product")
def test_a_small_run_measures_checks_reports_and_leaves_nothing(tmp_path: Path) -> None:
    names = ",".join([*_CORE, *_KINDS])
    words = ["--rounds=1", "--peers=", "--seconds=0.2", "--shape=fast", "--workloads", names]
    servers, output = _run(_command(tmp_path, *words), tmp_path)
    document = servers["fast"]
    assert list(document) == [*_CORE, *_KINDS]
    requests = {}
    for name, workload in document.items():
        result = workload["contestants"][OURS]
        assert (name, result["failure"]) == (name, "")
        (sample,) = result["samples"]
        assert sample["values"][workload["decides"]] > 0
        assert re.search(rf"^{name}: ", output, re.MULTILINE)
        requests[name] = sample["requests"]
    assert [name for name, asked in requests.items() if not asked] == ["ls_f_flat_100k_warm"]
    assert requests["seq_read_1g"]["GetObject"] >= 1
    assert {"PutObject", "CompleteMultipartUpload"} & requests["seq_write_1g"].keys()
    assert requests["mount_to_ls"]["ListObjectsV2"] >= 1
    assert [path.suffix for path in sorted((tmp_path / "results").iterdir())] == [
        ".png",
        ".svg",
        ".json",
    ]


@pytest.mark.mount
@pytest.mark.usefixtures("product")
def test_a_slow_server_is_measured_with_tls_too(tmp_path: Path) -> None:
    words = ["--rounds=1", "--workloads=seq_read_1g", "--peers=", "--shape=s3like", "--tls=1"]
    document, output = _run(_command(tmp_path, *words), tmp_path)
    assert list(document) == ["s3like", "s3like-tls"]
    assert re.search("^s3like-tls: .* over HTTPS$", output, re.MULTILINE)
    for workloads in document.values():
        (ours,) = workloads["seq_read_1g"]["contestants"].items()
        assert (ours[0], ours[1]["failure"]) == (OURS, "")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.mount
@pytest.mark.usefixtures("product")
def test_everybody_in_everything(tmp_path: Path) -> None:
    words = ["--rounds=1", "--seconds=0.2", "--workloads=all", "--shape=fast", "--tls=0"]
    document, _ = _run(_command(tmp_path, *words), tmp_path, patience=1800)
    assert list(document["fast"]) == list(WORKLOADS)
    assert {OURS, "s3fs", "rclone"} <= document["fast"]["seq_read_5m"]["contestants"].keys()
    for name, workload in document["fast"].items():
        for result in workload["contestants"].values():
            assert (name, result["failure"]) == (name, "")


def _run(command: list[str], scratch: Path, patience: float = 280) -> tuple[dict[str, Any], str]:
    """Run the benchmark; return its JSON's servers and its output."""
    environment = _environment(scratch)
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=patience
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert _left(scratch) == []
    (path,) = (scratch / "results").glob("*.json")
    servers: dict[str, Any] = json.loads(path.read_text())["servers"]
    return servers, done.stdout


@pytest.mark.mount
@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: int) -> None:
    command = _command(tmp_path, "--rounds=1000", "--peers=", "--workloads=seq_write_1g")
    environment = _environment(tmp_path)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout
    while "seq_write_1g 1/" not in child.stdout.readline():
        assert child.poll() is None
    assert _left(tmp_path)
    child.send_signal(number)
    child.stdout.read()
    assert child.wait(60) == 1
    child.stdout.close()
    assert _left(tmp_path) == []
    assert not (tmp_path / "results").exists()
