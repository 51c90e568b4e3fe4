"""Files that were being written when a worker died.

Nobody has what was written to them, so whoever asks for it is told that it is lost. What the cache
directory has of a file as it was closed or fsynced is another matter: that is being stored, and
when it is, nothing is lost after all, for those who still have the file open either.
"""

import errno
import logging
from collections.abc import Callable

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.nodes import Node, Nodes
from fuse_s3_worker.fs.recording import HandleRecord, Remains
from fuse_s3_worker.transfer.writer import FileWriter, Writers

__all__ = ["Survivors"]


class Survivors:
    """The files that a predecessor had open."""

    def __init__(self, nodes: Nodes, writers: Writers) -> None:
        self._nodes = nodes
        self._writers = writers
        self._lost: dict[Node, FileWriter] = {}

    def restore(self, remains: Remains, opened: Callable[[Node, HandleRecord], object]) -> None:
        """Have them open again, each by `opened`."""
        for record in remains.handles:
            node = self._nodes.get(record.node)
            if node is None:
                continue
            node.pins += 1
            opened(node, record)
            node.info = remains.versions.get(node.id, node.info)
            if node.info is not None:
                node.info = node.info._replace(key=node.key)
                node.cached_etag = node.info.etag if node.id in remains.read else None
            if node.id in remains.changed and node.upload is None:
                self._lose(node)

    def _lose(self, node: Node) -> None:
        """Have everybody be told who asks for what was written."""
        node.upload = self._lost[node] = self._writers.begin(node.key)
        text = f"{node.key!r} was being written when the worker died: the bucket has what it had"
        node.upload.fail(FileSystemError(errno.EIO, text, logging.ERROR))

    async def save(self, node: Node) -> None:
        """Take note that the bucket has what was written, all of it."""
        upload = self._lost.pop(node, None)
        if upload is not None and node.upload is upload:
            node.upload = None
            await upload.close()
