"""Who comes in: by the kernel's word for who they are; and nobody harms the mount."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fuse_s3_control.places import CONTROL
from fuse_s3_worker.control import door as module
from fuse_s3_worker.control.door import Door
from fuse_s3_worker.control.place import make_place
from support.controlled import runtime
from support.loops import LOOPS, run
from support.users import SOMEBODY, run_as

BOTH = pytest.mark.parametrize("loop", LOOPS)
ME = os.geteuid()


class Echo:
    """A server that gives back what it gets.

    Attributes:
        starts: how often one was started.
        path: where it listens.
    """

    def __init__(self) -> None:
        self.starts = 0
        self.path = ""
        self.fails = False
        self._server: asyncio.Server | None = None

    async def start(self, path: str) -> "Echo":
        self.starts += 1
        if self.fails:
            raise OSError("no luck")
        self.path = path
        self._server = await asyncio.start_unix_server(self._echo, path)
        return self

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()


@asynccontextmanager
async def opened(*admitted: int) -> AsyncIterator[tuple[Door, Echo, Path]]:
    with runtime() as home:
        place = make_place(home, home / "users")
        echo = Echo()
        door = Door(place, frozenset(admitted), echo.start)
        door.open()
        try:
            yield door, echo, place.path / CONTROL
        finally:
            await door.close()
        assert not any(place.path.iterdir())
        assert door.clients == 0


async def say(path: Path, data: bytes) -> bytes:
    """Send bytes, and return as many; b"" when the connection ends first."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    except (asyncio.IncompleteReadError, OSError):
        return b""
    finally:
        writer.close()


async def until(condition: object) -> None:
    assert callable(condition)
    while not condition():  # noqa: ASYNC110  what is waited for is not this loop's alone
        await asyncio.sleep(0.005)


@BOTH
def test_bytes_go_both_ways_and_the_server_is_started_once(loop: str) -> None:
    async def check() -> None:
        async with opened(ME) as (door, echo, path):
            assert echo.starts == 0
            data = os.urandom(3 << 20)
            assert await say(path, data) == data
            assert await asyncio.gather(*(say(path, b"x") for _ in range(5))) == [b"x"] * 5
            assert echo.starts == 1
            await until(lambda: door.clients == 0)

    run(check(), loop)


@BOTH
def test_who_says_nothing_starts_nothing(loop: str) -> None:
    async def check() -> None:
        async with opened(ME) as (door, echo, path):
            for _ in range(50):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    sock.connect(str(path))
                    await asyncio.sleep(0.001)  # the loop is the other end
            await until(lambda: door.clients == 0)
            assert echo.starts == 0
            assert await say(path, b"x") == b"x"

    run(check(), loop)


@BOTH
def test_strangers_are_sent_away_before_a_byte_is_read(loop: str) -> None:
    async def check() -> None:
        async with opened(ME + 1) as (door, echo, path):
            assert await say(path, b"x") == b""
            assert door.strangers == 1
            assert echo.starts == 0
            assert await say(path, b"x") == b""  # after a pause, and still a stranger
            assert door.strangers == 2

    run(check(), loop)


@pytest.mark.skipif(ME != 0, reason="only root can be somebody else")
def test_the_kernel_is_asked_who_it_is() -> None:
    async def check() -> None:
        async with opened(0, SOMEBODY) as (door, _echo, path):
            script = (
                "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                "s.sendall(b'x'); sys.exit(s.recv(1) != b'x')"
            )

            async def status(user: int) -> int:
                command = ("/usr/bin/python3", "-c", script, path)
                done = await asyncio.to_thread(run_as, user, *command)
                return done.returncode

            assert await status(SOMEBODY) == 0
            assert await status(SOMEBODY + 1) == 1
            assert door.strangers == 1

    run(check())


@BOTH
def test_more_than_a_few_have_to_come_again(loop: str) -> None:
    async def check() -> None:
        async with opened(ME) as (door, _echo, path):
            crowd = []
            for _ in range(module._CLIENTS):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"x")
                await reader.readexactly(1)
                crowd.append(writer)
            assert await say(path, b"y") == b""
            for writer in crowd:
                writer.close()
            await until(lambda: door.clients == 0)
            for _ in range(100):  # it rests for a moment after the refusal
                if await say(path, b"y") == b"y":
                    return
            raise AssertionError("nobody is let in any more")

    run(check(), loop)


def test_a_client_that_goes_away_in_the_middle_harms_nobody() -> None:
    async def check() -> None:
        async with opened(ME) as (door, _echo, path):
            for _ in range(20):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"x" * (1 << 20))
                await reader.readexactly(1)
                writer.transport.abort()
            await until(lambda: door.clients == 0)
            assert await say(path, b"x") == b"x"

    run(check())


def test_who_is_silent_is_let_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_BYTE", 0.01)

    async def check() -> None:
        async with opened(ME) as (door, echo, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            writer.close()
            assert echo.starts == 0
            await until(lambda: door.clients == 0)

    run(check())


def test_a_server_that_does_not_start_is_tried_again() -> None:
    async def check() -> None:
        async with opened(ME) as (door, echo, path):
            echo.fails = True
            assert await say(path, b"x") == b""
            await until(lambda: door.clients == 0)
            echo.fails = False
            assert await say(path, b"x") == b"x"
            assert echo.starts == 2

    run(check())


def see_that_it_is_hidden(bound: Path) -> None:
    assert not bound.exists()
    shown = Path("/proc/net/unix").read_text()
    assert str(bound) in shown
    (hidden,) = {path.name for path in bound.parent.iterdir()} - {CONTROL}
    assert len(hidden) == 32
    assert hidden not in shown


def test_the_servers_own_socket_is_under_a_name_that_nothing_shows() -> None:
    async def check() -> None:
        async with opened(ME) as (_, echo, path):
            assert await say(path, b"x") == b"x"
            see_that_it_is_hidden(Path(echo.path))

    run(check())


def test_when_the_mount_ends_everybody_has_to_leave() -> None:
    async def check() -> None:
        async with opened(ME) as (_, _echo, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert await reader.read() == b""
        writer.close()
        assert not path.exists()

    run(check())
