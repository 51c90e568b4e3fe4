from pathlib import Path
import pytest
from support.mounts import Mount
from support.s3 import Bucket
pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]
def test_one(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        (mnt / "x").write_text("hello")
        assert (mnt / "x").read_text() == "hello"
        assert bucket.get("x") == b"hello"
        print(mnt.log.text)
