"""What renames are made of, as it is sent and as it is answered, by servers of all kinds."""

import base64
import hashlib
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable
from xml.etree import ElementTree

import pytest

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http import pool
from fuse_s3_worker.http.connection import Connection
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.moves import DELETES_MAX
from fuse_s3_worker.store.types import Body, ObjectInfo
from support.rawserver import Answer, End, RawServer, Request, reply
from support.storekit import PERSISTENT, caller_of, make_store, run, signature_is_right

DATE = "Wed, 01 Apr 2026 12:00:00 GMT"
ETAG, OTHER = '"00c0ffee00c0ffee00c0ffee00c0ffee"', '"feedbeeffeedbeeffeedbeeffeedbeef"'
SOURCE = ObjectInfo("dir/sp ace+%ü", 5, 0, ETAG, "STANDARD_IA")
COPIED = (
    b"<CopyObjectResult><LastModified>2026-04-01T12:00:00.123Z</LastModified>"
    b"<ETag>&quot;new&quot;</ETag></CopyObjectResult>"
)
EXPRESS = "bucket--use1-az4--x-s3"
STANDARD = {"x-amz-storage-class": "STANDARD"}


def error(status: int, code: str) -> bytes:
    return reply(status, f"<Error><Code>{code}</Code></Error>".encode())


def head_of(etag: str = ETAG, **headers: str) -> bytes:
    fields = {"Content-Length": "5", "ETag": etag, "Last-Modified": DATE} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1")


def asked(
    act: Callable[[S3Store], Awaitable[object]],
    answers: Iterable[Answer | bytes] | Callable[[Request], Answer | bytes],
    options: str = "",
    *,
    amazon: bool = False,
    bucket: str = "bucket",
) -> tuple[object, list[Request]]:
    """Return what `act` comes to, a StoreError too, and what was sent."""

    async def main() -> object:
        store = make_store(server.url, options, patience=PERSISTENT, bucket=bucket)
        if amazon:
            store = S3Store(caller_of(store), bucket, Settings(), address="")
        try:
            return await act(store)
        except StoreError as failure:
            return failure

    with RawServer.answering(answers) as server:
        result = run(main())
    for request in server.requests:
        assert signature_is_right(request), request
    return result, server.requests


def fault(result: object) -> Fault:
    assert isinstance(result, StoreError), result
    return result.fault


# -- CopyObject -----------------------------------------------------------------------------------


def test_a_copy_is_asked_for_and_its_reply_is_read() -> None:
    made, (request,) = asked(lambda s: s.duplicate(SOURCE, "k+"), [reply(200, COPIED)])
    assert made == ObjectInfo("k+", 5, 1775044800 * 10**9, '"new"', "STANDARD_IA")
    assert (request.method, request.target) == ("PUT", "/bucket/k%2B")
    sent = {name: request.headers.get(name) for name in request.headers if "amz-" in name}
    assert sent["x-amz-copy-source"] == "/bucket/dir/sp%20ace%2B%25%C3%BC"
    assert sent["x-amz-copy-source-if-match"] == ETAG
    assert sent["x-amz-storage-class"] == "STANDARD_IA"
    assert "x-amz-metadata-directive" not in sent, "it keeps what it has"
    assert "if-none-match" not in request.headers
    assert request.body == b""


def test_a_copy_has_the_options_keys_and_the_sources_class() -> None:
    options = "storage_class=ONEZONE_IA,sse=aws:kms,sse_kms_key_id=k1"
    plain = SOURCE._replace(storage_class="", etag="")
    _, (request,) = asked(lambda s: s.duplicate(plain, "k"), [reply(200, COPIED)], options)
    assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "k1"
    assert "x-amz-storage-class" not in request.headers
    assert "x-amz-copy-source-if-match" not in request.headers


@pytest.mark.parametrize("status", [400, 501])
def test_a_server_that_refuses_the_condition_is_asked_without(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: Request) -> bytes:
        if "if-none-match" in request.headers:
            assert request.headers["if-none-match"] == "*"
            return error(status, "NotImplemented" if status == 501 else "InvalidArgument")
        return reply(200, COPIED)

    async def act(store: S3Store) -> None:
        for _ in range(2):
            await store.duplicate(SOURCE, "k", exclusive=True)

    with caplog.at_level(logging.INFO):
        result, requests = asked(act, answer)
    assert result is None
    assert ["if-none-match" in request.headers for request in requests] == [True, False, False]
    assert caplog.text.count("server_refuses") == 1


def test_what_is_wrong_with_a_copy_is_not_put_down_to_the_condition() -> None:
    async def act(store: S3Store) -> None:
        await store.duplicate(SOURCE, "k", exclusive=True)

    result, requests = asked(act, [error(400, "InvalidRequest")] * 2 + [reply(200, COPIED)])
    assert fault(result) is Fault.BAD_REQUEST
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(412, "PreconditionFailed"), Fault.CHANGED),
        (error(404, "NoSuchKey"), Fault.NOT_FOUND),
        (error(200, "AccessDenied"), Fault.FORBIDDEN),
        (
            reply(200, b"\n   <?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code></Error>"),
            Fault.NOT_FOUND,
        ),
        (error(403, "InvalidObjectState"), Fault.ARCHIVED),
        # It took the request for an empty object, which it has stored now.
        (reply(200, b"", etag='"d41d8cd98f00b204e9800998ecf8427e"'), Fault.NOT_IMPLEMENTED),
        (error(501, "NotImplemented"), Fault.NOT_IMPLEMENTED),
    ],
)
def test_copies_that_fail(answer: bytes, expected: Fault) -> None:
    result, _ = asked(lambda s: s.duplicate(SOURCE, "k"), [answer])
    assert fault(result) is expected


def test_a_server_that_does_not_copy_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async def act(store: S3Store) -> bool:
        for _ in range(3):
            with pytest.raises(StoreError) as refused:
                await store.duplicate(SOURCE, "k")
            assert refused.value.fault is Fault.NOT_IMPLEMENTED
        return store.copies_from("k")

    with caplog.at_level(logging.INFO):
        result, requests = asked(act, [error(501, "NotImplemented")])
    assert (result, len(requests)) == (False, 1)
    assert caplog.text.count("copy_refused") == 1


@pytest.mark.parametrize("spaces", [b"", b" " * 500, b"\n\n"])
def test_spaces_that_keep_the_connection_alive(spaces: bytes) -> None:
    for document in (b"<?xml version='1.0'?>" + spaces + COPIED, spaces + COPIED):
        made, _ = asked(lambda s: s.duplicate(SOURCE, "k"), [reply(200, document)])
        assert isinstance(made, ObjectInfo)


def test_failures_that_pass_are_tried_again() -> None:
    answers = [error(503, "SlowDown"), error(200, "InternalError"), reply(200, b"<Copy"), COPIED]
    made, requests = asked(lambda s: s.duplicate(SOURCE, "k"), [*answers[:3], reply(200, COPIED)])
    assert isinstance(made, ObjectInfo)
    assert len(requests) == 4


def test_a_large_copy_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be heard of it for minutes: not every server sends spaces."""
    seen: list[float] = []
    watched = pool._Watched

    def noted(connection: Connection, *, downloads: bool, patience: float) -> object:
        seen.append(patience)
        return watched(connection, downloads=downloads, patience=patience)

    monkeypatch.setattr(pool, "_Watched", noted)

    async def act(store: S3Store) -> None:
        await store.duplicate(SOURCE, "k")
        await store.head("k")

    asked(act, [reply(200, COPIED), head_of()])
    assert seen == [300.0, pool.STALL_TIMEOUT]


def test_what_is_copied_in_one_request() -> None:
    limits = [asked(_limit, [], amazon=amazon)[0] for amazon in (True, False)]
    assert limits == [512 << 20, 5 << 30]


async def _limit(store: S3Store) -> int:
    return store.copy_max


# -- what belongs to an object --------------------------------------------------------------------


def test_a_description_is_what_a_new_object_is_given() -> None:
    kept = {
        "content-type": "text/x",
        "cache-control": "no-store",
        "content-disposition": "inline",
        "content-encoding": "gzip",
        "content-language": "de",
        "expires": DATE,
        "x-amz-website-redirect-location": "/x",
        "x-amz-meta-mode": "33188",
        "x-amz-meta-Other": "ü".encode().decode("latin-1"),
    }
    others = {"x-amz-id-2": "1", "server": "s", "x-amz-version-id": "v", "accept-ranges": "bytes"}
    head = head_of(**kept, **others, **{"x-amz-storage-class": "GLACIER_IR"})
    found, _ = asked(lambda s: s.headers_to_copy("k"), [head], amazon=True)
    lower = {name.lower(): value for name, value in kept.items()}
    assert found == (
        ObjectInfo("k", 5, 1775044800 * 10**9, ETAG, "GLACIER_IR"),
        lower | {"x-amz-storage-class": "GLACIER_IR"},
    )


def test_tags_are_asked_for_where_there_may_be_any() -> None:
    document = (
        b"<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag>"
        b"<Tag><Key>c</Key><Value/></Tag></TagSet></Tagging>"
    )
    counted = head_of(**{"x-amz-tagging-count": "2"})
    for head, amazon in ((counted, True), (counted, False), (head_of(), False)):
        answers = [head, reply(200, document)]
        found, requests = asked(lambda s: s.headers_to_copy("k"), answers, amazon=amazon)
        assert found[1] == {"x-amz-tagging": "a+b=1%262&c=", **STANDARD}  # type: ignore[index]
        assert (requests[1].path, requests[1].query) == ("/bucket/k", {"tagging": ""})
    assert len(asked(lambda s: s.headers_to_copy("k"), [head_of()], amazon=True)[1]) == 1


@pytest.mark.parametrize(
    ("answer", "asked_again"),
    [
        (reply(200, b"<Tagging><TagSet/></Tagging>"), True),
        (error(404, "NoSuchTagSet"), True),
        (error(501, "NotImplemented"), False),
        (error(405, "MethodNotAllowed"), False),
    ],
)
def test_a_server_without_tags(answer: bytes, *, asked_again: bool) -> None:
    async def act(store: S3Store) -> list[object]:
        return [dict((await store.headers_to_copy("k")).headers) for _ in range(2)]

    found, requests = asked(act, lambda r: head_of() if r.method == "HEAD" else answer)
    assert found == [STANDARD, STANDARD]
    assert len(requests) == 3 + asked_again


def test_tags_that_may_not_be_seen_are_not_left_behind_in_silence() -> None:
    answers = [head_of(), error(403, "AccessDenied")]
    assert fault(asked(lambda s: s.headers_to_copy("k"), answers)[0]) is Fault.FORBIDDEN


def test_objects_are_stored_like_another() -> None:
    like = {"content-type": "text/x", "x-amz-meta-a": "1", "x-amz-tagging": "a=b", **STANDARD}

    async def act(store: S3Store) -> None:
        await store.put("k", Body((b"x",), 1), headers=like)
        await store.create_multipart("k", headers=like | {"x-amz-storage-class": "GLACIER_IR"})
        await store.create_multipart("k")

    name = "InitiateMultipartUploadResult"
    document = f"<{name}><UploadId>u</UploadId></{name}>".encode()
    begun = reply(200, document, x_amz_server_side_encryption="AES256")
    stored = reply(200, etag=ETAG, date=DATE, x_amz_server_side_encryption="AES256")
    options = "storage_class=ONEZONE_IA,sse=AES256"
    result, requests = asked(act, [stored, begun, begun], options)
    assert result is None
    for request in requests[:2]:
        assert like.items() - STANDARD.items() <= request.headers.items()
        assert request.headers["x-amz-server-side-encryption"] == "AES256"
    classes = [request.headers.get("x-amz-storage-class") for request in requests]
    assert classes == ["STANDARD", "GLACIER_IR", "ONEZONE_IA"]


# -- RenameObject ---------------------------------------------------------------------------------


def test_rename_object() -> None:
    renamed, (request,) = asked(
        lambda s: s.rename_object(SOURCE, "new+", exclusive=True), [reply(200)], bucket=EXPRESS
    )
    assert renamed == SOURCE._replace(key="new+")
    assert request.method == "PUT"
    assert (request.path, request.query) == (f"/{EXPRESS}/new+", {"renameObject": ""})
    assert request.headers["x-amz-rename-source"] == "dir/sp%20ace%2B%25%C3%BC"
    assert request.headers["x-amz-rename-source-if-match"] == ETAG
    assert request.headers["if-none-match"] == "*"
    assert request.headers["content-length"] == "0"
    _, (request,) = asked(lambda s: s.rename_object(SOURCE, "k"), [reply(200)])
    assert "if-none-match" not in request.headers


def test_a_rename_whose_reply_is_lost_is_asked_for_as_the_same_one() -> None:
    """The store knows it by its token, or the second try would be told that there is no source."""
    lost = Answer(b"", End.CLOSE)
    answers: list[Answer | bytes] = [lost, error(503, "SlowDown"), reply(200)]
    renamed, requests = asked(lambda s: s.rename_object(SOURCE, "k"), answers)
    assert isinstance(renamed, ObjectInfo)
    tokens = [request.headers["x-amz-client-token"] for request in requests]
    assert len(set(tokens)) == 1
    assert 0 < len(tokens[0]) <= 64
    _, (again,) = asked(lambda s: s.rename_object(SOURCE, "k"), [reply(200)])
    assert again.headers["x-amz-client-token"] != tokens[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(412, "PreconditionFailed"), Fault.CHANGED),
        (error(404, "NoSuchKey"), Fault.NOT_FOUND),
        (error(501, "NotImplemented"), Fault.NOT_IMPLEMENTED),
    ],
)
def test_renames_that_fail(answer: bytes, expected: Fault) -> None:
    result, _ = asked(lambda s: s.rename_object(SOURCE, "k"), [answer])
    assert fault(result) is expected


def test_only_directory_buckets_rename() -> None:
    async def renames(store: S3Store) -> bool:
        return store.renames

    assert asked(renames, [], bucket=EXPRESS)[0]
    assert not asked(renames, [])[0]


# -- DeleteObject ---------------------------------------------------------------------------------


def test_a_version_is_deleted_and_no_other() -> None:
    done, (request,) = asked(lambda s: s.delete_version(SOURCE), [reply(204)])
    assert done is True
    assert (request.method, request.headers["if-match"]) == ("DELETE", ETAG)
    assert asked(lambda s: s.delete_version(SOURCE), [error(404, "NoSuchKey")])[0] is True
    changed = [error(412, "PreconditionFailed"), head_of(OTHER)]
    assert asked(lambda s: s.delete_version(SOURCE), changed)[0] is False
    gone = [error(412, "PreconditionFailed"), reply(404)]
    assert asked(lambda s: s.delete_version(SOURCE), gone)[0] is False
    bare = SOURCE._replace(etag="")
    assert "if-match" not in asked(lambda s: s.delete_version(bare), [reply(204)])[1][0].headers
    assert fault(asked(lambda s: s.delete_version(SOURCE), [error(403, "AccessDenied")])[0]) is (
        Fault.FORBIDDEN
    )


@pytest.mark.parametrize(
    "refusal",
    [error(501, "NotImplemented"), error(400, "InvalidArgument"), error(412, "PreconditionFailed")],
)
def test_a_server_that_knows_no_condition_here_is_asked_without(refusal: bytes) -> None:
    """Or one that compares in a way that no entity tag meets."""

    def answer(request: Request) -> bytes:
        if request.method == "HEAD":
            return head_of()
        return refusal if "if-match" in request.headers else reply(204)

    async def act(store: S3Store) -> list[bool]:
        return [await store.delete_version(SOURCE) for _ in range(2)]

    result, requests = asked(act, answer)
    assert result == [True, True]
    deletes = ["if-match" in r.headers for r in requests if r.method == "DELETE"]
    assert deletes == [True, False, False]


# -- DeleteObjects --------------------------------------------------------------------------------


def infos(*keys: str) -> list[ObjectInfo]:
    return [ObjectInfo(key, 1, 0, ETAG) for key in keys]


def keys_in(request: Request) -> list[str]:
    root = ElementTree.fromstring(request.body)
    return [key.text or "" for key in root.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]


def refusals(**codes: str) -> bytes:
    entries = "".join(
        f"<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>"
        for key, code in codes.items()
    )
    return reply(200, f"<DeleteResult>{entries}</DeleteResult>".encode())


def test_keys_are_deleted_by_the_thousand() -> None:
    many = infos(*(f"k{number}" for number in range(2 * DELETES_MAX + 1)))
    result, requests = asked(lambda s: s.delete_many(many), [refusals()] * 3)
    assert result == {}
    assert [key for request in requests for key in keys_in(request)] == [i.key for i in many]
    for request in requests:
        assert (request.method, request.path, request.query) == ("POST", "/bucket/", {"delete": ""})
        digest = hashlib.md5(request.body).digest()
        assert request.headers["content-md5"] == base64.b64encode(digest).decode()
        assert b"<Quiet>true</Quiet>" in request.body
        assert b"ETag" not in request.body, "not every server knows what that means"
    assert asked(lambda s: s.delete_many([]), [])[1] == []


def test_amazon_is_told_the_versions_and_directory_buckets_another_checksum() -> None:
    _, (request,) = asked(lambda s: s.delete_many(infos("k")), [refusals()], amazon=True)
    assert b"<Key>k</Key><ETag>" in request.body
    _, (request,) = asked(lambda s: s.delete_many(infos("k")), [refusals()], bucket=EXPRESS)
    checksum = zlib.crc32(request.body).to_bytes(4, "big")
    assert request.headers["x-amz-checksum-crc32"] == base64.b64encode(checksum).decode()
    assert "content-md5" not in request.headers


ODD = ["sp ace", "a&b<c>", "ü%+", "tab\t", "line\nfeed", "carriage\rreturn", '"quotes"', "\x7f"]


def test_keys_that_are_hard_to_write_down() -> None:
    unspeakable = ["\x01", "a\x1fb", "\ufffe"]
    answers = [refusals(), *[reply(204)] * len(unspeakable)]
    result, requests = asked(lambda s: s.delete_many(infos(*ODD, *unspeakable)), answers)
    assert result == {}
    assert keys_in(requests[0]) == ODD
    singly = {request.path for request in requests[1:]}
    assert singly == {f"/bucket/{key}" for key in unspeakable}


def test_what_cannot_be_deleted_is_said_key_by_key() -> None:
    """And what may be a moment later is tried again, alone."""
    first = refusals(a="AccessDenied", b="InternalError", c="PreconditionFailed", d="SlowDown")
    answers = [first, refusals(d="InternalError"), refusals()]
    result, requests = asked(lambda s: s.delete_many(infos(*"abcde")), answers)
    assert isinstance(result, dict)
    assert {key: error.fault for key, error in result.items()} == {
        "a": Fault.FORBIDDEN,
        "c": Fault.CHANGED,
    }
    assert [keys_in(request) for request in requests] == [list("abcde"), ["b", "d"], ["d"]]


def test_what_fails_for_good_is_said_of_every_key() -> None:
    result, _ = asked(lambda s: s.delete_many(infos("a", "b")), [error(403, "AccessDenied")])
    assert isinstance(result, dict)
    assert {key: error.fault for key, error in result.items()} == {
        "a": Fault.FORBIDDEN,
        "b": Fault.FORBIDDEN,
    }


@pytest.mark.parametrize(
    ("refusal", "remembered"),
    [
        (error(501, "NotImplemented"), True),
        (error(405, "MethodNotAllowed"), True),
        (reply(404), True),
        (error(400, "MalformedXML"), False),
    ],
)
def test_where_it_cannot_be_had_keys_are_deleted_one_by_one(
    refusal: bytes, remembered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: Request) -> bytes:
        if request.method == "POST":
            return refusal
        return error(403, "AccessDenied") if request.path.endswith("b") else reply(204)

    async def act(store: S3Store) -> set[str]:
        await store.delete_many(infos("a", "b"))
        return set(await store.delete_many(infos("a", "b")))

    with caplog.at_level(logging.INFO):
        result, requests = asked(act, answer)
    assert result == {"b"}
    assert sum(request.method == "POST" for request in requests) == 2 - remembered
    assert sum(request.method == "DELETE" for request in requests) == 4
    assert ("server_refuses" in caplog.text) == remembered
