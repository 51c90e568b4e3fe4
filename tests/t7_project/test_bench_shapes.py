"""The benchmark's server when it takes its time, speaks TLS, or is given files instead of PUTs."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import sockets
from bench.content import Content
from bench.data import BIG, SMALL_FILES, Data, flat, links, medium, nested, small
from bench.server.configuration import SHAPES
from bench.server.nginx import Server
from support.process import ROOT
from support.s3 import Bucket, Keys, Store

_SIZE = 18_000_000  # 0.2 s at 90 MB/s
_PIECE = 900_000  # the last one is not waited for


@pytest.fixture(scope="module", params=[False, True], ids=["http", "https"])
def slow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    shape = SHAPES["s3like"]
    _need(*shape.packages)
    with Server(tmp_path_factory.mktemp("slow"), shape=shape, tls=request.param) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    _need("nginx")
    with Server(tmp_path / "fast") as running:
        yield running


def _need(*packages: str) -> None:
    command = [str(ROOT / "tools/need"), *packages]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no nginx: {done.stderr.strip()}")


# -- time: lower bounds, which no machine is too slow for ------------------------------------------


def _seconds(begin: float) -> float:
    return time.monotonic() - begin


def test_every_request_waits_for_its_first_byte(slow: Server) -> None:
    begin = time.monotonic()
    sockets.upload(slow.connect, "/bench/empty", 0, ())
    sockets.download(slow.connect, "/bench/empty")
    sockets.delete(slow.connect, "/bench/empty")
    assert _seconds(begin) >= 3 * 0.02


def test_a_connection_is_no_faster_than_its_rate(slow: Server) -> None:
    begin = time.monotonic()
    sockets.upload(slow.connect, "/bench/key", _SIZE, [memoryview(bytes(_SIZE))])
    assert _seconds(begin) >= 0.02 + _SIZE / 90e6
    begin = time.monotonic()
    assert sockets.download(slow.connect, "/bench/key") == _SIZE
    assert _seconds(begin) >= 0.02 + (_SIZE - _PIECE) / 90e6
    sockets.delete(slow.connect, "/bench/key")


def test_short_replies_are_no_faster_either(slow: Server) -> None:
    sockets.upload(slow.connect, "/bench/key", 2 * _PIECE, [memoryview(bytes(2 * _PIECE))])
    begin = time.monotonic()
    for _ in range(10):
        sockets.download(slow.connect, "/bench/key")
    assert _seconds(begin) >= 10 * (0.02 + _PIECE / 90e6)
    sockets.delete(slow.connect, "/bench/key")


def test_who_does_not_trust_its_certificate_is_told(tmp_path: Path) -> None:
    _need("nginx")
    with Server(tmp_path / "tls", tls=True) as server:
        assert server.url.startswith("https://")
        with server.connect() as connection:
            assert isinstance(connection, ssl.SSLSocket)
        stranger = ssl.create_default_context()
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            stranger.wrap_socket(plain, server_hostname="127.0.0.1")


# -- files instead of PUTs -------------------------------------------------------------------------


@pytest.fixture
def data(server: Server) -> Data:
    made = Data(server, Content(1 << 20))
    made.begin()
    return made


@pytest.fixture
def bucket(server: Server) -> Iterator[Bucket]:
    made = Bucket(Store("nginx", server.url, Keys("any", "any")), server.bucket)
    yield made
    made.client.close()


def test_what_is_put_there_as_files_is_served_and_listed(data: Data, bucket: Bucket) -> None:
    assert bucket.get(BIG) == b"".join(data.content.chunks())
    assert len(bucket.keys()) == SMALL_FILES + 1
    assert bucket.head(BIG)["ETag"] == bucket.client.list_objects_v2(
        Bucket=bucket.name, Prefix=BIG
    )["Contents"][0].get("ETag")


def test_sets_have_the_shape_that_their_names_say(data: Data, bucket: Bucket) -> None:
    one = data.need("flat", flat(100_000))
    keys = bucket.keys()
    assert len(one) == len([key for key in keys if key.startswith("flat/name-")]) > 50
    deep = data.need("nested", nested(300 * 1024))
    assert len(deep) == 300
    assert {key.rpartition("/")[0] for key in deep} == {f"nested/00/{n:02}" for n in range(3)}
    files = data.need("small", small(5000))
    assert {len(bucket.get(key)) for key in files} == {64 << 10}
    several = [bucket.get(key) for key in data.need("medium", medium(10_000))]
    assert {len(content) for content in several} == {5 << 20}
    assert len(set(several)) == min(len(several), 8)
    for key in data.need("links", links):
        assert bucket.get(key) == bucket.get(BIG)


def test_a_set_is_made_once(data: Data) -> None:
    first = data.need("flat", flat(100_000))
    assert data.need("flat", lambda _data, _path: iter(())) == first


def test_what_was_written_is_discarded_with_its_markers(data: Data, bucket: Bucket) -> None:
    bucket.put("written/", b"")
    bucket.put("written/key", b"x")
    bucket.put("written2", b"y")
    data.discard("written/")
    keys = bucket.keys()
    assert [key for key in keys if key.startswith("written")] == ["written2"]
    assert not bucket.has("written/key")
    bucket.put("written/key", b"again")
    assert bucket.get("written/key") == b"again"


# -- keys that are listed and not there ------------------------------------------------------------


def test_imagined_keys_are_listed_beside_the_others(data: Data, bucket: Bucket) -> None:
    count = data.imagine("many", 3 << 20)
    assert data.imagine("many", 3 << 20) == count == 3 << 10
    pages = bucket.client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket.name, Prefix="many/"
    )
    rows = [row for page in pages for row in page["Contents"]]
    assert [row["Key"] for row in rows] == [f"many/name-{n:07}" for n in range(count)]
    assert [row["Size"] for row in rows] == list(range(count))
    assert len({row["ETag"] for row in rows}) == count
    page = bucket.client.list_objects_v2(Bucket=bucket.name, Delimiter="/")
    assert [row["Prefix"] for row in page["CommonPrefixes"]] == ["many/"]


def test_imagined_directories_have_as_many_keys_as_was_said(data: Data, bucket: Bucket) -> None:
    data.imagine("deep", 300 << 10, width=100)

    def below(prefix: str) -> tuple[list[str], list[str]]:
        page = bucket.client.list_objects_v2(Bucket=bucket.name, Delimiter="/", Prefix=prefix)
        keys = [row["Key"] for row in page.get("Contents", [])]
        return keys, [row["Prefix"] for row in page.get("CommonPrefixes", [])]

    assert below("deep/") == ([], ["deep/000/"])
    assert below("deep/000/") == ([], [f"deep/000/{n:05}/" for n in range(3)])
    assert below("deep/000/00002/")[0] == [f"deep/000/00002/name-{n:07}" for n in range(200, 300)]


def test_pages_are_listed_over_a_socket_until_there_are_no_more_or_time_is_over(
    data: Data, server: Server
) -> None:
    count = data.imagine("many", 3 << 20)
    found = sockets.list_pages(server.connect, server.bucket, "many/", lambda: False)
    assert found == count
    pages = iter([False, True])
    found = sockets.list_pages(server.connect, server.bucket, "many/", lambda: next(pages))
    assert found == 1000


def test_a_download_ends_when_time_is_over(data: Data, server: Server) -> None:
    assert sockets.download(server.connect, f"/bench/{BIG}", lambda: True) < data.content.size
    assert sockets.download(server.connect, f"/bench/{BIG}") == data.content.size
