"""Who takes part: one row for each program and set of options, and how it mounts.

All have the same server, bucket and keys, and a cache or spool directory in memory if they want
one. Options are those that each program's own documentation recommends for the purpose; every row
says what they are. Who is not installed and not in Debian is left out.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["CONTESTANTS", "OURS", "Contestant", "Kind", "Setting", "program"]

OURS = "fuse-s3"

_ACCESS_KEY, _SECRET_KEY = "bench-access-key", "bench-secret-key"

Kind = str
"""What a workload is about, which options may depend on: read, write, names; or known names, which
were listed and are to be believed for as long as it takes."""

_ALL = frozenset({"read", "write", "names", "known"})


class Setting(NamedTuple):
    """Where a contestant mounts what.

    `scratch` is a directory of its own, in memory; `ca` is the certificate to trust, with TLS.
    """

    url: str
    bucket: str
    directory: Path
    scratch: Path
    ca: Path | None = None


@dataclass(frozen=True)
class Contestant:
    """One row.

    Attributes:
        name: for the command line and the tables.
        executable: what is looked for on PATH; the variable of the same name in capitals, with
            underscores, names another one.
        package: Debian's; "" for what is not Debian's.
        options: what a reader of the tables should know.
        command: how it mounts.
        environment: what it needs beside the common variables.
        kinds: the kinds of workload in which these options make a difference.
        needs_flag: a flag that not every version has.
        ca_variable: names the certificates that it trusts; OpenSSL and Go have this one.
        stays: whether it stays in the foreground.
    """

    name: str
    executable: str
    package: str
    options: str
    command: Callable[[Setting, Kind], list[str]]
    environment: Callable[[Setting], dict[str, str]] = lambda _setting: {}
    kinds: frozenset[Kind] = _ALL
    needs_flag: str = ""
    ca_variable: str = "SSL_CERT_FILE"
    stays: bool = False

    def prepare(self, setting: Setting) -> dict[str, str]:
        """Write what it finds its keys in; return its environment."""
        passwd = setting.scratch / "passwd"
        passwd.touch(mode=0o600)
        passwd.write_text(f"{_ACCESS_KEY}:{_SECRET_KEY}\n")
        common = {
            "PATH": os.environ["PATH"],
            "HOME": str(setting.scratch),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        trusted = {self.ca_variable: str(setting.ca)} if setting.ca else {}
        return common | trusted | self.environment(setting)

    def missing(self) -> str:
        """Say why it cannot take part; "" when it can."""
        path = program(self.executable)
        if path is None:
            return f"{self.executable} is not installed"
        if self.needs_flag:
            done = subprocess.run(
                [path, "mount", "--help"], check=False, capture_output=True, text=True
            )
            if self.needs_flag not in done.stdout:
                return f"this version of {self.executable} has no {self.needs_flag}"
        return ""


def program(executable: str) -> str | None:
    """Return the path of a program; RCLONE=/opt/bin/rclone names another one than PATH does."""
    named = os.environ.get(executable.upper().replace(".", "_"))
    return shutil.which(named or executable, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")


# s3fs believes names for 15 minutes, rclone for 5.
_OURS_BELIEVING = {"known": ",metadata_ttl=300"}


def _ours(setting: Setting, kind: Kind) -> list[str]:
    named = os.environ.get("MOUNT_S3")
    begin = [named] if named else ["mount", "-t", "s3"]
    options = f"endpoint_url={setting.url}{_OURS_BELIEVING.get(kind, '')}"
    return [*begin, setting.bucket, str(setting.directory), "-o", options]


def _s3fs(*more: str) -> Callable[[Setting, Kind], list[str]]:
    def command(setting: Setting, _: Kind) -> list[str]:
        options = [
            f"url={setting.url}",
            "use_path_request_style",
            f"passwd_file={setting.scratch / 'passwd'}",
            f"tmpdir={setting.scratch}",
            *more,
        ]
        s3fs = program("s3fs") or "s3fs"
        return [s3fs, setting.bucket, str(setting.directory), "-o", ",".join(options)]

    return command


# What is read goes straight to the program; what is written is spooled, as most programs need
# it, and uploaded when the file is closed, not 5 seconds later.
_RCLONE_MODES = {"write": "--vfs-cache-mode=writes --vfs-write-back=0s"}


def _rclone(modes: Mapping[Kind, str], *more: str) -> Callable[[Setting, Kind], list[str]]:
    def command(setting: Setting, kind: Kind) -> list[str]:
        remote = f"bench:{setting.bucket}"
        mode = modes.get(kind, "--vfs-cache-mode=off").split()
        # The server keeps no metadata: asking it for rclone's own times would be in vain.
        cache = [f"--cache-dir={setting.scratch}", "--use-server-modtime"]
        rclone = program("rclone") or "rclone"
        return [rclone, "mount", remote, str(setting.directory), *mode, *cache, *more]

    return command


def _rclone_environment(setting: Setting) -> dict[str, str]:
    remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": setting.url,
        "ACCESS_KEY_ID": _ACCESS_KEY,
        "SECRET_ACCESS_KEY": _SECRET_KEY,
        "FORCE_PATH_STYLE": "true",
        "NO_CHECK_BUCKET": "true",
    }
    variables = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in remote.items()}
    return variables | {"RCLONE_CONFIG": str(setting.scratch / "rclone.conf")}


def _mount_s3(setting: Setting, _: Kind) -> list[str]:
    options = ["--endpoint-url", setting.url, "--force-path-style", "--region", "us-east-1"]
    options += ["--allow-delete", "--allow-overwrite"]
    return [program("mount-s3") or "mount-s3", *options, setting.bucket, str(setting.directory)]


def _goofy(name: str) -> Callable[[Setting, Kind], list[str]]:
    """Return the command of goofys and of what became of it."""

    def command(setting: Setting, _: Kind) -> list[str]:
        found = program(name) or name
        return [found, "--endpoint", setting.url, setting.bucket, str(setting.directory)]

    return command


_ROWS: tuple[Contestant, ...] = (
    Contestant(OURS, "mount.s3", "", "no options", _ours, ca_variable="AWS_CA_BUNDLE"),
    Contestant("s3fs", "s3fs", "s3fs", "default options", _s3fs(), ca_variable="CURL_CA_BUNDLE"),
    Contestant(
        "s3fs-32",
        "s3fs",
        "s3fs",
        "parallel_count=32",
        _s3fs("parallel_count=32"),
        kinds=frozenset({"read", "write"}),
        ca_variable="CURL_CA_BUNDLE",
    ),
    Contestant(
        "rclone",
        "rclone",
        "rclone",
        "--vfs-cache-mode off for reading, writes for writing",
        _rclone(_RCLONE_MODES),
        _rclone_environment,
        stays=True,
    ),
    Contestant(
        "rclone-16",
        "rclone",
        "rclone",
        "--vfs-cache-mode off --s3-upload-concurrency 16 --s3-chunk-size 16M",
        _rclone({}, "--s3-upload-concurrency=16", "--s3-chunk-size=16M"),
        _rclone_environment,
        kinds=frozenset({"write"}),
        stays=True,
    ),
    Contestant(
        "rclone-streams",
        "rclone",
        "rclone",
        "--vfs-read-chunk-streams 16 --vfs-read-chunk-size 4M",
        _rclone({}, "--vfs-read-chunk-streams=16", "--vfs-read-chunk-size=4M"),
        _rclone_environment,
        kinds=frozenset({"read"}),
        needs_flag="--vfs-read-chunk-streams",
        stays=True,
    ),
)

_ROWS += (
    Contestant("mount-s3", "mount-s3", "", "default options", _mount_s3),
    Contestant("geesefs", "geesefs", "", "default options", _goofy("geesefs")),
    Contestant("goofys", "goofys", "", "default options", _goofy("goofys")),
)

CONTESTANTS = {row.name: row for row in _ROWS}
