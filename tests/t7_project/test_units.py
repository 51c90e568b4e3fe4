"""The units as they are installed: what they leave open, and that every line has its reason."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fuse_s3_shared.limits import STORED_MAX
from fuse_s3_worker.service import HANDED_OVER
from support.process import ROOT

UNITS = ROOT / "systemd"
SERVICE, SOCKET = UNITS / "fuse-s3-worker@.service", UNITS / "fuse-s3-worker.socket"
DIRECTIVE = re.compile(r"(\w+)=(.*)")
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze (systemd) is not installed"
)


def directives(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := DIRECTIVE.fullmatch(line):
            found.setdefault(match[1], []).append(match[2])
    return found


@needs_systemd
def test_what_the_unit_leaves_open(tmp_path: Path) -> None:
    """At most 1.0 of 10: the network, which is its task, and Unix sockets, to the log and back."""
    copy = tmp_path / SERVICE.name
    shutil.copy(SERVICE, copy)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=10", copy],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    left = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("✗")}
    assert left == {
        "RootDirectory=/RootImage=",
        "RestrictAddressFamilies=~AF_UNIX",
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "PrivateNetwork=",
        "DeviceAllow=",  # a clock, which ProtectClock= itself brings along
        "IPAddressDeny=",  # it has an allow-list, which is all hosts
    }


@needs_systemd
@pytest.mark.parametrize("path", [SERVICE, SOCKET], ids=lambda path: path.suffix)
def test_systemd_knows_every_word(path: Path, tmp_path: Path) -> None:
    for unit in (SERVICE, SOCKET):
        text = re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    name = path.name.replace("@.", "@i.")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name],
        check=False, capture_output=True, text=True,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "fuse-s3-worker" in line]


@pytest.mark.parametrize("path", [SERVICE, SOCKET], ids=lambda path: path.suffix)
def test_every_line_has_its_reason(path: Path) -> None:
    """A comment above it, or above the lines that it belongs to."""
    blocks = re.split(r"\n(?=#)|\n\n", path.read_text())
    bare = [
        block
        for block in blocks
        if any(map(DIRECTIVE.fullmatch, block.splitlines())) and not block.startswith("#")
    ]
    # What every unit has, and nothing that a worker may or may not do.
    words = {line.partition("=")[0] for block in bare for line in block.splitlines()}
    assert words <= {"[Unit]", "Description", "Documentation", "[Service]", "Type", "ExecStart",
                     "[Socket]", "ListenSequentialPacket", "[Install]", "WantedBy"}  # fmt: skip


def test_the_unit_and_the_code_are_of_one_mind() -> None:
    service = directives(SERVICE)
    assert service["FileDescriptorStoreMax"] == [str(STORED_MAX)]
    assert service["RestartForceExitStatus"] == [str(HANDED_OVER)]
    assert service["User"] == ["fuse-s3"]
    assert service["ExecStart"] == ["/usr/lib/fuse-s3/bin/fuse-s3-worker"]
    assert directives(SOCKET)["ListenSequentialPacket"] == ["/run/fuse-s3/worker.sock"]
