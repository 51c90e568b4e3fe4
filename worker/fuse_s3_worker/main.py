"""The worker: takes a mount from the helper, or from a worker that died; serves it; ends with it.

Started by systemd or by the keeper, with descriptors whose names say which of both it is to do.
"""

import logging
import sys

from fuse_s3_worker import sandbox
from fuse_s3_worker.config.describe import help_text
from fuse_s3_worker.conversation import HelperGoneError, RefusedError
from fuse_s3_worker.service import serve_first, serve_on
from fuse_s3_worker.survival.holding import DEVICE, SecondWorkerError
from fuse_s3_worker.survival.supervisor import Supervisor

__all__ = ["main"]

_log = logging.getLogger(__name__)

_NOTHING_TO_DO = 1  # and no reason to start another worker
_FAULT = 70  # EX_SOFTWARE of sysexits.h: the next worker may do better


def main() -> int:
    """Run the worker; return its exit status."""
    if sys.argv[1:] == ["--help"]:
        sys.stdout.write(help_text())
        return 0
    if sys.argv[1:]:
        return _complain("it is started by mount.s3; see mount.s3 --help")
    level = sandbox.confine()
    try:
        sandbox.check()
        supervisor = Supervisor.from_environment()
        supervisor.ready()
        if DEVICE in supervisor.stored:
            return serve_on(supervisor, level)
        if supervisor.connection is None:
            return _complain("nobody has a mount for it")
        return serve_first(supervisor, supervisor.connection, level)
    except RefusedError:
        return 0
    except (HelperGoneError, SecondWorkerError, sandbox.TooPowerfulError) as error:
        return _complain(str(error))
    except Exception as error:  # noqa: BLE001  whatever it is, the next worker starts afresh
        _log.error("bug", exc_info=error)
        _complain(repr(error))
        return _FAULT


def _complain(text: str) -> int:
    sys.stderr.write(f"fuse-s3-worker: {text}\n")
    return _NOTHING_TO_DO
