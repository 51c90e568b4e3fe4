"""The default: attributes come from options, and what programs set is shown and forgotten."""

import time

from fuse_s3_worker.cache.entries import Entry, Known
from fuse_s3_worker.fs.attributes import Attributes, Overrides, Ownership
from fuse_s3_worker.fs.inodes import DT_DIR, DT_REG, Inodes, Made
from fuse_s3_worker.fs.listing import Listing
from fuse_s3_worker.fs.nodes import Node

__all__ = ["Plain"]


class Plain:
    """Shows what options say (fs.inodes.Inodes)."""

    late = False

    def __init__(self, ownership: Ownership, lifetime: float) -> None:
        self._ownership = ownership
        self._lifetime = lifetime

    # -- showing: everything is known -----------------------------------------------------------

    def ready(self, key: str, name: str, entry: Entry | None, *, listed: bool = False) -> bool:
        """Say yes."""
        del key, name, entry, listed
        return True

    async def learn(self, key: str, name: str, known: Known) -> Known:
        """Return what is known."""
        del key, name
        return known

    def root_ready(self, root: Node) -> bool:
        """Say yes."""
        del root
        return True

    def known(self, node: Node) -> bool:
        """Nothing is kept."""
        del node
        return True

    async def learn_root(self, root: Node) -> None:
        """There is nothing to learn."""

    def fits(self, node: Node, entry: Entry) -> bool:
        """Say yes: a file is a file."""
        del node, entry
        return True

    def settled(self, node: Node) -> None:
        """It is shown as it is."""

    def of(self, node: Node, now: float) -> Attributes:
        """Return what options and the bucket say."""
        return self._ownership.of(node, now)

    def seconds(self, node: Node, seconds: float, now: float) -> float:
        """What is not kept is not shown any longer, either."""
        return seconds if node.overrides is None else min(seconds, node.overrides.until - now)

    def kind(self, listing: Listing, number: int, *, directory: bool) -> int:
        """There is nothing else."""
        del listing, number
        return DT_DIR if directory else DT_REG

    # -- setting: for a lifetime ----------------------------------------------------------------

    async def change(self, node: Node, overrides: Overrides) -> None:
        """Show it for a lifetime."""
        earlier = node.overrides._asdict() if node.overrides else {}
        fresh = {name: value for name, value in overrides._asdict().items() if value is not None}
        fresh["until"] = time.monotonic() + self._lifetime
        node.overrides = Overrides(**(earlier | fresh))

    def kill_privileges(self, node: Node) -> None:
        """There are none."""

    def made(self, node: Node, parent: Node, made: Made) -> None:
        """It is like all the others."""

    def moved(self, node: Node) -> None:
        """It is shown as it is."""

    def upload_ended(self, node: Node) -> None:
        """Nothing is kept."""

    # -- keeping: nothing -----------------------------------------------------------------------

    async def flush(self, node: Node) -> None:
        """Nothing is kept."""

    def check(self, node: Node) -> None:
        """Nothing fails."""

    async def close(self) -> None:
        """Nothing is kept."""


def _conforms(plain: Plain) -> Inodes:
    """Have the type checker hold this class against the protocol."""
    return plain
