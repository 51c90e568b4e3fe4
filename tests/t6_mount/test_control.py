"""The control socket of real mounts: every command, who may use them, and who may not."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from fuse_s3_control.places import CONTROL, RUNTIME, read_about
from install import make_runtime
from support.mounts import Mount, run
from support.process import wait_until
from support.proxy import Proxy
from support.s3 import Bucket
from support.users import SOMEBODY, run_as

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

LONG_AGO = (1_000_000_000, 1_000_000_000)
MIB = 1 << 20


def place(pid: int) -> Path:
    """Return the directory of a worker's control socket."""
    (path,) = RUNTIME.glob(f"{pid}-*")
    return path


def ask(*words: str | Path) -> Any:  # noqa: ANN401  JSON
    """Run a command that has --json; return what it says."""
    done = run("fuse-s3", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def listed(mnt: Mount) -> dict[str, Any]:
    (found,) = [one for one in ask("list") if one["directory"] == str(mnt.path)]
    return dict(found)


def has_grpc(pid: int) -> bool:
    return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()


def test_every_command_of_a_mount_that_is_used(bucket: Bucket) -> None:  # noqa: PLR0915  one mount
    bucket.put("d/theirs", b"1")
    options = ("metadata_ttl=indefinite", "dbglevel=info", "umask=027")
    with Mount(bucket, *options) as mnt:
        data = os.urandom(3 * MIB)
        (mnt / "ours").write_bytes(data)
        assert (mnt / "ours").read_bytes() == data
        assert (mnt / "d/theirs").read_bytes() == b"1"

        # list asks nobody: it takes no gRPC in a worker that is idle
        found = listed(mnt)
        device = os.minor(mnt.path.stat().st_dev)
        assert (found["pid"], found["spec"], found["device"]) == (mnt.pid, bucket.name, device)
        assert not has_grpc(mnt.pid)

        status = ask("status", mnt.path)
        assert has_grpc(mnt.pid)
        assert (status["pid"], status["directory"]) == (mnt.pid, str(mnt.path))
        assert status["endpoint"] == bucket.store.endpoint
        assert status["sandbox"]["missing"] == {}
        assert "seccomp" in status["sandbox"]["applied"]
        assert status["kernel"]["bytes_written"] == len(data)
        assert status["kernel"]["bytes_read"] >= 1
        kinds = {row["name"]: row for row in status["kernel"]["requests"]}
        assert kinds["WRITE"]["count"] >= 3
        assert 0 < kinds["WRITE"]["median"] <= kinds["WRITE"]["longest"]
        assert status["store"]["bytes_sent"] >= len(data)
        assert {row["name"] for row in status["store"]["requests"]} >= {"PutObject", "GetObject"}
        origins = {row["name"]: (row["value"], row["origin"]) for row in status["options"]}
        assert origins["umask"] == ("0027", "given")
        assert origins["log_level"] == ("info", "given as dbglevel")
        assert origins["memory_target"][1] == "default"
        assert (status["dirty_files"], status["handles"]["files"]) == (0, 0)
        resident = int(Path(f"/proc/{mnt.pid}/statm").read_text().split()[1])
        assert status["memory"]["resident"] > resident * os.sysconf("SC_PAGE_SIZE") // 2
        shown = run("fuse-s3", "status", f"{mnt.path}/")
        assert f"{bucket.name} on {mnt.path}" in shown.stdout
        assert "best-effort, complete" in shown.stdout

        # what is open and written is there, and gone when it is closed
        with (mnt / "open").open("wb") as file:
            file.write(b"x" * MIB)
            file.flush()
            status = ask("status", mnt.path)
            assert [one["key"] for one in status["dirty"]] == ["open"]
            assert status["dirty"][0]["size"] == MIB
            assert status["handles"]["files"] == 1
        assert ask("status", mnt.path)["dirty_files"] == 0

        done = run("fuse-s3", "log-level", mnt.path, "debug")
        assert done.stdout == "log level debug; it was info\n"
        assert ask("status", mnt.path)["log_level"] == "debug"
        assert mnt.log.lines("control")

        # names that hold for ever are looked up again when somebody says so
        for path in ("d/theirs", str(mnt / "d"), ""):
            before = (mnt / "d/theirs").stat().st_size
            bucket.put("d/theirs", b"x" * (before + 7))
            bucket.put(f"d/new{before}", b"")
            assert (mnt / "d/theirs").stat().st_size == before
            done = run("fuse-s3", "drop-metadata", mnt.path, *([path] if path else []))
            assert done.returncode == 0, done.stderr
            assert (mnt / "d/theirs").stat().st_size == before + 7
            assert (mnt / "d/theirs").read_bytes() == b"x" * (before + 7)
        assert "new1" in mnt.names("d")

        left = place(mnt.pid)
    assert [*left.iterdir()] == []
    done = run("fuse-s3", "status", mnt.path)
    assert done.returncode == 1
    assert "is no mounted bucket" in done.stderr


@pytest.mark.keeper
def test_root_and_the_owner_of_the_files_may_ask_and_nobody_else(bucket: Bucket) -> None:
    with Mount(bucket, f"uid={SOMEBODY}", f"gid={SOMEBODY}") as mnt:
        path = place(mnt.pid)
        assert stat.S_IMODE(path.stat().st_mode) == 0o311
        assert run_as(SOMEBODY, "ls", path).returncode != 0
        for command in (("status", mnt.path), ("log-level", mnt.path, "info")):
            done = run_as(SOMEBODY, "fuse-s3", *command)
            assert done.returncode == 0, done.stderr
            done = run_as(SOMEBODY + 1, "fuse-s3", *command)
            assert done.returncode == 1
            assert "only root and the owner of the files may ask it" in done.stderr
        # Everybody may know what the mount table says as well.
        done = run_as(SOMEBODY + 1, "fuse-s3", "list")
        assert str(mnt.path) in done.stdout
        assert str(mnt.pid) in done.stdout
        # The other workers' account is not the owner, whatever else it may be.
        done = run_as(path.stat().st_uid, "fuse-s3", "status", mnt.path)
        assert done.returncode == 1


def test_clients_that_misbehave_do_not_disturb_the_mount(bucket: Bucket) -> None:
    data = os.urandom(8 * MIB)
    bucket.put("a", data)
    with Mount(bucket) as mnt:
        control = str(place(mnt.pid) / CONTROL)
        crowd = []
        for number in range(40):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.settimeout(0)
            with contextlib.suppress(OSError):
                client.connect(control)
                client.send((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 999, b"G")[number % 3])
            crowd.append(client)  # and there it stays
        script = (
            "import socket,sys\nfor _ in range(300):\n s=socket.socket(socket.AF_UNIX)\n"
            " s.settimeout(0)\n s.connect_ex(sys.argv[1])\n s.close()"
        )
        assert run_as(SOMEBODY, "/usr/bin/python3", "-c", script, control).returncode == 0
        assert (mnt / "a").read_bytes() == data
        (mnt / "b").write_bytes(data)
        assert bucket.get("b") == data
        for client in crowd:
            client.close()
        wait_until(
            lambda: run("fuse-s3", "status", mnt.path).returncode == 0, "an answer, once they left"
        )


def test_the_next_worker_has_a_socket_of_its_own(bucket: Bucket) -> None:
    data = os.urandom(3 * MIB)
    bucket.put("a", data)
    with Mount(bucket, allowed=["resumed", "failed"]) as mnt:
        first = place(mnt.pid)
        with (mnt / "a").open("rb") as file:
            assert file.read(MIB) == data[:MIB]
            pid = mnt.pid
            done = run("fuse-s3", "restart", mnt.path)
            assert done.returncode == 0, done.stderr
            assert mnt.worker_after(pid) != pid
            assert done.stdout == f"worker {pid} handed over to {mnt.pid}\n"
            assert [*first.iterdir()] == []
            assert ask("status", mnt.path)["restarts"] == 1
            # One that is killed leaves its socket behind, and nobody takes it for a worker.
            left = place(mnt.pid)
            pid = mnt.pid
            os.kill(pid, signal.SIGKILL)
            mnt.worker_after(pid)
            assert file.read() == data[MIB:]
        wait_until(lambda: listed(mnt)["pid"] == mnt.pid, "the socket of the next worker")
        assert ask("status", mnt.path)["restarts"] == 2
        assert read_about(left) is not None
        for path in (first, left):
            os.utime(path, LONG_AGO)
    with Mount(bucket) as mnt:
        assert not first.exists()
        assert not left.exists()
        assert listed(mnt)["pid"] == mnt.pid


def test_without_a_directory_for_it_a_mount_has_no_control_socket(bucket: Bucket) -> None:
    shutil.rmtree(RUNTIME)
    try:
        with Mount(bucket) as mnt:
            (mnt / "a").write_bytes(b"1")
            (line,) = mnt.log.lines("no_control_socket")
            assert str(RUNTIME) in line.fields["reason"]
            assert listed(mnt)["pid"] is None
            assert "no control socket" in run("fuse-s3", "status", mnt.path).stderr
        # where no systemd makes it, `fuse-s3 mount` does
        with Mount(bucket, command="fuse-s3 mount SPEC DIR -o OPTIONS") as mnt:
            assert listed(mnt)["pid"] == mnt.pid
    finally:
        make_runtime()


def test_a_rename_can_be_watched(bucket: Bucket, proxy: Proxy) -> None:
    from support.faults import Gate  # noqa: PLC0415

    gate = Gate()
    for number in range(3):
        bucket.put(f"old/{number}", b"x")
    with Mount(bucket, store=bucket.store.at(proxy.endpoint)) as mnt:
        proxy.on("CopyObject", gate.hold_before, times=1 << 30)
        pid = os.fork()
        if not pid:
            os.rename(mnt / "old", mnt / "new")  # noqa: PTH104
            os._exit(0)
        wait_until(lambda: gate.waiting, "a copy that waits")
        (rename,) = ask("status", mnt.path)["renames"]
        gate.open()
        assert (rename["source"], rename["target"], rename["phase"]) == ("old/", "new/", "copying")
        assert (rename["keys"], rename["copied"]) == (3, 0)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask("status", mnt.path)["renames"] == []
