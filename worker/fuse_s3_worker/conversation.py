"""The worker's end of the conversation with the helper; see fuse_s3_shared.handoff.

Until READY everything that is wrong becomes a REFUSE with one line for the user.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, TypeVar

from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import PacketError, peer_uid, receive_packet, send_packet
from fuse_s3_shared.limits import PACKET_MAX, PROTOCOL_VERSION
from fuse_s3_worker.log import Redaction, event

__all__ = ["LOG_FILE", "Helper", "HelperGoneError", "Order", "RefusedError"]

_log = logging.getLogger(__name__)

LOG_FILE = "log_file"

_M = TypeVar("_M", handoff.Serve, handoff.Mounted)


class HelperGoneError(Exception):
    """The helper left, or is none, before there was a mount: nothing to do."""


class RefusedError(Exception):
    """The helper was told why there is nothing to serve; the text is what it was told."""


class Order(NamedTuple):
    """What the helper asked for: a mount, and files for it, each with its descriptor."""

    mount: handoff.Mount
    files: dict[str, tuple[handoff.File, int]]

    def close_copies(self) -> None:
        """Close what was read and is kept elsewhere; the log's own descriptor stays open."""
        for option, (_, fd) in self.files.items():
            if option != LOG_FILE:
                os.close(fd)


class Helper:
    """Whoever is at the other end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def order(self) -> Order:
        """Say hello, and take everything up to MOUNT.

        Raises:
            HelperGoneError: it comes to nothing.
        """
        uid = peer_uid(self._socket)
        if uid not in {0, os.geteuid()}:
            # The socket is closed to others, unless somebody has opened it.
            self._say(handoff.Refuse(errno.EPERM, "only root can have this worker mount"))
            raise HelperGoneError(f"user {uid} asks for a mount, which only root can")
        self._say(handoff.Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "fuse-s3-worker"))
        files: dict[str, tuple[handoff.File, int]] = {}
        try:
            while True:
                message, fd = self._receive()
                if isinstance(message, handoff.Mount):
                    return Order(message, files)
                if not isinstance(message, handoff.File) or fd is None or message.option in files:
                    _out_of_turn(message, fd)
                files[message.option] = message, fd
        except HelperGoneError:
            for _, fd in files.values():
                os.close(fd)
            raise

    def ready(self, uid: int, gid: int) -> None:
        """Say that the mount can be served, and whose files it has."""
        self._say(handoff.Ready(uid, gid))

    async def device(self) -> int:
        """Wait for the device."""
        _, fd = await self._expect(handoff.Serve)
        if fd is None:
            raise HelperGoneError("the helper has no device")
        return fd

    def serving(self) -> None:
        """Say that INIT was answered."""
        self._say(handoff.Serving())

    async def mounted(self) -> str:
        """Wait until the mount is in its place; return where that is."""
        message, _ = await self._expect(handoff.Mounted)
        return message.directory

    def close(self) -> None:
        """End the conversation."""
        self._socket.close()

    @contextlib.contextmanager
    def told(self, redaction: Redaction, *expected: type[Exception]) -> Iterator[None]:
        """Tell the helper what goes wrong in here, in one line for the user.

        Raises:
            RefusedError: something did.
        """
        try:
            yield
        except expected as error:
            reason, number = str(error), getattr(error, "errno", errno.EINVAL)
        except Exception as error:  # noqa: BLE001  the user shall read something, whatever it is
            _log.error("bug", exc_info=error)
            reason, number = f"the worker failed: {error!r}", errno.EIO
        else:
            return
        clean = handoff.printable(redaction.clean(reason))
        event(_log, logging.ERROR, "refused", {"reason": clean})
        self._say(handoff.Refuse(number, clean))
        raise RefusedError(clean)

    def _say(self, message: handoff.Message) -> None:
        send_packet(self._socket, handoff.encode(message))

    def _receive(self) -> tuple[handoff.Message, int | None]:
        packet, fd = b"?", None
        try:
            packet, fd = receive_packet(self._socket, PACKET_MAX)
            message = handoff.decode(packet, handoff.HELPER_SENDS, has_fd=fd is not None)
        except (PacketError, handoff.HandoffError) as error:
            if fd is not None:
                os.close(fd)
            elif not packet:
                raise HelperGoneError("the helper is gone") from None
            raise HelperGoneError(f"the helper broke the handoff protocol: {error}") from None
        return message, fd

    async def _expect(self, kind: type[_M]) -> tuple[_M, int | None]:
        message, fd = await asyncio.to_thread(self._receive)
        if not isinstance(message, kind):
            _out_of_turn(message, fd)
        return message, fd


def _out_of_turn(message: handoff.Message, fd: int | None) -> NoReturn:
    if fd is not None:
        os.close(fd)
    raise HelperGoneError(f"the helper said {type(message).__name__} out of turn")
