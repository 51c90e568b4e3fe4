"""Server-side encryption: what is asked for and whether it was done; keys of one's own."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.encryption import CustomerKey, Encryption, KeyFileError, read_key_file
from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo
from support.rawserver import Answer, RawServer, Request, reply
from support.segments import Memory
from support.storekit import PERSISTENT, make_store, run

SSE = "x-amz-server-side-encryption"
KMS = f"{SSE}-aws-kms-key-id"
CUSTOMER = f"{SSE}-customer-"
SOURCE = "x-amz-copy-source-server-side-encryption-customer-"
ARN = "arn:aws:kms:eu-west-1:123456789012:key/1"
DATE = "Wed, 01 Apr 2026 12:00:00 GMT"
BODY = Body((b"abc",), 3)
INFO = ObjectInfo("k", 3, 0, '"e"')
UPLOAD = MultipartUpload("k", "u1")

FIRST, SECOND = "first key of thirty-two letters.", "another one of 32 letters here.."


def key_of(text: str) -> CustomerKey:
    raw = text.encode()
    md5 = base64.b64encode(hashlib.md5(raw).digest()).decode()
    return CustomerKey(base64.b64encode(raw).decode(), md5)


# -- key files -------------------------------------------------------------------------------------

FILES = {
    "as it is": f"{FIRST}\n",
    "in base64": base64.b64encode(FIRST.encode()).decode(),
    "with a comment and empty lines": f"# key\n\n  {FIRST}  \n\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_a_key(text: str) -> None:
    assert read_key_file(text, "/k") == [key_of(FIRST)]


def test_keys_in_order() -> None:
    assert read_key_file(f"{FIRST}\n{SECOND}\n", "/k") == [key_of(FIRST), key_of(SECOND)]


NO_FILES = {
    "empty": ("", "sse_c_key_file=/k: no key in it"),
    "only a comment": ("# none\n", "sse_c_key_file=/k: no key in it"),
    "too short": (f"{FIRST}\nshort", "sse_c_key_file=/k:2: not a key: give 32 characters"),
    "too long": ("x" * 33, "sse_c_key_file=/k:1: not a key"),
    "base64 of something else": (base64.b64encode(b"x" * 31).decode(), "/k:1: not a key"),
}


@pytest.mark.parametrize(("text", "message"), NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_key(text: str, message: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        read_key_file(text, "/k")
    assert message in str(caught.value)
    assert "short" not in str(caught.value).replace("shorter", "")


def test_a_key_is_not_printed() -> None:
    assert repr(key_of(FIRST)) == "CustomerKey(***)"


# -- what is asked for -----------------------------------------------------------------------------


def encrypted(options: str, keys: tuple[str, ...] = ()) -> Callable[[str], S3Store]:
    """Return what makes a store that encrypts so."""

    def make(url: str) -> S3Store:
        store = make_store(url, options, patience=PERSISTENT)
        encryption = Encryption(
            dict(word.partition("=")[::2] for word in options.split(",")).get("sse", ""),
            dict(word.partition("=")[::2] for word in options.split(",")).get("sse_kms_key_id", ""),
            [key_of(key) for key in keys],
        )
        store._encryption = store._rewriter._encryption = encryption
        return store

    return make


class Server:
    """Answers every operation; objects are opened by `opens`, and nothing else.

    Attributes:
        echo: whether replies tell of the encryption that was asked for.
        opens: the key of the object; "" for an object without one.
    """

    def __init__(self, *, echo: bool = True, opens: str = "") -> None:
        self.echo = echo
        self.opens = key_of(opens) if opens else None

    def __call__(self, request: Request) -> Answer | bytes:
        if "tagging" in request.query or "list-type" in request.query:
            return reply(200, b"<ListBucketResult/>")
        source = "x-amz-copy-source" in request.headers
        if request.method in {"HEAD", "GET"} or source:
            given = request.headers.get(f"{SOURCE if source else CUSTOMER}key")
            if given != (self.opens.key if self.opens else None):
                return reply(403 if given and self.opens else 400)
        return self._done(request)

    def _done(self, request: Request) -> bytes:
        told = {n: v for n, v in request.headers.items() if n.startswith(SSE)} if self.echo else {}
        told = {n.replace("-", "_"): v for n, v in told.items() if not n.endswith("-key")}
        if request.method == "HEAD":
            lines = f'Content-Length: 3\r\nETag: "e"\r\nLast-Modified: {DATE}\r\n'
            lines += f"{CUSTOMER}algorithm: AES256\r\n" if self.opens else ""
            return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()
        body = b""
        if request.method == "GET":
            return reply(206, b"abc", etag='"e"', content_range="bytes 0-2/3")
        for name in ("uploads", "uploadId"):
            if name in request.query and request.method == "POST":
                body = (
                    b"<InitiateMultipartUploadResult><UploadId>u1</UploadId>"
                    b"</InitiateMultipartUploadResult>"
                )
        if "x-amz-copy-source" in request.headers:
            kind = "CopyPartResult" if "partNumber" in request.query else "CopyObjectResult"
            body = f'<{kind}><ETag>"e"</ETag></{kind}>'.encode()
        return reply(200, body, etag='"e"', date=DATE, **told)


def asked(make: Callable[[str], S3Store], server: Server, *work: str) -> list[Request]:
    """Return the requests that come of some operations."""

    async def main() -> None:
        store = make(raw.url)
        for name in work:
            await OPERATIONS[name](store)

    with RawServer.answering(server) as raw:
        run(main())
    return raw.requests


async def _get(store: S3Store) -> object:
    sink = Memory(3)
    await store.get_range("k", '"e"', 0, 3, sink)
    assert sink.received == b"abc"
    return sink


OPERATIONS: dict[str, Callable[[S3Store], Coroutine[Any, Any, object]]] = {
    "head": lambda store: store.head("k"),
    "get": _get,
    "put": lambda store: store.put("k", BODY),
    "create": lambda store: store.create_multipart("k"),
    "part": lambda store: store.upload_part(UPLOAD, 1, BODY),
    "copy part": lambda store: store.copy_part(UPLOAD, 1, INFO, 0, 3),
    "copy": lambda store: store.copy(INFO, "to"),
    "duplicate": lambda store: store.duplicate(INFO, "to"),
}


def of(request: Request, prefix: str = SSE) -> dict[str, str]:
    return {n: v for n, v in request.headers.items() if n.startswith(prefix)}


WANTED = {
    "nothing": ("", {}),
    "S3's keys": ("sse=AES256", {SSE: "AES256"}),
    "KMS": ("sse=aws:kms", {SSE: "aws:kms"}),
    "KMS twice, and a key": (
        f"sse=aws:kms:dsse,sse_kms_key_id={ARN}",
        {SSE: "aws:kms:dsse", KMS: ARN},
    ),
}


@pytest.mark.parametrize(("options", "headers"), WANTED.values(), ids=WANTED.keys())
@pytest.mark.parametrize("work", ["put", "create", "copy", "duplicate"])
def test_every_new_object_is_encrypted(options: str, headers: dict[str, str], work: str) -> None:
    (request,) = asked(encrypted(options), Server(), work)
    assert of(request) == headers


@pytest.mark.parametrize("work", ["head", "get", "part", "copy part"])
def test_what_makes_no_object_asks_for_nothing(work: str) -> None:
    (request,) = asked(encrypted("sse=aws:kms"), Server(), work)
    assert of(request) == {}


# -- whether it was done ---------------------------------------------------------------------------


def failing(make: Callable[[str], S3Store], server: Server, work: str) -> list[Request]:
    """Have an operation fail, and return what was sent."""

    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            await OPERATIONS[work](make(raw.url))
        assert caught.value.fault is Fault.NOT_ENCRYPTED
        assert "is not encrypted as sse= says" in str(caught.value)

    with RawServer.answering(server) as raw:
        run(main())
    return raw.requests


def test_a_store_that_does_not_encrypt_is_told_of() -> None:
    for options, keys in (("sse=AES256", ()), ("sse=aws:kms", ()), ("", (FIRST,))):
        for work in ("put", "copy", "duplicate"):
            opens = FIRST if keys and work != "put" else ""
            server = Server(echo=False, opens=opens)
            failing(encrypted(options, keys), server, work)


def test_no_byte_is_sent_to_one_that_would_not_encrypt_it() -> None:
    begin, abort = failing(encrypted("sse=AES256"), Server(echo=False), "create")
    assert (begin.method, abort.method) == ("POST", "DELETE")


REPLIES = {
    "another algorithm": ({SSE: "aws:kms"}, {SSE: "AES256"}),
    "another key": ({SSE: "aws:kms", KMS: ARN}, {SSE: "aws:kms", KMS: ARN + "2"}),
    "another customer's key": ({f"{CUSTOMER}key-md5": "a"}, {f"{CUSTOMER}key-md5": "b"}),
}


@pytest.mark.parametrize(("wanted", "got"), REPLIES.values(), ids=REPLIES.keys())
def test_another_encryption_is_none(wanted: Mapping[str, str], got: Mapping[str, str]) -> None:
    with pytest.raises(StoreError):
        Encryption.verify("PutObject 'k'", wanted, got)


@pytest.mark.parametrize("name", ["alias/x", "1234", "arn:aws:kms:eu-west-1:1:alias/x"])
def test_a_key_by_another_name_is_replied_with_its_own(name: str) -> None:
    Encryption.verify("PutObject 'k'", {SSE: "aws:kms", KMS: name}, {SSE: "aws:kms", KMS: ARN})


# -- keys of one's own -----------------------------------------------------------------------------


def test_the_first_key_is_for_new_objects() -> None:
    make = encrypted("", (FIRST, SECOND))
    for work in ("put", "create"):
        (request,) = asked(make, Server(), work)
        assert of(request) == key_of(FIRST).headers()


def test_parts_carry_the_key_of_their_upload() -> None:
    create, part, copied = asked(
        encrypted("", (FIRST,)), Server(opens=FIRST), "create", "part", "copy part"
    )
    assert of(create) == of(part) == of(copied) == key_of(FIRST).headers()
    assert of(copied, SOURCE) == key_of(FIRST).headers(SOURCE)


@pytest.mark.parametrize("opens", [FIRST, SECOND, ""])
@pytest.mark.parametrize("work", ["head", "get"])
def test_the_key_of_an_object_is_found(work: str, opens: str) -> None:
    """And remembered: the second time it is the first that is tried."""
    requests = asked(encrypted("", (FIRST, SECOND)), Server(opens=opens), work, work)
    tried = [of(r).get(f"{CUSTOMER}key") for r in requests if "list-type" not in r.query]
    order = [key_of(FIRST).key, key_of(SECOND).key, None]
    right = key_of(opens).key if opens else None
    assert tried == [*order[: order.index(right) + 1], right]


def test_an_object_that_no_key_opens() -> None:
    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            await encrypted("", (FIRST,))(raw.url).get_range("k", "", 0, 3, Memory(3))
        assert caught.value.fault is Fault.FORBIDDEN
        assert len(raw.requests) == 2

    with RawServer.answering(Server(opens=SECOND)) as raw:
        run(main())


def test_any_other_failure_ends_the_search() -> None:
    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            await encrypted("", (FIRST, SECOND))(raw.url).head("k")
        assert caught.value.fault is Fault.NOT_FOUND
        assert len(raw.requests) == 1

    with RawServer.answering([reply(404)]) as raw:
        run(main())


def test_keys_only_for_reading() -> None:
    make = encrypted("sse=AES256", (FIRST,))
    put, head = asked(make, Server(opens=FIRST), "put")[0], None
    assert of(put) == {SSE: "AES256"}
    (head, *_) = asked(make, Server(opens=FIRST), "head")
    assert of(head) == key_of(FIRST).headers()


def test_what_was_stored_here_is_opened_with_its_key_at_once() -> None:
    requests = asked(encrypted("sse=AES256", (FIRST,)), Server(), "put", "head")
    assert [of(request) for request in requests] == [{SSE: "AES256"}, {}]


def test_without_keys_nothing_is_tried() -> None:
    async def main() -> None:
        with pytest.raises(StoreError):
            await make_store(raw.url).get_range("k", "", 0, 3, Memory(3))
        assert len(raw.requests) == 1

    with RawServer.answering([reply(403)]) as raw:
        run(main())


def test_memory_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuse_s3_worker.store.encryption._REMEMBERED_MAX", 3)

    async def main() -> None:
        encryption = Encryption(keys=[key_of(FIRST)])
        for number in range(10):
            await encryption.read(str(number), _nothing)
        assert len(encryption._right) == 3

    asyncio.run(main())


async def _nothing(headers: dict[str, str]) -> None:
    del headers
