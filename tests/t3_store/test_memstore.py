"""The bucket in memory is one: the same requests have the same outcome there and on servers.

Everything above the store is tested on `support.memstore`. What it gets wrong, those tests do.
"""

import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.store.credentials import Fixed
from fuse_s3_worker.store.sigv4 import Credentials
from fuse_s3_worker.store.types import (
    Body,
    ObjectInfo,
    ObjectStore,
    PartResult,
)
from support.memstore import MemoryStore
from support.s3 import Bucket
from support.segments import Memory
from support.storekit import make_store, run
from support.virtualtime import run as run_in_memory

MIB = 1 << 20

KEYS = [
    *("a", "a-b", "a/", "a/x", "a/y/z", "a0", "ä", "ä/ö", "b", "b/c/d/e", "b/c/d/f", "c"),
    *("dir/", "dir/sub/", "dir/sub/x", "with space", "x//y", "/x", "𝄞"),
]

ANOTHER = '"00000000000000000000000000000000"'  # an entity tag that nothing has

Outcome = object
Outcomes = dict[str, Outcome]
Script = Callable[[ObjectStore], Coroutine[Any, Any, Outcomes]]


async def outcome(call: Coroutine[Any, Any, object]) -> Outcome:
    """Return what came of a call, without what no two servers agree on: clocks and ids."""
    try:
        result = await call
    except StoreError as error:
        return error.fault
    if isinstance(result, ObjectInfo):
        return result._replace(mtime=0)
    if isinstance(result, PartResult):
        return result._replace(checksum="")
    return result


def body(content: bytes) -> Body:
    half = len(content) // 2
    return Body((content[:half], memoryview(content)[half:]), len(content))


async def listings(store: ObjectStore) -> Outcomes:
    """List everything in every way, page by page."""
    for key in KEYS:
        await store.put(key, body(key.encode()))
    found: Outcomes = {}
    for prefix, delimiter, most in itertools.product(
        ("", "a", "a/", "b/c/", "dir/", "none", "ä"), ("", "/"), (1, 2, 3, 1000)
    ):
        token = None
        for number in range(len(KEYS) + 1):
            page = await store.list_page(prefix, delimiter=delimiter, max_keys=most, token=token)
            objects = [info._replace(mtime=0) for info in page.objects]
            name = f"{prefix!r} by {delimiter!r}, {most} at once, page {number}"
            found[name] = objects, page.prefixes, page.token is None
            if (token := page.token) is None:
                break
    return found


async def single_objects(store: ObjectStore) -> Outcomes:
    """Put, look, read, replace, delete."""
    found = {"put": await outcome(store.put("k", body(b"0123456789")))}
    info = await store.head("k")
    found["head"] = info._replace(mtime=0)
    for etag, start, end in (
        (info.etag, 0, 10),
        (info.etag, 3, 7),
        (info.etag, 9, 10),
        ("", 0, 1),
        (info.etag, 10, 11),
        (info.etag, 100, 200),
        (info.etag, 5, 20),
        (ANOTHER, 0, 1),
    ):
        sink, name = Memory(end - start), f"bytes {start} to {end} of {etag}"
        found[name] = await outcome(store.get_range("k", etag, start, end, sink)), sink.received
    for limit in (1, 9, 10, 11, 100):
        first, data = await store.peek("k", limit)
        found[f"the first {limit}"] = first.info._replace(mtime=0), bytes(data)
    found["replaced"] = await outcome(store.put("k", body(b"again")))
    found["the version before"] = await outcome(store.get_range("k", info.etag, 0, 1, Memory(1)))
    found["put nothing"] = await outcome(store.put("empty", Body((), 0)))
    found["head of nothing"] = await outcome(store.head("empty"))
    found["the first of nothing"] = await outcome(store.peek("empty", 10))
    for name in ("deleted", "deleted again"):
        found[name] = await outcome(store.delete("k"))
    found["head of none"] = await outcome(store.head("k"))
    found["the first of none"] = await outcome(store.peek("k", 10))
    found["bytes of none"] = await outcome(store.get_range("k", "", 0, 1, Memory(1)))
    found["a long key"] = await outcome(store.put("k" * 1024, body(b"x")))
    found["a key too long"] = await outcome(store.put("k" * 1025, body(b"x")))
    return found


LARGE, SMALL = b"l" * (5 * MIB), b"s" * 10


async def multipart_upload(store: ObjectStore) -> Outcomes:
    """Parts out of order, one of them sent twice, one a copy."""
    source = await store.put("source", body(b"0123456789" * (600 * 1024)))
    upload = await store.create_multipart("m")
    found = {"before": await outcome(store.head("m"))}
    third = await store.upload_part(upload, 3, body(SMALL))
    await store.upload_part(upload, 1, body(SMALL))
    first = await store.upload_part(upload, 1, body(LARGE))
    second = await store.copy_part(upload, 2, source, 5, 5 + 5 * MIB)
    for part in (first, second, third):
        found[f"part {part.number}"] = part._replace(checksum="")
    done = await store.complete_multipart(upload, [first, second, third])
    found["complete"] = done._replace(mtime=0)
    found["head"] = await outcome(store.head("m"))
    sink = Memory(20)
    await store.get_range("m", done.etag, 10 * MIB - 10, 10 * MIB + 10, sink)
    found["bytes"] = sink.received
    found["a part too late"] = await outcome(store.upload_part(upload, 1, body(SMALL)))
    return found


async def uploads_that_fail(store: ObjectStore) -> Outcomes:
    """Parts that are too small, not those that were sent, out of order; no such upload."""
    source = await store.put("source", body(LARGE * 2))
    upload = await store.create_multipart("m")
    parts = [await store.upload_part(upload, n, body(SMALL)) for n in (1, 2)]
    wrong = parts[1]._replace(etag=ANOTHER)
    stale = source._replace(etag=ANOTHER)
    missing = source._replace(key="none")
    attempts: dict[str, Coroutine[Any, Any, object]] = {
        "a copy of another version": store.copy_part(upload, 3, stale, 0, 5 * MIB),
        "a copy of nothing": store.copy_part(upload, 3, missing, 0, 5 * MIB),
        "a copy of what is beyond": store.copy_part(upload, 3, source, 0, 50 * MIB),
        "part 0": store.upload_part(upload, 0, body(SMALL)),
        "part 10,001": store.upload_part(upload, 10_001, body(SMALL)),
        "another part": store.complete_multipart(upload, [parts[0], wrong]),
        "out of order": store.complete_multipart(upload, parts[::-1]),
        "no parts": store.complete_multipart(upload, []),
        "parts too small": store.complete_multipart(upload, parts),
        "aborted": store.abort_multipart(upload),
        "aborted again": store.abort_multipart(upload),
        "a part of an aborted one": store.upload_part(upload, 1, body(SMALL)),
        "an aborted one": store.complete_multipart(upload, parts),
        "what is there": store.head("m"),
    }
    return {name: await outcome(attempt) for name, attempt in attempts.items()}


async def versions_replaced(store: ObjectStore) -> Outcomes:
    """Replace the version that is there, one that is not there any more, and nothing."""
    found: Outcomes = {}
    first = await store.put("k", body(b"first"))
    for number in (1, 2):
        second = await store.put("k", body(b"second%d" % number), replaces=first)
        found[f"put {number}"] = second._replace(mtime=0)
        found[f"late {number}"] = await outcome(store.put("k", body(b"late"), replaces=first))
        first = second
    for number in (1, 2):
        upload = await store.create_multipart("k")
        parts = [await store.upload_part(upload, 1, body(b"third%d" % number))]
        stale = first._replace(etag=ANOTHER)
        done = store.complete_multipart(upload, parts, replaces=stale)
        found[f"completed late {number}"] = await outcome(done)
        first = await store.complete_multipart(upload, parts, replaces=first)
        found[f"completed {number}"] = first._replace(mtime=0)
    await store.delete("k")
    found["what was removed"] = await outcome(store.put("k", body(b"x"), replaces=first))
    found["what is there"] = await outcome(store.head("k"))
    return found


async def copies(store: ObjectStore) -> Outcomes:
    """Copy objects of one request: small, empty, removed; over others, and over itself."""
    found: Outcomes = {}
    for name, content in (("small", SMALL), ("empty", b"")):
        source = await store.put(name, body(content))
        for to in ("new", "new", "d/with space+", name):
            found[f"{name} to {to}"] = await outcome(store.copy(source, to))
            found[f"{to} of {name}"] = await outcome(store.head(to))
    gone = await store.head("small")
    await store.delete("small")
    found["none"] = await outcome(store.copy(gone, "new"))
    return found


async def moves(store: ObjectStore) -> Outcomes:
    """Copies with all that belongs to an object; deleting a version, and many; descriptions."""
    found: Outcomes = {}
    like = {"content-type": "text/x", "x-amz-meta-mode": "33188", "cache-control": "no-store"}
    source = await store.put("a", body(SMALL), headers=like)
    upload = await store.create_multipart("large", headers=like)
    part = await store.upload_part(upload, 1, body(LARGE))
    large = await store.complete_multipart(upload, [part])
    for info, to in ((source, "b"), (source, "d/with space+%"), (source, "a"), (large, "l")):
        found[f"{info.key} to {to}"] = await outcome(store.duplicate(info, to))
        found[f"like {to}"] = dict((await store.headers_to_copy(to)).headers)
    other, none = source._replace(etag=ANOTHER), source._replace(key="none")
    found["another version"] = await outcome(store.duplicate(other, "c"))
    found["nothing"] = await outcome(store.duplicate(none, "c"))
    await store.delete("c")
    found["exclusively"] = await outcome(store.duplicate(source, "b", exclusive=True))
    found["exclusively, new"] = await outcome(store.duplicate(source, "new", exclusive=True))
    found["described"] = await outcome(store.headers_to_copy("none"))
    found["delete another version"] = await store.delete_version(other)
    found["what was to stay"] = await outcome(store.head("a"))
    source = await store.put("a", body(SMALL))
    found["delete"] = await store.delete_version(source)
    found["delete again"] = await store.delete_version(source)
    found["delete many"] = dict(await store.delete_many([source, large, none]))
    found["what is left"] = [info.key for info in (await store.list_page("")).objects]
    return found


SCRIPTS: list[Script] = [
    *(listings, single_objects, multipart_upload, uploads_that_fail),
    *(versions_replaced, copies, moves),
]
BY_SCRIPT = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)

# What a server does otherwise than Amazon's documentation has it, which is what is kept here.
OTHERWISE = {
    "moto": {
        "a key too long",  # is stored
        "a copy of another version",  # is made: If-Match of the source is not looked at
        "a copy of what is beyond",  # is made, of something
        *("part 0", "a part too late", "a part of an aborted one", "an aborted one"),
        *("another version", "exclusively"),  # are copied
    },
    "rgw": {
        "a key too long",  # InvalidObjectName
        "a copy of another version",  # is made, too
        *("part 0", "part 10,001"),  # are stored
        "an aborted one",  # InternalError
        *("another version", "exclusively"),  # are copied
        *("delete another version", "what was to stay"),  # is deleted
        "large to l",  # keeps the entity tag of its parts
    },
}


@BY_SCRIPT
def test_the_same_outcome(bucket: Bucket, script: Script) -> None:
    keys = Credentials(bucket.store.keys.access, bucket.store.keys.secret)

    async def on_the_server() -> Outcomes:
        store = make_store(bucket.store.endpoint, provider=Fixed(keys), bucket=bucket.name)
        return await script(store)

    here, there = run_in_memory(script(MemoryStore())), run(on_the_server())
    assert here.keys() == there.keys()
    different = {name: (here[name], there[name]) for name in here if here[name] != there[name]}
    assert different.keys() <= OTHERWISE[bucket.store.name], different


@BY_SCRIPT
def test_nothing_is_left_in_memory(script: Script) -> None:
    store = MemoryStore()
    run_in_memory(script(store))
    assert not store.uploads
