"""What a worker says to whoever keeps it, and finds at its start: over real sockets."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_shared.fdpass import receive_packet
from fuse_s3_worker.survival.supervisor import Supervisor
from support.isolation import in_child


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket as systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(60)
        yield sock


def environment(path: str, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": path, "OTHER": "stays"} | more


@contextlib.contextmanager
def supervised(path: str) -> Iterator[Supervisor]:
    """A worker's end; a worker itself never closes it."""
    supervisor = Supervisor.from_environment(environment(path))
    yield supervisor
    assert supervisor._notify is not None
    supervisor._notify.close()


SAYINGS: dict[str, tuple[Callable[[Supervisor], None], bytes]] = {
    "ready": (lambda s: s.ready(), b"READY=1"),
    "status": (
        lambda s: s.status("serves bücket on /mnt"),
        "STATUS=serves bücket on /mnt".encode(),
    ),
    "stopping": (lambda s: s.stopping(), b"STOPPING=1"),
    "extend": (lambda s: s.extend(2.5), b"EXTEND_TIMEOUT_USEC=2500000"),
}


@pytest.mark.parametrize("name", SAYINGS)
def test_what_is_said(listener: socket.socket, tmp_path: Path, name: str) -> None:
    say, expected = SAYINGS[name]
    with supervised(str(tmp_path / "notify")) as supervisor:
        say(supervisor)
    assert receive_packet(listener, 1000) == (expected, None)


def test_a_line_is_a_line(listener: socket.socket, tmp_path: Path) -> None:
    """What a server or a user has named must not become a message of its own."""
    with supervised(str(tmp_path / "notify")) as supervisor:
        supervisor.status("serves a\nFDSTOREREMOVE=1\nFDNAME=fuse")
    packet, _ = receive_packet(listener, 1000)
    assert packet == b"STATUS=serves a FDSTOREREMOVE=1 FDNAME=fuse"


def test_what_is_stored(listener: socket.socket, tmp_path: Path) -> None:
    memory = os.memfd_create("here")
    with supervised(str(tmp_path / "notify")) as supervisor:
        supervisor.store("file.x", memory)
    packet, fd = receive_packet(listener, 1000)
    assert packet == b"FDSTORE=1\nFDNAME=file.x"
    assert fd is not None
    assert Path(f"/proc/self/fd/{fd}").readlink() == Path(f"/proc/self/fd/{memory}").readlink()
    os.close(fd)
    os.close(memory)


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # whichever is free
        name = sock.getsockname()[1:].decode()
        with supervised(f"@{name}") as supervisor:
            supervisor.ready()
        assert receive_packet(sock, 100) == (b"READY=1", None)


def test_nobody_listens() -> None:
    """Started by hand, or by a test: there is nobody, and that is no error."""
    supervisor = Supervisor.from_environment({})
    assert not supervisor.keeps
    assert supervisor.connection is None
    supervisor.ready()
    supervisor.store("fuse", 0)


def test_whoever_listened_is_gone(listener: socket.socket, tmp_path: Path) -> None:
    with supervised(str(tmp_path / "notify")) as supervisor:
        assert supervisor.keeps
        listener.close()
        supervisor.ready()


# -- the start -------------------------------------------------------------------------------------


def started(names: str, *, pid: int | None = None, count: int | None = None) -> object:
    """Return what a process finds that is started with three descriptors from 3 on."""

    def start() -> object:
        for number in (3, 4, 5):
            memory = os.memfd_create(f"m{number}")
            os.dup2(memory, number)
        given = {
            "LISTEN_PID": str(os.getpid() if pid is None else pid),
            "LISTEN_FDS": str(3 if count is None else count),
            "LISTEN_FDNAMES": names,
        }
        supervisor = Supervisor.from_environment(given)
        for fd in supervisor.stored.values():
            assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert not given  # children are not meant
        return supervisor.connection, supervisor.stored

    return in_child(start)


def test_descriptors_by_name() -> None:
    assert started("connection:fuse:state-a") == (3, {"fuse": 4, "state-a": 5})
    assert started("fuse:state-a:state-b") == (None, {"fuse": 3, "state-a": 4, "state-b": 5})
    assert started("connection", count=1) == (3, {})


def test_descriptors_that_are_for_somebody_else() -> None:
    assert started("connection:fuse:state-a", pid=1) == (None, {})


@pytest.mark.parametrize("names", ["", "fuse"])
def test_fewer_names_than_descriptors(names: str) -> None:
    assert started(names)[1].keys() <= {"", "fuse"}  # type: ignore[index]


def test_the_keepers_socket_is_held_until_the_process_ends() -> None:
    """The keeper takes its end for the worker's: nothing that Python deletes may close it."""

    def start() -> bool:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.dup2(theirs.fileno(), 3)
        theirs.close()
        given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "notify"}
        supervisor = Supervisor.from_environment(given)
        supervisor.ready()
        assert ours.recv(100) == b"READY=1"
        del supervisor
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(100)
        return True

    assert in_child(start)
