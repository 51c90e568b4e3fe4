import os, pytest, subprocess, errno
from support.mounts import Mount
from support.s3 import Bucket
pytestmark = [pytest.mark.mount, pytest.mark.one_store, pytest.mark.usefixtures("product")]

@pytest.mark.parametrize("engine", ["libfuse"])
def test_try(bucket: Bucket, engine: str) -> None:
    bucket.put("x", b"hello")
    with Mount(bucket, f"engine={engine}", "log_level=debug") as mnt:
        try:
            print(mnt.log.text)
            print(os.listdir(mnt.path))
            print((mnt / "x").read_bytes(), (mnt/"x").stat())
            (mnt / "y").write_bytes(b"123" * 1000000)
            assert bucket.get("y") == b"123" * 1000000
            assert (mnt / "y").read_bytes() == b"123" * 1000000
            fd = os.open(mnt / "y", os.O_RDWR)
            os.unlink(mnt / "y")
            try:
                print(os.fstat(fd))
            except OSError as e: print("fstat", e)
            os.close(fd)
            for l in open(f"/proc/{mnt.pid}/status").read().splitlines():
                if "Seccomp" in l or "Threads" in l: print(l)
        finally:
            print(mnt.log.text)
    print(mnt.log.text)
