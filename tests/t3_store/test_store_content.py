"""What goes with every object: its content type, its class, its canned list."""

import pytest

from fuse_s3_worker.store.contenttypes import content_type_of
from fuse_s3_worker.store.types import Body, ObjectInfo
from support.rawserver import RawServer, Request, reply
from support.storekit import make_store, run

TYPES = {
    "page.html": "text/html",
    "dir.d/page.html": "text/html",
    "PHOTO.JPG": "image/jpeg",
    "data.json": "application/json",
    "archive.tar": "application/x-tar",
    # What is compressed stays so for whoever fetches it.
    "archive.tar.gz": "application/gzip",
    "archive.tgz": "application/gzip",
    "page.html.gz": "application/gzip",
    "log.xz": "application/x-xz",
    "log.Z": "application/x-compress",
    "README": "",
    ".html": "",
    "dir.html/README": "",
    "what.is-this": "",
    "trailing.": "",
    "data:text/x.png": "image/png",
    "a?b#c.css": "text/css",
    "": "",
}


@pytest.mark.parametrize(("key", "expected"), TYPES.items())
def test_the_type_by_the_suffix(key: str, expected: str) -> None:
    assert content_type_of(key) == expected


def test_the_machines_own_table_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimetypes.knownfiles", ["/nonexistent"])
    assert content_type_of("x.madeup") == ""


def sent(options: str, key: str = "page.html", **words: str) -> list[Request]:
    """Return the requests that store an object in each way there is."""
    answers = {
        "POST": b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
        b"</InitiateMultipartUploadResult>",
        "PUT": b"",
    }

    def script(request: Request) -> bytes:
        body = answers[request.method]
        if "x-amz-copy-source" in request.headers:
            body = b'<CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>'
        return reply(200, body, etag='"e"')

    async def main() -> None:
        store = make_store(raw.url, options)
        await store.put(key, Body((), 0), **words)  # type: ignore[arg-type]
        await store.create_multipart(key, **words)  # type: ignore[arg-type]
        await store.copy(ObjectInfo("x", 0, 0, '"e"'), key, **words)  # type: ignore[arg-type]

    with RawServer.answering(script) as raw:
        run(main())
    return raw.requests


CHOICES = {
    "": "text/html",
    "content_type=auto": "text/html",
    "content_type=off": None,
    "content_type=text/x-other": "text/x-other",
}


@pytest.mark.parametrize(("options", "expected"), CHOICES.items())
def test_the_option(options: str, expected: str | None) -> None:
    for request in sent(options):
        assert request.headers.get("content-type") == expected


def test_what_is_asked_for_goes_before() -> None:
    for request in sent("", content_type="application/x-directory"):
        assert request.headers["content-type"] == "application/x-directory"


def test_a_name_that_says_nothing_has_no_type() -> None:
    for request in sent("", "README"):
        assert "content-type" not in request.headers


def test_class_and_list_go_with_everything_that_is_stored() -> None:
    for request in sent("storage_class=onezone_ia,acl=bucket-owner-full-control"):
        assert request.headers["x-amz-storage-class"] == "ONEZONE_IA"
        assert request.headers["x-amz-acl"] == "bucket-owner-full-control"


def test_without_options_there_are_none() -> None:
    for request in sent(""):
        assert not request.headers.keys() & {"x-amz-storage-class", "x-amz-acl"}
