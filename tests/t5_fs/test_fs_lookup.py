"""Finding out what a name stands for: right, and in as few requests as possible."""

import asyncio

import pytest

from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.fs.beginnings import Beginnings
from fuse_s3_worker.fs.lookup import Resolver
from fuse_s3_worker.transfer.blocks import Pool
from support.columns import columns
from support.gatedstore import GatedStore
from support.virtualtime import on_loop, run, settle

LIFETIME = 60.0
REFUSED = StoreError(Fault.FORBIDDEN, "no")


class Bucket:
    """A bucket and what is known of it."""

    def __init__(self, *keys: str, lifetime: float = LIFETIME) -> None:
        self.store = GatedStore({key: key.encode() for key in keys})
        self.metadata = Metadata(lifetime, asyncio.get_running_loop().time)
        self.resolver = Resolver(self.store, self.metadata, Beginnings(Pool(1 << 20)))

    def file(self, key: str) -> Entry:
        stored = self.store.stored(key)
        assert stored is not None
        return Entry.file(stored.info)

    def folder(self, key: str) -> Entry:
        stored = self.store.stored(key)
        return Entry.folder(stored.info if stored else None, unmarked=stored is None)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ([], "nothing"),
        (["d/name-more", "d/name!", "d/nam", "other/name"], "nothing"),
        (["d/name"], "file"),
        (["d/name", "d/name-more/x"], "file"),
        (["d/name/"], "marked"),
        (["d/name/x"], "implicit"),
        (["d/name/", "d/name/x"], "marked"),
        (["d/name//x"], "implicit"),
        (["d/name", "d/name/"], "marked"),  # a directory shadows a file
        (["d/name", "d/name/x"], "implicit"),
    ],
)
def test_what_a_name_stands_for(keys: list[str], kind: str) -> None:
    async def body() -> None:
        bucket = Bucket(*keys)
        known = await bucket.resolver.resolve("d/", "name")
        expected: dict[str, Entry | None] = {"nothing": ABSENT}
        if kind != "nothing":
            expected[kind] = bucket.file("d/name") if kind == "file" else bucket.folder("d/name/")
        assert known == Known(expected[kind], LIFETIME)
        assert sorted(bucket.store.requests) == [
            ("HeadObject", "d/name"),
            ("ListObjectsV2", "d/name/"),
        ]
        # the next one needs no request, until the lifetime is over
        await asyncio.sleep(LIFETIME - 1)
        again = await bucket.resolver.resolve("d/", "name")
        assert again == Known(known.entry, 1.0)
        assert bucket.resolver.known("d/", "name") == again
        assert len(bucket.store.requests) == 2
        await asyncio.sleep(1)
        assert bucket.resolver.known("d/", "name") is None
        await bucket.resolver.resolve("d/", "name")
        assert len(bucket.store.requests) == 4

    run(body())


@on_loop()
async def test_a_listing_of_the_parent_answers() -> None:
    bucket = Bucket("d/name")
    rows = columns("d/", ("name", bucket.file("d/name")), until=bucket.metadata.until())
    bucket.metadata.learn_listing("d/", rows, 0, complete=True)
    assert (await bucket.resolver.resolve("d/", "name")).entry == bucket.file("d/name")
    assert (await bucket.resolver.resolve("d/", "other")).entry is ABSENT
    assert bucket.store.requests == []


@on_loop()
async def test_both_requests_are_under_way_at_once() -> None:
    bucket = Bucket("d/name")
    bucket.store.hold("head")
    bucket.store.hold("list_page")
    looking = asyncio.create_task(bucket.resolver.resolve("d/", "name"))
    await settle()
    assert bucket.store.most_under_way == {"head": 1, "list_page": 1}
    bucket.store.let_go("head")
    await settle()
    assert not looking.done()
    bucket.store.let_go("list_page")
    assert (await looking).entry == bucket.file("d/name")


@on_loop()
async def test_lookups_of_one_name_share_their_requests() -> None:
    bucket = Bucket("d/name", "d/other")
    looking = [asyncio.create_task(bucket.resolver.resolve("d/", "name")) for _ in range(5)]
    other = asyncio.create_task(bucket.resolver.resolve("d/", "other"))
    answers = await asyncio.gather(*looking)
    assert set(answers) == {Known(bucket.file("d/name"), LIFETIME)}
    assert (await other).entry == bucket.file("d/other")
    assert bucket.store.count("HeadObject") == bucket.store.count("ListObjectsV2") == 2


@on_loop()
async def test_who_gives_up_does_not_take_the_others_answer_along() -> None:
    bucket = Bucket("d/name")
    bucket.store.hold("head")
    first, second = (asyncio.create_task(bucket.resolver.resolve("d/", "name")) for _ in range(2))
    await settle()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    bucket.store.let_go("head")
    assert (await second).entry == bucket.file("d/name")
    assert bucket.store.count("HeadObject") == 1


@on_loop()
async def test_when_all_give_up_the_answer_is_remembered_all_the_same() -> None:
    bucket = Bucket("d/name")
    bucket.store.hold("head")
    looking = asyncio.create_task(bucket.resolver.resolve("d/", "name"))
    await settle()
    looking.cancel()
    bucket.store.let_go("head")
    await settle()
    assert bucket.resolver.known("d/", "name") == Known(bucket.file("d/name"), LIFETIME)


@on_loop()
async def test_a_fresh_look_asks_although_something_is_known() -> None:
    bucket = Bucket("d/name")
    old = bucket.file("d/name")
    assert (await bucket.resolver.resolve("d/", "name")).entry == old
    bucket.store.write("d/name", b"new")
    assert (await bucket.resolver.resolve("d/", "name")).entry == old
    fresh = await bucket.resolver.resolve("d/", "name", fresh=True)
    assert fresh.entry == bucket.file("d/name") != old
    assert bucket.resolver.known("d/", "name") == fresh


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [["head"], ["list_page"], ["head", "list_page"]])
@pytest.mark.parametrize("waiting", [1, 3])
def test_a_store_that_fails_is_an_error_for_all_and_remembered_by_nobody(
    failing: list[str], waiting: int
) -> None:
    async def body() -> None:
        bucket = Bucket("d/name")
        for operation in failing:
            bucket.store.fail(operation, REFUSED)
        looking = [
            asyncio.create_task(bucket.resolver.resolve("d/", "name")) for _ in range(waiting)
        ]
        await asyncio.wait(looking)
        for task in looking:
            error = task.exception()
            assert isinstance(error, StoreError)
            assert error.fault is Fault.FORBIDDEN
        assert bucket.resolver.known("d/", "name") is None
        assert (await bucket.resolver.resolve("d/", "name")).entry == bucket.file("d/name")

    run(body())


@on_loop()
async def test_a_failure_that_nobody_waits_for_any_more_is_nobodys() -> None:
    bucket = Bucket("d/name")
    bucket.store.hold("head")
    bucket.store.fail("head")
    looking = asyncio.create_task(bucket.resolver.resolve("d/", "name"))
    await settle()
    looking.cancel()
    bucket.store.let_go("head")
    await settle()
    assert (await bucket.resolver.resolve("d/", "name")).entry == bucket.file("d/name")


# -- what this mount does meanwhile ---------------------------------------------------------------


@pytest.mark.parametrize("same_name", [True, False])
def test_an_answer_that_a_change_has_overtaken(*, same_name: bool) -> None:
    async def body() -> None:
        bucket = Bucket("d/name")
        old = bucket.file("d/name")
        bucket.store.hold("list_page")
        looking = asyncio.create_task(bucket.resolver.resolve("d/", "name"))
        await settle()
        changed = bucket.store.write("d/name" if same_name else "d/other", b"changed")
        bucket.metadata.change("d/", "name" if same_name else "other", Entry.file(changed))
        bucket.store.let_go("list_page")
        known = await looking
        if same_name:  # what this mount has done is the newer knowledge
            assert known == Known(Entry.file(changed), LIFETIME)
        else:
            assert known == Known(old, LIFETIME)
            assert bucket.resolver.known("d/", "name") == known

    run(body())


@on_loop()
async def test_an_answer_from_before_a_removal_does_not_bring_the_name_back() -> None:
    bucket = Bucket("d/name")
    bucket.store.hold("list_page")
    looking = asyncio.create_task(bucket.resolver.resolve("d/", "name"))
    await settle()
    bucket.store.remove("d/name")
    bucket.metadata.change("d/", "name", ABSENT)
    bucket.store.let_go("list_page")
    assert (await looking).entry is ABSENT


@on_loop()
async def test_without_a_lifetime_every_lookup_asks() -> None:
    bucket = Bucket("d/name", lifetime=0.0)
    for _ in range(2):
        assert await bucket.resolver.resolve("d/", "name") == Known(bucket.file("d/name"), 0.0)
    assert bucket.store.count("HeadObject") == 2
