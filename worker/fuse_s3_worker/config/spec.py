"""SPEC, the first word of a mount: which bucket, and which part of it."""

import re
from typing import NamedTuple

__all__ = ["BucketSpec", "SpecError", "normal_prefix", "parse_spec"]

# "General purpose buckets naming rules" of the S3 user guide, widened to what older buckets and
# other servers have: upper case, underscores, up to 255 characters.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_ARN = re.compile(r"arn:[^:/]+:(?:s3|s3-outposts):[^:/]*:[^:/]*:.+")
_KEY_MAX = 1024  # bytes of a key in S3


class SpecError(ValueError):
    """SPEC names no bucket; the message says what would."""


class BucketSpec(NamedTuple):
    """A bucket, or an access point, and a prefix: "" or ending with a slash."""

    bucket: str
    prefix: str


def parse_spec(spec: str) -> BucketSpec:
    """Read `bucket`, `bucket/prefix`, `bucket:/prefix`, `s3://bucket/prefix/` or an ARN.

    An ARN takes its prefix from the option `prefix=`, since it may itself have slashes.

    Raises:
        SpecError: it is none of these.
    """
    if spec.startswith("arn:"):
        if not _ARN.fullmatch(spec):
            raise SpecError(
                f"'{spec}' is no access point: arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME"
            )
        return BucketSpec(spec, "")
    rest = spec.removeprefix("s3://")
    if re.match(r"[A-Za-z0-9+.-]+://", rest):
        raise SpecError(f"'{spec}' is no bucket: give its name, and the server by endpoint_url=")
    bucket, slash, prefix = rest.partition("/")
    bucket = bucket.removesuffix(":") if slash else bucket
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise SpecError(
            f"'{bucket}' is no bucket name: 3 to 255 letters, digits, dots, hyphens and "
            "underscores, beginning and ending with a letter or digit"
        )
    return BucketSpec(bucket, normal_prefix(prefix))


def normal_prefix(prefix: str) -> str:
    """Return `prefix` without leading slashes and with one at its end, or "".

    Raises:
        SpecError: no path could name what is below it.
    """
    trimmed = prefix.strip("/")
    if not trimmed:
        return ""
    if any(part in {"", ".", ".."} for part in trimmed.split("/")):
        raise SpecError(f"prefix '{prefix}': empty, '.' and '..' cannot be parts of a path")
    try:
        length = len(trimmed.encode())
    except UnicodeEncodeError:
        raise SpecError("the prefix is not UTF-8, as all keys are") from None
    if length >= _KEY_MAX:
        raise SpecError(f"prefix of more than {_KEY_MAX} bytes: no key is that long")
    return trimmed + "/"
