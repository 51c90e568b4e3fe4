"""What tools show while they work, and what they leave of a command that is interrupted.

The console takes over the signals of its process, so each of these is a process of its own.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.process import ROOT, wait_until

BEGINNING = (
    "import os, signal, sys\nfrom console import CommandFailedError, Console\nc = Console(2)\n"
)


def script(text: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BEGINNING + text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PYTHONPATH": str(ROOT / "tools"), "PATH": os.environ["PATH"]},
    )


def said(text: str, status: int = 0) -> list[str]:
    with script(text) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    return output.splitlines()


def test_steps_are_counted() -> None:
    assert said("c.step('one'); c.step('two')") == ["", "[1/2] one", "", "[2/2] two"]


def test_a_command_is_shown_as_one_would_type_it() -> None:
    lines = said("print(repr(c.run('printf', 'a b\\\\nc')))")
    assert lines == [r"$ printf 'a b\nc'", "  a b", "  c", r"'a b\nc'"]


def test_a_command_may_say_much() -> None:
    assert len(said("c.run('seq', '100000')")) == 100_001


def test_commands_run_where_they_are_told_to(tmp_path: Path) -> None:
    lines = said(
        f"from pathlib import Path\nc.change_directory(Path({str(tmp_path)!r}))\nc.run('pwd')"
    )
    assert lines == [f"$ cd {tmp_path}", "$ pwd", f"  {tmp_path}"]


def test_another_status_than_expected_is_an_error() -> None:
    text = "try:\n    c.run('false')\nexcept CommandFailedError as error:\n    c.say(f'{error}')\n"
    assert said(text)[-1] == "false: status 1 instead of 0"
    assert said("c.run('false', status=1)") == ["$ false"]


def test_progress_is_a_line_now_and_then() -> None:
    text = "for n in range(1000): c.progress(str(n))\nc.progress('end', done=True)"
    assert said(text) == ["  0", "  end"]


def test_a_signal_waits_while_it_would_disturb() -> None:
    text = (
        "try:\n"
        "    with c.undisturbed():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        c.say('written down')\n"
        "    c.say('never')\n"
        "except KeyboardInterrupt:\n"
        "    c.say('interrupted')\n"
    )
    assert said(text) == ["written down", "interrupted"]


def test_cleaning_up_is_not_interrupted() -> None:
    text = "c.ignore_signals()\nos.kill(os.getpid(), signal.SIGTERM)\nc.say('goes on')"
    assert said(text) == ["goes on"]


def test_what_is_interrupted_ends_with_all_that_it_started() -> None:
    command = "sleep 1000 & echo $! $$; wait"
    text = f"try:\n    c.run('sh', '-c', {command!r})\nexcept KeyboardInterrupt:\n    c.say('end')"
    with script(text) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "end\n"
    assert process.returncode == 0
    wait_until(lambda: not any(map(lives, pids)), "the end of both")


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
