"""The files of staged files: whose they are, who holds them, and what is left when power fails."""

import errno
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_worker.store.types import ObjectInfo
from fuse_s3_worker.transfer import stagedir
from fuse_s3_worker.transfer.journal import Description, JournalError, Log, State
from fuse_s3_worker.transfer.stagedir import (
    CacheDirectoryError,
    EntryInUseError,
    Place,
    StageDirectory,
)

PLACE = Place("https://s3.example.net", "bucket", "a/b/")
ABOUT = {"spec": "bucket/a/b/", "options": "endpoint_url=https://s3.example.net"}
BASE = ObjectInfo("k", 100, 5, '"e"')


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir(0o700)
    return path


@pytest.fixture
def directory(cache: Path) -> Iterator[StageDirectory]:
    opened = StageDirectory.open(str(cache), PLACE, ABOUT)
    yield opened
    opened.close()


def another(cache: Path) -> StageDirectory:
    """Open the directory once more, as another program does."""
    return StageDirectory.open(str(cache), PLACE, ABOUT)


def names(directory: StageDirectory) -> list[str]:
    return sorted(path.name for path in directory.path.iterdir())


def known(key: str = "k") -> Description:
    made = Description.of(key, BASE)
    made.extents.write(10, 20)
    return made


# -- whose it is -----------------------------------------------------------------------------------


def _become_a_file(path: Path) -> None:
    path.rmdir()
    path.write_bytes(b"")


def _become_a_link(path: Path) -> None:
    path.rmdir()
    path.symlink_to("/tmp")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (Path.rmdir, "No such file"),
    "a file": (_become_a_file, "Not a directory"),
    "a link": (_become_a_link, "Not a directory|Too many"),
    "everybody's": (lambda path: path.chmod(0o777), "others may write"),
    "the group's": (lambda path: path.chmod(0o770), "others may write"),
    "sticky": (lambda path: path.chmod(0o1777), "others may write"),
    "somebody else's": (lambda path: os.chown(path, 12345, 12345), "is not the worker's"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_directory_that_is_not_ours_alone_is_refused(cache: Path, how: str) -> None:
    spoil, reason = WRONG[how]
    if how == "somebody else's" and os.geteuid() != 0:
        pytest.skip("only root gives directories away")
    spoil(cache)
    with pytest.raises(CacheDirectoryError, match=reason) as refused:
        another(cache)
    assert str(refused.value).startswith(f"cache={cache}: ")
    assert "chown" in str(refused.value)


def test_where_the_unit_of_systemd_is_in_the_way_that_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the directory itself is like can be seen from outside, and is right."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(CacheDirectoryError, match=r"directory: make .* not in a home or in /tmp"):
        StageDirectory.open("/home/nobody/there", PLACE, ABOUT)
    with pytest.raises(CacheDirectoryError) as elsewhere:
        StageDirectory.open("/nowhere/at/all", PLACE, ABOUT)
    assert "systemd" not in str(elsewhere.value)
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(CacheDirectoryError, match=r"Read-only file system; .* ReadWritePaths="):
        StageDirectory.open(str(cache), PLACE, ABOUT)


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(CacheDirectoryError, match="absolute"):
        StageDirectory.open("cache", PLACE, ABOUT)


def test_who_nobody_knows_by_name_is_told_a_number(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(CacheDirectoryError, match="54321"):
        another(cache)


def test_no_two_buckets_share_a_directory(cache: Path) -> None:
    places = [
        PLACE,
        PLACE._replace(endpoint="https://other.example.net"),
        PLACE._replace(bucket="bucket2"),
        PLACE._replace(prefix=""),
        PLACE._replace(bucket="bucket/a", prefix="b/"),
        PLACE._replace(bucket="arn:aws:s3:us-west-2:123456789012:accesspoint/my-point"),
        PLACE._replace(bucket="b" * 255),
        PLACE._replace(bucket=".."),
    ]
    for place in places:
        StageDirectory.open(str(cache), place, ABOUT).close()
    made = sorted(path.name for path in cache.iterdir())
    assert len(made) == len(places)
    assert any(name.startswith("bucket-") for name in made)
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in cache.iterdir())
    found = list(StageDirectory.all_in(str(cache)))
    assert [directory.path.name for directory in found] == made
    assert [directory.about for directory in found] == [ABOUT] * len(made)
    for directory in found:
        directory.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"spec":5}', None])
def test_what_is_not_known_of_a_bucket_is_not_made_up(
    directory: StageDirectory, content: bytes | None
) -> None:
    path = directory.path / "bucket.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert directory.about == {}


def test_other_things_in_a_cache_directory_are_left_alone(
    cache: Path, directory: StageDirectory
) -> None:
    (cache / "a file").write_bytes(b"")
    for name in ("README", "x.data", "x.new", "lost+found.map", ".hidden"):
        (directory.path / name).write_bytes(b"mine")
    assert directory.ids() == []
    assert len(list(directory.path.iterdir())) == 6
    assert len(list(StageDirectory.all_in(str(cache)))) == 1


# -- entries ---------------------------------------------------------------------------------------


def test_an_entry_is_two_files_that_nobody_else_reads(directory: StageDirectory) -> None:
    entry = directory.create(known())
    (entry_id,) = directory.ids()
    assert names(directory) == [f"{entry_id}.data", f"{entry_id}.map", "bucket.json"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.path.glob("*.*a*"))
    assert entry.path == directory.path / f"{entry_id}.data"
    found, _ = directory.read(entry_id)
    assert list(found.extents) == list(known().extents)
    entry.remove()
    assert directory.ids() == []
    assert names(directory) == ["bucket.json"]


def test_ids_are_in_the_order_in_which_entries_were_made(directory: StageDirectory) -> None:
    entries = [directory.create(known(f"{number}")) for number in range(5)]
    assert [directory.read(i)[0].key for i in directory.ids()] == ["0", "1", "2", "3", "4"]
    for entry in entries:
        entry.remove()


def test_who_has_an_entry_has_it_alone(cache: Path, directory: StageDirectory) -> None:
    entry = directory.create(known())
    other = another(cache)
    (entry_id,) = other.ids()
    with pytest.raises(EntryInUseError):
        other.hold(entry_id)
    assert other.read(entry_id)[0].key == "k"  # looking at it is free
    entry.close()
    held, found = other.hold(entry_id)
    assert found.key == "k"
    with pytest.raises(EntryInUseError):
        directory.hold(entry_id)
    held.remove()
    other.close()


def _make_and_die(cache: str) -> None:
    directory = StageDirectory.open(cache, PLACE, ABOUT)
    entry = directory.create(known())
    os.pwrite(entry.fd, b"0123456789", 10)
    entry.add(("w", 10, 25, 7))
    os._exit(9)


def test_what_a_dead_worker_had_can_be_taken_over(cache: Path, directory: StageDirectory) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(str(cache),))
    worker.start()
    worker.join()
    (entry_id,) = directory.ids()
    entry, found = directory.hold(entry_id)
    assert [(e.start, e.end) for e in found.extents if e.written] == [(10, 25)]
    assert os.pread(entry.fd, 100, 10) == b"0123456789"
    entry.add(("w", 50, 60, 8))
    assert directory.read(entry_id)[0].written == 25
    entry.remove()


def test_a_journal_that_ends_in_the_middle_of_a_line_can_be_gone_on_with(
    directory: StageDirectory,
) -> None:
    entry = directory.create(known())
    entry.add(("w", 30, 40, 7))
    entry.close()
    (entry_id,) = directory.ids()
    with (directory.path / f"{entry_id}.map").open("ab") as file:
        file.write(b'12345678 ["w",50')
    entry, found = directory.hold(entry_id)
    assert found.torn
    assert found.written == 20
    entry.add(("w", 60, 70, 8))
    again, _ = directory.read(entry_id)
    assert (again.written, again.torn) == (30, False)
    entry.remove()


def test_a_journal_that_cannot_be_relied_on_stays_as_it_is(directory: StageDirectory) -> None:
    directory.create(known()).close()
    (entry_id,) = directory.ids()
    path = directory.path / f"{entry_id}.map"
    content = path.read_bytes()[:-5]
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(JournalError):
            directory.hold(entry_id)
        assert path.read_bytes() == content
        assert directory.ids() == [entry_id]


def test_a_journal_that_is_no_file_of_ours(
    directory: StageDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = directory.create(known())
    entry.close()
    (entry_id,) = directory.ids()
    path = directory.path / f"{entry_id}.map"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        directory.hold(entry_id)
    path.unlink()
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(stagedir, "_JOURNAL_MAX", 99)
    with pytest.raises(JournalError, match="larger"):
        directory.hold(entry_id)


# -- leftovers -------------------------------------------------------------------------------------


def test_what_is_done_with_is_removed(cache: Path, directory: StageDirectory) -> None:
    """A worker ended between the two steps of removing, or before the first journal."""
    entry = directory.create(known())
    (entry_id,) = directory.ids()
    (directory.path / f"{entry_id}.map").unlink()
    other = another(cache)
    assert other.ids() == []
    assert entry.path.exists()  # somebody has it
    entry.close()
    assert other.ids() == []
    assert names(directory) == ["bucket.json"]
    other.close()


def test_a_new_journal_that_did_not_get_its_name_is_removed(directory: StageDirectory) -> None:
    directory.create(known()).close()
    (entry_id,) = directory.ids()
    (directory.path / f"{entry_id}.new").write_bytes(b"half")
    assert directory.ids() == [entry_id]
    assert not (directory.path / f"{entry_id}.new").exists()
    assert directory.read(entry_id)[0].key == "k"


def test_an_unlinked_entry_has_its_bytes_until_it_is_closed(directory: StageDirectory) -> None:
    entry = directory.create(known())
    entry.unlink()
    assert names(directory) == ["bucket.json"]
    os.pwrite(entry.fd, b"still", 0)
    assert os.pread(entry.fd, 5, 0) == b"still"
    entry.close()
    entry.close()


# -- what reaches the disk, and in which order -----------------------------------------------------


class Watch:
    """What is asked of the disk, in order, by the end of the file's name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        for name in ("write", "pwrite", "fsync", "fdatasync"):
            self._watch(monkeypatch, name, getattr(os, name))
        rename = os.rename

        def watched(old: str, new: str, **places: int) -> None:
            self.seen.append(f"rename {old[-3:]} {new[-3:]}")
            rename(old, new, **places)

        monkeypatch.setattr(os, "rename", watched)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str, real: Callable[..., int]) -> None:
        def watched(fd: int, *rest: object) -> int:
            name_of_fd = Path(f"/proc/self/fd/{fd}").readlink().name
            kind = name_of_fd.rpartition(".")[2] if "." in name_of_fd else "directory"
            self.seen.append(f"{name} {kind}")
            return real(fd, *rest)

        monkeypatch.setattr(os, name, watched)


def test_sealing_syncs_bytes_then_journal_then_name(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = directory.create(known())
    sealed = known()
    sealed.state = State.COMMITTING
    watch = Watch(monkeypatch)
    entry.seal(sealed)
    assert watch.seen == [
        *("fdatasync data", "write new", "fsync new", "rename new map", "fsync directory")
    ]
    watch.seen.clear()
    entry.add(("m", "upload"))
    entry.sync_journal()
    assert watch.seen == ["write map", "fdatasync map"]
    (entry_id,) = directory.ids()
    assert directory.read(entry_id)[0].state is State.COMMITTING
    entry.remove()


def test_a_file_that_is_only_open_costs_no_sync(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    entry = directory.create(known())
    entry.add(("w", 0, 5, 1))
    assert not [deed for deed in watch.seen if "sync" in deed]
    entry.remove()


def fail_with_enospc(*_: object) -> int:
    """Fail, as the disk does that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_new_journal_that_cannot_be_written_leaves_the_old_one(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    entry = directory.create(known())
    changed = known()
    changed.extents.write(0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *_, **__: fail_with_enospc())
        with pytest.raises(OSError, match="No space"):
            entry.snapshot(changed, durable=True)
    (entry_id,) = directory.ids()
    assert directory.read(entry_id)[0].written == 10
    assert not list(directory.path.glob("*.new"))
    entry.add(("w", 0, 5, 1))  # to the old one
    assert directory.read(entry_id)[0].written == 15
    entry.remove()


def test_a_record_that_cannot_be_written_leaves_the_journal_whole(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = directory.create(known())
    entry.add(("w", 0, 5, 1))
    real = os.write
    with monkeypatch.context() as patch:
        pieces = iter([7])

        def short(fd: int, data: memoryview) -> int:
            taken = next(pieces, 0)
            return real(fd, data[:taken]) if taken else fail_with_enospc()

        patch.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space"):
            entry.add(("w", 50, 60, 2))
    (entry_id,) = directory.ids()
    found, _ = directory.read(entry_id)
    assert (found.written, found.torn) == (15, False)
    entry.add(("w", 70, 80, 3))
    found, _ = directory.read(entry_id)
    assert (found.written, found.torn) == (25, False)
    entry.remove()


def test_an_entry_that_cannot_be_made_is_not_there(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_with_enospc)
        with pytest.raises(OSError, match="No space"):
            directory.create(known())
    assert names(directory) == ["bucket.json"]


def test_a_journal_of_many_records_is_worth_a_new_one(
    directory: StageDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stagedir, "_ADDED_MAX", 10_000)
    entry = directory.create(known())
    size = len(Log().snapshot(known()))
    for _ in range(10_000 // len(Log().lines(("w", 0, 5, 1))) + 1):
        entry.add(("w", 0, 5, 1))
    worth = entry.worth_a_snapshot
    assert worth
    (entry_id,) = directory.ids()
    assert (directory.path / f"{entry_id}.map").stat().st_size > 10_000
    entry.snapshot(known())
    worth = entry.worth_a_snapshot
    assert not worth
    assert (directory.path / f"{entry_id}.map").stat().st_size == size
    entry.remove()
