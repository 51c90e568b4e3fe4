"""Names of the kernel and keys of the bucket.

A path is a key under the mount's prefix, with the same slashes. Not every key is a path: one with
an empty, "." or ".." component, a NUL, or a component of more than 255 bytes cannot be named by
any program. Such keys are left out of listings, counted, and left alone. Not every name is a key
either: keys are UTF-8.
"""

import errno
from itertools import accumulate

from fuse_s3_worker.errors import FileSystemError

__all__ = [
    "DIRECTORY_TYPE",
    "KEY_MAX",
    "NAME_MAX",
    "above",
    "can_be_directory",
    "decode_name",
    "nameable",
]

NAME_MAX = 255  # bytes: NAME_MAX of limits.h
KEY_MAX = 1024  # bytes: "Object key naming guidelines" in the S3 user guide

DIRECTORY_TYPE = "application/x-directory"  # what s3fs and others mark directories with

_NO_NAMES = frozenset({"", ".", ".."})
_SHORT = NAME_MAX // 4  # characters, of four bytes at most


def decode_name(name: bytes, directory_key: str) -> str:
    """Return a name of the kernel as text.

    Raises:
        FileSystemError: ENAMETOOLONG, or EILSEQ for a name that is not UTF-8.
    """
    if len(name) > NAME_MAX:
        raise FileSystemError(errno.ENAMETOOLONG, f"a name of {len(name)} bytes")
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise FileSystemError(errno.EILSEQ, f"the name {name!r} is not UTF-8") from None
    if len(directory_key.encode()) + len(name) > KEY_MAX:
        raise FileSystemError(errno.ENAMETOOLONG, "the key would have more than 1,024 bytes")
    return text


def can_be_directory(key: str) -> bool:
    """Tell whether there is room for the slash that a directory's key ends with."""
    return len(key.encode()) < KEY_MAX


def above(directory_key: str) -> list[tuple[str, str]]:
    """Return what contains a directory: each directory's key, and the name in it that leads on.

    Whatever is in the directory proves that all of them exist.
    """
    names = directory_key.split("/")[:-1]
    ends = accumulate(len(name) + 1 for name in names)
    return [
        (directory_key[: end - len(name) - 1], name) for name, end in zip(names, ends, strict=True)
    ]


def nameable(component: str) -> bool:
    """Tell whether a component of a key can be a name."""
    if component in _NO_NAMES or "\0" in component or "/" in component:
        return False
    # Asked for every name of a listing: few are so long that their bytes need counting.
    return len(component) <= _SHORT or len(component.encode("utf-8", "surrogatepass")) <= NAME_MAX
