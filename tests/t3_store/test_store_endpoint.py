"""Where requests go: custom addresses as they are, Amazon's as botocore's own client would go."""

import functools
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config

from fuse_s3_worker.config.parse import configure
from fuse_s3_worker.http.connect import Endpoint
from fuse_s3_worker.store.endpoint import EndpointError, Target, resolve
from fuse_s3_worker.store.sigv4 import encode_path


def target_of(bucket: str, region: str, options: str = "", url: str = "") -> Target:
    return resolve(configure("any-bucket", options).settings, bucket, region, url)


# -- custom addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "endpoint", "path"),
    [
        ("http://s3.example", "", Endpoint("http", "s3.example", 80), "/b/"),
        ("https://s3.example", "", Endpoint("https", "s3.example", 443), "/b/"),
        ("https://s3.example/", "", Endpoint("https", "s3.example", 443), "/b/"),
        ("http://127.0.0.1:9000", "", Endpoint("http", "127.0.0.1", 9000), "/b/"),
        ("http://[::1]:9000", "", Endpoint("http", "::1", 9000), "/b/"),
        ("https://[2001:db8::1]", "", Endpoint("https", "2001:db8::1", 443), "/b/"),
        ("http://h/base/path/", "", Endpoint("http", "h", 80), "/base/path/b/"),
        ("http://S3.Example", "path_style", Endpoint("http", "s3.example", 80), "/b/"),
        ("http://s3.example", "path_style=no", Endpoint("http", "b.s3.example", 80), "/"),
        ("http://s3.example:1/x", "path_style=no", Endpoint("http", "b.s3.example", 1), "/x/"),
    ],
)
def test_a_custom_address(url: str, options: str, endpoint: Endpoint, path: str) -> None:
    assert target_of("b", "r-1", options, url) == Target(endpoint, path, "r-1", "s3")


@pytest.mark.parametrize(
    "url", ["http://h:port", "http://h:70000", "http://[::1", "http://", "http://:80", "h:9000", ""]
)
def test_an_address_that_is_none(url: str) -> None:
    if url:
        with pytest.raises(EndpointError, match="endpoint_url="):
            target_of("b", "r", "", url)


# -- Amazon's --------------------------------------------------------------------------------------


class CapturedError(Exception):
    """Ends a request of botocore's before it is sent."""


@functools.cache
def session() -> botocore.session.Session:
    """Return one session for all: it keeps what it has read of botocore's data."""
    made = botocore.session.Session()
    made.set_credentials("AK", "SK")
    return made


def botocores(bucket: str, region: str, url: str, **options: Any) -> tuple[str, str, str]:  # noqa: ANN401
    """Return the address that botocore's client asks for a key, and region and service it signs."""
    special = {
        # Both name the same service; the global name would need a redirect for other regions.
        "us_east_1_regional_endpoint": "regional",
        # What `UseArnRegion` of the endpoint rules is called here.
        "use_arn_region": True,
    }
    client = session().create_client(
        "s3",
        region_name=region,
        endpoint_url=url or None,
        config=Config(
            s3=special | options.pop("s3", {}),
            **options,
            # Outposts have two kinds of signature; ours is the one.
            sigv4a_signing_region_set=None,
            auth_scheme_preference="sigv4",
        ),
    )
    seen: list[AWSPreparedRequest] = []

    def capture(request: AWSPreparedRequest, **_: object) -> None:
        seen.append(request)
        raise CapturedError

    client.meta.events.register("before-send.s3", capture)
    with pytest.raises(CapturedError):
        client.get_object(Bucket=bucket, Key="some/key")
    authorization = bytes(seen[0].headers["Authorization"]).decode()
    _, _, signed_region, service, _ = authorization.split(",")[0].split("/")
    return str(seen[0].url), signed_region, service


ACCESS_POINT = "arn:aws:s3:us-west-2:123456789012:accesspoint/my-point"
CHINESE = "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-point"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/p"
ALIAS = "my-point-0123456789abcdefghijklmnop-s3alias"

# Bucket, region, our options, botocore's.
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    (bucket, region, options, config)
    for bucket in ("my-bucket", "with.dots", "UPPER_and_underscore", ALIAS)
    for region in ("us-east-1", "ap-southeast-3", "us-gov-west-1", "cn-north-1")
    for options, config in (
        ("", {}),
        ("dual_stack", {"use_dualstack_endpoint": True}),
        ("path_style", {"s3": {"addressing_style": "path"}}),
    )
] + [
    ("my-bucket", "us-east-1", "fips", {"use_fips_endpoint": True}),
    (
        "my-bucket",
        "us-west-2",
        "fips,dual_stack",
        {"use_fips_endpoint": True, "use_dualstack_endpoint": True},
    ),
    ("my-bucket", "eu-west-1", "accelerate", {"s3": {"use_accelerate_endpoint": True}}),
    (
        "my-bucket",
        "eu-west-1",
        "accelerate,dual_stack",
        {"s3": {"use_accelerate_endpoint": True}, "use_dualstack_endpoint": True},
    ),
    ("my-bucket", "aws-global", "", {}),
    ("my-bucket", "a-new-region-1", "", {}),
    (ACCESS_POINT, "us-west-2", "", {}),
    (ACCESS_POINT, "eu-west-1", "", {}),
    (ACCESS_POINT, "us-west-2", "dual_stack", {"use_dualstack_endpoint": True}),
    (ACCESS_POINT, "us-west-2", "fips", {"use_fips_endpoint": True}),
    (CHINESE, "cn-north-1", "", {}),
    (OUTPOST, "us-west-2", "", {}),
]


@pytest.mark.parametrize(("bucket", "region", "options", "config"), CASES)
def test_amazons_endpoints_are_those_of_botocore(
    bucket: str, region: str, options: str, config: dict[str, Any]
) -> None:
    theirs, signing_region, service = botocores(bucket, region, "", **config)
    ours = target_of(bucket, region, options)
    assert f"{ours.endpoint}{ours.path}{encode_path('some/key')}" == theirs
    assert (ours.region, ours.service) == (signing_region, service)


def test_an_access_point_at_a_custom_address() -> None:
    """A VPC endpoint: the access point's name goes before the host."""
    url = "https://vpce-1.s3.us-west-2.vpce.amazonaws.com"
    theirs, signing_region, service = botocores(ACCESS_POINT, "us-west-2", url)
    ours = target_of(ACCESS_POINT, "us-west-2", "", url)
    assert f"{ours.endpoint}{ours.path}some/key" == theirs
    assert (ours.region, ours.service) == (signing_region, service)


@pytest.mark.parametrize(
    ("bucket", "region", "options", "message"),
    [
        (
            "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
            "us-east-1",
            "",
            "is a multi-region access point: not supported by this version",
        ),
        (
            "fast--use1-az4--x-s3",
            "us-east-1",
            "",
            "is a directory bucket: not supported by this version",
        ),
        ("arn:aws:s3:::my-bucket", "us-east-1", "", "no endpoint for arn:aws:s3:::my-bucket"),
        ("my.bucket", "us-east-1", "accelerate", "no endpoint for my.bucket in us-east-1: "),
        ("my-bucket", "us-east-1", "accelerate,fips", "no endpoint for my-bucket"),
        ("my-bucket", "no region", "", "no endpoint for my-bucket in no region: "),
        (ACCESS_POINT, "us-west-2", "accelerate", "no endpoint for arn:aws:s3:us-west-2"),
        (ACCESS_POINT, "us-west-2", "path_style", "no endpoint for arn:aws:s3:us-west-2"),
        ("arn:aws:s3:us-west-2:123456789012:bucket_name:x", "us-west-2", "", "no endpoint for"),
    ],
)
def test_what_has_no_endpoint_is_refused_with_a_reason(
    bucket: str, region: str, options: str, message: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        target_of(bucket, region, options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
