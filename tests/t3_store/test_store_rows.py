"""Entries read by pattern: the same as the parser reads them, or not at all."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.store.documents import parse_list_page
from fuse_s3_worker.store.rows import cut_rows
from fuse_s3_worker.store.types import ListPage

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
TAIL = b"<EncodingType>url</EncodingType><KeyCount>3</KeyCount></ListBucketResult>"
MD5 = b"900150983cd24fb0d6963f7d28e17f72"

AMAZON = (
    b"<Contents><Key>a%2Fb+c</Key><LastModified>2026-02-28T23:59:59.000Z</LastModified>"
    b"<ETag>&quot;" + MD5 + b"-12&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    b"<ChecksumType>FULL_OBJECT</ChecksumType><Size>857</Size>"
    b"<StorageClass>GLACIER</StorageClass></Contents>"
)
CEPH = (
    b"<Contents><Key>plain</Key><LastModified>2026-11-20T16:28:24.987Z</LastModified>"
    b"<ETag>&quot;" + MD5 + b"&quot;</ETag><Size>3</Size><StorageClass>STANDARD</StorageClass>"
    b"<Owner><ID>tester</ID><DisplayName>T</DisplayName></Owner><Type>Normal</Type></Contents>"
)
GO = (
    b"\n  <Contents>\n    <Key>it's</Key>\n<Size>5</Size><ETag>&#34;" + MD5 + b"&#34;</ETag>\n"
    b"<LastModified>2026-11-20T16:28:24Z</LastModified><StorageClass></StorageClass></Contents>\n"
)
ROWS = (AMAZON, CEPH, GO)


def page(*rows: bytes) -> bytes:
    return HEAD + b"".join(rows) + TAIL


def read(document: bytes) -> ListPage | None:
    try:
        return parse_list_page(document)
    except StoreError:
        return None


def parsed(document: bytes) -> ListPage | None:
    """Read a document without the pattern, which leaves what has a comment to the parser."""
    return read(document + b"<!-- -->")


@pytest.mark.parametrize("row", ROWS)
def test_what_servers_write_is_cut_out_and_read_as_the_parser_does(row: bytes) -> None:
    document = page(row, row, row)
    rows, rest = cut_rows(document)
    assert len(rows) == 3
    assert rest == page(b"\n  <Contents/>" if row is GO else b"<Contents/>")
    found = parse_list_page(document)
    assert len(found.objects) == 3
    assert found == parsed(document)


STRANGE = {
    "an unknown element": CEPH.replace(b"<Type>", b"<New>").replace(b"</Type>", b"</New>"),
    "an element inside": CEPH.replace(b"Normal", b"<b/>"),
    "an attribute": CEPH.replace(b"<Contents>", b'<Contents x="y">'),
    "a reference": CEPH.replace(b"plain", b"pl&#x61;in"),
    "a letter beyond ASCII": CEPH.replace(b"plain", "plän".encode()),
    "a line end in a key": CEPH.replace(b"plain", b"pl\r\nain"),
    "the end of a section of characters": CEPH.replace(b"plain", b"pl]]>ain"),
    "no key": CEPH.replace(b"<Key>plain</Key>", b""),
    "no size": CEPH.replace(b"<Size>3</Size>", b""),
    "no time": AMAZON.replace(b"<LastModified>2026-02-28T23:59:59.000Z</LastModified>", b""),
    "no class": AMAZON.replace(b"<StorageClass>GLACIER</StorageClass>", b""),
    "one quotation mark": CEPH.replace(MD5 + b"&quot;", MD5),
    "two keys": CEPH.replace(b"<Key>", b"<Key>other</Key><Key>"),
    "a section of characters": b"<Name><![CDATA[" + CEPH + b"]]></Name>",
    "a comment": b"<!--" + CEPH + b"-->",
    "not where it belongs": b"<Other>" + CEPH + b"</Other>",
    "another encoding": CEPH.replace(b"plain", b"\xe4"),
}


@pytest.mark.parametrize("row", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("place", range(3))
def test_what_is_strange_is_the_parsers_wherever_it_is(row: bytes, place: int) -> None:
    rows = [AMAZON, CEPH]
    rows.insert(place, row)
    document = page(*rows)
    assert read(document) == parsed(document)


def test_entries_after_something_else_are_entries_too() -> None:
    prefix = b"<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"
    document = page(AMAZON, prefix, CEPH)
    found = parse_list_page(document)
    assert [info.key for info in found.objects] == ["a/b c", "plain"]
    assert found.prefixes == ["d/"]
    assert found == parsed(document)


PIECES = (
    b"<",
    b">",
    b"&",
    b"&quot;",
    b'"',
    b"\0",
    b"]]>",
    b"%ZZ",
    b"-",
    b" ",
    b"\r",
    b"/",
    b"<Key>",
    b"\f",
)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.sampled_from(ROWS), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 12), st.sampled_from(PIECES)), max_size=3
    ),
)
@example([CEPH], [])
def test_a_damaged_page_is_read_as_the_parser_reads_it(
    rows: list[bytes], damages: list[tuple[int, int, bytes]]
) -> None:
    document = bytearray(page(*rows))
    for place, length, instead in damages:
        at = place % len(document)
        document[at : at + length] = instead
    assert read(bytes(document)) == parsed(bytes(document))
