"""mount.s3 as it is installed: one isolated file, its exit statuses and its one line of reason."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_helper
from fuse_s3_helper.argv import USAGE
from support.isolation import needs_root
from support.process import wait_until

# What hooks into an interpreter that is not isolated. Each leaves a note if it is ever imported.
POISON = ("sitecustomize", "usercustomize", "getopt", "ctypes", "fuse_s3_helper", "fuse_s3_shared")
NOTE = "import os; open(os.environ['NOTE'], 'a').write({name!r})\n"

REPORT = """
import json, runpy, sys
sys.argv = ["mount.s3", "--version"]
try:
    runpy.run_path({app!r}, run_name="__main__")
except SystemExit:
    pass
print(json.dumps([
    [name, getattr(getattr(module, "__spec__", None), "origin", None)]
    for name, module in sys.modules.items()
]))
"""


@pytest.fixture
def worker(public: Path) -> Path:
    """Where the helper will look for its worker; there is none yet."""
    return public / "bin" / "worker"


@pytest.fixture
def app(public: Path, worker: Path) -> Path:
    """The helper."""
    target = public / "mount.s3"
    build_helper.build(target, str(worker), str(worker))
    return target


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(
    command: list[str | Path], *, user: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        user=user,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )


# -- what it is made of ----------------------------------------------------------------------------


def test_the_first_line_isolates_it(app: Path) -> None:
    assert app.read_bytes().startswith(b"#!/usr/bin/python3 -IS\n")
    assert app.stat().st_mode & 0o777 == 0o755


ZONES = ("UTC", "America/Los_Angeles", "Pacific/Kiritimati", "Asia/Kolkata")


def test_the_same_source_makes_the_same_file(public: Path) -> None:
    """At any time and anywhere on earth."""
    made = [public / f"mount.s3-{number}" for number in range(len(ZONES))]
    for target, zone in zip(made, ZONES, strict=True):
        command: list[str | Path] = [sys.executable, build_helper.__file__, target]
        assert run(command, TZ=zone).stderr == ""
    assert len({target.read_bytes() for target in made}) == 1
    with zipfile.ZipFile(made[0]) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_version(app: Path) -> None:
    done = run([app, "--version"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mount.s3 {build_helper.version()}\n"


def poison(public: Path) -> dict[str, str]:
    """Return the environment of somebody who wants their code to run in there."""
    evil = public / "evil"
    evil.mkdir()
    for name in POISON:
        (evil / f"{name}.py").write_text(NOTE.format(name=name))
    # site-packages of a user directory, with a .pth file that runs code
    site = evil / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    (site / "evil.pth").write_text(NOTE.format(name="pth"))
    return {
        "NOTE": str(public / "note"),
        "PYTHONPATH": str(evil),
        "PYTHONUSERBASE": str(evil),
        "PYTHONSTARTUP": str(evil / "getopt.py"),
        "PYTHONWARNINGS": "error",
        "PYTHONINSPECT": "1",
        "PYTHONPYCACHEPREFIX": str(evil),
        "HOME": str(evil),
    }


def test_a_hostile_environment_is_not_let_in(
    app: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = poison(public)
    monkeypatch.chdir(public / "evil")  # nor the directory that one happens to be in
    done = run([app, "--version"], **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (public / "note").exists()


def test_without_isolation_it_would_be_let_in(app: Path, public: Path) -> None:
    """The test above can fail."""
    run(["/usr/bin/python3", app, "--version"], **poison(public) | {"PYTHONINSPECT": ""})
    assert "sitecustomize" in (public / "note").read_text()


def test_it_imports_the_standard_library_alone(app: Path) -> None:
    done = run(["/usr/bin/python3", "-IS", "-c", REPORT.format(app=str(app))])
    assert done.returncode == 0, done.stderr
    version, modules = done.stdout.splitlines()
    assert version.startswith("mount.s3 ")
    library = run(
        ["/usr/bin/python3", "-IS", "-c", "import os; print(os.path.dirname(os.__file__))"]
    )
    ours = [f"{app}/fuse_s3_helper/", f"{app}/fuse_s3_shared/"]
    places = ("built-in", "frozen", library.stdout.strip(), *ours)
    imported = [(str(name), str(origin or "")) for name, origin in json.loads(modules)]
    # What has no origin was made by code (typing.io), not found in any directory.
    assert [entry for entry in imported if entry[1] and not entry[1].startswith(places)] == []
    # A file compiled by this very Python is taken, the source beside it by any other.
    assert {name: Path(origin).stem for name, origin in imported}["fuse_s3_helper.mount"] == "mount"


# -- exit statuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        ([], 1, f"mount.s3: a bucket and a directory are needed; {USAGE}"),
        (["bucket"], 1, f"mount.s3: a bucket and a directory are needed; {USAGE}"),
        (["bucket", "/", "-o", "ro,rw"], 1, "mount.s3: both ro and rw are given: keep one of them"),
        (["bucket", "/", "-x"], 1, f"mount.s3: option -x not recognized; {USAGE}"),
    ],
)
def test_usage_errors(app: Path, words: list[str], status: int, complaint: str) -> None:
    done = run([app, *words])
    assert (done.returncode, done.stdout, done.stderr) == (status, "", complaint + "\n")


@needs_root
def test_only_root_can_remount(app: Path) -> None:
    done = run([app, "/mnt", "-o", "remount,ro"], user="nobody")
    assert (done.returncode, done.stderr) == (1, "mount.s3: only root can remount\n")


WITHOUT_FUSERMOUNT = """
for program in /usr/bin/fusermount3 /bin/fusermount3 /usr/local/bin/fusermount3; do
    [ ! -e $program ] || mount --bind /etc/passwd $program
done
exec setpriv --reuid=nobody --clear-groups "$@"
"""


@needs_root
def test_others_need_fusermount3(app: Path) -> None:
    """It is looked for before a worker is started, or the bucket is asked."""
    shell: list[str | Path] = ["unshare", "--mount", "sh", "-c", WITHOUT_FUSERMOUNT, "sh"]
    done = run([*shell, app, "bucket", "/mnt"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "mount.s3: only root can mount, and others only where fusermount3 is: install fuse3\n"
    )


@needs_root
@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (
            ["b", "/nowhere/at/all"],
            32,
            "mount point /nowhere/at/all: No such file or directory: mk",
        ),
        (["b", "/etc/passwd"], 32, "mount point /etc/passwd: Not a directory"),
        (["b", "/", "-o", "worker_user=root"], 1, "worker_user=root: a worker never runs as root"),
        (["b", "/", "-o", "worker_user=nouser"], 1, "worker_user=nouser: no such user"),
        (["b", "/", "-o", "passwd_file=/none"], 1, "passwd_file=/none: No such file or directory"),
        (["b", "/", "-N", "/nowhere/ns"], 2, "[Errno 2] No such file or directory: '/nowhere/ns'"),
        (["b", "/"], 32, "the worker ended before it could serve: /"),
    ],
)
def test_failures(app: Path, words: list[str], status: int, complaint: str) -> None:
    done = run([app, *words])
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"mount.s3: {complaint}")
    assert len(done.stderr.splitlines()) == 1


@needs_root
def test_remount_of_something_else(app: Path, public: Path) -> None:
    """In a namespace of its own: should it not be refused, nothing of the machine changes."""
    place = public / "mnt"
    place.mkdir()
    mount = f'mount -t tmpfs none {place} && exec "$0" {place} -o remount,ro'
    done = run(["unshare", "--mount", "sh", "-c", mount, app])
    assert done.returncode == 32
    assert done.stderr == f"mount.s3: {place} is on tmpfs: remount needs a mounted bucket\n"


@needs_root
@pytest.mark.parametrize("user", [None, "nobody"])
def test_help_is_the_workers_and_has_no_privileges(
    app: Path, worker: Path, user: str | None
) -> None:
    script(worker, '#!/bin/sh\necho "help for $1"; grep CapEff /proc/self/status; id -u\n')
    done = run([app, "--help"], user=user)
    assert (done.returncode, done.stderr) == (0, "")
    usage, _, text, capabilities, uid = done.stdout.splitlines()
    assert usage == USAGE
    assert text == "help for --help"
    assert capabilities == "CapEff:\t0000000000000000"
    assert uid != "0"


# -- interrupted -----------------------------------------------------------------------------------

LISTENING = """#!/usr/bin/python3 -IS
import os, socket
sock = socket.socket(fileno=3)
while sock.recv(100000):
    pass
"""


@pytest.fixture
def waiting(app: Path, worker: Path, public: Path) -> Iterator[subprocess.Popen[str]]:
    """A helper whose worker has nothing to say."""
    script(worker, LISTENING)
    # A shell starts background jobs with SIGINT ignored, which would be passed on.
    command = ["/usr/bin/env", "--default-signal=INT", str(app), "bucket", str(public), "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted(waiting: subprocess.Popen[str], number: signal.Signals) -> None:
    """systemd gives up on a mount with SIGTERM; a person, with Ctrl-C."""
    wait_until(lambda: any(_is_worker(pid) for pid in children(waiting.pid)), "a worker")
    (pid,) = children(waiting.pid)
    waiting.send_signal(number)
    _, complaint = waiting.communicate()
    assert waiting.returncode == 8
    assert complaint == "mount.s3: interrupted, nothing is mounted\n"
    assert not Path(f"/proc/{pid}").exists()


def _is_worker(pid: int) -> bool:
    """Tell whether it has been executed: by then the helper waits for it."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("python3") and (
            b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


@needs_root
def test_a_worker_does_not_outlive_a_killed_helper(waiting: subprocess.Popen[str]) -> None:
    wait_until(lambda: any(_is_worker(pid) for pid in children(waiting.pid)), "a worker")
    (pid,) = children(waiting.pid)
    waiting.kill()
    waiting.communicate()
    wait_until(lambda: _has_ended(pid), "the worker to end")


def _has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or would be if its new parent had looked after it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_the_source_tree_is_not_an_installation() -> None:
    """What is not built says so; nothing but the build writes VERSION."""
    done = run(
        ["/usr/bin/python3", "-S", "-m", "fuse_s3_helper", "-V"],
        PYTHONPATH=os.pathsep.join(str(build_helper.ROOT / top) for top in ("helper", "shared")),
    )
    assert done.stdout == "mount.s3 source tree\n"
