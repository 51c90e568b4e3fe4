"""Access control lists: read, written, and kept in step with modes as acl(5) says."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.posix.acl import Inherited, chmod, inherit, is_valid, mode_of

UNDEFINED = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def encoded(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """Return a list as setxattr(2) takes it."""
    full = ((*entry, UNDEFINED)[:3] for entry in entries)
    return pack("<I", 2) + b"".join(pack("<HHI", *entry) for entry in full)


# u::rw- g::r-- o::---
MINIMAL = encoded((USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0))
# u::rwx u:1000:rwx g::r-x m::rwx o::r--
NAMED = encoded((USER_OBJ, 7), (USER, 7, 1000), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 4))
# u::rwx g::r-x g:7:-w- m::-w- o::---
GROUPS = encoded((USER_OBJ, 7), (GROUP_OBJ, 5), (GROUP, 2, 7), (MASK, 2), (OTHER, 0))

LISTS = {"minimal": MINIMAL, "with a user": NAMED, "with a group": GROUPS}

INVALID = {
    "nothing": b"",
    "no entries": pack("<I", 2),
    "another version": pack("<I", 1) + MINIMAL[4:],
    "half an entry": MINIMAL[:-1],
    "no group": encoded((USER_OBJ, 6), (OTHER, 0)),
    "two owners": encoded((USER_OBJ, 6), (USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)),
    "out of order": encoded((GROUP_OBJ, 4), (USER_OBJ, 6), (OTHER, 0)),
    "a user without a mask": encoded((USER_OBJ, 7), (USER, 7, 1), (GROUP_OBJ, 5), (OTHER, 4)),
    "permissions beyond rwx": encoded((USER_OBJ, 8), (GROUP_OBJ, 4), (OTHER, 0)),
    "an entry that there is none of": encoded((USER_OBJ, 6), (3, 1), (GROUP_OBJ, 4), (OTHER, 0)),
    "something behind": encoded((USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0), (OTHER, 0)),
}


@pytest.mark.parametrize("raw", LISTS.values(), ids=LISTS.keys())
def test_a_list(raw: bytes) -> None:
    assert is_valid(raw)


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
def test_what_the_kernel_would_not_take(raw: bytes) -> None:
    assert not is_valid(raw)


def test_the_mode_of_a_list() -> None:
    assert mode_of(MINIMAL) == (0o640, True)
    assert mode_of(NAMED) == (0o774, False)  # the mask has the group's bits
    assert mode_of(GROUPS) == (0o720, False)


def test_chmod_changes_the_mask_where_there_is_one() -> None:
    assert chmod(MINIMAL, 0o751) == encoded((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1))
    assert chmod(NAMED, 0o641) == encoded(
        (USER_OBJ, 6), (USER, 7, 1000), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 1)
    )


@pytest.mark.parametrize("raw", LISTS.values(), ids=LISTS.keys())
@given(mode=st.integers(0, 0o777))
def test_after_chmod_list_and_mode_say_the_same(raw: bytes, mode: int) -> None:
    assert mode_of(chmod(raw, mode))[0] == mode


def test_a_new_file_gets_no_more_than_it_is_made_with() -> None:
    # As ext4 has it: open(2) with 0666 below default:u:1000:rwx.
    assert inherit(NAMED, 0o666) == Inherited(
        0o664,
        encoded((USER_OBJ, 6), (USER, 7, 1000), (GROUP_OBJ, 5), (MASK, 6), (OTHER, 4)),
    )


def test_a_list_that_a_mode_says_all_of_is_not_kept() -> None:
    assert inherit(MINIMAL, 0o777) == Inherited(0o640, None)


@pytest.mark.parametrize("raw", LISTS.values(), ids=LISTS.keys())
@given(mode=st.integers(0, 0o777))
def test_what_is_inherited_is_in_step(raw: bytes, mode: int) -> None:
    made = inherit(raw, mode)
    assert made.mode & ~mode == 0
    assert made.access is None or mode_of(made.access) == (made.mode, False)
