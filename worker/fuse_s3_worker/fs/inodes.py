"""Modes, owners, times and types of nodes: the two ways there are, by one interface.

A bucket tells names, sizes and one time. `plain` shows that and what options say, and forgets what
programs set; `posix` keeps it in object metadata, which takes a request for each object.
"""

from typing import NamedTuple, Protocol

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.fs.attributes import Attributes, Overrides
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import Node

__all__ = ["DT_DIR", "DT_REG", "DT_UNKNOWN", "Inodes", "Made"]

DT_UNKNOWN, DT_DIR, DT_REG = 0, 4, 8  # dirent.h


class Made(NamedTuple):
    """How a program wants what it makes.

    Attributes:
        mode: type and permissions.
        umask: permissions that are taken away, unless an access control list is inherited.
        uid: the program's, as is `gid`.
        rdev: of a device.
    """

    mode: int
    umask: int
    uid: int
    gid: int
    rdev: int = 0


class Inodes(Protocol):
    """What is shown of nodes, and what becomes of what is set.

    Attributes:
        late: whether something that was set can fail later, so that closing must be heard of.
    """

    late: bool

    # -- showing --------------------------------------------------------------------------------

    def ready(self, key: str, name: str, entry: Entry | None, *, listed: bool = False) -> bool:
        """Tell whether all is known of what `name` in the directory `key` stands for.

        `listed` tells that nobody has asked for it, but a listing could bring it along.
        """

    async def learn(self, key: str, name: str, known: Known) -> Known:
        """Ask for what is not known; return what the name stands for, which may be news.

        Raises:
            StoreError: the store cannot be asked.
        """

    def known(self, node: Node) -> bool:
        """Tell whether it is known what is kept of a node, as it must be before it is changed.

        It is not of a node that the kernel has from a worker before this one.
        """

    def root_ready(self, root: Node) -> bool:
        """Do the same for the root, which has no name."""

    async def learn_root(self, root: Node) -> None:
        """Do the same for the root."""

    def fits(self, node: Node, entry: Entry) -> bool:
        """Tell whether a node can be what `entry` stands for, or another must be in its place."""

    def settled(self, node: Node) -> None:
        """Take note that `node.info` is what the bucket has now."""

    def of(self, node: Node, now: float) -> Attributes:
        """Return what stat(2) shows at `now` (monotonic seconds)."""

    def seconds(self, node: Node, seconds: float, now: float) -> float:
        """Return for how much of `seconds` that can be believed."""

    def kind(self, listing: Listing, number: int, *, directory: bool) -> int:
        """Return DT_* of an entry of a listing."""

    # -- setting --------------------------------------------------------------------------------

    async def change(self, node: Node, overrides: Overrides) -> None:
        """Set mode, owner and times.

        Raises:
            ServeError: they cannot be set.
        """

    def kill_privileges(self, node: Node) -> None:
        """Take setuid and setgid away: somebody without rights to set them has written."""

    def made(self, node: Node, parent: Node, made: Made) -> None:
        """Note what a new node is, before anything of it is stored."""

    def moved(self, node: Node) -> None:
        """Take note that `node.info` is what the node was, under another key."""

    def upload_ended(self, node: Node) -> None:
        """Take note that nobody writes to a node any more."""

    # -- keeping --------------------------------------------------------------------------------

    async def flush(self, node: Node) -> None:
        """Return when the store has what was set.

        Raises:
            ServeError: it does not, and what was set is gone.
        """

    def check(self, node: Node) -> None:
        """Raise what failed since somebody has asked."""

    async def close(self) -> None:
        """End: nothing that was set is left behind."""
