"""INIT: which of the kernel's offers are taken, and why."""

from typing import NamedTuple

from fuse_s3_shared.limits import FUSE_REQUEST_MAX
from fuse_s3_worker.fuse import abi
from fuse_s3_worker.fuse.abi import InitFlag
from fuse_s3_worker.fuse.requests import Init

__all__ = ["WANTED", "WANTED_WITH_POSIX", "Negotiated", "UnsupportedKernelError", "negotiate"]

_PAGE = 4096
_MAX_BACKGROUND = 64  # read-ahead and writes the kernel may have in flight; its default is 12
_CONGESTION_THRESHOLD = 48  # three quarters of it, the kernel's own proportion

WANTED = (
    InitFlag.ASYNC_READ  # several READs of one file in flight
    | InitFlag.ATOMIC_O_TRUNC  # OPEN brings O_TRUNC: replacing an object is one step
    | InitFlag.BIG_WRITES  # WRITEs of more than a page
    | InitFlag.AUTO_INVAL_DATA  # cached pages go when a look shows another mtime or size
    | InitFlag.DO_READDIRPLUS  # LIST brings size and time: a listing fills the stat cache
    | InitFlag.READDIRPLUS_AUTO  # ... where somebody looks at it
    | InitFlag.ASYNC_DIO  # O_DIRECT requests in parallel
    | InitFlag.PARALLEL_DIROPS  # lookups and listings of one directory in parallel
    | InitFlag.HANDLE_KILLPRIV_V2  # setuid bits, if any, are cleared here: no GETXATTR a write
    | InitFlag.ABORT_ERROR  # an aborted connection reads ECONNABORTED, an unmounted one ENODEV
    | InitFlag.MAX_PAGES  # requests of FUSE_REQUEST_MAX
    | InitFlag.INIT_EXT  # the upper 32 flags
    | InitFlag.HAS_EXPIRE_ONLY  # entries can be expired without dropping what is below
    | InitFlag.NO_EXPORT_SUPPORT  # node ids are not good for NFS file handles
    | InitFlag.HAS_RESEND  # a later worker may ask for unanswered requests again
)

# What a mount takes that keeps modes, owners, links and attributes.
WANTED_WITH_POSIX = (
    WANTED
    | InitFlag.DONT_MASK  # a default access control list goes before a umask
    | InitFlag.POSIX_ACL  # the kernel checks access by lists
    | InitFlag.CACHE_SYMLINKS  # a link that leads elsewhere is another node
    | InitFlag.SETXATTR_EXT  # SETXATTR tells whether setgid has to go
)


class UnsupportedKernelError(Exception):
    """The kernel's protocol is too old; the message names both versions."""


class Negotiated(NamedTuple):
    """What both sides agreed on."""

    minor: int
    flags: InitFlag
    max_write: int


def negotiate(init: Init, wanted: InitFlag = WANTED) -> tuple[bytes, Negotiated | None]:
    """Answer INIT, and take what is `wanted` of what is offered.

    Returns:
        The body of the reply, and what was agreed; None when the kernel shall ask again with
        our major version, as fuse.h prescribes for a newer kernel.

    Raises:
        UnsupportedKernelError: the kernel is older than 7.31 (Linux 5.2).
    """
    if init.major > abi.KERNEL_VERSION:
        return _encode(abi.KERNEL_MINOR_VERSION, InitFlag(0), 0), None
    if (init.major, init.minor) < (abi.KERNEL_VERSION, abi.KERNEL_MINOR_MINIMUM):
        raise UnsupportedKernelError(
            f"the kernel speaks FUSE {init.major}.{init.minor}, 7.31 (Linux 5.2) is needed"
        )
    agreed = Negotiated(
        minor=min(init.minor, abi.KERNEL_MINOR_VERSION),
        flags=InitFlag(init.flags) & wanted,
        max_write=FUSE_REQUEST_MAX,
    )
    return _encode(agreed.minor, agreed.flags, init.max_readahead), agreed


def _encode(minor: int, flags: InitFlag, max_readahead: int) -> bytes:
    return abi.INIT_OUT.pack(
        abi.KERNEL_VERSION,
        minor,
        max_readahead,
        flags & 0xFFFFFFFF,
        _MAX_BACKGROUND,
        _CONGESTION_THRESHOLD,
        FUSE_REQUEST_MAX,
        1,  # time_gran: nanoseconds
        FUSE_REQUEST_MAX // _PAGE,
        0,  # map_alignment: no DAX
        flags >> 32,
        0,  # max_stack_depth: no passthrough
        0,  # request_timeout: none; a request has its own deadlines below
    )
