"""Where something is, and where it is to go."""

from typing import NamedTuple

from fuse_s3_worker.fs.attempts import Change
from fuse_s3_worker.fs.nodes import Node

__all__ = ["Move", "Place", "renaming"]


class Place(NamedTuple):
    """A name in a directory."""

    parent: Node
    name: str

    @property
    def key(self) -> str:
        """The key of a file of this name."""
        return self.parent.key + self.name

    @property
    def node(self) -> Node | None:
        """The node that has the name now."""
        return self.parent.children.get(self.name)


def renaming(node: Node, source: Place, target: Place) -> tuple[Change, str, str, str]:
    """Return how a rename of a node is recorded."""
    return Change.RENAME, source.key, target.key, str(node.id)


class Move(NamedTuple):
    """A rename.

    Attributes:
        node: what is renamed.
        source: its name.
        target: the name that it is to have.
        there: what has that name now, and is replaced.
        exclusive: whether nothing may be there.
        begun: whether an earlier worker has begun it, so that what is there may be its doing.
    """

    node: Node
    source: Place
    target: Place
    there: Node | None
    exclusive: bool
    begun: bool = False

    @property
    def change(self) -> tuple[Change, str, str, str]:
        """How it is recorded."""
        return renaming(self.node, self.source, self.target)

    @property
    def copy(self) -> tuple[Change, str, str]:
        """How a copy is recorded that replaces nothing."""
        return Change.COPY, self.source.key, self.target.key
