"""Every setting: its default, its edges, its other names, and its row in the documentation."""

import grp
import math
import os
import pwd
import re
from typing import Any

import pytest

from fuse_s3_worker.config import describe
from fuse_s3_worker.config.foreign import NO_EFFECT, REFUSED
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.config.parse import _ALIASES, ConfigurationError, configure, option_of

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NAMES = list(Settings.model_fields)


def setting(name: str, options: str) -> Any:  # noqa: ANN401  each has its own type
    return getattr(configure("bucket", options).settings, name)


DEFAULTS: dict[str, object] = {
    "uid": None,
    "gid": None,
    "umask": 0o022,
    "file_mode": None,
    "dir_mode": None,
    "posix": False,
    "prefix": "",
    "region": "",
    "endpoint_url": "",
    "path_style": None,
    "dual_stack": False,
    "fips": False,
    "accelerate": False,
    "tls_verify": True,
    "profile": "",
    "no_sign_request": False,
    "requester_pays": False,
    "expected_bucket_owner": "",
    "storage_class": "",
    "sse": "",
    "sse_kms_key_id": "",
    "acl": "",
    "content_type": "auto",
    "part_size": 8 * MIB,
    "max_connections": 32,
    "memory_target": 256 * MIB,
    "cache": "",
    "write_back": 0.0,
    "metadata_ttl": 1.0,
    "rename_dir_limit": 100_000,
    "upload_checksum": "auto",
    "sandbox": "best-effort",
    "engine": "native",
    "restart_limit": 5,
    "log_level": "info",
    "examine": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name: str) -> None:
    assert setting(name, "") == DEFAULTS[name]


FLAGS = {
    "": True, "=yes": True, "=1": True, "=true": True, "=on": True, "=YES": True,
    "=no": False, "=0": False, "=false": False, "=off": False,
}  # fmt: skip
MODES = {"=0": 0, "=0777": 0o777, "=644": 0o644, "=0022": 0o022}
BAD_MODES = ["", "=", "=0778", "=1000", "=-1", "=rwx", "=0o644x"]
NUMBERS = {"=0": 0, "=4294967294": 2**32 - 2, "=00012": 12, "=root": 0}
BAD_NUMBERS = ["", "=", "=-1", "=4294967295", "=1.5", "=no-such-name-here", "=0x10"]

# For each option: what is right, with the value it becomes; and what is wrong.
EDGES: dict[str, tuple[dict[str, object], list[str]]] = {
    "uid": (dict(NUMBERS), BAD_NUMBERS),
    "gid": (dict(NUMBERS), BAD_NUMBERS),
    "umask": (dict(MODES), BAD_MODES),
    "file_mode": (dict(MODES), BAD_MODES),
    "dir_mode": (dict(MODES), BAD_MODES),
    "posix": (dict(FLAGS), ["=maybe", "=2"]),
    "prefix": (
        {"=a/b": "a/b", "=/a/": "/a/", "": ""}, ["=a//b", "=../x", "=a/./b", "=" + "x" * 1024],
    ),
    "region": ({"=eu-west-1": "eu-west-1", "=default": "default"}, ["=EU-WEST-1", "=a b", "=a/b"]),
    "endpoint_url": (
        {
            "=http://h": "http://h",
            "=https://h:9000/base": "https://h:9000/base",
            "=http://[::1]:9000": "http://[::1]:9000",
        },
        ["=h", "=h:9000", "=ftp://h", "=http://", "=http://h?x", "=http://h#x", "=http://a b",
         "=http://hü", "=http://h/ü"],
    ),
    "path_style": (dict(FLAGS), ["=maybe", "=2"]),
    "dual_stack": (dict(FLAGS), ["=maybe", "=2"]),
    "fips": (dict(FLAGS), ["=maybe"]),
    "accelerate": (dict(FLAGS), ["=maybe"]),
    "tls_verify": (dict(FLAGS), ["=2"]),
    "profile": ({"=my profile": "my profile"}, ["=" + "x" * 4097]),
    "no_sign_request": (dict(FLAGS), ["=maybe"]),
    "requester_pays": (dict(FLAGS), ["=maybe"]),
    "expected_bucket_owner": (
        {"=012345678901": "012345678901"}, ["=1234", "=0123456789012", "=abcdefghijkl"],
    ),
    "storage_class": (
        {"=STANDARD_IA": "STANDARD_IA", "=glacier_ir": "GLACIER_IR"}, ["=a b", "=a-b", "=x1"],
    ),
    "sse": (
        {"=AES256": "AES256", "=aws:kms": "aws:kms", "=aws:kms:dsse": "aws:kms:dsse",
         "=customer": "customer"},
        ["=aes256", "=kms", "=custom:/etc/key"],
    ),
    "sse_kms_key_id": ({}, ["=no-sse-beside-it", "=a b", "=a\r\nb: c", "=ü"]),
    "acl": (
        {"=private": "private", "=bucket-owner-full-control": "bucket-owner-full-control"},
        ["=public", "=PRIVATE", "=a\r\nb: c"],
    ),
    "content_type": (
        {"=auto": "auto", "=off": "off", "=text/plain": "text/plain",
         "=text/html; charset=utf-8": "text/html; charset=utf-8"},
        ["", "=html", "=text/", "=/plain", "=a b/c", "=text/plain\r\nb: c"],
    ),
    "part_size": (
        {"=5M": 5 * MIB, "=5242880": 5 * MIB, "=16MiB": 16 * MIB, "=16mb": 16 * MIB,
         "=65536K": 64 * MIB},
        ["", "=0", "=5242879", "=4M", "=6G", "=5121M", "=8 M", "=8.5M", "=-8M", "=M", "=8X"],
    ),
    "max_connections": ({"=2": 2, "=512": 512}, ["", "=1", "=513", "=-5", "=many", "=4.5"]),
    "memory_target": ({"=32M": 32 * MIB, "=1024G": 1024 * GIB, "=1T": 1024 * GIB},
                      ["=31M", "=1025G", "=33554431", "=half"]),
    "cache": (
        {"=/": "/", "=/var/cache/fuse s3": "/var/cache/fuse s3", "": "", "=": ""},
        ["=var/cache", "=~/cache", "=/" + "x" * 4096],
    ),
    "write_back": ({"=0": 0.0, "=0.5": 0.5, "=86400": 86400.0},
                   ["", "=-1", "=86401", "=indefinite", "=soon", "=5"]),
    "rename_dir_limit": ({"=0": 0, "=5": 5}, ["", "=-1", "=many", "=1.5"]),
    "metadata_ttl": (
        {"=0": 0.0, "=0.5": 0.5, "=900": 900.0, "=indefinite": math.inf,
         "=3155760000": 3155760000.0},
        ["", "=-1", "=soon", "=nan", "=inf", "=infinity", "=3155760001", "=1e300"],
    ),
    "upload_checksum": ({f"={x}": x for x in ("auto", "crc32c", "crc64nvme", "off")}, ["", "=md5"]),
    "sandbox": ({f"={x}": x for x in ("best-effort", "strict", "off")}, ["", "=on", "=no"]),
    "engine": ({"=native": "native", "=libfuse": "libfuse"}, ["", "=fuse", "=LIBFUSE"]),
    "restart_limit": ({"=0": 0, "=1000": 1000}, ["", "=-1", "=1001", "=never", "=0.5"]),
    "examine": (dict(FLAGS), ["=maybe"]),
    "log_level": ({f"={x}": x for x in ("error", "warning", "info", "debug")}, ["", "=loud", "=4"]),
}  # fmt: skip


# What some need beside them.
BESIDE = {"part_size": ",memory_target=1024G", "write_back": ",cache=/var/cache/x"}


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [(name, word, value) for name, (right, _) in EDGES.items() for word, value in right.items()],
)
def test_what_is_right(name: str, word: str, value: object) -> None:
    beside = BESIDE.get(name, "")
    found = setting(name, f"{name}{word}{beside}")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, (_, wrong) in EDGES.items() for word in wrong]
)
def test_what_is_wrong_is_refused_with_what_would_be_right(name: str, word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure("bucket", f"{name}{word}")
    text = str(caught.value)
    assert name in text or name == "prefix"
    two = {"prefix", "sse_kms_key_id", "metadata_ttl", "write_back"}  # options in one sentence
    assert name in two or option_of(name).values in text
    assert "\n" not in text.replace("\r\n", "")
    assert "pydantic" not in text


def test_the_tables_of_this_file_know_every_option() -> None:
    assert set(DEFAULTS) == set(EDGES) == set(NAMES)


def test_options_that_depend_on_one_another() -> None:
    with pytest.raises(ConfigurationError, match="sse_kms_key_id: needs sse=aws:kms"):
        configure("bucket", "sse_kms_key_id=k,sse=AES256")
    assert setting("sse_kms_key_id", "sse_kms_key_id=k,sse=aws:kms:dsse") == "k"
    with pytest.raises(
        ConfigurationError, match="memory_target: 32M is too little for parts of 9M"
    ):
        configure("bucket", "memory_target=32M,part_size=9M")
    assert setting("part_size", "memory_target=32M,part_size=8M") == 8 * MIB
    with pytest.raises(ConfigurationError, match="write_back: needs cache=DIRECTORY"):
        configure("bucket", "write_back=5")
    assert setting("write_back", "write_back=5,cache=/var/cache/x") == 5.0


def test_settings_do_not_change() -> None:
    settings = configure("bucket", "").settings
    with pytest.raises(ValueError, match="frozen"):
        settings.umask = 0


def test_the_name_of_a_user_on_this_machine() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    assert setting("uid", f"uid={user.pw_name}") == user.pw_uid
    assert setting("gid", f"gid={group.gr_name}") == group.gr_gid
    with pytest.raises(ConfigurationError, match="no such user on this machine"):
        configure("bucket", "uid=no-such-user-here")


# -- other names -----------------------------------------------------------------------------------

# Each alias, an option as it stands in an fstab line, and what it means here.
ALIASES: dict[str, list[tuple[str, object]]] = {
    "endpoint": [("=eu-west-1", "eu-west-1")],
    "url": [("=https://h", "https://h")],
    "host": [("=http://h:9000", "http://h:9000")],
    "use_path_request_style": [("", True)],
    "force-path-style": [("", True), ("=no", False)],
    "transfer-acceleration": [("", True)],
    "no_check_certificate": [("", False)],
    "ssl_verify_hostname": [("=0", False), ("=1", True)],
    "public_bucket": [("=1", True), ("=0", False)],
    "use_rrs": [("", "REDUCED_REDUNDANCY"), ("=1", "REDUCED_REDUNDANCY"), ("=0", "STANDARD")],
    "use_sse": [
        ("", "AES256"), ("=1", "AES256"), ("=aws:kms", "aws:kms"),
        ("=custom", "customer"), ("=c:/etc/key", "customer"),
    ],
    "use_xattr": [("", True), ("=1", True), ("=0", False)],
    "default_acl": [("=public-read", "public-read")],
    "infer-content-type": [("", "auto")],
    "multipart_size": [("=10", 10 * MIB), ("=64", 64 * MIB)],
    "write-part-size": [("=8388608", 8 * MIB)],
    "max_thread_count": [("=10", 10)],
    "parallel_count": [("=5", 5)],
    "multireq_max": [("=20", 20)],
    "memory-target": [("=512", 512 * MIB)],
    "metadata-ttl": [("=60", 60.0), ("=indefinite", math.inf), ("=minimal", 1.0)],
    "stat_cache_expire": [("=900", 900.0)],
    "upload-checksums": [("=crc32c", "crc32c"), ("=off", "off")],
    "dbglevel": [
        ("=silent", "error"), ("=crit", "error"), ("=critical", "error"), ("=err", "error"),
        ("=error", "error"), ("=wan", "warning"), ("=warn", "warning"), ("=warning", "warning"),
        ("=inf", "info"), ("=info", "info"), ("=information", "info"), ("=dbg", "debug"),
        ("=debug", "debug"), ("=INFO", "info"),
    ],
    "debug": [("", "debug")],
}  # fmt: skip


def test_the_table_of_this_file_knows_every_alias() -> None:
    assert set(ALIASES) == set(_ALIASES)


@pytest.mark.parametrize(
    ("alias", "word", "value"),
    [(alias, word, value) for alias, words in ALIASES.items() for word, value in words],
)
def test_an_alias_means_what_its_program_means(alias: str, word: str, value: object) -> None:
    configuration = configure("bucket", f"{alias}{word}")
    assert getattr(configuration.settings, _ALIASES[alias][0][0]) == value
    assert configuration.notes == []


@pytest.mark.parametrize("name", [name for name in NAMES if "_" in name])
def test_hyphens_are_as_good_as_underscores(name: str) -> None:
    """Mountpoint's options are our names with hyphens, where no alias says otherwise."""
    hyphened = name.replace("_", "-")
    if hyphened in _ALIASES:
        return  # in the table above
    right, _ = EDGES[name]
    word, value = next(iter(right.items()), ("=k,sse=aws:kms", "k"))
    assert setting(name, f"{hyphened}{word}{BESIDE.get(name, '')}") == value


def test_no_name_has_two_meanings() -> None:
    names = [*NAMES, *_ALIASES, *NO_EFFECT, *REFUSED]
    assert len(names) == len(set(names))
    helpers = {"passwd_file", "ca_bundle", "log_file", "private", "worker_user", "ro"}
    assert not helpers & set(names)


# -- documentation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_documented(name: str) -> None:
    option, text = option_of(name), Settings.model_fields[name].description
    assert option.values
    assert option.shown_default
    assert text
    assert text[0].islower()
    assert not text.endswith(".")
    assert f"`{name}`" in describe.markdown_table()
    assert re.search(rf"^  {name}=", describe.help_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in NAMES if DEFAULTS[name] not in (None, "")])
def test_the_default_that_is_shown_is_the_default(name: str) -> None:
    """The word itself is taken as a value, and gives what is the case without it."""
    shown = option_of(name).shown_default
    assert setting(name, f"{name}={shown}") == DEFAULTS[name]


@pytest.mark.parametrize("name", ["part_size", "memory_target", "max_connections"])
def test_the_range_that_is_shown_is_the_range(name: str) -> None:
    low, high = option_of(name).values.split(" to ")
    beside = ",memory_target=1024G" if name == "part_size" else ""
    for word in (low, high):
        configure("bucket", f"{name}={word}{beside}")


def test_help_fits_a_terminal_and_is_always_the_same() -> None:
    text = describe.help_text()
    assert text == describe.help_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(line.isprintable() for line in text.splitlines())


def test_the_table_for_the_documentation_is_a_table() -> None:
    text = describe.markdown_table()
    assert text == describe.markdown_table()
    rows = [line for line in text.splitlines() if line]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert rows[0].startswith("| option | values | default |")
    for alias in _ALIASES:
        assert f"`{alias}`" in text


def test_options_of_the_helper_are_in_the_table_too() -> None:
    for text in (describe.help_text(), describe.markdown_table()):
        for name in ("ro", "owner_only", "worker_user", "passwd_file", "ca_bundle", "log_file"):
            assert name in text


def test_every_remark_says_something() -> None:
    for remarks in (NO_EFFECT, REFUSED):
        for name, text in remarks.items():
            assert text
            assert not text.endswith("."), name
