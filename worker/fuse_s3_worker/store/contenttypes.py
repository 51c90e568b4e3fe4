"""What an object's name says of its content.

The table is the standard library's alone, and not what the machine has in /etc/mime.types: what an
object is does not depend on who stores it.
"""

import mimetypes
from functools import cache
from posixpath import splitext

__all__ = ["content_type_of"]

# What is compressed is served as it is: with Content-Encoding, a browser would unpack it.
_COMPRESSED = {
    ".gz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".Z": "application/x-compress",
    ".br": "application/x-brotli",
}


@cache
def _table() -> mimetypes.MimeTypes:
    mimetypes.inited = True  # else the first instance reads the machine's files
    return mimetypes.MimeTypes()


def content_type_of(key: str) -> str:
    """Return the content type that the suffix of a key stands for, "" when it has none."""
    _, suffix = splitext(key.rpartition("/")[2])
    whole = _table().suffix_map.get(suffix.lower(), suffix)  # .tgz is .tar.gz
    last = splitext(f"x{whole}")[1]
    return _COMPRESSED.get(last) or _table().types_map[True].get(last.lower(), "")
