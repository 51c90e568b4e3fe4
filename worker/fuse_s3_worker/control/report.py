"""Everything there is to know of a mount, as the reply to Status."""

import errno
import itertools
import os
import time
from collections.abc import Iterable
from functools import cache
from importlib import metadata

import psutil

from fuse_s3_control import control_pb2 as pb
from fuse_s3_worker import log
from fuse_s3_worker.config.parse import option_of, origins
from fuse_s3_worker.config.units import INDEFINITE
from fuse_s3_worker.control.facts import Facts
from fuse_s3_worker.fuse.abi import Opcode
from fuse_s3_worker.statistics import Times

__all__ = ["report"]

_DIRTY_MAX = 1000  # files that are named; all are counted
_RECOVERING_MAX = 1000  # keys
_OPCODES = {int(opcode): opcode.name for opcode in Opcode} | {0: "others"}


def report(facts: Facts) -> pb.StatusReply:
    """Tell everything; this does not wait for anything."""
    reply = pb.StatusReply(
        spec=_text(facts.spec),
        directory=_text(facts.directory),
        version=_version(),
        pid=os.getpid(),
        uptime=max(time.time() - facts.since, 0.0),
        restarts=facts.restarts,
        endpoint=str(facts.store.caller.line.target.endpoint),
        log_level=log.level_name(),
        options=_options(facts),
        sandbox=_sandbox(facts),
        memory=_memory(facts),
        handles=_handles(facts),
        kernel=_kernel(facts),
        store=_store(facts),
        renames=_renames(facts),
        staging_directory=_text(facts.fs.staging_directory),
    )
    reply.recovering.extend(_text(key) for key in facts.fs.recovering[:_RECOVERING_MAX])
    _add_dirty(reply, facts)
    return reply


@cache
def _version() -> str:
    try:
        return metadata.version("fuse-s3")
    except metadata.PackageNotFoundError:
        return ""


def _text(value: str) -> str:
    """Return `value` as what protobuf takes: paths need not be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode()


def _options(facts: Facts) -> list[pb.Option]:
    given = origins(facts.options)
    settings = facts.configuration.settings
    return [
        pb.Option(name=name, value=_text(_shown(name, value)), origin=given.get(name, "default"))
        for name, value in settings
    ]


def _shown(name: str, value: object) -> str:
    """Return a setting as it would be given."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and option_of(name).values.startswith("octal"):
        return f"{value:04o}"
    if value == INDEFINITE:
        return "indefinite"
    return "" if value is None else str(value)


def _sandbox(facts: Facts) -> pb.Sandbox:
    level = facts.level
    return pb.Sandbox(mode=level.mode, applied=level.applied, missing=level.missing)


def _memory(facts: Facts) -> pb.Memory:
    process, buffers = psutil.Process(), facts.fs.memory
    memory, times = process.memory_info(), process.cpu_times()
    return pb.Memory(
        resident=memory.rss,
        shared=memory.shared,
        buffers=buffers.used,
        buffers_limit=buffers.budget,
        processor_seconds=times.user + times.system,
        threads=process.num_threads(),
    )


def _handles(facts: Facts) -> pb.Handles:
    counts = facts.fs.statistics()
    return pb.Handles(
        files=counts.open_files,
        directories=counts.open_directories,
        nodes=counts.nodes,
        names=counts.names_cached,
    )


def _times(found: Iterable[tuple[str, Times]]) -> list[pb.Times]:
    return [
        pb.Times(
            name=name,
            count=times.number,
            median=times.median,
            p90=times.p90,
            p99=times.p99,
            longest=times.longest,
        )
        for name, times in found
    ]


def _kernel(facts: Facts) -> pb.Kernel:
    counts = facts.kernel
    named = ((_OPCODES.get(opcode, str(opcode)), times) for opcode, times in counts.by_opcode())
    return pb.Kernel(
        requests=_times(sorted(named, key=lambda item: -item[1].number)),
        bytes_read=counts.bytes_read,
        bytes_written=counts.bytes_written,
        errors={errno.errorcode.get(n, str(n)): count for n, count in counts.errors.items()},
    )


def _store(facts: Facts) -> pb.Store:
    caller = facts.store.caller
    counts = caller.statistics
    return pb.Store(
        requests=_times(counts.by_operation()),
        bytes_sent=counts.bytes_sent,
        bytes_received=counts.bytes_received,
        faults=dict(counts.faults),
        retries=caller.retrier.retries,
    )


def _renames(facts: Facts) -> list[pb.Rename]:
    return [
        pb.Rename(
            source=_text(rename.source),
            target=_text(rename.target),
            phase=str(rename.phase),
            keys=rename.keys,
            copied=rename.copied,
            deleted=rename.deleted,
            left=rename.left,
            seconds=rename.seconds,
        )
        for rename in facts.fs.renames.trees.under_way
    ]


def _add_dirty(reply: pb.StatusReply, facts: Facts) -> None:
    dirty = list(facts.fs.dirty_files())
    reply.dirty_files = len(dirty)
    reply.dirty_bytes = sum(file.size for file in dirty)
    for file in itertools.islice(dirty, _DIRTY_MAX):
        fields = file._asdict() | {"key": _text(file.key), "problem": _text(file.problem)}
        reply.dirty.append(pb.DirtyFile(**fields))
