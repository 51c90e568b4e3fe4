"""What is believed of the bucket, for how long, and what makes it doubtful."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fuse_s3_worker.cache import metadata as metadata_module
from fuse_s3_worker.cache.entries import ABSENT, Entry, Known
from fuse_s3_worker.cache.metadata import Metadata
from fuse_s3_worker.store.types import ObjectInfo
from support.columns import columns, whole

LIFETIME = 10.0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def entry(version: int = 1) -> Entry:
    return Entry.file(ObjectInfo("key", version, 0, f'"{version}"'))


class Keyless(Metadata):
    """A listing has every object's own key; here all have one, which is easier to compare."""

    def get(self, key: str, name: str) -> Known | None:
        known = super().get(key, name)
        if known is None or known.entry is None or known.entry.info is None:
            return known
        info = known.entry.info._replace(key="key")
        return known._replace(entry=known.entry._replace(info=info))


def learn_all(metadata: Metadata, key: str, changes: int, *entries: tuple[str, Entry]) -> bool:
    """Have a directory listed as a whole."""
    rows = columns(key, *entries, until=metadata.until())
    return metadata.learn_listing(key, rows, changes, complete=True)


def all_of(metadata: Metadata, key: str) -> dict[str, Entry] | None:
    """Return the directory `key`, if it is known as a whole."""
    found = whole(metadata, key)
    if found is None:
        return None
    assert metadata.populated(key) == bool(found)
    keyless = {name: e.info and e.info._replace(key="key") for name, e in found.items()}
    return {name: e._replace(info=keyless[name]) for name, e in found.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metadata(clock: Clock) -> Metadata:
    return Keyless(LIFETIME, clock)


# -- single names ---------------------------------------------------------------------------------


def test_a_name_is_believed_for_its_lifetime(metadata: Metadata, clock: Clock) -> None:
    assert metadata.get("d/", "name") is None
    assert metadata.learn("d/", "name", entry(), metadata.changes("d/"))
    assert metadata.get("d/", "name") == Known(entry(), LIFETIME)
    clock.now += 9.5
    assert metadata.get("d/", "name") == Known(entry(), 0.5)
    clock.now += 0.5
    assert metadata.get("d/", "name") is None
    assert metadata.get("", "name") is None


def test_that_there_is_no_such_name_is_believed_as_long(metadata: Metadata, clock: Clock) -> None:
    assert metadata.learn("d/", "name", ABSENT, 0)
    clock.now += 1
    assert metadata.get("d/", "name") == Known(ABSENT, 9.0)
    assert metadata.get("d/", "other") is None
    clock.now += 9
    assert metadata.get("d/", "name") is None


def test_a_later_answer_counts_from_its_own_time(metadata: Metadata, clock: Clock) -> None:
    metadata.learn("d/", "name", entry(1), 0)
    clock.now += 5
    metadata.learn("d/", "name", entry(2), 0)
    clock.now += 9
    assert metadata.get("d/", "name") == Known(entry(2), 1.0)


def test_with_no_lifetime_nothing_is_believed(clock: Clock) -> None:
    metadata = Keyless(0.0, clock)
    metadata.learn("d/", "name", entry(), 0)
    learn_all(metadata, "d/", 0, ("name", entry()))
    metadata.change("d/", "other", entry())
    assert metadata.get("d/", "name") is None
    assert metadata.get("d/", "other") is None
    assert metadata.listing("d/") is None


def test_with_an_endless_lifetime_everything_is_for_ever(clock: Clock) -> None:
    metadata = Keyless(math.inf, clock)
    metadata.learn("d/", "name", entry(), 0)
    learn_all(metadata, "e/", 0)
    clock.now += 1e9
    list(metadata.expire())
    assert metadata.get("d/", "name") == Known(entry(), math.inf)
    assert metadata.get("e/", "any") == Known(ABSENT, math.inf)


# -- whole directories ----------------------------------------------------------------------------


def test_a_listing_knows_what_is_there_and_what_is_not(metadata: Metadata, clock: Clock) -> None:
    names = [("a", entry()), ("b", Entry.folder())]
    assert learn_all(metadata, "d/", 0, *names)
    clock.now += 4
    assert metadata.get("d/", "a") == Known(entry(), 6.0)
    assert metadata.get("d/", "b") == Known(Entry.folder(), 6.0)
    assert metadata.get("d/", "c") == Known(ABSENT, 6.0)
    assert all_of(metadata, "d/") == dict(names)
    assert metadata.listing("") is None
    clock.now += 6
    assert metadata.get("d/", "a") is None
    assert metadata.get("d/", "c") is None
    assert metadata.listing("d/") is None


def test_a_listing_that_was_emptied_is_known_to_be_empty(metadata: Metadata) -> None:
    learn_all(metadata, "d/", 0, ("a", entry()), ("b", entry()))
    for name in "ab":
        assert metadata.populated("d/")
        metadata.change("d/", name, ABSENT)
    assert not metadata.populated("d/")
    metadata.change("d/", "a", entry())
    assert metadata.populated("d/")
    metadata.change("d/", "a", ABSENT)
    metadata.change("d/", "new", entry())
    assert metadata.populated("d/")


def test_single_names_are_no_listing(metadata: Metadata) -> None:
    assert not metadata.populated("d/")
    metadata.learn("d/", "a", entry(), 0)
    assert metadata.listing("d/") is None
    assert metadata.get("d/", "b") is None


def test_a_listing_replaces_what_was_known_of_the_directory(metadata: Metadata) -> None:
    metadata.learn("d/", "gone", entry(), 0)
    learn_all(metadata, "d/", 0, ("a", entry()))
    assert metadata.get("d/", "gone") == Known(ABSENT, LIFETIME)
    assert len(metadata) == 1


def test_a_name_learned_later_does_not_make_the_listing_live_longer(
    metadata: Metadata, clock: Clock
) -> None:
    learn_all(metadata, "d/", 0, ("a", entry()))
    clock.now += 9
    metadata.learn("d/", "b", entry(), 0)
    clock.now += 2
    assert metadata.listing("d/") is None
    assert metadata.get("d/", "a") is None
    assert metadata.get("d/", "b") == Known(entry(), 8.0)
    assert metadata.get("d/", "c") is None


def test_what_this_mount_does_shows_in_the_listing_at_once(metadata: Metadata) -> None:
    learn_all(metadata, "d/", 0, ("a", entry()), ("b", entry()))
    metadata.change("d/", "a", ABSENT)
    metadata.change("d/", "c", entry(3))
    assert all_of(metadata, "d/") == {"b": entry(), "c": entry(3)}
    assert metadata.get("d/", "a") == Known(ABSENT, LIFETIME)


# -- answers that were under way ------------------------------------------------------------------


def test_an_answer_from_before_a_change_is_dropped(metadata: Metadata, clock: Clock) -> None:
    asked_at = metadata.changes("d/")
    metadata.change("d/", "name", entry(2))
    assert not metadata.learn("d/", "name", entry(1), asked_at)
    assert metadata.learn("d/", "other", entry(1), asked_at)
    assert metadata.get("d/", "name") == Known(entry(2), LIFETIME)
    assert metadata.get("d/", "other") == Known(entry(1), LIFETIME)
    clock.now += 1
    assert metadata.learn("d/", "name", entry(3), metadata.changes("d/"))
    assert metadata.get("d/", "name") == Known(entry(3), LIFETIME)
    # what was asked before the change is not newer because something was learned since
    assert not metadata.learn("d/", "name", entry(1), asked_at)
    assert metadata.learn("e/", "name", entry(1), asked_at)


def test_a_listing_from_before_a_change_counts_for_all_other_names(
    metadata: Metadata, clock: Clock
) -> None:
    asked_at = metadata.changes("d/")
    metadata.change("d/", "name", entry(2))
    metadata.change("d/", "gone", ABSENT)
    clock.now += 3
    listed = [("gone", entry(1)), ("name", entry(1)), ("other", entry(1))]
    assert learn_all(metadata, "d/", asked_at, *listed)
    for seconds in (0, 6):
        clock.now += seconds
        assert all_of(metadata, "d/") == {"name": entry(2), "other": entry(1)}
    clock.now += 1  # what is known of the changes is out of date, and the listing is not
    assert metadata.listing("d/") is None
    assert metadata.get("d/", "name") is None
    assert metadata.get("d/", "gone") is None
    assert metadata.get("d/", "other") == Known(entry(1), 3.0)
    assert metadata.get("d/", "none") == Known(ABSENT, 3.0)


def test_what_was_forgotten_is_asked_for_whatever_a_listing_says(metadata: Metadata) -> None:
    learn_all(metadata, "d/", 0, ("name", entry()), ("other", entry()))
    asked_at = metadata.changes("d/")
    metadata.forget("d/", "name")
    metadata.forget("unknown/", "name")
    for _ in range(2):
        assert metadata.get("d/", "name") is None
        assert metadata.get("unknown/", "name") is None
        assert metadata.get("d/", "other") is not None
        assert metadata.get("d/", "third") == Known(ABSENT, LIFETIME)
        assert metadata.listing("d/") is None
        assert not metadata.learn("d/", "name", entry(), asked_at)
        metadata.forget("d/", "name")
        assert learn_all(metadata, "d/", asked_at, ("name", entry()), ("other", entry()))
    assert learn_all(metadata, "d/", metadata.changes("d/"), ("name", entry()))
    assert metadata.get("d/", "name") == Known(entry(), LIFETIME)


def test_a_listing_does_not_let_in_what_is_older_than_a_change(
    metadata: Metadata, clock: Clock
) -> None:
    """The listing is newer than the change, and takes its place; what was asked before is not."""
    asked_at = metadata.changes("d/")
    metadata.change("d/", "name", ABSENT)
    clock.now += 1
    assert learn_all(metadata, "d/", metadata.changes("d/"))
    assert not metadata.learn("d/", "name", entry(), asked_at)
    assert not learn_all(metadata, "d/", asked_at, ("name", entry()))
    assert metadata.get("d/", "name") == Known(ABSENT, LIFETIME)


def test_of_two_listings_the_one_that_says_more_is_kept(metadata: Metadata, clock: Clock) -> None:
    def learn(count: int, *, complete: bool) -> None:
        rows = [(f"{number}", entry()) for number in range(count)]
        made = columns("d/", *rows, until=metadata.until())
        assert metadata.learn_listing("d/", made, 0, complete=complete)

    learn(5, complete=False)
    learn(3, complete=False)  # another one has just begun
    assert metadata.get("d/", "4") is not None
    assert metadata.get("d/", "5") is None
    learn(7, complete=False)
    assert metadata.get("d/", "6") is not None
    learn(2, complete=True)
    assert metadata.get("d/", "6") == Known(ABSENT, LIFETIME)
    learn(6, complete=False)
    assert metadata.listing("d/") is not None
    clock.now += LIFETIME
    learn(1, complete=False)
    assert metadata.get("d/", "0") == Known(entry(), LIFETIME)
    assert metadata.get("d/", "1") is None


def test_a_change_is_remembered_although_the_directory_was_forgotten(
    metadata: Metadata, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow answer must not win because what it is older than is no longer known."""
    monkeypatch.setattr(metadata_module, "_NAMES_MAX", 2)
    for forget in ("too many", "out of date"):
        asked_at = metadata.changes("d/")
        metadata.change("d/", "name", ABSENT)
        if forget == "too many":
            for number in range(3):
                metadata.learn("e/", f"{number}", entry(), metadata.changes("e/"))
        else:
            clock.now += LIFETIME
            assert "d/" in list(metadata.expire())
        assert metadata.get("d/", "name") is None
        assert not metadata.learn("d/", "name", entry(), asked_at)


# -- size -----------------------------------------------------------------------------------------


def test_the_directories_not_used_for_longest_are_forgotten(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_module, "_NAMES_MAX", 10)
    for name in "abcde":
        learn_all(metadata, f"{name}/", 0, ("1", entry()), ("2", entry()))
    assert metadata.listing("a/") is not None  # used again
    metadata.learn("f/", "1", entry(), 0)
    assert len(metadata) == 9
    assert metadata.listing("a/") is not None
    assert metadata.listing("b/") is None
    assert metadata.get("f/", "1") is not None


def test_the_directory_in_use_is_not_forgotten_however_large(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_module, "_NAMES_MAX", 10)
    metadata.learn("small/", "1", entry(), 0)
    names = [(f"{number}", entry()) for number in range(100)]
    learn_all(metadata, "d/", 0, *names)
    assert all_of(metadata, "d/") == dict(names)
    assert metadata.get("small/", "1") is None
    assert len(metadata) == 100


def test_what_is_out_of_date_is_forgotten(metadata: Metadata, clock: Clock) -> None:
    learn_all(metadata, "old/", 0, ("a", entry()))
    metadata.learn("both/", "a", entry(), 0)
    clock.now += 5
    metadata.learn("both/", "b", ABSENT, 0)
    learn_all(metadata, "empty/", 0)
    assert list(metadata.expire()) == []
    clock.now += 5
    assert list(metadata.expire()) == ["old/"]
    assert len(metadata) == 1
    assert metadata.get("both/", "b") == Known(ABSENT, 5.0)
    assert all_of(metadata, "empty/") == {}
    clock.now += 5
    assert sorted(metadata.expire()) == ["both/", "empty/"]
    assert len(metadata) == 0


# -- against a model ------------------------------------------------------------------------------

KEYS = st.sampled_from(["", "a/", "a/b/"])
NAMES = st.sampled_from("xyz")
ENTRIES = st.sampled_from([ABSENT, entry(1), entry(2), Entry.folder()])


class MetadataMachine(RuleBasedStateMachine):
    """A store that only this mount changes: what is believed must be true, and be kept count of.

    Answers are taken from the truth when they are asked for and arrive when they like, like those
    of a slow network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.metadata = Keyless(LIFETIME, self.clock)
        self.truth: dict[tuple[str, str], Entry] = {}
        self.under_way: list[tuple[str, str | None, object, int]] = []

    @rule(key=KEYS, name=NAMES | st.none())
    def ask(self, key: str, name: str | None) -> None:
        answer: object = [(n, e) for (k, n), e in self.truth.items() if k == key]
        if name is not None:
            answer = self.truth.get((key, name))
        self.under_way.append((key, name, answer, self.metadata.changes(key)))

    @rule(number=st.integers(0, 20))
    def answer(self, number: int) -> None:
        if not self.under_way:
            return
        key, name, answer, changes = self.under_way.pop(number % len(self.under_way))
        if isinstance(answer, list):
            learn_all(self.metadata, key, changes, *answer)
        elif name is not None:
            assert answer is None or isinstance(answer, Entry)
            self.metadata.learn(key, name, answer, changes)

    @rule(key=KEYS, name=NAMES, made=ENTRIES)
    def change(self, key: str, name: str, made: Entry | None) -> None:
        self.metadata.change(key, name, made)
        if made is None:
            self.truth.pop((key, name), None)
        else:
            self.truth[key, name] = made

    @rule(key=KEYS, name=NAMES)
    def forget(self, key: str, name: str) -> None:
        self.metadata.forget(key, name)
        assert self.metadata.get(key, name) is None

    @rule(seconds=st.sampled_from([0.0, 3.0, LIFETIME]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def expire(self) -> None:
        list(self.metadata.expire())

    @invariant()
    def what_is_believed_is_true(self) -> None:
        for key in ("", "a/", "a/b/"):
            for name in "xyz":
                known = self.metadata.get(key, name)
                if known is not None:
                    assert known.entry == self.truth.get((key, name))
                    assert 0 < known.seconds_left <= LIFETIME
            listing = all_of(self.metadata, key)
            if listing is not None:
                assert listing == {n: e for (k, n), e in self.truth.items() if k == key}
        assert len(self.metadata) == sum(map(len, self.metadata._directories.values()))


MetadataMachine.TestCase.settings = settings(
    deadline=None, max_examples=200, stateful_step_count=40
)
TestAgainstTheTruth = MetadataMachine.TestCase
