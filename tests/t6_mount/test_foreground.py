"""`fuse-s3 mount --foreground`: for terminals and containers, ended by signals."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import clean_environment, entries_at, run, workers
from support.process import wait_until
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]


class Foreground:
    """The command, running, and what it has written to the terminal so far."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self.path = path
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text += line

    def wait_for(self, word: str) -> None:
        wait_until(lambda: word in self.text, f"{word!r} on the terminal")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for the end; return the exit status."""
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired as error:
            error.add_note(self.text)
            raise
        self._reader.join()
        return status


@contextlib.contextmanager
def foreground(bucket: Bucket, path: Path, options: str = "") -> Iterator[Foreground]:
    path.mkdir()
    endpoint = f"endpoint_url={bucket.store.endpoint}"
    with subprocess.Popen(
        ["fuse-s3", "mount", "--foreground", bucket.name, path, "-o", f"{endpoint}{options}"],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(bucket.store),
    ) as process:
        running = Foreground(process, path)
        try:
            yield running
        finally:
            if entries_at(path):
                run("umount", "-l", path)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            running.status()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_unmounts(bucket: Bucket, tmp_path: Path, number: signal.Signals) -> None:
    before = workers()
    with foreground(bucket, tmp_path / "mnt") as mount:
        mount.wait_for("mounted")
        (mount.path / "x").write_bytes(b"1")
        assert bucket.get("x") == b"1"
        mount.signal(number)
        assert mount.status() == 0
        assert not entries_at(mount.path)
        assert "unmounted" in mount.text
        # The pipe's end is the worker's end: it does not outlive the command.
        assert workers() == before


def test_umount_ends_it(bucket: Bucket, tmp_path: Path) -> None:
    with foreground(bucket, tmp_path / "mnt") as mount:
        mount.wait_for("mounted")
        assert run("umount", mount.path).returncode == 0
        assert mount.status() == 0


def test_busy_mount_stays_until_it_is_free(bucket: Bucket, tmp_path: Path) -> None:
    with foreground(bucket, tmp_path / "mnt") as mount:
        mount.wait_for("mounted")
        with (mount.path / "x").open("wb") as file:
            file.write(b"1")
            mount.signal(signal.SIGTERM)
            mount.wait_for("target is busy")
            assert entries_at(mount.path)
            assert mount.process.poll() is None
        assert bucket.get("x") == b"1"
        mount.signal(signal.SIGTERM)
        assert mount.status() == 0
        assert not entries_at(mount.path)


def test_third_signal_detaches_a_busy_mount(bucket: Bucket, tmp_path: Path) -> None:
    with foreground(bucket, tmp_path / "mnt") as mount:
        mount.wait_for("mounted")
        with (mount.path / "x").open("wb") as file:
            mount.signal(signal.SIGINT)
            wait_until(lambda: mount.text.count("busy") == 1, "the first refusal")
            mount.signal(signal.SIGINT)
            wait_until(lambda: mount.text.count("busy") == 2, "the second refusal")
            mount.signal(signal.SIGINT)
            wait_until(lambda: not entries_at(mount.path), "the lazy unmount")
            # Out of sight, but not broken off: what is open can be finished.
            file.write(b"1")
            assert mount.process.poll() is None
        assert mount.status() == 0
        assert bucket.get("x") == b"1"


def test_log_goes_to_the_terminal(bucket: Bucket, tmp_path: Path) -> None:
    with foreground(bucket, tmp_path / "mnt", ",log_level=debug") as mount:
        mount.wait_for("DEBUG fuse-s3[")
        mount.wait_for(f"mounted spec={bucket.name}")
        mount.signal(signal.SIGINT)
        assert mount.status() == 0


def test_refusal_ends_it(bucket: Bucket, tmp_path: Path) -> None:
    with foreground(bucket, tmp_path / "mnt", ",part_size=1") as mount:
        assert mount.status() == 32
        assert "part_size=1" in mount.text
        assert not entries_at(mount.path)


def test_unknown_command() -> None:
    done = run("fuse-s3", "mout")
    assert done.returncode == 1
    assert done.stderr == "fuse-s3: unknown command 'mout': see fuse-s3 --help\n"
    assert "usage: fuse-s3" in run("fuse-s3", "--help").stdout
    assert run("fuse-s3", "--version").stdout.startswith("fuse-s3 ")
