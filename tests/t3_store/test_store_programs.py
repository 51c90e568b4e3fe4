"""Programs that give keys: run by a process outside the sandbox, which does nothing else."""

import errno
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store.credentials import Chain, Secrets
from fuse_s3_worker.store.needs import credential_programs
from fuse_s3_worker.store.programs import Programs
from fuse_s3_worker.store.sigv4 import Credentials
from support.chains import SECRET
from support.confined import DONE, enter, needs_sandbox, outcome_of
from support.loops import run
from support.process import wait_until
from support.storekit import bare_environment


@contextmanager
def programs(*commands: str) -> Iterator[Programs]:
    """Have who starts programs, and see that it ends."""
    made = Programs(commands)
    try:
        yield made
    finally:
        made.close()
        os.waitpid(made.pid, 0)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_program_is_run_and_its_output_comes_back(tmp_path: Path) -> None:
    command = f"{script(tmp_path / 'p', 'echo out $1; echo err >&2; exit 3')} 'two words'"
    with programs("true", command) as made:
        for _ in range(2):
            done = made.popen([str(tmp_path / "p"), "two words"], stdout=-1, stderr=-1)
            assert done.communicate() == (b"out two words\n", b"err\n")
            assert done.returncode == 3
        assert made.popen(["true"]).communicate() == (b"", b"")


def test_nothing_else_is_run(tmp_path: Path) -> None:
    """Neither another program, nor the same one with other words."""
    with programs("true --option") as made:
        for command in (["true"], ["true", "--other"], ["sh", "-c", f"touch {tmp_path}/x"], [""]):
            with pytest.raises(PermissionError, match="not configured"):
                made.popen(command)
        assert made.popen(["true", "--option"]).returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "number"),
    [("/no/such/program", errno.ENOENT), ("/etc/passwd", errno.EACCES), ("nul\0", errno.EINVAL)],
)
def test_what_cannot_be_started_is_said(command: str, number: int) -> None:
    with programs(command) as made, pytest.raises(OSError) as failed:
        made.popen([command])
    assert failed.value.errno == number


def test_output_without_end_is_cut(tmp_path: Path) -> None:
    command = script(tmp_path / "p", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2")
    with programs(command) as made:
        assert [len(part) for part in made.popen([command]).communicate()] == [65536, 65536]


def test_a_program_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuse_s3_worker.store.programs._DEADLINE", 0.05)
    command = script(tmp_path / "p", "exec sleep 600")
    with programs(command) as made, pytest.raises(TimeoutError):
        made.popen([command])


def test_it_holds_nothing_but_its_socket_and_outlives_signals(tmp_path: Path) -> None:
    """What this process has open, the device and connections, is not the programs' business."""
    secret = os.open("/etc/passwd", os.O_RDONLY)
    with programs("true") as made:
        os.close(secret)
        made.popen(["true"])  # it has begun, and closed what it got
        links = [str(fd.readlink()) for fd in Path(f"/proc/{made.pid}/fd").iterdir()]
        assert len([link for link in links if link.startswith("socket:")]) == 1
        assert not [link for link in links if "passwd" in link or "memfd" in link]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(made.pid, number)
        assert made.popen(["true"]).returncode == 0


def test_programs_have_the_usual_signals(tmp_path: Path) -> None:
    command = script(tmp_path / "p", "kill -TERM $$")
    with programs(command) as made:
        assert made.popen([command]).returncode == -signal.SIGTERM


def test_it_ends_with_the_worker() -> None:
    def worker() -> None:
        made = Programs(["true"])
        os.write(write_end, str(made.pid).encode())

    read_end, write_end = os.pipe()
    assert outcome_of(worker) == DONE
    pid = int(os.read(read_end, 20))
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), "the end of who starts programs")
    os.close(read_end)
    os.close(write_end)


def test_an_end_before_its_time_is_an_error() -> None:
    made = Programs(["true"])
    os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)
    with pytest.raises(ChildProcessError, match="who starts programs has ended"):
        made.popen(["true"])
    made.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    """Renewals of keys are in threads; each gets its own answer."""
    commands = [script(tmp_path / str(n), f"echo {n}") for n in range(4)]
    with programs(*commands) as made:
        found: dict[int, bytes] = {}

        def ask(number: int) -> None:
            found[number] = made.popen([commands[number]]).communicate()[0]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: f"{number}\n".encode() for number in range(4)}


# -- a key from inside the sandbox -----------------------------------------------------------------

CONFIG = """[default]
credential_process = {direct}
[profile assumed]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = source
[profile source]
credential_process = '{direct}' "two words"
"""


@needs_sandbox
def test_a_program_gives_the_key_of_a_confined_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_environment(monkeypatch, tmp_path)
    answer = json.dumps({"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": SECRET})
    config = CONFIG.format(direct=script(tmp_path / "p", f"echo '{answer}'")).encode()
    files = {"config_file": ("config", config)}
    commands = credential_programs(Settings(), files)
    assert commands == [f"{tmp_path}/p", f"'{tmp_path}/p' \"two words\""]

    def worker(profile: str) -> None:
        made = Programs(commands)
        enter()
        chain = Chain(Secrets(None, config), Redaction(), profile=profile, programs=made)
        run(chain.load())
        assert run(chain.current()) == Credentials("AK", SECRET, "")

    def without() -> None:
        enter()
        run(Chain(Secrets(None, config), Redaction()).load())

    assert outcome_of(lambda: worker("")) == DONE
    assert outcome_of(lambda: worker("source")) == DONE
    with pytest.raises(AssertionError):
        outcome_of(without)


def test_a_key_that_is_there_needs_no_program() -> None:
    files = {"config_file": ("config", b"[default]\ncredential_process = x\n")}
    assert credential_programs(Settings(no_sign_request=True), files) == []
    assert credential_programs(Settings(), files | {"passwd_file": ("p", b"a:b")}) == []
    assert credential_programs(Settings(), files) == ["x"]
