"""Directories in columns: what goes in comes out, however many there are and however odd."""

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.store.types import ObjectInfo
from support.columns import columns

KEY = "dir/"
MD5 = "0123456789abcdef" * 2

ETAGS = st.sampled_from(
    [
        f'"{MD5}"',
        f'"{MD5}-1"',
        f'"{MD5}-10000"',
        # what looks like an MD5 sum and must not become one
        f'"{MD5.upper()}"',
        f'"{MD5}-0"',
        f'"{MD5}-10001"',
        f'"{MD5}-007"',
        f'"{MD5}-+7"',
        f'"{MD5}-"',
        f'"{MD5[:-2]}"',
        f'"{MD5[:-1]} "',
        f"{MD5}",
        f'W/"{MD5}"',
        f'"{MD5}-7-7"',
        f'"{MD5}-\u0667"',
        '"opaque"',
        '""',
        "",
    ]
)
NAMES = st.sampled_from(["a", "a-b", "a.b", "a0", "a!", "é", "\uffff", "😀"]) | st.text(
    "ab-/.é\uffff😀".replace("/", ""), min_size=1, max_size=5
)
INFOS = st.builds(
    ObjectInfo,
    st.just(""),
    st.integers(0, 5 << 40),
    st.integers(-(10**9), 4 * 10**9).map(lambda seconds: seconds * 10**9),
    ETAGS,
    st.sampled_from(["", "GLACIER", "STANDARD_IA"]),
)
DIRECTORIES = st.dictionaries(NAMES, INFOS | st.none(), max_size=12)


def entries_of(found: dict[str, ObjectInfo | None]) -> dict[str, Entry]:
    return {
        name: Entry.file(info._replace(key=KEY + name)) if info else Entry.folder()
        for name, info in found.items()
    }


def in_order(entries: dict[str, Entry]) -> list[tuple[str, Entry]]:
    return sorted(entries.items(), key=lambda item: f"{item[0]}/".encode())


def rows(found: Columns) -> list[tuple[str, Entry]]:
    return [(found.name(row).decode(), found.entry(row)) for row in range(len(found))]


@settings(deadline=None, max_examples=400)
@given(DIRECTORIES, st.booleans())
@example({"a": None, "a-b": None, "a0": None}, True)
def test_what_goes_in_comes_out(found: dict[str, ObjectInfo | None], in_a_row: bool) -> None:
    """Whatever the order is: directory buckets do not sort."""
    entries = entries_of(found)
    put = in_order(entries) if in_a_row else list(entries.items())
    made = columns(KEY, *put)
    assert rows(made) == put
    assert [made.is_directory(row) for row in range(len(made))] == [e.directory for _, e in put]
    for number, (name, _) in enumerate(put):
        assert made.find(name) == number
    for absent in {"a", "b", "zz", "a-", ""} - entries.keys():
        assert made.find(absent) is None


def test_a_name_that_is_added_after_looking_is_found() -> None:
    for order in ("ab", "ba"):
        made = Columns(KEY)
        for number, name in enumerate(order):
            made.append(name, None, 1.0)
            assert made.find(name) == number


def test_a_directorys_marker_is_not_kept() -> None:
    marker = ObjectInfo("dir/d/", 0, 5, '"e"')
    assert rows(columns(KEY, ("d", Entry.folder(marker)))) == [("d", Entry.folder())]


@pytest.mark.parametrize("suffix", ["", "-17"])
def test_a_name_takes_its_bytes_and_about_forty_more(suffix: str) -> None:
    made, count, length = Columns(KEY), 20_000, 20
    for number in range(count):
        etag = f'"{number:032x}{suffix}"'
        info = ObjectInfo(f"{KEY}{number:020}", number, number * 10**9, etag)
        made.append(f"{number:0{length}}", info, number // 1000)
    held = sum(sys.getsizeof(getattr(made, name)) for name in Columns.__slots__)
    assert held / count < (length + 40) * 1.15  # arrays grow ahead
