from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("spec", "directory", "version", "pid", "uptime", "restarts", "endpoint", "log_level", "options", "sandbox", "memory", "handles", "dirty", "dirty_files", "dirty_bytes", "kernel", "store", "renames", "staging_directory", "recovering")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FILES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_BYTES_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    RENAMES_FIELD_NUMBER: _ClassVar[int]
    STAGING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    spec: str
    directory: str
    version: str
    pid: int
    uptime: float
    restarts: int
    endpoint: str
    log_level: str
    options: _containers.RepeatedCompositeFieldContainer[Option]
    sandbox: Sandbox
    memory: Memory
    handles: Handles
    dirty: _containers.RepeatedCompositeFieldContainer[DirtyFile]
    dirty_files: int
    dirty_bytes: int
    kernel: Kernel
    store: Store
    renames: _containers.RepeatedCompositeFieldContainer[Rename]
    staging_directory: str
    recovering: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spec: _Optional[str] = ..., directory: _Optional[str] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ..., uptime: _Optional[float] = ..., restarts: _Optional[int] = ..., endpoint: _Optional[str] = ..., log_level: _Optional[str] = ..., options: _Optional[_Iterable[_Union[Option, _Mapping]]] = ..., sandbox: _Optional[_Union[Sandbox, _Mapping]] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ..., handles: _Optional[_Union[Handles, _Mapping]] = ..., dirty: _Optional[_Iterable[_Union[DirtyFile, _Mapping]]] = ..., dirty_files: _Optional[int] = ..., dirty_bytes: _Optional[int] = ..., kernel: _Optional[_Union[Kernel, _Mapping]] = ..., store: _Optional[_Union[Store, _Mapping]] = ..., renames: _Optional[_Iterable[_Union[Rename, _Mapping]]] = ..., staging_directory: _Optional[str] = ..., recovering: _Optional[_Iterable[str]] = ...) -> None: ...

class Option(_message.Message):
    __slots__ = ("name", "value", "origin")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    origin: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., origin: _Optional[str] = ...) -> None: ...

class Sandbox(_message.Message):
    __slots__ = ("mode", "applied", "missing")
    class MissingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    mode: str
    applied: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.ScalarMap[str, str]
    def __init__(self, mode: _Optional[str] = ..., applied: _Optional[_Iterable[str]] = ..., missing: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("resident", "shared", "buffers", "buffers_limit", "processor_seconds", "threads")
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    resident: int
    shared: int
    buffers: int
    buffers_limit: int
    processor_seconds: float
    threads: int
    def __init__(self, resident: _Optional[int] = ..., shared: _Optional[int] = ..., buffers: _Optional[int] = ..., buffers_limit: _Optional[int] = ..., processor_seconds: _Optional[float] = ..., threads: _Optional[int] = ...) -> None: ...

class Handles(_message.Message):
    __slots__ = ("files", "directories", "nodes", "names")
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    files: int
    directories: int
    nodes: int
    names: int
    def __init__(self, files: _Optional[int] = ..., directories: _Optional[int] = ..., nodes: _Optional[int] = ..., names: _Optional[int] = ...) -> None: ...

class DirtyFile(_message.Message):
    __slots__ = ("key", "size", "staged", "closed", "problem")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    key: str
    size: int
    staged: bool
    closed: bool
    problem: str
    def __init__(self, key: _Optional[str] = ..., size: _Optional[int] = ..., staged: _Optional[bool] = ..., closed: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class Times(_message.Message):
    __slots__ = ("name", "count", "median", "p90", "p99", "longest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    median: float
    p90: float
    p99: float
    longest: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., median: _Optional[float] = ..., p90: _Optional[float] = ..., p99: _Optional[float] = ..., longest: _Optional[float] = ...) -> None: ...

class Kernel(_message.Message):
    __slots__ = ("requests", "bytes_read", "bytes_written", "errors")
    class ErrorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Times]
    bytes_read: int
    bytes_written: int
    errors: _containers.ScalarMap[str, int]
    def __init__(self, requests: _Optional[_Iterable[_Union[Times, _Mapping]]] = ..., bytes_read: _Optional[int] = ..., bytes_written: _Optional[int] = ..., errors: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Store(_message.Message):
    __slots__ = ("requests", "bytes_sent", "bytes_received", "faults", "retries")
    class FaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Times]
    bytes_sent: int
    bytes_received: int
    faults: _containers.ScalarMap[str, int]
    retries: int
    def __init__(self, requests: _Optional[_Iterable[_Union[Times, _Mapping]]] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., faults: _Optional[_Mapping[str, int]] = ..., retries: _Optional[int] = ...) -> None: ...

class Rename(_message.Message):
    __slots__ = ("source", "target", "phase", "keys", "copied", "deleted", "left", "seconds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    phase: str
    keys: int
    copied: int
    deleted: int
    left: int
    seconds: float
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., phase: _Optional[str] = ..., keys: _Optional[int] = ..., copied: _Optional[int] = ..., deleted: _Optional[int] = ..., left: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestartReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class SetLogLevelReply(_message.Message):
    __slots__ = ("before",)
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    before: str
    def __init__(self, before: _Optional[str] = ...) -> None: ...

class DropMetadataRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class DropMetadataReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: int
    def __init__(self, nodes: _Optional[int] = ...) -> None: ...
