"""What --json prints: the same for as long as it can be; fields are only ever added."""

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Listed", "Status"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer worker may say more


class Listed(_Model):
    """One mount in `fuse-s3 list`; `pid` and `since` are None when no worker answers for it."""

    directory: str
    spec: str
    read_only: bool
    device: int
    pid: int | None
    since: float | None


class Option(_Model):
    """A setting; `origin` is "default", "given", or "given as NAME"."""

    name: str
    value: str
    origin: str


class Sandbox(_Model):
    """Layers that are in force, and why others are not."""

    mode: str
    applied: list[str]
    missing: dict[str, str]


class Memory(_Model):
    """Bytes, and seconds of processor time."""

    resident: int
    shared: int
    buffers: int
    buffers_limit: int
    processor_seconds: float
    threads: int


class Handles(_Model):
    """What programs have open, and what is remembered."""

    files: int
    directories: int
    nodes: int
    names: int


class DirtyFile(_Model):
    """A file with something that the bucket does not have yet."""

    key: str
    size: int
    staged: bool
    closed: bool
    problem: str


class Times(_Model):
    """How many requests of a kind there were; the times are upper bounds, in seconds."""

    name: str
    count: int
    median: float
    p90: float
    p99: float
    longest: float


class Kernel(_Model):
    """Requests of programs; errors by errno."""

    requests: list[Times]
    bytes_read: int
    bytes_written: int
    errors: dict[str, int]


class Store(_Model):
    """Requests to the store, each attempt for itself; bytes of bodies."""

    requests: list[Times]
    bytes_sent: int
    bytes_received: int
    faults: dict[str, int]
    retries: int


class Rename(_Model):
    """A rename of a directory that is under way."""

    source: str
    target: str
    phase: str
    keys: int
    copied: int
    deleted: int
    left: int
    seconds: float


class Status(_Model):
    """Everything there is to know of a mount."""

    spec: str
    directory: str
    version: str
    pid: int
    uptime: float
    restarts: int
    endpoint: str
    log_level: str
    options: list[Option]
    sandbox: Sandbox
    memory: Memory
    handles: Handles
    dirty: list[DirtyFile]
    dirty_files: int
    dirty_bytes: int
    kernel: Kernel
    store: Store
    renames: list[Rename]
    staging_directory: str
    recovering: list[str]

    @classmethod
    def of(cls, reply: Any) -> "Status":  # noqa: ANN401  protobuf's
        """Return what a StatusReply says."""
        from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  as heavy as gRPC

        fields = MessageToDict(
            reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return cls.model_validate(fields)
