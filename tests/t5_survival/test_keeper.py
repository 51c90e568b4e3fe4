"""The keeper: real workers that die, small programs whose behaviour is a few lines."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_s3_shared.limits import STORED_MAX
from fuse_s3_worker.survival import keeper as module
from fuse_s3_worker.survival.keeper import Keeper
from support.isolation import ignore_only, in_child, open_descriptors, signals_of
from support.process import ROOT, wait_until

# What each worker begins with: it says in a file, one line a worker, how it was started.
PROLOGUE = """#!/usr/bin/python3 -IS
import array, json, os, signal, socket, sys, time
names = os.environ["LISTEN_FDNAMES"].split(":")
given = dict(zip(names, range(3, 3 + int(os.environ["LISTEN_FDS"]))))
assert os.environ["LISTEN_PID"] == str(os.getpid())
links = {{name: os.readlink(f"/proc/self/fd/{{fd}}") for name, fd in given.items()}}
ignored = [line for line in open("/proc/self/status") if line.startswith("SigIgn")]
report = {{"pid": os.getpid(), "given": given, "links": links, "ignored": ignored[0].split()[1]}}
with open({report!r}, "a") as file:
    file.write(json.dumps(report) + "\\n")
round = sum(1 for line in open({report!r}))
notify = socket.socket(fileno=os.dup(given["notify"]))
def store(name, *fds, text="FDSTORE=1\\nFDNAME="):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    notify.sendmsg([text.encode() + name.encode()], rights)
def memory(name):
    return os.memfd_create(name)
"""


class Kept:
    """A keeper on a thread of its own process, and what its workers have reported."""

    def __init__(self, directory: Path, script: str) -> None:
        self.report = directory / "report"
        program = directory / "worker"
        program.write_text(PROLOGUE.format(report=str(self.report)) + script)
        program.chmod(0o755)
        self.keeper = Keeper([str(program)])

    def run(self) -> list[dict[str, object]]:
        """Run it to its end, in a child; return the reports of the workers."""

        def keep() -> None:
            ignore_only([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])  # as main() does
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.keeper.run({"connection": theirs.detach()})
            ours.close()

        in_child(keep)
        return self.reports()

    def reports(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.report.read_text().splitlines()]


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[str], Kept]:
    return lambda script: Kept(tmp_path, script)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)


# -- one worker ------------------------------------------------------------------------------------


def test_a_worker_that_ends_as_it_should(kept: Callable[[str], Kept]) -> None:
    (report,) = kept("store('fuse', memory('device'))").run()
    assert report["given"] == {"connection": 3, "notify": 4}
    of_python_itself = {signal.SIGPIPE, signal.SIGXFSZ}
    assert signals_of(str(report["ignored"])) == of_python_itself


def test_a_worker_that_fails_before_there_is_a_mount(kept: Callable[[str], Kept]) -> None:
    assert len(kept("sys.exit(1)").run()) == 1


def test_a_worker_that_cannot_be_started(tmp_path: Path) -> None:
    keeper = Keeper([str(tmp_path / "none")])
    read_end, write_end = os.pipe()

    def keep() -> None:
        os.dup2(write_end, 2)
        keeper.run({})

    in_child(keep)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert "none: [Errno 2] No such file or directory" in pipe.read()


# -- the next one ----------------------------------------------------------------------------------

DEATHS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "an exception": "raise ValueError('on purpose')",
    "handed over": "sys.exit(75)",
    "the socket closed": "notify.close(); os.close(given['notify']); time.sleep(100)",
    "an empty message": "notify.send(b''); time.sleep(100)",
}


@pytest.mark.parametrize("death", DEATHS)
def test_the_next_worker_gets_what_was_stored(kept: Callable[[str], Kept], death: str) -> None:
    script = (
        "if round == 1:\n"
        "    store('fuse', memory('device'))\n"
        "    store('file.log_file', memory('log'))\n"
        "if round < 4:\n"
        f"    {DEATHS[death]}\n"
    )
    first, *later = kept(script).run()
    assert first["given"] == {"connection": 3, "notify": 4}
    assert len(later) == 3
    for report in later:
        assert report["given"] == {"fuse": 3, "file.log_file": 4, "notify": 5}
        links = report["links"]
        assert isinstance(links, dict)
        assert links["fuse"] == "/memfd:device (deleted)"
        assert links["file.log_file"] == "/memfd:log (deleted)"


def test_a_later_worker_may_store_more(kept: Callable[[str], Kept]) -> None:
    script = (
        "store(f'name-{round}', memory(f'of-{round}'))\n"
        "if round < 3:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    names = [list(report["given"]) for report in kept(script).run()]  # type: ignore[call-overload]
    assert names == [
        ["connection", "notify"], ["name-1", "notify"], ["name-1", "name-2", "notify"],
    ]  # fmt: skip


# -- workers that lie ------------------------------------------------------------------------------

LIES = {
    "no name": "store('', memory('x'))",
    "a name of the protocol's": "store('a:b', memory('x'))",
    "a name with a slash": "store('../x', memory('x'))",
    "a name in capitals": "store('FUSE', memory('x'))",
    "a very long name": "store('x' * 65, memory('x'))",
    "two names in one": "store('x\\nFDNAME=a b', memory('x'))",
    "two descriptors": "store('two', memory('x'), memory('y'))",
    "a descriptor without a word": "store('', memory('x'), text='')",
    "not to be stored": "store('x', memory('x'), text='READY=1\\nFDNAME=')",
    "stored is 0": "store('x', memory('x'), text='FDSTORE=0\\nFDNAME=')",
    "the same name again": "store('fuse', memory('x'))",
    "too long": "store('x', memory('x'), text='x' * 5000 + '\\nFDSTORE=1\\nFDNAME=')",
    "nothing to store": "notify.send(b'FDSTORE=1\\nFDNAME=x')",
    "garbage": "notify.send(bytes(range(256)))",
    "too many": "[store(f'n{n}', memory('x')) for n in range(100)]",
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie(kept: Callable[[str], Kept], name: str) -> None:
    script = (
        "if round == 1:\n"
        "    store('fuse', memory('device'))\n"
        f"    {LIES[name]}\n"
        "    store('last', memory('y'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    _, second = kept(script).run()
    given = second["given"]
    links = second["links"]
    assert isinstance(given, dict)
    assert isinstance(links, dict)
    assert links["fuse"] == "/memfd:device (deleted)"
    if name == "too many":
        assert len(given) == STORED_MAX + 1  # and the socket
    else:
        assert given == {"fuse": 3, "last": 4, "notify": 5}


def test_no_descriptor_is_left_behind(kept: Callable[[str], Kept]) -> None:
    """Whatever a hundred workers have sent, the keeper has what it keeps."""
    script = (
        "if round == 1:\n"
        "    store('fuse', memory('device'))\n"
        "[store('fuse', memory('x')) for _ in range(20)]\n"
        "[store('two', memory('x'), memory('y')) for _ in range(20)]\n"
        "if round < 20:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    made = kept(script)

    def keep() -> tuple[int, int]:
        gc.collect()  # what earlier tests have left to it
        before = len(open_descriptors())
        made.keeper.run({})
        return before, len(open_descriptors())

    before, after = in_child(keep)
    assert after == before + 1  # what is stored; the sockets of the test are gone
    assert len(made.reports()) == 20


# -- bounds ----------------------------------------------------------------------------------------


def test_a_restart_loop_ends(kept: Callable[[str], Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STARTS_MAX", 7)
    reports = kept("store('fuse', memory('x')) if round == 1 else None\nsys.exit(70)").run()
    assert len(reports) == 7


def test_restarts_that_are_far_apart_do_not_count(
    kept: Callable[[str], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STARTS_MAX", 3)
    made = kept("store('fuse', memory('x')) if round == 1 else None\nsys.exit(round < 12)")
    clock = iter(range(0, 100_000, 31))
    made.keeper._clock = lambda: float(next(clock))
    assert len(made.run()) == 12


# -- the program -----------------------------------------------------------------------------------


def test_signals_of_a_shutdown_do_not_end_it(tmp_path: Path) -> None:
    """Programs that still use the mount need the next worker, if this one dies."""
    script = "store('fuse', memory('x')) if round == 1 else sys.exit(0)\ntime.sleep(99)"
    made = Kept(tmp_path, script)
    (tmp_path / "fuse-s3-worker").symlink_to(tmp_path / "worker")
    (tmp_path / "fuse-s3-keeper").write_text(
        f"import sys\nsys.path[:0] = {[str(ROOT / 'worker'), str(ROOT / 'shared')]}\n"
        "from fuse_s3_worker.survival.keeper import main\nsys.exit(main())\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.dup2(theirs.fileno(), 3, inheritable=False)
    command = [sys.executable, str(tmp_path / "fuse-s3-keeper")]
    with subprocess.Popen(command, pass_fds=[3]) as process:
        wait_until(made.report.exists, "the first worker")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        wait_until(lambda: len(made.reports()) == 1, "its report")
        status = Path(f"/proc/{process.pid}/status").read_text()
        worker = made.reports()[0]["pid"]
        assert isinstance(worker, int)
        os.kill(worker, signal.SIGKILL)
        assert process.wait(60) == 0
    assert len(made.reports()) == 2
    assert "\nState:\t" in status
    ours.close()
    theirs.close()


def test_by_hand_it_says_who_starts_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fuse_s3_worker.survival.keeper import main; exit(main())"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (1, "fuse-s3-keeper is started by mount.s3\n")
