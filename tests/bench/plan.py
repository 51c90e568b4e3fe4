"""What `make bench` measures when it is not told: as much as fits into a quarter of an hour.

What depends on the machine is measured on the fast server, what depends on waiting on the slow
one. Where a peer takes minutes, it gets some seconds, and its rate is that of what it did in them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.server.configuration import SHAPES

__all__ = ["PLAN", "Row", "Stage", "stages"]


class Stage(NamedTuple):
    """One server that something is measured on."""

    shape: str
    tls: bool = False

    @property
    def name(self) -> str:
        """The key in the results."""
        return f"{self.shape}-tls" if self.tls else self.shape

    @property
    def title(self) -> str:
        """For people."""
        return f"{SHAPES[self.shape].description}, over HTTP{'S' if self.tls else ''}"


class Row(NamedTuple):
    """One measurement: where, what, how often, and beside whom."""

    stage: Stage
    workload: str
    rounds: int
    peers: Sequence[str]


_FAST, _TLS, _SLOW = Stage("fast"), Stage("fast", tls=True), Stage("s3like")

_ALL = ("s3fs", "rclone")  # as they are without options; others when they are asked for
_TUNED = ("s3fs", "s3fs-32", "rclone")
_NONE = ()

PLAN = (
    # What the machine can do.
    Row(_FAST, "seq_read_1g", 2, _ALL),
    Row(_FAST, "seq_read_direct", 2, _NONE),
    Row(_FAST, "seq_read_4_jobs", 1, _ALL),
    Row(_FAST, "seq_write_1g", 2, _ALL),
    Row(_FAST, "seq_write_4_jobs", 1, _ALL),
    Row(_FAST, "mixed_2r2w", 1, _ALL),
    Row(_FAST, "mixed_64r16w", 1, _NONE),
    Row(_FAST, "small_read", 1, _ALL),
    Row(_FAST, "ls_f_flat_100k", 1, ("rclone",)),
    Row(_FAST, "list_1m_flat", 1, _NONE),
    Row(_FAST, "idle_memory", 1, _ALL),
    Row(_TLS, "seq_read_1g", 1, _ALL),
    # What waiting costs.
    Row(_SLOW, "seq_read_1g", 2, _TUNED),
    Row(_SLOW, "seq_write_1g", 1, _ALL),
    Row(_SLOW, "seq_read_5m", 1, _ALL),
    Row(_SLOW, "rand_read_4k_16", 1, _ALL),
    Row(_SLOW, "rand_read_256k_1", 1, _ALL),
    Row(_SLOW, "rand_read_256k_16", 1, _ALL),
    Row(_SLOW, "rand_read_files", 1, _ALL),
    Row(_SLOW, "rand_read_threads", 1, _NONE),
    Row(_SLOW, "strided", 1, _ALL),
    Row(_SLOW, "backward", 1, _ALL),
    Row(_SLOW, "parquet", 1, _ALL),
    Row(_SLOW, "first_byte", 1, _ALL),
    Row(_SLOW, "small_read", 1, _ALL),
    Row(_SLOW, "small_write", 1, _ALL),
    Row(_SLOW, "create_1b", 1, _ALL),
    Row(_SLOW, "ls_f_flat_100k", 1, _ALL),
    Row(_SLOW, "ls_f_flat_100k_warm", 1, _NONE),
    Row(_SLOW, "ls_l_flat_100k", 1, _ALL),
    Row(_SLOW, "find_nested_10k", 1, _ALL),
    Row(_SLOW, "stat_storm", 1, _ALL),
    Row(_SLOW, "mount_to_ls", 2, _ALL),
    Row(_SLOW, "mount_to_read", 2, _ALL),
)


def stages(rows: Iterable[Row]) -> list[Stage]:
    """Return the servers of some rows, in their order."""
    return list(dict.fromkeys(row.stage for row in rows))
