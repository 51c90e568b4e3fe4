"""The entries of a listing's page, read by pattern where they are written as servers write them.

A page has a thousand entries of six elements each. As a tree they cost more time than the rest of
the page together, so those that are plain are cut out before the parser sees the document. What is
plain is decided strictly: printable ASCII, known elements, no references but quotation marks. For
anything else nothing is cut out, and the parser judges the whole.
"""

import re

__all__ = ["Row", "cut_rows"]

Row = tuple[str, ...]
"""An entry as it is written: key, time, ETag without quotation marks, size, storage class."""

_TEXT = r"[ !-%'-;=?-~]"  # printable ASCII without the characters of markup
_SPACE = r"[ \t\r\n]"
_FIRST = b"<Contents>"
_IN_PLACE = b"<Contents/>"

_ROW = re.compile(
    rf"""<Contents>(?:
      <Key>({_TEXT}+)</Key>
    | <LastModified>({_TEXT}*)</LastModified>
    | <ETag>(&quot;|&\#34;|"?)([!#-%'-;=?-~]+)\3</ETag>
    | <Size>([0-9]+)</Size>
    | <StorageClass>([A-Z_]*)</StorageClass>
    | <(ChecksumAlgorithm|ChecksumType|Type)>{_TEXT}*</\7>
    | <Owner>(?:<(ID|DisplayName)>{_TEXT}*</\8>|{_SPACE})*</Owner>
    | {_SPACE}
    )*</Contents>{_SPACE}*""",
    re.VERBOSE,
)


def cut_rows(body: bytes) -> tuple[list[Row], bytes]:
    """Take the entries out of a page; an empty one remains in their place.

    Returns:
        The entries and the rest of the document; no entries and all of it when it is not plain.
    """
    start = body.find(_FIRST)
    # A comment or a section of characters could have something in it that only looks like entries.
    if start < 0 or b"<!" in body or not body.isascii():
        return [], body
    text = body.decode("ascii")
    rows: list[Row] = []
    at = start
    while (match := _ROW.match(text, at)) is not None:
        rows.append(match.group(1, 2, 4, 5, 6))
        at = match.end()
    if not rows or any(None in row for row in rows):  # an element is not there
        return [], body
    return rows, body[:start] + _IN_PLACE + body[at:]
