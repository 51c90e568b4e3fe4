"""How objects are stored: class, encryption, access list, content type; and those in archives."""

import base64
import errno
import os
import stat
from pathlib import Path

import pytest

from fuse_s3_helper.worker import identity
from support.mounts import Mount
from support.rgw import RgwUnavailableError
from support.s3 import Bucket, Store
from support.servers import Servers
from support.users import NOBODY, run_as

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

MIB = 1 << 20
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


def work(mnt: Mount) -> dict[str, bytes]:
    """Store objects in every way there is; return what is in the files by then."""
    (mnt / "dir").mkdir()
    (mnt / "page.html").write_bytes(b"<p>")
    (mnt / "large.bin").write_bytes(b"x" * (11 * MIB))
    for name, at in (("old", 3), ("large.bin", 5 * MIB)):
        with (mnt / name).open("r+b") as file:
            file.seek(at)
            file.write(b"changed")
    with (mnt / "appended").open("ab") as file:
        file.write(b"more")
    (mnt / "page.html").chmod(0o640)
    (mnt / "moved").rename(mnt / "dir/moved")
    (mnt / "tree").rename(mnt / "wood")
    (mnt / "link").symlink_to("page.html")
    large = bytearray(b"x" * (11 * MIB))
    large[5 * MIB : 5 * MIB + 7] = b"changed"
    return {
        "page.html": b"<p>",
        "large.bin": bytes(large),
        "old": b"oldchanged",
        "appended": b"appendedmore",
        "dir/moved": b"moved",
        "wood/file": b"tree/file",
    }


BEFORE = ("old", "appended", "moved", "tree/file")


@pytest.fixture
def cache(public: Path) -> str:
    account = identity(None)
    os.chown(public, account.pw_uid, account.pw_gid)
    return f"cache={public}"


def test_everything_that_is_stored_is_stored_as_options_say(servers: Servers, cache: str) -> None:
    """Whatever request makes it: PUT, parts, copies onto itself, copies to another name."""
    options = ("storage_class=STANDARD_IA", "sse=aws:kms", "acl=public-read", "part_size=5M")
    with Bucket(servers.moto.store) as bucket:
        for key in BEFORE:
            bucket.put(key, key.encode(), StorageClass="STANDARD_IA")
        with Mount(bucket, "posix", "metadata_ttl=60", cache, *options) as mnt:
            expected = work(mnt)
            (mnt / "large.bin").chmod(0o640)
        assert bucket.uploads() == []
        for key in (*expected, "dir/", "link"):
            head = bucket.head(key)
            assert (head["StorageClass"], head["ServerSideEncryption"]) == (
                "STANDARD_IA",
                "aws:kms",
            ), key
            grants = bucket.client.get_object_acl(Bucket=bucket.name, Key=key)["Grants"]
            assert any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants), key
        for key, content in expected.items():
            assert bucket.get(key) == content
        types = {key: bucket.head(key)["ContentType"] for key in ("page.html", "dir/", "link")}
        assert types == {
            "page.html": "text/html",
            "dir/": "application/x-directory",
            "link": "application/octet-stream",
        }


@pytest.fixture
def secure(servers: Servers) -> Store:
    """The server that encrypts with customers' keys, over HTTPS, as it must be."""
    try:
        return servers.rgw.tls
    except RgwUnavailableError as error:
        pytest.skip(str(error))


def test_keys_of_ones_own(secure: Store, cache: str, tmp_path: Path) -> None:
    """Their file is read by the helper; who has no key has no file."""
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text("\n".join(KEYS))
    with Bucket(secure) as bucket:
        older = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(KEYS[1])}
        for key in BEFORE:
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=key.encode(), **older)
        mine = (f"sse_c_key_file={keys}", "part_size=5M")
        with Mount(bucket, "posix", "metadata_ttl=60", cache, *mine) as mnt:
            expected = work(mnt)
        with Mount(bucket, "posix", *mine) as again:
            for name, content in expected.items():
                assert (again / name).read_bytes() == content, name
            assert (again / "link").readlink() == Path("page.html")
            assert stat.S_IMODE((again / "page.html").stat().st_mode) == 0o640
        newer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(KEYS[0])}
        for name in ("page.html", "large.bin", "link"):
            bucket.client.head_object(Bucket=bucket.name, Key=name, **newer)
        with (
            Mount(bucket, "metadata_ttl=60", allowed=["request_failed"]) as without,
            pytest.raises(OSError, match=r"page\.html"),
        ):
            (without / "page.html").read_bytes()


def test_an_archived_object(servers: Servers) -> None:
    """[S99] An object in an archive storage class shows without any permission until it is
    restored; the log says how to restore it.
    """
    with Bucket(servers.moto.store) as bucket:
        bucket.put("d/deep", b"content", StorageClass="DEEP_ARCHIVE")
        bucket.put("d/it's", b"content", StorageClass="GLACIER")
        for posix in ("posix", "posix=no"):
            with Mount(bucket, posix, "metadata_ttl=0", allowed=["archived"]) as mnt:
                for name in ("deep", "it's"):
                    assert stat.S_IMODE((mnt / "d" / name).stat().st_mode) == 0
                    with pytest.raises(OSError, match=r".") as caught:
                        (mnt / "d" / name).read_bytes()
                    assert caught.value.errno == errno.EACCES
                assert run_as(NOBODY, "cat", mnt / "d/deep").returncode == 1
                (line,) = mnt.log.lines("archived")
                assert "aws s3api restore-object" in line.text
                assert "--restore-request Days=7" in line.text
        bucket.client.restore_object(Bucket=bucket.name, Key="d/it's", RestoreRequest={"Days": 1})
        with Mount(bucket, "posix", "metadata_ttl=0", allowed=["archived"]) as mnt:
            assert (mnt / "d/it's").read_bytes() == b"content"
