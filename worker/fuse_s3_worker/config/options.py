"""The table of options: every setting of the worker, its other names, its range, and its help.

`mount.s3 --help`, docs/options.md and the manual page are printed from this table, and settings
are validated by it. The names that s3fs and Mountpoint for Amazon S3 use in their fstab lines are
aliases, so that moving over means changing the type.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fuse_s3_worker.config import units
from fuse_s3_worker.config.units import GIB, INDEFINITE, MIB

__all__ = ["Alias", "Option", "Settings"]

Convert = Callable[[str], str | None]


def _same(value: str) -> str:
    return value


def _mebibytes(value: str) -> str:
    return f"{value}M" if value.isdecimal() else value


def _constant(word: str) -> Convert:
    return lambda _value: word


class Alias(NamedTuple):
    """Another program's name for an option, and how its value is to be read.

    One name may stand for two options; where it says nothing of one of them, `convert` gives None.
    """

    name: str
    convert: Convert = _same


class Option(NamedTuple):
    """What the documentation says of an option beside its type: the unit, the range, the names."""

    values: str
    shown_default: str = ""
    aliases: tuple[Alias, ...] = ()


Size = Annotated[int, BeforeValidator(units.size)]
Duration = Annotated[float, BeforeValidator(units.duration)]
YesNo = Annotated[bool, BeforeValidator(units.flag)]
Mode = Annotated[int, BeforeValidator(units.mode)]
Upper = Annotated[
    str, BeforeValidator(lambda word: word.upper() if isinstance(word, str) else word)
]

# What s3fs takes for dbglevel=, in either case, beside the words that are ours too.
_LOG_WORDS = {
    **dict.fromkeys(("silent", "critical", "crit", "err"), "error"),
    **dict.fromkeys(("wan", "warn"), "warning"),
    **dict.fromkeys(("inf", "information"), "info"),
    "dbg": "debug",
}
_SSE_WORDS = {
    **dict.fromkeys(("1", ""), "AES256"),
    **dict.fromkeys(("kmsid", "k"), "aws:kms"),
    **dict.fromkeys(("custom", "c"), "customer"),
}
_RRS_WORDS = {"1": "REDUCED_REDUNDANCY", "": "REDUCED_REDUNDANCY", "0": "STANDARD"}


def _key_of_use_sse(value: str) -> str | None:
    """Read s3fs's `kmsid:ID` or `k:ID`; without an id its key is in the environment."""
    kind, colon, key = value.partition(":")
    return key if kind in {"kmsid", "k"} and colon else None


class Settings(BaseModel):
    """All settings of one mount, valid; None where the default depends on something else."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=4096)

    uid: Annotated[
        Annotated[int, BeforeValidator(units.user)] | None,
        Field(ge=0, le=2**32 - 2, description="owner of all files"),
        Option("user name or number", "whoever mounts"),
    ] = None
    gid: Annotated[
        Annotated[int, BeforeValidator(units.group)] | None,
        Field(ge=0, le=2**32 - 2, description="group of all files"),
        Option("group name or number", "whoever mounts"),
    ] = None
    umask: Annotated[
        Mode,
        Field(description="permission bits that no file and no directory has"),
        Option("octal, 0 to 0777", "0022"),
    ] = 0o022
    file_mode: Annotated[
        Mode | None,
        Field(description="permission bits of files, instead of 0666 without umask"),
        Option("octal, 0 to 0777", "from umask"),
    ] = None
    dir_mode: Annotated[
        Mode | None,
        Field(description="permission bits of directories, instead of 0777 without umask"),
        Option("octal, 0 to 0777", "from umask"),
    ] = None
    posix: Annotated[
        YesNo,
        Field(
            description="keep modes, owners, times, links and attributes in metadata, as s3fs does"
        ),
        Option("yes or no", "no", (Alias("use_xattr"),)),
    ] = False
    prefix: Annotated[
        str,
        Field(description="mount only the keys below this prefix"),
        Option("a key prefix", "the whole bucket"),
    ] = ""
    region: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9-]*$", description="region of the bucket; a wrong one is corrected"
        ),
        Option("a region's name", "found out", (Alias("endpoint"),)),
    ] = ""
    endpoint_url: Annotated[
        str,
        Field(
            pattern=r"^(https?://[^\s/?#@[:^ascii:]]+(/[^\s?#[:^ascii:]]*)?)?$",
            description="address of an S3 server that is not Amazon's",
        ),
        Option("http:// or https:// URL", "Amazon S3", (Alias("url"), Alias("host"))),
    ] = ""
    path_style: Annotated[
        YesNo | None,
        Field(description="put the bucket into the path, not into the host name"),
        Option(
            "yes or no",
            "yes with endpoint_url",
            (Alias("use_path_request_style"), Alias("force-path-style")),
        ),
    ] = None
    dual_stack: Annotated[
        YesNo, Field(description="use Amazon's IPv4 and IPv6 endpoints"), Option("yes or no", "no")
    ] = False
    fips: Annotated[
        YesNo, Field(description="use Amazon's FIPS 140 endpoints"), Option("yes or no", "no")
    ] = False
    accelerate: Annotated[
        YesNo,
        Field(description="use S3 Transfer Acceleration"),
        Option("yes or no", "no", (Alias("transfer-acceleration"),)),
    ] = False
    tls_verify: Annotated[
        YesNo,
        Field(
            description="check the server's certificate; no makes every reader of the wire trusted"
        ),
        Option(
            "yes or no",
            "yes",
            (Alias("no_check_certificate", _constant("no")), Alias("ssl_verify_hostname")),
        ),
    ] = True
    profile: Annotated[
        str,
        Field(description="profile of the AWS configuration files"),
        Option("a profile's name", "AWS_PROFILE, or default"),
    ] = ""
    no_sign_request: Annotated[
        YesNo,
        Field(description="send no credentials: public buckets"),
        Option("yes or no", "no", (Alias("public_bucket"),)),
    ] = False
    requester_pays: Annotated[
        YesNo, Field(description="agree to pay for requests and traffic"), Option("yes or no", "no")
    ] = False
    expected_bucket_owner: Annotated[
        str,
        Field(pattern=r"^([0-9]{12})?$", description="refuse a bucket of any other account"),
        Option("account id of 12 digits", "any"),
    ] = ""
    storage_class: Annotated[
        Upper,
        Field(pattern=r"^[A-Z_]*$", description="storage class of new objects"),
        Option(
            "a storage class",
            "the bucket's",
            (Alias("use_rrs", lambda value: _RRS_WORDS.get(value, value)),),
        ),
    ] = ""
    sse: Annotated[
        Literal["", "AES256", "aws:kms", "aws:kms:dsse", "customer"],
        Field(description="server-side encryption of new objects"),
        Option(
            "AES256, aws:kms, aws:kms:dsse or customer",
            "customer with sse_c_key_file, else the bucket's",
            (Alias("use_sse", lambda value: _SSE_WORDS.get(value.partition(":")[0], value)),),
        ),
    ] = ""
    sse_kms_key_id: Annotated[
        str,
        Field(pattern=r"^[!-~]*$", description="key for sse=aws:kms and aws:kms:dsse"),
        Option("key id or ARN", "the account's", (Alias("use_sse", _key_of_use_sse),)),
    ] = ""
    acl: Annotated[
        Literal[
            "",
            "private",
            "public-read",
            "public-read-write",
            "authenticated-read",
            "aws-exec-read",
            "bucket-owner-read",
            "bucket-owner-full-control",
            "log-delivery-write",
        ],
        Field(description="canned access control list of what is stored, S3's and not POSIX's"),
        Option("a canned ACL", "the store's", (Alias("default_acl"),)),
    ] = ""
    content_type: Annotated[
        str,
        Field(
            pattern=r"^(auto|off|[!-~]+/[!-~]+(; *[!-~]+)*)$",
            description="content type of new objects; auto is by the suffix of the name",
        ),
        Option(
            "auto, off or a type such as text/plain",
            "auto",
            (Alias("infer-content-type", _constant("auto")),),
        ),
    ] = "auto"
    part_size: Annotated[
        Size,
        Field(ge=5 * MIB, le=5 * GIB, description="bytes of a multipart upload's first parts"),
        Option("5M to 5G", "8M", (Alias("multipart_size", _mebibytes), Alias("write-part-size"))),
    ] = 8 * MIB
    max_connections: Annotated[
        int,
        Field(ge=2, le=512, description="connections to the server at once"),
        Option(
            "2 to 512",
            "32",
            (Alias("max_thread_count"), Alias("parallel_count"), Alias("multireq_max")),
        ),
    ] = 32
    memory_target: Annotated[
        Size,
        Field(ge=32 * MIB, le=1024 * GIB, description="bytes that buffers may take"),
        Option("32M to 1024G", "256M", (Alias("memory-target", _mebibytes),)),
    ] = 256 * MIB
    cache: Annotated[
        str,
        Field(
            pattern=r"^(/.*)?$",
            description="directory, the worker's alone, for what is changed of files",
        ),
        Option("an absolute path", "in memory"),
    ] = ""
    write_back: Annotated[
        Duration,
        Field(
            le=86_400, description="seconds that storing may wait after close, never after fsync"
        ),
        Option("seconds, 86400 at most", "0"),
    ] = 0.0
    metadata_ttl: Annotated[
        Duration,
        Field(description="seconds that names, sizes and times are believed before a new look"),
        Option(
            "seconds or indefinite",
            "1",
            (
                Alias("metadata-ttl", lambda value: "1" if value == "minimal" else value),
                Alias("stat_cache_expire"),
            ),
        ),
    ] = 1.0
    rename_dir_limit: Annotated[
        int,
        Field(ge=0, description="keys of a directory that is renamed; with more, mv copies it"),
        Option("a number", "100000"),
    ] = 100_000
    upload_checksum: Annotated[
        Literal["auto", "crc32c", "crc64nvme", "off"],
        Field(
            description="checksum that the server verifies; auto does without where it is refused"
        ),
        Option("auto, crc32c, crc64nvme or off", "auto", (Alias("upload-checksums"),)),
    ] = "auto"
    sandbox: Annotated[
        Literal["best-effort", "strict", "off"],
        Field(
            description="confine the worker as far as the kernel can; strict refuses the mount "
            "when a layer is missing"
        ),
        Option("best-effort, strict or off", "best-effort"),
    ] = "best-effort"
    engine: Annotated[
        Literal["native", "libfuse"],
        Field(
            description="who speaks to the kernel: this program, or libfuse2, where that is "
            "installed; slower, and see docs/design"
        ),
        Option("native or libfuse", "native"),
    ] = "native"
    restart_limit: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="how often in a minute the worker may fail and be started again; after "
            "that the mount gives EIO",
        ),
        Option("0 to 1000", "5"),
    ] = 5
    log_level: Annotated[
        Literal["error", "warning", "info", "debug"],
        Field(description="how much is logged"),
        Option(
            "error, warning, info or debug",
            "info",
            (
                Alias("dbglevel", lambda value: _LOG_WORDS.get(value.lower(), value.lower())),
                Alias("debug", _constant("debug")),
            ),
        ),
    ] = "info"
    examine: Annotated[
        YesNo,
        Field(
            description="with mount -f: try every request that a mount makes, on keys of its own, "
            "and log what came of each; fuse-s3 doctor gives it"
        ),
        Option("yes or no", "no"),
    ] = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Check what concerns two options."""
        if self.sse_kms_key_id and not self.sse.startswith("aws:kms"):
            raise ValueError("sse_kms_key_id: needs sse=aws:kms or sse=aws:kms:dsse beside it")
        if self.memory_target < 4 * self.part_size:
            raise ValueError(
                f"memory_target: {self.memory_target // MIB}M is too little for parts of "
                f"{self.part_size // MIB}M: at least {4 * self.part_size // MIB}M"
            )
        if self.write_back and not self.cache:
            raise ValueError("write_back: needs cache=DIRECTORY beside it")
        if self.metadata_ttl > _LONGEST_TTL and self.metadata_ttl != INDEFINITE:
            raise ValueError("metadata_ttl: longer than 100 years; say indefinite")
        return self


_LONGEST_TTL = 100 * 365.25 * 86400.0
