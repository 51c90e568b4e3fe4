"""HTTPS to a real server: verified, or refused with the reason."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import Mount, MountFailedError
from support.s3 import Bucket, Store
from support.servers import Servers
from support.tls import make_certificate

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

PART = 5 << 20


@pytest.fixture
def bucket(servers: Servers, rgw: Store) -> Iterator[Bucket]:
    """A bucket behind TLS."""
    del rgw
    with Bucket(servers.rgw.tls) as made:
        yield made


def test_verified_with_a_bundle(bucket: Bucket) -> None:
    content = os.urandom(3 * PART + 1)
    with Mount(bucket, "part_size=5M") as mnt:
        assert "https://" in mnt.options
        (mnt / "d").mkdir()
        (mnt / "d/small").write_bytes(content[:1000])
        (mnt / "large").write_bytes(content)
        assert mnt.names() == ["d", "large"]
    with Mount(bucket) as fresh:
        assert (fresh / "d/small").read_bytes() == content[:1000]
        assert (fresh / "large").read_bytes() == content
    assert bucket.get("large") == content


def test_bundle_of_the_environment(bucket: Bucket) -> None:
    ca_bundle = {"AWS_CA_BUNDLE": str(bucket.store.ca_bundle)}
    store = bucket.store.at(bucket.store.endpoint)
    with Mount(bucket, store=store, environment=store.environment | ca_bundle) as mnt:
        (mnt / "x").write_bytes(b"1")


def _refused(bucket: Bucket, store: Store, *options: str) -> str:
    with (
        pytest.raises(MountFailedError) as refused,
        Mount(bucket, *options, store=store, allowed=["refused", "retry"]),
    ):
        pass
    assert refused.value.status == 32
    return refused.value.text


def test_refused_without_a_bundle(bucket: Bucket) -> None:
    text = _refused(bucket, bucket.store.at(bucket.store.endpoint))
    assert "certificate not trusted" in text or "no CA certificates" in text


def test_refused_with_another_authority(bucket: Bucket, tmp_path: Path) -> None:
    other = make_certificate(tmp_path).certificate
    text = _refused(bucket, bucket.store.at(bucket.store.endpoint, other))
    assert "certificate not trusted" in text


def test_refused_under_another_name(bucket: Bucket) -> None:
    # The address is this machine's, too, but not in the certificate.
    endpoint = bucket.store.endpoint.replace("localhost", "127.0.0.2")
    text = _refused(bucket, bucket.store.at(endpoint, bucket.store.ca_bundle))
    assert "does not answer" in text


def test_refused_with_a_bundle_that_is_none(bucket: Bucket, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    text = _refused(bucket, bucket.store.at(bucket.store.endpoint, empty))
    assert "ca_bundle= has no usable PEM certificate" in text


def test_unverified_when_that_was_asked_for(bucket: Bucket) -> None:
    store = bucket.store.at(bucket.store.endpoint)
    with Mount(bucket, "tls_verify=no", store=store) as mnt:
        (mnt / "x").write_bytes(b"1")
        assert bucket.get("x") == b"1"


def test_plain_request_to_a_tls_port(bucket: Bucket) -> None:
    endpoint = bucket.store.endpoint.replace("https://", "http://")
    assert "does not answer" in _refused(bucket, bucket.store.at(endpoint))
