"""`fuse-s3 doctor`: each finding, provoked; and that it takes away what it has put there."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest

from fuse_s3_cli.doctor.bucket import examine_bucket
from fuse_s3_cli.doctor.findings import Finding, Outcome
from fuse_s3_cli.doctor.machine import Machine, examine_machine
from fuse_s3_control.places import RUNTIME
from install import make_runtime
from support import faults
from support.mounts import Mount, clean_environment, run
from support.process import free_port
from support.proxy import Proxy
from support.s3 import Bucket, Keys, Store
from support.servers import Servers

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]

ALWAYS = 1 << 30
HELPER = Path("/sbin/mount.s3")
Found = dict[str, tuple[str, str, str]]
ACTIONS = ("list", "put", "get", "copy", "multipart", "abort", "delete")


def named(findings: Iterable[Finding]) -> Found:
    found = [*findings]
    for one in found:
        assert one.advice or one.outcome in {Outcome.OK, Outcome.SKIPPED}, one
    return {one.name: (one.outcome, one.text, one.advice) for one in found}


def tried(spec: str, *options: str, store: Store, keys: Keys | None = None) -> Found:
    """Try a bucket; return by name (outcome, text, advice)."""
    keys = keys or store.keys
    environment = clean_environment(store)
    environment |= {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret}
    words = ",".join([f"endpoint_url={store.endpoint}", *options])
    with mock.patch.dict(os.environ, environment, clear=True):
        found = named(examine_bucket(HELPER, spec, words))
    assert keys.secret not in str(found)
    return found


def failed(found: Found) -> set[str]:
    return {name for name, (outcome, _, _) in found.items() if outcome == Outcome.FAILED}


def outcomes(found: Found) -> dict[str, str]:
    return {name: outcome for name, (outcome, _, _) in found.items() if name in ACTIONS}


def test_a_good_machine_and_a_good_bucket(bucket: Bucket) -> None:
    bucket.put("pre/there", b"1")
    words = f"endpoint_url={bucket.store.endpoint},log_file=/nonexistent/x"
    command = ("fuse-s3", "doctor", f"{bucket.name}/pre", "-o", words, "--json")
    done = run(*command, environment=clean_environment(bucket.store))
    found = {one["name"]: one["outcome"] for one in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (0, "")
    looks = ("kernel", "fuse", "helper", "release", "worker", "user", "control", "mounts")
    expected = dict.fromkeys((*looks, "sandbox", "clock", *ACTIONS), "ok")
    assert {name: how for name, how in found.items() if name != "units"} == expected
    assert bucket.keys() == ["pre/there"]
    assert bucket.uploads() == []


def test_people_read_a_line_for_each_and_what_to_do(bucket: Bucket) -> None:
    words = f"endpoint_url={bucket.store.endpoint}"
    command = ("fuse-s3", "doctor", "no-such-bucket", "-o", words)
    done = run(*command, environment=clean_environment(bucket.store))
    assert done.returncode == 1
    assert done.stderr == ""
    assert "ok       fuse: /dev/fuse can be opened\n" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("failed   bucket: ")
    assert done.stdout.splitlines()[-1].startswith("         -> correct the bucket's name")


def test_a_read_only_mount_is_not_written_to(bucket: Bucket, proxy: Proxy) -> None:
    bucket.put("a", b"1")
    found = tried(bucket.name, "ro", store=bucket.store.at(proxy.endpoint))
    assert outcomes(found) == {"list": "ok", "get": "ok"}
    assert set(proxy.counts()) <= {"ListObjectsV2", "GetObject", "HeadObject"}


def test_no_bucket_no_server_and_no_option(bucket: Bucket) -> None:
    store = bucket.store
    found = tried("no-such-bucket-anywhere", store=store)
    assert failed(found)
    assert "no-such-bucket-anywhere" in found["bucket"][1]
    assert "make the bucket" in found["bucket"][2]
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = tried(bucket.name, store=store.at(nowhere))
    assert nowhere in found["bucket"][1]
    assert "endpoint_url=" in found["bucket"][2]
    found = tried(bucket.name, "part_siez=8M", store=store)
    assert "did you mean 'part_size'?" in found["bucket"][1]
    assert "mount.s3 --help" in found["bucket"][2]
    found = tried(bucket.name, 'region="eu', store=store)
    assert "never closed" in found["options"][1]


def test_wrong_keys_and_a_policy_that_lets_nothing_be_written(servers: Servers) -> None:
    store = servers.moto_with_users.store
    with Bucket(store) as bucket:
        bucket.put("a", b"1")
        found = tried(bucket.name, store=store, keys=Keys(store.keys.access, "x" * 40))
        assert "secret key is wrong" in found["bucket"][1]
        assert "AWS_SECRET_ACCESS_KEY" in found["bucket"][2]
        found = tried(bucket.name, store=store, keys=Keys("AKIANOTTHERE00000000", "y" * 40))
        assert "access key" in found["bucket"][2]
        assert store.other is not None
        found = tried(bucket.name, store=store, keys=store.other)
        assert "s3:ListBucket" in found["bucket"][2]
        with reader_of(store, bucket.name) as keys:
            found = tried(bucket.name, store=store, keys=keys)
            assert outcomes(found) == {
                "list": "ok", "put": "failed", "get": "ok", "copy": "skipped",
                "multipart": "failed", "delete": "failed",
            }  # fmt: skip
            assert "AccessDenied" in found["put"][1]
            assert "s3:PutObject" in found["put"][2]
            assert "s3:DeleteObject" in found["delete"][2]
        assert bucket.keys() == ["a"]


@contextmanager
def reader_of(store: Store, bucket: str) -> Iterator[Keys]:
    """Make a user who may list and get, and nothing else."""
    statement = [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"},
    ]
    iam = store.client("iam")
    iam.create_user(UserName="reader")
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    yield Keys(key["AccessKeyId"], key["SecretAccessKey"])
    iam.close()


@pytest.mark.parametrize(
    ("operation", "broken"),
    [
        ("PutObject", {"put": "failed", "copy": "skipped"}),
        ("CopyObject", {"copy": "failed"}),
        ("CreateMultipartUpload", {"multipart": "failed", "abort": "absent"}),
        ("AbortMultipartUpload", {"abort": "failed"}),
        ("DeleteObject", {"delete": "failed"}),
    ],
)
def test_each_request_that_a_policy_refuses_is_named(
    bucket: Bucket, proxy: Proxy, operation: str, broken: dict[str, str]
) -> None:
    bucket.put("a", b"1")
    proxy.on(operation, faults.s3_error(403, "AccessDenied"), times=ALWAYS)
    found = tried(bucket.name, store=bucket.store.at(proxy.endpoint))
    assert failed(found)
    wanted = dict.fromkeys(ACTIONS, "ok") | broken
    assert outcomes(found) == {name: how for name, how in wanted.items() if how != "absent"}
    proxy.heal()


@pytest.mark.parametrize(
    ("ahead", "outcome"),
    [(timedelta(seconds=120), "warning"), (timedelta(hours=-2), "failed")],
)
def test_a_clock_that_is_off_is_told_with_how_much(
    servers: Servers, ahead: timedelta, outcome: str
) -> None:
    store = servers.moto.store  # which does not mind when something was signed
    with Bucket(store) as bucket, Proxy(store.endpoint) as proxy:
        proxy.on("", faults.clock(ahead), times=ALWAYS)
        found = tried(bucket.name, store=store.at(proxy.endpoint))
    how, text, advice = found["clock"]
    assert how == outcome
    assert "ahead" in text if ahead > timedelta() else "behind" in text
    seconds = next(int(word) for word in text.split() if word.isdecimal())
    assert abs(seconds - abs(ahead.total_seconds())) <= 5
    assert "timedatectl" in advice
    # what is signed with the server's time works all the same
    assert outcomes(found) == dict.fromkeys(ACTIONS, "ok")


def test_a_server_that_is_none(bucket: Bucket, proxy: Proxy) -> None:
    proxy.on("", faults.html(200), times=ALWAYS)
    found = tried(bucket.name, store=bucket.store.at(proxy.endpoint))
    assert "something else answers there" in found["bucket"][2]


def test_a_mount_that_nobody_answers_for_is_told_with_what_to_do(bucket: Bucket) -> None:
    assert looked("mounts")["mounts"][0] == "ok"
    shutil.rmtree(RUNTIME)
    try:
        with Mount(bucket) as mnt:
            found = list(examine_machine(Machine(), "mounts"))
            assert [one.outcome for one in found] == ["warning", "ok"]
            assert f"umount -l {mnt.path}" in found[0].advice
    finally:
        make_runtime()


def looked(*only: str, machine: Machine | None = None) -> Found:
    return named(examine_machine(machine or Machine(), *only))


def test_what_is_installed_is_looked_at(bucket: Bucket) -> None:
    with moved(Path("/sbin/mount.fuse.s3")):
        assert looked("helper")["helper_link"][0] == "warning"
    with moved(Path("/usr/lib/fuse-s3/bin/fuse-s3-worker")):
        assert looked("worker")["worker"][0] == "failed"
    with moved(HELPER):
        found = looked("helper", "worker")
        assert found["helper"] == ("failed", "mount.s3 is not installed", "make install")
        assert found["worker"][0] == "skipped"
    assert [one.outcome for one in examine_bucket(None, bucket.name, "")] == ["skipped"]
    shutil.rmtree(RUNTIME)
    try:
        outcome, _, advice = looked("control")["control"]
        assert outcome == "warning"
        assert f"install -d -o fuse-s3 -g fuse-s3 -m 755 {RUNTIME}" in advice
        RUNTIME.mkdir()
        assert looked("control")["control"][0] == "failed"
    finally:
        make_runtime()
    assert not failed(looked())


def spoilt_helper(directory: Path, text: str, mode: int) -> Machine:
    """Return a machine with another helper; in a directory that only root can write to."""
    helper = directory / "mount.s3"
    helper.write_text(text)
    helper.chmod(mode)
    return Machine(helper_places=str(directory))


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("#!/usr/bin/python3 -IS\n", 0o777, "others than root may change"),
        ("#!/usr/bin/python3 -IS\n", 0o4755, "setuid"),
        ("#!/usr/bin/python3\n", 0o755, "does not run isolated"),
    ],
)
def test_a_helper_that_is_not_roots_alone_is_told(text: str, mode: int, said: str) -> None:
    with TemporaryDirectory(dir="/usr/lib") as directory:
        Path(directory).chmod(0o755)
        machine = spoilt_helper(Path(directory), text, mode)
        found = looked("helper", "worker", machine=machine)
        assert found["helper"][0] == "failed"
        assert said in found["helper"][1]
        assert found["release"][0] == "failed"  # it says nothing of a version


@pytest.mark.keeper
def test_kernel_device_user_and_units(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("nodev tmpfs\n")
    assert looked("kernel", machine=Machine(release="5.1.0"))["kernel"][0] == "failed"
    assert looked("kernel", machine=Machine(release="5.10.3-amd64"))["kernel"][0] == "warning"
    assert looked("fuse", machine=Machine(filesystems=file))["fuse"][2] == "modprobe fuse"
    assert (
        "--device /dev/fuse" in looked("fuse", machine=Machine(device=tmp_path / "none"))["fuse"][2]
    )
    assert "mknod" in looked("fuse", machine=Machine(device=file))["fuse"][2]
    found = looked("user", "control", machine=Machine(user="nobody-of-this-name"))
    assert found["user"][0] == "warning"
    assert "control" not in found
    assert looked("user", machine=Machine(user="root"))["user"][0] == "failed"
    assert looked("units", machine=Machine(supervised=tmp_path / "none"))["units"][0] == "skipped"
    assert looked("units", machine=Machine(supervised=tmp_path))["units"][0] in {
        "skipped",
        "warning",
    }


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Have a file away for a while."""
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)
