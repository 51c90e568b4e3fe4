"""botocore's chain as the worker uses it, in an environment that has nothing of this machine."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_s3_worker.errors import StoreError
from fuse_s3_worker.log import Redaction
from fuse_s3_worker.store.credentials import Chain, Secrets
from fuse_s3_worker.store.sigv4 import Credentials
from support.loops import run

__all__ = ["NOTHING", "SECRET", "failure_of", "key_of", "loaded", "memory_files"]

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOTHING = Secrets(None, None)


def loaded(secrets: Secrets = NOTHING, *, profile: str = "", local_only: bool = False) -> Chain:
    """Return a chain that has run once."""
    chain = Chain(secrets, Redaction(), profile=profile)
    run(chain.load(local_only=local_only))
    return chain


def key_of(chain: Chain) -> Credentials | None:
    """Return the key that a chain gives."""
    return run(chain.current())


def failure_of(load: Callable[[], object]) -> StoreError:
    """Return the error that `load` ends with, which must not have the secret in it."""
    with pytest.raises(StoreError) as caught:
        load()
    assert SECRET not in str(caught.value)
    return caught.value


def memory_files() -> int:
    """Return how many descriptors of memory this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "memfd:" in str(link.readlink())
    return found
