"""Forgetting what is known of the bucket, here and in the kernel, while the mount goes on."""

import asyncio
from collections.abc import Sequence

from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.channel import Channel

__all__ = ["drop_metadata"]

_NODES_A_TURN = 1000  # told of to the kernel before its requests get their turn


async def drop_metadata(fs: FileSystem, channel: Channel | None, path: str) -> int:
    """Forget what is remembered below a path; return how many nodes the kernel was told of.

    Raises:
        FileSystemError: EINVAL, this is no path.
    """
    nodes = fs.drop_metadata(path)
    if channel is None:
        return 0
    for number, node in enumerate(nodes):
        # Attributes only, see Adapter.invalidate.
        channel.notify(replies.notify_inval_inode(node.id, offset=-1))
        if number % _NODES_A_TURN == _NODES_A_TURN - 1:
            await asyncio.sleep(0)
    try:
        channel.notify(replies.notify_inc_epoch())
    except OSError:  # before Linux 6.16
        names = [_name(node) for node in nodes if node.parent is not None and not node.gone]
        await asyncio.to_thread(_forget_names, channel, names)
    return len(nodes)


def _name(node: Node) -> tuple[int, bytes]:
    assert node.parent is not None  # noqa: S101  the caller has looked
    return node.parent.id, node.name.encode("utf-8", "surrogateescape")


def _forget_names(channel: Channel, names: Sequence[tuple[int, bytes]]) -> None:
    """Have the kernel forget names one by one; in a thread of its own.

    For each it takes the lock of the directory, which is held by whoever waits in there for an
    answer of ours.
    """
    for parent, name in names:
        channel.notify(replies.notify_inval_entry(parent, name))
