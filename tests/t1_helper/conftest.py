"""What tests of the helper share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can enter; pytest's own are for their owner alone."""
    path = Path(tempfile.mkdtemp(prefix="fuse-s3-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
