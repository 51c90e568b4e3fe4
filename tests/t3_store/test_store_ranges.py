"""Ranged reads: only the bytes asked for, of the right version, resumed where they were cut off."""

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from support.rawserver import Answer, End, RawServer, Request, head_of, reply
from support.segments import Memory
from support.storekit import ONCE, PERSISTENT, caller_of, make_store, run, signature_is_right

CONTENT = bytes(range(256)) * 8
ETAG = '"9a0364b9e99bb480dd25e1f0284c8555"'


def range_of(request: Request) -> tuple[int, int]:
    first, last = request.headers["range"].removeprefix("bytes=").split("-")
    return int(first), int(last) + 1


def serve(request: Request, etag: str = ETAG, content: bytes = CONTENT) -> bytes:
    start, end = range_of(request)
    where = f"bytes {start}-{end - 1}/{len(content)}"
    return reply(206, content[start:end], content_range=where, etag=etag)


def fetched(
    script: list[Answer | bytes], start: int, end: int, *, etag: str = ETAG
) -> tuple[bytes, list[Request]]:
    """Return what arrives when these answers come one after the other, and what was asked."""

    async def main() -> bytes:
        sink = Memory(end - start)
        store = make_store(server.url, patience=PERSISTENT)
        await store.get_range("k", etag, start, end, sink)
        return bytes(sink.received)

    with RawServer.answering(script) as server:
        return run(main()), server.requests


def refused(answer: Answer | bytes, start: int = 100, end: int = 300) -> tuple[StoreError, bytes]:
    """Return the error that this answer gives, and what was in memory by then."""
    sink = Memory(end - start)

    async def main() -> StoreError:
        with pytest.raises(StoreError) as caught:
            await make_store(server.url, patience=ONCE).get_range("k", ETAG, start, end, sink)
        return caught.value

    with RawServer.answering([answer] * 4) as server:
        return run(main()), sink.received


def partial(data: bytes, start: int, etag: str = ETAG) -> bytes:
    where = f"bytes {start}-{start + len(data) - 1}/{len(CONTENT)}"
    return reply(206, data, content_range=where, etag=etag)


# -- what is asked and what is taken ---------------------------------------------------------------


def test_the_request_names_range_and_version() -> None:
    async def main() -> None:
        with RawServer.answering(serve) as server:
            sink = Memory(5)
            await make_store(server.url).get_range("a b", ETAG, 250, 255, sink)
            assert sink.content == CONTENT[250:255]
            (request,) = server.requests
            assert request.method == "GET"
            assert request.headers["range"] == "bytes=250-254"
            assert request.headers["if-match"] == ETAG
            assert signature_is_right(request)
            assert "range" in request.headers["authorization"], "it decides what is read"

    run(main())


def test_without_an_etag_there_is_no_condition() -> None:
    _, (request,) = fetched([partial(CONTENT[:9], 0, '"any"')], 0, 9, etag="")
    assert "if-match" not in request.headers


def test_ranges_are_data_and_give_way_to_metadata() -> None:
    async def main() -> None:
        with RawServer.answering(serve) as server:
            store = make_store(server.url)
            pool = caller_of(store).line.pool
            seen = []
            exchange = pool.exchange

            async def noted(*arguments: object, urgent: bool = False, **more: object) -> object:
                seen.append(urgent)
                return await exchange(*arguments, urgent=urgent, **more)  # type: ignore[arg-type]

            pool.exchange = noted  # type: ignore[method-assign,assignment]
            await store.get_range("k", ETAG, 0, 5, Memory(5))
            assert seen == [False]

    run(main())


@pytest.mark.parametrize(
    "etag", [ETAG, ETAG.strip('"'), f"W/{ETAG}", ""], ids=["same", "bare", "weak", "none"]
)
def test_ways_to_write_the_same_etag(etag: str) -> None:
    content, _ = fetched([partial(CONTENT[7:77], 7, etag)], 7, 77)
    assert content == CONTENT[7:77]


def test_a_whole_object_may_be_a_whole_reply() -> None:
    content, _ = fetched([reply(200, CONTENT, etag=ETAG)], 0, len(CONTENT))
    assert content == CONTENT


def test_a_total_that_is_not_told() -> None:
    where = "bytes 10-19/*"
    content, _ = fetched([reply(206, CONTENT[10:20], content_range=where, etag=ETAG)], 10, 20)
    assert content == CONTENT[10:20]


WANTED = CONTENT[100:300]
BAD = {
    "the whole object instead": reply(200, CONTENT, etag=ETAG),
    "a range of another place": partial(CONTENT[101:301], 101),
    "a shorter range": partial(WANTED[:-1], 100),
    "a longer range": partial(CONTENT[100:301], 100),
    "the right header and fewer bytes": reply(
        206, WANTED[:-1], content_range=f"bytes 100-299/{len(CONTENT)}", etag=ETAG
    ),
    "the right header and more bytes": reply(
        206, CONTENT[100:301], content_range=f"bytes 100-299/{len(CONTENT)}", etag=ETAG
    ),
    "no header": reply(206, WANTED, etag=ETAG),
    "a header in other units": reply(206, WANTED, content_range="items 100-299/500", etag=ETAG),
    "several ranges": reply(206, WANTED, content_type="multipart/byteranges; boundary=x"),
    "the right bytes as a whole object": reply(200, WANTED, etag=ETAG),
    "an empty reply": reply(200, b"", etag=ETAG),
    "chunks": head_of(
        206,
        {
            "transfer-encoding": "chunked",
            "content-range": f"bytes 100-299/{len(CONTENT)}",
            "etag": ETAG,
        },
    )
    + b"c8\r\n"
    + WANTED
    + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_other_bytes_are_refused_before_one_of_them_is_in_memory(answer: bytes) -> None:
    error, received = refused(answer)
    assert error.fault is Fault.BAD_REPLY
    assert "bytes 100 to 299" in str(error)
    assert received == b""


def test_the_start_of_an_object_is_checked_as_well() -> None:
    error, received = refused(partial(CONTENT[5:15], 5), 0, 10)
    assert error.fault is Fault.BAD_REPLY
    assert received == b""


def test_another_version_is_refused_before_one_byte_of_it_is_in_memory() -> None:
    error, received = refused(partial(WANTED, 100, '"another"'))
    assert error.fault is Fault.CHANGED
    assert '"another"' in str(error)
    assert received == b""


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (412, Fault.CHANGED),
        (416, Fault.CHANGED),
        (404, Fault.NOT_FOUND),
        (403, Fault.FORBIDDEN),
        (503, Fault.THROTTLED),
    ],
)
def test_a_refusal_leaves_the_memory_alone(status: int, fault: Fault) -> None:
    error, received = refused(reply(status, b"<Error><Code></Code></Error>"))
    assert error.fault is fault
    assert received == b""


def test_a_server_that_ignores_the_condition_is_found_out_by_its_own_etag() -> None:
    """Ceph's If-Match, caches between us and S3: the reply's ETag decides."""
    error, _ = refused(serve_as('"new"'))
    assert error.fault is Fault.CHANGED


def serve_as(etag: str) -> bytes:
    return partial(WANTED, 100, etag)


# -- cut off and resumed ---------------------------------------------------------------------------

SIZE = 60
START = 500
HEAD_LENGTH = len(partial(CONTENT[START : START + SIZE], START)) - SIZE


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
@pytest.mark.parametrize("length", [0, 1, 20, HEAD_LENGTH - 1, HEAD_LENGTH, HEAD_LENGTH + 1,
                                    HEAD_LENGTH + 30, HEAD_LENGTH + SIZE - 1])  # fmt: skip
def test_a_range_that_is_cut_off_goes_on_where_it_ended(length: int, end: End) -> None:
    whole = partial(CONTENT[START : START + SIZE], START)

    def script(request: Request) -> Answer | bytes:
        if range_of(request)[0] == START and not cut:
            cut.append(True)
            return Answer(whole[:length], end)
        return serve(request)

    async def main() -> None:
        with RawServer.answering(script) as server:
            sink = Memory(SIZE)
            store = make_store(server.url, patience=PERSISTENT)
            await store.get_range("k", ETAG, START, START + SIZE, sink)
            assert sink.content == CONTENT[START : START + SIZE]
            first, second = map(range_of, server.requests)
            assert first == (START, START + SIZE)
            assert second[1] == START + SIZE
            if end is End.CLOSE:  # a reset may overtake what was sent before it
                assert second[0] == START + max(0, length - HEAD_LENGTH)
            assert all(request.headers["if-match"] == ETAG for request in server.requests)

    cut: list[bool] = []
    run(main())


def test_a_line_that_breaks_again_and_again_still_brings_everything() -> None:
    """Every attempt brings 10 bytes; by the count of failures it should have given up."""

    def script(request: Request) -> Answer:
        whole = serve(request)
        return Answer(whole[: whole.index(b"\r\n\r\n") + 14], End.CLOSE)

    async def main() -> None:
        with RawServer.answering(script) as server:
            sink = Memory(500)
            store = make_store(server.url, patience=PERSISTENT)
            await store.get_range("k", ETAG, 0, 500, sink)
            assert sink.content == CONTENT[:500]
            assert len(server.requests) == 50

    run(main())


def test_failures_of_every_kind_in_between() -> None:
    data = CONTENT[:100]
    script: list[Answer | bytes] = [
        Answer(partial(data, 0)[:-80], End.CLOSE),
        reply(503, b"<Error><Code>SlowDown</Code></Error>"),
        reply(200, CONTENT, etag=ETAG),  # a proxy that knows no ranges: refused, tried again
        Answer(partial(data[20:], 20)[:-40], End.CLOSE),
        b"garbage\r\n\r\n",
        partial(data[60:], 60),
    ]
    content, requests = fetched(script, 0, 100)
    assert content == data
    assert [range_of(request)[0] for request in requests] == [0, 20, 20, 20, 60, 60]


def test_a_version_that_changes_between_two_attempts_is_never_mixed() -> None:
    old, new = b"o" * 100, b"n" * 100
    script: list[Answer | bytes] = [
        Answer(partial(old, 0)[:-60], End.CLOSE),
        partial(new[40:], 40, '"new"'),
        partial(new[40:], 40, '"new"'),
    ]
    sink = Memory(100)

    async def main() -> None:
        with RawServer.answering(script) as server:
            store = make_store(server.url, patience=PERSISTENT)
            with pytest.raises(StoreError) as caught:
                await store.get_range("k", ETAG, 0, 100, sink)
            assert caught.value.fault is Fault.CHANGED
            assert len(server.requests) == 2

    run(main())
    assert sink.received == old[:40]
    assert b"n" not in sink.content


# -- the first bytes of whatever version there is --------------------------------------------------

MODIFIED = {"last_modified": "Thu, 26 Nov 2026 10:00:00 GMT", "etag": ETAG}


def peeked(script: list[Answer | bytes], limit: int) -> tuple[ObjectInfo, bytes, list[Request]]:
    async def main() -> tuple[ObjectInfo, memoryview]:
        head, data = await make_store(server.url, patience=PERSISTENT).peek("k", limit)
        return head.info, data

    with RawServer.answering(script) as server:
        info, data = run(main())
        return info, bytes(data), server.requests


@pytest.mark.parametrize("limit", [1, 100, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 1, 9999])
def test_the_first_bytes_come_with_what_the_object_is(limit: int) -> None:
    data = CONTENT[:limit]
    where = f"bytes 0-{len(data) - 1}/{len(CONTENT)}"
    answer = reply(206, data, content_range=where, **MODIFIED)
    info, found, (request,) = peeked([answer], limit)
    assert found == data
    assert info == ObjectInfo("k", len(CONTENT), 1795687200 * 10**9, ETAG)
    assert request.headers["range"] == f"bytes=0-{limit - 1}"
    assert "if-match" not in request.headers


def test_a_whole_object_that_is_no_longer_is_its_first_bytes_too() -> None:
    info, found, _ = peeked([reply(200, CONTENT, **MODIFIED)], len(CONTENT))
    assert (info.size, found) == (len(CONTENT), CONTENT)


def test_first_bytes_that_are_cut_off_are_asked_for_again_and_not_mixed() -> None:
    old = reply(206, b"o" * 50, content_range="bytes 0-49/60", **MODIFIED)
    new = reply(206, b"n" * 50, content_range="bytes 0-49/50", **(MODIFIED | {"etag": '"n"'}))
    info, found, requests = peeked([Answer(old[:-20], End.CLOSE), new], 50)
    assert (info.size, info.etag, found) == (50, '"n"', b"n" * 50)
    assert len(requests) == 2


NO_BEGINNINGS = {
    "all of a longer one": reply(200, CONTENT, **MODIFIED),
    "another place": reply(206, CONTENT[1:101], content_range="bytes 1-100/2048", **MODIFIED),
    "fewer": reply(206, CONTENT[:99], content_range="bytes 0-98/2048", **MODIFIED),
    "more": reply(206, CONTENT[:101], content_range="bytes 0-100/2048", **MODIFIED),
    "not what it says": reply(206, CONTENT[:100], content_range="bytes 0-98/2048", **MODIFIED),
    "a total that is not told": reply(206, CONTENT[:100], content_range="bytes 0-99/*", **MODIFIED),
    "no place": reply(206, CONTENT[:100], **MODIFIED),
    "a page of somebody else": reply(200, b"<html>Sign in</html>"),
}


@pytest.mark.parametrize("answer", NO_BEGINNINGS.values(), ids=NO_BEGINNINGS.keys())
def test_what_is_no_beginning_is_refused(answer: bytes) -> None:
    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            await make_store(server.url, patience=ONCE).peek("k", 100)
        assert caught.value.fault is Fault.BAD_REPLY

    with RawServer.answering([answer]) as server:
        run(main())
