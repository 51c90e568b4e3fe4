"""From an order to a worker that is ready to reach its store, in its sandbox.

The order and its options are read first, whether they come from the helper or from what a
predecessor has recorded. Then the sandbox closes, before there is a loop, a second thread, or a
byte of the network's.
"""

import logging
import os
from typing import NamedTuple

from fuse_s3_shared import handoff
from fuse_s3_shared.limits import FILE_MAX
from fuse_s3_shared.mountopts import MountOption, join_options
from fuse_s3_worker import log, sandbox
from fuse_s3_worker.config.environment import take_environment
from fuse_s3_worker.config.parse import Configuration, ConfigurationError, configure
from fuse_s3_worker.control.opening import socket_place
from fuse_s3_worker.control.place import SocketPlace
from fuse_s3_worker.conversation import LOG_FILE, Order
from fuse_s3_worker.fs import opener
from fuse_s3_worker.log import Redaction, event
from fuse_s3_worker.portable import library
from fuse_s3_worker.serve import Owner
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.needs import credential_programs, store_needs
from fuse_s3_worker.store.opening import open_store, reopen_store
from fuse_s3_worker.store.programs import Programs
from fuse_s3_worker.transfer.stagedir import Place, StageDirectory, open_cache

__all__ = [
    "Prepared",
    "leave_terminal",
    "log_to",
    "owner_of",
    "prepare",
    "reach_store",
    "stage_directory",
    "start_log",
]

_log = logging.getLogger(__name__)

_ENVIRONMENT = "environment"
_STANDARD = (0, 1, 2)
# Of no file, or of one that counts for less than those that were named.
_FOUND_AGAIN = frozenset({LOG_FILE, _ENVIRONMENT, "passwd_default"})
_NO_PROGRAMS = (
    "credential_process starts a program, and systemd's unit for workers has none started: "
    "mount with the option worker_user=fuse-s3, which does without the unit"
)


class Prepared(NamedTuple):
    """What an order comes to."""

    order: Order
    contents: dict[str, tuple[str, bytes]]
    configuration: Configuration
    owner: Owner
    programs: Programs | None
    redaction: Redaction
    level: sandbox.Level
    socket_place: SocketPlace | None

    @property
    def examines(self) -> bool:
        """Tell whether the bucket is to be tried, and not to be served."""
        return self.order.mount.dry_run and self.configuration.settings.examine


def start_log(order: Order) -> Redaction:
    """Log where the order says; return what keeps secrets out of it."""
    if LOG_FILE in order.files:
        return log_to(order.files[LOG_FILE][1])
    return log_to(os.dup(2) if order.mount.foreground else None)


def log_to(fd: int | None) -> Redaction:
    """Log to this file, or where programs log without one."""
    if fd is None:
        return log.set_up(logging.INFO)
    file = os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")
    return log.set_up(logging.INFO, file=file)


def prepare(
    order: Order, redaction: Redaction, level: sandbox.Level, *, in_unit: bool = False
) -> Prepared:
    """Read what was ordered, and enter the sandbox; `in_unit` is where systemd confines as well.

    Raises:
        ConfigurationError: it is not right.
        NotConfinedError: the sandbox is not strict, and has to be.
        CacheDirectoryError: the cache directory is of no use.
    """
    contents = {
        name: (file.path, os.pread(fd, FILE_MAX, 0))
        for name, (file, fd) in order.files.items()
        if name != LOG_FILE
    }
    take_environment(contents.pop(_ENVIRONMENT, ("", b""))[1])
    mount = order.mount
    configuration = configure(mount.spec, mount.options, sloppy=mount.sloppy)
    settings = configuration.settings
    logging.getLogger("fuse_s3_worker").setLevel(log.LEVELS[settings.log_level])
    # Who starts programs that give keys is started while that can be done.
    commands = credential_programs(settings, contents)
    if commands and in_unit:
        raise ConfigurationError(_NO_PROGRAMS)
    inside = settings.sandbox != "off" and (settings.examine or not mount.dry_run)
    programs = Programs(commands) if commands and inside else None
    if settings.engine == "libfuse":
        library.load()
    place = None if mount.dry_run else socket_place()
    entered = _enter_sandbox(level, configuration, contents, place)
    owner = owner_of(configuration, mount)
    return Prepared(order, contents, configuration, owner, programs, redaction, entered, place)


def owner_of(configuration: Configuration, mount: handoff.Mount) -> Owner:
    """Return whose files they are: what the options say, else who mounted."""
    settings = configuration.settings
    uid = mount.uid if settings.uid is None else settings.uid
    gid = mount.gid if settings.gid is None else settings.gid
    return Owner(uid, gid)


def _enter_sandbox(
    level: sandbox.Level,
    configuration: Configuration,
    contents: dict[str, tuple[str, bytes]],
    place: SocketPlace | None,
) -> sandbox.Level:
    """Give up what this mount has no need for; what is needed later is needed by the store.

    User names are numbers by now, the log is open, and what the helper read is in memory.
    """
    settings = configuration.settings
    needs = store_needs(settings, contents)
    if settings.cache:
        os.close(open_cache(settings.cache))
        needs = needs._replace(own=(*needs.own, settings.cache))
    if place is not None:
        needs = needs._replace(own=(*needs.own, str(place.path)))
    if opener.needs_proc():
        needs = needs._replace(directories=(*needs.directories, "/proc"))
    entered = sandbox.enter(level, settings.sandbox, needs)
    event(_log, logging.INFO, "sandbox", entered.details())
    return entered


async def reach_store(prepared: Prepared, *, anew: bool) -> S3Store:
    """Return the store; where the mount is made `anew`, it has answered a request.

    Raises:
        CannotServeError: it is of no use.
    """
    reach = open_store if anew else reopen_store
    spec, settings, _ = prepared.configuration
    return await reach(spec, settings, prepared.contents, prepared.redaction, prepared.programs)


def stage_directory(prepared: Prepared, store: S3Store) -> StageDirectory | None:
    """Return where files that are changed are staged; None for in memory.

    Raises:
        CacheDirectoryError: it is of no use.
    """
    spec, settings, _ = prepared.configuration
    if not settings.cache:
        return None
    place = Place(store.address, spec.bucket, spec.prefix)
    return StageDirectory.open(settings.cache, place, _about(prepared.order, store.address))


def _about(order: Order, address: str) -> dict[str, str]:
    """Return what it takes to get to the bucket again, but for what is in the environment."""
    files = [
        MountOption(name, file.path)
        for name, (file, _) in order.files.items()
        if name not in _FOUND_AGAIN
    ]
    return {
        "spec": order.mount.spec,
        "options": order.mount.options,
        "files": join_options(files),
        "endpoint": address,
    }


def leave_terminal() -> None:
    """Whoever started the mount may close what it watched our start with."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _STANDARD:
        os.dup2(null, fd)
    os.close(null)
