"""Clocks, regions and keys that are not what the server expects are put right without a word."""

import json
import re
from datetime import timedelta

import pytest

from support import faults
from support.containers import CredentialService
from support.mounts import Mount, MountFailedError
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket, Keys
from support.servers import Servers

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

ALWAYS = 1 << 30
REGION = "eu-west-1"
PART = 5 << 20


def behind(
    proxy: Proxy, bucket: Bucket, *options: str, environment: dict[str, str] | None = None
) -> Mount:
    store = bucket.store.at(proxy.endpoint)
    return Mount(bucket, *options, store=store, environment=environment)


def works(mnt: Mount, bucket: Bucket, name: str) -> None:
    """Check that everything works: names, reading, writing in one part and in several."""
    bucket.put(f"theirs-{name}", b"1")
    # A listing from a moment ago may say that there is no such name.
    wait_until((mnt / f"theirs-{name}").exists, "a name that is new")
    assert (mnt / f"theirs-{name}").read_bytes() == b"1"
    assert not (mnt / f"absent-{name}").exists()
    for size in (10, PART + 1):
        (mnt / name).write_bytes(b"x" * size)
        assert bucket.head(name)["ContentLength"] == size
    (mnt / name).unlink()
    assert not bucket.has(name)


def regions(proxy: Proxy) -> list[str]:
    """Return for which region each request was signed."""
    scope = re.compile(r"Credential=[^/]+/\d+/([^/]+)/s3/")
    return [
        match[1]
        for exchange in proxy.seen
        if (match := scope.search(exchange.request.headers.get("authorization", "")))
    ]


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [60, -60])
def test_clock_that_is_wrong_from_the_start(servers: Servers, minutes: int) -> None:
    """Behind the proxy is moto, which takes any signature: the real server has our clock."""
    with Bucket(servers.moto.store) as bucket, Proxy(bucket.store.endpoint) as proxy:
        _is_put_right(bucket, proxy, minutes)


def _is_put_right(bucket: Bucket, proxy: Proxy, minutes: int) -> None:
    rule = proxy.on("", faults.clock(timedelta(minutes=minutes)), times=ALWAYS)
    with behind(proxy, bucket) as mnt:
        mnt.allowed.append("clock_differs")
        works(mnt, bucket, "x")
        (line,) = mnt.log.lines("clock_differs")
        assert abs(int(line.fields["seconds"]) - 60 * minutes) < 30
    # It cost one request, and no other was refused.
    refused = [exchange for exchange in proxy.seen if exchange.status == 403]
    assert len(refused) == 1
    assert rule.applied == len(proxy.seen)


def test_clock_that_goes_wrong_later(bucket: Bucket, proxy: Proxy) -> None:
    with behind(proxy, bucket) as mnt:
        mnt.allowed.append("clock_differs")
        works(mnt, bucket, "x")
        # More than the proxy forgives, less than the real server does.
        proxy.on("", faults.clock(timedelta(minutes=10)), times=ALWAYS)
        works(mnt, bucket, "y")
        proxy.heal()
        proxy.on("", faults.clock(timedelta(minutes=-4)), times=ALWAYS)
        works(mnt, bucket, "z")


# -- regions ---------------------------------------------------------------------------------------

# How a server says that a bucket is in another region.
ELSEWHERE = {
    "301": faults.s3_error(301, "PermanentRedirect", headers={"x-amz-bucket-region": REGION}),
    "307": faults.s3_error(307, "TemporaryRedirect", headers={"x-amz-bucket-region": REGION}),
    "400": faults.s3_error(400, "AuthorizationHeaderMalformed", more=f"<Region>{REGION}</Region>"),
    "bare 301": faults.answer(301, headers={"x-amz-bucket-region": REGION}),
    "bare 400": faults.answer(400, headers={"x-amz-bucket-region": REGION}),
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_bucket_in_another_region(bucket: Bucket, proxy: Proxy, how: str) -> None:
    proxy.on("", faults.region(REGION, ELSEWHERE[how]), times=ALWAYS)
    with behind(proxy, bucket) as mnt:
        works(mnt, bucket, "x")
        assert len(mnt.log.lines("rerouted")) <= 1
    asked = regions(proxy)
    assert asked[0] == "us-east-1"
    assert set(asked[1:]) == {REGION}


@pytest.mark.parametrize("how", ["301", "bare 400"])
def test_bucket_that_moves(bucket: Bucket, proxy: Proxy, how: str) -> None:
    with behind(proxy, bucket) as mnt:
        works(mnt, bucket, "x")
        proxy.on("", faults.region(REGION, ELSEWHERE[how]), times=ALWAYS)
        works(mnt, bucket, "y")
        (line,) = mnt.log.lines("rerouted")
        assert (line.fields["from"], line.fields["to"]) == ("us-east-1", REGION)


def other_host(proxy: Proxy, bucket: Bucket) -> Proxy:
    """Return a proxy at another address and the same port; the sandbox is about ports."""
    return Proxy(bucket.store.endpoint, at=("127.0.0.2", int(proxy.endpoint.rpartition(":")[2])))


def test_redirect_to_another_host(bucket: Bucket, proxy: Proxy) -> None:
    """What S3 says while the name of a new bucket spreads: ask there for the time being."""
    with other_host(proxy, bucket) as there:
        elsewhere = {"location": f"{there.endpoint}/{bucket.name}/?list-type=2"}
        proxy.on("", faults.s3_error(307, "TemporaryRedirect", headers=elsewhere), times=ALWAYS)
        with behind(proxy, bucket) as mnt:
            works(mnt, bucket, "x")
        assert len(proxy.seen) == 1
        assert len(there.seen) > 5


def test_redirects_in_a_circle_end(bucket: Bucket, proxy: Proxy) -> None:
    with other_host(proxy, bucket) as there:
        for here, other in ((proxy, there), (there, proxy)):
            location = {"location": f"{other.endpoint}/{bucket.name}/"}
            here.on("", faults.s3_error(307, "TemporaryRedirect", headers=location), times=ALWAYS)
        with pytest.raises(MountFailedError) as refused, behind(proxy, bucket) as mnt:
            mnt.path.stat()
        assert refused.value.status == 32
        assert len(proxy.seen) + len(there.seen) < 20


@pytest.mark.parametrize("where", ["option", "environment", "config file"])
def test_region_that_was_given(
    bucket: Bucket, proxy: Proxy, where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment, options = bucket.store.environment, []
    if where == "option":
        options = [f"region={REGION}"]
        environment["AWS_REGION"] = "us-west-2"  # counts for less
    elif where == "environment":
        environment["AWS_REGION"] = REGION
    else:
        config = tmp_path_factory.mktemp("aws") / "config"
        config.write_text(f"[default]\nregion = {REGION}\n")
        options = [f"config_file={config}"]
    with behind(proxy, bucket, *options, environment=environment) as mnt:
        works(mnt, bucket, "x")
    assert set(regions(proxy)) == {REGION}


# -- keys ------------------------------------------------------------------------------------------


@pytest.fixture
def two_keys(bucket: Bucket) -> tuple[Keys, Keys]:
    """Two keys that may use the bucket."""
    if bucket.store.other is None:
        return bucket.store.keys, Keys("another", "another-secret")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/other"]},
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{bucket.name}", f"arn:aws:s3:::{bucket.name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)
    return bucket.store.keys, bucket.store.other


def test_key_that_expires_is_renewed(
    bucket: Bucket, proxy: Proxy, two_keys: tuple[Keys, Keys]
) -> None:
    first, _ = two_keys
    with (
        CredentialService(two_keys) as service,
        behind(proxy, bucket, environment=service.environment) as mnt,
    ):
        works(mnt, bucket, "x")
        asked = service.asked
        proxy.on("", faults.expired_key(first.access), times=ALWAYS)
        # What the second user stores is the second user's, and not for the first one to look at.
        as_second = bucket.store if bucket.store.other is None else bucket.store.as_other()
        works(mnt, Bucket(as_second, bucket.name), "y")
        assert service.asked == asked + 1
        (line,) = mnt.log.lines("credentials_renewed")
        assert line.fields["changed"] == "True"


def test_key_that_expires_for_good(bucket: Bucket, proxy: Proxy) -> None:
    """The service has no other: an error at once, and all is well when it has one again."""
    keys = bucket.store.keys
    with (
        CredentialService([keys]) as service,
        behind(proxy, bucket, environment=service.environment) as mnt,
    ):
        mnt.allowed.append("request_failed .*ExpiredToken")
        proxy.on("", faults.expired_key(keys.access), times=ALWAYS)
        with pytest.raises(PermissionError):
            (mnt / "x").write_bytes(b"1")
        assert mnt.log.wait_for("request_failed")[0].fields["code"] == "ExpiredToken"
        proxy.heal()
        wait_until(lambda: not (mnt / "x").exists(), "the store to be asked again")
        works(mnt, bucket, "x")


def test_key_of_a_profile(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = bucket.store.keys
    directory = tmp_path_factory.mktemp("aws")
    (directory / "credentials").write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"
        f"[work]\naws_access_key_id = {keys.access}\naws_secret_access_key = {keys.secret}\n"
    )
    options = (f"shared_credentials_file={directory}/credentials", "profile=work")
    with Mount(bucket, *options, environment={"AWS_EC2_METADATA_DISABLED": "true"}) as mnt:
        works(mnt, bucket, "x")


def test_public_bucket_needs_no_key(bucket: Bucket, proxy: Proxy) -> None:
    bucket.client.put_bucket_acl(Bucket=bucket.name, ACL="public-read-write")
    nothing = {"AWS_EC2_METADATA_DISABLED": "true"}
    with behind(proxy, bucket, "no_sign_request", environment=nothing) as mnt:
        assert mnt.names() == []
        (mnt / "x").write_bytes(b"1")
    assert not [e for e in proxy.seen if "authorization" in e.request.headers]
