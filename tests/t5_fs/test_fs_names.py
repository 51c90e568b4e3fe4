"""What is a name and what is a key, and what is not the other."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.errors import FileSystemError
from fuse_s3_worker.fs.names import (
    KEY_MAX,
    NAME_MAX,
    above,
    can_be_directory,
    decode_name,
    nameable,
)
from support.tree import tree
from support.virtualtime import on_loop

LONG = "n" * NAME_MAX
WIDE = "ü" * (NAME_MAX // 2)  # 254 bytes


@pytest.mark.parametrize(
    "name", ["a", " ", "-", "a b", "ä€😀", "*", "\n", "\x7f", "...", LONG, WIDE]
)
def test_names_that_are_keys(name: str) -> None:
    assert decode_name(name.encode(), "") == name
    assert nameable(name)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (LONG.encode() + b"n", errno.ENAMETOOLONG),
        (WIDE.encode() + b"ab", errno.ENAMETOOLONG),
        (b"\xff", errno.EILSEQ),
        (b"a\xc3", errno.EILSEQ),
        (b"\xed\xa0\x80", errno.EILSEQ),  # a surrogate
        (b"\xc0\xaf", errno.EILSEQ),  # a slash in disguise
    ],
)
def test_names_that_are_no_keys(name: bytes, number: int) -> None:
    with pytest.raises(FileSystemError) as refused:
        decode_name(name, "")
    assert refused.value.errno == number


@pytest.mark.parametrize("name", ["", "/", "x/", "/x", ".", "..", "a\0b", LONG + "n", WIDE + "ab"])
def test_what_no_program_can_name(name: str) -> None:
    assert not nameable(name)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", []),
        ("a/", [("", "a")]),
        ("ä/b c/d/", [("", "ä"), ("ä/", "b c"), ("ä/b c/", "d")]),
    ],
)
def test_what_is_above_a_directory(key: str, expected: list[tuple[str, str]]) -> None:
    assert above(key) == expected


def test_the_longest_key_is_a_files_and_a_directory_has_room_for_its_slash() -> None:
    parent = "p" * (KEY_MAX - 10 - 1) + "/"
    for name in ("n" * 10, "ü" * 5):
        assert decode_name(name.encode(), parent) == name
        assert not can_be_directory(parent + name)
        with pytest.raises(FileSystemError) as refused:
            decode_name(name.encode() + b"n", parent)
        assert refused.value.errno == errno.ENAMETOOLONG
    assert can_be_directory(parent + "n" * 9)
    assert can_be_directory(parent + "ü" * 4)


@on_loop()
async def test_the_longest_key_is_found_written_and_removed_alone() -> None:
    parent = "/".join(["d" * 200] * 5)  # 1004 bytes
    name = "n" * 19
    assert len(f"{parent}/{name}") == 1024
    async with tree({f"{parent}/{name}": b"old"}) as t:
        assert await t.read_all(f"{parent}/{name}") == b"old"
        await t.put(f"{parent}/{name}", b"new")
        assert t.store.read(f"{parent}/{name}") == b"new"
        await t.unlink(f"{parent}/{name}")
        with pytest.raises(FileSystemError) as refused:
            await t.mkdir(f"{parent}/{name}")
        assert refused.value.errno == errno.ENAMETOOLONG


@given(st.text(max_size=300), st.sampled_from(["", "dir/", "ä/b/"]))
def test_every_name_that_is_shown_can_be_looked_up(name: str, parent: str) -> None:
    try:
        (parent + name).encode()
    except UnicodeEncodeError:
        return  # no key at all
    if nameable(name):
        assert decode_name(name.encode(), parent) == name
