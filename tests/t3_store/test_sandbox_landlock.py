"""Landlock by itself: which files, ports and processes are left, on this kernel and on older ones.

An older kernel is one that answers with an older version: the ruleset is then made as for it.
"""

import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fuse_s3_worker.sandbox import landlock
from fuse_s3_worker.sandbox.files import Access, Needs, Place, places
from fuse_s3_worker.sandbox.landlock import LAYERS_SINCE, UnavailableError
from fuse_s3_worker.sandbox.process import STEPS
from support.confined import DONE, Outcome, lacking, needs_sandbox, outcome_of
from support.isolation import needs_root, with_own_mounts

pytestmark = needs_sandbox

NO_ACCESS = Outcome(errno.EACCES)


def restricted(*allowed: Place, ports: tuple[int, ...] = ()) -> Callable[[], None]:
    """Return a step that restricts to these places and ports."""

    def step() -> None:
        STEPS["no_new_privs"]()
        landlock.restrict(allowed, ports)

    return step


# -- files -----------------------------------------------------------------------------------------

READ, OWN = Access.READ, Access.OWN


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def test_what_is_below_a_place_is_read_and_no_more(tree: Path) -> None:
    step = restricted(Place(str(tree / "open"), READ, ""))
    assert outcome_of(step, (tree / "open/file").read_text) == DONE
    assert outcome_of(step, lambda: os.scandir(tree / "open")) == DONE
    assert outcome_of(step, (tree / "closed/file").read_text) == NO_ACCESS
    assert outcome_of(step, lambda: os.scandir(tree)) == NO_ACCESS
    assert outcome_of(step, lambda: (tree / "open/file").open("r+")) == NO_ACCESS
    assert outcome_of(step, (tree / "open/new").touch) == NO_ACCESS
    assert outcome_of(step, (tree / "open/file").unlink) == NO_ACCESS
    assert outcome_of(step, lambda: os.truncate(tree / "open/file", 0)) == NO_ACCESS


def test_a_directory_of_its_own(tree: Path) -> None:
    step = restricted(Place(str(tree / "open"), OWN, ""))

    def live() -> None:
        home = tree / "open"
        (home / "a").write_text("1")
        (home / "d").mkdir()
        (home / "a").rename(home / "d/b")
        os.truncate(home / "d/b", 0)
        (home / "d/b").unlink()
        (home / "d").rmdir()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(home / "socket"))

    assert outcome_of(step, live) == DONE
    assert outcome_of(step, lambda: os.mkfifo(tree / "open/fifo")) == NO_ACCESS
    assert outcome_of(step, lambda: (tree / "open/link").symlink_to("file")) == NO_ACCESS
    out = Outcome(errno.EXDEV)  # moving away would change what a rule says of it
    assert outcome_of(step, lambda: (tree / "open/file").rename(tree / "closed/new")) in {
        out,
        NO_ACCESS,
    }


def test_nothing_is_executed_anywhere(tree: Path) -> None:
    step = restricted(Place("/", READ, ""), Place(str(tree / "open"), OWN, ""))
    program = tree / "open/program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in ("/bin/true", str(program)):
        execute = partial(os.execv, path, [path])
        assert outcome_of(execute) == DONE
        assert outcome_of(step, execute) == NO_ACCESS


def test_a_file_by_itself_and_a_place_that_is_not_there(tree: Path) -> None:
    step = restricted(
        Place(str(tree / "open/file"), READ, ""), Place(str(tree / "none/at/all"), READ, "")
    )
    assert outcome_of(step, (tree / "open/file").read_text) == DONE
    assert outcome_of(step, lambda: os.scandir(tree / "open")) == NO_ACCESS


def test_descriptors_that_are_open_already_go_on(tree: Path) -> None:
    with (tree / "closed/file").open("r+b", buffering=0) as file:

        def use() -> None:
            assert file.read() == b"closed"
            file.write(b"!")
            os.ftruncate(file.fileno(), 1)

        assert outcome_of(restricted(), use) == DONE


def test_memory_has_a_path_that_opens() -> None:
    """How botocore reads what the helper read; see store/credentials.py."""

    def use() -> None:
        fd = os.memfd_create("file")
        os.write(fd, b"content")
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"content"

    assert outcome_of(restricted(*places(Needs())), use) == DONE
    # of whatever else has one, only what was allowed
    fd = os.open("/etc/hostname", os.O_PATH)
    assert (
        outcome_of(restricted(), lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)) == NO_ACCESS
    )
    os.close(fd)


# -- what changes while the worker runs ------------------------------------------------------------


class Replacement:
    """Something that is replaced while a confined child looks: before, and once more after."""

    def __init__(self, replace: Callable[[], object]) -> None:
        self._replace = replace
        self._ready, self._done = os.pipe(), os.pipe()

    def watched_by(self, step: Callable[[], object], look: Callable[[], str]) -> Outcome:
        def both() -> None:
            assert look() == "1"
            os.write(self._ready[1], b"x")
            os.read(self._done[0], 1)
            assert look() == "2"

        thread = threading.Thread(target=self._wait_and_replace)
        thread.start()
        outcome = outcome_of(step, both)
        thread.join()
        for fd in (*self._ready, *self._done):
            os.close(fd)
        return outcome

    def _wait_and_replace(self) -> None:
        os.read(self._ready[0], 1)
        self._replace()
        os.write(self._done[1], b"x")


def test_a_token_that_is_replaced_is_read(tmp_path: Path) -> None:
    """As Kubernetes does: a link to a directory points to another one from one moment on."""
    for number in "12":
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/token").write_text(number)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "..new").symlink_to("..2")
    token = tmp_path / "token"
    token.symlink_to("..data/token")
    step = restricted(*places(Needs(files=(str(token),))))
    replacement = Replacement(lambda: (tmp_path / "..new").rename(tmp_path / "..data"))
    assert replacement.watched_by(step, token.read_text) == DONE


def test_a_file_that_was_linked_to_is_replaced_where_it_is(tmp_path: Path) -> None:
    """As systemd-resolved does with what /etc/resolv.conf leads to."""
    for name in ("run", "etc"):
        (tmp_path / name).mkdir()
    real, link = tmp_path / "run/resolv.conf", tmp_path / "etc/resolv.conf"
    real.write_text("1")
    link.symlink_to(real)
    (tmp_path / "run/new").write_text("2")
    step = restricted(*places(Needs(files=(str(link),))))
    replacement = Replacement(lambda: (tmp_path / "run/new").rename(real))
    assert replacement.watched_by(step, link.read_text) == DONE


@needs_root
def test_the_resolvers_files_may_be_replaced() -> None:
    """A worker whose resolv.conf was for the file of yesterday would lose every name."""

    def in_own_etc() -> None:
        etc = Path("/etc")
        libc = ctypes.CDLL(None)
        assert libc.mount(b"none", b"/etc", b"tmpfs", 0, b"") == 0
        for name in ("resolv.conf", "hosts"):
            (etc / name).write_text("1")
            (etc / f"{name}.new").write_text("2")
            step = restricted(*places(Needs()))
            replacement = Replacement(partial((etc / f"{name}.new").rename, etc / name))
            assert replacement.watched_by(step, (etc / name).read_text) == DONE

    with_own_mounts(in_own_etc)


def test_a_file_in_a_directory_that_holds_everything(tmp_path: Path) -> None:
    """For the sake of one file, nobody opens /run, or the root directory."""
    for path in ("/token", "/run/token", "/var/token"):
        (place,) = {p for p in places(Needs(files=(path,))) if "credentials" in p.why}
        assert place == (path, Access.READ_FILE, place.why, False)
    inside = str(tmp_path / "token")
    (place,) = {p for p in places(Needs(files=(inside,))) if "credentials" in p.why}
    assert place.path == str(tmp_path)
    assert place.access == Access.READ_FILE


# -- ports and processes ---------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[tuple[int, int]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        yield one.getsockname()[1], two.getsockname()[1]


def connect(port: int, family: int = socket.AF_INET) -> None:
    """Without a look at files, as create_connection(), which resolves names, has one."""
    with socket.socket(family) as client:
        client.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))


def test_only_ports_that_were_named(listening: tuple[int, int]) -> None:
    old, new = listening
    only_old, only_new = restricted(ports=(old,)), restricted(ports=(new,))
    assert outcome_of(only_old, lambda: connect(old)) == DONE
    assert outcome_of(only_old, lambda: connect(new, socket.AF_INET6)) == NO_ACCESS
    assert outcome_of(only_new, lambda: connect(new, socket.AF_INET6)) == DONE
    assert outcome_of(only_new, lambda: connect(old)) == NO_ACCESS


def test_no_port_to_listen_on() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):

        def listen(family: int = family, address: str = address) -> None:
            with socket.socket(family) as server:
                server.bind((address, 0))

        assert outcome_of(listen) == DONE
        assert outcome_of(restricted(), listen) == NO_ACCESS


def test_no_signals_to_others() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            assert outcome_of(lambda: os.kill(other.pid, 0)) == DONE
            assert outcome_of(restricted(), lambda: os.kill(other.pid, 0)) == Outcome(errno.EPERM)
            assert outcome_of(restricted(), lambda: os.kill(os.getpid(), 0)) == DONE
        finally:
            other.kill()


def test_no_abstract_sockets_of_others() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        name = f"\0fuse-s3-{os.getpid()}"
        server.bind(name)
        server.listen()

        def reach() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(name)

        assert outcome_of(reach) == DONE
        assert outcome_of(restricted(), reach) == Outcome(errno.EPERM)


# -- kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", range(1, 8))
def test_each_version_restricts_what_it_knows(
    abi: int, tree: Path, monkeypatch: pytest.MonkeyPatch, listening: tuple[int, int]
) -> None:
    """The ruleset is made as for a kernel of that version, and this one takes it."""
    monkeypatch.setattr(landlock, "_abi_version", lambda: abi)
    step = restricted(Place(str(tree / "open"), READ, ""))

    def is_refused(act: Callable[[], object]) -> bool:
        outcome = outcome_of(step, act)
        assert outcome in {DONE, NO_ACCESS, Outcome(errno.EPERM)}
        return outcome != DONE

    assert is_refused((tree / "closed/file").read_text)
    assert not is_refused((tree / "open/file").read_text)
    assert is_refused(lambda: connect(listening[0])) == (abi >= LAYERS_SINCE["landlock_tcp"])
    assert is_refused(lambda: os.kill(os.getppid(), 0)) == (abi >= LAYERS_SINCE["landlock_scopes"])
    assert is_refused(lambda: os.truncate(tree / "closed/file", 6)) == (abi >= 3)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSYS, "this kernel has no Landlock"),
        (errno.EOPNOTSUPP, "Landlock is off"),
        (errno.EPERM, "a filter around this process forbids Landlock"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_kernel_without_is_told_apart(number: int, why: str) -> None:
    def attempt() -> None:
        with pytest.raises(UnavailableError, match=why):
            landlock.restrict((), ())

    assert outcome_of(lacking("landlock_create_ruleset", number), attempt) == DONE


def test_the_last_step_may_fail_as_well() -> None:
    def attempt() -> None:
        with pytest.raises(UnavailableError, match="Argument list too long"):
            landlock.restrict((), ())

    assert outcome_of(lacking("landlock_restrict_self", errno.E2BIG), attempt) == DONE


def test_another_thread_would_stay_outside() -> None:
    def attempt() -> None:
        wait = threading.Event()
        thread = threading.Thread(target=wait.wait)
        thread.start()
        with pytest.raises(UnavailableError, match="another thread runs already"):
            landlock.restrict((), ())
        wait.set()
        thread.join()

    assert outcome_of(attempt) == DONE
