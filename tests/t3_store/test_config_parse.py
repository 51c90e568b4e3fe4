"""SPEC and the option string as a whole: fstab lines of others, notes, refusals."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.config.foreign import NO_EFFECT, REFUSED
from fuse_s3_worker.config.parse import ConfigurationError, configure
from fuse_s3_worker.config.spec import BucketSpec, SpecError, normal_prefix, parse_spec

MIB = 1 << 20


def refusal(options: str, spec: str = "bucket", *, sloppy: bool = False) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configure(spec, options, sloppy=sloppy)
    return str(caught.value)


# -- SPEC ------------------------------------------------------------------------------------------

ARN = "arn:aws:s3:us-west-2:123456789012:accesspoint/my-point"


@pytest.mark.parametrize(
    ("spec", "bucket", "prefix"),
    [
        ("bucket", "bucket", ""),
        ("bucket/", "bucket", ""),
        ("bucket:/", "bucket", ""),
        ("bucket/a", "bucket", "a/"),
        ("bucket/a/", "bucket", "a/"),
        ("bucket:/a/b", "bucket", "a/b/"),
        ("bucket//a//", "bucket", "a/"),
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/a b/ü", "bucket", "a b/ü/"),
        ("with.dots-and_more", "with.dots-and_more", ""),
        ("UPPER", "UPPER", ""),
        ("a23", "a23", ""),
        ("x" * 255, "x" * 255, ""),
        (ARN, ARN, ""),
        (
            "arn:aws-cn:s3:cn-north-1:1:accesspoint/p",
            "arn:aws-cn:s3:cn-north-1:1:accesspoint/p",
            "",
        ),
        (
            "arn:aws:s3-outposts:r:1:outpost/op-1/accesspoint/p",
            "arn:aws:s3-outposts:r:1:outpost/op-1/accesspoint/p",
            "",
        ),
    ],
)
def test_a_spec(spec: str, bucket: str, prefix: str) -> None:
    assert parse_spec(spec) == BucketSpec(bucket, prefix)
    assert configure(spec, "").spec == (bucket, prefix)


@pytest.mark.parametrize(
    "spec",
    [
        "", "ab", "x" * 256, "-bucket", "bucket-", ".bucket", "buck et", "buck..et", "bücket",
        "bucket:", "bucket:a", "a:b:c", "s3://", "s3:///a", "S3://bucket", "http://bucket", "/mnt",
        "./bucket", "bucket\n", "bucket?x", "arn:aws:s3", "arn:aws:ec2:r:1:instance/i",
        "arn:aws:s3:r:1:", "arn:", "bucket/../a", "bucket/a/./b", "bucket/a//b",
        "bucket/" + "x" * 1024, "bucket/" + "ü" * 512, "bucket/\udcff",
    ],
)  # fmt: skip
def test_a_spec_that_names_no_bucket(spec: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(spec)
    text = refusal("", spec)
    assert len(text) < 1200
    assert text.isprintable() or "\n" in spec
    text.encode()


@given(st.text(max_size=40))
def test_any_word_is_a_spec_or_refused(spec: str) -> None:
    try:
        bucket, prefix = parse_spec(spec)
    except SpecError:
        return
    assert len(bucket) >= 3
    assert prefix == "" or (prefix.endswith("/") and not prefix.startswith("/"))


@given(st.text(max_size=40))
def test_a_prefix_is_normal_when_it_is_normalized(prefix: str) -> None:
    try:
        once = normal_prefix(prefix)
    except SpecError:
        return
    assert normal_prefix(once) == once


def test_a_prefix_by_option() -> None:
    assert configure("bucket", "prefix=/a/b").spec == ("bucket", "a/b/")
    assert configure(ARN, "prefix=a").spec == (ARN, "a/")
    assert configure("bucket/a", "prefix=").spec == ("bucket", "a/")
    assert (
        refusal("prefix=b", "bucket/a")
        == "'bucket/a' has a prefix and prefix= is another: keep one"
    )


# -- fstab lines of s3fs and Mountpoint ------------------------------------------------------------

# What is left of real lines when the helper has taken its own words and files out.
FSTAB = {
    "s3fs with MinIO": (
        "url=https://minio.example:9000,use_path_request_style,umask=0022,uid=0,gid=0",
        {"endpoint_url": "https://minio.example:9000", "path_style": True, "umask": 0o022,
         "uid": 0},
        set(),
    ),
    "s3fs with everything": (
        "use_cache=/tmp/s3fs,ensure_diskfree=10240,parallel_count=15,multipart_size=128,"
        "multireq_max=30,max_stat_cache_size=100000,stat_cache_expire=900,enable_noobj_cache,"
        "dbglevel=warn,curldbg,retries=5,connect_timeout=10,readwrite_timeout=30,mp_umask=0022,"
        "memory_target=512M",
        {"max_connections": 30, "part_size": 128 * MIB, "metadata_ttl": 900.0,
         "log_level": "warning"},
        {"use_cache", "ensure_diskfree", "max_stat_cache_size", "enable_noobj_cache", "curldbg",
         "retries", "connect_timeout", "readwrite_timeout", "mp_umask"},
    ),
    "s3fs on EC2": (
        "iam_role=auto,endpoint=eu-central-1,url=https://s3.eu-central-1.amazonaws.com,use_sse",
        {"region": "eu-central-1", "sse": "AES256"},
        {"iam_role"},
    ),
    "s3fs without TLS": (
        "no_check_certificate,ssl_verify_hostname=0,nonomatch",
        None,
        set(),
    ),
    "s3fs read-only and public": (
        "public_bucket=1,complement_stat,compat_dir,nocopyapi,norenameapi,nomultipart",
        {"no_sign_request": True},
        {"complement_stat", "compat_dir", "nocopyapi", "norenameapi", "nomultipart"},
    ),
    "Mountpoint": (
        "region=us-west-2,allow-delete,allow-overwrite,uid=0,gid=0,file-mode=0640,dir-mode=0750,"
        "storage-class=INTELLIGENT_TIERING,max-threads=16,part-size=8388608",
        {"region": "us-west-2", "file_mode": 0o640, "dir_mode": 0o750,
         "storage_class": "INTELLIGENT_TIERING"},
        {"allow-delete", "allow-overwrite", "max-threads"},
    ),
    "Mountpoint with a cache": (
        "cache=/var/cache/mp,max-cache-size=4096,metadata-ttl=indefinite,negative-metadata-ttl=60,"
        "maximum-throughput-gbps=10,incremental-upload,log-directory=/var/log/mp,debug",
        {"metadata_ttl": float("inf"), "log_level": "debug", "cache": "/var/cache/mp"},
        {"max-cache-size", "negative-metadata-ttl", "maximum-throughput-gbps",
         "incremental-upload", "log-directory"},
    ),
    "Mountpoint with keys of its own": (
        "endpoint-url=https://h,force-path-style,sse=aws:kms,sse-kms-key-id=arn:aws:kms:r:1:key/k,"
        "upload-checksums=crc32c,expected-bucket-owner=123456789012,requester-pays,profile=p",
        {"endpoint_url": "https://h", "sse_kms_key_id": "arn:aws:kms:r:1:key/k",
         "upload_checksum": "crc32c", "requester_pays": True, "profile": "p"},
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "settings", "noted"), FSTAB.values(), ids=FSTAB.keys())
def test_fstab_lines_of_others_work(
    options: str, settings: dict[str, object] | None, noted: set[str]
) -> None:
    if settings is None:
        assert "unknown option 'nonomatch'" in refusal(options)
        return
    configuration = configure("bucket", options)
    found = configuration.settings.model_dump()
    assert {name: found[name] for name in settings} == settings
    assert {note.split()[1] for note in configuration.notes} == noted


@pytest.mark.parametrize("name", NO_EFFECT)
def test_what_has_no_effect_is_noted_with_or_without_a_value(name: str) -> None:
    for word in (name, f"{name}=something"):
        configuration = configure("bucket", word)
        assert configuration.settings == configure("bucket", "").settings
        assert configuration.notes == [f"option {name} has no effect: {NO_EFFECT[name]}"]


def test_the_last_of_equal_options_counts() -> None:
    """As in mount(8); an alias and its option are equal."""
    settings = configure("bucket", "umask=0,url=http://a,umask=077,endpoint_url=http://b").settings
    assert (settings.umask, settings.endpoint_url) == (0o077, "http://b")


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_even_from_the_sloppy(name: str) -> None:
    for word in (name, f"{name}=AKIAsecret"):
        for sloppy in (False, True):
            text = refusal(word, sloppy=sloppy)
            assert text == f"option '{name}': {REFUSED[name]}"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("regoin=x", "region"),
        ("end_point_url=x", "endpoint_url"),
        ("part_sise=8M", "part_size"),
        ("partsize=8M", "part_size"),
        ("max-connection=4", "max_connections"),
        ("use_path_style_request", "use_path_request_style"),
        ("nosignrequest", "no_sign_request"),
        ("metadata-tll=1", "metadata_ttl"),
    ],
)
def test_an_unknown_option_has_a_suggestion(word: str, meant: str) -> None:
    assert (
        refusal(word)
        == f"unknown option '{word.split('=', maxsplit=1)[0]}': did you mean '{meant}'?"
    )


def test_an_unknown_option_without_a_neighbour_points_to_the_help() -> None:
    assert refusal("zzzzzz") == "unknown option 'zzzzzz': see mount.s3 --help"


@pytest.mark.parametrize(
    "word",
    ["aws_secret=TOPSECRET", "passwd=AK:TOPSECRET", "password=TOPSECRET", "key=TOPSECRET"],
)
def test_the_value_of_an_unknown_option_is_not_repeated(word: str) -> None:
    """It may be a secret in the wrong place, and the message goes to a terminal and the log."""
    assert "TOPSECRET" not in refusal(word)
    (note,) = configure("bucket", word, sloppy=True).notes
    assert "TOPSECRET" not in note


def test_the_sloppy_are_told_what_was_tolerated() -> None:
    configuration = configure("bucket", "nonsense,umask=0,more=1", sloppy=True)
    assert configuration.notes == [
        "unknown option nonsense is tolerated (mount -s)",
        "unknown option more is tolerated (mount -s)",
    ]
    assert configuration.settings.umask == 0
    assert "part_size" in refusal("part_size=1", sloppy=True), "a wrong value stays wrong"


def test_a_refusal_names_option_value_and_range() -> None:
    assert refusal("part_size=1") == "part_size=1: give 5M to 5G"
    assert refusal("part_size=big") == (
        "part_size=big: not a size, such as 8M, 1G or 8388608; give 5M to 5G"
    )
    assert refusal("sse=rot13") == "sse=rot13: give AES256, aws:kms, aws:kms:dsse or customer"


def test_an_option_string_that_cannot_be_split() -> None:
    assert "quote is never closed" in refusal('prefix="a')
    assert "has a value but no name" in refusal("=5")


def test_values_with_commas_and_quotes() -> None:
    assert configure("bucket", r'prefix="a,b"').spec.prefix == "a,b/"
    assert configure("bucket", r"prefix=a\,b").spec.prefix == "a,b/"


@given(st.text(max_size=60), st.booleans())
def test_any_option_string_is_taken_or_refused(options: str, sloppy: bool) -> None:
    try:
        configure("bucket", options, sloppy=sloppy)
    except ConfigurationError as error:
        assert not re.search("pydantic|Traceback", str(error))  # noqa: PT017  both are right
