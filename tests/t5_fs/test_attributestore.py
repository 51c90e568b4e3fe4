"""What HEAD said, on disk: right or not there, whatever happens to the file."""

import asyncio
import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_s3_worker.cache import attributestore
from fuse_s3_worker.cache.attributestore import AttributeStore
from fuse_s3_worker.store.types import ObjectInfo
from support.posixtree import PosixTree, kept, posix_tree

BUCKET = "http://127.0.0.1:9000/bucket"
HEADERS = {"x-amz-meta-mode": "33188", "x-amz-meta-ü": "\xff", "content-type": "text/plain"}


def info(key: str, etag: str = '"e"', mtime: int = 5) -> ObjectInfo:
    return ObjectInfo(key, 1, mtime, etag)


def run(
    directory: Path,
    work: Callable[[AttributeStore], Coroutine[Any, Any, None]],
    *,
    limit: int = 1000,
    bucket: str = BUCKET,
) -> None:
    """Do something with a store, from opening it to closing it."""

    async def main() -> None:
        store = AttributeStore(directory, bucket, limit=limit)
        await work(store)
        await store.close()

    asyncio.run(main())


def put(
    directory: Path, contents: Mapping[ObjectInfo, Mapping[str, str]], *, limit: int = 1000
) -> None:
    async def work(store: AttributeStore) -> None:
        for version, headers in contents.items():
            store.put(version, headers)

    run(directory, work, limit=limit)


def get(
    directory: Path, *versions: ObjectInfo, bucket: str = BUCKET
) -> list[Mapping[str, str] | None]:
    found: list[Mapping[str, str] | None] = []

    async def work(store: AttributeStore) -> None:
        found.extend(await store.get(versions))

    run(directory, work, bucket=bucket)
    return found


def file_in(directory: Path) -> Path:
    (path,) = directory.glob("attributes-*.sqlite")
    return path


# -- what is kept ----------------------------------------------------------------------------------


def test_what_is_put_is_there_the_next_time(tmp_path: Path) -> None:
    put(tmp_path, {info("a"): HEADERS, info("ü/\ud800"): {}})
    assert get(tmp_path, info("a"), info("b"), info("ü/\ud800")) == [HEADERS, None, {}]


def test_another_version_is_not_there(tmp_path: Path) -> None:
    put(tmp_path, {info("a"): HEADERS})
    assert get(tmp_path, info("a", '"other"'), info("a", mtime=6)) == [None, None]
    put(tmp_path, {info("a", '"new"'): {}})
    assert get(tmp_path, info("a"), info("a", '"new"')) == [None, {}]


def test_what_is_not_written_yet_is_there_too(tmp_path: Path) -> None:
    async def work(store: AttributeStore) -> None:
        store.put(info("a"), HEADERS)
        assert await store.get([info("a"), info("a", '"other"')]) == [HEADERS, None]

    run(tmp_path, work)


def test_buckets_have_files_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, {info("a"): HEADERS})
    assert get(tmp_path, info("a"), bucket="another") == [None]
    assert len(list(tmp_path.iterdir())) == 2


def test_much_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributestore, "_BATCH_MAX", 10)

    async def work(store: AttributeStore) -> None:
        for number in range(25):
            store.put(info(str(number)), {})
        assert len(store._batch) == 5
        await asyncio.gather(*store._writes)
        store._batch.clear()
        found = await store.get([info(str(number)) for number in range(25)])
        assert [headers is not None for headers in found] == [True] * 20 + [False] * 5

    run(tmp_path, work)


def test_it_is_written_without_being_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a worker that is killed."""
    monkeypatch.setattr(attributestore, "_WRITE_AFTER", 0.0)

    async def work(store: AttributeStore) -> None:
        store.put(info("a"), HEADERS)
        await asyncio.sleep(0.001)  # the timer's turn, however long that takes
        assert store._batch == {}
        await asyncio.gather(*store._writes)
        assert get_in_a_thread(tmp_path, info("a")) == [HEADERS]

    run(tmp_path, work)


def get_in_a_thread(directory: Path, version: ObjectInfo) -> list[Mapping[str, str] | None]:
    found: list[list[Mapping[str, str] | None]] = []
    thread = threading.Thread(target=lambda: found.append(get(directory, version)))
    thread.start()
    thread.join()
    return found[0]


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    for start in range(0, 500, 50):
        put(
            tmp_path,
            {info(f"k{n}", mtime=n): HEADERS for n in range(start, start + 50)},
            limit=100,
        )
    found = get(tmp_path, *(info(f"k{n}", mtime=n) for n in range(500)))
    there = [n for n, headers in enumerate(found) if headers is not None]
    # What was changed last is what is looked at next.
    assert 50 <= len(there) <= 100
    assert min(there) >= 400


def test_the_same_objects_again_do_not_make_it_grow(tmp_path: Path) -> None:
    for _ in range(10):
        put(tmp_path, {info(f"k{n}"): HEADERS for n in range(50)}, limit=60)
    assert None not in get(tmp_path, *(info(f"k{n}") for n in range(50)))


# -- damage ----------------------------------------------------------------------------------------

SOME = {info(f"k{n:03}"): {**HEADERS, "n": str(n)} for n in range(200)}


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def overwritten(raw: bytes) -> bytes:
    return b"\0" * len(raw)


def another_program(_: bytes) -> bytes:
    return b"not a database at all\n" * 1000


def flipped(raw: bytes) -> bytes:
    damaged = bytearray(raw)
    for at in range(200, len(damaged), 997):
        damaged[at] ^= 0x55
    return bytes(damaged)


@pytest.mark.parametrize("damage", [cut, overwritten, another_program, flipped])
def test_a_damaged_file_is_dropped(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, SOME)
    path = file_in(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert set(map(str, get(tmp_path, *SOME))) <= {"None", *map(str, SOME.values())}
    assert "attributes_dropped" in caplog.text
    # And begun anew.
    put(tmp_path, {info("new"): HEADERS})
    assert get(tmp_path, info("new")) == [HEADERS]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_nothing_wrong_is_ever_told(tmp_path: Path, seed: int) -> None:
    """A few bytes anywhere: what is told is what was written, or nothing."""
    for path in tmp_path.iterdir():
        path.unlink()
    put(tmp_path, SOME)
    path, chance = file_in(tmp_path), random.Random(seed)
    damaged = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 20)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    path.write_bytes(damaged)
    for found, wanted in zip(get(tmp_path, *SOME), SOME.values(), strict=True):
        assert found in (None, wanted)


def test_a_file_of_another_version_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, SOME)
    with sqlite3.connect(file_in(tmp_path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with caplog.at_level(logging.WARNING):
        assert get(tmp_path, info("k000")) == [None]
    assert "a file of version 99" in caplog.text
    put(tmp_path, SOME)
    assert get(tmp_path, info("k000")) == [SOME[info("k000")]]


def test_a_directory_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(store: AttributeStore) -> None:
        for _ in range(20):
            assert await store.get([info("a")]) == [None]
            store.put(info("a"), HEADERS)
            store._write_now()

    with caplog.at_level(logging.INFO):
        run(tmp_path / "none", work)
    lines = [r.levelno for r in caplog.records if "attributes_not_kept" in r.getMessage()]
    assert lines == [logging.INFO] * 4 + [logging.WARNING]  # and then nothing is tried any more


def test_a_file_that_another_mount_holds_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attributestore, "_BUSY", 0.0)
    put(tmp_path, SOME)
    other = sqlite3.connect(file_in(tmp_path), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.INFO):
        assert get(tmp_path, info("k000")) == [None]
        put(tmp_path, {info("new"): {}})
    other.execute("ROLLBACK")
    other.close()
    assert "attributes_not_kept" in caplog.text
    assert "attributes_dropped" not in caplog.text
    assert get(tmp_path, info("k000"), info("new")) == [SOME[info("k000")], None]


def test_two_mounts_share_a_file(tmp_path: Path) -> None:
    async def work(first: AttributeStore) -> None:
        second = AttributeStore(tmp_path, BUCKET)
        for number in range(20):
            writer, reader = (first, second) if number % 2 else (second, first)
            version = info(str(number))
            writer.put(version, {"n": str(number)})
            writer._write_now()
            await asyncio.gather(*writer._writes)
            assert await reader.get([version]) == [{"n": str(number)}]
        await second.close()

    run(tmp_path, work)


# -- what it is for --------------------------------------------------------------------------------


def test_a_second_look_after_a_remount_costs_a_listing(tmp_path: Path) -> None:
    """And nothing for any of the files."""

    async def look(*, lifetime: float = 60.0) -> dict[str, int]:
        results = AttributeStore(tmp_path, BUCKET)
        async with posix_tree(results=results, lifetime=lifetime) as t:
            await fill(t)
            t.store.requests.clear()
            for name in await t.list("d"):
                assert (await t.stat(f"d/{name}")).uid == int(name)
            return {
                operation: sum(name == operation for name, _ in t.store.requests)
                for operation in ("HeadObject", "ListObjectsV2")
            }

    async def fill(t: PosixTree) -> None:
        t.store._clock = lambda: 1_700_000_000.0
        for number in range(300):
            t.store.write(f"d/{number:03}", b"", headers=kept(uid=number))
        t.store._clock = lambda: 1_700_000_100.0

    first = asyncio.run(look())
    assert first["HeadObject"] == 301  # and the directory's own name
    assert asyncio.run(look()) == {"HeadObject": 1, "ListObjectsV2": first["ListObjectsV2"]}
