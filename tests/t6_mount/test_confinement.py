"""The worker, looked at from outside while it serves: it holds no power and shows no secret."""

import contextlib
import os
import pwd
import re
import signal
import stat
from collections import Counter
from pathlib import Path

import pytest

from fuse_s3_control.places import RUNTIME
from support import faults
from support.mounts import Mount, run
from support.proxy import Proxy
from support.s3 import Bucket, Store
from support.servers import Servers
from support.users import NOBODY, run_as

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

TOKEN = "token-that-nobody-may-see"


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.keeper
def test_no_power(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        account = pwd.getpwnam("fuse-s3")
        found = _status(mnt.pid)
        assert set(found["Uid"].split()) == {str(account.pw_uid)}
        assert set(found["Gid"].split()) == {str(account.pw_gid)}
        assert account.pw_uid != 0
        assert found["Groups"] == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[name], 16) == 0, name
        assert found["NoNewPrivs"] == "1"
        limits = Path(f"/proc/{mnt.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert Path(f"/proc/{mnt.pid}/cwd").readlink() == Path("/")
        # A session of its keeper's, which is its parent: no terminal can reach either.
        assert os.getsid(mnt.pid) == int(found["PPid"]) != os.getsid(0)


def test_worker_user_is_who_it_runs_as(bucket: Bucket) -> None:
    bucket.put("x", b"1")
    with Mount(bucket, "worker_user=nobody") as mnt:
        assert set(_status(mnt.pid)["Uid"].split()) == {str(NOBODY)}
        assert (mnt / "x").read_bytes() == b"1"


# What a descriptor may be, as the link in /proc/PID/fd shows it.
KINDS = {
    r"/dev/null": "null",
    r"/dev/fuse": "fuse",
    r"/tmp/fuse-s3-test-[^/]+/log": "log",
    r"anon_inode:\[(eventpoll|eventfd|io_uring)\]": "loop",
    r"/memfd:state-[ab] \(deleted\)": "state",  # for a successor
    r"pipe:\[\d+\]": "pipe",
    r"socket:\[(\d+)\]": "socket",
    r"/proc/\d+": "itself",  # for Landlock, see sandbox/files.py; a place only (O_PATH)
}


def _kind(link: str, inodes: dict[str, str]) -> str:
    for pattern, kind in KINDS.items():
        if match := re.fullmatch(pattern, link):
            return inodes.get(match[1], "unknown socket") if kind == "socket" else kind
    return link


def _sockets(pid: int, endpoint: str) -> dict[str, str]:
    """Name the sockets that are there by right: to the server, its own, and nameless pairs."""
    port = int(endpoint.rpartition(":")[2])
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[2] == f"0100007F:{port:04X}":
            found[words[9]] = "server"
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) == 7:  # without a path
            found[words[6]] = "pair"
        elif Path(words[7]).match(f"{RUNTIME}/{pid}-*/control"):
            found[words[6]] = "control"
    return found


@pytest.mark.keeper
def test_only_known_descriptors(bucket: Bucket) -> None:
    secret = os.open("/etc/shadow", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        with Mount(bucket) as mnt:
            (mnt / "x").write_bytes(b"1")
            inodes = _sockets(mnt.pid, bucket.store.endpoint)
            links = [str(fd.readlink()) for fd in Path(f"/proc/{mnt.pid}/fd").iterdir()]
            kinds = Counter(_kind(link, inodes) for link in links)
            assert kinds["fuse"] == kinds["log"] == kinds["control"] == 1
            others = {"pair", "server", "control"}
            assert kinds.keys() <= set(KINDS.values()) | others - {"socket"}
    finally:
        os.close(secret)


@pytest.mark.keeper
def test_only_what_it_needs_of_the_environment(bucket: Bucket) -> None:
    hostile = {
        "PYTHONPATH": "/tmp/nowhere",
        "LD_PRELOAD": "",
        "OPENSSL_CONF": "/tmp/nowhere",
        "SSLKEYLOGFILE": "/tmp/nowhere",
        "TOP_SECRET": "1",
        "AWS_REGION": "us-east-1",
    }
    with Mount(bucket, environment=bucket.store.environment | hostile) as mnt:
        content = Path(f"/proc/{mnt.pid}/environ").read_bytes().decode()
        names = {word.partition("=")[0] for word in content.split("\0") if word}
        # Credentials are not even there: they come as a file does.
        listen = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
        assert names == {"PATH", "HOME", "LANG"} | listen


def test_others_cannot_look_into_it(bucket: Bucket) -> None:
    worker = pwd.getpwnam("fuse-s3").pw_uid
    with Mount(bucket) as mnt:
        for user in (NOBODY, worker):
            for name in ("environ", "mem", "maps", "fd", "auxv"):
                done = run_as(user, "ls" if name == "fd" else "cat", f"/proc/{mnt.pid}/{name}")
                assert done.returncode != 0, (user, name)


def test_no_secret_is_seen_anywhere(servers: Servers, tmp_path: Path) -> None:
    """A session token is a secret too; only moto takes one that nobody has issued."""
    store = servers.moto.store
    environment = store.environment | {"AWS_SESSION_TOKEN": TOKEN}
    with Bucket(store) as bucket, Proxy(store.endpoint) as proxy:
        behind = store.at(proxy.endpoint)
        allowed = ["request_failed", "retry"]
        with Mount(
            bucket, "log_level=debug", store=behind, environment=environment, allowed=allowed
        ) as mnt:
            (mnt / "good").write_bytes(b"1")
            proxy.on("PutObject", faults.s3_error(403, "AccessDenied", _telltale(store)))
            with contextlib.suppress(OSError):
                (mnt / "bad").write_bytes(b"1")
            proxy.on("HeadObject ListObjectsV2", faults.reset_before(), times=3)
            (mnt / "absent").exists()
            assert TOKEN in str(proxy.seen[-1].request.headers)
            places = {
                "log": mnt.log.text,
                "ps": run("ps", "-ef", "ww").stdout,
                "mounts": Path("/proc/mounts").read_text(),
                "utab": _text(Path("/run/mount/utab")),
                "cmdline": _text(Path(f"/proc/{mnt.pid}/cmdline")),
                "comm": _text(Path(f"/proc/{mnt.pid}/comm")),
            }
    assert "request_failed" in places["log"]
    for place, text in places.items():
        for secret in (store.keys.secret, TOKEN, "Signature=0"):
            assert secret not in text, place
    assert "***" in places["log"]


def _telltale(store: Store) -> str:
    """A message of a server that repeats what it should not."""
    return f"key {store.keys.secret} token {TOKEN} Authorization: AWS4 Signature=0123456789abcdef"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_key_from_a_passwd_file(bucket: Bucket, tmp_path: Path) -> None:
    keys = bucket.store.keys
    passwd = tmp_path / "passwd"
    passwd.write_text(f"other-bucket:a:b\n{bucket.name}:{keys.access}:{keys.secret}\n")
    passwd.chmod(0o600)
    nothing = {"AWS_EC2_METADATA_DISABLED": "true"}
    with Mount(bucket, f"passwd_file={passwd}", environment=nothing) as mnt:
        (mnt / "x").write_bytes(b"1")
        assert bucket.get("x") == b"1"
        assert keys.secret.encode() not in Path(f"/proc/{mnt.pid}/environ").read_bytes()
        # The file itself is not open any more: what the worker has is a copy, and that is read.
        links = [str(fd.readlink()) for fd in Path(f"/proc/{mnt.pid}/fd").iterdir()]
        assert not [link for link in links if "passwd" in link]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_do_not_break_the_mount(bucket: Bucket, number: signal.Signals) -> None:
    with Mount(bucket) as mnt:
        with (mnt / "x").open("wb", buffering=0) as file:
            file.write(b"before ")
            os.kill(mnt.pid, number)
            mnt.log.wait_for("signal")
            file.write(b"after")
        assert bucket.get("x") == b"before after"
        (line,) = mnt.log.lines("signal")
        assert line.fields["name"] == number.name


def test_worker_ends_with_the_mount(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        assert mnt.unmount().returncode == 0
        assert mnt.wait_for_worker()
        assert mnt.log.lines("unmounted")


def test_log_file_is_not_a_way_to_root(bucket: Bucket, tmp_path: Path) -> None:
    """A link where the log should be is not followed: it could lead anywhere."""
    target = tmp_path / "target"
    link = tmp_path / "link"
    link.symlink_to(target)
    mnt = Mount(bucket)
    done = run("mount", "-t", "s3", bucket.name, mnt.path, "-o", f"log_file={link}")
    assert done.returncode == 1
    assert f"log_file={link}" in done.stderr
    assert not target.exists()
    assert stat.S_ISLNK(link.lstat().st_mode)
    assert not mnt.close()
