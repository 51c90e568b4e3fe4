"""`fuse-s3 install --root DIR`: an image gets what this system has, nothing leaves the image."""

import filecmp
import os
import stat
import sys
from pathlib import Path

import pytest

from support.mounts import run

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

COMMAND = "/usr/bin/fuse-s3"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
UNITS = "usr/lib/systemd/system"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image as distributions make them: /sbin and /lib are links, one of them absolute."""
    root = tmp_path / "image"
    for directory in ("usr/bin", "usr/sbin", "usr/lib"):
        (root / directory).mkdir(parents=True)
    (root / "sbin").symlink_to("usr/sbin")
    (root / "lib").symlink_to("/usr/lib")
    (root / "usr/bin" / PYTHON).touch()
    return root


def test_an_image_gets_all_there_is(image: Path) -> None:
    done = run(COMMAND, "install", "--root", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"systemd-sysusers --root={image}" in done.stdout
    listed = Path("/usr/lib/fuse-s3/files").read_text().splitlines()
    assert "/sbin/mount.s3" in listed
    for line in listed:
        here, there = Path(line), image / line.lstrip("/")
        assert there.is_symlink() == here.is_symlink(), line
        assert here.is_symlink() or here.lstat().st_mode == there.lstat().st_mode, line
        assert (there.lstat().st_uid, there.lstat().st_gid) == (0, 0)
    site = "usr/lib/fuse-s3/site"
    compared = filecmp.dircmp(f"/{site}", image / site, ignore=["__pycache__", "tests.stamp"])
    assert compared.left_only + compared.right_only + compared.diff_files == []
    assert (image / "usr/sbin/mount.s3").read_bytes() == Path("/sbin/mount.s3").read_bytes()
    assert (image / "usr/sbin/mount.fuse.s3").readlink() == Path("mount.s3")
    wanted = image / UNITS / "sockets.target.wants/fuse-s3-worker.socket"
    assert wanted.exists()
    assert "u fuse-s3" in (image / "usr/lib/sysusers.d/fuse-s3.conf").read_text()
    assert run(image / "usr/sbin/mount.s3", "--version").stdout.startswith("mount.s3 ")


def test_again_it_replaces_what_is_there(image: Path) -> None:
    helper = image / "usr/sbin/mount.s3"
    helper.write_text("an older one")
    for _ in range(2):
        assert run(COMMAND, "install", "--root", image).returncode == 0
    assert helper.read_bytes() == Path("/sbin/mount.s3").read_bytes()
    assert stat.S_IMODE(helper.stat().st_mode) == 0o755
    assert [path.name for path in helper.parent.iterdir() if path.name.startswith(".")] == []


def test_no_link_of_an_image_leads_out_of_it(image: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (image / "usr/sbin").rmdir()
    (image / "usr/sbin").symlink_to(os.path.relpath(outside, image / "usr"))
    done = run(COMMAND, "install", "--root", image)
    assert done.returncode == 1
    assert "leads out of" in done.stderr
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("root", "complaint"),
    [
        ("/", "it is installed here already"),
        ("/nonexistent", "is no directory"),
        ("/etc/passwd", "is no directory"),
    ],
)
def test_what_is_no_image(root: str, complaint: str) -> None:
    done = run(COMMAND, "install", "--root", root)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_image_with_another_python(image: Path) -> None:
    (image / "usr/bin" / PYTHON).unlink()
    done = run(COMMAND, "install", "--root", image)
    assert done.returncode == 1
    assert f"has no /usr/bin/{PYTHON}" in done.stderr
    assert not (image / "usr/lib/fuse-s3").exists()


def test_only_root_installs(image: Path) -> None:
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", COMMAND,
               "install", "--root", image)  # fmt: skip
    assert done.returncode == 1
    assert "only root" in done.stderr


def test_a_tree_that_is_not_installed_has_nothing_to_give(image: Path) -> None:
    done = run(sys.executable, "-c",
               "import sys; from fuse_s3_cli.install import run; sys.exit(run(sys.argv[1:]))",
               "--root", image)  # fmt: skip
    assert done.returncode == 1
    assert "make install first" in done.stderr
