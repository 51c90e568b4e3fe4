"""`fuse-s3 status`: everything there is to know of a mount."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

from fuse_s3_cli.control import ControlError, ask, shown
from fuse_s3_cli.models import Status, Times
from fuse_s3_cli.mounts import NoMountError, find
from fuse_s3_cli.table import columns, duration, seconds, size

__all__ = ["run"]

_FAILED = 1
_DIRTY_SHOWN = 10  # files; --json has more


def run(arguments: list[str]) -> int:
    """Print the status of a mount; return 1 when there is nobody to ask."""
    parser = argparse.ArgumentParser(prog="fuse-s3 status", description="Describe a mount.")
    parser.add_argument("mount", metavar="MOUNT", help="the directory that it is mounted on")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    try:
        _, worker = find(given.mount)
        from fuse_s3_control import control_pb2 as pb  # noqa: PLC0415  as heavy as gRPC

        status = Status.of(ask(worker, "Status", pb.StatusRequest(), pb.StatusReply))
    except (NoMountError, ControlError) as error:
        sys.stderr.write(f"fuse-s3: {error}\n")
        return _FAILED
    if given.json:
        print(status.model_dump_json(indent=2))
    else:
        print("\n".join(_lines(status)))
    return 0


def _lines(status: Status) -> Iterator[str]:
    yield f"{shown(status.spec)} on {shown(status.directory)}"
    yield from _indented(columns(_facts(status)))
    for title, rows in (
        ("requests of programs", status.kernel.requests),
        ("requests to the store", status.store.requests),
    ):
        if rows:
            yield f"{title}, times at most:"
            yield from _indented(columns(_table(rows)))
    yield from _dirty(status)
    yield from _renames(status)
    given = [
        (shown(option.name), shown(option.value), shown(option.origin))
        for option in status.options
        if option.origin != "default"
    ]
    if given:
        yield "options that are not the default:"
        yield from _indented(columns(given))


def _indented(text: str) -> Iterator[str]:
    yield from (f"  {line}" for line in text.splitlines())


def _facts(status: Status) -> list[tuple[str, str]]:
    memory, handles = status.memory, status.handles
    missing = [f"{name}: {reason}" for name, reason in status.sandbox.missing.items()]
    return [
        ("endpoint", shown(status.endpoint)),
        ("worker", f"{status.pid}, version {shown(status.version)}"),
        ("up", duration(status.uptime)),
        ("restarts", str(status.restarts)),
        ("sandbox", shown(f"{status.sandbox.mode}, " + ("; ".join(missing) or "complete"))),
        ("log level", shown(status.log_level)),
        ("memory", f"{size(memory.resident)}, of it shared {size(memory.shared)}"),
        ("buffers", f"{size(memory.buffers)} of {size(memory.buffers_limit)}"),
        ("processor", f"{memory.processor_seconds:.1f} s, {memory.threads} threads"),
        ("open", f"{handles.files} files, {handles.directories} directories"),
        ("known", f"{handles.nodes} by the kernel, {handles.names} names"),
        ("read, written", f"{size(status.kernel.bytes_read)}, {size(status.kernel.bytes_written)}"),
        (
            "received, sent",
            f"{size(status.store.bytes_received)}, {size(status.store.bytes_sent)}",
        ),
        ("errors", _counts(status.kernel.errors)),
        ("faults of the store", _counts(status.store.faults)),
        ("retries", str(status.store.retries)),
        ("staged in", shown(status.staging_directory) or "memory"),
        ("not stored", f"{status.dirty_files} files, {size(status.dirty_bytes)}"),
    ]


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{shown(name)} {count}" for name, count in sorted(found.items())) or "none"


def _table(rows: Sequence[Times]) -> list[tuple[str, ...]]:
    head = ("kind", "number", "half", "90 %", "99 %", "all")
    table: list[tuple[str, ...]] = [head]
    for row in rows:
        times = (row.median, row.p90, row.p99, row.longest)
        table.append((shown(row.name), str(row.count), *map(seconds, times)))
    return table


def _dirty(status: Status) -> Iterator[str]:
    if status.dirty:
        yield "files that are not stored yet:"
    for file in status.dirty[:_DIRTY_SHOWN]:
        how = "staged" if file.staged else "being sent"
        state = f"failed: {file.problem}" if file.problem else how
        closed = ", closed" if file.closed else ""
        yield f"  {shown(file.key)}: {size(file.size)}, {shown(state)}{closed}"
    if status.dirty_files > _DIRTY_SHOWN:
        yield f"  and {status.dirty_files - _DIRTY_SHOWN} more"
    if status.recovering:
        yield f"left by an earlier worker and being stored: {len(status.recovering)} files"


def _renames(status: Status) -> Iterator[str]:
    for rename in status.renames:
        yield (
            f"renaming {shown(rename.source)} to {shown(rename.target)}: {shown(rename.phase)}, "
            f"{rename.copied} of {rename.keys} copied, {rename.deleted} deleted, "
            f"{duration(rename.seconds)}"
        )
