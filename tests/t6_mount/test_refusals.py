"""What cannot be mounted: one line that names the thing and the next step, and nothing left."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import faults
from support.mounts import clean_environment, entries_at, run, workers
from support.proxy import Proxy
from support.s3 import Bucket, Keys, Store
from support.servers import Servers

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]

USAGE, SYSTEM, FAILURE = 1, 2, 32  # exit status of mount(8)
SECRET = "a-secret-that-nobody-may-see"


@dataclass
class Attempt:
    """A mount that is about to be refused."""

    store: Store
    spec: str
    directory: Path
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] | None = None
    command: tuple[str, ...] = ("mount", "-t", "s3")

    def refused(self, status: int, *words: str) -> str:
        """Try it; check everything that is true of all refusals, and that the line has `words`."""
        before = workers()
        options = [f"endpoint_url={self.store.endpoint}", *self.options]
        command = [*self.command, "-o", ",".join(options), "--", self.spec, str(self.directory)]
        environment = self.environment or self.store.environment
        done = run(*command, environment=clean_environment() | environment)
        assert not entries_at(self.directory), run("umount", self.directory)
        assert workers() == before
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("mount.s3: ")
        for word in words:
            assert word in line
        assert done.returncode == status, line
        for secret in (SECRET, self.store.keys.secret):
            assert secret not in line
        return line


@pytest.fixture
def attempt(bucket: Bucket, tmp_path: Path) -> Attempt:
    directory = tmp_path / "mnt"
    directory.mkdir()
    return Attempt(bucket.store, bucket.name, directory)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["bucket"], ["", "/mnt"], ["a", "b", "c"]])
def test_arguments_are_missing(arguments: list[str]) -> None:
    done = run("mount.s3", *arguments)
    assert done.returncode == USAGE
    (line,) = done.stderr.splitlines()
    assert line.startswith("mount.s3: a bucket and a directory are needed; usage: mount.s3 SPEC")


def test_bucket_and_directory_are_swapped(attempt: Attempt) -> None:
    done = run("mount.s3", attempt.directory, attempt.spec)
    assert done.returncode == USAGE
    assert f"mount -t s3 {attempt.spec} {attempt.directory}" in done.stderr
    assert not entries_at(attempt.directory)


@pytest.mark.parametrize("spec", ["ab", ".bucket", "bu cket", "a..b", "s3://", "arn:aws:s3"])
def test_no_bucket_name(attempt: Attempt, spec: str) -> None:
    attempt.spec = spec
    attempt.refused(FAILURE, f"'{spec.removeprefix('s3://')}' is no ")


@pytest.mark.parametrize("spec", ["{}/a//b", "{}/../x", "{}/" + "k" * 1024])
def test_prefix_that_no_path_could_name(attempt: Attempt, spec: str) -> None:
    attempt.spec = spec.format(attempt.spec)
    attempt.refused(FAILURE, "prefix")


# Options, status, and words of the line.
OPTIONS = {
    "unknown": ("part_sise=8M", FAILURE, ["unknown option 'part_sise'", "part_size"]),
    "secret in a wrong place": (f"passwort={SECRET}", FAILURE, ["unknown option 'passwort'"]),
    "key in options": (f"secret_key={SECRET}", FAILURE, ["secret_key", "passwd_file="]),
    "too small": ("part_size=1", FAILURE, ["part_size=1", "5M to 5G"]),
    "too large": ("max_connections=513", FAILURE, ["max_connections=513", "2 to 512"]),
    "no number": ("metadata_ttl=soon", FAILURE, ["metadata_ttl=soon", "seconds"]),
    "no mode": ("umask=999", FAILURE, ["umask=999", "octal"]),
    "no user": ("uid=nobody-at-all", FAILURE, ["uid=nobody-at-all", "no such user"]),
    "two of them": ("part_size=100M,memory_target=64M", FAILURE, ["memory_target", "400M"]),
    "root as worker": ("worker_user=root", USAGE, ["worker_user=root", "never runs as root"]),
    "no worker": ("worker_user=nobody-at-all", USAGE, ["nobody-at-all", "no such user"]),
    "prefix": ("prefix=no/such", FAILURE, ["begins with 'no/such/'", "put-object"]),
    "no URL": ("endpoint_url=ftp://x", FAILURE, ["endpoint_url=ftp://x", "http:// or https://"]),
    "no file": ("passwd_file=/nowhere/x", USAGE, ["passwd_file=/nowhere/x", "No such file"]),
    "relative file": ("passwd_file=passwd", USAGE, ["passwd_file", "absolute path"]),
    "no regular file": ("passwd_file=/etc", USAGE, ["passwd_file=/etc"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(attempt: Attempt, case: str) -> None:
    options, status, words = OPTIONS[case]
    attempt.options = [options]
    attempt.refused(status, *words)


# mount(8) settles these before a helper hears of them, in its own way.
OPTIONS_OF_THE_HELPER = {
    "ro and rw": ("ro,rw", USAGE, ["both ro and rw"]),
    "a value too many": ("ro=1", USAGE, ["'ro' takes no value"]),
    "a value without a name": ("=1", USAGE, ["'=1' has a value but no name"]),
    "an open quote": ('prefix="a', USAGE, ["double quote"]),
}


@pytest.mark.parametrize("case", OPTIONS_OF_THE_HELPER)
def test_options_of_the_helper(attempt: Attempt, case: str) -> None:
    options, status, words = OPTIONS_OF_THE_HELPER[case]
    attempt.options = [options]
    attempt.command = ("mount.s3",)
    attempt.refused(status, *words)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o622])
def test_passwd_file_that_others_may_use(attempt: Attempt, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "passwd"
    path.write_text(f"key:{SECRET}")
    path.chmod(mode)
    attempt.options = [f"passwd_file={path}"]
    attempt.refused(USAGE, f"mode {mode:04o}", f"chmod 600 {path}")


MALFORMED = {
    "one field": f"{SECRET}\n",
    "four fields": f"a:b:c:{SECRET}\n",
    "spaces": f"key: {SECRET}\n",
    "empty key": f":{SECRET}\n",
    "twice": f"key:{SECRET}\nkey2:{SECRET}\n",
    "half a pair": f"AWSSecretKey={SECRET}\n",
    "another bucket": f"another-bucket:key:{SECRET}\n",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_passwd_file_is_malformed(attempt: Attempt, tmp_path: Path, case: str) -> None:
    path = tmp_path / "passwd"
    path.write_text(f"# a comment\n{MALFORMED[case]}")
    path.chmod(0o600)
    attempt.options = [f"passwd_file={path}"]
    attempt.refused(FAILURE, str(path))


def test_no_credentials(attempt: Attempt) -> None:
    attempt.environment = {"AWS_EC2_METADATA_DISABLED": "true"}
    attempt.refused(FAILURE, "no credentials found", "passwd_file=", "no_sign_request")


def test_profile_that_does_not_exist(attempt: Attempt) -> None:
    attempt.options = ["profile=nobodys"]
    attempt.refused(FAILURE, "profile", "nobodys")


# -- the mount point -------------------------------------------------------------------------------


def test_mount_point_is_missing(attempt: Attempt) -> None:
    attempt.directory = attempt.directory / "deeper"
    attempt.refused(FAILURE, str(attempt.directory), f"mkdir -p {attempt.directory}")


def test_mount_point_is_a_file(attempt: Attempt, tmp_path: Path) -> None:
    attempt.directory = tmp_path / "file"
    attempt.directory.touch()
    attempt.refused(FAILURE, f"mount point {attempt.directory}: Not a directory")


def test_ordinary_user(attempt: Attempt) -> None:
    as_nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    done = run(*as_nobody, "mount.s3", attempt.spec, attempt.directory)
    (line,) = done.stderr.splitlines()
    assert line.startswith("mount.s3: only root can mount")
    assert done.returncode == USAGE
    assert not entries_at(attempt.directory)


# -- the server ------------------------------------------------------------------------------------


def test_bucket_is_missing(attempt: Attempt) -> None:
    attempt.spec = "t-there-is-no-such-bucket"
    attempt.refused(FAILURE, attempt.spec, "does not exist", "aws s3 mb")


def test_wrong_secret(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    attempt.environment = attempt.store.environment | {"AWS_SECRET_ACCESS_KEY": SECRET}
    attempt.refused(FAILURE, attempt.spec, "denied: the secret key is wrong")


def test_unknown_access_key(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    attempt.environment = attempt.store.environment | {"AWS_ACCESS_KEY_ID": "AKIANOBODY"}
    attempt.refused(FAILURE, attempt.spec, "denied: the server does not know this access key")


def test_no_permission(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    with Bucket(attempt.store) as closed:
        attempt.spec = closed.name
        attempt.store = attempt.store.as_other()
        attempt.refused(FAILURE, closed.name, "denied", "s3:ListBucket")


def test_nobody_listens(attempt: Attempt) -> None:
    attempt.store = attempt.store.at("http://127.0.0.1:9")
    attempt.refused(FAILURE, "http://127.0.0.1:9 does not answer", "Connection refused")


def test_name_that_does_not_resolve(attempt: Attempt) -> None:
    attempt.store = attempt.store.at("http://no-such-host.invalid")
    attempt.refused(FAILURE, "no-such-host.invalid")


@contextlib.contextmanager
def _silent_server() -> Iterator[str]:
    """Accept connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _deaf_server() -> Iterator[str]:
    """Be an address that answers no connection: its backlog is full, and stays so."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


BLACK_HOLES = {"silent": _silent_server, "deaf": _deaf_server}


@pytest.mark.parametrize("kind", BLACK_HOLES)
def test_black_hole_ends_within_the_time_mount_has(kind: str, tmp_path: Path) -> None:
    with BLACK_HOLES[kind]() as url:
        attempt = Attempt(Store("none", url, Keys("key", SECRET)), "a-bucket", tmp_path)
        attempt.refused(FAILURE, url, "does not answer")


def test_server_that_is_none(attempt: Attempt) -> None:
    with Proxy(attempt.store.endpoint) as proxy:
        attempt.store = attempt.store.at(proxy.endpoint)
        proxy.on("", faults.html(), times=1000)
        attempt.refused(FAILURE, proxy.endpoint, "does not answer as an S3 server does")


def test_server_that_is_out_of_order(attempt: Attempt) -> None:
    with Proxy(attempt.store.endpoint) as proxy:
        attempt.store = attempt.store.at(proxy.endpoint)
        rule = proxy.on("", faults.s3_error(500, "InternalError", "We broke"), times=1000)
        attempt.refused(FAILURE, attempt.spec, "We broke", "request id FAULT0001")
        assert rule.applied > 1
