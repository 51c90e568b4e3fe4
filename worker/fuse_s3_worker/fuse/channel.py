"""The descriptor of /dev/fuse: one read is one request, one write is one reply."""

import errno
import logging
import mmap
import os
from collections.abc import Sequence

from fuse_s3_shared.limits import FUSE_REQUEST_MAX
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.log import event

__all__ = ["Channel", "AbortedError", "UnmountedError"]

_log = logging.getLogger(__name__)

_HEADROOM = mmap.PAGESIZE  # the kernel wants room for the headers beside a full WRITE

Buffer = bytes | bytearray | memoryview


class UnmountedError(Exception):
    """The file system was unmounted: the normal end of a session."""


class AbortedError(Exception):
    """Somebody aborted the connection (umount -f, or /sys/fs/fuse/connections)."""


class Channel:
    """Reads requests and writes replies; non-blocking.

    The buffer is used again for every request: whatever a handler keeps of it, it copies.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = memoryview(mmap.mmap(-1, FUSE_REQUEST_MAX + _HEADROOM))

    def receive_nowait(self) -> memoryview | None:
        """Return the next request; None when there is none right now.

        Raises:
            UnmountedError: there will not be another one.
            AbortedError: nor here.
        """
        while True:
            try:
                length = os.readv(self.fd, [self._buffer])
            except BlockingIOError:
                return None
            except OSError as error:
                _raise_if_over(error)
                # ENOENT: the request was taken back while it was being read. EINTR: a signal.
                if error.errno not in {errno.ENOENT, errno.EINTR}:
                    raise
            else:
                return self._buffer[:length]

    def reply(self, unique: int, *body: Buffer) -> None:
        """Answer the request `unique` with `body`, in pieces that are not copied together."""
        try:
            self._write([replies.header(unique, sum(map(len, body))), *body])
        except OSError as error:
            # The kernel does not take this answer. Whoever waits gets another one: a mistake of
            # ours costs one request, not the mount.
            event(_log, logging.ERROR, "reply_refused", {"unique": unique, "reason": error})
            self._write([replies.header(unique, 0, errno.EIO)])

    def fail(self, unique: int, error: int) -> None:
        """Answer the request `unique` with the errno `error` (positive)."""
        self._write([replies.header(unique, 0, error)])

    def notify(self, message: bytes) -> None:
        """Tell the kernel something; that it does not know the node is no error."""
        self._write([message])

    def _write(self, pieces: Sequence[Buffer]) -> None:
        try:
            os.writev(self.fd, pieces)
        except OSError as error:
            # ENOENT: whoever asked was killed and nobody waits for the answer; or, for a
            # notification, nothing is cached. The end of the connection shows in the next read.
            if error.errno not in {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED}:
                raise

    def close(self) -> None:
        """Give up the descriptor; whoever still waits for an answer gets ENOTCONN."""
        os.close(self.fd)
        self.fd = -1


def _raise_if_over(error: OSError) -> None:
    if error.errno == errno.ENODEV:
        raise UnmountedError from None
    if error.errno == errno.ECONNABORTED:
        raise AbortedError from None
