"""Extended attributes in one header, as s3fs has them: names and base64 as JSON, percent-encoded.

s3fs escapes nothing inside of its quotes. Such a header is no JSON when a name has a quote in it,
and is read all the same.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote_to_bytes

__all__ = ["read_xattrs", "write_xattrs"]

_PAIR = re.compile(r'\s*"(.+?)"\s*:\s*"([A-Za-z0-9+/=]*)"\s*(?:,|\Z)', re.DOTALL)


def write_xattrs(xattrs: Mapping[bytes, bytes]) -> str:
    """Return the header's value for `xattrs`."""
    pairs = (
        f'{json.dumps(_text(name), ensure_ascii=False)}:"{base64.b64encode(value).decode()}"'
        for name, value in xattrs.items()
    )
    return quote("{" + ",".join(pairs) + "}", safe="/", errors="surrogateescape")


def read_xattrs(header: str) -> dict[bytes, bytes] | None:
    """Return the attributes in a header's value; None when it has none that can be read."""
    text = _text(unquote_to_bytes(header.strip())).strip()
    try:
        return {
            name.encode("utf-8", "surrogateescape"): base64.b64decode(encoded, validate=True)
            for name, encoded in _pairs(text)
        }
    except ValueError:  # UnicodeEncodeError and binascii.Error are such
        return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        yield from _unescaped_pairs(text)
        return
    for name, value in document.items() if isinstance(document, dict) else [("", None)]:
        if not name or "\0" in name or not isinstance(value, str):
            raise ValueError("a name without a value")
        yield name, value


def _unescaped_pairs(text: str) -> Iterator[tuple[str, str]]:
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError("no braces around it")
    inside, at = text[1:-1], 0
    while at < len(inside):
        match = _PAIR.match(inside, at)
        if not match or "\0" in match[1]:
            raise ValueError("no name and value")
        yield match[1], match[2]
        at = match.end()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
