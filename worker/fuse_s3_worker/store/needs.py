"""What a sandbox must leave open so that the store, and keys for it, can be reached.

Known before anything is asked of the network: ports and files come from options, from variables
and from the text of the configuration files. Every profile of these counts, used or not, because
which one leads to which is for botocore to work out, inside the sandbox.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.sandbox import Needs

__all__ = ["credential_programs", "store_needs"]

Files = Mapping[str, tuple[str, bytes]]

_USUAL_PORT = {"http": 80, "https": 443}

# Metadata services of instances and containers; STS and SSO.
_SERVICE_PORTS = frozenset({80, 443})
_SERVICES = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
             "AWS_ENDPOINT_URL_STS")  # fmt: skip
_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_TOKENS = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")

_SETTING = re.compile(r"^[ \t]*([a-z0-9_]+)[ \t]*=[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_PATHS = {"web_identity_token_file", "ca_bundle"}


def store_needs(settings: Settings, files: Files) -> Needs:
    """Return the ports and files of one mount; `files` are those that the helper read."""
    proxies = [os.environ.get(name, "") for name in _PROXIES]
    proxies = [url if "//" in url else f"http://{url}" for url in proxies if url]
    if _has_key(settings, files):
        return Needs(_ports([*_store_urls(settings), *proxies]) | _amazon(settings))
    home, found = _home(), _configured(files)
    urls = [value for name, value in found if "://" in value]
    urls += [os.environ.get(name, "") for name in _SERVICES]
    urls += [*_store_urls(settings), *proxies]
    tokens = [os.environ.get(name, "") for name in _TOKENS]
    tokens += [value for name, value in found if name in _PATHS]
    return Needs(
        _ports(urls) | _SERVICE_PORTS,
        files=tuple(path for path in tokens if path.startswith("/")),
        directories=(str(home / ".aws"),),
        own=(str(home / ".aws/sso/cache"),),  # botocore keeps renewed tokens of SSO there
    )


def credential_programs(settings: Settings, files: Files) -> list[str]:
    """Return the command lines of the configuration that give keys."""
    if _has_key(settings, files):
        return []
    return [value for name, value in _configured(files) if name == "credential_process"]


def _has_key(settings: Settings, files: Files) -> bool:
    """Tell whether the key is there already, and nobody is asked for one."""
    return settings.no_sign_request or ("passwd_file" in files and not settings.profile)


def _home() -> Path:
    return Path(os.environ.get("HOME", "/nonexistent"))


def _store_urls(settings: Settings) -> list[str]:
    return (
        [settings.endpoint_url]
        if settings.endpoint_url
        else [os.environ.get(n, "") for n in _STORE]
    )


def _amazon(settings: Settings) -> frozenset[int]:
    return frozenset() if settings.endpoint_url else frozenset({_USUAL_PORT["https"]})


def _configured(files: Files) -> dict[tuple[str, str], None]:
    """Return every setting of the AWS CLI's files: the helper's copies, and the user's own."""
    texts = [files[name][1] for name in ("config_file", "shared_credentials_file") if name in files]
    for name in ("config", "credentials"):
        try:
            texts.append((_home() / ".aws" / name).read_bytes())
        except OSError:
            continue
    settings = [_SETTING.findall(text.decode("utf-8", "replace")) for text in texts]
    return dict.fromkeys(itertools.chain.from_iterable(settings))


def _ports(urls: list[str]) -> frozenset[int]:
    """Return the TCP ports of these URLs; what is none is refused elsewhere."""
    ports = set()
    for url in urls:
        try:
            parts = urlsplit(url)
            ports.add(parts.port or _USUAL_PORT[parts.scheme])
        except (KeyError, ValueError):
            continue
    return frozenset(ports)
