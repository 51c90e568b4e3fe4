"""The policy module: it compiles, it fits into Debian's policy, and that allows what it should.

What is asked here is the whole policy with the module in it, as a kernel would load it.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.process import ROOT

SELINUX = ROOT / "selinux"
BUILD = ROOT / "build/selinux"
WORKER, HELPER, KEEPER = "fuse_s3_worker_t", "fuse_s3_helper_t", "fuse_s3_keeper_t"

_NEEDED = ("checkmodule", "semodule_package", "semodule_link", "semodule_expand", "sesearch", "m4")


def _lacking() -> list[str]:
    lacking = [program for program in _NEEDED if not shutil.which(program)]
    devel = Path("/usr/share/selinux/devel/Makefile")
    return lacking + ([] if devel.exists() else [str(devel)])


pytestmark = pytest.mark.skipif(
    bool(_lacking()), reason=f"the policy cannot be compiled without: {' '.join(_lacking())}"
)


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def policy() -> Path:
    """The distribution's policy with the module."""
    fetched = subprocess.run(
        [ROOT / "tools/selinux_policy", BUILD / "policy"],
        check=False,
        capture_output=True,
        text=True,
    )
    if fetched.returncode:
        pytest.skip("the distribution's policy could not be had")
    run("make", "-C", str(SELINUX), "check")
    return BUILD / "policy.33"


class Rules:
    """What a policy says, by sesearch(1)."""

    def __init__(self, policy: Path) -> None:
        self._policy = policy

    def __call__(self, *words: str) -> list[str]:
        return run("sesearch", *words, str(self._policy)).splitlines()

    def types(self, source: str, kind: str, permission: str) -> set[str]:
        """Return the types on which `source` has a permission, whatever the booleans."""
        lines = self("-A", "-s", source, "-c", kind, "-p", permission)
        return {line.split()[2].split(":")[0] for line in lines}


@pytest.fixture(scope="module")
def rules(policy: Path) -> Rules:
    return Rules(policy)


# -- who becomes what ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mount_t", "unconfined_mount_t", "unconfined_t"])
def test_whoever_mounts_starts_the_helper_in_its_domain(rules: Rules, source: str) -> None:
    assert rules("-T", "-s", source, "-t", "fuse_s3_helper_exec_t", "-c", "process") == [
        f"type_transition {source} fuse_s3_helper_exec_t:process {HELPER};"
    ]
    assert HELPER in rules.types(source, "process", "transition")


@pytest.mark.parametrize("source", [HELPER, KEEPER, "init_t"])
def test_the_worker_is_started_by_ours_or_the_service_manager(rules: Rules, source: str) -> None:
    assert rules("-T", "-s", source, "-t", "fuse_s3_worker_exec_t", "-c", "process") == [
        f"type_transition {source} fuse_s3_worker_exec_t:process {WORKER};"
    ]
    for permission in ("nnp_transition", "nosuid_transition"):
        assert WORKER in rules.types(source, "process2", permission)


@pytest.mark.parametrize(("source", "started"), [(HELPER, {KEEPER, WORKER}), (KEEPER, {WORKER})])
def test_helper_and_keeper_start_nothing_else(rules: Rules, source: str, started: set[str]) -> None:
    assert rules.types(source, "process", "transition") == started
    assert rules.types(source, "file", "execute_no_trans") == set()


def test_the_keeper_has_no_power_and_no_network(rules: Rules) -> None:
    for kind in ("capability", "tcp_socket", "udp_socket", "filesystem"):
        assert rules("-A", "-s", KEEPER, "-ds", "-c", kind) == [], kind
    assert rules("-A", "-s", KEEPER, "-t", "fuse_device_t") == [
        f"allow {KEEPER} fuse_device_t:chr_file {{ getattr read write }};"
    ]


# -- what the worker may ---------------------------------------------------------------------------


def test_the_device_is_used_and_never_opened(rules: Rules) -> None:
    assert rules("-A", "-s", WORKER, "-t", "fuse_device_t") == [
        f"allow {WORKER} fuse_device_t:chr_file {{ getattr ioctl read write }};"
    ]


def test_it_has_no_capability_and_starts_no_program(rules: Rules) -> None:
    for kind in ("capability", "capability2", "cap_userns", "cap2_userns"):
        assert rules("-A", "-s", WORKER, "-c", kind) == []
    assert rules.types(WORKER, "file", "execute_no_trans") == set()
    assert rules.types(WORKER, "process", "transition") == set()
    for permission in ("execmem", "execstack", "execheap", "ptrace", "setexec", "dyntransition"):
        assert rules.types(WORKER, "process", permission) == set(), permission


def test_it_writes_to_what_is_its_own(rules: Rules) -> None:
    own = {"fuse_s3_cache_t", "fuse_s3_worker_tmpfs_t"}
    assert rules.types(WORKER, "file", "create") == own
    assert rules.types(WORKER, "file", "unlink") == own
    # Its own type is what /proc/self has, the other two are sealed, or the service manager's.
    given = {WORKER, "init_tmpfs_t", "fuse_s3_helper_tmpfs_t"}
    assert rules.types(WORKER, "file", "write") == own | given
    assert rules.types(WORKER, "file", "append") - own <= given | {"fuse_s3_log_t"}
    assert (
        rules.types(WORKER, "file", "open") & {"fuse_s3_log_t", "fuse_s3_helper_tmpfs_t"} == set()
    )
    assert rules.types(WORKER, "dir", "add_name") == {"fuse_s3_cache_t", "fuse_s3_runtime_t"}


def test_it_signals_nobody(rules: Rules) -> None:
    for permission in ("signal", "sigkill", "sigstop", "ptrace", "getattr", "setsched"):
        assert rules.types(WORKER, "process", permission) <= {WORKER}, permission


def test_the_network_is_tcp_to_the_web_and_names(rules: Rules) -> None:
    lines = rules("-A", "-s", WORKER, "-c", "tcp_socket", "-p", "name_connect")
    always = {line.split()[2].split(":")[0] for line in lines if "]:" not in line}
    assert always == {"http_port_t", "http_cache_port_t", "dns_port_t"}
    (conditional,) = (line for line in lines if "]:" in line)
    assert conditional.endswith("[ fuse_s3_connect_any ]:True")
    for kind in ("tcp_socket", "udp_socket"):
        assert rules.types(WORKER, kind, "name_bind") == set()
    for kind in ("rawip_socket", "packet_socket", "netlink_route_socket", "alg_socket"):
        assert rules("-A", "-s", WORKER, "-c", kind, "-p", "create") == [], kind


@pytest.mark.parametrize("source", ["fuse_s3_broker_t", "fuse_s3_csi_t"])
def test_types_that_no_program_has_may_do_nothing(rules: Rules, source: str) -> None:
    """Beyond what every domain may."""
    for kind in ("capability", "filesystem", "chr_file", "tcp_socket", "udp_socket"):
        assert rules("-A", "-s", source, "-ds", "-c", kind) == [], kind
    assert rules.types(source, "process", "transition") == set()


# -- the rules that say never ----------------------------------------------------------------------

# A rule of some other module, and the words by which the compiler names it.
PLANTED = {
    "open of the device": f"allow {WORKER} fuse_device_t:chr_file open;",
    "a capability": f"allow {WORKER} self:capability sys_admin;",
    "code that it wrote": f"allow {WORKER} self:process execmem;",
    "a shell": f"allow {WORKER} shell_exec_t:file execute_no_trans;",
    "a shell in another domain": f"allow {WORKER} unconfined_t:process transition;",
    "the system's files": f"allow {WORKER} etc_t:file write;",
    "the programs": f"allow {WORKER} bin_t:file append;",
    "passwords": f"allow {WORKER} shadow_t:file read;",
    "another process": f"allow {WORKER} init_t:process ptrace;",
    "a signal": f"allow {WORKER} {HELPER}:process sigkill;",
    "a socket of another kind": f"allow {WORKER} self:packet_socket create;",
    "a port": f"allow {WORKER} http_port_t:tcp_socket name_bind;",
    "a worker of somebody else's": f"allow syslogd_t {WORKER}:process transition;",
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_rule_breaks_the_build(name: str, policy: Path, tmp_path: Path) -> None:
    del policy  # it has the pieces made
    rule = PLANTED[name]
    words = rule.replace("self", WORKER).split()
    types = {words[1], words[2].split(":")[0]}
    kind = words[2].split(":")[1] if ":" in words[2] else ""
    source = tmp_path / "planted.te"
    source.write_text(
        f"module planted 1.0;\nrequire {{ type {', '.join(sorted(types))}; "
        f"class {kind} {words[3]} }}\n{rule}\n"
    )
    module, package, linked = (str(tmp_path / f"planted.{end}") for end in ("mod", "pp", "linked"))
    run("checkmodule", "-M", "-m", "-o", module, str(source))
    run("semodule_package", "-o", package, "-m", module)
    bases = [str(BUILD / "policy/base.pp"), str(BUILD / "policy/unconfined.pp")]
    run("semodule_link", "-o", linked, *bases, str(BUILD / "fuse_s3.pp"), package)
    done = subprocess.run(
        ["semodule_expand", "-c", "33", linked, str(tmp_path / "policy")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "neverallow violated by allow" in done.stdout + done.stderr


# -- files -----------------------------------------------------------------------------------------


LITERAL = ("/usr/sbin/mount\\.s3", "/usr/bin/mount\\.s3", "/usr/lib/fuse-s3/bin/fuse-s3-worker",
           "/usr/lib/fuse-s3/bin/fuse-s3-keeper")  # fmt: skip


def test_installed_files_have_their_types() -> None:
    """Literal paths: of two patterns, the one with the longer literal beginning wins."""
    text = (SELINUX / "fuse_s3.fc").read_text()
    for path in LITERAL:
        (line,) = (line for line in text.splitlines() if line.startswith(f"{path}\t"))
        assert ":fuse_s3_" in line
        assert not set(path.replace("\\.", "")) & set("?*+[](|)")
