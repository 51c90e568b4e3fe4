"""The Python behind nginx: names, listings and multipart uploads.

It never sees the bytes of an object. nginx has written a PUT's body into a file and says in a
header where it lies; storing it is a rename. Signatures and checksums are not looked at.
"""

import argparse
import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

from bench.server import documents
from bench.server.objects import Entry, Objects, RefusedError
from bench.server.operations import COPY, Target, operation, split_target
from bench.server.uploads import Uploads, copy_range, join

__all__ = ["ADOPT", "BODY_FILE", "IMAGINE", "main"]

# Methods of ours, on the socket alone.
ADOPT = "ADOPT"  # look at the files anew
IMAGINE = "IMAGINE"  # list keys that are not there
BODY_FILE = "x-body-file"  # the header in which nginx names the file of a body

_LIST_MAX = 1000


class Request(NamedTuple):
    """A request as nginx passes it on; names of headers in lower case."""

    method: str
    target: Target
    headers: dict[str, str]
    body: bytes

    @property
    def file(self) -> Path | None:
        """The file that has the body; None when the body was empty."""
        name = self.headers.get(BODY_FILE)
        return Path(name) if name else None


class Response(NamedTuple):
    """What goes back."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Handler = Callable[[Request], Awaitable[Response]]


class Bucket:
    """The one bucket: a method for each operation, found by its name."""

    def __init__(self, base: Path, name: str) -> None:
        self._name = name
        self._base = base
        self._objects = Objects(base / "static" / name)
        self._uploads = Uploads(base / "parts")
        self._handlers: dict[str, Handler] = {
            "HeadBucket": self._head_bucket,
            "CreateBucket": self._head_bucket,
            "GetBucketLocation": self._location,
            "ListObjectsV2": self._list_v2,
            "ListObjects": self._list_v1,
            "HeadObject": self._head,
            "GetObject": self._head,
            "PutObject": self._put,
            "CopyObject": self._copy,
            "DeleteObject": self._delete,
            "DeleteObjects": self._delete_many,
            "CreateMultipartUpload": self._create,
            "UploadPart": self._upload_part,
            "UploadPartCopy": self._copy_part,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
        }

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return await self._handler(request)(request)
        except RefusedError as error:
            body = documents.error(error.code, str(error))
            return Response(error.status, _XML, b"" if request.method == "HEAD" else body)

    def _handler(self, request: Request) -> Handler:
        target, headers = request.target, request.headers
        if request.method in {ADOPT, IMAGINE}:
            return self._adopt if request.method == ADOPT else self._imagine
        name = operation(request.method, target, copies=COPY in headers)
        if target.bucket and target.bucket != self._name:
            raise RefusedError(404, "NoSuchBucket", "The specified bucket does not exist.")
        chunked = headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if name not in self._handlers or chunked:
            raise RefusedError(501, "NotImplemented", "This server has no such operation.")
        return self._handlers[name]

    # -- the bucket -----------------------------------------------------------------------------

    async def _adopt(self, request: Request) -> Response:
        self._objects.adopt(request.target.key)
        return Response()

    async def _imagine(self, request: Request) -> Response:
        count, width = (int(request.target.query[name]) for name in ("count", "width"))
        self._objects.imagine(request.target.key, count, width)
        return Response()

    async def _head_bucket(self, _: Request) -> Response:
        return Response(headers=(("x-amz-bucket-region", "us-east-1"),))

    async def _location(self, _: Request) -> Response:
        return _document(documents.location())

    async def _list_v2(self, request: Request) -> Response:
        query = request.target.query
        after = query.get("continuation-token") or query.get("start-after", "")
        return self._list(query, after, documents.listing_v2)

    async def _list_v1(self, request: Request) -> Response:
        query = request.target.query
        return self._list(query, query.get("marker", ""), documents.listing_v1)

    def _list(self, query: dict[str, str], after: str, write: documents.Listing) -> Response:
        limit = min(int(query.get("max-keys", _LIST_MAX)), _LIST_MAX)
        page = self._objects.page(query.get("prefix", ""), query.get("delimiter", ""), after, limit)
        return _document(write(self._name, query, page))

    async def _delete_many(self, request: Request) -> Response:
        keys = documents.read_delete(request.body)
        for key in keys:
            self._objects.remove(key)
        return _document(documents.deleted(keys))

    # -- one object -----------------------------------------------------------------------------

    async def _head(self, request: Request) -> Response:
        """Answer what nginx has no file for: a marker, or nothing."""
        entry = self._objects.find_marker(request.target.key)
        modified = formatdate(entry.mtime, usegmt=True)
        kind = ("content-type", "binary/octet-stream")  # s3fs knows a directory by it
        return Response(headers=(("etag", entry.etag), ("last-modified", modified), kind))

    async def _put(self, request: Request) -> Response:
        return _stored(self._objects.store(request.target.key, request.file))

    async def _copy(self, request: Request) -> Response:
        key, entry = self._source(request)
        copy = self._scratch()
        await asyncio.to_thread(_copy_file, self._objects.path(key), copy, 0, entry.size)
        stored = self._objects.store(request.target.key, copy)
        return _document(documents.copied("CopyObjectResult", stored.etag, stored.mtime))

    async def _delete(self, request: Request) -> Response:
        self._objects.remove(request.target.key)
        return Response(204)

    def _source(self, request: Request) -> tuple[str, Entry]:
        source = split_target("/" + request.headers[COPY].removeprefix("/"))
        entry = self._objects.find(source.key)
        expected = request.headers.get(f"{COPY}-if-match", entry.etag)
        if expected.strip('"') != entry.etag.strip('"'):
            raise RefusedError(412, "PreconditionFailed", "The source is another version.")
        return source.key, entry

    def _scratch(self) -> Path:
        return self._base / "bodies" / secrets.token_hex(8)

    # -- multipart uploads ----------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        key = request.target.key
        self._objects.path(key)  # refuses what cannot be stored in the end
        return _document(documents.initiated(self._name, key, self._uploads.begin(key)))

    async def _upload_part(self, request: Request) -> Response:
        query = request.target.query
        upload = self._uploads.find(request.target.key, query["uploadId"])
        part = self._uploads.add(upload, int(query["partNumber"]), request.file)
        return Response(headers=(("etag", part.etag),))

    async def _copy_part(self, request: Request) -> Response:
        query = request.target.query
        upload = self._uploads.find(request.target.key, query["uploadId"])
        key, entry = self._source(request)
        start, end = _range(request.headers.get(f"{COPY}-range"), entry.size)
        copy = self._scratch()
        await asyncio.to_thread(_copy_file, self._objects.path(key), copy, start, end)
        part = self._uploads.add(upload, int(query["partNumber"]), copy)
        return _document(documents.copied("CopyPartResult", part.etag, entry.mtime))

    async def _complete(self, request: Request) -> Response:
        key, upload_id = request.target.key, request.target.query["uploadId"]
        upload = self._uploads.find(key, upload_id)
        parts = self._uploads.chosen(upload, documents.read_complete(request.body))
        whole = self._scratch()
        await asyncio.to_thread(join, parts, whole)
        entry = self._objects.store(key, whole)
        self._uploads.end(key, upload_id)
        return _document(documents.completed(self._name, key, entry.etag))

    async def _abort(self, request: Request) -> Response:
        self._uploads.end(request.target.key, request.target.query["uploadId"])
        return Response(204)


_XML = (("content-type", "application/xml"),)


def _document(body: bytes) -> Response:
    return Response(200, _XML, body)


def _stored(entry: Entry) -> Response:
    return Response(headers=(("etag", entry.etag),))


def _copy_file(source: Path, target: Path, start: int, end: int) -> None:
    with target.open("xb") as output:
        copy_range(source, output.fileno(), start, end)


def _range(value: str | None, size: int) -> tuple[int, int]:
    if value is None:
        return 0, size
    first, _, last = value.removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1


# -- HTTP ------------------------------------------------------------------------------------------


async def serve(bucket: Bucket, socket: Path) -> None:
    """Answer on a Unix socket until SIGTERM."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _receive(reader)
                writer.write(_encode(await bucket.answer(request)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with await asyncio.start_unix_server(talk, socket):
        await over.wait()


async def _receive(reader: asyncio.StreamReader) -> Request:
    """Read a request; nginx has checked that it is one."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {}
    for text in lines:
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, split_target(target), headers, body)


def _encode(response: Response) -> bytes:
    headers = (*response.headers, ("content-length", str(len(response.body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {response.status} -\r\n{lines}\r\n".encode("latin-1") + response.body


def main() -> None:
    """Serve the bucket NAME out of the directory BASE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    bucket = Bucket(arguments.base, arguments.name)
    asyncio.run(serve(bucket, arguments.base / "backend.sock"))


if __name__ == "__main__":
    main()
