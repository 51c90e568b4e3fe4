"""Where control sockets are: whose directory, which modes, what is left of dead workers."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_control.places import ABOUT, CONTROL, About, found, is_own, listens, read_about
from fuse_s3_worker.control.place import NoPlaceError, SocketPlace, make_place
from support.controlled import runtime

ABOUT_IT = About(spec="bucket", directory="/mnt", device=60, pid=7, since=1.5)
LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def home() -> Iterator[Path]:
    with runtime() as path:
        yield path


def make(home: Path) -> SocketPlace:
    return make_place(home, home / "users")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everybody_can_connect_and_nobody_can_look_around(home: Path) -> None:
    place = make(home)
    assert place.path.parent == home
    assert mode(place.path) == 0o311
    assert mode(place.path / CONTROL) == 0o666
    assert listens(place.path)
    assert not place.listener.get_inheritable()
    place.close()
    assert not any(place.path.iterdir())
    assert not listens(place.path)


def test_two_workers_are_not_in_each_others_way(home: Path) -> None:
    one, other = make(home), make(home)
    assert one.path != other.path
    one.close()
    assert listens(other.path)
    other.close()


def test_what_a_worker_says_of_itself_can_be_read_by_all(home: Path) -> None:
    place = make(home)
    place.write_about(ABOUT_IT)
    assert mode(place.path / ABOUT) == 0o644
    assert read_about(place.path) == ABOUT_IT
    assert {path.name for path in place.path.iterdir()} == {ABOUT, CONTROL}
    place.close()


@pytest.mark.parametrize(
    ("who", "spoil"),
    [
        ("missing", lambda path: path.rmdir()),
        ("writable by others", lambda path: path.chmod(0o777)),
        ("writable by the group", lambda path: path.chmod(0o775)),
        ("somebody else's", lambda path: os.chown(path, 12345, 12345)),
    ],
)
def test_a_directory_that_is_not_ours_alone_is_not_used(
    home: Path,
    who: str,
    spoil: object,
) -> None:
    if os.geteuid() != 0 and who == "somebody else's":
        pytest.skip("only root can give files away")
    assert callable(spoil)
    spoil(home)
    with pytest.raises(NoPlaceError) as caught:
        make(home)
    assert str(home) in str(caught.value)
    home.mkdir(exist_ok=True)


def test_a_link_is_not_followed(home: Path) -> None:
    real = home / "real"
    real.mkdir()
    link = home / "link"
    link.symlink_to(real)
    assert not is_own(link.stat(follow_symlinks=False), os.geteuid())
    with pytest.raises(NoPlaceError):
        make_place(link, home / "users")


def test_a_worker_of_somebody_else_is_in_their_own_directory(home: Path) -> None:
    users = home / "users"
    own = users / str(os.geteuid())
    own.mkdir(parents=True)
    place = make_place(home / "missing", users)
    assert place.path.parent == own / "fuse-s3"
    assert [path for path, uid in found(home / "missing", users)] == [place.path]
    place.close()


def test_what_dead_workers_left_is_removed_and_the_living_stay(home: Path) -> None:
    living, dead, young = make(home), make(home), make(home)
    dead.write_about(ABOUT_IT)
    (dead.path / "0123456789abcdef").touch()  # a socket of gRPC's
    for place in (dead, young):
        place.listener.close()  # as when a worker is killed
    for place in (living, dead):
        os.utime(place.path, LONG_AGO)
    last = make(home)
    names = {path.name for path, _ in found(home, home / "users")}
    assert names == {living.path.name, young.path.name, last.path.name}
    for place in (living, last):
        place.close()


def test_a_path_that_is_too_long_for_a_socket_is_said(home: Path) -> None:
    deep = home / ("x" * 100)
    deep.mkdir()
    with pytest.raises(NoPlaceError):
        make(deep)


# -- reading what is there, as root, from somebody who may be hostile ------------------------------


def directory(home: Path) -> Path:
    path = home / "worker"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"spec": "b"',
        b'{"spec": "b", "directory": "/m", "device": -1, "pid": 1, "since": 0}',
        b'{"spec": "b", "directory": "/m", "device": 1, "pid": 0, "since": 0}',
        b'{"spec": "' + b"x" * 5000 + b'", "directory": "/m", "device": 1, "pid": 1, "since": 0}',
        b" " * (1 << 20),
    ],
    ids=range(9),
)
def test_nonsense_is_nobody(home: Path, content: bytes) -> None:
    path = directory(home)
    (path / ABOUT).write_bytes(content)
    assert read_about(path) is None


def test_a_pipe_a_link_and_nothing_do_not_hold_anybody_up(home: Path) -> None:
    path = directory(home)
    assert read_about(path) is None
    os.mkfifo(path / ABOUT)
    assert read_about(path) is None
    (path / ABOUT).unlink()
    (path / "secret").write_text(ABOUT_IT.model_dump_json())
    (path / ABOUT).symlink_to(path / "secret")
    assert read_about(path) is None
    (path / ABOUT).unlink()
    (path / ABOUT).mkdir()
    assert read_about(path) is None


def test_a_listener_that_takes_nobody_more_is_alive(home: Path) -> None:
    path = directory(home)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path / CONTROL))
        assert not listens(path)
        sock.listen(0)
        crowd = []
        for _ in range(3):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.settimeout(0)
            crowd.append(one)
            one.connect_ex(str(path / CONTROL))
        assert listens(path)
        for one in crowd:
            one.close()
    assert not listens(path)
    assert not listens(home / "nothing")
