"""Install, or uninstall: the worker's environment, the mount helpers, and the system user.

    PREFIX/lib/fuse-s3/site     the worker and the packages it needs, owned by root
    PREFIX/lib/fuse-s3/bin      the launchers of worker and keeper
    PREFIX/lib/fuse-s3/files    a list of all this, for fuse-s3 install --root
    PREFIX/bin/fuse-s3          the command
    SBINDIR/mount.s3            the helper, and mount.fuse.s3, a link to it
    PREFIX/lib/sysusers.d       the system user that workers run as
    PREFIX/lib/tmpfiles.d       the directories of their control sockets and caches, at each boot
    PREFIX/lib/systemd/system   the units that start workers, and a link that has them started
    PREFIX/share/man            the manual pages

With DESTDIR everything goes below it and no user is made: for packages and images.
"""

import argparse
import grp
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from build_helper import build, version
from manpage import SOURCES, write_pages

ROOT = Path(__file__).resolve().parent.parent
USER = "fuse-s3"
RUNTIME = Path("/run/fuse-s3/control")
CACHE = Path("/var/cache/fuse-s3")
HELPERS = ("mount.s3", "mount.fuse.s3")
UNITS = ("fuse-s3-worker.socket", "fuse-s3-worker@.service")

LAUNCHER = '''\
#!/usr/bin/python3 -IS
"""Starts {module} with the packages beside it and no others."""
import sys

if sys.version_info[:2] != {python}:
    sys.exit("fuse-s3 was installed for Python {dotted}, this is "
             f"{{sys.version_info[0]}}.{{sys.version_info[1]}}: run make install again")
sys.path.insert(0, {site!r})
from {module} import main

sys.exit(main())
'''


class Layout:
    """Where things go: final paths, and the same below DESTDIR."""

    def __init__(self, prefix: str, sbindir: str, destdir: str) -> None:
        self.destdir = destdir
        self.home = f"{prefix}/lib/fuse-s3"
        self.site = f"{self.home}/site"
        self.worker = f"{self.home}/bin/fuse-s3-worker"
        self.keeper = f"{self.home}/bin/fuse-s3-keeper"
        self.command = f"{prefix}/bin/fuse-s3"
        self.sysusers = f"{prefix}/lib/sysusers.d/fuse-s3.conf"
        self.tmpfiles = f"{prefix}/lib/tmpfiles.d/fuse-s3.conf"
        units = f"{prefix}/lib/systemd/system"
        self.units = [f"{units}/{name}" for name in UNITS]
        self.wanted = f"{units}/sockets.target.wants/{UNITS[0]}"
        self.pages = [
            f"{prefix}/share/man/man{page.stem[-1]}/{page.stem}"
            for page in sorted(SOURCES.glob("*.md"))
        ]
        self.helpers = [f"{sbindir}/{name}" for name in HELPERS]
        self.files = f"{self.home}/files"

    @property
    def all(self) -> list[str]:
        """All that is installed, for `fuse-s3 install --root`; the helpers last, as here."""
        return [
            *(self.home, self.command, self.sysusers, self.tmpfiles),
            *(*self.units, self.wanted, *self.pages, *self.helpers),
        ]

    def staged(self, path: str) -> Path:
        """Return where `path` is to be written now."""
        return Path(self.destdir + path)


def install(layout: Layout) -> None:
    """Put everything in its place, the helper last: it must find the rest."""
    os.umask(0o022)
    site = layout.staged(layout.site)
    fresh = site.with_name("site.new")
    shutil.rmtree(fresh, ignore_errors=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
            *("--root-user-action", "ignore", "--no-warn-script-location"),
            *("-c", str(ROOT / "constraints.txt"), "--no-build-isolation"),
            *("--target", str(fresh), str(ROOT)),
        ],
        check=True,
    )
    shutil.rmtree(fresh / "bin", ignore_errors=True)  # console scripts: the launchers are ours
    shutil.rmtree(site, ignore_errors=True)
    fresh.replace(site)
    write_launcher(layout, layout.worker, "fuse_s3_worker.main")
    write_launcher(layout, layout.keeper, "fuse_s3_worker.survival.keeper")
    write_launcher(layout, layout.command, "fuse_s3_cli.main")
    put(layout.staged(layout.sysusers), (ROOT / "systemd/fuse-s3.sysusers").read_text(), 0o644)
    put(layout.staged(layout.tmpfiles), (ROOT / "systemd/fuse-s3.tmpfiles").read_text(), 0o644)
    write_units(layout)
    pages = write_pages(ROOT / "build/man", version())
    for path, page in zip(layout.pages, pages, strict=True):
        put(layout.staged(path), page.read_text(), 0o644)
    if not layout.destdir:
        make_user()
        make_runtime()
        make_cache()
    put(layout.staged(layout.files), "".join(f"{path}\n" for path in layout.all), 0o644)
    first, *others = layout.helpers
    build(layout.staged(first), layout.worker, layout.keeper)
    for path in others:
        link(layout.staged(path), Path(first).name)
    print(f"fuse-s3 {version()} is installed: mount -t s3 BUCKET DIRECTORY")
    if not layout.destdir and Path("/run/systemd/system").is_dir():
        print(f"for systemd to start workers: systemctl daemon-reload; systemctl start {UNITS[0]}")


def write_launcher(layout: Layout, path: str, module: str) -> None:
    """Write an executable that runs `module` with the installed packages."""
    python = sys.version_info[:2]
    text = LAUNCHER.format(
        module=module, python=tuple(python), dotted=sysconfig.get_python_version(), site=layout.site
    )
    put(layout.staged(path), text, 0o755)


def write_units(layout: Layout) -> None:
    """Write the units; the socket is there from the next boot on, without being enabled."""
    for path in layout.units:
        text = (ROOT / "systemd" / Path(path).name).read_text()
        put(layout.staged(path), text.replace("/usr/lib/fuse-s3", layout.home), 0o644)
    link(layout.staged(layout.wanted), f"../{UNITS[0]}")


def link(path: Path, target: str) -> None:
    """Make a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def put(path: Path, text: str, mode: int) -> None:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make_user() -> None:
    """Make the system user, unless it exists."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir",
             "/nonexistent", "--shell", "/usr/sbin/nologin", "--comment",
             "serves mounted buckets", USER],
            check=True,
        )  # fmt: skip


def make_runtime(path: Path = RUNTIME) -> None:
    """Make the directory of the control sockets, as tmpfiles.d does from the next boot on."""
    account = pwd.getpwnam(USER)
    for directory in (path.parent, path):
        directory.mkdir(mode=0o755, exist_ok=True)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def make_cache(path: Path = CACHE) -> None:
    """Make a directory for `cache=`, as tmpfiles.d does; what is there stays as it is."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    account = pwd.getpwnam(USER)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def remove_cache(path: Path = CACHE) -> None:
    """Remove it, unless there is something in it that was never stored."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        print(f"{path} stays: there is something in it, see fuse-s3 staged")


def uninstall(layout: Layout) -> None:
    """Take away what `install` put, the helper first; mounts that exist go on."""
    for helper in layout.helpers:
        layout.staged(helper).unlink(missing_ok=True)
    for path in (
        layout.command,
        layout.sysusers,
        layout.tmpfiles,
        layout.wanted,
        *layout.units,
        *layout.pages,
    ):
        layout.staged(path).unlink(missing_ok=True)
    shutil.rmtree(layout.staged(layout.home), ignore_errors=True)
    if not layout.destdir:
        if not remove_user():
            return
        shutil.rmtree(RUNTIME, ignore_errors=True)
        remove_cache()


def remove_user() -> bool:
    """Remove the system user unless workers still run as it; tell whether none do."""
    try:
        uid = pwd.getpwnam(USER).pw_uid
    except KeyError:
        return True
    if any(runs_as(path, uid) for path in Path("/proc").glob("[0-9]*")):
        print(f"user {USER} stays: workers still run")
        return False
    subprocess.run(["userdel", USER], check=True)
    try:
        grp.getgrnam(USER)
    except KeyError:
        return True
    subprocess.run(["groupdel", USER], check=True)
    return True


def runs_as(process: Path, uid: int) -> bool:
    """Tell whether a process of `uid` runs; one that ended and was not reaped yet does not."""
    try:
        return (
            process.stat().st_uid == uid and "\nState:\tZ" not in (process / "status").read_text()
        )
    except OSError:
        return False


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("install", "uninstall", "runtime"))
    parser.add_argument("--prefix", default="/usr")
    parser.add_argument("--sbindir", default="/sbin")
    parser.add_argument("--destdir", default="")
    arguments = parser.parse_args()
    layout = Layout(arguments.prefix, arguments.sbindir, arguments.destdir)
    if not arguments.destdir and os.geteuid() != 0:
        print("installing into the system needs root; DESTDIR= stages it elsewhere")
        return 1
    if arguments.action == "runtime":
        make_runtime()
    else:
        {"install": install, "uninstall": uninstall}[arguments.action](layout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
