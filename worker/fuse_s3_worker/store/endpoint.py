"""Which host serves a bucket, and how requests to it are signed.

A custom endpoint is taken as it is. Amazon's are worked out by botocore's endpoint rules: regions
and partitions, dual-stack, FIPS, acceleration, access points by ARN and by alias.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.http.connect import Endpoint

__all__ = ["DEFAULT_REGION", "EndpointError", "Target", "is_directory_bucket", "resolve"]

DEFAULT_REGION = "us-east-1"
_USUAL_PORT = {"http": 80, "https": 443}


class EndpointError(ValueError):
    """There is no endpoint for this bucket and these options; the message says why."""


class Target(NamedTuple):
    """Where to send requests for a bucket.

    `path` is what comes before the key, with a slash at its end: "/" or "/bucket/".
    """

    endpoint: Endpoint
    path: str
    region: str
    service: str = "s3"


def is_directory_bucket(bucket: str) -> bool:
    """Tell a bucket of S3 Express One Zone by its name, which nothing else may have."""
    return bucket.endswith("--x-s3")


def resolve(settings: Settings, bucket: str, region: str, endpoint_url: str) -> Target:
    """Return the target for `bucket` in `region`.

    Raises:
        EndpointError: a bad combination, or something that this version cannot speak to.
    """
    if endpoint_url and not bucket.startswith("arn:"):
        return _custom(settings, bucket, region, endpoint_url)
    return _amazon(settings, bucket, region, endpoint_url)


def _custom(settings: Settings, bucket: str, region: str, url: str) -> Target:
    endpoint, base = _split(url)
    if settings.path_style is not False:
        return Target(endpoint, f"{base}/{bucket}/", region)
    host = f"{bucket}.{endpoint.host}"
    return Target(endpoint._replace(host=host), f"{base}/", region)


def _amazon(settings: Settings, bucket: str, region: str, url: str) -> Target:
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415  a heavy import, see credentials

    parameters: dict[str, object] = {
        "Bucket": bucket,
        "Region": region,
        "UseFIPS": settings.fips,
        "UseDualStack": settings.dual_stack,
        "Accelerate": settings.accelerate,
        "ForcePathStyle": settings.path_style is True,
        "UseArnRegion": True,
        "DisableMultiRegionAccessPoints": False,
        "UseGlobalEndpoint": False,
    }
    if url:
        parameters["Endpoint"] = url
    try:
        found = _rules()(**parameters)
    except BotoCoreError as error:
        raise EndpointError(f"no endpoint for {bucket} in {region}: {error}") from None
    schemes = found.properties["authSchemes"]
    # Outposts would rather have the asymmetric signature, and take ours as well.
    scheme = next((one for one in schemes if one["name"] == "sigv4"), schemes[0])
    if scheme["name"] != "sigv4":
        kind = {"sigv4a": "multi-region access point", "sigv4-s3express": "directory bucket"}
        what = kind.get(scheme["name"], scheme["name"])
        raise EndpointError(f"{bucket} is a {what}: not supported by this version")
    endpoint, base = _split(found.url)
    return Target(endpoint, f"{base}/", scheme["signingRegion"], scheme["signingName"])


@cache
def _rules() -> Callable[..., Any]:
    from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415
    from botocore.loaders import Loader  # noqa: PLC0415

    loader = Loader()
    ruleset = loader.load_service_model("s3", "endpoint-rule-set-1")
    resolver: Callable[..., Any] = EndpointProvider(
        ruleset, loader.load_data("partitions")
    ).resolve_endpoint
    return resolver


def _split(url: str) -> tuple[Endpoint, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or _USUAL_PORT[parts.scheme]
    except KeyError:  # the environment's is no option, and was not validated as one
        raise EndpointError(f"endpoint_url={url}: neither http:// nor https://") from None
    except ValueError:
        raise EndpointError(f"endpoint_url={url}: bad host or port") from None
    if not parts.hostname:
        raise EndpointError(f"endpoint_url={url}: no host")
    return Endpoint(parts.scheme, parts.hostname, port), parts.path.rstrip("/")
