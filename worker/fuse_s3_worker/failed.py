"""A request has failed: which errno it gets, and the one line about it."""

import errno
import logging
from collections.abc import Mapping

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.log import event

__all__ = ["report"]


def report(
    log: logging.Logger,
    error: Exception,
    request: Mapping[str, object],
    more: Mapping[str, object] | None = None,
) -> int:
    """Write the one line about a request that failed.

    Args:
        log: where.
        error: why; what is not a ServeError is a mistake of ours.
        request: what it was, for the beginning of the line.
        more: for its end.

    Returns:
        The errno, positive.
    """
    if isinstance(error, ExceptionGroup) and isinstance(error.exceptions[0], ServeError):
        return report(log, error.exceptions[0], request, more)
    number, level, details = errno.EIO, logging.ERROR, dict[str, object]()
    if isinstance(error, ServeError):
        number, level, details = error.errno, error.level, error.details
    why = {"errno": errno.errorcode.get(number, number), "reason": error}
    event(log, level, "request_failed", dict(request) | why | dict(more or {}) | details)
    if not isinstance(error, ServeError):
        log.error("this is a bug", exc_info=error)
    return number
