"""Other headers for an object whose bytes stay, on servers of all kinds."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fuse_s3_worker.config.units import GIB, MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store import rewriting
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.types import ObjectInfo
from support.rawserver import Answer, End, RawServer, Request, reply
from support.storekit import PERSISTENT, make_store, run

OLD, NEW = '"00c0ffee00c0ffee00c0ffee00c0ffee"', '"feedbeeffeedbeeffeedbeeffeedbeef"'
MODIFIED, SECOND = "2026-04-01T12:00:00.000Z", 1_000_000_000
AT = 1_775_044_800 * SECOND
DATE = "Wed, 01 Apr 2026 12:00:00 GMT"
BASE = ObjectInfo("a b", 3, 0, OLD)
WANTED = {
    "x-amz-meta-mode": "33188",
    "x-amz-meta-colour": "blue",
    "content-type": "text/x-test",
    "cache-control": "no-cache",
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:x:1:alias/y",
}
TOLD = {"x-amz-tagging-count": "2"}
NO_TAGS = b"<Tagging><TagSet></TagSet></Tagging>"
TAGS = (
    b"<Tagging><TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag><Tag><Key>e</Key></Tag>"
    b"</TagSet></Tagging>"
)
ENCRYPTED = {"x_amz_server_side_encryption": "aws:kms"}


@dataclass
class Server:
    """One object, and CopyObject as different servers have it.

    Attributes:
        minds: whether it heeds x-amz-copy-source-if-match.
        copies: whether it copies at all.
        etag: of the object; "" when there is none.
        headers: that it has.
        lose: how many replies are lost after the copy was made.
        becomes: the ETag after a copy.
    """

    minds: bool = True
    copies: bool = True
    etag: str = OLD
    headers: dict[str, str] = field(default_factory=dict)
    lose: int = 0
    becomes: str = OLD
    size: int = 3
    tags: bytes | None = TAGS
    keeps_tags: bool = True
    gives_up: bool = True

    def __call__(self, request: Request) -> Answer | bytes:
        handler: dict[str, Callable[[Request], Answer | bytes]] = {
            "HEAD": self._head, "GET": self._get, "PUT": self._put, "POST": self._post,
            "DELETE": lambda _: reply(204 if self.gives_up else 403),
        }  # fmt: skip
        return handler[request.method](request)

    def _head(self, _: Request) -> bytes:
        if not self.etag:
            return reply(404)
        told = {"content-length": str(self.size), "etag": self.etag, "last-modified": DATE}
        lines = "".join(f"{n}: {v}\r\n" for n, v in (told | self.headers).items())
        return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()

    def _get(self, request: Request) -> bytes:
        if "tagging" in request.query:
            return self._tagging(request)
        return reply(206, b"abc", etag=self.etag, content_range="bytes 0-2/3")

    def _tagging(self, request: Request) -> bytes:
        if request.method == "PUT":
            self.tags = request.body
        if self.tags is None:
            return reply(501, b"<Error><Code>NotImplemented</Code></Error>")
        return reply(200, self.tags)

    def _put(self, request: Request) -> Answer | bytes:
        if "tagging" in request.query:
            return self._tagging(request)
        if "x-amz-copy-source" not in request.headers:
            self.etag = NEW
            return reply(200, b"", etag=NEW, date=DATE, **ENCRYPTED)
        if not self.copies:
            return reply(501, b"<Error><Code>NotImplemented</Code></Error>")
        condition = request.headers.get("x-amz-copy-source-if-match", self.etag)
        if self.minds and condition != self.etag:
            return reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if "partNumber" in request.query:
            return reply(200, f"<CopyPartResult><ETag>{NEW}</ETag></CopyPartResult>".encode())
        self.etag = self.becomes
        self.headers = {n: v for n, v in request.headers.items() if n.startswith("x-amz-meta-")}
        if self.lose:
            self.lose -= 1
            return Answer(b"", End.CLOSE)
        document = f"<LastModified>{MODIFIED}</LastModified><ETag>{self.etag}</ETag>"
        return reply(200, f"<CopyObjectResult>{document}</CopyObjectResult>".encode(), **ENCRYPTED)

    def _post(self, request: Request) -> bytes:
        kind = "InitiateMultipartUploadResult"
        if "uploads" not in request.query:
            kind = "CompleteMultipartUploadResult"
            self.etag = NEW
            self.tags = self.tags if self.keeps_tags else NO_TAGS
        body = f"<{kind}><UploadId>u1</UploadId><ETag>{NEW}</ETag></{kind}>".encode()
        return reply(200, body, date=DATE, **ENCRYPTED)


def rewrite(
    server: Server,
    source: ObjectInfo = BASE,
    *,
    headers: dict[str, str] | None = None,
    options: str = "",
    amazon: bool = False,
) -> tuple[ObjectInfo | Fault, list[Request]]:
    """Set headers; return what came of it, and the requests."""

    async def main() -> ObjectInfo | Fault:
        store = make_store(raw.url, options, patience=PERSISTENT)
        store = as_amazon(store) if amazon else store
        try:
            return await store.set_headers(source, WANTED | TOLD if headers is None else headers)
        except StoreError as error:
            return error.fault

    with RawServer.answering(server) as raw:
        found = run(main())
    return found, raw.requests


def as_amazon(store: S3Store) -> S3Store:
    store._amazon = True
    store._conditions._first = type(store._conditions._first).QUOTED
    return store


def copies(requests: list[Request]) -> list[Request]:
    return [request for request in requests if "x-amz-copy-source" in request.headers]


# -- one request -----------------------------------------------------------------------------------


def test_one_request_does_it() -> None:
    info, (request,) = rewrite(Server(), amazon=True)
    assert info == ObjectInfo("a b", 3, AT, OLD)
    assert (request.method, request.path, request.body) == ("PUT", "/bucket/a b", b"")
    told = {
        "x-amz-copy-source": "/bucket/a%20b",
        "x-amz-copy-source-if-match": OLD,
        "x-amz-metadata-directive": "REPLACE",
    }
    assert request.headers.items() >= (WANTED | told).items()
    # Tags stay by themselves, and what HEAD counts cannot be asked for.
    assert not request.headers.keys() & {"x-amz-tagging-directive", *TOLD}


def test_the_class_of_the_object_goes_before_that_of_the_mount() -> None:
    _, (request,) = rewrite(Server(), options="storage_class=GLACIER_IR", amazon=True)
    assert request.headers["x-amz-storage-class"] == "STANDARD_IA"


def test_what_nobody_has_said_is_as_the_mount_has_it() -> None:
    options = "storage_class=GLACIER_IR,sse=aws:kms,acl=public-read"
    _, (request,) = rewrite(Server(), headers={}, options=options, amazon=True)
    assert request.headers["x-amz-storage-class"] == "GLACIER_IR"
    assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert request.headers["x-amz-acl"] == "public-read"


def test_a_copy_keeps_its_class_in_what_is_told() -> None:
    info, _ = rewrite(Server(), BASE._replace(storage_class="STANDARD_IA"), amazon=True)
    assert isinstance(info, ObjectInfo)
    assert info.storage_class == "STANDARD_IA"


# -- another version -------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", [NEW, ""])
@pytest.mark.parametrize("minds", [True, False])
def test_no_other_version_is_touched(minds: bool, etag: str) -> None:
    server = Server(minds=minds, etag=etag)
    fault, requests = rewrite(server)
    assert fault is Fault.CHANGED
    assert server.headers == {}
    assert not copies(requests)


def test_a_server_that_ignores_the_condition_is_looked_at_before() -> None:
    async def main() -> None:
        store = make_store(raw.url)
        for _ in range(3):
            await store.set_headers(BASE, WANTED)

    with RawServer.answering(Server(minds=False)) as raw:
        run(main())
    # What it does is found out by the first request, which it may as well do.
    assert [request.method for request in raw.requests] == ["HEAD", "PUT"] * 3
    assert "x-amz-copy-source-if-match" in raw.requests[1].headers
    assert "x-amz-copy-source-if-match" not in raw.requests[3].headers


def test_a_server_that_minds_it_is_not() -> None:
    async def main() -> None:
        store = make_store(raw.url)
        for _ in range(3):
            await store.set_headers(BASE, WANTED)

    with RawServer.answering(Server()) as raw:
        run(main())
    assert [request.method for request in raw.requests] == ["HEAD", *["PUT"] * 4]


def test_a_lost_reply_is_no_other_version() -> None:
    """The copy was made, its tag is another one now, and the second try finds just that."""
    server = Server(lose=1, becomes=NEW)
    info, requests = rewrite(server, amazon=True)
    assert isinstance(info, ObjectInfo)
    assert (info.etag, info.size) == (NEW, 3)
    assert [request.method for request in requests] == ["PUT", "PUT", "HEAD"]


def test_a_lost_reply_and_another_client() -> None:
    server = Server(etag=NEW, headers={"x-amz-meta-mode": "1"})
    fault, requests = rewrite(server, amazon=True)
    assert fault is Fault.CHANGED
    assert [request.method for request in requests] == ["PUT", "HEAD"]


def test_metadata_that_cannot_be_shown_is_not_lost() -> None:
    fault, requests = rewrite(Server(), headers=WANTED | {"x-amz-missing-meta": "1"})
    assert (fault, requests) == (Fault.NOT_IMPLEMENTED, [])


# -- large objects ---------------------------------------------------------------------------------


def test_above_five_gib_the_parts_are_copied() -> None:
    large = BASE._replace(size=5 * GIB + 1)
    info, requests = rewrite(Server(size=large.size), large, amazon=True)
    assert info == ObjectInfo("a b", large.size, AT, NEW)
    tagging, begin, *parts, complete, look = requests
    assert "tagging" in tagging.query
    assert begin.headers.items() >= (WANTED | {"x-amz-tagging": "a+b=c%26d&e="}).items()
    ranges = sorted(
        tuple(map(int, part.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-")))
        for part in parts
    )
    assert [start for start, _ in ranges] == list(range(0, large.size, 512 * MIB))
    assert ranges[-1][1] == large.size - 1
    assert all(part.headers["x-amz-copy-source-if-match"] == OLD for part in parts)
    assert complete.headers["if-match"] == OLD
    assert "tagging" in look.query


def test_tags_that_an_upload_does_not_bring_are_put_back() -> None:
    large = BASE._replace(size=5 * GIB + 1)
    server = Server(size=large.size, keeps_tags=False)
    _, requests = rewrite(server, large, amazon=True)
    assert [request.method for request in requests[-2:]] == ["GET", "PUT"]
    assert b"<Tag><Key>a b</Key><Value>c&amp;d</Value></Tag>" in requests[-1].body
    assert "content-md5" in requests[-1].headers


def test_tags_that_cannot_be_had() -> None:
    """Where HEAD has told of some, that is a failure; otherwise there are none."""
    large = BASE._replace(size=5 * GIB + 1)
    fault, _ = rewrite(Server(size=large.size, tags=None), large, amazon=True)
    assert fault is Fault.NOT_IMPLEMENTED
    info, _ = rewrite(Server(size=large.size, tags=None), large, headers=WANTED, amazon=True)
    assert isinstance(info, ObjectInfo)


def test_up_to_five_gib_it_is_one_request() -> None:
    _, requests = rewrite(Server(size=5 * GIB), BASE._replace(size=5 * GIB), amazon=True)
    assert len(requests) == 1


def test_an_upload_that_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_COPY_MAX", 2)
    fault, requests = rewrite(Server(etag=NEW), amazon=True)
    assert fault is Fault.CHANGED
    assert requests[-1].method == "DELETE"


def test_one_that_cannot_be_given_up_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rewriting, "_COPY_MAX", 2)
    fault, _ = rewrite(Server(etag=NEW, gives_up=False), amazon=True)
    assert fault is Fault.CHANGED
    assert "abort_failed" in caplog.text


# -- without CopyObject ----------------------------------------------------------------------------


def test_a_small_object_is_sent_again() -> None:
    info, requests = rewrite(Server(copies=False), amazon=True)
    assert info == ObjectInfo("a b", 3, AT, NEW)
    assert [request.method for request in requests] == ["PUT", "GET", "PUT"]
    again = requests[-1]
    assert (again.body, again.headers["if-match"]) == (b"abc", OLD)
    assert again.headers.items() >= WANTED.items()


def test_an_empty_object_is_sent_again_without_being_fetched() -> None:
    empty = BASE._replace(size=0)
    _, requests = rewrite(Server(copies=False, size=0), empty, amazon=True)
    assert [request.method for request in requests] == ["PUT", "PUT"]


def test_a_server_is_asked_once_whether_it_copies() -> None:
    async def main() -> None:
        store = as_amazon(make_store(raw.url))
        for etag in (OLD, NEW):
            await store.set_headers(BASE._replace(etag=etag), WANTED)

    with RawServer.answering(Server(copies=False)) as raw:
        run(main())
    assert len(copies(raw.requests)) == 1


def test_a_large_object_is_not(caplog: pytest.LogCaptureFixture) -> None:
    large = BASE._replace(size=8 * MIB + 1)
    with caplog.at_level(logging.WARNING):
        fault, requests = rewrite(Server(copies=False, size=large.size), large, amazon=True)
    assert fault is Fault.NOT_IMPLEMENTED
    assert len(requests) == 1
    assert "headers_cannot_change" in caplog.text
    assert "a b" in caplog.text


def test_names_that_some_servers_decode_twice_are_sent_again() -> None:
    _, requests = rewrite(Server(), BASE._replace(key="100%41"))
    assert not copies(requests)


def test_any_other_failure_is_one() -> None:
    class Forbids(Server):
        def _put(self, request: Request) -> Answer | bytes:
            return reply(403, b"<Error><Code>AccessDenied</Code></Error>")

    fault, requests = rewrite(Forbids(), amazon=True)
    assert fault is Fault.FORBIDDEN
    assert len(requests) == 1
