"""What `fuse-s3 staged` has done that needs the bucket: a worker runs an errand, serving nothing.

mount.s3 starts it as it starts every worker: the same user, the same files read as root, the same
options, the same sandbox. It is a mount that is not made (mount -f), and so ends for the helper as
soon as the worker has reached the bucket; what is left to be done then takes a process that the
helper does not know, and may take its time. Its log is where the command started it from.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from fuse_s3_shared.mountopts import OptionSyntaxError, join_options, split_options
from fuse_s3_worker.conversation import Order
from fuse_s3_worker.errors import Fault, ServeError, StoreError
from fuse_s3_worker.log import event
from fuse_s3_worker.survival.supervisor import Supervisor
from fuse_s3_worker.transfer.journal import Description, JournalError
from fuse_s3_worker.transfer.recovery import load_left, store_left
from fuse_s3_worker.transfer.stagedir import Entry, EntryInUseError, StageDirectory
from fuse_s3_worker.transfer.staging import Staging

__all__ = ["Errand", "leave", "run", "taken"]

_log = logging.getLogger(__name__)

_OPTION = "errand"


class Errand(NamedTuple):
    """What to do with which staged files: `upload`, `replace` or `load`."""

    what: str
    ids: tuple[str, ...]


def taken(order: Order) -> tuple[Errand | None, Order]:
    """Take the errand out of the options of a mount that is not made, if there is one.

    Another mount has no such option, and is refused.
    """
    mount = order.mount
    try:
        options = split_options(mount.options)
    except OptionSyntaxError:
        return None, order  # whoever reads the options says so
    words = [option.value for option in options if option.name == _OPTION and option.value]
    if not (mount.dry_run and words):
        return None, order
    what, *ids = words[-1].split(":")
    if what not in _WORK:
        return None, order  # refused, as every option that nobody knows
    rest = join_options([option for option in options if option.name != _OPTION])
    return Errand(what, tuple(ids)), order._replace(
        mount=mount._replace(options=rest, dry_run=False)  # what it needs is looked after
    )


def leave(supervisor: Supervisor) -> bool:
    """Go on in another process, which neither helper nor keeper knows; tell whether this is it."""
    if os.fork():
        return False
    os.setsid()  # or the helper would end it with the keeper's group
    supervisor.leave()
    return True


async def run(errand: Errand, staging: Staging, directory: StageDirectory) -> None:
    """Do it, one staged file after the other; what comes of each is in the log."""
    for entry_id in errand.ids:
        path = directory.path / f"{entry_id}.map"
        try:
            entry, known = await staging.threads.run(partial(directory.hold, entry_id))
        except EntryInUseError:
            event(_log, logging.WARNING, "staged_in_use", {"path": path})
        except (JournalError, OSError) as error:
            event(_log, logging.WARNING, "journal_refused", {"path": path, "reason": error})
        else:
            await _WORK[errand.what](staging, entry, known)


async def _upload(staging: Staging, entry: Entry, known: Description) -> None:
    await _store(staging, entry, known, replace=False)


async def _replace(staging: Staging, entry: Entry, known: Description) -> None:
    await _store(staging, entry, known, replace=True)


async def _store(staging: Staging, entry: Entry, known: Description, *, replace: bool) -> None:
    info = await store_left(staging, entry, known, replace=replace)
    if info is not None:
        event(_log, logging.INFO, "staged_stored", {"key": info.key, "bytes": info.size})


async def _load(staging: Staging, entry: Entry, known: Description) -> None:
    try:
        await load_left(staging, entry, known)
    except ServeError as error:
        gone = isinstance(error, StoreError) and error.fault is Fault.CHANGED
        reason = "the version that it goes on from is gone" if gone else error
        details: dict[str, object] = {"key": known.key, "path": entry.path, "reason": reason}
        event(_log, logging.WARNING, "staged_not_whole", details | error.details)


_WORK: dict[str, Callable[[Staging, Entry, Description], Awaitable[None]]] = {
    "upload": _upload,
    "replace": _replace,
    "load": _load,
}
