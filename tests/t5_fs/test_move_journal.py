"""Journals of renames: what is written is read, and what is damaged is not believed."""

import asyncio
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_s3_worker.fs.movejournal import Journal, Journals, Unfinished
from fuse_s3_worker.fs.moveplan import Plan, Rows
from fuse_s3_worker.store.types import ObjectInfo
from support import loops

NAMES = ["", "a", "a b", "ü/é", "\x01", "x" * 900, "e", "e/f"]


def plan_of(count: int = len(NAMES)) -> Plan:
    """Return a plan with names of all kinds."""
    plan = Plan("d/", "new ü/")
    for number, name in enumerate([*NAMES, *(f"n{n:05}" for n in range(count))][:count]):
        etag = '"0123456789abcdef0123456789abcdef-7"' if number % 2 else '"odd"'
        plan.add(ObjectInfo(f"d/{name}", number, number * 10**9, etag, "GLACIER" * (number % 2)))
    return plan


def contents(plan: Plan) -> list[ObjectInfo]:
    return [plan.version(row) for row in range(len(plan))]


def write(directory: Path, plan: Plan, *then: Callable[[Journal], object]) -> Path:
    """Write a journal as a worker does that dies afterwards; return its file."""

    async def body() -> Path:
        journal = Journals(directory).create()
        assert journal is not None
        await journal.begin(plan)
        for step in then:
            await step(journal)  # type: ignore[misc]
        journal.close()
        return journal.path

    return loops.run(body(), "asyncio")


def read(directory: Path) -> list[Unfinished]:
    """Return what a worker finds, and let it go."""
    found = Journals(directory).unfinished()
    for one in found:
        one.journal.close()
    return found


@pytest.mark.parametrize("count", [0, 1, 8, 499, 500, 501, 1700])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    plan = plan_of(count)
    write(tmp_path, plan)
    (found,) = read(tmp_path)
    assert (found.plan.source, found.plan.target) == ("d/", "new ü/")
    assert contents(found.plan) == contents(plan)
    assert (found.plan.etags, found.undo) == ({}, False)
    assert [found.plan.name(row) for row in range(len(plan))] == [
        plan.name(row) for row in range(len(plan))
    ]


def test_what_was_done_since(tmp_path: Path) -> None:
    write(tmp_path, plan_of(), lambda j: j.note(3, '"copy"'), lambda j: j.note(0, '"b"'))
    assert read(tmp_path)[0].plan.etags == {3: '"copy"', 0: '"b"'}
    assert not read(tmp_path)[0].undo
    write(tmp_path, plan_of(), lambda journal: journal.undo())
    assert [one.undo for one in read(tmp_path)] == [False, True], "the oldest first"


def test_versions_that_were_copied_instead(tmp_path: Path) -> None:
    plan = plan_of()
    plan.versions[2] = newer = plan.version(2)._replace(size=77, etag='"newer"')
    write(tmp_path, plan)
    assert read(tmp_path)[0].plan.version(2) == newer


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = write(tmp_path, plan_of(), lambda journal: journal.note(1, '"b"'))
    with path.open("ab") as file:
        file.write(b'12345678 ["etag",2,"ha')  # the power failed here
    (found,) = Journals(tmp_path).unfinished()
    loops.run(found.journal.note(2, '"c"'), "asyncio")
    loops.run(found.journal.undo(), "asyncio")
    found.journal.close()
    (found,) = read(tmp_path)
    assert (found.plan.etags, found.undo) == ({1: '"b"', 2: '"c"'}, True)


def test_the_end(tmp_path: Path) -> None:
    write(tmp_path, plan_of(), lambda journal: journal.remove())
    assert list(tmp_path.iterdir()) == []
    assert read(tmp_path) == []


def test_one_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    journal = Journals(tmp_path).create()
    assert journal is not None
    loops.run(journal.begin(plan_of()), "asyncio")
    assert read(tmp_path) == []
    journal.close()
    assert len(read(tmp_path)) == 1


def test_what_is_none_of_ours_is_left_alone(tmp_path: Path) -> None:
    for name in ("something", "0123.map", "x.rename.bak"):
        (tmp_path / name).write_bytes(b"x")
    assert read(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 3


# -- damage ---------------------------------------------------------------------------------------


def test_cut_anywhere_it_is_nothing_or_all_of_the_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the end of its list no copy was made, so there is nothing to be done."""
    path = write(tmp_path, plan_of(), lambda j: j.note(1, '"b"'), lambda j: j.undo())
    whole = path.read_bytes()
    begun = whole.index(b'["begin"') + len(b'["begin",8]\n')
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = read(tmp_path)
        assert len(found) == (length >= begun)
        assert path.exists() == (length >= begun)
        for one in found:
            assert contents(one.plan) == contents(plan_of())
            assert set(one.plan.etags) <= {1}
            assert not one.undo
    assert caplog.records == []


def test_no_bit_can_be_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, plan_of(), lambda j: j.note(1, '"b"'), lambda j: j.undo())
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        found = read(tmp_path)
        # In the last line it looks as if the power had failed there.
        assert not found or (at >= last and not found[0].undo)
        assert path.read_bytes() in {bytes(damaged), whole[:last]}
        path.write_bytes(b"")
    events = {record.getMessage().split(" ")[0] for record in caplog.records}
    assert events == {"rename_journal_unusable"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"fuse-s3-rename", b"fuse-s3-others"),
        (b'rename",1,', b'rename",2,'),
        (b'["begin",8]', b'["begin",7]'),
        (b'["etag",1,', b'["etag",8,'),
        (b'["etag",1,', b'["etag","1",'),
        (b'["undo"]', b'["redo"]'),
        (b'["undo"]', b'["undo",1]'),
        (b'["undo"]', b'["keys",[]]'),
        (b'["undo"]', b'"undo"'),
        (b'["undo"]', b'{"undo":1}'),
        (b'["undo"]', b"["),
        (b'["begin",8]', b'["undo"]'),
        (b'["keys",[["",0', b'["keys",[["","0x"'),
    ],
)
def test_nonsense(tmp_path: Path, caplog: pytest.LogCaptureFixture, old: bytes, new: bytes) -> None:
    """With the right checksums, too, it is not believed."""
    path = write(tmp_path, plan_of(), lambda j: j.note(1, '"b"'), lambda j: j.undo())
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(_summed(whole.replace(old, new)))
    assert read(tmp_path) == []
    assert path.exists(), "a person may want to look at it"
    assert "rename_journal_unusable" in caplog.text


def _summed(data: bytes) -> bytes:
    """Return the lines with the checksums that they should have."""
    journal = Journal(Path("none"), -1)
    lines = [line[9:] for line in data.splitlines()]
    summed = b""
    for line in lines:
        journal.checksum = zlib.crc32(line, journal.checksum)
        summed += b"%08x %s\n" % (journal.checksum, line)
    return summed


def test_a_disk_that_fails_costs_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    journal = Journals(tmp_path).create()
    assert journal is not None
    monkeypatch.setattr(os, "write", full)
    loops.run(journal.begin(plan_of()), "asyncio")
    monkeypatch.undo()
    assert "rename_journal_failed" in caplog.text
    assert list(tmp_path.iterdir()) == []
    loops.run(journal.note(1, "x"), "asyncio")
    loops.run(journal.remove(), "asyncio")
    assert Journals(tmp_path / "missing").create() is None
    assert Journals(tmp_path / "missing").unfinished() == []


# -- plans ----------------------------------------------------------------------------------------


def test_rows_are_found_in_order_and_out_of_order() -> None:
    plan = plan_of(20)
    infos = contents(plan)
    for order in (infos, infos[::-1], infos[1::2] + infos[::2]):
        rows = Rows(plan, "d/")
        assert [
            plan.version(row) for info in order if (row := rows.find(info)) is not None
        ] == order
    rows = Rows(plan, "new ü/")
    assert rows.find(infos[0]._replace(key="new ü/nobody's")) is None
    assert rows.find(infos[0]._replace(key="new ü/a")) == 1


def test_copies_and_originals_are_told_by_size_and_entity_tag() -> None:
    plan = plan_of()
    original = plan.version(3)
    assert plan.is_original(3, original._replace(mtime=0))
    assert not plan.is_original(3, original._replace(size=99))
    assert not plan.is_original(3, original._replace(etag='"other"'))
    assert plan.is_copy(3, original)
    plan.etags[3] = '"copy"'
    assert not plan.is_copy(3, original)
    assert plan.is_copy(3, original._replace(etag='"copy"'))
    assert plan.is_original(3, original)


def test_nothing_of_this_blocks_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a disk is done in threads."""
    in_loop: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: in_loop.append(_has_loop()))
    write(tmp_path, plan_of(), lambda journal: journal.undo())
    assert in_loop == [False, False]


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
