"""What all uploads of a mount share: sizes of parts, and what is kept of those that were sent."""

from typing import Protocol

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.store.types import ObjectStore
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.partsize import largest_object
from fuse_s3_worker.transfer.planner import Limits

__all__ = ["Keeper", "Uploads"]


class Keeper(Protocol):
    """Who keeps parts that were sent."""

    def let_go(self) -> int:
        """Keep them no longer, or see to it that it is no longer memory that they are kept in."""


class Uploads:
    """What all uploads of a mount share.

    Attributes:
        largest_part: bytes of a part at most: while one is filled and another is on its way,
            half of the memory is left for others.
        size_limit: bytes of an object at most.
        limits: what parts may be like.
    """

    def __init__(self, store: ObjectStore, pool: Pool, first_part: int) -> None:
        self.store = store
        self.pool = pool
        self.first_part = first_part
        self.largest_part = max(pool.budget // 4 // MIB * MIB, first_part)
        self.size_limit = largest_object(first_part, self.largest_part)
        self.limits = Limits(first_part, self.largest_part)
        self._keep_max = pool.budget // 4
        self._keepers: dict[Keeper, int] = {}  # who keeps parts that were sent, oldest first

    def keep(self, upload: Keeper, size: int) -> None:
        """Take note that a part is kept; where it is too much, the oldest must let go."""
        self._keepers[upload] = self._keepers.get(upload, 0) + size
        for keeper in list(self._keepers):
            if sum(self._keepers.values()) <= self._keep_max:
                return
            keeper.let_go()

    def keeps_nothing(self, upload: Keeper) -> int:
        """Take note that all was let go; return how much it was."""
        return self._keepers.pop(upload, 0)
