"""A mount's control socket from beginning to end: what the rest of the worker has to do with it.

A mount without one works as well, so nothing here is a reason for a mount to fail.
"""

import asyncio
import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Self

from fuse_s3_control.places import About
from fuse_s3_worker.control.door import Door, Server
from fuse_s3_worker.control.facts import Facts, device_number
from fuse_s3_worker.control.place import NoPlaceError, SocketPlace, make_place
from fuse_s3_worker.log import event

__all__ = ["Control", "socket_place"]

_log = logging.getLogger(__name__)

_ROOT = 0


def socket_place() -> SocketPlace | None:
    """Make a place for the control socket, before the sandbox closes; None where that cannot be."""
    try:
        return make_place()
    except NoPlaceError as error:
        event(_log, logging.INFO, "no_control_socket", {"reason": error})
        return None


def _is_somebody(uid: int) -> bool:
    """Tell whether a uid is one user's in this user namespace, and not all unknown ones'."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, length = map(int, line.split())
        if first <= uid < first + length:
            return True
    return False


class Control:
    """The control socket of a mount that is being served."""

    def __init__(self, place: SocketPlace, facts: Facts, owner: int) -> None:
        """Answer root, and the `owner` of the mount's files."""
        self._place = place
        self._facts = facts
        admitted = frozenset(uid for uid in (_ROOT, owner) if _is_somebody(uid))
        self._door = Door(place, admitted, self._start)

    @classmethod
    def open(cls, place: SocketPlace | None, facts: Facts, owner: int) -> Self | None:
        """Begin to answer; None where there is no place to do that."""
        if place is None:
            return None
        control = cls(place, facts, owner)
        try:
            place.write_about(control.about())
        except OSError as error:
            event(_log, logging.WARNING, "no_control_socket", {"reason": error})
            place.close()
            return None
        control._door.open()
        event(_log, logging.DEBUG, "control_socket", {"path": place.path})
        return control

    def about(self) -> About:
        """Return what everybody may know."""
        facts = self._facts
        return About(
            spec=facts.spec.encode("utf-8", "backslashreplace").decode(),
            directory=facts.directory.encode("utf-8", "backslashreplace").decode(),
            device=device_number(facts.device),
            pid=os.getpid(),
            since=facts.since,
        )

    async def _start(self, path: str) -> Server:
        """Import what all this takes, which is a lot, while the mount goes on; and start it."""
        names = ("service", "subject")
        service, subject = [
            await asyncio.to_thread(import_module, f"fuse_s3_worker.control.{name}")
            for name in names
        ]
        server: Server = await service.start(subject.Controlled(self._facts), path)
        return server

    async def close(self) -> None:
        """Answer nobody any more."""
        await self._door.close()
