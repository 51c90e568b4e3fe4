"""A disk with Debian, the product, and its policy module: what the machine of the tests boots.

Debian's part takes a minute and the network, and is kept as long as its list of packages stays.
Everything else is laid into a copy of it each time.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from support.process import ROOT
from support.s3 import Keys

__all__ = ["BUILD", "SUITE", "Disk", "make_disk"]

BUILD = ROOT / "build/vm"
SUITE = "bookworm"  # its Python is the one that the worker's packages are built for
_PACKAGES = (
    "systemd-sysv udev dbus python3 mount util-linux kmod iproute2 procps netbase ca-certificates "
    "selinux-policy-default selinux-utils policycoreutils initramfs-tools linux-image-cloud-amd64 "
    "zstd"
)
# A later kernel beside it, which has all that a worker can be confined with, and outlived by.
_LATER_KERNEL = (
    'echo "$(head -n 1 "$1/etc/apt/sources.list" | sed "s/ bookworm / bookworm-backports /")" '
    '>>"$1/etc/apt/sources.list" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" '
    "&& apt-get update -q "
    "&& apt-get install -q -y --download-only -t bookworm-backports linux-image-cloud-amd64 "
    '&& chroot "$1" '
    "sh -c 'dpkg --install /var/cache/apt/archives/linux-image-*.deb'"
)
_DISK_SIZE = "1800M"
_MODULE = ROOT / "build/selinux/fuse_s3.pp"

_UNIT = """\
[Unit]
Description=The test of fuse-s3
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/fuse-s3-test/guest.py
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
ExecStopPost=/usr/bin/systemctl --no-block poweroff

[Install]
WantedBy=default.target
"""

_SELINUX = "SELINUX=enforcing\nSELINUXTYPE=default\n"


class Disk(NamedTuple):
    """What QEMU needs; the kernels are sorted, the oldest first."""

    image: Path
    kernels: list[Path]

    def initrd(self, kernel: Path) -> Path:
        """Return what a kernel starts with."""
        return kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img", 1))


def make_disk(fstab: str, keys: Keys) -> Disk:
    """Make a disk whose fstab has these lines; `guest.py` runs on it, and then it powers off."""
    base = _debian()
    root = BUILD / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("cp", "-a", str(base), str(root))
    _install(root)
    (root / "etc/fstab").write_text(f"/dev/vda / ext4 defaults 0 1\n{fstab}")
    passwd = root / "etc/passwd-s3fs"
    passwd.write_text(f"{keys.access}:{keys.secret}\n")
    passwd.chmod(0o600)
    for name in ("bucket", "web"):
        (root / "mnt" / name).mkdir()
    (root / "etc/selinux/config").write_text(_SELINUX)
    test = root / "opt/fuse-s3-test"
    test.mkdir(parents=True)
    for name in ("guest.py", "hostile.py"):
        shutil.copy(ROOT / "tests/system/vm" / name, test)
        (test / name).chmod(0o755)
    unit = root / "etc/systemd/system/fuse-s3-test.service"
    unit.write_text(_UNIT)
    run("systemctl", "--root", str(root), "enable", "--quiet", unit.name)
    _label(root)
    image = BUILD / "disk.img"
    image.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), _DISK_SIZE)
    kernels = sorted((root / "boot").glob("vmlinuz-*"), key=_version)
    return Disk(image, kernels)


def _version(kernel: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", kernel.name)]


def _debian() -> Path:
    """Return Debian as mmdebstrap makes it, with a kernel and a policy."""
    digest = hashlib.sha256(f"{SUITE} {_PACKAGES} {_LATER_KERNEL}".encode()).hexdigest()[:16]
    base = BUILD / f"debian-{digest}"
    if not base.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = base.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        run(
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"),
            f"--include={','.join(_PACKAGES.split())}",
            '--aptopt=APT::Install-Recommends "false"',
            f"--customize-hook={_LATER_KERNEL}",
            *(SUITE, str(fresh)),
        )
        fresh.rename(base)
    return base


def _install(root: Path) -> None:
    run("make", "-C", str(ROOT), "install", f"DESTDIR={root}")
    run("chroot", str(root), "systemd-sysusers")
    run("make", "-C", str(ROOT / "selinux"))
    shutil.copy(_MODULE, root / "tmp")
    # The rules that say what must never be allowed are looked at only when that is asked for.
    semanage = root / "etc/selinux/semanage.conf"
    semanage.write_text(semanage.read_text() + "\nexpand-check = 1\n")
    run("chroot", str(root), "semodule", "-n", "-i", f"/tmp/{_MODULE.name}")
    (root / "tmp" / _MODULE.name).unlink()


def _label(root: Path) -> None:
    """Label every file: that works without SELinux as well, and nothing is left for the boot."""
    (root / ".autorelabel").unlink(missing_ok=True)
    contexts = "/etc/selinux/default/contexts/files/file_contexts"
    script = 'mount -t proc proc "$1/proc" && exec chroot "$1" setfiles -F "$2" /'
    run("unshare", "--mount", "sh", "-c", script, "sh", str(root), contexts)


def run(*command: str) -> None:
    """Run a program; raise with what it said when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        raise RuntimeError(f"{' '.join(command)}:\n{said[-2000:]}")
