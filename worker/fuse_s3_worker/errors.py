"""What can go wrong between a bucket and a program, whose fault it is, and the errno it becomes.

An error is raised where the fact is known, with everything worth logging; it becomes an errno in
one place, by the one table below, and is logged in one place, where the request is answered.
"""

import errno
import logging
from enum import Enum, auto

__all__ = ["ERRNO", "Fault", "FileSystemError", "ServeError", "StoreError"]


class Fault(Enum):
    """The kinds of failure that a store can have."""

    NOT_FOUND = auto()
    NO_SUCH_BUCKET = auto()
    NO_SUCH_UPLOAD = auto()
    FORBIDDEN = auto()
    NO_CREDENTIALS = auto()
    EXPIRED_CREDENTIALS = auto()
    CLOCK_SKEW = auto()
    WRONG_REGION = auto()
    CHANGED = auto()
    ARCHIVED = auto()
    KEY_TOO_LONG = auto()
    TOO_LARGE = auto()
    QUOTA = auto()
    NOT_IMPLEMENTED = auto()
    BAD_DIGEST = auto()
    NOT_ENCRYPTED = auto()
    METADATA_TOO_LARGE = auto()
    BAD_REQUEST = auto()
    THROTTLED = auto()
    UNAVAILABLE = auto()
    UNREACHABLE = auto()
    BAD_REPLY = auto()
    NO_MEMORY = auto()


ERRNO = {
    Fault.NOT_FOUND: errno.ENOENT,
    # The mount was good once, so a bucket that is gone is no answer about one file.
    Fault.NO_SUCH_BUCKET: errno.EIO,
    # Somebody else aborted our upload: the data did not arrive.
    Fault.NO_SUCH_UPLOAD: errno.EIO,
    Fault.FORBIDDEN: errno.EACCES,
    Fault.NO_CREDENTIALS: errno.EACCES,
    Fault.EXPIRED_CREDENTIALS: errno.EACCES,
    Fault.CLOCK_SKEW: errno.EACCES,
    Fault.WRONG_REGION: errno.EIO,
    # What NFS says of a file that was replaced on the server: open it again.
    Fault.CHANGED: errno.ESTALE,
    # There, but not to be read until it is restored: a permission, not a failure.
    Fault.ARCHIVED: errno.EACCES,
    Fault.KEY_TOO_LONG: errno.ENAMETOOLONG,
    Fault.TOO_LARGE: errno.EFBIG,
    Fault.QUOTA: errno.EDQUOT,
    Fault.NOT_IMPLEMENTED: errno.EOPNOTSUPP,
    Fault.BAD_DIGEST: errno.EIO,
    # Asking again would change nothing: the store does not do as it is told.
    Fault.NOT_ENCRYPTED: errno.EIO,
    # What ext4 says of extended attributes that do not fit into its inode.
    Fault.METADATA_TOO_LARGE: errno.ENOSPC,
    Fault.BAD_REQUEST: errno.EIO,
    # These two were waited out; this is what is left when the patience is over.
    Fault.THROTTLED: errno.EIO,
    Fault.UNAVAILABLE: errno.EIO,
    Fault.UNREACHABLE: errno.EIO,
    Fault.BAD_REPLY: errno.EIO,
    Fault.NO_MEMORY: errno.ENOMEM,
}
"""Every fault, one errno; a test holds the table against the enumeration."""

_TEMPORARY = frozenset(
    {Fault.THROTTLED, Fault.UNAVAILABLE, Fault.UNREACHABLE, Fault.BAD_REPLY, Fault.BAD_DIGEST}
)


class ServeError(Exception):
    """A request of the kernel fails: `errno`, a line for the log, and how loud it is."""

    errno: int
    level: int

    @property
    def details(self) -> dict[str, object]:
        """What the log line shall have beside the message."""
        return {}


class FileSystemError(ServeError):
    """The file system's own judgement: no such name, not a directory, not now."""

    def __init__(self, number: int, text: str, level: int = logging.DEBUG) -> None:
        super().__init__(text)
        self.errno = number
        self.level = level


class StoreError(ServeError):
    """The store failed, refused, or broke its protocol.

    Attributes:
        fault: the kind of failure, which decides the errno.
        status: the HTTP status; 0 when there was no reply.
        code: the code in S3's error document, such as `SlowDown`; "" when there was none.
        request_id: the id that the server gave the request, to quote to its operators.
        retry_after: seconds that the server asked to wait, if it did.
    """

    level = logging.WARNING

    def __init__(
        self,
        fault: Fault,
        text: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.errno = ERRNO[fault]
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        if fault is Fault.NOT_FOUND:
            self.level = logging.DEBUG

    @property
    def temporary(self) -> bool:
        """Tell whether the same request may succeed a moment later."""
        return self.fault in _TEMPORARY

    @property
    def details(self) -> dict[str, object]:
        """Status, code and request id, where there are any."""
        found = {"http": self.status, "code": self.code, "request_id": self.request_id}
        return {name: value for name, value in found.items() if value}
