"""Mounts of s3fs, the other program that keeps attributes in metadata, as its users make them."""

import tempfile
from pathlib import Path
from typing import Self

from support.mounts import clean_environment, entries_at, run
from support.process import Child, wait_until
from support.s3 import Bucket

__all__ = ["S3fs"]

# Without caches of its own it shows what the bucket has; attributes are off unless asked for.
_OPTIONS = (
    *("use_path_request_style", "use_xattr", "allow_other", "enable_content_md5"),
    *("stat_cache_expire=0", "max_stat_cache_size=0", "retries=2", "dbglevel=warn"),
)


class S3fs:
    """A bucket, mounted by s3fs; a context manager.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._home = tempfile.TemporaryDirectory(prefix="fuse-s3-test-s3fs-")
        self.path = Path(self._home.name) / "mnt"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __enter__(self) -> Self:
        home, store = Path(self._home.name), self._bucket.store
        self.path.mkdir()
        passwd = home / "passwd"
        passwd.touch(0o600)
        passwd.write_text(f"{store.keys.access}:{store.keys.secret}\n")
        options = (*_OPTIONS, f"url={store.endpoint}", f"passwd_file={passwd}", f"tmpdir={home}")
        command = ["s3fs", self._bucket.name, str(self.path), "-f", "-o", ",".join(options)]
        self._child = Child(command, home / "log", environment=clean_environment())
        try:
            wait_until(self._is_mounted, "s3fs to mount")
        except BaseException:
            self._child.stop()
            self._home.cleanup()
            raise
        return self

    def _is_mounted(self) -> bool:
        self._child.must_live()
        return bool(entries_at(self.path))

    def __exit__(self, *_: object) -> None:
        run("umount", self.path)
        if entries_at(self.path):
            run("umount", "-l", self.path)
        self._child.stop(patience=10.0)
        self._home.cleanup()
