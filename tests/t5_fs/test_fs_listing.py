"""Open directories: whatever keys there are, each name once, and what it is."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import ABSENT, Entry
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.fs.listing import Listing, Named
from fuse_s3_worker.fs.names import NAME_MAX
from fuse_s3_worker.store.types import ObjectInfo
from support.columns import whole
from support.gatedstore import GatedStore
from support.virtualtime import on_loop, run, settle

DIRECTORY = "dir/"


class Ours:
    """What exists because of this mount."""

    def __init__(self, found: dict[str, Entry]) -> None:
        self.found = found

    def entry(self, name: str) -> Entry | None:
        return self.found.get(name)

    def entries(self) -> dict[str, Entry]:
        return dict(self.found)


class DistantStore(GatedStore):
    """One that takes its time."""

    async def _enter(self, operation: str) -> StoreError | None:
        late = await super()._enter(operation)
        await asyncio.sleep(0.02)
        return late


class Directory:
    """A bucket, and the directory `dir/` of it."""

    def __init__(
        self,
        keys: list[str],
        page: int = 1000,
        lifetime: float = 60.0,
        store: type[GatedStore] = GatedStore,
    ) -> None:
        self.store = store({key: key.encode() for key in keys})
        self.store.page_max = page
        self.metadata = Metadata(lifetime, asyncio.get_running_loop().time)
        self.local: dict[str, Entry] = {}

    def open(self) -> Listing:
        return Listing(self.store, self.metadata, DIRECTORY, Ours(self.local))

    def object(self, name: str) -> Entry:
        stored = self.store.stored(DIRECTORY + name)
        assert stored is not None
        return Entry.file(stored.info)

    def model(self) -> dict[str, Entry]:
        """What is in the directory, found out the simple way."""
        found: dict[str, Entry] = {}
        keys = self.store.keys()
        for key in keys:
            name, slash, _ = key.removeprefix(DIRECTORY).partition("/")
            bad = name in {"", ".", ".."} or "\0" in name or len(name.encode()) > NAME_MAX
            if not key.startswith(DIRECTORY) or bad:
                continue
            if slash:
                found[name] = Entry.folder()
            else:
                found.setdefault(name, self.object(name))
        return found


def shown(listing: Listing) -> list[Named]:
    """What of a directory has been fetched."""
    found = [listing.named(number) for number in range(len(listing))]
    peeked = [listing.peek(number) for number in range(len(listing))]
    assert peeked == [(n[0].encode(), n[1].directory) if n else None for n in found]
    return [named for named in found if named is not None]


async def read_all(listing: Listing) -> dict[str, Entry]:
    """Read to the end; no name may come twice."""
    index = 0
    while True:
        await listing.reach(index)
        if index >= len(listing):
            break
        index += 1
    names = [name for name, _ in shown(listing)]
    assert len(set(names)) == len(names)
    assert listing.complete
    return dict(shown(listing))


# -- all keys there can be ------------------------------------------------------------------------

COMPONENTS = st.sampled_from(
    ["a", "b", "a-b", "a.b", "a0", "a!", " ", "é", "\uffff", "😀", "", ".", "..", "x\0y"]
) | st.just("n" * (NAME_MAX + 1))
KEYS = st.builds(
    lambda inside, parts, slash: (
        (DIRECTORY if inside else "") + "/".join(parts) + ("/" if slash else "")
    ),
    st.sampled_from([True, True, True, False]),
    st.lists(COMPONENTS, min_size=1, max_size=3),
    st.booleans(),
).filter(bool)


@settings(deadline=None, max_examples=400)
@given(st.lists(KEYS, max_size=25), st.integers(1, 7) | st.just(1000))
@example(["dir/a", "dir/a-b", "dir/a.b", "dir/a/x", "dir/a0"], 1)
@example(["dir/a", "dir/a/"], 1)
@example(["dir/", "dir//", "dir//x", "dir/./x", "dir/../x"], 1)
@example(["dir/a\U0001f600", "dir/a\uffff", "dir/a\uffff/x"], 1)
@example(["dir/a!", "dir/a!/x", "dir/a", "dir/a!!", "dir/a/x"], 2)
def test_every_bucket_in_pages_of_every_size(keys: list[str], page: int) -> None:
    async def body() -> None:
        directory = Directory(keys, page)
        listing = directory.open()
        assert await read_all(listing) == directory.model()
        listing.close()
        # and from what is remembered of it
        asked = len(directory.store.requests)
        assert await read_all(directory.open()) == directory.model()
        assert len(directory.store.requests) == asked
        assert directory.metadata.listing(DIRECTORY) is not None

    run(body())


@settings(deadline=None, max_examples=150)
@given(
    st.lists(KEYS, max_size=20),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(["a", "b", "a-b", "new"]), st.booleans(), max_size=4),
)
def test_what_exists_because_of_this_mount_is_there_once(
    keys: list[str], page: int, local: dict[str, bool]
) -> None:
    async def body() -> None:
        directory = Directory(keys, page)
        ours = ObjectInfo("ours", 1, 2, "")
        for name, folder in local.items():
            directory.local[name] = Entry.folder() if folder else Entry.file(ours)
        for _ in range(2):  # the second time from what is remembered
            listing = directory.open()
            assert await read_all(listing) == directory.model() | directory.local
            listing.close()

    run(body())


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from("abcdefgh").map(lambda name: DIRECTORY + name), max_size=8),
    st.integers(1, 3),
    st.integers(0, 8),
    st.lists(st.tuples(st.sampled_from("abcdefghij"), st.booleans()), max_size=5),
)
def test_changes_while_it_is_read(
    keys: list[str], page: int, read: int, changes: list[tuple[str, bool]]
) -> None:
    """POSIX leaves open whether they show; but never half, never twice, and not for good."""

    async def body() -> None:
        directory = Directory(keys, page)
        before = directory.model()
        listing = directory.open()
        await listing.reach(read)
        before_that = dict(shown(listing))
        for name, made in changes:
            if made:
                info = directory.store.write(DIRECTORY + name, b"changed")
                directory.metadata.change(DIRECTORY, name, Entry.file(info))
            else:
                directory.store.remove(DIRECTORY + name)
                directory.metadata.change(DIRECTORY, name, ABSENT)
        after = directory.model()
        found = await read_all(listing)
        touched = {name for name, _ in changes}
        for name in before.keys() - touched:
            assert found[name] == before[name]
        assert found.keys() <= before.keys() | touched
        for name, entry in found.items():
            if name in touched:
                # as it was when it was shown, or as it is now; not as it was in between
                assert entry in (before_that.get(name), after.get(name))
        listing.close()
        # what was listed meanwhile is not taken for what is there now
        remembered = whole(directory.metadata, DIRECTORY)
        assert remembered is None or remembered == after
        assert await read_all(directory.open()) == after

    run(body())


# -- going through it -----------------------------------------------------------------------------


@on_loop()
async def test_entries_stay_where_they_were() -> None:
    directory = Directory([f"dir/{number:03}" for number in range(50)], page=7)
    listing = directory.open()
    await listing.reach(10)
    first = shown(listing)[:11]
    await listing.reach(40)
    assert shown(listing)[:11] == first
    await listing.reach(10**6)
    assert len(listing) == 50
    assert shown(listing)[:11] == first


@on_loop()
async def test_no_more_pages_than_are_read_and_one_ahead() -> None:
    directory = Directory([f"dir/{number:03}" for number in range(50)], page=5)
    listing = directory.open()
    assert directory.store.requests == []  # opening alone asks for nothing
    await listing.reach(0)
    await settle()
    assert directory.store.count("ListObjectsV2") == 2
    await listing.reach(5)
    await settle()
    assert directory.store.count("ListObjectsV2") == 3
    listing.close()


@on_loop()
async def test_several_readers_of_one_open_directory_share_its_requests() -> None:
    directory = Directory([f"dir/{number:03}" for number in range(20)], page=5)
    listing = directory.open()
    await asyncio.gather(*(listing.reach(index) for index in (19, 3, 100, 0)))
    assert len(listing) == 20
    assert directory.store.count("ListObjectsV2") == 4


@on_loop()
async def test_a_file_is_held_back_only_while_it_may_turn_out_to_be_a_directory() -> None:
    names = ["a", "a-b", "a-c", "b", "c"]
    directory = Directory([DIRECTORY + name for name in names], page=2)
    listing = directory.open()
    await listing.reach(0)
    # the second page passes the places of a/, a-b/ and a-c/, but not that of b/
    assert [name for name, _ in shown(listing)] == ["a-b", "a-c", "a"]
    await listing.reach(10)
    assert sorted(dict(shown(listing))) == names


@on_loop()
async def test_a_listing_is_newer_than_what_was_known_of_single_names() -> None:
    directory = Directory(["dir/changes", "dir/stays"])
    for name, known in (("changes", directory.object("changes")), ("comes", ABSENT)):
        directory.metadata.learn(DIRECTORY, name, known, 0)
    directory.store.write("dir/changes", b"changed")
    directory.store.write("dir/comes", b"new")
    assert await read_all(directory.open()) == directory.model()


@on_loop()
async def test_what_this_mount_removed_long_ago_is_listed_when_it_is_there_again() -> None:
    directory = Directory(["dir/name", "dir/other"])
    for made in ("name", "new"):
        directory.store.remove(DIRECTORY + made)
        directory.metadata.change(DIRECTORY, made, ABSENT)
    await asyncio.sleep(directory.metadata.lifetime)
    for made in ("name", "new"):
        directory.store.write(DIRECTORY + made, b"theirs")
    assert await read_all(directory.open()) == directory.model()
    assert await read_all(directory.open()) == directory.model()  # of what is remembered


@on_loop()
async def test_a_directory_in_the_listing_tells_that_it_has_passed_the_files_before() -> None:
    directory = Directory(["dir/a", "dir/b/x", "dir/c"], page=2)
    listing = directory.open()
    await listing.reach(0)
    assert dict(shown(listing)).keys() == {"a", "b"}
    listing.close()


# -- ahead of the program -------------------------------------------------------------------------


def requests_when_learnt(directory: Directory) -> list[int]:
    """Return a list that gets, for each page that is read, how many were asked for by then."""
    counts: list[int] = []
    learn = directory.metadata.learn_listing

    def note(key: str, columns: Columns, changes: int, *, complete: bool) -> bool:
        counts.append(directory.store.asked("list_page"))
        return learn(key, columns, changes, complete=complete)

    directory.metadata.learn_listing = note  # type: ignore[method-assign]
    return counts


@on_loop()
async def test_a_page_is_read_while_the_store_makes_the_next() -> None:
    directory = Directory([f"dir/{number}" for number in range(9)], page=3, store=DistantStore)
    counts = requests_when_learnt(directory)
    assert await read_all(directory.open()) == directory.model()
    assert counts == [2, 3, 3]


@on_loop()
async def test_one_page_is_fetched_ahead_of_a_program_that_does_not_read_on() -> None:
    directory = Directory([f"dir/{number}" for number in range(12)], page=3)
    listing = directory.open()
    for page in range(1, 4):
        await listing.reach(3 * page - 2)
        await settle()
        assert directory.store.asked("list_page") == page + 1
    listing.close()


@on_loop()
async def test_who_wants_no_page_ahead_gets_none() -> None:
    directory = Directory([f"dir/{number}" for number in range(9)], page=3)
    listing = directory.open()
    for page in range(1, 4):
        await listing.next_page()
        await settle()
        assert directory.store.asked("list_page") == page
    assert listing.complete


@on_loop()
async def test_a_page_that_was_asked_for_too_early_is_not_mixed_in() -> None:
    """The page before it fails after its token was seen, and is another one the next time."""
    directory = Directory([f"dir/{number}" for number in range(9)], page=3, store=DistantStore)
    listing = directory.open()
    directory.store.fail("list_page", nth=2, afterwards=True)
    with pytest.raises(StoreError):
        await listing.reach(100)
    assert directory.store.asked("list_page") == 3
    await settle()
    assert len(asyncio.all_tasks()) == 1
    assert await read_all(listing) == directory.model()


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_page_that_fails_is_asked_for_again(nth: int) -> None:
    async def body() -> None:
        directory = Directory([f"dir/{number}" for number in range(9)], page=3)
        directory.store.fail("list_page", nth=nth)
        listing = directory.open()
        with pytest.raises(StoreError):
            await listing.reach(100)
        # Of the pages before, all but the last name, which might be a directory as well.
        assert len(listing) == max(3 * (nth - 1) - 1, 0)
        assert not listing.complete
        assert directory.metadata.listing(DIRECTORY) is None
        assert await read_all(listing) == directory.model()

    run(body())


@on_loop()
async def test_a_reader_that_is_interrupted_takes_nothing_from_the_next() -> None:
    directory = Directory([f"dir/{number}" for number in range(9)], page=3)
    directory.store.hold("list_page")
    listing = directory.open()
    reader = asyncio.create_task(listing.reach(100))
    await settle()
    reader.cancel()
    await asyncio.wait([reader])
    directory.store.let_go("list_page")
    assert await read_all(listing) == directory.model()
    assert directory.store.count("ListObjectsV2") == 3


@pytest.mark.parametrize("failing", [False, True])
def test_closing_ends_what_was_asked_for_ahead(*, failing: bool) -> None:
    async def body() -> None:
        directory = Directory([f"dir/{number}" for number in range(9)], page=3)
        listing = directory.open()
        if failing:
            directory.store.fail("list_page", nth=2)
        else:
            directory.store.hold("list_page", nth=2)
        await listing.reach(0)
        await settle()
        listing.close()
        listing.close()
        await settle()
        assert len(asyncio.all_tasks()) == 1

    run(body())


@on_loop()
async def test_keys_that_no_program_can_name_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fuse_s3_worker")
    keys = ["dir/", "dir//x", "dir/./x", "dir/..", "dir/good", "dir/a\0b"]
    directory = Directory(keys, page=2)
    assert list(await read_all(directory.open())) == ["good"]
    assert "keys_without_a_path directory=dir/ keys=4" in caplog.text
