"""The worker: takes a mount from the helper, serves it, and ends with it.

Started by the helper with one end of a socket as descriptor 3. Until READY everything that is
wrong becomes a REFUSE with one line for the user; from then on it goes to the log.
"""

import asyncio
import errno
import io
import logging
import os
import socket
import sys
from typing import NamedTuple, NoReturn, TypeVar

import uvloop

from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import PacketError, receive_packet, send_packet
from fuse_s3_shared.limits import FILE_MAX, PACKET_MAX, PROTOCOL_VERSION
from fuse_s3_worker import log, sandbox
from fuse_s3_worker.config.describe import help_text
from fuse_s3_worker.config.parse import Configuration, ConfigurationError, configure
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.log import Redaction, event
from fuse_s3_worker.serve import Owner, Session, build_file_system
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.opening import CannotServeError, open_store
from fuse_s3_worker.transfer.stagedir import (
    CacheDirectoryError,
    Place,
    StageDirectory,
    open_cache,
)

__all__ = ["main"]

_log = logging.getLogger(__name__)

_M = TypeVar("_M", handoff.Serve, handoff.Mounted)

_HANDOFF_FD = 3
_STANDARD = (0, 1, 2)


class HelperGoneError(Exception):
    """The helper closed its end before there was a mount: nothing to do."""


class Order(NamedTuple):
    """What the helper asked for."""

    mount: handoff.Mount
    device: int
    files: dict[str, tuple[str, bytes]]
    log_file: int | None


def main() -> int:
    """Run the worker; return its exit status."""
    if sys.argv[1:] == ["--help"]:
        sys.stdout.write(help_text())
        return 0
    if sys.argv[1:]:
        sys.stderr.write("fuse-s3-worker is started by mount.s3; see mount.s3 --help\n")
        return 1
    sandbox.confine()
    try:
        sandbox.check()
        with socket.socket(fileno=_HANDOFF_FD) as helper:
            uvloop.run(_work(helper))
    except (OSError, HelperGoneError, sandbox.TooPowerfulError) as error:
        sys.stderr.write(f"fuse-s3-worker: {error}\n")
        return 1
    return 0


async def _work(helper: socket.socket) -> None:
    """Take one mount, serve it, and return when it is unmounted and everything is stored."""
    order = _receive_order(helper)
    redaction = _start_log(order)
    try:
        configuration = _configure(order)
        owner = _owner(configuration, order.mount)
        logging.getLogger("fuse_s3_worker").setLevel(log.LEVELS[configuration.settings.log_level])
        if configuration.settings.cache:
            os.close(open_cache(configuration.settings.cache))
        store = directory = None
        if not order.mount.dry_run:
            store = await open_store(
                configuration.spec, configuration.settings, order.files, redaction
            )
            directory = _stage_directory(configuration, order.mount, store)
    except (ConfigurationError, CannotServeError, CacheDirectoryError) as error:
        _refuse(helper, redaction, getattr(error, "errno", errno.EINVAL), str(error))
        return
    except Exception as error:  # noqa: BLE001  the user shall read something, whatever it is
        _log.error("bug", exc_info=error)
        _refuse(helper, redaction, errno.EIO, f"the worker failed: {error!r}")
        return
    _say(helper, handoff.Ready(*owner))
    if store is not None:
        fs = build_file_system(
            store, configuration.settings, owner, configuration.spec.prefix, directory
        )
        await _serve(helper, order, configuration, fs)


async def _serve(
    helper: socket.socket,
    order: Order,
    configuration: Configuration,
    fs: FileSystem,
) -> None:
    """Wait for the connection, serve it, and tell the helper when it works."""
    await _expect(helper, handoff.Serve)
    session = Session(Channel(order.device), fs)
    session.start()
    await session.adapter.initialized.wait()
    _say(helper, handoff.Serving())
    try:
        mounted = await _expect(helper, handoff.Mounted)
        details = {"spec": order.mount.spec, "directory": mounted.directory}
        event(_log, logging.INFO, "mounted", details)
    except HelperGoneError:
        # It died after the mount was made. If that came to nothing, the device will say so.
        event(_log, logging.WARNING, "helper_gone", {"spec": order.mount.spec})
    helper.close()
    if not order.mount.foreground:
        _leave_terminal()
    for note in configuration.notes:
        event(_log, logging.INFO, "option", {"note": note})
    await session.run()


def _configure(order: Order) -> Configuration:
    mount = order.mount
    return configure(mount.spec, mount.options, sloppy=mount.sloppy)


def _stage_directory(
    configuration: Configuration, mount: handoff.Mount, store: S3Store
) -> StageDirectory | None:
    """Return where files that are changed are staged; None for in memory."""
    settings, spec = configuration.settings, configuration.spec
    if not settings.cache:
        return None
    place = Place(store.address, spec.bucket, spec.prefix)
    about = {"spec": mount.spec, "options": mount.options}
    return StageDirectory.open(settings.cache, place, about)


def _owner(configuration: Configuration, mount: handoff.Mount) -> Owner:
    settings = configuration.settings
    uid = mount.uid if settings.uid is None else settings.uid
    gid = mount.gid if settings.gid is None else settings.gid
    return Owner(uid, gid)


def _start_log(order: Order) -> Redaction:
    file: io.TextIOWrapper | None = None
    if order.log_file is not None:
        file = os.fdopen(order.log_file, "a", encoding="utf-8", errors="backslashreplace")
    elif order.mount.foreground:
        file = os.fdopen(os.dup(2), "a", encoding="utf-8", errors="backslashreplace")
    return log.set_up(logging.INFO, file=file)


def _leave_terminal() -> None:
    """Whoever started the mount may close what it watched our start with."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _STANDARD:
        os.dup2(null, fd)
    os.close(null)


# -- the conversation; see fuse_s3_shared.handoff -------------------------------------------------


def _receive_order(helper: socket.socket) -> Order:
    """Say hello, and take everything up to MOUNT."""
    _say(helper, handoff.Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "fuse-s3-worker"))
    files: dict[str, tuple[str, bytes]] = {}
    log_file = None
    while True:
        message, fd = _receive(helper)
        if isinstance(message, handoff.Mount) and fd is not None:
            return Order(message, fd, files, log_file)
        if not isinstance(message, handoff.File) or fd is None:
            _out_of_turn(message)
        if message.option == "log_file":
            log_file = fd
        else:
            files[message.option] = message.path, _read_and_close(fd)


def _receive(helper: socket.socket) -> tuple[handoff.Message, int | None]:
    try:
        packet, fd = receive_packet(helper, PACKET_MAX)
        if not packet:
            raise HelperGoneError("the helper is gone")
        return handoff.decode(packet, handoff.HELPER_SENDS, has_fd=fd is not None), fd
    except (PacketError, handoff.HandoffError) as error:
        raise HelperGoneError(f"the helper broke the handoff protocol: {error}") from None


async def _expect(helper: socket.socket, kind: type[_M]) -> _M:
    message, _ = await asyncio.to_thread(_receive, helper)
    if not isinstance(message, kind):
        _out_of_turn(message)
    return message


def _out_of_turn(message: handoff.Message) -> NoReturn:
    raise HelperGoneError(f"the helper said {type(message).__name__} out of turn")


def _read_and_close(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)  # its offset is where the helper stopped writing
        return file.read(FILE_MAX)


def _say(helper: socket.socket, message: handoff.Message) -> None:
    send_packet(helper, handoff.encode(message))


def _refuse(helper: socket.socket, redaction: Redaction, number: int, reason: str) -> None:
    clean = handoff.printable(redaction.clean(reason))
    event(_log, logging.ERROR, "refused", {"reason": clean})
    _say(helper, handoff.Refuse(number, clean))
