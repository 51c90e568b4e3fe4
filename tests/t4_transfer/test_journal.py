"""The journal: what was told is read back; what is damaged is refused, and never something else."""

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer.extents import Extent, ExtentMap
from fuse_s3_worker.transfer.journal import (
    Description,
    JournalError,
    Log,
    Record,
    State,
    apply,
    decode,
)

BASE = ObjectInfo("d/ü \n", 5_000, 1_700_000_000_000_000_000, '"e1"', "STANDARD_IA")
OTHER = ObjectInfo("other", 900, 5, '"e2"')
STORED = ObjectInfo("d/ü \n", 5_000, 1_700_000_001_000_000_000, '"e3"')


def example() -> Description:
    """A file with one extent of every kind."""
    extents = ExtentMap(BASE)
    extents.write(10, 20)
    extents.put([Extent(100, 300, OTHER, 7)])
    extents.zero(400, 500)
    extents.load(600, 700)
    return Description(
        BASE.key, BASE, OTHER, extents, mtime=77, upload_id="u/1+", headers={"x-amz-meta-mode": "1"}
    )


def told(known: Description) -> tuple[Any, ...]:
    """Return everything that is known."""
    rest = {name: value for name, value in vars(known).items() if name != "extents"}
    return rest, list(known.extents)


# What can be done to a file: records, and whether their values are lines of text by themselves.
RECORDS: list[Record] = [
    ("w", 4_990, 6_000, 1),
    ("z", 0, 15, 2),
    ("t", 650, 3),
    ("p", [Extent(30, 40, OTHER, 0), Extent(40, 45, BASE, 90), Extent(45, 50)], 4),
    ("l", 0, 200),
    ("u", 0, 650),
    ("n", "new name", BASE._replace(key="new name")),
    ("n", "new name", None),
    ("m", "upload id"),
    ("c", '"etag-3"'),
    ("s", "conflict"),
    ("h", {"x-amz-meta-mode": "33188", "x-amz-meta-ü": ""}),
    ("h", None),
    ("r", STORED),
]


def test_a_snapshot_is_read_back() -> None:
    known = example()
    content = Log().snapshot(known)
    found, log = decode(content)
    assert told(found) == told(known)
    assert not found.torn
    # and writing goes on from there
    found, _ = decode(content + log.lines(("p", [Extent(0, 5, OTHER, 1)], 5)))
    assert found.extents.between(0, 5) == [Extent(0, 5, OTHER, 1)]
    assert not found.torn


@pytest.mark.parametrize("base", [None, BASE])
def test_a_file_that_nothing_was_done_to(base: ObjectInfo | None) -> None:
    known = Description.of("k", base)
    assert (known.size, known.written) == (base.size if base else 0, 0)
    assert known.changed == (base is None)
    assert told(decode(Log().snapshot(known))[0]) == told(known)


def test_thousands_of_extents_are_in_lines_of_a_bearable_length() -> None:
    known = Description("k")
    for at in range(0, 10_000, 2):
        known.extents.write(at, at + 1)
    content = Log().snapshot(known)
    assert told(decode(content)[0]) == told(known)
    assert max(map(len, content.splitlines())) < 100_000


@settings(deadline=None)
@given(st.lists(st.sampled_from(RECORDS), max_size=12))
def test_records_do_when_read_what_they_did_when_written(records: list[Record]) -> None:
    known = example()
    log = Log()
    content = log.snapshot(known)
    for record in records:
        apply(known, record)
        content += log.lines(record)
    found, _ = decode(content)
    assert told(found) == told(known)


def test_what_records_say() -> None:
    known = example()
    apply(known, ("c", '"x-2"'))
    apply(known, ("n", "new", BASE._replace(key="new")))
    assert (known.key, known.base) == ("new", BASE._replace(key="new"))
    assert {e.source.key for e in known.extents if e.source} == {"new", "other"}
    apply(known, ("r", STORED))
    assert (known.base, known.state, known.mtime) == (STORED, State.OPEN, STORED.mtime)
    assert (known.upload_id, known.expected, known.headers) == ("", "", None)
    assert not known.changed
    apply(known, ("s", "committing"))
    assert known.state is State.COMMITTING


def test_what_nobody_else_has_is_counted() -> None:
    known = example()
    assert known.written == 10
    apply(known, ("w", 0, 100, 1))
    assert known.written == 100


# -- damage ----------------------------------------------------------------------------------------


def journal() -> bytes:
    log = Log()
    return log.snapshot(example()) + b"".join(log.lines(record) for record in RECORDS)


SNAPSHOT = len(Log().snapshot(example()))


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_makes_another_journal(bit: int) -> None:
    """In the snapshot it is refused; behind it, everything up to there is as it was."""
    content = journal()
    whole = [told(decode(content[:end])[0]) for end in _line_ends(content)]
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << bit
        try:
            found, _ = decode(bytes(damaged))
        except JournalError:
            assert at < SNAPSHOT
        else:
            assert at >= SNAPSHOT
            assert found.torn
            found.torn = False
            assert told(found) in whole


def _line_ends(content: bytes) -> list[int]:
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    return [end for end in ends if end >= SNAPSHOT]


def test_a_journal_that_is_cut_off() -> None:
    content = journal()
    whole = {end: told(decode(content[:end])[0]) for end in _line_ends(content)}
    for length in range(len(content)):
        if length < SNAPSHOT:
            with pytest.raises(JournalError):
                decode(content[:length])
            continue
        found, _ = decode(content[:length])
        assert found.torn == (length not in whole)
        found.torn = False
        assert told(found) == whole[max(end for end in whole if end <= length)]


def test_lines_cannot_be_moved_left_out_or_repeated() -> None:
    lines = journal().splitlines(keepends=True)
    first = Log().snapshot(example()).count(b"\n")
    without = b"".join(lines[: first + 1] + lines[first + 2 :])
    moved = b"".join([*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]])
    twice = b"".join([*lines[: first + 1], *lines[first:]])
    for content in (without, moved, twice):
        assert decode(content)[0].torn


def line(text: bytes, checksum: int = 0) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text, checksum), text)


HEAD = (
    b'{"fuse-s3-staged":2,"key":"k","base":null,"seen":null,"state":"open","mtime":1,'
    b'"upload":"","expected":"","headers":null}'
)
FIRST_HEAD = HEAD.replace(b'staged":2', b'staged":1').replace(b',"headers":null', b"")


def lines(*texts: bytes) -> bytes:
    content, checksum = b"", 0
    for text in texts:
        content += line(text, checksum)
        checksum = zlib.crc32(text, checksum)
    return content


def test_the_format_is_what_it_was() -> None:
    """Journals are read by the next version, too: what this one writes may not change silently."""
    known = Description("k", mtime=1)
    known.extents.write(0, 5)
    log = Log()
    assert log.snapshot(known) == lines(HEAD, b'["x",[[0,5,-1,0,1]]]', b'["end",1]')
    known.extents.put([Extent(0, 5, OTHER, 2)])
    assert log.snapshot(known) == lines(
        HEAD, b'["o",["other",900,5,"\\"e2\\"",""]]', b'["x",[[0,5,0,2,0]]]', b'["end",1]'
    )


def test_a_journal_of_the_first_version_is_read() -> None:
    """It says nothing of headers."""
    known, log = decode(lines(FIRST_HEAD, b'["x",[[0,5,-1,0,1]]]', b'["end",1]'))
    assert (known.key, known.size, known.headers) == ("k", 5, None)
    assert log.snapshot(known) == lines(HEAD, b'["x",[[0,5,-1,0,1]]]', b'["end",1]')


GOOD = lines(HEAD, b'["x",[[0,5,-1,0,1]]]', b'["end",1]')

BAD = {
    "nothing": (b"", "does not begin"),
    "no journal": (b"hello\n", "does not begin"),
    "another document": (lines(b'{"a":1}'), "does not begin"),
    "a list": (lines(b"[1]"), "does not begin"),
    "a later version": (lines(HEAD.replace(b'staged":2', b'staged":3')), "version 3"),
    "a version that never was": (lines(HEAD.replace(b'staged":2', b'staged":"2"')), "version 2"),
    "headers that are none": (lines(HEAD.replace(b"null}", b'["a"]}'), b'["end",0]'), "no sense"),
    "a header that is none": (lines(HEAD.replace(b"null}", b'{"a":1}}'), b'["end",0]'), "no sense"),
    "a state that is none": (lines(HEAD.replace(b"open", b"shut"), b'["end",0]'), "no sense"),
    "a field too few": (lines(HEAD.replace(b'"mtime":1,', b""), b'["end",0]'), "no sense"),
    "a key that is none": (lines(HEAD.replace(b'"k"', b"5"), b'["end",0]'), "no sense"),
    "no end": (lines(HEAD, b'["x",[[0,5,-1,0,1]]]'), "not whole"),
    "an extent too few": (lines(HEAD, b'["end",1]'), "no record"),
    "a gap": (lines(HEAD, b'["x",[[3,5,-1,0,1]]]', b'["end",1]'), "no sense"),
    "backwards": (lines(HEAD, b'["x",[[5,3,-1,0,1]]]', b'["end",1]'), "no sense"),
    "no such source": (lines(HEAD, b'["x",[[0,5,0,0,1]]]', b'["end",1]'), "no sense"),
    "beyond its source": (
        lines(HEAD, b'["o",["o",3,0,"",""]]', b'["x",[[0,5,0,0,0]]]', b'["end",1]'), "no sense",
    ),
    "another record": (lines(HEAD, b'["y",[]]', b'["end",0]'), "no record"),
    "no record at all": (lines(HEAD, b"[]", b'["end",0]'), "no sense"),
    "a record of no kind": (GOOD + line(b'["?",1]', zlib.crc32(b'["end",1]')), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_journal_is_refused_with_a_reason(name: str) -> None:
    content, reason = BAD[name]
    if not reason:  # its checksum is wrong, so nothing that comes behind counts
        assert decode(content)[0].torn
        return
    with pytest.raises(JournalError, match=reason):
        decode(content)


AFTER = [
    b'["?"]', b'["w"]', b'["w",1]', b'["w",5,3,1]', b'["w",0,"5",1]', b'["t",-1,1]', b'["m",5]',
    b'["c",null]', b'["s","shut"]', b'["r",[1,2]]', b'["r",null]', b'["n",5,null]', b"[]", b"5",
    b'["p",[[0,5,3,0,0]],1]', b'["o",5]', b'{"w":1}', b'["l",0,[]]', b'["h",5]', b'["h",{"a":[]}]',
]  # fmt: skip


@pytest.mark.parametrize("text", AFTER)
def test_a_record_that_makes_no_sense_is_refused(text: bytes) -> None:
    content = lines(HEAD, b'["x",[[0,5,-1,0,1]]]', b'["end",1]', text)
    with pytest.raises(JournalError):
        decode(content)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300) | st.lists(st.binary(max_size=60)).map(lambda t: lines(*t)))
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(JournalError):
        decode(content)
