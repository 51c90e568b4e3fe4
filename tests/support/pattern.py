"""Bytes that are different wherever a mistake could take them from."""

import functools
import random

__all__ = ["pattern"]


@functools.lru_cache(maxsize=32)
def pattern(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes, the same ones for the same seed."""
    return random.Random(seed).randbytes(size)
