"""What is left to a worker: a real process, asked what it can do."""

import ctypes
import json
import os
import pwd
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_helper.errors import MountError, UsageError
from fuse_s3_helper.process import fork_worker
from fuse_s3_helper.worker import identity, start_worker
from support.isolation import ignore_only, in_child, needs_root, signals_of

NOBODY = pwd.getpwnam("nobody")
PYTHON = ["/usr/bin/python3", "-IS", "-c"]

# -- whose account ---------------------------------------------------------------------------------


def accounts(*known: tuple[str, int, int]) -> dict[str, pwd.struct_passwd]:
    return {n: pwd.struct_passwd((n, "x", uid, gid, "", "/", "/bin/sh")) for n, uid, gid in known}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["fuse-s3", "nobody"], "fuse-s3"),
        (["nobody"], "nobody"),
    ],
)
def test_the_service_account(
    monkeypatch: pytest.MonkeyPatch, known: list[str], expected: str
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", accounts(*((n, 990, 990) for n in known)).__getitem__)
    assert identity(None).pw_name == expected


def test_an_account_of_ones_choice() -> None:
    assert identity("nobody") == NOBODY


@pytest.mark.parametrize(
    ("account", "complaint"),
    [
        (("admin", 0, 7), "worker_user=admin: a worker never runs as root"),
        (("wheel", 7, 0), "worker_user=wheel: a worker never runs as root"),
        (("other", 7, 7), "worker_user=wanted: no such user"),
    ],
)
def test_accounts_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, account: tuple[str, int, int], complaint: str
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", accounts(account).__getitem__)
    with pytest.raises(UsageError, match=f"^{complaint}$"):
        identity("wanted" if account[1] and account[2] else account[0])


def test_root_will_not_do() -> None:
    with pytest.raises(UsageError, match="never runs as root"):
        identity("root")


def test_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", accounts().__getitem__)
    with pytest.raises(UsageError, match="worker_user=fuse-s3 or nobody: no such user"):
        identity(None)


# -- asking a worker -------------------------------------------------------------------------------


def asked(command: list[str], fds: dict[int, int] | None = None) -> str:
    """Run `command` as a worker is run; return what it prints."""
    read_end, write_end = os.pipe()
    pid = fork_worker(NOBODY, command, {1: write_end, 2: 2} | (fds or {}))
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0) == (pid, 0)
    return text


def status(fds: dict[int, int] | None = None) -> dict[str, str]:
    """Return /proc/self/status; cat(1), unlike Python, changes nothing about signals."""
    lines = asked(["/bin/cat", "/proc/self/status"], fds).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def strays() -> Iterator[list[int]]:
    """Descriptors that an exec would pass on, near and far."""
    made = [os.open("/etc/passwd", os.O_RDONLY)]
    for number in (7, 40, 64, 65, 200):
        if not Path(f"/proc/self/fd/{number}").is_symlink():
            made.append(os.dup2(made[0], number))
    os.set_inheritable(made[0], True)
    yield made
    for fd in made:
        os.close(fd)


@needs_root
def test_no_power_is_left() -> None:
    def as_a_member_of_groups() -> dict[str, str]:
        os.setgroups([0, 4, 27])
        return status()

    found = in_child(as_a_member_of_groups)
    ids = {"Uid": NOBODY.pw_uid, "Gid": NOBODY.pw_gid}
    for name, number in ids.items():
        assert found[name].split() == [str(number)] * 4  # real, effective, saved, file system
    assert found["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert found["NoNewPrivs"] == "1"
    assert found["Umask"] == "0077"


@needs_root
def test_what_the_caller_had_made_inheritable_is_lost_too() -> None:
    """An ambient capability would survive exec."""

    def with_ambient() -> dict[str, str]:
        _raise_ambient()
        assert int(_own_status("CapAmb"), 16)
        return status()

    found = in_child(with_ambient)
    assert {int(found[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}


def _own_status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(name))


def _raise_ambient() -> None:
    """Make CAP_CHOWN inheritable and ambient, as capsh(1) does; see capabilities(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[2] |= 1  # inheritable, CAP_CHOWN
    assert libc.capset(header, data) == 0
    assert libc.prctl(47, 2, 0, 0, 0) == 0  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


@needs_root
def test_only_the_descriptors_that_are_given(strays: list[int]) -> None:
    assert strays
    script = (
        "import json, os\n"
        "print(json.dumps({n: os.readlink(f'/proc/self/fd/{n}')"
        " for n in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{n}')}))"
    )
    read_end, write_end = os.pipe()
    found = json.loads(asked([*PYTHON, script], {2: write_end, 3: read_end}))
    assert found.keys() == {"0", "1", "2", "3"}
    assert found["0"] == "/dev/null"
    assert found["2"] == found["3"]
    assert found["1"] != found["2"]
    os.close(read_end)
    os.close(write_end)


@needs_root
def test_descriptors_beyond_a_lowered_limit_are_closed_too() -> None:
    """A descriptor stays open when the limit is set below it."""

    def with_lowered_limit() -> str:
        os.dup2(os.open("/etc/shadow", os.O_RDONLY), 500)
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        return asked(["/bin/ls", "/proc/self/fd"])

    assert "500" not in in_child(with_lowered_limit).split()


@needs_root
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_descriptors_may_trade_places(order: tuple[int, ...]) -> None:
    """The number that one goes to may be another one's source."""

    def in_their_way() -> list[str]:
        out = os.memfd_create("out")
        for to in order:
            os.dup2(os.memfd_create(f"goes-to-{to}"), 60 + to)
        for at, to in enumerate(order):
            os.dup2(60 + to, at)
        sources = {to: at for at, to in enumerate(order)}
        links = "[os.readlink(f'/proc/self/fd/{n}') for n in range(4)]"
        script = f"import os; os.write(4, ' '.join({links}).encode())"
        os.waitpid(fork_worker(NOBODY, [*PYTHON, script], sources | {4: out}), 0)
        return os.pread(out, 1000, 0).decode().replace(" (deleted)", "").split()

    assert in_child(in_their_way) == [f"/memfd:goes-to-{n}" for n in range(4)]


@needs_root
def test_nothing_of_the_environment_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steers a loader, an interpreter or a library; keys go another way."""
    for name in (
        *(
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PYTHONPATH",
            "PYTHONHOME",
            "OPENSSL_CONF",
            "GCONV_PATH",
        ),
        *(
            "SSL_CERT_FILE",
            "AWS_CA_BUNDLE",
            "AWS_DATA_PATH",
            "AWS_SECRET_ACCESS_KEY",
            "HTTPS_PROXY",
        ),
        *("NOTIFY_SOCKET", "LISTEN_FDS", "BASH_ENV", "HOME", "LANG", "LC_ALL", "IFS"),
    ):
        monkeypatch.setenv(name, "" if name == "LD_PRELOAD" else "/evil")
    found = dict(line.split("=", 1) for line in asked(["/usr/bin/env"]).splitlines())
    assert found == {"PATH": "/usr/bin:/bin", "HOME": NOBODY.pw_dir, "LANG": "C.UTF-8"}


@needs_root
def test_an_ordinary_user_stays_who_they_are() -> None:
    """There is nothing to give up but what might be gained later."""

    def as_nobody() -> tuple[dict[str, str], str]:
        os.setgroups([54321])
        os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        return status(), identity(None).pw_name

    found, name = in_child(as_nobody)
    assert name == "nobody"
    assert found["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert found["Groups"] == "54321"
    assert found["NoNewPrivs"] == "1"
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}


@needs_root
def test_only_root_chooses_another_account() -> None:
    def as_nobody() -> None:
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        with pytest.raises(UsageError, match=r"^worker_user=daemon: only root can start it as som"):
            identity("daemon")

    in_child(as_nobody)


@needs_root
def test_place_and_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = "import os; print(os.getcwd(), os.getsid(0) == os.getpid() != os.getppid())"
    assert asked([*PYTHON, script]) == "/ True\n"


@needs_root
def test_signals_are_as_a_program_expects_them() -> None:
    """nohup(1) and interpreters ignore signals; what is ignored or blocked survives exec."""
    ignored = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignoring() -> dict[str, str]:
        ignore_only(ignored)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        return status()

    found = in_child(ignoring)
    assert signals_of(found["SigIgn"]) == set()
    assert signals_of(found["SigBlk"]) == set()


@needs_root
def test_a_worker_that_cannot_be_executed(public: Path) -> None:
    (public / "not-executable").touch(0o644)
    for command, why in (
        (public / "none", "No such file or directory"),
        (public / "not-executable", "Permission denied"),
    ):
        with pytest.raises(MountError, match=f"before it could serve: {command}: .*{why}"):
            start_worker(NOBODY, str(command), foreground=False)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # reaped


@needs_root
def test_a_child_that_stays_root_never_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should giving up root fail in a way that nobody thought of, there is no second helper."""
    monkeypatch.setattr(os, "setresuid", lambda *_: None)
    read_end, write_end = os.pipe()
    pid = fork_worker(NOBODY, ["/bin/echo", "I am root"], {1: write_end, 2: write_end})
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert "still root after giving it up" in pipe.read()
    assert os.waitpid(pid, 0) == (pid, 126 << 8)
