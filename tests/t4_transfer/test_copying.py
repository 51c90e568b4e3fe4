"""Copying objects: by the store, in parts, or through the worker; and looking at what came."""

import asyncio
from collections.abc import Coroutine

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer import copying
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.copying import Copier
from fuse_s3_worker.transfer.partsize import even_size
from support.gatedstore import GatedStore, unreachable
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle

PART = 5 * MIB
REFUSED = StoreError(Fault.FORBIDDEN, "no")
HEADERS = {"x-amz-meta-mode": "33188", "cache-control": "no-store", "x-amz-tagging": "a=b"}


class Copying:
    """A bucket and a copier."""

    def __init__(self, *, budget: int = 64 * MIB, connections: int = 4) -> None:
        self.store = GatedStore(part_min=1)
        self.pool = Pool(budget)
        self.copier = Copier(self.store, self.pool, connections=connections, part_size=PART)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Store an object with everything that one can have."""
        return self.store.write(
            key, data, content_type="text/x", storage_class="STANDARD_IA", headers=HEADERS
        )

    def check(self, key: str, data: bytes) -> None:
        """See that a copy has everything, and nothing is left anywhere."""
        stored = self.store.stored(key)
        assert stored is not None
        assert stored.data == data
        assert (stored.content_type, dict(stored.headers)) == ("text/x", HEADERS)
        assert stored.info.storage_class == "STANDARD_IA"
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        assert self.store.uploads == {}
        assert self.pool.statistics().used == 0


async def fault_of(work: Coroutine[object, object, object]) -> Fault:
    """Return the fault that `work` comes to."""
    with pytest.raises(StoreError) as failure:
        await work
    return failure.value.fault


# -- by the store ---------------------------------------------------------------------------------


@on_loop()
async def test_in_one_request_and_looked_at() -> None:
    c = Copying()
    source = c.put("a", pattern(1000))
    made = await c.copier.copy_checked(source, "b")
    assert c.store.requests == [("CopyObject", "b"), ("HeadObject", "b")]
    assert made == (await c.store.head("b"))
    c.check("b", pattern(1000))


@on_loop()
async def test_where_conditions_may_be_ignored_the_original_is_looked_at_too() -> None:
    c = Copying()
    c.store.strict = False
    source = c.put("a", b"1")
    await c.copier.copy_checked(source, "b")
    assert sorted(c.store.requests) == [
        ("CopyObject", "b"),
        ("HeadObject", "a"),
        ("HeadObject", "b"),
    ]
    newer = c.store.write("a", b"22")
    assert await fault_of(c.copier.copy_checked(source, "b")) is Fault.CHANGED
    assert (await c.copier.copy_checked(newer, "b")).size == 2


@on_loop()
async def test_a_copy_that_is_another_size_or_another_version_is_none() -> None:
    for changed in (b"other", b"xxxx"):
        c = Copying()
        source = c.put("a", b"1234")
        c.store.hold("head")
        copying_ = asyncio.create_task(c.copier.copy_checked(source, "b"))
        await settle()
        c.store.write("b", changed)
        c.store.let_go("head")
        assert await fault_of(_result(copying_)) is Fault.BAD_REPLY


async def _result(task: asyncio.Task[ObjectInfo]) -> ObjectInfo:
    return await task


@on_loop()
async def test_exclusively() -> None:
    c = Copying()
    source = c.put("a", b"1")
    c.store.write("b", b"theirs")
    assert await fault_of(c.copier.copy_checked(source, "b", exclusive=True)) is Fault.CHANGED
    await c.copier.copy_checked(source, "c", exclusive=True)
    assert (c.store.read("b"), c.store.read("c")) == (b"theirs", b"1")


@on_loop()
async def test_no_more_at_once_than_there_are_connections() -> None:
    c = Copying(connections=3)
    sources = [c.put(f"a{number}", b"1") for number in range(20)]
    await asyncio.gather(*(c.copier.copy(one, f"b{one.key}") for one in sources))
    assert c.store.most_under_way["duplicate"] == 3


# -- in parts -------------------------------------------------------------------------------------


@on_loop()
async def test_what_is_too_large_for_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PART_LEAST", MIB)
    c = Copying(connections=2)
    c.store.copy_max = 2 * MIB
    source = c.put("a", pattern(2 * MIB + 1))
    made = await c.copier.copy_checked(source, "b")
    assert made.etag.endswith('-3"')
    c.check("b", pattern(2 * MIB + 1))
    operations = [operation for operation, _ in c.store.requests]
    assert operations.count("UploadPartCopy") == 3
    assert "CopyObject" not in operations
    assert c.store.most_under_way["copy_part"] == 2
    # One byte less is one request.
    await c.copier.copy_checked(c.put("c", pattern(2 * MIB)), "d")
    assert c.store.count("CopyObject") == 1


@pytest.mark.parametrize("failing", ["create_multipart", "copy_part", "complete_multipart"])
def test_parts_that_fail_leave_nothing(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr(copying, "_PART_LEAST", MIB)

    async def body() -> None:
        c = Copying()
        c.store.copy_max = 10
        source = c.put("a", pattern(4 * MIB))
        c.store.fail(failing, REFUSED, nth=3 if failing == "copy_part" else 1)
        assert await fault_of(c.copier.copy(source, "b")) is Fault.FORBIDDEN
        assert c.store.keys() == ["a"]
        c.nothing_is_left()

    run(body())


@on_loop("abort_failed")
async def test_parts_that_cannot_be_given_up_are_told_of() -> None:
    c = Copying()
    c.store.copy_max = 10
    source = c.put("a", pattern(1000))
    c.store.fail("copy_part", REFUSED)
    c.store.fail("abort_multipart", unreachable())
    assert await fault_of(c.copier.copy(source, "b")) is Fault.FORBIDDEN


@on_loop()
async def test_parts_of_one_version_and_only_where_nothing_is() -> None:
    c = Copying()
    c.store.copy_max = 10
    source = c.put("a", pattern(1000))
    c.store.write("a", b"x" * 1000)
    assert await fault_of(c.copier.copy(source, "b")) is Fault.CHANGED
    source = c.put("a", pattern(1000))
    c.store.write("b", b"theirs")
    assert await fault_of(c.copier.copy(source, "b", exclusive=True)) is Fault.CHANGED
    assert c.store.read("b") == b"theirs"
    c.nothing_is_left()


@pytest.mark.parametrize(
    ("size", "least"),
    [(1, 1 << 20), (5 << 30, 128 << 20), (5 << 40, 128 << 20), ((5 << 40) - 1, 5 << 20)],
)
def test_parts_are_few_enough(size: int, least: int) -> None:
    part = even_size(size, least)
    assert part >= least
    assert -(-size // part) <= 10_000
    assert part == least or part - MIB < -(-size // 10_000)


# -- through the worker ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART + 7])
def test_where_the_store_does_not_copy(size: int) -> None:
    async def body() -> None:
        c = Copying()
        c.store.copying = False
        data = pattern(size)
        source = c.put("a", data)
        made = await c.copier.copy_checked(source, "b")
        assert made.size == size
        c.check("b", data)

    run(body())


@on_loop()
async def test_much_at_once_takes_its_share_of_the_memory() -> None:
    c = Copying(budget=24 * MIB, connections=32)  # a quarter is one part
    c.store.copying = False
    sources = [c.put(f"a{number}", pattern(2 * PART + number)) for number in range(6)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, c.pool.statistics().used)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(c.copier.copy_checked(one, f"b{one.key}") for one in sources))
    watching.cancel()
    for number, one in enumerate(sources):
        c.check(f"b{one.key}", pattern(2 * PART + number))
    assert 0 < most <= 6 * MIB


@on_loop()
async def test_what_no_part_is_small_enough_for() -> None:
    c = Copying(budget=8 * MIB)
    c.store.copying = False
    source = c.put("a", pattern(PART + 1))
    assert await fault_of(c.copier.copy(source, "b")) is Fault.TOO_LARGE
    c.nothing_is_left()


@on_loop()
async def test_a_name_that_the_store_reads_in_its_own_way() -> None:
    """Ceph decodes the name of a source twice: there is none, or another is copied."""
    c = Copying()
    c.store.strict = False
    source = c.put("100%41", b"right")
    c.store.fail("duplicate", StoreError(Fault.NOT_FOUND, "no such key"))
    await c.copier.copy_checked(source, "b")
    c.check("b", b"right")
    # It copies what the name reads like, and says so by another entity tag.
    c.put("1%2B", b"right")
    other = c.put("1+", b"wrong")
    source = await c.store.head("1%2B")
    real = c.store._objects["1%2B"]
    c.store._objects["1%2B"] = c.store._objects["1+"]
    c.store.hold("headers_to_copy")
    copying_ = asyncio.create_task(c.copier.copy(source, "c"))
    await settle()
    assert c.store.read("c") == b"wrong"
    c.store._objects["1%2B"] = real
    c.store.let_go("headers_to_copy")
    assert (await copying_).etag == source.etag != other.etag
    c.check("c", b"right")


@on_loop()
async def test_one_that_is_gone_is_gone() -> None:
    c = Copying()
    source = c.put("a", b"1")
    c.store.remove("a")
    assert await fault_of(c.copier.copy(source, "b")) is Fault.NOT_FOUND
    c.store.copying = False
    assert await fault_of(c.copier.copy(source, "b")) is Fault.NOT_FOUND
    c.store.write("a", b"2")
    assert await fault_of(c.copier.copy(source, "b")) is Fault.CHANGED
    assert c.store.keys() == ["a"]


@pytest.mark.parametrize(
    "failing", ["get_range", "upload_part", "complete_multipart", "headers_to_copy"]
)
def test_what_fails_on_the_way_leaves_nothing(failing: str) -> None:
    async def body() -> None:
        c = Copying()
        c.store.copying = False
        source = c.put("a", pattern(3 * PART))
        c.store.fail(failing, REFUSED, nth=2 if failing in {"get_range", "upload_part"} else 1)
        assert await fault_of(c.copier.copy(source, "b")) is Fault.FORBIDDEN
        assert c.store.keys() == ["a"]
        c.nothing_is_left()

    run(body())
