"""Mounts of a machine that systemd has booted: fstab, automounts, units, shutdown, survival.

The steps are those of nspawn/booted.py. A shutdown follows them, while a service still writes.
"""

import contextlib
import json
import pwd
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest

from support.container import Container, why_not
from support.pattern import pattern
from support.process import ROOT
from support.readers import fill
from support.s3 import Bucket
from support.servers import Servers

MIB = 1 << 20

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

_GUEST = f"""\
[Unit]
Description=The test of fuse-s3
After=multi-user.target remote-fs.target user.service

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {ROOT}/tests/system/nspawn/booted.py steps
Environment=PYTHONPATH={ROOT}/tests PYTHONDONTWRITEBYTECODE=1
EnvironmentFile=/etc/steps
TimeoutStartSec=600
"""

_USER = f"""\
[Unit]
Description=A service that uses a mount
RequiresMountsFor=/mnt/fstab

[Service]
ExecStart=/usr/bin/python3 {ROOT}/tests/system/nspawn/booted.py service
Environment=PYTHONPATH={ROOT}/tests PYTHONDONTWRITEBYTECODE=1
# SIGTERM is what it has to see; systemd waits for its end
TimeoutStopSec=30
"""

_OPTIONS = "endpoint_url={endpoint},region=us-east-1,log_file=/var/log/fuse-s3"
_BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


def example(words: str, name: str, bucket: Bucket, options: str = "") -> str:
    """Return the block of docs/systemd.md with these words, for the mount /mnt/NAME."""
    blocks = _BLOCK.findall((ROOT / "docs/systemd.md").read_text())
    (text,) = [block for block in blocks if words in block]
    common = _OPTIONS.format(endpoint=bucket.store.endpoint)
    for old, new in (
        ("my-bucket", f"{bucket.name}/{name}"),
        ("/mnt/bucket", f"/mnt/{name}"),
        ("region=us-east-1", ",".join(filter(None, [common, options]))),
        ("=10min", "=1s"),
    ):
        text = text.replace(old, new)
    return str(text)


class Machine:
    """What a machine found out, and the bucket that it has left."""

    def __init__(self, findings: dict[str, list[str]], bucket: Bucket, printed: str) -> None:
        self.bucket = bucket
        self.printed = printed
        self._findings = findings

    def __getitem__(self, name: str) -> str:
        """Return the finding of a name, or say what failed instead."""
        failed = {key: found for key, found in self._findings.items() if key.startswith("failed")}
        assert name in self._findings, f"{failed}\n{self.printed}"
        return self._findings[name][-1]

    def failed(self, step: str) -> list[str]:
        """Return why a step failed."""
        return self._findings.get(f"failed-{step}", [])


def boot(bucket: Bucket, times: int) -> Machine:
    """Boot a machine with mounts of this bucket, and let it do its steps."""
    fill(bucket, "tree/")
    for name in ("fstab", "auto", "unit", "early", "keys"):
        bucket.put(f"{name}/x", name.encode())
    with contextlib.closing(Container()) as machine:
        keys = bucket.store.keys
        machine.write("etc/passwd-s3fs", f"{keys.access}:{keys.secret}\n", 0o600)
        plain, automatic = "s3 _netdev,nofail,region", "x-systemd.automount"
        often = "restart_limit=1000,metadata_ttl=0.1"
        lines = [example(plain, "fstab", bucket), example(plain, "tree", bucket, often)]
        lines.append(example(plain, "early", bucket).replace("_netdev,", ""))
        machine.write("etc/fstab", "".join([*lines, example(automatic, "auto", bucket)]))
        machine.unit("mnt-unit.mount", example("[Mount]", "unit", bucket))
        machine.unit("mnt-unit.automount", example("[Automount]", "unit", bucket))
        machine.write("etc/cache.conf", example("ReadWritePaths=", "", bucket))
        machine.unit("user.service", _USER, wanted_by="multi-user.target")
        environment = {
            "KILLS": str(times),
            "SPEC": f"{bucket.name}/keys",
            "OPTIONS": _OPTIONS.format(endpoint=bucket.store.endpoint),
            "KEYS": json.dumps(
                {"Version": 1, "AccessKeyId": keys.access, "SecretAccessKey": keys.secret}
            ),
        }
        machine.write("etc/steps", "".join(f"{n}='{v}'\n" for n, v in environment.items()))
        machine.unit("steps.service", _GUEST, wanted_by="default.target")
        for name in ("fstab", "auto", "unit", "tree", "early", "keys"):
            (machine.root / "mnt" / name).mkdir()
        printed = machine.boot({})
        findings = defaultdict[str, list[str]](list)
        path = machine.root / "findings"
        for line in path.read_text().splitlines() if path.exists() else ():
            name, _, text = line.removeprefix("@").partition(" ")
            findings[name].append(text)
        log = machine.root / "var/log/fuse-s3"
        printed += log.read_text() if log.exists() else ""
    return Machine(findings, bucket, printed)


@pytest.fixture(scope="module", params=[8, pytest.param(50, marks=pytest.mark.long)])
def machine(
    request: pytest.FixtureRequest, servers: Servers, _installed: None
) -> Iterator[Machine]:
    with Bucket(servers.moto.store) as bucket:
        yield boot(bucket, request.param)


def test_a_line_of_fstab_mounts_at_boot(machine: Machine) -> None:
    assert machine.failed("boot") == []
    assert machine["mounted"] == "fuse.s3"
    assert machine["content"] == "fstab"


def test_systemd_starts_the_worker_in_its_unit(machine: Machine) -> None:
    assert machine["unit"].startswith("fuse-s3-worker@")
    account = str(pwd.getpwnam("fuse-s3").pw_uid)
    assert set(machine["Uid"].split()) == {account}
    assert int(machine["CapBnd"], 16) == 0
    assert machine["NoNewPrivs"] == "1"
    assert machine["Seccomp"] == "2"
    assert f"serves {machine.bucket.name}/fstab on /mnt/fstab" in machine["status"]
    assert "missing" not in machine["sandbox"]


def test_a_worker_in_its_unit_answers_an_administrator(machine: Machine) -> None:
    assert machine.failed("ask") == []
    assert re.search(rf"/mnt/fstab {machine.bucket.name}/fstab rw \d+ ", machine["list"])
    assert f"{machine.bucket.name}/fstab" in machine["answer"]
    assert "sandbox" in machine["answer"]


def test_an_automount_mounts_on_access_and_unmounts_when_idle(machine: Machine) -> None:
    assert machine.failed("automount") == []
    assert machine["before-access"] == "autofs"
    assert machine["auto-mounted"] == "fuse.s3"
    assert machine["auto-content"] == machine["auto-again"] == "auto"


def test_a_mount_unit_starts_reloads_and_stops(machine: Machine) -> None:
    assert machine.failed("units") == []
    assert machine["unit-content"] == machine["unit-reloaded"] == "unit"
    assert machine["unit-stopped"] == "nothing"
    assert machine["unit-worker"] == "ended"
    assert machine["unit-automounted"] == "unit"


def test_a_line_without_netdev_is_warned_of(machine: Machine) -> None:
    assert machine.failed("early") == []
    assert machine["early"] == "early"
    assert "without _netdev this is mounted before there is a network" in machine["early-warning"]
    assert "_netdev" not in machine["unit-warning"]


def test_keys_from_a_program_need_a_worker_without_the_unit(machine: Machine) -> None:
    assert machine.failed("credentials") == []
    assert "worker_user=fuse-s3" in machine["keys-in-unit"]
    assert machine["keys"] == "keys"
    assert not machine["keys-unit"].startswith("fuse-s3-worker@")


@pytest.mark.parametrize("name", ["cache", "scratch"])
def test_what_is_changed_is_kept_on_disk(machine: Machine, name: str) -> None:
    assert machine.failed("cached") == []
    assert machine[f"{name}-unit"].startswith("fuse-s3-worker@")
    assert machine[f"{name}-staged"] == "['.data']"
    content = machine.bucket.get(f"keys/{name}")
    assert content == bytes(7 * MIB) + b"changed" + bytes(13 * MIB - len("changed"))


def test_a_cache_that_the_unit_does_not_name_is_refused_with_what_to_do(machine: Machine) -> None:
    assert "cache=/scratch/fuse-s3: Read-only file system" in machine["scratch-refused"]
    assert "ReadWritePaths=" in machine["scratch-refused"]


def test_a_worker_without_its_own_sandbox_works_in_the_unit(machine: Machine) -> None:
    assert machine.failed("unconfined") == []
    assert machine["unconfined"] == "keys"
    assert machine["unconfined-unit"].startswith("fuse-s3-worker@")


def test_a_lazy_unmount_lets_its_users_finish(machine: Machine) -> None:
    assert machine.failed("lazily") == []
    assert machine["lazy"] == "nothing"
    assert machine.bucket.get("unit/lazy") == b"before after"


def test_readers_see_nothing_of_a_worker_that_is_killed(machine: Machine) -> None:
    assert machine.failed("survive") == []
    assert ": 0 rounds" not in machine["readers"]
    print(machine["readers"], machine["pauses"], sep="\n")


def test_a_handover_is_no_failure_of_the_unit(machine: Machine) -> None:
    assert machine.failed("hand_over") == []
    assert machine["handed-over"].startswith("fuse-s3-worker@")
    assert machine.bucket.get("tree/handed") == b"x" * MIB + b"y" * MIB + b"z" * MIB


def test_systemd_has_nothing_to_complain_about(machine: Machine) -> None:
    assert machine.failed("journal") == []
    assert machine["journal"] == "[]"


def test_who_writes_at_shutdown_has_all_of_it_in_the_bucket(machine: Machine) -> None:
    """And has seen no error, nor a wrong byte, until its own end."""
    assert machine["user-service"] == "active"
    assert machine.failed("service") == []
    size = int(machine["service-wrote"])
    content = machine.bucket.get("fstab/written")
    assert len(content) == size
    assert content == pattern(64 * 1024) * (size // (64 * 1024))
