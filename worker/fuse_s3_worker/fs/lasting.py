"""What has a file open goes on with it after it was removed: its bytes are brought here before.

S3 deletes at once, and programs remove files that they, or others, have open: a temporary file, a
log that is read to its end, a library that is replaced. Renaming the object aside would leave it in
the bucket when this worker dies; so what is open is fetched, if it is not too much to wait for.
"""

import contextlib
import logging
from collections.abc import AsyncIterator

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs.core import Core
from fuse_s3_worker.fs.nodes import Node
from fuse_s3_worker.log import event

__all__ = ["LASTING_MAX", "lasting"]

_log = logging.getLogger(__name__)

# Who removes a file waits for it: a second or a few. What is not fetched gives ESTALE to who reads
# it later, as on NFS.
LASTING_MAX = 64 * MIB


@contextlib.asynccontextmanager
async def lasting(core: Core, node: Node | None) -> AsyncIterator[None]:
    """Have the bytes of `node` here, if it is an open file, while its object is being removed.

    It is about to be, and is not when an exception leaves the block: then all is as it was.
    """
    if node is None or node.is_directory or not (node.readers or node.writers):
        yield
        return
    before = node.upload
    if before is None:
        node.upload = core.writers.begin(node.key, node.info, read_back=True)
    try:
        if not await _taken(node) and before is None:
            await _let_go(node)
        yield
    except BaseException:
        if before is None and not node.writers:
            await _let_go(node)
        raise


async def _taken(node: Node) -> bool:
    """Fetch what is not here, and tell whether that could be."""
    try:
        if node.upload is not None:
            await node.upload.take(LASTING_MAX)
    except ServeError as error:
        event(_log, logging.INFO, "not_kept_open", {"key": node.key, "reason": error})
        return False
    return True


async def _let_go(node: Node) -> None:
    """Have nothing of a file here that nobody has written to."""
    upload = node.upload
    if upload is not None and not upload.dirty:
        node.upload = None
        await upload.close()
