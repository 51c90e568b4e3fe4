"""Metadata and encryption on real servers, seen from the other side through boto3."""

import base64
from collections.abc import Coroutine
from typing import Any

import pytest

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.posix.headers import METADATA_MAX
from fuse_s3_worker.store import rewriting
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.credentials import Fixed
from fuse_s3_worker.store.encryption import Encryption, read_key_file
from fuse_s3_worker.store.sigv4 import Credentials
from fuse_s3_worker.store.types import Body, ObjectInfo
from support.rgw import RgwUnavailableError
from support.s3 import Bucket, Store
from support.segments import Memory
from support.servers import Servers
from support.storekit import make_store, run

META = {"x-amz-meta-mode": "33188", "x-amz-meta-mtime": "981173106.789000000"}
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


def ours(bucket: Bucket, options: str = "") -> S3Store:
    """Return our store for a bucket that a test made."""
    keys, store = bucket.store.keys, bucket.store
    who = Fixed(Credentials(keys.access, keys.secret))
    trusted = store.ca_bundle.read_text() if store.ca_bundle else None
    return make_store(store.endpoint, options, provider=who, bucket=bucket.name, ca_bundle=trusted)


def body(content: bytes) -> Body:
    return Body((content,), len(content))


async def fault_of(call: Coroutine[Any, Any, object]) -> Fault:
    with pytest.raises(StoreError) as caught:
        await call
    return caught.value.fault


async def read(store: S3Store, info: ObjectInfo) -> bytes:
    sink = Memory(info.size)
    await store.get_range(info.key, info.etag, 0, info.size, sink)
    return sink.received


# -- metadata --------------------------------------------------------------------------------------


def test_metadata_goes_along_with_everything_that_is_stored(bucket: Bucket) -> None:
    async def main() -> None:
        store = ours(bucket)
        stored = await store.put("put", body(b"abc"), headers=META)
        upload = await store.create_multipart("parts", headers=META)
        part = await store.upload_part(upload, 1, body(b"abc"))
        await store.complete_multipart(upload, [part])
        await store.copy(stored, "copy", headers=META)

    run(main())
    for key in ("put", "parts", "copy"):
        found = bucket.head(key)["Metadata"]
        assert found == {name.removeprefix("x-amz-meta-"): value for name, value in META.items()}


def test_what_is_described_is_what_boto3_put_there(bucket: Bucket) -> None:
    bucket.client.put_object(
        Bucket=bucket.name, Key="k", Body=b"abc", Metadata={"Colour": "blue"},
        ContentType="text/x-test", CacheControl="no-cache", ContentDisposition="inline",
        ContentEncoding="x-none", ContentLanguage="en",
    )  # fmt: skip
    bucket.wait_until_old("k")

    async def main() -> None:
        head = await ours(bucket).describe("k", urgent=False)
        assert head.info == (await ours(bucket).list_page("")).objects[0]
        assert head.age >= 2.0
        expected = {
            "x-amz-meta-colour": "blue",
            "content-type": "text/x-test",
            "cache-control": "no-cache",
            "content-disposition": "inline",
            "content-encoding": "x-none",
            "content-language": "en",
            "x-amz-storage-class": "STANDARD",
        }
        assert head.headers.items() >= expected.items()

    run(main())


@pytest.mark.parametrize("key", ["k", "a b+c/ü", "/"])
def test_other_headers_and_the_same_bytes(bucket: Bucket, key: str) -> None:
    bucket.client.put_object(
        Bucket=bucket.name, Key=key, Body=b"abc", Metadata={"colour": "blue"},
        ContentType="text/x-test", CacheControl="no-cache",
    )  # fmt: skip

    async def main() -> None:
        store = ours(bucket)
        head = await store.describe(key)
        info = await store.set_headers(head.info, {**head.headers, **META})
        assert info == await store.head(key)
        assert await read(store, info) == b"abc"

    run(main())
    found = bucket.head(key)
    assert found["Metadata"] == {
        "colour": "blue", "mode": "33188", "mtime": "981173106.789000000",
    }  # fmt: skip
    assert (found["ContentType"], found["CacheControl"]) == ("text/x-test", "no-cache")


def test_headers_of_another_version_are_not_set(bucket: Bucket) -> None:
    bucket.put("k", b"abc")

    async def main() -> None:
        store = ours(bucket)
        info = await store.head("k")
        bucket.put("k", b"defg", ContentType="text/theirs")
        assert await fault_of(store.set_headers(info, META)) is Fault.CHANGED
        bucket.delete("k")
        assert await fault_of(store.set_headers(info, META)) is Fault.CHANGED
        bucket.put("k", b"abc", ContentType="text/again")
        await store.set_headers(await store.head("k"), META | {"content-type": "text/ours"})

    run(main())
    assert bucket.head("k")["ContentType"] == "text/ours"


def test_large_objects_are_put_together_from_their_own_parts(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_COPY_MAX", MIB)
    monkeypatch.setattr(rewriting, "_PART", 6 * MIB)
    content = bytes(range(256)) * (13 * MIB // 256)
    bucket.put("k", content, ContentType="text/x-test")
    bucket.client.put_object_tagging(
        Bucket=bucket.name, Key="k", Tagging={"TagSet": [{"Key": "a b", "Value": "c/d+e"}]}
    )

    async def main() -> None:
        store = ours(bucket)
        head = await store.describe("k")
        info = await store.set_headers(head.info, {**head.headers, **META})
        assert info == (await store.describe("k")).info._replace(mtime=info.mtime)

    run(main())
    assert bucket.get("k") == content
    assert bucket.head("k")["Metadata"]["mode"] == "33188"
    assert bucket.head("k")["ContentType"] == "text/x-test"
    assert bucket.uploads() == []
    tags = bucket.client.get_object_tagging(Bucket=bucket.name, Key="k")["TagSet"]
    assert tags == [{"Key": "a b", "Value": "c/d+e"}]


def test_metadata_that_is_too_large(bucket: Bucket) -> None:
    """As large as S3 takes it, it is taken; how much more a server takes is its own."""
    room = METADATA_MAX - len("x-amz-meta-x")

    async def main() -> None:
        await ours(bucket).put("k", body(b""), headers={"x-amz-meta-x": "v" * room})

    run(main())
    assert bucket.head("k")["Metadata"] == {"x": "v" * room}


# -- encryption ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", ["AES256", "aws:kms"])
def test_encryption_is_asked_for_and_verified(servers: Servers, sse: str) -> None:
    with Bucket(servers.moto.store) as bucket:

        async def main() -> None:
            store = ours(bucket, f"sse={sse}")
            info = await store.put("put", body(b"abc"))
            await store.copy(info, "copy")
            await store.set_headers(info, (await store.describe("put")).headers)
            upload = await store.create_multipart("parts")
            await store.complete_multipart(upload, [await store.upload_part(upload, 1, body(b"a"))])

        run(main())
        for key in ("put", "copy", "parts"):
            assert bucket.head(key)["ServerSideEncryption"] == sse


@pytest.fixture
def secure(servers: Servers) -> Store:
    """The server that encrypts with customers' keys, over HTTPS, as it must be."""
    try:
        return servers.rgw.tls
    except RgwUnavailableError as error:
        pytest.skip(str(error))


def test_keys_of_ones_own(secure: Store) -> None:
    """Every operation, with the key for new objects and with an older one."""
    with Bucket(secure) as bucket:

        async def main() -> None:
            newer, older = keyed(bucket, *KEYS), keyed(bucket, KEYS[1])
            plain = ours(bucket)
            await older.put("older", body(b"older"))
            await newer.put("newer", body(b"newer"))
            await plain.put("plain", body(b"plain"))
            for key in ("older", "newer", "plain"):
                assert await read(newer, await newer.head(key)) == key.encode()
            assert await fault_of(plain.head("newer")) is Fault.BAD_REQUEST
            # This server copies nothing that is encrypted so; it is sent again, with its own key.
            head = await newer.describe("older")
            info = await newer.set_headers(head.info, {**head.headers, **META})
            assert (await older.describe("older")).headers.items() >= META.items()
            assert await read(older, info) == await read(newer, info) == b"older"

        run(main())


def test_parts_with_keys_of_ones_own(secure: Store) -> None:
    with Bucket(secure) as bucket:

        async def main() -> None:
            store = keyed(bucket, KEYS[0])
            upload = await store.create_multipart("parts")
            parts = [await store.upload_part(upload, 1, body(b"x" * 5 * MIB))]
            parts.append(await store.upload_part(upload, 2, body(b"end")))
            await store.complete_multipart(upload, parts)
            found = await store.head("parts")
            assert await read(store, found) == b"x" * 5 * MIB + b"end"
            other = read(keyed(bucket, KEYS[1]), found)
            assert await fault_of(other) in {Fault.FORBIDDEN, Fault.BAD_REQUEST}

        run(main())


def keyed(bucket: Bucket, *keys: str) -> S3Store:
    """Return a store with customer's keys."""
    store = ours(bucket)
    encryption = Encryption(keys=read_key_file("\n".join(keys), "/keys"))
    store._encryption = store._rewriter._encryption = encryption
    return store
