"""Checksums that S3 verifies before it stores anything (API: x-amz-checksum-*).

The sum of a whole object is combined from its parts' sums, so every byte is summed once, on its
way from the program's buffer to the socket, and what S3 assembled is compared with what was
written. Native code of awscrt: about 10 GB/s, outside the interpreter lock.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from fuse_s3_worker.http.connection import Buffer
from fuse_s3_worker.store.types import PartResult

__all__ = ["Algorithm", "algorithm", "md5_etag", "multipart_etag"]

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


class Algorithm(NamedTuple):
    """One checksum, with its names in headers and documents."""

    name: str
    size: int  # bytes of a sum
    update: Callable[[Buffer, int], int]
    combine: Callable[[int, int, int], int]

    @property
    def header(self) -> str:
        """The header that carries a sum."""
        return f"x-amz-checksum-{self.name}"

    @property
    def label(self) -> str:
        """The value of x-amz-checksum-algorithm."""
        return self.name.upper()

    @property
    def element(self) -> str:
        """The element of CompleteMultipartUpload that carries a part's sum."""
        return f"Checksum{self.label}"

    def of(self, pieces: Iterable[Buffer]) -> str:
        """Return the sum of `pieces` in base64."""
        value = 0
        for piece in pieces:
            value = self.update(piece, value)
        return self._encode(value)

    def of_parts(self, parts: Sequence[tuple[str, int]]) -> str:
        """Return the sum of an object from its parts' sums and sizes, in order."""
        value = 0
        for encoded, size in parts:
            value = self.combine(value, int.from_bytes(base64.b64decode(encoded), "big"), size)
        return self._encode(value)

    def _encode(self, value: int) -> str:
        return base64.b64encode(value.to_bytes(self.size, "big")).decode()


@cache
def algorithm(name: str) -> Algorithm:
    """Return the checksum `name`: crc32c or crc64nvme."""
    # Imported here: it takes as long as a fifth of mounting, and reading does without.
    from awscrt import checksums  # noqa: PLC0415

    table = {
        "crc32c": (4, checksums.crc32c, checksums.combine_crc32c),
        "crc64nvme": (8, checksums.crc64nvme, checksums.combine_crc64nvme),
    }
    return Algorithm(name, *table[name])


def md5_etag(pieces: Iterable[Buffer]) -> str:
    """Return the ETag of an object that is stored in one request, where that is an MD5 sum."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return f'"{digest.hexdigest()}"'


def multipart_etag(parts: Sequence[PartResult]) -> str:
    """Return the ETag that S3 gives an object of these parts; "" when they are no MD5 sums."""
    sums = [match[1] for part in parts if (match := _MD5_ETAG.fullmatch(part.etag))]
    if len(sums) != len(parts):
        return ""
    joined = b"".join(map(bytes.fromhex, sums))
    digest = hashlib.md5(joined, usedforsecurity=False).hexdigest()
    return f'"{digest}-{len(parts)}"'
