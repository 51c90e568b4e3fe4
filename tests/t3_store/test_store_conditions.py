"""Replacing one version and no other, on every kind of server that there is."""

import hashlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.types import Body, MultipartUpload, ObjectInfo, PartResult
from support.rawserver import Answer, End, RawServer, Request, reply
from support.storekit import PERSISTENT, make_store, run

DATE = "Wed, 01 Apr 2026 12:00:00 GMT"
CONTENT = b"new content"
OLD, THEIRS = '"00c0ffee00c0ffee00c0ffee00c0ffee"', '"feedbeeffeedbeeffeedbeeffeedbeef"'
NEW = f'"{hashlib.md5(CONTENT).hexdigest()}"'
PART = PartResult(1, len(CONTENT), NEW, "")
MADE = f'"{hashlib.md5(hashlib.md5(CONTENT).digest()).hexdigest()}-1"'
BASE = ObjectInfo("k", 3, 0, OLD)


class Minds(Enum):
    """What a server makes of If-Match."""

    QUOTED = auto()  # Amazon, moto
    UNQUOTED = auto()  # Ceph's PutObject
    IGNORES = auto()  # Ceph's and moto's CompleteMultipartUpload
    REFUSES_501 = auto()  # Swift
    REFUSES_400 = auto()
    NEVER_MET = auto()


HEEDED = {Minds.QUOTED, Minds.UNQUOTED}


Act = Callable[..., Coroutine[Any, Any, Any]]


@dataclass
class Server:
    """One object, `k`, and conditions as `minds` says.

    Attributes:
        etag: of the object; "" when there is none.
        versions: what was stored, by ETag, in order.
        lose: how many replies to stores get lost after they were done.
        meanwhile: called when a store arrives, before it is looked at.
        checksum: what a HEAD tells of the object, when it is asked for it.
    """

    minds: Minds
    etag: str = OLD
    size: int = 3
    versions: list[str] = field(default_factory=list)
    lose: int = 0
    meanwhile: Callable[[], None] = lambda: None
    checksum: str = ""

    def __call__(self, request: Request) -> Answer | bytes:
        if request.method == "HEAD":
            return self._head()
        self.meanwhile()
        refusal = self._refusal(request.headers.get("if-match", ""))
        if refusal:
            return refusal
        self.etag = MADE if request.method == "POST" else NEW
        self.size = len(CONTENT)
        self.versions.append(self.etag)
        if self.lose:
            self.lose -= 1
            return Answer(b"", End.CLOSE)
        name = "CompleteMultipartUploadResult"
        body = f"<{name}><ETag>{self.etag}</ETag></{name}>".encode()
        return reply(200, body if request.method == "POST" else b"", etag=self.etag, date=DATE)

    def _head(self) -> bytes:
        if not self.etag:
            return reply(404)
        lines = f"Content-Length: {self.size}\r\nETag: {self.etag}\r\nLast-Modified: {DATE}\r\n"
        lines += f"x-amz-checksum-crc64nvme: {self.checksum}\r\n" if self.checksum else ""
        return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()

    def _refusal(self, condition: str) -> bytes | None:
        if not condition or self.minds is Minds.IGNORES:
            return None
        if self.minds is Minds.REFUSES_501:
            return reply(501, b"<Error><Code>NotImplemented</Code></Error>")
        if self.minds is Minds.REFUSES_400:
            return reply(400, b"<Error><Code>InvalidArgument</Code></Error>")
        wanted = {Minds.QUOTED: self.etag, Minds.UNQUOTED: self.etag.strip('"')}
        if not self.etag and self.minds is Minds.QUOTED:
            return reply(404, b"<Error><Code>NoSuchKey</Code></Error>")  # as Amazon says it
        if condition != wanted.get(self.minds):
            return reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        return None


async def put(store: S3Store, replaces: ObjectInfo | None = BASE) -> ObjectInfo:
    return await store.put("k", Body((CONTENT,), len(CONTENT)), replaces=replaces)


async def complete(store: S3Store, replaces: ObjectInfo | None = BASE) -> ObjectInfo:
    return await store.complete_multipart(MultipartUpload("k", "u1"), [PART], replaces=replaces)


STORE = pytest.mark.parametrize("act", [put, complete])
ALL = pytest.mark.parametrize("minds", Minds)


def fault_of(server: Server, act: Act, *, amazon: bool = False) -> Fault:
    """Return the fault that storing comes to."""

    async def main() -> Fault:
        store = make_store(raw.url, patience=PERSISTENT)
        store = _as_amazon(store) if amazon else store
        with pytest.raises(StoreError) as caught:
            await act(store)
        return caught.value.fault

    with RawServer.answering(server) as raw:
        return run(main())


def _as_amazon(store: S3Store) -> S3Store:
    store._conditions._first = type(store._conditions._first).QUOTED
    return store


@STORE
@ALL
def test_a_version_is_replaced_and_the_way_is_found_out_once(
    minds: Minds, act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = Server(minds)

    async def main() -> tuple[int, int]:
        store = make_store(raw.url, patience=PERSISTENT)
        found = await act(store)
        assert (found.etag, found.size) == (server.etag, len(CONTENT))
        assert server.versions == [found.etag]
        first = len(raw.requests)
        server.etag, server.size = OLD, 3
        await act(store)
        assert len(server.versions) == 2
        return first, len(raw.requests) - first

    with RawServer.answering(server) as raw:
        first, second = run(main())
    # Whenever a completion is refused, its object is looked for; whenever a PUT is, as something
    # that is not known, it is tried without a checksum.
    expected: dict[Act, dict[Minds, tuple[int, int]]] = {
        put: {
            Minds.QUOTED: (3, 1),  # a look, a version that nobody has, the right one; then that
            Minds.UNQUOTED: (5, 1),  # another look, and without quotes
            Minds.IGNORES: (2, 2),  # a look, and it is stored; both again
            Minds.REFUSES_501: (4, 2),
            Minds.REFUSES_400: (4, 2),
            Minds.NEVER_MET: (7, 2),
        },
        complete: {
            Minds.QUOTED: (4, 1),
            Minds.UNQUOTED: (7, 1),
            Minds.IGNORES: (2, 2),
            Minds.REFUSES_501: (3, 2),
            Minds.REFUSES_400: (3, 2),
            Minds.NEVER_MET: (10, 2),
        },
    }
    assert (first, second) == expected[act][minds]
    lines = [r for r in caplog.records if r.getMessage().startswith("conditions_ignored ")]
    assert len(lines) == (minds not in HEEDED)


@STORE
@ALL
@pytest.mark.parametrize("theirs", [THEIRS, ""], ids=["replaced", "removed"])
@pytest.mark.parametrize("known", [False, True])
def test_another_version_is_not_replaced(minds: Minds, act: Act, theirs: str, known: bool) -> None:
    server = Server(minds)

    async def twice(store: S3Store) -> object:
        if known:
            await act(store)
        server.etag, server.size = theirs, 6
        server.versions.clear()
        return await act(store)

    assert fault_of(server, twice) is Fault.CHANGED
    assert server.versions == []
    assert server.etag == theirs


@STORE
@pytest.mark.parametrize("minds", HEEDED)
def test_where_conditions_are_minded_nothing_comes_between(minds: Minds, act: Act) -> None:
    """Another client stores after the look, in the very last moment."""
    server = Server(minds)

    def theirs() -> None:
        server.etag = THEIRS

    async def late(store: S3Store) -> object:
        await act(store)
        server.etag, server.size, server.meanwhile = OLD, 3, theirs
        server.versions.clear()
        return await act(store)

    assert fault_of(server, late) is Fault.CHANGED
    assert server.versions == []
    first = Server(minds, meanwhile=theirs)
    first.meanwhile = lambda: setattr(first, "etag", THEIRS)
    assert fault_of(first, act) is Fault.CHANGED
    assert first.versions == []


@STORE
@pytest.mark.parametrize("minds", [Minds.QUOTED, Minds.UNQUOTED])
@pytest.mark.parametrize("known", [False, True])
def test_what_was_stored_before_the_reply_was_lost_is_not_taken_for_another_clients(
    minds: Minds, act: Act, known: bool
) -> None:
    server = Server(minds)

    async def main() -> None:
        store = make_store(raw.url, patience=PERSISTENT)
        if known:
            await act(store)
            server.etag, server.size = OLD, 3
        server.versions.clear()
        server.lose = 1
        found = await act(store)
        assert found.etag == server.etag
        assert len(server.versions) == 1

    with RawServer.answering(server) as raw:
        run(main())


def test_a_checksum_tells_what_is_stored_where_the_etag_does_not() -> None:
    """Encrypted with KMS, an object has an ETag that is no sum of its bytes."""
    server = Server(Minds.QUOTED)

    async def main() -> None:
        store = make_store(raw.url, "upload_checksum=crc64nvme", patience=PERSISTENT)
        await put(store)
        (sent, *_) = [r.headers for r in raw.requests if r.method == "PUT"]
        server.etag, server.size = THEIRS, len(CONTENT)
        with pytest.raises(StoreError):
            await put(store)
        server.checksum = sent["x-amz-checksum-crc64nvme"]
        assert (await put(store)).etag == THEIRS

    with RawServer.answering(server) as raw:
        run(main())


def test_amazon_is_not_asked_what_it_minds() -> None:
    server = Server(Minds.QUOTED)

    async def main() -> None:
        store = _as_amazon(make_store(raw.url, patience=PERSISTENT))
        await put(store)
        await complete(store, BASE._replace(etag=NEW))
        assert [request.method for request in raw.requests] == ["PUT", "POST"]
        assert [request.headers["if-match"] for request in raw.requests] == [OLD, NEW]

    with RawServer.answering(server) as raw:
        run(main())


@STORE
def test_without_a_version_to_replace_there_is_no_condition(
    act: Act,
) -> None:
    server = Server(Minds.QUOTED, etag=THEIRS)

    async def main() -> None:
        await act(make_store(raw.url), None)
        (request,) = raw.requests
        assert "if-match" not in request.headers

    with RawServer.answering(server) as raw:
        run(main())


@STORE
@pytest.mark.parametrize(("size", "good"), [(3, True), (4, False)])
def test_a_version_without_an_etag_is_known_by_size_and_time(
    act: Act, size: int, good: bool
) -> None:
    server = Server(Minds.QUOTED, size=size)
    nameless = BASE._replace(etag="", mtime=1775044800_000_000_000)

    async def main() -> None:
        store = make_store(raw.url)
        if good:
            await act(store, nameless)
            assert len(server.versions) == 1
            return
        with pytest.raises(StoreError) as caught:
            await act(store, nameless)
        assert caught.value.fault is Fault.CHANGED

    with RawServer.answering(server) as raw:
        run(main())


@STORE
def test_other_failures_are_what_they_are(act: Act) -> None:
    def script(request: Request) -> bytes:
        if request.method == "HEAD":
            return Server(Minds.QUOTED)._head()
        return reply(403, b"<Error><Code>AccessDenied</Code></Error>")

    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            await act(make_store(raw.url))
        assert caught.value.fault is Fault.FORBIDDEN

    with RawServer.answering(script) as raw:
        run(main())


# -- copies ----------------------------------------------------------------------------------------

COPIED = b"<CopyObjectResult><ETag>%s</ETag></CopyObjectResult>"
CANNOT = {
    "501": reply(501, b"<Error><Code>NotImplemented</Code></Error>"),
    "405": reply(405, b"<Error><Code>MethodNotAllowed</Code></Error>"),
    "400": reply(400, b"<Error><Code>InvalidRequest</Code></Error>"),
}


async def copy(store: S3Store) -> object:
    return await store.copy(BASE, "to")


async def copy_part(store: S3Store) -> object:
    return await store.copy_part(MultipartUpload("to", "u1"), 1, BASE, 0, 3)


@pytest.mark.parametrize("act", [copy, copy_part])
@pytest.mark.parametrize("how", CANNOT)
def test_a_server_that_does_not_copy_is_remembered(
    act: Act, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        store = make_store(raw.url)
        assert store.copies_from("k")
        for _ in range(2):
            with pytest.raises(StoreError):
                await act(store)
            assert not store.copies_from("k")

    with RawServer.answering([CANNOT[how]] * 2) as raw:
        run(main())
    lines = [r for r in caplog.records if r.getMessage().startswith("copy_refused ")]
    assert len(lines) == 1


def test_a_part_without_bytes_is_no_copy() -> None:
    """rclone stores one, and says that all is well."""

    async def main() -> None:
        store = make_store(raw.url)
        with pytest.raises(StoreError, match="without bytes") as caught:
            await copy_part(store)
        assert caught.value.fault is Fault.NOT_IMPLEMENTED
        assert not store.copies_from("k")

    with RawServer.answering([reply(200, etag='"d41d8cd98f00b204e9800998ecf8427e"')]) as raw:
        run(main())


def test_a_failure_to_copy_is_not_a_server_that_cannot() -> None:
    async def main() -> None:
        store = make_store(raw.url)
        with pytest.raises(StoreError):
            await copy(store)
        assert store.copies_from("k")

    with RawServer.answering([reply(403, b"<Error><Code>AccessDenied</Code></Error>")]) as raw:
        run(main())


def test_names_that_some_servers_decode_twice_are_not_copied_from() -> None:
    store = make_store("http://127.0.0.1:1")
    assert not store.copies_from("100%41")
    store._amazon = True
    assert store.copies_from("100%41")


def test_the_request_of_a_copy() -> None:
    async def main() -> None:
        store = make_store(raw.url, "storage_class=STANDARD_IA")
        found = await store.copy(BASE._replace(key="a b%"), "to", content_type="text/x-test")
        assert found == ObjectInfo("to", 3, 1775044800_000_000_000, OLD)
        (request,) = raw.requests
        assert (request.method, request.path, request.body) == ("PUT", "/bucket/to", b"")
        sent = {name: request.headers.get(name) for name in EXPECTED}
        assert sent == EXPECTED

    document = (
        f"<CopyObjectResult><LastModified>2026-04-01T12:00:00.700Z</LastModified>"
        f"<ETag>{OLD}</ETag></CopyObjectResult>"
    )
    with RawServer.answering([reply(200, document.encode())]) as raw:
        run(main())


EXPECTED = {
    "x-amz-copy-source": "/bucket/a%20b%25",
    "x-amz-copy-source-if-match": OLD,
    # what the file system keeps of an object is its bytes
    "x-amz-metadata-directive": "REPLACE",
    "x-amz-tagging-directive": "REPLACE",
    "x-amz-storage-class": "STANDARD_IA",
    "content-type": "text/x-test",
}


@pytest.mark.parametrize(
    ("result", "now", "good"),
    [
        (OLD, None, True),  # the same ETag, the same bytes
        (THEIRS, OLD, True),  # made in another way, but of the version that is there before and now
        (THEIRS, THEIRS, False),
        (THEIRS, "", False),
    ],
)
def test_a_copy_of_another_version_is_told(result: str, now: str | None, good: bool) -> None:
    def script(request: Request) -> Answer | bytes:
        if request.method == "HEAD":
            return Server(Minds.IGNORES, etag=now or "")._head()
        return reply(200, COPIED % result.encode(), date=DATE)

    async def main() -> None:
        store = make_store(raw.url)
        if good:
            assert (await store.copy(BASE, "to")).etag == result
        else:
            with pytest.raises(StoreError) as caught:
                await store.copy(BASE, "to")
            assert caught.value.fault is Fault.CHANGED
        assert len(raw.requests) == (1 if now is None else 2)

    with RawServer.answering(script) as raw:
        run(main())
