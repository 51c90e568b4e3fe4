"""Both engines, one list of behaviours: what one of them gets wrong, the other one shows."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.conformance import Behaviour, expectations, observe
from support.filebehaviours import FILE_BEHAVIOURS
from support.mounts import Mount
from support.posixbehaviours import POSIX_BEHAVIOURS
from support.s3 import Bucket
from support.treebehaviours import TREE_BEHAVIOURS

pytestmark = [pytest.mark.mount, pytest.mark.one_store]

ENGINES = ("native", "libfuse")
BEHAVIOURS = (*FILE_BEHAVIOURS, *TREE_BEHAVIOURS)

# Of what programs are refused, the log tells; and of what they were told by fsync or close.
TOLD = ["request_failed"]


def differences(seen: dict[str, object], behaviours: Iterable[Behaviour]) -> dict[str, object]:
    """Return what is not as expected: name to (seen, expected)."""
    return {
        name: (seen[name], expected)
        for name, expected in expectations(behaviours).items()
        if seen[name] != expected
    }


def contents(bucket: Bucket, prefix: str) -> dict[str, bytes]:
    """Return what is stored below a prefix."""
    keys = bucket.keys()
    return {key.removeprefix(prefix): bucket.get(key) for key in keys if key.startswith(prefix)}


def test_a_local_file_system_does_so(public: Path) -> None:
    """The list asks for nothing that programs would not find elsewhere, except where it says so."""
    os.umask(0o022)
    behaviours = [b for b in (*BEHAVIOURS, *POSIX_BEHAVIOURS) if b.local]
    assert differences(observe(public, behaviours), behaviours) == {}


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize(
    ("options", "behaviours"),
    [
        ((), BEHAVIOURS),
        (("posix",), POSIX_BEHAVIOURS),
        pytest.param(("posix",), BEHAVIOURS, marks=pytest.mark.long),
    ],
    ids=["default", "posix", "all-with-posix"],
)
def test_both_engines_do_so(
    bucket: Bucket, options: tuple[str, ...], behaviours: tuple[Behaviour, ...]
) -> None:
    wrong = {}
    for engine in ENGINES:
        with Mount(bucket, f"engine={engine}", *options, allowed=TOLD) as mnt:
            (mnt / engine).mkdir()
            wrong[engine] = differences(observe(mnt / engine, behaviours), behaviours)
    assert not any(wrong.values()), wrong
    # And what is in the bucket then is the same, to the byte.
    assert contents(bucket, "native/") == contents(bucket, "libfuse/")
