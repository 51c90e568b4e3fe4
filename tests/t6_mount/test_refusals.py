"""What cannot be mounted: one line that names the thing and the next step, and nothing left."""

from pathlib import Path

import pytest

from support.attempts import FAILURE, SECRET, USAGE, Attempt
from support.mounts import entries_at, run
from support.proxy import Proxy
from support.s3 import Bucket

pytestmark = [
    pytest.mark.mount,
    pytest.mark.one_store,
    pytest.mark.usefixtures("product"),
]


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
    "no URL": ("endpoint_url=ftp://x", FAILURE, ["endpoint_url=ftp://x", "http:// or https://"]),
    "no file": ("passwd_file=/nowhere/x", USAGE, ["passwd_file=/nowhere/x", "No such file"]),
    "relative file": ("passwd_file=passwd", USAGE, ["passwd_file", "absolute path"]),
    "no regular file": ("passwd_file=/etc", USAGE, ["passwd_file=/etc"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(attempt: Attempt, proxy: Proxy, case: str) -> None:
    """[S76] An option that is not known, or has a bad value, is refused before anything is
    mounted.
    """
    options, status, words = OPTIONS[case]
    attempt.options = [options]
    attempt.store = attempt.store.at(proxy.endpoint)
    attempt.refused(status, *words)
    assert not proxy.seen  # and before anybody is asked


@pytest.mark.parametrize("form", ["{}/no/such", "s3://{}/no/such/", "{}:/no/such"])
def test_prefix_that_no_key_has(bucket: Bucket, attempt: Attempt, form: str) -> None:
    """[S77] A prefix that no key begins with cannot be mounted."""
    bucket.put_many([("no/suc", b"1"), ("no/such", b"1"), ("no/such.txt", b"1")])
    attempt.spec = form.format(bucket.name)
    attempt.refused(FAILURE, "begins with 'no/such/'", "put-object")
    attempt.spec, attempt.options = bucket.name, ["prefix=no/such"]
    attempt.refused(FAILURE, "begins with 'no/such/'", "put-object")


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
