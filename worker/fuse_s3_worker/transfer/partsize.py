"""How large each part of an upload is, when nobody knows how large the object will be.

S3 takes 10,000 parts of up to 5 GiB and objects of up to 5 TiB. Parts of one size either forbid
large objects or make small uploads wait, so the size grows: as slowly as the largest object
allows, since a part is held in memory until the store has it. The memory bounds the parts, and
the parts bound the object; `largest_object` says where that ends.
"""

from fuse_s3_worker.config.units import GIB, MIB, TIB

__all__ = [
    "OBJECT_MAX", "PARTS_MAX", "PART_MAX", "PART_MIN", "even_size", "largest_object", "part_size",
]  # fmt: skip

# "Amazon S3 multipart upload limits" in the S3 user guide.
PARTS_MAX = 10_000
PART_MIN = 5 * MIB
PART_MAX = 5 * GIB
OBJECT_MAX = 5 * TIB

_STEP = 1_000  # so many parts of one size, then the size doubles


def part_size(number: int, first: int, largest: int) -> int:
    """Return the size of part `number`, beginning at 1.

    Args:
        number: which part.
        first: size of the first parts: the option part_size.
        largest: what memory allows, at least `first`.
    """
    return min(first << ((number - 1) // _STEP), largest, PART_MAX)


def largest_object(first: int, largest: int) -> int:
    """Return how many bytes fit into PARTS_MAX parts, at most OBJECT_MAX."""
    steps = range(1, PARTS_MAX + 1, _STEP)
    return min(sum(_STEP * part_size(number, first, largest) for number in steps), OBJECT_MAX)


def even_size(size: int, least: int) -> int:
    """Return the size of equal parts that an object of `size` bytes can be made of."""
    return max(least, -(-size // (PARTS_MAX * MIB)) * MIB)
