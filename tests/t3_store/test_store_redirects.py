"""The wrong region, and hosts that send requests elsewhere: what is followed, and what is not."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connect import Endpoint
from fuse_s3_worker.http.connection import Reply, ReplyHead
from fuse_s3_worker.store.calls import redirect_of
from fuse_s3_worker.store.endpoint import Target
from fuse_s3_worker.store.opening import _at
from support.rawserver import RawServer, Request, reply
from support.storekit import PERSISTENT, caller_of, make_store, run, signature_is_right

PAGE = reply(200, b"<ListBucketResult/>")


def region_of(request: Request) -> str:
    return request.headers["authorization"].split("/")[2]


def wrong(status: int, code: str, region: str = "", **headers: str) -> bytes:
    inside = f"<Region>{region}</Region>" if region else ""
    return reply(status, f"<Error><Code>{code}</Code>{inside}</Error>".encode(), **headers)


def only_in(region: str, refusal: bytes) -> Callable[[Request], bytes]:
    """A server for buckets of one region that refuses all others with `refusal`."""
    return lambda request: PAGE if region_of(request) == region else refusal


REFUSALS = {
    "301 with a header": wrong(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
    "301 without a document": reply(301, x_amz_bucket_region="eu-west-1"),
    "400 with a document": wrong(400, "AuthorizationHeaderMalformed", "eu-west-1"),
    "400 with both": wrong(
        400, "AuthorizationHeaderMalformed", "eu-west-1", x_amz_bucket_region="eu-west-1"
    ),
    "400 without a document, as to HEAD": reply(400, x_amz_bucket_region="eu-west-1"),
    "307 to a host of the region": wrong(
        307, "TemporaryRedirect", location="http://bucket.s3.eu-west-1.amazonaws.com/?list-type=2"
    ),
    "307 to an old name of the host": wrong(
        307, "TemporaryRedirect", location="http://bucket.s3-eu-west-1.amazonaws.com/"
    ),
    "307 to a dual-stack host": wrong(
        307, "TemporaryRedirect", location="http://b.s3.dualstack.eu-west-1.amazonaws.com/"
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_the_region_is_taken_from_the_refusal_and_kept(
    refusal: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with RawServer.answering(only_in("eu-west-1", refusal)) as server:
            store = make_store(server.url)
            await store.list_page("")
            await store.list_page("")
            assert list(map(region_of, server.requests)) == ["us-east-1", "eu-west-1", "eu-west-1"]
            assert signature_is_right(server.requests[-1], region="eu-west-1")

    caplog.set_level(logging.INFO)
    run(main())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("rerouted from=us-east-1 to=eu-west-1 endpoint=http://127.0.0.1:")


def test_requests_that_learn_it_together_all_go_on() -> None:
    async def main() -> None:
        with RawServer.answering(only_in("eu-west-1", REFUSALS["301 with a header"])) as server:
            store = make_store(server.url)
            await asyncio.gather(*(store.list_page(f"{number}") for number in range(10)))
            regions = list(map(region_of, server.requests))
            assert regions.count("eu-west-1") == 10

    run(main())


def test_a_host_that_is_named_is_asked_instead() -> None:
    """A new bucket's name takes hours to spread; until then, requests are sent on."""

    async def main() -> None:
        with RawServer.answering(lambda _: PAGE) as right:
            refusal = wrong(307, "TemporaryRedirect", location=f"{right.url}/bucket/?list-type=2")
            with RawServer.answering(lambda _: refusal) as first:
                store = make_store(first.url)
                await store.list_page("a")
                await store.list_page("b")
                assert [len(first.requests), len(right.requests)] == [1, 2]
                for request in right.requests:
                    assert request.headers["host"] == f"127.0.0.1:{right.port}"
                    assert signature_is_right(request)

    run(main())


def test_two_hosts_that_name_each_other_are_not_asked_for_ever() -> None:
    places: dict[str, str] = {}

    def onward(request: Request) -> bytes:
        return wrong(307, "TemporaryRedirect", location=places[request.headers["host"]])

    async def main() -> None:
        with RawServer.answering(onward) as first, RawServer.answering(onward) as second:
            places[f"127.0.0.1:{first.port}"] = f"{second.url}/"
            places[f"127.0.0.1:{second.port}"] = f"{first.url}/"
            with pytest.raises(StoreError) as caught:
                await make_store(first.url, patience=PERSISTENT).list_page("")
            assert caught.value.fault is Fault.WRONG_REGION
            assert len(first.requests) + len(second.requests) <= 4

    run(main())


NOWHERE = {
    "nothing": wrong(301, "PermanentRedirect"),
    "the same region": wrong(301, "PermanentRedirect", x_amz_bucket_region="us-east-1"),
    "a path": reply(307, location="/elsewhere"),
    "a broken address": reply(307, location="http://[::1/"),
    "another protocol": reply(307, location="ftp://127.0.0.1/"),
    "a port that is none": reply(307, location="http://127.0.0.1:port/"),
    "a port beyond all": reply(307, location="http://127.0.0.1:99999/"),
    "from http to https": reply(307, location="https://127.0.0.1/"),
    "a region that is none": wrong(400, "AuthorizationHeaderMalformed", "über\nx-amz-evil: 1"),
    "a region beyond Latin": wrong(400, "AuthorizationHeaderMalformed", "漢字"),
    "a header that is no region": reply(301, x_amz_bucket_region="no such region/"),
}


@pytest.mark.parametrize("refusal", NOWHERE.values(), ids=NOWHERE.keys())
def test_a_refusal_that_leads_nowhere_is_the_answer(refusal: bytes) -> None:
    async def main() -> None:
        with RawServer.answering(lambda _: refusal) as server:
            with pytest.raises(StoreError) as caught:
                await make_store(server.url, patience=PERSISTENT).list_page("")
            assert caught.value.fault is Fault.WRONG_REGION
            assert len(server.requests) == 1
            assert all("x-amz-evil" not in request.headers for request in server.requests)

    run(main())


def test_a_host_that_names_itself_in_other_words_leads_nowhere() -> None:
    async def main() -> None:
        with RawServer.answering(
            lambda _: wrong(307, "TemporaryRedirect", location=here)
        ) as server:
            here = f"http://LOCALHOST:{server.port}/"
            with pytest.raises(StoreError) as caught:
                await make_store(here.lower(), patience=PERSISTENT).list_page("")
            assert caught.value.fault is Fault.WRONG_REGION
            assert len(server.requests) == 1

    run(main())


def test_nothing_leads_from_https_to_http() -> None:
    target = Target(Endpoint("https", "bucket.s3.example", 443), "/", "us-east-1")
    with pytest.raises(StoreError, match=r"a redirect to http://evil.example is not followed"):
        _at(target, "http://evil.example")
    assert _at(target, "https://other.example").endpoint == Endpoint("https", "other.example", 443)


@pytest.mark.parametrize(
    ("origin", "endpoint"),
    [
        ("http://other.example", Endpoint("http", "other.example", 80)),
        ("http://other.example:9000", Endpoint("http", "other.example", 9000)),
        ("http://192.0.2.1:1", Endpoint("http", "192.0.2.1", 1)),
        ("http://[2001:db8::1]:9000", Endpoint("http", "2001:db8::1", 9000)),
        ("http://[2001:db8::1]", Endpoint("http", "2001:db8::1", 80)),
    ],
)
def test_the_host_of_a_redirect(origin: str, endpoint: Endpoint) -> None:
    target = Target(Endpoint("http", "s3.example", 80), "/bucket/", "us-east-1")
    moved = _at(target, origin)
    assert moved == target._replace(endpoint=endpoint)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, b"", ("", "")),
        ({"x-amz-bucket-region": "eu-west-1"}, b"<Error><Region>x-y-1</Region></Error>",
         ("eu-west-1", "")),
        ({}, b"<Error><Region>eu-west-1</Region></Error>", ("eu-west-1", "")),
        ({"location": "https://b.s3.ap-southeast-2.amazonaws.com/k"}, b"", ("ap-southeast-2", "")),
        ({"location": "https://b.s3.us-gov-west-1.amazonaws.com/k"}, b"", ("us-gov-west-1", "")),
        ({"location": "https://b.s3.cn-north-1.amazonaws.com.cn/"}, b"", ("cn-north-1", "")),
        ({"location": "https://s3.example:9000/b/k"}, b"", ("", "https://s3.example:9000")),
        ({"location": "https://b.s3.amazonaws.com/k"}, b"", ("", "https://b.s3.amazonaws.com")),
        ({"location": "/b/k"}, b"", ("", "")),
    ],
)  # fmt: skip
def test_what_a_redirect_names(
    headers: dict[str, str], body: bytes, expected: tuple[str, str]
) -> None:
    assert redirect_of(Reply(ReplyHead(307, headers, keep_alive=True), body)) == expected


def test_a_redirect_does_not_outlive_a_better_one() -> None:
    """Pools of other hosts stay; requests go where the last redirect said."""

    async def main() -> None:
        moves = [wrong(301, "PermanentRedirect", x_amz_bucket_region=r) for r in ("a-b-1", "c-d-2")]
        with RawServer.answering([moves[0], moves[1], PAGE, PAGE]) as server:
            store = make_store(server.url)
            await store.list_page("")
            await store.list_page("")
            assert list(map(region_of, server.requests)) == ["us-east-1", "a-b-1", "c-d-2", "c-d-2"]
            assert caller_of(store).line.target.region == "c-d-2"

    run(main())
