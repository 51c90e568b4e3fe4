"""Who comes in: asks the kernel who a client is, and leads those who may to the gRPC server.

grpc.aio takes no connection that was accepted by somebody else and does not tell who its clients
are. So it listens on a socket of its own, whose name nobody else knows, and every byte goes through
here. That costs a copy, of a few kilobytes a day.

Nobody else can make this a way to hold up the mount: strangers are sent away, a few at a time, and
those who come in are few, too.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from fuse_s3_worker.control.place import SocketPlace
from fuse_s3_worker.log import event

__all__ = ["Door", "Server", "Start"]

_log = logging.getLogger(__name__)

_CLIENTS = 8  # at once; whoever looks at a mount needs one
_ACCEPTS = 8  # at once, before the kernel's requests get their turn
_PAUSE = 0.1  # seconds without accepting, after a stranger
_FIRST_BYTE = 10.0  # seconds for a client to say something
_PIECE = 16 * 1024  # bytes
_CREDENTIALS = struct.Struct("iII")  # struct ucred of sys/socket.h: pid uid gid


class Server(Protocol):
    """What is behind the door."""

    async def stop(self) -> None:
        """Answer nobody any more."""


Start = Callable[[str], Awaitable[Server]]
"""Makes a server that listens on the Unix socket of this path."""


class Door:
    """Accepts connections on the running loop.

    Attributes:
        clients: how many are being served.
        strangers: how many were sent away.
    """

    def __init__(self, place: SocketPlace, admitted: frozenset[int], start: Start) -> None:
        """Serve whoever connects to `place` under one of the uids `admitted`."""
        self._place = place
        self._admitted = admitted
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[Path] | None = None
        self._server: Server | None = None
        self._closed = False
        self.strangers = 0

    @property
    def clients(self) -> int:
        """How many are being served."""
        return len(self._tasks)

    def open(self) -> None:
        """Begin to accept."""
        if not self._closed:
            self._loop.add_reader(self._place.listener.fileno(), self._accept)

    async def close(self) -> None:
        """Send everybody away, and leave nothing behind."""
        self._closed = True
        self._loop.remove_reader(self._place.listener.fileno())
        for task in list(self._tasks):
            task.cancel()
        if self._starting is not None:
            with contextlib.suppress(Exception):
                (await self._starting).unlink(missing_ok=True)
        if self._server is not None:
            await self._server.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._place.close()

    # -- accepting ------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = self._place.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, say
                event(_log, logging.WARNING, "control_failed", {"reason": error})
                self._rest()
                return
            if not self._admit(connection):
                connection.close()
                self._rest()
                return

    def _admit(self, connection: socket.socket) -> bool:
        """Serve a client; False when he must not be, or not now."""
        _, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid not in self._admitted:
            self.strangers += 1
            event(_log, logging.DEBUG, "control_refused", {"uid": uid})
            return False
        if len(self._tasks) >= _CLIENTS:
            event(_log, logging.DEBUG, "control_busy", {"clients": len(self._tasks)})
            return False
        connection.settimeout(0)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _rest(self) -> None:
        self._loop.remove_reader(self._place.listener.fileno())
        self._loop.call_later(_PAUSE, self.open)

    # -- one client -----------------------------------------------------------------------------

    async def _serve(self, connection: socket.socket) -> None:
        """Carry bytes between a client and the server until either of them has enough."""
        try:
            with connection:
                async with asyncio.timeout(_FIRST_BYTE):
                    first = await self._loop.sock_recv(connection, _PIECE)
                if not first:
                    return  # he only wanted to know whether somebody is here
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner:
                    inner.settimeout(0)
                    await self._loop.sock_connect(inner, str(await self._inner()))
                    await self._loop.sock_sendall(inner, first)
                    await self._carry_both(connection, inner)
        except (OSError, TimeoutError) as error:
            event(_log, logging.DEBUG, "control_client_lost", {"reason": error})
        except Exception as error:  # noqa: BLE001  whatever it is, the mount goes on
            event(_log, logging.ERROR, "control_failed", {"reason": repr(error)})

    async def _carry_both(self, one: socket.socket, other: socket.socket) -> None:
        ways = [
            self._loop.create_task(self._carry(source, target))
            for source, target in ((one, other), (other, one))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            # The sockets are closed next, and nothing of the loop's may be waiting for them then.
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: socket.socket, target: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, _PIECE):
            await self._loop.sock_sendall(target, data)

    # -- the server -----------------------------------------------------------------------------

    async def _inner(self) -> Path:
        """Return where the server listens; start it for the first one who asks."""
        if self._starting is None:
            self._starting = self._loop.create_task(self._start_server())
            self._starting.add_done_callback(self._started)
        return await asyncio.shield(self._starting)

    def _started(self, task: asyncio.Task[Path]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._starting = None  # the next one who asks may have more luck

    async def _start_server(self) -> Path:
        """Have the server listen under a name that is nowhere to be seen.

        The kernel shows everybody the names that sockets were bound to, but not what became of
        those files; and the directory cannot be listed. So a name that it is given afterwards is
        known to this process, and to root.
        """
        bound = self._place.path / f"{secrets.token_hex(8)}"
        self._server = await self._start(str(bound))
        hidden = self._place.path / secrets.token_hex(16)
        bound.rename(hidden)
        return hidden
