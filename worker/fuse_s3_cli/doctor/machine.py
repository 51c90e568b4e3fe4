"""What a mount needs of this machine: kernel, device, helper, worker, user, places, units."""

import os
import platform
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from fuse_s3_cli.doctor.findings import Finding
from fuse_s3_cli.mounts import mounts, worker_of, workers
from fuse_s3_control.places import RUNTIME, is_own

__all__ = ["LOOKS", "Machine", "examine_machine"]

_HELPER_PLACES = "/sbin:/usr/sbin:/usr/local/sbin"

_OLDEST, _LANDLOCK = (5, 2), (5, 13)  # Linux: fsopen(2) and friends; Landlock
_USER = "fuse-s3"
_PATIENCE = 30.0  # seconds for a program
_SHEBANG = re.compile(rb"#!\S*python3(?:\.\d+)? -IS\s")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SUPERVISED = Path("/run/systemd/system")
_UNIT = "fuse-s3-worker.socket"


@dataclass
class Machine:
    """Where to look; a test has another place for each."""

    device: Path = Path("/dev/fuse")
    filesystems: Path = Path("/proc/filesystems")
    release: str = field(default_factory=platform.release)
    helper_places: str = _HELPER_PLACES
    user: str = _USER
    runtime: Path = RUNTIME
    supervised: Path = _SUPERVISED
    trusted: int = 0  # uid

    @property
    def helper(self) -> Path | None:
        """Where the helper is."""
        found = shutil.which("mount.s3", path=self.helper_places)
        return Path(found) if found else None


def examine_machine(machine: Machine, *only: str) -> Iterator[Finding]:
    """Look at everything, from below to above, or only at some of it (keys of LOOKS)."""
    for name, look in LOOKS.items():
        if not only or name in only:
            yield from look(machine)


def _kernel(machine: Machine) -> Iterator[Finding]:
    numbers = re.match(r"(\d+)\.(\d+)", machine.release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < _OLDEST:
        text = f"Linux {machine.release} is older than {_OLDEST[0]}.{_OLDEST[1]}"
        yield Finding.failed("kernel", text, "install a newer kernel")
    elif version < _LANDLOCK:
        text = f"Linux {machine.release} has no Landlock: workers may look at all files"
        yield Finding.warning("kernel", text, "Linux 5.13 or newer confines them better")
    else:
        yield Finding.ok("kernel", f"Linux {machine.release}")


def _fuse(machine: Machine) -> Iterator[Finding]:
    known = machine.filesystems.read_text().split()
    if "fuse" not in known:
        yield Finding.failed("fuse", "the kernel does not know FUSE", "modprobe fuse")
        return
    try:
        mode = machine.device.stat().st_mode
    except OSError as error:
        advice = "modprobe fuse; in a container: give it --device /dev/fuse"
        yield Finding.failed("fuse", f"{machine.device}: {error.strerror}", advice)
        return
    if not stat.S_ISCHR(mode):
        advice = f"rm {machine.device}; mknod -m 666 {machine.device} c 10 229"
        yield Finding.failed("fuse", f"{machine.device} is no device", advice)
        return
    try:
        os.close(os.open(machine.device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = "run this as root; in a container: allow the device 10:229"
        yield Finding.failed("fuse", f"{machine.device}: {error.strerror}", advice)
        return
    yield Finding.ok("fuse", f"{machine.device} can be opened")


def _helper(machine: Machine) -> Iterator[Finding]:
    helper = machine.helper
    if helper is None:
        yield Finding.failed("helper", "mount.s3 is not installed", "make install")
        return
    yield from _helper_is_isolated(machine, helper)
    name = "mount.fuse.s3"
    if not helper.with_name(name).exists():
        text = f"{helper.with_name(name)} is missing: mount -t fuse.s3 does not find us"
        yield Finding.warning("helper_link", text, f"ln -s mount.s3 {helper.with_name(name)}")


def _helper_is_isolated(machine: Machine, helper: Path) -> Iterator[Finding]:
    """See that nobody but root can change what root runs."""
    real = helper.resolve()
    for path in (real, *real.parents):
        status = path.stat()
        others = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
        if status.st_uid != machine.trusted or others:
            text = f"others than root may change {path}, and so what root runs"
            yield Finding.failed("helper", text, f"chown root {path}; chmod go-w {path}")
            return
    if real.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
        text = f"{real} is setuid or setgid, which it must not be"
        yield Finding.failed("helper", text, f"chmod u-s,g-s {real}")
        return
    with real.open("rb") as file:
        if not _SHEBANG.match(file.read(256)):
            text = f"{real} does not run isolated (python3 -IS): PYTHONPATH would count"
            yield Finding.failed("helper", text, "make install")
            return
    yield Finding.ok("helper", f"{helper}: root's alone, and isolated")


def _versions(machine: Machine) -> Iterator[Finding]:
    """See that helper and worker run, and are of one release."""
    helper = machine.helper
    if helper is None:
        yield Finding.skipped("worker", "there is no helper to start one")
        return
    said = _run(str(helper), "--version")
    ours = f"mount.s3 {metadata.version('fuse-s3')}"
    if said.strip() != ours:
        text = f"the helper says '{said.strip()[:80]}', this command is of '{ours}'"
        yield Finding.failed("release", text, "make install")
    else:
        yield Finding.ok("release", ours)
    said = _run(str(helper), "--help")
    if "endpoint_url" in said:
        yield Finding.ok("worker", "the worker can be started")
    else:
        last = said.strip().rpartition("\n")[2][:200]
        yield Finding.failed("worker", f"the worker cannot be started: {last}", "make install")


def _run(*command: str) -> str:
    """Return what a program says, whatever that is."""
    try:
        done = subprocess.run(  # noqa: S603  what is installed here
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def _user(machine: Machine) -> Iterator[Finding]:
    try:
        account = pwd.getpwnam(machine.user)
    except KeyError:
        text = f"there is no user {machine.user}: workers run as nobody, as other programs do"
        yield Finding.warning("user", text, "systemd-sysusers, or make install")
        return
    if account.pw_uid == 0 or account.pw_gid == 0:
        text = f"{machine.user} is root by another name: no worker will run as it"
        yield Finding.failed("user", text, f"userdel {machine.user}; make install")
        return
    yield Finding.ok("user", f"{machine.user} has uid {account.pw_uid}")


def _runtime(machine: Machine) -> Iterator[Finding]:
    """See that workers can make control sockets."""
    path = machine.runtime
    try:
        uid = pwd.getpwnam(machine.user).pw_uid
    except KeyError:
        return
    advice = f"install -d -m 755 {path.parent}; "
    advice += f"install -d -o {machine.user} -g {machine.user} -m 755 {path}, or make install"
    try:
        status = path.stat(follow_symlinks=False)
    except OSError as error:
        text = f"{path}: {error.strerror}: fuse-s3 status and its like will not find new mounts"
        yield Finding.warning("control", text, advice)
        return
    if not is_own(status, uid):
        text = f"{path} is not a directory of {machine.user}'s alone"
        yield Finding.failed("control", text, f"rm -r {path}; {advice}")
        return
    yield Finding.ok("control", f"{path} takes control sockets")


def _units(machine: Machine) -> Iterator[Finding]:
    if not machine.supervised.is_dir():
        yield Finding.skipped("units", "systemd does not run here")
        return
    said = _run("systemctl", "is-active", _UNIT).strip()
    if said == "active":
        yield Finding.ok("units", f"{_UNIT} is active")
        return
    loaded = _run("systemctl", "show", "-P", "LoadState", _UNIT).strip()
    if loaded == "loaded":
        yield Finding.warning("units", f"{_UNIT} is {said}", f"systemctl enable --now {_UNIT}")
    else:
        yield Finding.skipped("units", f"there is no {_UNIT}: workers are the helper's children")


def _mounts(_: Machine) -> Iterator[Finding]:
    there = [*workers()]
    found = [*mounts()]
    for mounted in found:
        if worker_of(mounted, there) is None:
            text = f"nobody answers for {mounted.directory}"
            advice = f"if it hangs or gives ENOTCONN: umount -l {mounted.directory}, and mount it"
            yield Finding.warning("mounts", text, advice)
    yield Finding.ok("mounts", f"{len(found)} mounted, {len(there)} workers answer")


LOOKS: dict[str, Callable[[Machine], Iterator[Finding]]] = {
    "kernel": _kernel,
    "fuse": _fuse,
    "helper": _helper,
    "worker": _versions,
    "user": _user,
    "control": _runtime,
    "units": _units,
    "mounts": _mounts,
}
