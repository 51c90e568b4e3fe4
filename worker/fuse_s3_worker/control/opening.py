"""A mount's control socket from beginning to end: what the rest of the worker has to do with it.

A mount without one works as well, so nothing here is a reason for a mount to fail.
"""

import asyncio
import logging
import os
from importlib import import_module
from typing import Self

from fuse_s3_control.places import About
from fuse_s3_worker.control.door import Door, Server
from fuse_s3_worker.control.facts import Facts, device_number
from fuse_s3_worker.control.place import NoPlaceError, SocketPlace, make_place
from fuse_s3_worker.log import event
from fuse_s3_worker.sandbox import Needs

__all__ = ["Control", "with_place"]

_log = logging.getLogger(__name__)

_ROOT = 0


def with_place(needs: Needs) -> tuple[SocketPlace | None, Needs]:
    """Make a place for the control socket; return it, and needs that have it.

    This comes before the sandbox closes, and before there is a second thread.
    """
    try:
        place = make_place()
    except NoPlaceError as error:
        event(_log, logging.INFO, "no_control_socket", {"reason": error})
        return None, needs
    return place, needs._replace(own=(*needs.own, str(place.path)))


class Control:
    """The control socket of a mount that is being served."""

    def __init__(self, place: SocketPlace, facts: Facts, owner: int) -> None:
        """Answer root, and the `owner` of the mount's files."""
        self._place = place
        self._facts = facts
        self._door = Door(place, frozenset({_ROOT, owner}), self._start)

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
            device=device_number(facts.channel.fd),
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
