"""The mount as the control service sees it; `report` has what there is to tell.

Imported when the first client speaks.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fuse_s3_control import control_pb2 as pb
from fuse_s3_worker import log
from fuse_s3_worker.control.facts import Facts
from fuse_s3_worker.control.forgetting import drop_metadata
from fuse_s3_worker.control.report import report
from fuse_s3_worker.control.service import RefusedError, UnavailableError
from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.log import event

__all__ = ["Controlled"]

_log = logging.getLogger(__name__)


@dataclass
class Controlled:
    """What control.service.Subject asks for."""

    facts: Facts

    def status(self, _: pb.StatusRequest) -> pb.StatusReply:
        """Tell everything."""
        return report(self.facts)

    def restart(self, _: pb.RestartRequest) -> pb.RestartReply:
        """Begin to hand over to the next worker."""
        hand_over: Callable[[], None] | None = self.facts.hand_over
        if hand_over is None:
            raise UnavailableError("nobody would go on with this mount: umount and mount it again")
        event(_log, logging.INFO, "restart_asked")
        hand_over()
        return pb.RestartReply()

    def set_log_level(self, request: pb.SetLogLevelRequest) -> pb.SetLogLevelReply:
        """Log more, or less, until the worker ends."""
        level = log.LEVELS.get(request.level)
        if level is None:
            raise RefusedError(f"no log level '{request.level[:64]}': {', '.join(log.LEVELS)}")
        before = log.level_name()
        event(_log, logging.INFO, "log_level", {"before": before, "now": request.level})
        logging.getLogger("fuse_s3_worker").setLevel(level)
        return pb.SetLogLevelReply(before=before)

    async def drop_metadata(self, request: pb.DropMetadataRequest) -> pb.DropMetadataReply:
        """Forget what is remembered below a path."""
        try:
            nodes = await drop_metadata(self.facts.fs, self.facts.channel, request.path)
        except FileSystemError as error:
            raise RefusedError(str(error)) from None
        event(_log, logging.INFO, "metadata_dropped", {"path": request.path, "nodes": nodes})
        return pb.DropMetadataReply(nodes=nodes)
