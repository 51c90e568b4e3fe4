"""S3's XML as different servers write it, and what is no such XML."""

import random
from urllib.parse import quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.documents import (
    complete_multipart_document,
    delete_document,
    error_code,
    expressible,
    parse_copy,
    parse_delete_errors,
    parse_error,
    parse_list_page,
    parse_result,
    parse_tags,
    parse_time,
    tagging_document,
)
from fuse_s3_worker.store.types import ListPage, ObjectInfo, PartResult

SECOND = 1_000_000_000
NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'

AMAZON = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult{NAMESPACE}><Name>quotes</Name><Prefix>E+mc%2F</Prefix>\
<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>\
<KeyCount>3</KeyCount><MaxKeys>2</MaxKeys><Delimiter>%2F</Delimiter>\
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
<Contents><Key>E+mc%2Fa+b%2Bc%0A</Key><LastModified>2026-02-28T23:59:59.000Z</LastModified>\
<ETag>&quot;599bab3ed2c697f1d26842727561fd94&quot;</ETag><Size>857</Size>\
<StorageClass>REDUCED_REDUNDANCY</StorageClass></Contents>\
<Contents><Key>E+mc%2F%C3%BC</Key><LastModified>2026-03-01T00:00:00.000Z</LastModified>\
<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e-12&quot;</ETag>\
<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>\
<Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>\
<CommonPrefixes><Prefix>E+mc%2Fx+y%2F</Prefix></CommonPrefixes></ListBucketResult>""".encode()

# Ceph: no key count of prefixes, an owner, milliseconds that HEAD does not have.
CEPH = f"""<?xml version="1.0" encoding="UTF-8"?><ListBucketResult{NAMESPACE}><Name>b</Name>\
<Prefix></Prefix><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>\
<IsTruncated>false</IsTruncated><Contents><Key>plain%20key</Key>\
<LastModified>2026-11-20T16:28:24.987Z</LastModified>\
<ETag>&quot;900150983cd24fb0d6963f7d28e17f72&quot;</ETag><Size>3</Size>\
<StorageClass>STANDARD</StorageClass><Owner><ID>tester</ID><DisplayName>T</DisplayName></Owner>\
<Type>Normal</Type></Contents><KeyCount>1</KeyCount></ListBucketResult>""".encode()

# MinIO: single quotes are not escaped, unknown elements; no namespace with some front ends.
MINIO = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>b</Name><Prefix></Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>
  <Delimiter></Delimiter><IsTruncated>false</IsTruncated>
  <Contents>
    <Key>it's/%41</Key><LastModified>2026-11-20T16:28:24+00:00</LastModified>
    <ETag>900150983cd24fb0d6963f7d28e17f72</ETag><Size>3</Size><StorageClass></StorageClass>
    <UserMetadata><content-type>text/plain</content-type></UserMetadata>
  </Contents>
  <EncodingType></EncodingType>
</ListBucketResult>
"""

MOTO = f"""<?xml version="1.0" encoding="utf-8"?>
<ListBucketResult{NAMESPACE}><Name>t</Name><MaxKeys>1</MaxKeys><Prefix/><Delimiter>/</Delimiter>\
<KeyCount>1</KeyCount><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
<NextContinuationToken>8</NextContinuationToken><CommonPrefixes><Prefix>a%20b/</Prefix>\
</CommonPrefixes></ListBucketResult>""".encode()

PAGES = {
    "Amazon": (
        AMAZON,
        ListPage(
            [
                ObjectInfo(
                    "E mc/a b+c\n",
                    857,
                    1772323199 * SECOND,
                    '"599bab3ed2c697f1d26842727561fd94"',
                    "REDUCED_REDUNDANCY",
                ),
                ObjectInfo(
                    "E mc/ü", 0, 1772323200 * SECOND, '"d41d8cd98f00b204e9800998ecf8427e-12"'
                ),
            ],
            ["E mc/x y/"],
            "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=",
        ),
    ),
    "Ceph": (
        CEPH,
        ListPage(
            [ObjectInfo("plain key", 3, 1795192104 * SECOND, '"900150983cd24fb0d6963f7d28e17f72"')],
            [],
            None,
        ),
    ),
    "MinIO": (
        MINIO,
        ListPage(
            [ObjectInfo("it's/%41", 3, 1795192104 * SECOND, '"900150983cd24fb0d6963f7d28e17f72"')],
            [],
            None,
        ),
    ),
    "moto": (MOTO, ListPage([], ["a b/"], "8")),
    "empty": (b"<ListBucketResult/>", ListPage([], [], None)),
}


@pytest.mark.parametrize(("document", "page"), PAGES.values(), ids=PAGES.keys())
def test_a_page_as_each_server_writes_it(document: bytes, page: ListPage) -> None:
    assert parse_list_page(document) == page


def listing(inside: str) -> bytes:
    return f"<ListBucketResult>{inside}</ListBucketResult>".encode()


def entry(**fields: str | None) -> str:
    """Return an entry of a listing; a field that is None is left out."""
    usual = {"Key": "k", "Size": "1", "LastModified": "2026-01-01T00:00:00Z", "ETag": "e"}
    whole = {**usual, **fields}
    inside = "".join(
        f"<{name}>{value}</{name}>" for name, value in whole.items() if value is not None
    )
    return f"<Contents>{inside}</Contents>"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_key_survives_the_encoding(key: str) -> None:
    """Amazon writes a space as a plus, others as %20; both mean a space, %2B means a plus."""
    for encoded in (
        quote_plus(key),
        quote_plus(key).replace("+", "%20"),
        quote_plus(key, safe="/"),
    ):
        page = parse_list_page(listing(f"<EncodingType>url</EncodingType>{entry(Key=encoded)}"))
        assert [found.key for found in page.objects] == [key]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1))
def test_a_server_that_does_not_encode_is_taken_at_its_word(key: str) -> None:
    page = parse_list_page(listing(entry(Key=escape(key))))
    assert [found.key for found in page.objects] == [key]


def test_control_characters_that_no_document_may_have() -> None:
    """Ceph refers to them in what it repeats, and in tokens; its keys are encoded as they are."""
    echo = "<EncodingType>url</EncodingType><Prefix>a&#x01;/</Prefix>"
    token = "<NextContinuationToken>a&#x0d;&#x1F;</NextContinuationToken>"
    more = f"<IsTruncated>true</IsTruncated>{token}"
    page = parse_list_page(listing(echo + more + entry(Key="a%01/b")))
    assert page.token == "a\r\x1f"
    assert [found.key for found in page.objects] == ["a\x01/b"]
    plain = parse_list_page(listing(entry(Key="a&#x02;\N{BULLET}&#9;")))
    assert [found.key for found in plain.objects] == ["a\x02\N{BULLET}\t"]


BAD_PAGES = {
    "nothing": b"",
    "HTML": b"<!DOCTYPE html><html><body>Sign in to the hotel's network</body></html>",
    "HTML that is XML": b"<html><body>404 Not Found</body></html>",
    "text": b"upstream connect error or disconnect/reset before headers",
    "JSON": b'{"error": "not found"}',
    "another document": b"<Error><Code>SlowDown</Code></Error>",
    "cut off": AMAZON[:-30],
    "two roots": b"<ListBucketResult/><ListBucketResult/>",
    "bytes that are no UTF-8": listing(entry(Key="X")).replace(b"X", b"\xff\xfe"),
    "an unknown encoding": b'<?xml version="1.0" encoding="klingon"?><ListBucketResult/>',
    "an encoding of many bytes": b'<?xml version="1.0" encoding="shift_jis"?><ListBucketResult/>',
    "a control character": listing(entry(Key="a\x01b")),
    "a document type": b"<!DOCTYPE x><ListBucketResult/>",
    "a document type after a long comment": (
        b"<!--" + b" " * 2000 + b"--><!DOCTYPE x SYSTEM 'file:///etc/passwd'><ListBucketResult/>"
    ),
    "a document type in UTF-16": "<!DOCTYPE x><ListBucketResult/>".encode("utf-16"),
    "an entity": (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><ListBucketResult>&a;</ListBucketResult>'
    ),
    "an entity in UTF-16": (
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>'
    ).encode("utf-16"),
    "an undefined entity": listing(entry(Key="&unknown;")),
    "truncated without a token": listing("<IsTruncated>true</IsTruncated>"),
    "an object without a key": listing(entry(Key=None)),
    "an empty key": listing(entry(Key="")),
    "an object without a size": listing(entry(Size=None)),
    "a negative size": listing(entry(Size="-1")),
    "a size with a point": listing(entry(Size="1.5")),
    "a size in words": listing(entry(Size="many")),
    "a size of thousands of digits": listing(entry(Size="9" * 5000)),
    "an object without a time": listing(entry(LastModified=None)),
    "a time in words": listing(entry(LastModified="yesterday")),
    "the thirteenth month": listing(entry(LastModified="2026-13-01T00:00:00Z")),
    "the year 0": listing(entry(LastModified="0000-01-01T00:00:00Z")),
    "the year 99999": listing(entry(LastModified="99999-01-01T00:00:00Z")),
}


@pytest.mark.parametrize("document", BAD_PAGES.values(), ids=BAD_PAGES.keys())
def test_what_is_no_page_is_a_bad_reply(document: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        parse_list_page(document)
    assert caught.value.fault is Fault.BAD_REPLY
    assert len(str(caught.value)) < 300, "the log has room for more than one of these"


@pytest.mark.parametrize("document", BAD_PAGES.values(), ids=BAD_PAGES.keys())
def test_what_is_no_error_document_hides_no_status(document: bytes) -> None:
    if b"SlowDown" not in document:
        assert parse_error(document) == {}
        assert error_code(document) == ""


SEEDS = [page for page, _ in PAGES.values()] + [
    b"<Error><Code>NoSuchKey</Code><Message>m</Message><RequestId>1</RequestId></Error>",
    b"<CopyPartResult><ETag>&quot;a&quot;</ETag></CopyPartResult>",
    b"<CompleteMultipartUploadResult><ETag/></CompleteMultipartUploadResult>",
]
READERS = (
    parse_list_page,
    parse_error,
    parse_copy,
    lambda body: parse_result(body, "CompleteMultipartUploadResult", "ETag"),
)


@settings(max_examples=1500)
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(
            st.integers(0, 2000),
            st.integers(0, 30),
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(
                    [b"<", b">", b"&", b"\0", b"]]>", b"<!--", b"<![CDATA[", b"<?x", b"%ZZ", b"-1"]
                ),
            ),
        ),
        max_size=4,
    ),
)
def test_a_damaged_document_is_read_or_refused(
    seed: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    document = bytearray(seed)
    for place, length, instead in damages:
        at = place % (len(document) + 1)
        document[at : at + length] = instead
    for read in READERS:
        try:
            read(bytes(document))
        except StoreError as error:
            assert error.fault is Fault.BAD_REPLY  # noqa: PT017  both outcomes are right


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(document: bytes) -> None:
    with pytest.raises(StoreError):
        parse_list_page(document)


def test_a_deep_document_does_not_exhaust_the_stack() -> None:
    deep = b"<ListBucketResult>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</ListBucketResult>"
    assert parse_list_page(deep) == ListPage([], [], None)


# -- times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("2026-02-28T23:59:59.000Z", 1772323199),
        ("2026-02-28T23:59:59.999Z", 1772323199),
        ("2026-02-28T23:59:59Z", 1772323199),
        ("2026-02-28T23:59:59", 1772323199),
        ("2026-02-28T23:59:59+00:00", 1772323199),
        ("2026-03-01T01:29:59.5+01:30", 1772323199),
        ("2026-02-28T23:59:59.123456789Z", 1772323199),
        ("1969-12-31T23:59:59Z", -1),
    ],
)
def test_times_are_whole_seconds_as_in_headers(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds * SECOND


# -- other documents -------------------------------------------------------------------------------


def test_an_error_document() -> None:
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>PermanentRedirect</Code><Message>'
        b"The bucket is &lt;elsewhere&gt;</Message>"
        b"<Endpoint>b.s3.eu-west-1.amazonaws.com</Endpoint><Region/><RequestId>R</RequestId><HostId>H</HostId></Error>"
    )
    assert parse_error(body) == {
        "Code": "PermanentRedirect",
        "Message": "The bucket is <elsewhere>",
        "Endpoint": "b.s3.eu-west-1.amazonaws.com",
        "Region": "",
        "RequestId": "R",
        "HostId": "H",
    }
    assert error_code(body) == "PermanentRedirect"
    with_namespace = body.replace(b"<Error>", f"<Error{NAMESPACE}>".encode())
    assert parse_error(with_namespace) == parse_error(body)


@pytest.mark.parametrize("name", ["CopyPartResult", "CopyObjectResult"])
@pytest.mark.parametrize("namespace", ["", NAMESPACE])
@pytest.mark.parametrize(
    ("etag", "expected"), [("&quot;a-2&quot;", '"a-2"'), ("a-2", '"a-2"'), ('"a-2"', '"a-2"')]
)
def test_etag_and_time_of_a_copy(name: str, namespace: str, etag: str, expected: str) -> None:
    time = "<LastModified>2026-01-01T00:00:00.700Z</LastModified>"
    body = f"<{name}{namespace}>{time}<ETag>{etag}</ETag></{name}>"
    assert parse_copy(body.encode(), name) == (expected, 1_767_225_600_000_000_000)


def test_a_copy_without_a_time() -> None:
    body = b'<CopyObjectResult><ETag>"a"</ETag></CopyObjectResult>'
    assert parse_copy(body) == ('"a"', 0)


@pytest.mark.parametrize(
    "body",
    [
        b"<CopyPartResult/>",
        b"<CopyPartResult><ETag/></CopyPartResult>",
        b"<CopyObjectResult><ETag>a</ETag></CopyObjectResult>",
        b"<CopyPartResult><ETag>a</ETag><LastModified>now</LastModified></CopyPartResult>",
        b"",
    ],
)
def test_a_copy_that_says_too_little_is_a_bad_reply(body: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        parse_copy(body, "CopyPartResult")
    assert caught.value.fault is Fault.BAD_REPLY


def test_an_empty_field_of_a_result() -> None:
    """Ceph's CompleteMultipartUpload."""
    body = (
        f"<CompleteMultipartUploadResult{NAMESPACE}><Location>x</Location><ETag></ETag>"
        "</CompleteMultipartUploadResult>"
    ).encode()
    assert parse_result(body, "CompleteMultipartUploadResult", "ETag") == ""
    assert parse_result(body, "CompleteMultipartUploadResult", "Location") == "x"


def test_the_document_that_completes_an_upload() -> None:
    parts = [
        PartResult(1, 5, '"a&<b>"', "AAAAAAAAAAA="),
        PartResult(2, 5, '"c"', ""),
        PartResult(10000, 5, '"d"', "BBBBBBBBBBB="),
    ]
    root = ElementTree.fromstring(complete_multipart_document(parts, "ChecksumCRC64NVME"))
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    assert root.tag == f"{space}CompleteMultipartUpload"
    found = [{child.tag.removeprefix(space): child.text for child in part} for part in root]
    assert found == [
        {"PartNumber": "1", "ETag": '"a&<b>"', "ChecksumCRC64NVME": "AAAAAAAAAAA="},
        {"PartNumber": "2", "ETag": '"c"'},
        {"PartNumber": "10000", "ETag": '"d"', "ChecksumCRC64NVME": "BBBBBBBBBBB="},
    ]
    assert b"Checksum" not in complete_multipart_document(parts, "")


def test_a_page_of_a_thousand_long_keys() -> None:
    dice = random.Random(1)
    keys = [f"{number:04}/" + "%C3%BC" * dice.randint(100, 170) for number in range(1000)]
    body = listing("<EncodingType>url</EncodingType>" + "".join(entry(Key=key) for key in keys))
    page = parse_list_page(body)
    assert [found.key for found in page.objects] == [key.replace("%C3%BC", "ü") for key in keys]


# -- deleting and tags ----------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_what_could_not_be_deleted(namespace: str) -> None:
    body = (
        f"<?xml version='1.0'?><DeleteResult{namespace}><Deleted><Key>a</Key></Deleted>"
        "<Error><Key>b&lt;ü&#x01;</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        "<Error><Key>c</Key><Code>InternalError</Code></Error></DeleteResult>"
    ).encode()
    expected = [("b<ü\x01", "AccessDenied", "no"), ("c", "InternalError", "")]
    assert parse_delete_errors(body) == expected
    assert parse_delete_errors(f"<DeleteResult{namespace}/>".encode()) == []


@pytest.mark.parametrize("versions", [True, False])
def test_keys_are_written_so_that_a_parser_reads_them(*, versions: bool) -> None:
    keys = ["plain", "a&b<c>]]>", "tab\tfeed\nreturn\r", "ü😀", " lead", "\x7f\x85"]
    infos = [ObjectInfo(key, 1, 0, f'"{number}&"') for number, key in enumerate(keys)]
    root = ElementTree.fromstring(delete_document(infos, versions=versions))
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    assert root.tag == f"{space}Delete"
    assert root.findtext(f"{space}Quiet") == "true"
    entries = list(root.iterfind(f"{space}Object"))
    assert [entry.findtext(f"{space}Key") for entry in entries] == keys
    etags = [entry.findtext(f"{space}ETag") for entry in entries]
    assert etags == [info.etag if versions else None for info in infos]
    assert all(map(expressible, keys))


@pytest.mark.parametrize("key", ["\0", "\x08", "\x0b", "a\x1f", "\ufffe", "\uffff", "\udc80"])
def test_keys_that_no_document_can_have(key: str) -> None:
    assert not expressible(key)


@pytest.mark.parametrize("spaces", ["", " " * 999, "\n \n"])
def test_spaces_before_a_document(spaces: str) -> None:
    """They keep a connection alive while a server works."""
    for declaration in ("", "<?xml version='1.0'?>"):
        body = f"{spaces}{declaration}<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"
        assert parse_copy(body.encode()).etag == '"e"'


# -- archives and tags -----------------------------------------------------------------------------

EXPIRES = "<RestoreExpiryDate>2026-05-01T00:00:00.000Z</RestoreExpiryDate>"
RESTORES = {
    "never asked for": ("GLACIER", "", True),
    "on its way": (
        "DEEP_ARCHIVE",
        "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>",
        True,
    ),
    "restored": (
        "GLACIER",
        f"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>{EXPIRES}</RestoreStatus>",
        False,
    ),
    "not an archive": ("GLACIER_IR", "", False),
    "nothing of it": ("STANDARD", "", False),
}


@pytest.mark.parametrize(("kind", "status", "archived"), RESTORES.values(), ids=RESTORES.keys())
def test_what_has_to_be_restored(kind: str, status: str, archived: bool) -> None:
    document = (
        "<ListBucketResult><Contents><Key>k</Key><Size>1</Size>"
        "<LastModified>2026-04-01T00:00:00Z</LastModified>"
        f"{status}<StorageClass>{kind}</StorageClass></Contents></ListBucketResult>"
    )
    (found,) = parse_list_page(document.encode()).objects
    assert found.archived is archived


def test_tags_as_a_header_takes_them() -> None:
    tags = "<Tag><Key>a b</Key><Value>c&amp;d=</Value></Tag><Tag><Key>\u00fc</Key><Value/></Tag>"
    document = f"<Tagging><TagSet>{tags}</TagSet></Tagging>".encode()
    assert parse_tags(document) == "a+b=c%26d%3D&%C3%BC="
    assert parse_tags(b"<Tagging><TagSet/></Tagging>") == parse_tags(b"") == ""


@given(st.dictionaries(st.text("ab &<>=+%ü/", min_size=1), st.text("ab &<>=+%ü/")))
def test_tags_come_back(tags: dict[str, str]) -> None:
    header = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in tags.items())
    assert parse_tags(tagging_document(header)) == header
