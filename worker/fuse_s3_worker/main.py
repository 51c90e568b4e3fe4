"""The worker: takes a mount from the helper, serves it, and ends with it.

Started by the helper with one end of a socket as descriptor 3. Until READY everything that is
wrong becomes a REFUSE with one line for the user; from then on it goes to the log.

The order and its options come from the helper and are read first. Then the sandbox closes, before
there is a loop, a second thread, or a byte of the network's.
"""

import asyncio
import contextlib
import errno
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, TypeVar

import uvloop

from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import PacketError, receive_packet, send_packet
from fuse_s3_shared.limits import FILE_MAX, PACKET_MAX, PROTOCOL_VERSION
from fuse_s3_worker import log, sandbox
from fuse_s3_worker.config.describe import help_text
from fuse_s3_worker.config.parse import Configuration, ConfigurationError, configure
from fuse_s3_worker.control.facts import Facts
from fuse_s3_worker.control.opening import Control, with_place
from fuse_s3_worker.control.place import SocketPlace
from fuse_s3_worker.fs import opener
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.log import Redaction, event
from fuse_s3_worker.serve import Owner, Session, build_file_system
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.examine import examine
from fuse_s3_worker.store.needs import credential_programs, store_needs
from fuse_s3_worker.store.opening import CannotServeError, open_store
from fuse_s3_worker.store.programs import Programs
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


_REFUSALS = (
    ConfigurationError,
    CannotServeError,
    CacheDirectoryError,
    sandbox.NotConfinedError,
)


class RefusedError(Exception):
    """The helper was told why there is nothing to serve."""


class Order(NamedTuple):
    """What the helper asked for."""

    mount: handoff.Mount
    device: int
    files: dict[str, tuple[str, bytes]]
    log_file: int | None


class Prepared(NamedTuple):
    """What is known and what was given up before the first byte of the network's."""

    order: Order
    configuration: Configuration
    owner: Owner
    redaction: Redaction
    programs: Programs | None
    level: sandbox.Level
    socket_place: SocketPlace | None

    @property
    def examines(self) -> bool:
        """Tell whether the bucket is to be tried, and not to be served."""
        return self.order.mount.dry_run and self.configuration.settings.examine


def main() -> int:
    """Run the worker; return its exit status."""
    if sys.argv[1:] == ["--help"]:
        sys.stdout.write(help_text())
        return 0
    if sys.argv[1:]:
        sys.stderr.write("fuse-s3-worker is started by mount.s3; see mount.s3 --help\n")
        return 1
    level = sandbox.confine()
    try:
        sandbox.check()
        with socket.socket(fileno=_HANDOFF_FD) as helper:
            _work(helper, level)
    except RefusedError:
        return 0
    except (OSError, HelperGoneError, sandbox.TooPowerfulError) as error:
        sys.stderr.write(f"fuse-s3-worker: {error}\n")
        return 1
    return 0


def _work(helper: socket.socket, level: sandbox.Level) -> None:
    """Take one mount, serve it, and return when it is unmounted and everything is stored."""
    order = _receive_order(helper)
    redaction = _start_log(order)
    with _refusals(helper, redaction):
        prepared = _prepare(order, redaction, level)
    uvloop.run(_reach_and_serve(helper, prepared))


def _prepare(order: Order, redaction: Redaction, level: sandbox.Level) -> Prepared:
    """Do what has to be done before the sandbox closes, and close it.

    Afterwards user names are numbers, the log is open, and what the helper read is in memory;
    what is needed later is needed by the store, which says what that is.
    """
    configuration = configure(order.mount.spec, order.mount.options, sloppy=order.mount.sloppy)
    settings = configuration.settings
    logging.getLogger("fuse_s3_worker").setLevel(log.LEVELS[settings.log_level])
    owner = _owner(configuration, order.mount)
    needs = store_needs(settings, order.files)
    if opener.needs_proc():
        needs = needs._replace(directories=(*needs.directories, "/proc"))
    if settings.cache:
        os.close(open_cache(settings.cache))
        needs = needs._replace(own=(*needs.own, settings.cache))
    socket_place, needs = (None, needs) if order.mount.dry_run else with_place(needs)
    needs_store = not order.mount.dry_run or settings.examine
    programs = _programs(configuration, order) if needs_store else None
    entered = sandbox.enter(level, settings.sandbox, needs)
    event(_log, logging.INFO, "sandbox", entered.details())
    return Prepared(order, configuration, owner, redaction, programs, entered, socket_place)


def _programs(configuration: Configuration, order: Order) -> Programs | None:
    """Start who will start programs that give keys, while that can be done."""
    settings = configuration.settings
    commands = credential_programs(settings, order.files)
    return Programs(commands) if commands and settings.sandbox != "off" else None


async def _reach_and_serve(helper: socket.socket, prepared: Prepared) -> None:
    """Open the store, say that all is well, and serve it."""
    store = directory = None
    spec, settings, _ = prepared.configuration
    mount = prepared.order.mount
    if prepared.examines or not mount.dry_run:
        with _refusals(helper, prepared.redaction):
            store = await open_store(
                spec, settings, prepared.order.files, prepared.redaction, prepared.programs
            )
            directory = _stage_directory(prepared, store)
            if prepared.examines:
                await examine(store, spec.prefix, read_only=mount.read_only)
    _say(helper, handoff.Ready(*prepared.owner))
    if store is not None and not mount.dry_run:
        fs = build_file_system(store, settings, prepared.owner, spec.prefix, directory)
        await _serve(helper, prepared, fs, store)


async def _serve(helper: socket.socket, prepared: Prepared, fs: FileSystem, store: S3Store) -> None:
    """Wait for the connection, serve it, and tell the helper when it works."""
    order, configuration = prepared.order, prepared.configuration
    await _expect(helper, handoff.Serve)
    session = Session(Channel(order.device), fs)
    session.start()
    await session.adapter.initialized.wait()
    _say(helper, handoff.Serving())
    directory = ""
    try:
        mounted = await _expect(helper, handoff.Mounted)
        directory = mounted.directory
        details = {"spec": order.mount.spec, "directory": directory}
        event(_log, logging.INFO, "mounted", details)
    except HelperGoneError:
        # It died after the mount was made. If that came to nothing, the device will say so.
        event(_log, logging.WARNING, "helper_gone", {"spec": order.mount.spec})
    helper.close()
    if not order.mount.foreground:
        _leave_terminal()
    for note in configuration.notes:
        event(_log, logging.INFO, "option", {"note": note})
    facts = Facts(
        *(order.mount.spec, order.mount.options, configuration, prepared.level, directory),
        *(fs, store, session.channel, session.adapter.statistics),
    )
    control = Control.open(prepared.socket_place, facts, prepared.owner.uid)
    try:
        await session.run()
    finally:
        if control is not None:
            await control.close()


def _stage_directory(prepared: Prepared, store: S3Store) -> StageDirectory | None:
    """Return where files that are changed are staged; None for in memory."""
    spec, settings, _ = prepared.configuration
    if not settings.cache:
        return None
    mount = prepared.order.mount
    place = Place(store.address, spec.bucket, spec.prefix)
    return StageDirectory.open(
        settings.cache, place, {"spec": mount.spec, "options": mount.options}
    )


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


@contextlib.contextmanager
def _refusals(helper: socket.socket, redaction: Redaction) -> Iterator[None]:
    """Tell the helper what goes wrong in here, in one line for the user.

    Raises:
        RefusedError: something did.
    """
    try:
        yield
    except _REFUSALS as error:
        _refuse(helper, redaction, getattr(error, "errno", errno.EINVAL), str(error))
    except Exception as error:  # noqa: BLE001  the user shall read something, whatever it is
        _log.error("bug", exc_info=error)
        _refuse(helper, redaction, errno.EIO, f"the worker failed: {error!r}")
    else:
        return
    raise RefusedError


def _refuse(helper: socket.socket, redaction: Redaction, number: int, reason: str) -> None:
    clean = handoff.printable(redaction.clean(reason))
    event(_log, logging.ERROR, "refused", {"reason": clean})
    _say(helper, handoff.Refuse(number, clean))
