"""The bytes that are read and written: long, never the same twice, and free of charge to make."""

import hashlib
import random
from collections.abc import Iterator
from functools import cached_property

__all__ = ["CHUNK", "Content"]

CHUNK = 1 << 20  # bytes of one read(2) or write(2)

_SEED = 20_000_303
_POOL = 16 * CHUNK
_STRIDE = 16_411  # prime to _POOL: 2**24 chunks pass before one comes again


class Content:
    """`size` bytes; the same ones for every Content of that size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = memoryview(random.Random(_SEED).randbytes(_POOL + CHUNK))

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes, without making them anew."""
        for number in range(-(-self.size // CHUNK)):
            at = number * _STRIDE % _POOL
            yield self._pool[at : at + min(CHUNK, self.size - number * CHUNK)]

    @cached_property
    def sha256(self) -> str:
        """Their SHA-256, in hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()
