"""Which download is a straggler: one of many, far behind, and never more than a few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.http.pace import Pace, Progress

MIB = 1 << 20
USUAL = Progress(elapsed=0.12, waited=0.02, size=8 * MIB)  # 80 MiB/s
SILENT = Progress(elapsed=1.5, waited=None, size=0)
CRAWLING = Progress(elapsed=2.5, waited=0.02, size=MIB)
FINE = Progress(elapsed=1.5, waited=0.02, size=100 * MIB)


def experienced(count: int = 40, usual: Progress = USUAL) -> Pace:
    pace = Pace()
    for _ in range(count):
        pace.note(usual)
    return pace


@pytest.mark.parametrize("slow", [SILENT, CRAWLING])
def test_one_that_lags_far_behind_is_given_up(slow: Progress) -> None:
    assert experienced().stragglers([FINE, slow, FINE]) == [1]


@pytest.mark.parametrize(
    "good",
    [
        FINE,
        Progress(elapsed=0.9, waited=None, size=0),  # it may be slow for a second in any case
        Progress(elapsed=0.9, waited=0.02, size=1),
        Progress(elapsed=2.02, waited=0.02, size=2 * 10 * MIB + MIB),  # an eighth of the usual
    ],
)
def test_one_that_is_merely_slow_is_not(good: Progress) -> None:
    assert experienced().stragglers([FINE, good, FINE]) == []


def test_where_waiting_is_usual_it_is_no_reason() -> None:
    pace = experienced(usual=Progress(elapsed=2.1, waited=2.0, size=8 * MIB))
    assert pace.stragglers([SILENT, FINE, FINE]) == []
    assert pace.stragglers([SILENT._replace(elapsed=16.1), FINE, FINE]) == [0]


def test_nothing_is_unusual_before_something_is_usual() -> None:
    assert experienced(7).stragglers([SILENT, FINE, FINE]) == []
    assert experienced(8).stragglers([SILENT, FINE, FINE]) == [0]


def test_small_downloads_tell_how_long_to_wait_and_no_rate() -> None:
    pace = experienced(usual=Progress(elapsed=0.021, waited=0.02, size=4096))
    assert pace.stragglers([SILENT, FINE, FINE]) == [0]
    assert pace.stragglers([CRAWLING, FINE, FINE]) == []


def test_when_most_are_slow_none_is_given_up() -> None:
    pace = experienced(100)
    assert pace.stragglers([SILENT, CRAWLING, FINE]) == []
    assert pace.stragglers([SILENT, SILENT]) == []
    assert pace.stragglers([SILENT]) == []
    assert pace.stragglers([SILENT, CRAWLING, FINE, FINE]) == [0, 1]


@given(st.integers(0, 300), st.integers(1, 10))
def test_what_is_asked_for_again_is_bounded(ended: int, looks: int) -> None:
    """At most one for every sixteen downloads that ended well, and the first one."""
    pace = experienced(ended)
    given_up = sum(len(pace.stragglers([*[SILENT] * 10, *[FINE] * 10])) for _ in range(looks))
    assert given_up <= min(1 + ended / 16, 4)
    if ended >= 8:
        assert given_up >= 1


def test_there_may_be_more_as_more_end_well() -> None:
    pace, given_up = experienced(8), 0
    for _ in range(1600):
        pace.note(USUAL)
        given_up += len(pace.stragglers([SILENT, FINE, FINE]))
    assert 95 <= given_up <= 101


# -- an endpoint of several addresses -------------------------------------------------------------


def at_rate(rate: float) -> Progress:
    return Progress(elapsed=1.02, waited=0.02, size=int(rate * MIB))


def heard(rates: dict[str, float], count: int = 10) -> Pace:
    pace = Pace()
    for _ in range(count):
        for address, rate in rates.items():
            pace.note(at_rate(rate), address)
    return pace


def test_an_address_far_slower_than_the_others_is_left_and_gets_another_chance() -> None:
    pace = heard({"a": 80, "b": 18, "c": 70})
    assert [name for name in "abcd" if pace.slow_address(name)] == ["b"]
    assert not pace.slow_address("b"), "nothing is known of it any more"
    for _ in range(8):
        pace.note(at_rate(75), "b")
    assert not pace.slow_address("b")


@pytest.mark.parametrize(
    ("rates", "count"),
    [
        ({"a": 80, "b": 21}, 10),  # merely slow
        ({"b": 1}, 10),  # there is no other
        ({"a": 80, "b": 1}, 7),  # too little is known
    ],
)
def test_an_address_that_is_no_slower_than_others_may_be_is_kept(
    rates: dict[str, float], count: int
) -> None:
    assert not heard(rates, count).slow_address("b")


def test_addresses_are_not_remembered_without_end() -> None:
    pace = heard({f"{number}": 80 for number in range(200)})
    for _ in range(10):
        pace.note(at_rate(1), "0")
    assert pace.slow_address("0")
    assert len(pace._by_address) < 70
