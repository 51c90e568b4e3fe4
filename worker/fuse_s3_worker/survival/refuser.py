"""The last resort: a mount that cannot be served any more, and that must not hang.

Every request gets EIO at once until the file system is unmounted. Nothing is known here of names
and nodes; there is no store, and no loop.
"""

import errno
import select

from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.fuse.channel import AbortedError, Channel, UnmountedError
from fuse_s3_worker.fuse.requests import Header, MalformedRequestError

__all__ = ["refuse_all"]

_UNANSWERED = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
_GRANTED = {Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.DESTROY}


def refuse_all(channel: Channel) -> None:
    """Answer EIO to everything, also to what a predecessor left unanswered; return at the end."""
    channel.notify(replies.notify_resend())
    while True:
        try:
            request = channel.receive_nowait()
        except (UnmountedError, AbortedError):
            return
        if request is None:
            select.select([channel.fd], [], [])
        else:
            _answer(channel, request)


def _answer(channel: Channel, request: memoryview) -> None:
    try:
        header = Header.decode(request)
    except MalformedRequestError:
        return
    if header.opcode in _GRANTED:
        channel.reply(header.unique)
    elif header.opcode not in _UNANSWERED:
        channel.fail(header.unique, errno.EIO)
