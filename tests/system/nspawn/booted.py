"""What happens in the container: a user's programs on mounts of fstab. Runs as root there.

    booted.py steps      one after the other, then the machine powers off
    booted.py service    a service of somebody's, which uses a mount until after it is told to end

Each line of its output that begins with `@` is a finding, `@name text`, for test_systemd.py.
"""

import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from support.pattern import pattern
from support.process import wait_until
from support.readers import Pause, reading

_FINDINGS = Path("/findings")
_MNT, _AUTO, _UNIT, _TREE, _EARLY, _KEYS = (
    Path("/mnt") / name for name in ("fstab", "auto", "unit", "tree", "early", "keys")
)
_CACHE, _SCRATCH = Path("/var/cache/fuse-s3"), Path("/scratch/fuse-s3")
_DROP_IN = Path("/etc/systemd/system/fuse-s3-worker@.service.d/cache.conf")
_WORKER = b"/usr/lib/fuse-s3/bin/fuse-s3-worker"
_MIB = 1 << 20


def say(name: str, text: object) -> None:
    """Report a finding in one line."""
    with _FINDINGS.open("a") as findings:
        findings.write(f"@{name} {' '.join(str(text).split())}\n")


def run(*command: object) -> str:
    """Run a program; return all it said."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{words}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def type_at(path: Path) -> str:
    """Return the type of what is mounted there, without going there."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    types = [line.split(" - ")[1].split()[0] for line in table if f" {path} " in line]
    return types[-1] if types else "nothing"


def workers() -> dict[int, str]:
    """Return the workers: process id to unit."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if _WORKER in (process / "cmdline").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cgroup").read_text().rpartition("/")[2]
        except OSError:
            continue
    return {pid: unit.strip() for pid, unit in found.items()}


def worker_of(path: Path) -> int:
    """Return the worker of a mount, which its log names."""
    lines = re.findall(rf"fuse-s3\[(\d+)\] (?:mounted|resumed) .*directory={path}", log())
    return int(lines[-1]) if lines else 0


def log() -> str:
    """Return the workers' log."""
    path = Path("/var/log/fuse-s3")
    return path.read_text() if path.exists() else ""


# -- steps -----------------------------------------------------------------------------------------


def boot() -> None:
    """The lines of fstab, after remote-fs.target."""
    say("mounted", type_at(_MNT))
    say("before-access", type_at(_AUTO))
    say("content", (_MNT / "x").read_text())
    pid = worker_of(_MNT)
    say("unit", workers()[pid])
    status = Path(f"/proc/{pid}/status").read_text()
    for name in ("Uid", "CapBnd", "NoNewPrivs", "Seccomp"):
        say(name, re.search(rf"^{name}:\s*(.*)", status, re.MULTILINE)[1])  # type: ignore[index]
    say("status", run("systemctl", "status", "--no-pager", workers()[pid]))
    say("sandbox", re.search(r" sandbox (.*)", log())[1])  # type: ignore[index]


def ask() -> None:
    """What an administrator asks a worker in its unit."""
    say("list", run("fuse-s3", "list"))
    say("answer", run("fuse-s3", "status", _MNT))


def automount() -> None:
    """Mounted on access, unmounted when idle, and mounted again."""
    say("auto-content", (_AUTO / "x").read_text())
    say("auto-mounted", type_at(_AUTO))
    first = worker_of(_AUTO)
    wait_until(lambda: type_at(_AUTO) == "autofs", "the idle timeout")
    wait_until(lambda: first not in workers(), "the end of its worker")
    say("auto-again", (_AUTO / "x").read_text())


def units() -> None:
    """A .mount unit of somebody's own: start, reload, stop."""
    run("systemctl", "start", "mnt-unit.mount")
    say("unit-content", (_UNIT / "x").read_text())
    pid = worker_of(_UNIT)
    run("systemctl", "reload", "mnt-unit.mount")
    say("unit-reloaded", (_UNIT / "x").read_text())
    run("systemctl", "stop", "mnt-unit.mount")
    say("unit-stopped", type_at(_UNIT))
    wait_until(lambda: pid not in workers(), "the end of its worker")
    say("unit-worker", "ended")
    say("unit-warning", run("journalctl", "--no-pager", "-b", "-o", "cat", "-u", "mnt-unit.mount"))
    run("systemctl", "start", "mnt-unit.automount")
    say("unit-automounted", (_UNIT / "x").read_text())
    run("systemctl", "stop", "mnt-unit.automount")  # and the mount with it
    wait_until(lambda: type_at(_UNIT) == "nothing", "the unmount")


def early() -> None:
    """A line of fstab without _netdev: it mounts, and the journal has the warning."""
    wait_until(lambda: type_at(_EARLY) == "fuse.s3", "the mount")
    say("early", (_EARLY / "x").read_text())
    say(
        "early-warning", run("journalctl", "--no-pager", "-b", "-o", "cat", "-u", "mnt-early.mount")
    )


def credentials() -> None:
    """Keys from a program: not in the unit, which says what to do instead; and that works."""
    script, config = Path("/root/keys"), Path("/root/config")
    script.write_text(f"#!/bin/sh\necho '{os.environ['KEYS']}'\n")
    script.chmod(0o755)
    Path("/root").chmod(0o755)  # the program is the worker's to run
    config.write_text(f"[default]\ncredential_process = {script}\n")
    spec, options = os.environ["SPEC"], f"{os.environ['OPTIONS']},config_file={config}"
    words = ("mount", "-t", "s3", spec, _KEYS, "-o")
    refused = subprocess.run([*words, options], check=False, capture_output=True, text=True)
    say("keys-in-unit", refused.stderr)
    run(*words, f"{options},worker_user=fuse-s3")
    say("keys", (_KEYS / "x").read_text())
    say("keys-unit", workers()[worker_of(_KEYS)])
    run("umount", _KEYS)


def unconfined() -> None:
    """Without the worker's own sandbox, to look for what it is in the way of: the unit stays."""
    run(*keys_mount("sandbox=off"))
    say("unconfined", (_KEYS / "x").read_text())
    say("unconfined-unit", workers()[worker_of(_KEYS)])
    run("umount", _KEYS)


def cached() -> None:
    """Changes of files on disk: where the unit allows it, and where a drop-in does."""
    try_cache("cache", _CACHE)
    _SCRATCH.mkdir(parents=True)
    shutil.chown(_SCRATCH, "fuse-s3", "fuse-s3")
    refused = subprocess.run(
        keys_mount(*cached_in(_SCRATCH)), check=False, capture_output=True, text=True
    )
    say("scratch-refused", refused.stderr)
    _DROP_IN.parent.mkdir()
    shutil.copy("/etc/cache.conf", _DROP_IN)
    run("systemctl", "daemon-reload")
    try_cache("scratch", _SCRATCH)


def cached_in(cache: Path) -> tuple[str, str]:
    """Return the options for a cache directory in which what was closed stays for long."""
    return f"cache={cache}", "write_back=600"


def keys_mount(*options: str) -> list[str]:
    """Return the command that mounts the bucket's keys with these options, too."""
    words = ",".join([os.environ["OPTIONS"], *options])
    return ["mount", "-t", "s3", os.environ["SPEC"], str(_KEYS), "-o", words]


def try_cache(name: str, cache: Path) -> None:
    """Change a file in its midst, and let the worker die before that is stored by itself."""
    run(*keys_mount(*cached_in(cache)))
    file = _KEYS / name
    file.write_bytes(bytes(20 * _MIB))
    first = worker_of(_KEYS)
    with file.open("r+b", buffering=0) as opened:
        opened.seek(7 * _MIB)
        opened.write(b"changed")
        say(f"{name}-staged", [path.suffix for path in sorted(cache.glob("*/*.data"))])
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: worker_of(_KEYS) != first, "the next worker")
    say(f"{name}-unit", workers()[worker_of(_KEYS)])
    run("umount", _KEYS)


def lazily() -> None:
    """Detached while it is in use: the user's descriptor is good until it is closed."""
    run("systemctl", "start", "mnt-unit.mount")
    pid = worker_of(_UNIT)
    with (_UNIT / "lazy").open("wb", buffering=0) as file:
        file.write(b"before ")
        run("umount", "-l", _UNIT)
        say("lazy", type_at(_UNIT))
        file.write(b"after")
    wait_until(lambda: pid not in workers(), "the end of its worker")


def survive() -> None:
    """Readers of all kinds, while the worker is killed again and again."""
    times, chance, kills = int(os.environ["KILLS"]), random.Random(1), list[Pause]()
    with reading(_TREE) as readers:
        for _ in range(times):
            time.sleep(chance.uniform(0.0, 0.5))
            pid, began = worker_of(_TREE), time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: worker_of(_TREE) != pid, "the next worker")  # type: ignore[misc]
            kills.append(Pause(began, time.monotonic()))
        ended = [reader.end() for reader in readers]
    say("readers", ", ".join(last for _, last in ended))
    seen = [pause for pauses, _ in ended for pause in pauses]
    waited = [longest(seen, kill) for kill in kills]
    say("pauses", f"{times} kills: median {statistics.median(waited):.2f} s, {max(waited):.2f} s")


def longest(seen: list[Pause], kill: Pause) -> float:
    """Return how long one of them has waited for a successor."""
    there = [one for one in seen if one.began < kill.ended and one.ended > kill.began]
    return max((one.ended - max(one.began, kill.began) for one in there), default=0.0)


def hand_over() -> None:
    """On purpose, by a signal and on request: no unit has failed, and the next one goes on."""
    pid = worker_of(_TREE)
    with (_TREE / "handed").open("wb", buffering=0) as file:
        file.write(b"x" * _MIB)
        os.kill(pid, signal.SIGUSR1)
        file.write(b"y" * _MIB)
    wait_until(lambda: worker_of(_TREE) != pid, "the next worker")
    second = worker_of(_TREE)
    run("fuse-s3", "restart", _TREE)
    with (_TREE / "handed").open("ab") as file:
        file.write(b"z" * _MIB)
    wait_until(lambda: worker_of(_TREE) != second, "the one after it")
    say("handed-over", workers()[worker_of(_TREE)])


def journal() -> None:
    """Nothing of what systemd has to complain about."""
    text = run("journalctl", "--no-pager", "-b", "-o", "cat")
    bad = [line for line in text.splitlines() if "remains running" in line or "Failed to" in line]
    say("journal", [line for line in bad if "fuse" in line or "mnt" in line])


STEPS: list[Callable[[], None]] = [
    boot, ask, automount, units, lazily, early, credentials, cached,
    unconfined, survive, hand_over, journal,
]  # fmt: skip


def steps() -> None:
    """Take them all; what fails is said, and the rest goes on."""
    for step in STEPS:
        try:
            step()
        except BaseException as error:  # noqa: BLE001  the machine has no other way to tell
            say(f"failed-{step.__name__}", repr(error))
    say("end", "")
    say("user-service", run("systemctl", "is-active", "user.service"))
    run("systemctl", "--no-block", "poweroff")


# -- a service that is stopped at shutdown ---------------------------------------------------------


def service() -> None:
    """Write until told to end, and then some more; read what there is all the time."""
    # Blocked and asked for: a signal that arrives interrupts what waits, as everywhere.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    content, written, until = pattern(64 * 1024), 0, float("inf")
    (_MNT / "other").write_bytes(content)
    with (_MNT / "written").open("wb", buffering=0) as file:
        while time.monotonic() < until:
            written += file.write(content)
            list(_MNT.iterdir())
            if (_MNT / "other").read_bytes() != content:
                raise ValueError("wrong bytes")
            if signal.sigtimedwait({signal.SIGTERM}, 0):
                until = time.monotonic() + 1.5  # systemd unmounts, and stops workers, all along
            time.sleep(0.01)
        os.fsync(file.fileno())
        written += file.write(content)
    say("service-wrote", written)


if __name__ == "__main__":
    try:
        {"steps": steps, "service": service}[sys.argv[1]]()
    except BaseException as error:
        say(f"failed-{sys.argv[1]}", repr(error))
        raise
