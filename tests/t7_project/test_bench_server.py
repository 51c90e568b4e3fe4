"""The benchmark's S3 server, started for real, as an S3 client sees it."""

import http.client
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bench.server.nginx import Server
from support.process import ROOT, wait_until
from support.s3 import Bucket, Keys, Store

_ODD_KEYS = ["a b+c", "100%", "%41", "ä/ö", "q?x=1&y", "hash#tag", "semi;colon", "quote'\"", "~"]


@pytest.fixture(scope="module")
def nginx() -> None:
    done = subprocess.run(
        [ROOT / "tools/need", "nginx"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no nginx: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def server(nginx: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def bucket(server: Server) -> Iterator[Bucket]:
    """The server's only bucket, empty."""
    bucket = Bucket(Store("nginx", server.url, Keys("any", "any")), server.bucket)
    _empty(bucket)
    yield bucket
    _empty(bucket)
    bucket.client.close()


def _empty(bucket: Bucket) -> None:
    for key in list(bucket.keys()):
        bucket.delete(key)


def _listed(bucket: Bucket, key: str) -> dict[str, Any]:
    reply = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=key)
    found: dict[str, Any] = reply["Contents"][0]
    return found


def _code(raised: pytest.ExceptionInfo[ClientError]) -> str:
    return str(raised.value.response["Error"]["Code"])


# -- one object ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, (3 << 20) + 17])
def test_what_was_put_comes_back(bucket: Bucket, size: int) -> None:
    content = random.Random(size).randbytes(size)
    bucket.put("dir/sub/key", content)
    assert bucket.get("dir/sub/key") == content


@pytest.mark.parametrize("key", _ODD_KEYS)
def test_odd_keys_are_stored_served_listed_and_deleted(bucket: Bucket, key: str) -> None:
    bucket.put(key, b"content")
    assert bucket.get(key) == b"content"
    assert bucket.keys() == [key]
    bucket.delete(key)
    assert bucket.keys() == []
    assert not bucket.has(key)


def test_put_head_get_and_both_listings_tell_one_etag_size_and_time(bucket: Bucket) -> None:
    etag = bucket.put("key", b"12345")
    head = bucket.head("key")
    entry = _listed(bucket, "key")
    first = bucket.client.list_objects(Bucket=bucket.name)["Contents"][0]
    assert etag == head["ETag"] == entry["ETag"] == first["ETag"]
    assert head["ContentLength"] == entry["Size"] == first["Size"] == 5
    assert head["ResponseMetadata"]["RequestId"]
    assert head["LastModified"] == entry["LastModified"] == first["LastModified"]


def test_another_version_of_the_same_size_within_a_second_has_another_etag(bucket: Bucket) -> None:
    etags = {bucket.put("key", content) for content in (b"aaaa", b"bbbb", b"cccc")}
    assert len(etags) == 3
    assert bucket.head("key")["ETag"] == _listed(bucket, "key")["ETag"]


def test_ranges(bucket: Bucket) -> None:
    bucket.put("key", b"0123456789")
    for asked, content, shown in [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ]:
        reply = bucket.client.get_object(Bucket=bucket.name, Key="key", Range=asked)
        assert (reply["Body"].read(), reply["ContentRange"]) == (content, shown)
    with pytest.raises(ClientError) as raised:
        bucket.client.get_object(Bucket=bucket.name, Key="key", Range="bytes=10-")
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 416


def test_conditions(bucket: Bucket) -> None:
    old = bucket.put("key", b"old")
    new = bucket.put("key", b"new")
    reply = bucket.client.get_object(Bucket=bucket.name, Key="key", IfMatch=new, Range="bytes=1-")
    assert reply["Body"].read() == b"ew"
    for condition, status in [({"IfMatch": old}, 412), ({"IfNoneMatch": new}, 304)]:
        with pytest.raises(ClientError) as raised:
            bucket.client.get_object(Bucket=bucket.name, Key="key", **condition)
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_what_is_not_there(bucket: Bucket) -> None:
    bucket.put("dir/key", b"")
    for key in ("nothing", "dir", "dir/", "dir/key/below"):
        assert not bucket.has(key)
        with pytest.raises(ClientError) as raised:
            bucket.get(key)
        assert _code(raised) == "NoSuchKey"
    with pytest.raises(ClientError) as raised:
        bucket.client.list_objects_v2(Bucket="another")
    assert _code(raised) == "NoSuchBucket"
    bucket.delete("nothing")


def test_a_marker_is_an_object_without_bytes(bucket: Bucket) -> None:
    bucket.put("dir/", b"")
    bucket.put("dir/key", b"x")
    head = bucket.head("dir/")
    assert (head["ContentLength"], head["ContentType"]) == (0, "binary/octet-stream")
    assert bucket.get("dir/") == b""
    assert bucket.keys() == ["dir/", "dir/key"]
    bucket.delete("dir/key")
    assert bucket.keys() == ["dir/"]


def test_a_directory_that_became_empty_may_become_a_key(bucket: Bucket) -> None:
    bucket.put("a/b/c", b"1")
    with pytest.raises(ClientError) as raised:
        bucket.put("a", b"2")
    assert _code(raised) == "NotImplemented"
    bucket.delete("a/b/c")
    bucket.put("a", b"2")
    assert bucket.get("a") == b"2"


def test_a_key_that_is_no_path_is_refused(bucket: Bucket, server: Server) -> None:
    outside = server.file("x").parent.parent / "outside"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for path in ("/bench/../outside", "/bench/a/../../outside", "/bench/a/%2e%2e/%2e%2e/outside"):
        connection.request("PUT", path, b"content")
        reply = connection.getresponse()
        reply.read()
        assert reply.status >= 400, path
    connection.close()
    assert not outside.exists()


@pytest.mark.parametrize("call", ["get_object_acl", "get_object_tagging"])
def test_what_it_does_not_know_it_refuses(bucket: Bucket, call: str) -> None:
    bucket.put("key", b"content")
    with pytest.raises(ClientError) as raised:
        getattr(bucket.client, call)(Bucket=bucket.name, Key="key")
    assert _code(raised) == "NotImplemented"


def test_a_part_of_an_object_is_refused_and_not_taken_for_an_empty_one(bucket: Bucket) -> None:
    bucket.put("key", b"content")
    with pytest.raises(ClientError):
        bucket.client.get_object(Bucket=bucket.name, Key="key", PartNumber=1)


def test_signed_chunks_are_refused_and_not_stored_as_content(
    bucket: Bucket, server: Server
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    connection.request("PUT", "/bench/key", b"5\r\nhello\r\n0\r\n\r\n", headers)
    assert connection.getresponse().status == 501
    connection.close()
    assert bucket.keys() == []


# -- listings --------------------------------------------------------------------------------------


def _model(keys: list[str], prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    """Return the keys and common prefixes of a listing, worked out the slow way."""
    found: list[str] = []
    prefixes: list[str] = []
    for key in sorted(key for key in keys if key.startswith(prefix)):
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut < 0:
            found.append(key)
        elif key[: cut + 1] not in prefixes:
            prefixes.append(key[: cut + 1])
    return found, prefixes


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("prefix", "delimiter"), [("", ""), ("", "/"), ("d1/", "/"), ("d1", "/"), ("d", ""), ("-", "/")]
)
def test_listings_page_by_page(bucket: Bucket, version: int, prefix: str, delimiter: str) -> None:
    keys = [f"d{n}/{name}" for n in (1, 2, 10) for name in ("", "a", "b/c", "b/d", "b-", "ü")]
    keys += ["-", "d", "d1-", "d11", "e~", "f/ä"]
    bucket.put_many((key, b"") for key in keys)
    call = {1: bucket.client.list_objects, 2: bucket.client.list_objects_v2}[version]
    token = {1: "Marker", 2: "ContinuationToken"}[version]
    answer = {1: "NextMarker", 2: "NextContinuationToken"}[version]
    for limit in (1, 2, 3, 1000):
        found: list[str] = []
        prefixes: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = call(
                Bucket=bucket.name, Prefix=prefix, Delimiter=delimiter, MaxKeys=limit, **more
            )
            names = [entry["Key"] for entry in page.get("Contents", [])]
            commons = [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            assert len(names) + len(commons) <= limit
            found, prefixes = found + names, prefixes + commons
            if not page["IsTruncated"]:
                break
            assert len(found) + len(prefixes) <= len(keys), "the listing does not end"
            more = {token: page[answer]}
        assert (found, prefixes) == _model(keys, prefix, delimiter)


def test_start_after(bucket: Bucket) -> None:
    bucket.put_many((f"k{n}", b"") for n in range(5))
    page = bucket.client.list_objects_v2(Bucket=bucket.name, StartAfter="k2")
    assert [entry["Key"] for entry in page["Contents"]] == ["k3", "k4"]


def test_the_bucket_itself(bucket: Bucket) -> None:
    assert bucket.client.head_bucket(Bucket=bucket.name)
    assert bucket.client.get_bucket_location(Bucket=bucket.name)["LocationConstraint"] is None


def test_many_are_deleted_at_once(bucket: Bucket) -> None:
    bucket.put_many((f"k{n}", b"") for n in range(5))
    bucket.client.delete_objects(
        Bucket=bucket.name, Delete={"Objects": [{"Key": "k1"}, {"Key": "k3"}, {"Key": "none"}]}
    )
    assert bucket.keys() == ["k0", "k2", "k4"]


# -- multipart uploads -----------------------------------------------------------------------------


class _Parts:
    """An upload whose parts a test sends."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.client = bucket.client
        self.where = {"Bucket": bucket.name, "Key": key}
        self.where["UploadId"] = self.client.create_multipart_upload(**self.where)["UploadId"]
        self.sent: dict[int, str] = {}

    def send(self, number: int, content: bytes) -> None:
        reply = self.client.upload_part(**self.where, PartNumber=number, Body=content)
        self.sent[number] = reply["ETag"]

    def complete(self, numbers: list[int]) -> dict[str, Any]:
        parts = [{"PartNumber": number, "ETag": self.sent[number]} for number in numbers]
        reply: dict[str, Any] = self.client.complete_multipart_upload(
            **self.where, MultipartUpload={"Parts": parts}
        )
        return reply


def test_parts_become_one_object_in_the_order_of_their_numbers(
    bucket: Bucket, server: Server
) -> None:
    contents = {n: random.Random(n).randbytes(n * 100_000 + n) for n in (1, 2, 3, 7)}
    upload = _Parts(bucket, "dir/large")
    for number in (7, 2, 1, 3):
        upload.send(number, contents[number])
    assert not bucket.has("dir/large")
    reply = upload.complete([1, 2, 3, 7])
    assert bucket.get("dir/large") == b"".join(contents[number] for number in (1, 2, 3, 7))
    assert reply["ETag"] == bucket.head("dir/large")["ETag"] == _listed(bucket, "dir/")["ETag"]
    assert _leftovers(server) == []


def test_a_part_sent_again_replaces_the_first(bucket: Bucket) -> None:
    upload = _Parts(bucket, "key")
    upload.send(1, b"first")
    upload.send(1, b"second")
    upload.complete([1])
    assert bucket.get("key") == b"second"


def test_an_upload_given_up_leaves_nothing(bucket: Bucket, server: Server) -> None:
    upload = _Parts(bucket, "key")
    upload.send(1, b"content")
    upload.client.abort_multipart_upload(**upload.where)
    assert bucket.keys() == []
    assert _leftovers(server) == []
    with pytest.raises(ClientError) as raised:
        upload.send(2, b"content")
    assert _code(raised) == "NoSuchUpload"


def test_wrong_completions_are_refused(bucket: Bucket) -> None:
    upload = _Parts(bucket, "key")
    upload.send(1, b"one")
    upload.send(2, b"two")
    with pytest.raises(ClientError) as raised:
        upload.complete([2, 1])
    assert _code(raised) == "InvalidPartOrder"
    upload.sent[1] = upload.sent[2]
    with pytest.raises(ClientError) as raised:
        upload.complete([1, 2])
    assert _code(raised) == "InvalidPart"
    assert not bucket.has("key")
    upload.client.abort_multipart_upload(**upload.where)


def _leftovers(server: Server) -> list[Path]:
    """Return what lies of parts and bodies; nginx removes the latter after it has answered."""
    base = server.file("").parent.parent

    def files() -> list[Path]:
        bodies = [path for path in (base / "bodies").rglob("*") if path.is_file()]
        return bodies + list((base / "parts").iterdir())

    try:
        wait_until(lambda: not files(), "no leftovers", 5.0)
    except TimeoutError:
        return files()
    return []


# -- copies ----------------------------------------------------------------------------------------


def test_copies(bucket: Bucket) -> None:
    etag = bucket.put("from here", b"0123456789")
    source = {"Bucket": bucket.name, "Key": "from here"}
    reply = bucket.client.copy_object(Bucket=bucket.name, Key="to", CopySource=source)
    assert bucket.get("to") == b"0123456789"
    assert reply["CopyObjectResult"]["ETag"] == bucket.head("to")["ETag"]
    upload = _Parts(bucket, "parts")
    part = upload.client.upload_part_copy(
        **upload.where,
        PartNumber=1,
        CopySource=source,
        CopySourceRange="bytes=2-4",
        CopySourceIfMatch=etag,
    )
    upload.sent[1] = part["CopyPartResult"]["ETag"]
    upload.send(2, b"more")
    upload.complete([1, 2])
    assert bucket.get("parts") == b"234more"


def test_a_copy_of_another_version_is_refused(bucket: Bucket) -> None:
    etag = bucket.put("source", b"old")
    bucket.put("source", b"new")
    with pytest.raises(ClientError) as raised:
        bucket.client.copy_object(
            Bucket=bucket.name,
            Key="target",
            CopySource={"Bucket": bucket.name, "Key": "source"},
            CopySourceIfMatch=etag,
        )
    assert _code(raised) == "PreconditionFailed"
    assert not bucket.has("target")


# -- the server ------------------------------------------------------------------------------------


def test_requests_are_counted_by_operation(bucket: Bucket, server: Server) -> None:
    server.requests.take()
    bucket.put("key", b"content")
    bucket.get("key")
    bucket.has("key")
    bucket.has("none")
    bucket.keys()
    upload = _Parts(bucket, "large")
    upload.send(1, b"a")
    upload.send(2, b"b")
    upload.complete([1, 2])
    source = {"Bucket": bucket.name, "Key": "key"}
    bucket.client.copy_object(Bucket=bucket.name, Key="copy", CopySource=source)
    bucket.delete("copy")
    counted: dict[str, int] = {}

    def all_logged() -> bool:
        for name, number in server.requests.take().operations.items():
            counted[name] = counted.get(name, 0) + number
        return sum(counted.values()) >= 11

    wait_until(all_logged, "the log", 5.0)
    assert counted == {
        "PutObject": 1,
        "GetObject": 1,
        "HeadObject": 1,
        "HeadObject 404": 1,
        "ListObjectsV2": 1,
        "CreateMultipartUpload": 1,
        "UploadPart": 2,
        "CompleteMultipartUpload": 1,
        "CopyObject": 1,
        "DeleteObject": 1,
    }


def test_large_bodies_do_not_pass_through_python(bucket: Bucket, server: Server) -> None:
    """The back end would show it: its peak is far below what was sent."""
    backend = server.pids[0]
    content = bytes(64 << 20)
    before = _peak(backend)
    bucket.put("key", content)
    upload = _Parts(bucket, "parts")
    upload.send(1, content)
    upload.complete([1])
    assert bucket.head("parts")["ContentLength"] == len(content)
    assert _peak(backend) - before < 16 << 20


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak")


def test_it_ends_with_all_its_processes(nginx: None, tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        pids = server.pids
        assert len(pids) == 4
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
