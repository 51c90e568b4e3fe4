"""The environment of whoever mounted, which comes in a file like their other secrets.

The worker is started with nothing of it. Credentials come from these variables, and the way to the
endpoint; nothing that steers an interpreter, a loader or a library (PYTHON*, LD_*, OPENSSL_CONF,
AWS_DATA_PATH ...) is taken, even where the helper should have let it through.
"""

import os
from collections.abc import MutableMapping

__all__ = ["TAKEN", "take_environment"]

TAKEN = frozenset(
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_SECURITY_TOKEN "
    "AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION "
    "AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL_STS AWS_STS_REGIONAL_ENDPOINTS "
    "AWS_USE_FIPS_ENDPOINT AWS_USE_DUALSTACK_ENDPOINT AWS_IGNORE_CONFIGURED_ENDPOINT_URLS "
    "AWS_ROLE_ARN AWS_ROLE_SESSION_NAME AWS_WEB_IDENTITY_TOKEN_FILE "
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_CONTAINER_CREDENTIALS_FULL_URI "
    "AWS_CONTAINER_AUTHORIZATION_TOKEN AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE "
    "AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_V1_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT "
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE AWS_METADATA_SERVICE_TIMEOUT "
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS "
    "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy".split()
)


def take_environment(content: bytes, into: MutableMapping[str, str] = os.environ) -> None:
    """Take the variables that are known from `content`: each `NAME=value` with a NUL behind it."""
    for entry in os.fsdecode(content).split("\0"):
        name, _, value = entry.partition("=")
        if name in TAKEN:
            into[name] = value
