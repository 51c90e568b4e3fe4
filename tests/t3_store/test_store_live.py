"""Every operation against real servers, seen from the other side through boto3."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.http.connection import Buffer
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.credentials import Fixed
from fuse_s3_worker.store.sigv4 import Credentials
from fuse_s3_worker.store.types import Body, ObjectInfo, PartResult
from fuse_s3_worker.transfer import copying
from fuse_s3_worker.transfer.blocks import Pool
from fuse_s3_worker.transfer.copying import Copier
from support.rgw import RgwUnavailableError
from support.s3 import Bucket, Store
from support.segments import Memory
from support.servers import Servers
from support.storekit import caller_of, make_store, run

MIB = 1 << 20
CLOCKS_MAY_DIFFER = 2_000_000_000  # Date and Last-Modified, cut to seconds at different moments

ODD_KEYS = [
    "plain",
    "with space",
    " leading and trailing ",
    "plus+plus",
    "per%20cent%",
    "%",
    "ünï/cödé/漢字/😀",
    "e\u0301 is not \u00e9",
    "a//b",
    "//",
    "/leading",
    "trailing/",
    "./a",
    "a/../b",
    "..",
    "tab\tinside",
    "?query=1#fragment&amp;",
    "=;:@,",
    "'single' \"double\" \\back\\",
    "<tag>&entity;</tag>",
    "()[]{}|^`~!$*",
    "~-_.safe",
    "\x7f",
    "k" * 1024,
    "ü" * 512,
    "/".join("deep" for _ in range(200)),
]
NEWLINES = ["line\nfeed", "carriage\rreturn", "\r\n"]


def ours(bucket: Bucket, options: str = "") -> S3Store:
    """Return our store for a bucket that a test made."""
    keys = bucket.store.keys
    who = Fixed(Credentials(keys.access, keys.secret))
    return make_store(bucket.store.endpoint, options, provider=who, bucket=bucket.name)


def body(*pieces: Buffer) -> Body:
    return Body(pieces, sum(map(len, pieces)))


async def read(store: S3Store, info: ObjectInfo, start: int = 0, end: int | None = None) -> bytes:
    end = info.size if end is None else end
    sink = Memory(end - start)
    await store.get_range(info.key, info.etag, start, end, sink)
    return sink.received


async def fault_of(call: Coroutine[Any, Any, object]) -> Fault:
    with pytest.raises(StoreError) as caught:
        await call
    return caught.value.fault


def odd_keys(store: Store) -> list[str]:
    return ODD_KEYS + ([] if "no-newline" in store.quirks else NEWLINES)


# -- one object ------------------------------------------------------------------------------------


def test_odd_keys_through_every_operation(bucket: Bucket) -> None:
    """One operation after the other for each key; boto3 sees the same names and contents."""
    keys = odd_keys(bucket.store)

    async def main() -> None:
        store = ours(bucket)

        async def one(key: str) -> None:
            content = f"content of {key}".encode()
            stored = await store.put(key, body(content))
            found = await store.head(key)
            assert found.key == key
            assert (found.size, found.etag) == (len(content), stored.etag)
            assert abs(found.mtime - stored.mtime) <= CLOCKS_MAY_DIFFER
            assert await read(store, found, 3, 9) == content[3:9]

        for key in keys:
            await one(key)
        assert sorted(bucket.keys()) == sorted(keys)
        for key in keys:
            assert bucket.get(key) == f"content of {key}".encode()
        page = await store.list_page("")
        assert sorted(found.key for found in page.objects) == sorted(keys)
        for found in page.objects:
            assert found == await store.head(found.key), "two ways to ask, one answer"
        for key in keys:
            await store.delete(key)
            assert await fault_of(store.head(key)) is Fault.NOT_FOUND
        assert bucket.keys() == []

    run(main())


def test_put_returns_what_head_will_say(bucket: Bucket) -> None:
    async def main() -> None:
        store = ours(bucket)
        for content in ((), (b"",), (b"abc",), (b"a", b"", bytearray(b"bc"), memoryview(b"dd"))):
            stored = await store.put("k", body(*content), content_type="text/x-test")
            found = await store.head("k")
            assert found == stored._replace(mtime=found.mtime)
            assert abs(found.mtime - stored.mtime) <= CLOCKS_MAY_DIFFER
            assert bucket.get("k") == b"".join(content)
            assert bucket.head("k")["ContentType"] == "text/x-test"

    run(main())


@pytest.mark.parametrize("algorithm", ["off", "crc32c", "crc64nvme"])
def test_checksums_are_accepted_or_done_without(bucket: Bucket, algorithm: str) -> None:
    async def main() -> None:
        store = ours(bucket, f"upload_checksum={algorithm}")
        await store.put("k", body(b"abc", b"def"))
        assert bucket.get("k") == b"abcdef"

    run(main())


def test_missing_objects_and_buckets(bucket: Bucket) -> None:
    async def main() -> None:
        store = ours(bucket)
        assert await fault_of(store.head("none")) is Fault.NOT_FOUND
        assert await fault_of(read(store, ObjectInfo("none", 5, 0, '"e"'))) in {
            Fault.NOT_FOUND,
            Fault.CHANGED,
        }
        await store.delete("none")
        keys = bucket.store.keys
        who = Fixed(Credentials(keys.access, keys.secret))
        other = make_store(bucket.store.endpoint, provider=who, bucket=f"no-{bucket.name}")
        assert await fault_of(other.list_page("")) is Fault.NO_SUCH_BUCKET
        assert await fault_of(other.put("k", body(b"x"))) is Fault.NO_SUCH_BUCKET

    run(main())


def test_a_replaced_object_is_not_read_with_the_old_version(bucket: Bucket) -> None:
    async def main() -> None:
        store = ours(bucket)
        old = await store.put("k", body(b"old content"))
        await store.put("k", body(b"new content"))
        assert await fault_of(read(store, old)) is Fault.CHANGED
        assert await read(store, await store.head("k")) == b"new content"

    run(main())


def test_ranges(bucket: Bucket) -> None:
    content = random.Random(1).randbytes(MIB + 17)

    async def main() -> None:
        store = ours(bucket)
        info = await store.put("k", body(content))
        last = len(content) - 1
        places = [(0, 1), (0, last + 1), (MIB, MIB + 17), (65_535, 65_537), (last, last + 1)]
        for start, end in places:
            assert await read(store, info, start, end) == content[start:end]
        beyond = read(store, info, last + 5, last + 10)
        assert await fault_of(beyond) is Fault.CHANGED

    run(main())


# -- listing ---------------------------------------------------------------------------------------


def test_listing_in_pages(bucket: Bucket) -> None:
    keys = sorted([f"d/{number:03} +ü" for number in range(25)] + [f"e{n}/x" for n in range(4)])
    bucket.put_many((key, key.encode()) for key in keys)

    async def everything(**options: str) -> tuple[list[str], list[str]]:
        store, found, prefixes = ours(bucket), list[str](), list[str]()
        token, pages = None, 0
        while pages == 0 or token is not None:
            page = await store.list_page(options.get("prefix", ""), token=token, max_keys=7,
                                         delimiter=options.get("delimiter", ""))  # fmt: skip
            found += [info.key for info in page.objects]
            prefixes += page.prefixes
            assert len(page.objects) + len(page.prefixes) <= 7
            token, pages = page.token, pages + 1
        return found, prefixes

    async def main() -> None:
        assert await everything() == (keys, [])
        assert await everything(prefix="d/00") == ([k for k in keys if k.startswith("d/00")], [])
        assert await everything(delimiter="/") == ([], ["d/", "e0/", "e1/", "e2/", "e3/"])
        assert await everything(prefix="d/", delimiter="/") == (keys[:25], [])
        assert await everything(prefix="nothing/") == ([], [])

    run(main())


def test_a_listing_tells_size_time_and_etag(bucket: Bucket) -> None:
    etag = bucket.put("k", b"12345")

    async def main() -> None:
        (found,) = (await ours(bucket).list_page("k")).objects
        assert (found.size, found.etag) == (5, etag)
        assert found.mtime == int(bucket.head("k")["LastModified"].timestamp()) * 1_000_000_000

    run(main())


# -- multipart -------------------------------------------------------------------------------------


def test_a_multipart_upload(bucket: Bucket) -> None:
    dice = random.Random(2)
    pieces = [dice.randbytes(5 * MIB), dice.randbytes(5 * MIB + 1), b"tail"]
    key = "multi part/ü+"

    async def main() -> None:
        store = ours(bucket)
        upload = await store.create_multipart(key, content_type="text/x-test")
        assert bucket.uploads() == [key]
        # In parallel and out of order, as they are sent while a program writes.
        parts = await asyncio.gather(
            *(
                store.upload_part(upload, number, body(piece[:1000], memoryview(piece)[1000:]))
                for number, piece in reversed(list(enumerate(pieces, 1)))
            )
        )
        assert not bucket.has(key), "nothing shows before it is complete"
        stored = await store.complete_multipart(upload, sorted(parts))
        assert bucket.get(key) == b"".join(pieces)
        assert bucket.head(key)["ContentType"] == "text/x-test"
        found = await store.head(key)
        assert found == stored._replace(mtime=found.mtime)
        assert abs(found.mtime - stored.mtime) <= CLOCKS_MAY_DIFFER
        assert bucket.uploads() == []

    run(main())


def test_parts_copied_from_an_object(bucket: Bucket) -> None:
    content = random.Random(3).randbytes(6 * MIB)
    # RGW 16.2 decodes the name of the source twice: of a percent sign it dies.
    source_key = "source +/ü" if bucket.store.name == "rgw" else "source +%/ü"

    async def main() -> None:
        store = ours(bucket)
        source = await store.put(source_key, body(content))
        upload = await store.create_multipart("target")
        parts: list[PartResult] = [
            await store.copy_part(upload, 1, source, 100, 100 + 5 * MIB),
            await store.upload_part(upload, 2, body(b"between" * MIB)),
            await store.copy_part(upload, 3, source, 0, 7),
        ]
        stored = await store.complete_multipart(upload, parts)
        expected = content[100 : 100 + 5 * MIB] + b"between" * MIB + content[:7]
        assert stored.size == len(expected)
        assert bucket.get("target") == expected

    run(main())


def test_an_upload_that_is_given_up_leaves_nothing(bucket: Bucket) -> None:
    async def main() -> None:
        store = ours(bucket)
        upload = await store.create_multipart("k")
        await store.upload_part(upload, 1, body(b"x"))
        await store.abort_multipart(upload)
        await store.abort_multipart(upload)
        assert bucket.uploads() == []
        assert not bucket.has("k")
        late = await fault_of(store.complete_multipart(upload, [PartResult(1, 1, '"e"', "")]))
        assert late in {Fault.NO_SUCH_UPLOAD, Fault.UNAVAILABLE, Fault.BAD_REQUEST}

    run(main())


def test_completing_twice_finds_the_object(bucket: Bucket) -> None:
    """What happens when the first reply is lost, on a server that really forgets the upload."""

    async def main() -> None:
        store = ours(bucket)
        upload = await store.create_multipart("k")
        part = await store.upload_part(upload, 1, body(b"content"))
        first = await store.complete_multipart(upload, [part])
        second = await store.complete_multipart(upload, [part])
        assert (first.etag, first.size) == (second.etag, second.size)

    run(main())


# -- who may ---------------------------------------------------------------------------------------


def checking_stores(servers: Servers) -> list[Store]:
    """Return the servers that verify signatures."""
    stores = [servers.moto_with_users.store]
    try:
        stores.append(servers.rgw.store)
    except RgwUnavailableError as error:
        pytest.skip(str(error))
    return stores


@pytest.mark.parametrize("number", [0, 1], ids=["moto", "rgw"])
def test_wrong_keys_are_forbidden(servers: Servers, number: int) -> None:
    store = checking_stores(servers)[number]
    right = Credentials(store.keys.access, store.keys.secret)
    wrong = [right._replace(secret_key="wrong-secret"), right._replace(access_key="UNKNOWNKEY")]

    async def main(bucket: Bucket) -> None:
        await make_store(store.endpoint, provider=Fixed(right), bucket=bucket.name).list_page("")
        for key in wrong:
            refused = make_store(store.endpoint, provider=Fixed(key), bucket=bucket.name)
            assert await fault_of(refused.list_page("")) is Fault.FORBIDDEN
            assert await fault_of(refused.put("k", body(b"x"))) is Fault.FORBIDDEN
        assert bucket.keys() == []

    with Bucket(store) as bucket:
        run(main(bucket))


def test_a_body_that_is_not_what_was_signed_is_refused(servers: Servers) -> None:
    """Ceph hashes what arrives: that it accepts ours means that it is right."""
    (_, store) = checking_stores(servers)

    class Lying(list[bytes]):
        """Other bytes the second time: when they are sent instead of hashed."""

        times = 0

        def __iter__(self) -> Iterator[bytes]:
            self.times += 1
            return iter([b"hashed"] if self.times == 1 else [b"sent__"])

    async def main(bucket: Bucket) -> None:
        store = ours(bucket, "upload_checksum=off")
        with pytest.raises(StoreError) as caught:
            await store.put("k", Body(Lying(), 6))
        assert caught.value.fault is Fault.BAD_DIGEST
        assert not bucket.has("k")

    with Bucket(store) as bucket:
        run(main(bucket))


# -- moving ---------------------------------------------------------------------------------------


def test_odd_keys_are_copied_and_deleted(bucket: Bucket) -> None:
    keys = odd_keys(bucket.store)

    async def main() -> None:
        store = ours(bucket)
        sources = [await store.put(key, body(str(n).encode())) for n, key in enumerate(keys)]
        for number, source in enumerate(sources):
            made = await store.duplicate(source, f"copy-{number}")
            assert made.etag == source.etag
            back = await store.duplicate(made, source.key)
            assert (back.key, back.etag) == (source.key, source.etag)
            assert bucket.get(f"copy-{number}") == str(number).encode()
        assert await store.delete_many(sources) == {}
        assert sorted(bucket.keys()) == sorted(f"copy-{n}" for n in range(len(keys)))

    run(main())


def test_more_keys_than_one_request_takes_are_deleted(bucket: Bucket) -> None:
    keys = [f"k{number:04}" for number in range(1003)]
    bucket.put_many((key, b"") for key in keys)

    async def main() -> None:
        store = ours(bucket)
        infos = (await store.list_page("")).objects + (await store.list_page("k1")).objects
        assert await store.delete_many(infos[:1003]) == {}
        assert bucket.keys() == keys[1003:]

    run(main())


@pytest.mark.parametrize("copying", [True, False])
def test_what_belongs_to_an_object_goes_with_it(bucket: Bucket, *, copying: bool) -> None:
    """By the store's own copy, and through the worker where there is none."""
    metadata = {"mode": "33188", "name": "quoted=?UTF-8?"}
    fields: dict[str, Any] = {
        "Metadata": metadata,
        "ContentType": "text/x-a",
        "CacheControl": "no-store",
        "ContentDisposition": "inline",
        "ContentLanguage": "de",
        "Tagging": "a=b%20c&d=",
    }
    content = random.Random(5).randbytes(6 * MIB)
    bucket.put("d/100% a+b", content, **fields)

    async def main() -> None:
        store = ours(bucket)
        store._copies = copying
        copier = Copier(store, Pool(64 * MIB), connections=4, part_size=5 * MIB)
        source = await store.head("d/100% a+b")
        await copier.copy_checked(source, "b")

    run(main())
    assert bucket.get("b") == content
    head = bucket.head("b")
    assert {name: head[name] for name in fields if name != "Tagging"} == {
        name: value for name, value in fields.items() if name != "Tagging"
    }
    if not copying and "no-tags-on-parts" in bucket.store.quirks:
        return
    tags = bucket.client.get_object_tagging(Bucket=bucket.name, Key="b")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"a": "b c", "d": ""}


def test_metadata_of_any_bytes_goes_through_the_worker(rgw: Store) -> None:
    """Ceph keeps what no header may be, and gives it back."""
    with Bucket(rgw) as bucket:
        value = "ü €".encode().decode("latin-1")

        async def main() -> None:
            store = ours(bucket)
            await store.put("a", body(b"1"), headers={"x-amz-meta-a": value})
            store._copies = False
            copier = Copier(store, Pool(64 * MIB), connections=4, part_size=5 * MIB)
            await copier.copy_checked(await store.head("a"), "b")
            assert (await store.headers_to_copy("b")).headers["x-amz-meta-a"] == value

        run(main())


def test_large_objects_are_copied_in_parts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PART_LEAST", 5 * MIB)
    content = random.Random(6).randbytes(11 * MIB)
    bucket.put("a +ü", content, Metadata={"k": "v"})  # type: ignore[arg-type]

    async def main() -> None:
        store = ours(bucket)
        store._moves.copy_max = 10 * MIB
        copier = Copier(store, Pool(64 * MIB), connections=4, part_size=5 * MIB)
        made = await copier.copy_checked(await store.head("a +ü"), "b")
        assert made.etag.endswith('-3"')
        assert caller_of(store).requests["UploadPartCopy"] == 3

    run(main())
    assert bucket.get("b") == content
    assert bucket.head("b")["Metadata"] == {"k": "v"}
    assert bucket.uploads() == []
