"""All tests of mounts once more, on a machine that systemd has booted: there it starts the workers.

What its unit forbids is found by nothing else, since the worker's own sandbox is not the same.
"""

import contextlib
import re

import pytest

from support.container import Container, why_not
from support.process import ROOT

pytestmark = [
    pytest.mark.mount,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

_PATIENCE = 3600.0  # seconds; they take a third of that on two processors
_NOT_OF_UNITS = (
    "test_model.py",  # of the file system's parts
    "test_fsx.py",  # the same
    "test_conformance.py::test_a_local_file_system_does_so",  # a disk is meant
)
# The units of the machine know one more directory, for caches of the tests.
_DROP_IN = "[Service]\nReadWritePaths=-/scratch\n"
_SUITE = f"""\
[Unit]
Description=Tests of mounts
After=multi-user.target fuse-s3-worker.socket
Requires=fuse-s3-worker.socket

[Service]
Type=oneshot
WorkingDirectory={ROOT}
ExecStart={ROOT}/build/venv/bin/pytest -p no:cacheprovider --basetemp=/scratch/pytest \
    --units -q -rfE --tb=short -m mount tests/t6_mount \
    {" ".join(f"--deselect=tests/t6_mount/{name}" for name in _NOT_OF_UNITS)}
Environment=PYTHONDONTWRITEBYTECODE=1 HOME=/root LANG=C.UTF-8 TMPDIR=/scratch
StandardOutput=file:/findings
StandardError=inherit
TimeoutStartSec=infinity
ExecStopPost=/usr/bin/systemctl --no-block poweroff
"""


@pytest.mark.usefixtures("_installed")
def test_mounts_work_in_units_as_elsewhere() -> None:
    with contextlib.closing(Container()) as machine:
        machine.write("etc/fstab", "")
        scratch = machine.root / "scratch"
        scratch.mkdir()
        scratch.chmod(0o1777)
        machine.unit("fuse-s3-worker@.service.d/scratch.conf", _DROP_IN)
        machine.unit("suite.service", _SUITE, wanted_by="default.target")
        printed = machine.boot({}, patience=_PATIENCE)
        findings = machine.root / "findings"
        found = findings.read_text() if findings.exists() else printed
    last = found.rstrip().rpartition("\n")[2]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", last)}
    assert counts.get("passed", 0) > 300, found[-20_000:]
    assert not counts.keys() & {"failed", "error", "errors", "skipped"}, found[-20_000:]
