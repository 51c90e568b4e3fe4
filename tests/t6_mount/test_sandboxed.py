"""The sandbox of a worker that serves: how far it got, and that everything works inside.

Every other test of a mount runs in it, too: it is the default.
"""

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuse_s3_worker.sandbox import LAYERS
from support import faults
from support.attempts import FAILURE, Attempt
from support.confined import needs_sandbox
from support.mounts import Mount, MountFailedError, run, workers
from support.process import wait_until
from support.proxy import Proxy
from support.rawserver import Peer, RawServer, Request, reply
from support.s3 import Bucket, Store
from support.servers import Servers

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

PART = 5 << 20
ALWAYS = 1 << 30


def works(mnt: Mount, bucket: Bucket) -> None:
    """Use everything that starts a thread, asks for a name or opens a connection."""
    content = bytes(range(256)) * (2 * PART // 256) + b"!"
    (mnt / "d").mkdir()
    (mnt / "d/large").write_bytes(content)
    assert bucket.get("d/large") == content
    bucket.put("theirs", content)
    assert (mnt / "theirs").read_bytes() == content
    assert mnt.names("d") == ["large"]
    (mnt / "d/large").unlink()
    assert not bucket.has("d/large")


def statuses(pid: int) -> Iterator[dict[str, str]]:
    """Yield /proc/PID/status of every thread."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# -- how far it got --------------------------------------------------------------------------------


@needs_sandbox
def test_every_layer_is_in_force(bucket: Bucket) -> None:
    with Mount(bucket, "sandbox=strict") as mnt:
        works(mnt, bucket)
        threads = list(statuses(mnt.pid))
        assert len(threads) > 1
        for status in threads:
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        (line,) = mnt.log.lines("sandbox")
        assert line.fields == {"mode": "strict", "layers": ",".join(LAYERS)}
        # before there was anything else to say, and so before the first request
        assert mnt.log.lines()[0].event == "sandbox"
        limits = Path(f"/proc/{mnt.pid}/limits").read_text()
        for limit in ("core file size", "locked memory", "msgqueue size", "realtime priority"):
            assert re.search(rf"Max {limit} +0 +0 ", limits), limit


def test_it_is_the_default(bucket: Bucket) -> None:
    with Mount(bucket) as mnt:
        (line,) = mnt.log.lines("sandbox")
        assert line.fields["mode"] == "best-effort"
        assert all(status["Seccomp"] == "2" for status in statuses(mnt.pid))


@pytest.mark.keeper
def test_without_it(bucket: Bucket) -> None:
    with Mount(bucket, "sandbox=off") as mnt:
        works(mnt, bucket)
        assert all(status["Seccomp"] == "0" for status in statuses(mnt.pid))
        (line,) = mnt.log.lines("sandbox")
        assert "landlock_files: sandbox=off" in line.fields["missing"]
        assert "no_new_privs" in line.fields["layers"]


# A kernel as in Debian 11 or in a container that forbids Landlock: behind a filter, for real.
LACKING = ("python3", "-IS", str(Path(__file__).parent.parent / "support/seccomp.py"))


@pytest.mark.keeper
def test_a_mount_on_a_kernel_without_landlock(bucket: Bucket) -> None:
    without = f"{' '.join(LACKING)} landlock_create_ruleset {errno.ENOSYS}"
    with Mount(bucket, command=f"{without} mount -t s3 SPEC DIR -o OPTIONS") as mnt:
        works(mnt, bucket)
        (line,) = mnt.log.lines("sandbox")
        assert line.fields["missing"].count("this kernel has no Landlock") == 3
        assert all(status["Seccomp"] == "2" for status in statuses(mnt.pid))


@pytest.mark.keeper
def test_strict_refuses_such_a_kernel(attempt: Attempt) -> None:
    attempt.command = (*LACKING, "landlock_create_ruleset", str(errno.ENOSYS), "mount", "-t", "s3")
    attempt.options.append("sandbox=strict")
    attempt.refused(
        FAILURE,
        "sandbox=strict: landlock_files is missing: this kernel has no Landlock",
        "landlock_tcp is missing",
        "landlock_scopes is missing",
        "give sandbox=best-effort to do without",
    )


@pytest.mark.keeper
def test_a_check_of_the_options_finds_it_as_well(attempt: Attempt) -> None:
    """`mount -f` mounts nothing, and says whether it could."""
    fake = ("mount", "-f", "-t", "s3")
    attempt.options.append("sandbox=strict")
    attempt.command = (*LACKING, "seccomp", str(errno.ENOSYS), *fake)
    attempt.refused(FAILURE, "seccomp is missing: this kernel has no seccomp")


# -- what is refused -------------------------------------------------------------------------------


def test_a_port_that_was_not_named_is_closed(bucket: Bucket, proxy: Proxy) -> None:
    """A redirect is the server's word, and must not open what nobody asked for."""
    with Proxy(bucket.store.endpoint) as there:
        elsewhere = {"location": f"{there.endpoint}/{bucket.name}/?list-type=2"}
        proxy.on("", faults.s3_error(307, "TemporaryRedirect", headers=elsewhere), times=ALWAYS)
        store = bucket.store.at(proxy.endpoint)
        port = there.endpoint.rpartition(":")[2]
        with (
            pytest.raises(MountFailedError, match=f"port {port} is closed to this worker"),
            Mount(bucket, store=store, allowed=["refused", "retry"]),
        ):
            pass
        assert not there.seen
        with Mount(bucket, "sandbox=off", store=store) as mnt:
            works(mnt, bucket)
        assert there.seen


# -- what works inside -----------------------------------------------------------------------------


def test_a_server_by_its_name(bucket: Bucket) -> None:
    port = bucket.store.endpoint.rpartition(":")[2]
    with Mount(bucket, store=bucket.store.at(f"http://localhost:{port}")) as mnt:
        works(mnt, bucket)


def instance(store: Store, request: Request) -> bytes:
    """Answer as the metadata service of an instance does."""
    if request.path == "/latest/api/token":
        return reply(200, b"metadata-token")
    if request.path.endswith("/security-credentials/"):
        return reply(200, b"the-role")
    keys = store.keys
    return reply(
        200,
        f'{{"Code": "Success", "AccessKeyId": "{keys.access}", "SecretAccessKey": "{keys.secret}",'
        '"Token": "t", "Expiration": "2099-01-01T00:00:00Z"}'.encode(),
    )


STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>
<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>x</AssumedRoleId>
</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def moto(servers: Servers) -> Iterator[Bucket]:
    """A bucket of the server that takes a session token that nobody has issued."""
    with Bucket(servers.moto.store) as bucket:
        yield bucket


def test_the_key_of_an_instance(moto: Bucket) -> None:
    with RawServer.answering(lambda request: instance(moto.store, request)) as service:
        environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url}
        with Mount(moto, environment=environment) as mnt:
            works(mnt, moto)
        assert service.requests


def test_the_key_of_a_pod(moto: Bucket, public: Path) -> None:
    """Its token lies somewhere, for everybody of the pod to read; STS is at a port of its own."""
    token = public / "token"
    token.write_text("identity.of.a.pod")
    keys = moto.store.keys
    answer = STS.format(access=keys.access, secret=keys.secret).encode()
    with RawServer.answering(lambda _: reply(200, answer, content_type="text/xml")) as sts:
        environment = {
            "AWS_ENDPOINT_URL_STS": sts.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with Mount(moto, environment=environment) as mnt:
            works(mnt, moto)
        assert b"WebIdentityToken=identity.of.a.pod" in sts.requests[0].body


@contextmanager
def tunnels() -> Iterator[RawServer]:
    """A proxy that leads each tunnel to the port that was asked for, on this machine."""

    def talk(peer: Peer) -> None:
        if request := peer.request():
            port = int(request.target.rpartition(":")[2])
            with socket.create_connection(("localhost", port)) as onward:
                peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                peer.relay(onward)

    with RawServer(talk) as proxy:
        yield proxy


def test_https_through_a_proxy(servers: Servers, rgw: Store) -> None:
    """The only port that is open is the proxy's."""
    del rgw
    store = servers.rgw.tls
    with Bucket(store) as bucket, tunnels() as proxy:
        environment = store.environment | {"HTTPS_PROXY": proxy.url}
        with Mount(bucket, store=store, environment=environment) as mnt:
            works(mnt, bucket)
        assert all(request.method == "CONNECT" for request in proxy.requests)
        assert proxy.requests


@pytest.mark.keeper
def test_the_key_of_a_program(bucket: Bucket, public: Path) -> None:
    """Which runs beside the sandbox, with no more power; and ends with the mount."""
    keys = bucket.store.keys
    answer = {"Version": 1, "AccessKeyId": keys.access, "SecretAccessKey": keys.secret}
    program, seen = public / "program", public / "seen"
    program.write_text(f"#!/bin/sh\ncat /proc/self/status >{seen}\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    seen.touch()
    seen.chmod(0o666)
    config = public / "config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    nothing = {"AWS_EC2_METADATA_DISABLED": "true"}
    with Mount(bucket, f"config_file={config}", environment=nothing) as mnt:
        works(mnt, bucket)
        assert len(workers()) == 2
        text = seen.read_text()
        assert re.search(r"^CapEff:\t0+$", text, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", text, re.MULTILINE)


def test_an_ordinary_users_own_files(bucket: Bucket, public: Path) -> None:
    """With worker_user= it is that user's home that botocore looks into."""
    keys = bucket.store.keys
    (public / ".aws").mkdir()
    (public / ".aws/credentials").write_text(
        f"[default]\naws_access_key_id = {keys.access}\naws_secret_access_key = {keys.secret}\n"
    )
    user = f"fuse-s3-{os.getpid()}"  # not one that a run before this left here
    assert run("useradd", "--home-dir", str(public), "--no-create-home", user).returncode == 0
    try:
        assert run("chown", "-R", user, str(public)).returncode == 0
        nothing = {"AWS_EC2_METADATA_DISABLED": "true"}
        with Mount(bucket, f"worker_user={user}", environment=nothing) as mnt:
            works(mnt, bucket)
    finally:  # the worker has the user a moment longer than the mount
        wait_until(lambda: run("userdel", user).returncode == 0, "the user to be gone")
