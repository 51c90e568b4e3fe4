"""The socket where systemd starts workers: only root's own counts, and every other is said so."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_helper import worker as module
from fuse_s3_helper.worker import activated_worker
from fuse_s3_shared import limits
from fuse_s3_shared.fdpass import send_packet
from fuse_s3_shared.handoff import Hello, Refuse, encode
from fuse_s3_shared.limits import PROTOCOL_VERSION
from support.isolation import in_child, needs_root, open_descriptors

NOBODY = 65534
HELLO = encode(Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "worker"))


@pytest.fixture
def run(public: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /run/fuse-s3."""
    directory = public / "run"
    directory.mkdir(mode=0o755)
    monkeypatch.setattr(module, "_RUN", str(directory))
    monkeypatch.setattr(module, "_SOCKET", str(directory / "worker.sock"))
    return directory


@pytest.fixture
def listener(run: Path) -> Iterator[socket.socket]:
    """Whoever listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(run / "worker.sock"))
        (run / "worker.sock").chmod(0o600)
        sock.listen()
        yield sock


def answering(listener: socket.socket, packet: bytes) -> threading.Thread:
    """Answer one connection with this packet, and close it when the other end is closed."""

    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            if packet:
                send_packet(sock, packet)
                sock.recv(1)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


@needs_root
def test_a_worker_that_says_hello(listener: socket.socket) -> None:
    before = open_descriptors()
    thread = answering(listener, HELLO)
    worker = activated_worker()
    assert worker is not None
    assert worker.seconds_left > limits.ACTIVATION_DEADLINE  # that was for the first word only
    worker.stop()
    thread.join()
    assert open_descriptors() == before


def test_no_socket_is_not_worth_a_word(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert activated_worker() is None
    run.rmdir()
    assert activated_worker() is None
    assert capsys.readouterr().err == ""


def _listening(mode: int, directory_mode: int, owner: int) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / "worker.sock").chmod(mode)
        run.chmod(directory_mode)
        os.chown(run / "worker.sock", owner, -1)

    return change


def _stale(run: Path) -> None:
    (run / "worker.sock").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(run / "worker.sock"))
    (run / "worker.sock").chmod(0o600)


def _file(run: Path) -> None:
    (run / "worker.sock").unlink()
    (run / "worker.sock").touch(0o600)


def _link(run: Path) -> None:
    (run / "worker.sock").rename(run.parent / "elsewhere")
    (run / "worker.sock").symlink_to(run.parent / "elsewhere")


def _linked_directory(run: Path) -> None:
    run.rename(run.parent / "elsewhere")
    run.symlink_to(run.parent / "elsewhere")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a socket of somebody else's": (_listening(0o600, 0o755, NOBODY), "is not root's alone"),
    "others may connect and replace": (_listening(0o622, 0o755, 0), "is not root's alone"),
    "others may put it there": (_listening(0o600, 0o777, 0), "is not root's alone"),
    "nobody listens any more": (_stale, "Connection refused"),
    "a file": (_file, "is not root's alone"),
    "a link": (_link, "is not root's alone"),
    "a link to the directory": (_linked_directory, "is not root's alone"),
}


@needs_root
@pytest.mark.parametrize("name", BAD)
def test_a_socket_that_does_not_count(
    listener: socket.socket, run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mount is made without it, with a warning that names the reason."""
    change, reason = BAD[name]
    change(run)
    before = open_descriptors()
    assert activated_worker() is None
    assert open_descriptors() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mount.s3: warning: {run}/worker.sock is of no use")
    assert reason in line
    listener.setblocking(False)
    if reason != "Connection refused":
        with pytest.raises(BlockingIOError):
            listener.accept()  # nobody has even tried


@needs_root
def test_somebody_else_listens(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel says who; not the file, which root may have made for them."""

    def listen_as_nobody() -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(run / "worker.sock"))
            (run / "worker.sock").chmod(0o600)
            os.seteuid(NOBODY)
            sock.listen()  # now it is theirs
            os.seteuid(0)
            return str(activated_worker())

    assert in_child(listen_as_nobody) == "None"


WORDS = {
    "an end": (b"", "ended before it could serve"),
    "garbage": (b"?", "broke the handoff protocol"),
    "no": (encode(Refuse(1, "only root can have this worker mount")), "only root can have this"),
    "another version": (encode(Hello(9, 11, "w")), "speaks handoff versions 9 to 11"),
}


@needs_root
@pytest.mark.parametrize("name", WORDS)
def test_a_worker_that_cannot_be_used(
    listener: socket.socket, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packet, reason = WORDS[name]
    before = open_descriptors()
    thread = answering(listener, packet)
    assert activated_worker() is None
    thread.join(60)
    assert not thread.is_alive()
    assert open_descriptors() == before
    assert reason in capsys.readouterr().err


@needs_root
def test_silence(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd has accepted, and no worker comes of it."""
    monkeypatch.setattr(limits, "ACTIVATION_DEADLINE", 0.05)
    assert activated_worker() is None
    assert "no answer from the worker in time" in capsys.readouterr().err
