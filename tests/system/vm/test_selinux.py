"""Enforcing SELinux, on a machine that boots: mounts work without a denial, and attacks do not.

The machine is emulated, so the kernel and the policy are Debian's own, whatever runs here. It has
an older kernel than most, on which the worker's own sandbox is not complete, and a later one, on
which mounts outlive their workers.
"""

import contextlib
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.machine import BUILD, Disk, make_disk
from support.proxy import Proxy
from support.s3 import Bucket, Store
from support.servers import Servers

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

_PATIENCE = 900.0  # seconds; an emulated processor needs a minute or two
# Ports of the type http_cache_port_t, which a worker may connect to without a boolean.
_PORTS = range(10001, 10011)
_GATEWAY = "10.0.2.2"  # what QEMU's user network calls this machine

Findings = dict[str, list[str]]


@contextlib.contextmanager
def at_a_port_of_the_web(store: Store) -> Iterator[str]:
    """Have the server at a port that the policy knows; yield its address in the machine."""
    for port in _PORTS:
        with contextlib.suppress(OSError), Proxy(store.endpoint, at=("127.0.0.1", port)):
            yield f"http://{_GATEWAY}:{port}"
            return
    raise OSError("no port of http_cache_port_t is free")


def fstab(bucket: Bucket, endpoint: str) -> str:
    common = f"_netdev,noauto,endpoint_url={endpoint},region=us-east-1"
    label = "context=system_u:object_r:httpd_sys_content_t:s0"
    return (
        f"{bucket.name} /mnt/bucket s3 {common},cache=/var/cache/fuse-s3 0 0\n"
        f"{bucket.name} /mnt/web s3 {common},{label} 0 0\n"
    )


def boot(disk: Disk, kernel: Path) -> Findings:
    """Run the machine until it powers off; return what `guest.py` found."""
    # Without cmpxchg16b: QEMU 7.2 emulates it so that later kernels come to a double fault.
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2"),
        *("-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{BUILD / 'console.log'}", "-serial", f"file:{BUILD / 'findings'}"),
        *("-kernel", str(kernel), "-initrd", str(disk.initrd(kernel))),
        *("-drive", f"file={disk.image},format=raw,if=virtio,cache=unsafe"),
        *("-nic", "user,model=virtio-net-pci"),
        "-append",
        "root=/dev/vda rw console=ttyS0 security=selinux enforcing=1 quiet "
        "systemd.show_status=0 audit_backlog_limit=8192",
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE)
    found: Findings = defaultdict(list)
    for line in (BUILD / "findings").read_text(errors="replace").splitlines():
        if match := re.match(r"@(\S+(?: /\S+)?) ?(.*)", line.strip()):
            found[match[1]].append(match[2])
    return found


@pytest.fixture(scope="module", params=[0, -1], ids=["older", "later"])
def found(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Findings]:
    """What was found on the machine, which boots once with each kernel for all tests."""
    store = servers.moto.store
    with Bucket(store) as bucket, at_a_port_of_the_web(store) as endpoint:
        bucket.put("theirs", b"from the bucket")
        disk = make_disk(fstab(bucket, endpoint), bucket.store.keys)
        yield boot(disk, disk.kernels[request.param])


def one(found: Findings, name: str) -> str:
    (text,) = found[name]
    return text


def test_it_went_to_the_end(found: Findings) -> None:
    assert not {name: text for name, text in found.items() if name.startswith("failed")}
    assert found["end"]


def test_the_policy_is_enforced_and_has_the_module(found: Findings) -> None:
    assert one(found, "enforce") == "1"
    assert one(found, "modules") == "1"
    for path, kind in (
        ("/usr/sbin/mount.s3", "helper"),
        ("/usr/lib/fuse-s3/bin/fuse-s3-worker", "worker"),
    ):
        assert f":fuse_s3_{kind}_exec_t:" in one(found, f"label {path}")
    assert ":fuse_s3_worker_t:" in one(found, "domain")


def test_mounts_work(found: Findings) -> None:
    assert one(found, "read") == "from the bucket"
    assert one(found, "content") == "written under SELinux, and appended"
    assert one(found, "names") == "['d', 'large', 'theirs']"
    assert one(found, "unmounted") == "True"
    assert ":fusefs_t:" in one(found, "type")


def test_what_is_changed_is_kept_on_disk(found: Findings) -> None:
    assert ":fuse_s3_cache_t:" in one(found, "staged")
    assert one(found, "changed") == "changed"


def test_a_mount_with_a_context_works(found: Findings) -> None:
    assert ":httpd_sys_content_t:" in one(found, "context")
    assert one(found, "page") == "1"


def test_a_keeper_starts_workers_where_systemd_does_not(found: Findings) -> None:
    assert ":fuse_s3_keeper_t:" in one(found, "keeper")
    assert ":fuse_s3_worker_t:" in one(found, "kept")
    assert one(found, "stored") == "by the keeper's worker"


@pytest.mark.parametrize("keeper", ["systemd", "keeper"])
def test_a_worker_answers_an_administrator(found: Findings, keeper: str) -> None:
    assert "sandbox" in one(found, f"status-{keeper}")


def test_nothing_that_is_needed_was_denied(found: Findings) -> None:
    assert found["denied"] == []
    # and denials are noticed: those of the attacks, which come later
    assert int(one(found, "noticed")) >= len(REFUSED) - 1


def test_the_sandbox_is_as_complete_as_that_kernel_allows(found: Findings) -> None:
    assert one(found, "seccomp").split() == ["Seccomp:", "2"]
    if outlives(found):
        assert one(found, "strict") == "mounted"
    else:
        assert "landlock_tcp is missing: needs Landlock's version 4" in one(found, "strict")


def outlives(found: Findings) -> bool:
    """Tell whether this is the later kernel."""
    return not one(found, "kernel").startswith("6.1.")


@pytest.mark.parametrize("keeper", ["systemd", "keeper"])
def test_a_mount_outlives_its_worker(found: Findings, keeper: str) -> None:
    expected = ["by its successor True"], ["by the next one"]
    if not outlives(found):
        expected = [], []
    assert (found[f"killed-{keeper}"], found[f"restarted-{keeper}"]) == expected


REFUSED = {
    "fuse": "open of /dev/fuse",
    "shell": "exec of a shell",
    "execmem": "memory to write and execute",
    "mprotect": "memory made executable",
    "memfd": "code in memory that has a name",
    "netlink": "AF_NETLINK",
    "alg": "AF_ALG",
    "listen": "a port to listen on",
    "connect": "a port of no web server",
    "bus": "the system bus",
    "tmp": "a file elsewhere",
    "boot": "the kernel's directory",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_hostile_worker_tries_is_refused(found: Findings, name: str) -> None:
    """By the policy: the program has no sandbox of its own, and the same user does it freely."""
    free = dict(word.split("=") for word in one(found, "free").split())
    words = re.findall(r"(\w+)=(\d+)", one(found, "confined").partition("serve:")[2])
    assert free[name] == "0", REFUSED[name]
    assert dict(words)[name] == "13", REFUSED[name]
    assert dict(words)["passwd"] == "0", "what is allowed, for comparison"
