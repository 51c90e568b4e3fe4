"""What happens on the machine: mounts under an enforcing policy, then attacks. Runs as root there.

Each line of its output that begins with `@` is a finding, `@name text`, for test_selinux.py.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_WORKER = Path("/usr/lib/fuse-s3/bin/fuse-s3-worker")
_KEEPER = Path("/usr/lib/fuse-s3/bin/fuse-s3-keeper")
_CACHE = Path("/var/cache/fuse-s3")
_MNT, _WEB = Path("/mnt/bucket"), Path("/mnt/web")


def main() -> None:
    """Do one thing after the other; what fails is said, and the rest goes on."""
    Path("/proc/sys/kernel/printk_ratelimit").write_text("0")  # every denial shall be seen
    for step in (network, enforcing, labels, fstab, use, context, kept, strictly, denials, attacks):
        try:
            step()
        except Exception as error:  # noqa: BLE001  the machine has no other way to tell
            say(f"failed-{step.__name__}", repr(error))
    say("end", "")


def say(name: str, text: object) -> None:
    """Report a finding in one line."""
    print(f"@{name} {' '.join(str(text).split())}", flush=True)


def run(*command: str, ok: bool = True) -> str:
    """Run a program; return all it said."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    text = done.stdout + done.stderr
    if ok and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {text}")
    return text


def network() -> None:
    """What QEMU's user network has for its guest."""
    (device,) = (path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "replace", "10.0.2.15/24", "dev", device)
    run("ip", "link", "set", device, "up")
    run("ip", "route", "replace", "default", "via", "10.0.2.2")


def enforcing() -> None:
    """How strict the kernel is, and which one it is."""
    say("enforce", Path("/sys/fs/selinux/enforce").read_text())
    say("kernel", os.uname().release)
    say("modules", run("semodule", "-l").split().count("fuse_s3"))


def labels() -> None:
    """Types of what was installed."""
    for path in ("/usr/sbin/mount.s3", str(_WORKER)):
        say(f"label {path}", os.getxattr(path, "security.selinux").decode().rstrip("\0"))


def processes(program: Path) -> list[int]:
    """Return the process ids of a program."""
    tables = Path("/proc").glob("[0-9]*/cmdline")
    return [int(path.parent.name) for path in tables if bytes(program) in path.read_bytes()]


def worker() -> int:
    """Return the process id of the one worker."""
    (pid,) = processes(_WORKER)
    return pid


def fstab() -> None:
    """As at boot: the service manager starts mount(8)."""
    run("systemctl", "start", "mnt-bucket.mount")
    pid = worker()
    say("domain", Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0"))
    status = Path(f"/proc/{pid}/status").read_text().split("\n")
    say("seccomp", next(line for line in status if line.startswith("Seccomp:")))


def use() -> None:
    """Read, write, list, append, rename by copying, remove."""
    say("read", (_MNT / "theirs").read_text())
    (_MNT / "d").mkdir()
    (_MNT / "d/mine").write_text("written under SELinux")
    with (_MNT / "large").open("wb") as file:
        for _ in range(12):
            file.write(os.urandom(1 << 20))
    with (_MNT / "d/mine").open("a") as file:
        file.write(", and appended")
    say("names", sorted(path.name for path in _MNT.iterdir()))
    say("content", (_MNT / "d/mine").read_text())
    say("type", os.getxattr(_MNT / "theirs", "security.selinux").decode().rstrip("\0"))
    with (_MNT / "large").open("r+b", buffering=0) as file:
        file.seek(5 << 20)
        file.write(b"changed")
        (staged,) = _CACHE.glob("*/*.data")
        say("staged", os.getxattr(staged, "security.selinux").decode().rstrip("\0"))
    with (_MNT / "large").open("rb") as file:
        file.seek((5 << 20) - 1)
        say("changed", file.read(9)[1:-1].decode())
    (_MNT / "large").unlink()
    say("status-systemd", run("fuse-s3", "status", str(_MNT)))
    outlive("systemd")
    run("systemctl", "stop", "mnt-bucket.mount")
    say("unmounted", not os.path.ismount(_MNT))


def outlive(keeper: str) -> None:
    """Kill the worker, and have its successor hand over, where the kernel can ask again."""
    if [int(number) for number in os.uname().release.split(".")[:2]] < [6, 9]:
        return
    before = worker()
    os.kill(before, signal.SIGKILL)
    (_MNT / "outlived").write_text("by its successor")
    say(f"killed-{keeper}", f"{(_MNT / 'outlived').read_text()} {worker() != before}")
    run("fuse-s3", "restart", str(_MNT))
    (_MNT / "outlived").write_text("by the next one")
    say(f"restarted-{keeper}", (_MNT / "outlived").read_text())


def context() -> None:
    """A label of the administrator's choice, as web servers need it."""
    run("mount", str(_WEB))
    say("context", os.getxattr(_WEB / "theirs", "security.selinux").decode().rstrip("\0"))
    (_WEB / "page").write_text("1")
    say("page", (_WEB / "page").read_text())
    run("umount", str(_WEB))
    _wait_for_end()


def kept() -> None:
    """Without systemd's socket it is the keeper that starts a worker; and what an owner asks it."""
    run("systemctl", "stop", "fuse-s3-worker.socket")
    try:
        run("mount", str(_MNT))
        (keeper,) = processes(_KEEPER)
        say("keeper", Path(f"/proc/{keeper}/attr/current").read_text().rstrip("\0"))
        say("kept", Path(f"/proc/{worker()}/attr/current").read_text().rstrip("\0"))
        (_MNT / "kept").write_text("by the keeper's worker")
        say("stored", (_MNT / "kept").read_text())
        say("status-keeper", run("fuse-s3", "status", str(_MNT)))
        outlive("keeper")
        run("umount", str(_MNT))
        _wait_for_end()
    finally:
        run("systemctl", "start", "fuse-s3-worker.socket")


def strictly() -> None:
    """Whatever this kernel lacks is said."""
    say("strict", run("mount", str(_MNT), "-o", "sandbox=strict", ok=False) or "mounted")
    run("umount", str(_MNT), ok=False)


def _wait_for_end() -> None:
    _wait(lambda: not processes(_WORKER), "the end of the worker")


def _wait(condition: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError(f"waited for {what}")


def denials() -> None:
    """What was refused so far, to anybody who has to do with us."""
    for line in _denied():
        say("denied", line)


def _denied() -> list[str]:
    lines = run("dmesg").splitlines()
    return [line for line in lines if "avc:  denied" in line and "fuse_s3" in line]


def attacks() -> None:
    """A hostile worker, and the same program where no policy is about it."""
    user = ("setpriv", "--reuid", "fuse-s3", "--regid", "fuse-s3", "--clear-groups")
    enforce = Path("/sys/fs/selinux/enforce")
    enforce.write_text("0")
    say("free", run(*user, "/opt/fuse-s3-test/hostile.py"))
    enforce.write_text("1")
    keep = _WORKER.with_suffix(".kept")
    _WORKER.rename(keep)
    try:
        shutil.copy("/opt/fuse-s3-test/hostile.py", _WORKER)
        run("restorecon", str(_WORKER))
        say("confined", run("mount", str(_MNT), ok=False))
    finally:
        _WORKER.unlink()
        keep.rename(_WORKER)
    say("noticed", len(_denied()))


main()
