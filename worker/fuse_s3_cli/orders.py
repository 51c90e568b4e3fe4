"""`fuse-s3 restart`, `log-level` and `drop-metadata`: what a worker can be told to do."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fuse_s3_cli.control import ControlError, ask
from fuse_s3_cli.mounts import Mounted, NoMountError, Worker, find

__all__ = ["run_drop_metadata", "run_log_level", "run_restart"]

_FAILED, _USAGE = 1, 2
_LEVELS = ("error", "warning", "info", "debug")
_HAND_OVER = 120.0  # seconds: programs may close their files, and uploads end
_LOOK_EVERY = 0.1

Order = Callable[[Mounted, Worker, argparse.Namespace], str]


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"fuse-s3 {name}", description=text)
    parser.add_argument("mount", metavar="MOUNT", help="the directory that it is mounted on")
    return parser


def _carry_out(order: Order, given: argparse.Namespace) -> int:
    try:
        print(order(*find(given.mount), given))
    except (NoMountError, ControlError) as error:
        sys.stderr.write(f"fuse-s3: {error}\n")
        return _FAILED
    return 0


def _messages() -> Any:  # noqa: ANN401  a module
    from fuse_s3_control import control_pb2  # noqa: PLC0415  as heavy as gRPC

    return control_pb2


def run_restart(arguments: list[str]) -> int:
    """Have a mount's worker hand over to a new one, and wait until it has."""
    text = "Hand a mount over to a new worker, without programs noticing."
    return _carry_out(_restart, _parser("restart", text).parse_args(arguments))


def _restart(mounted: Mounted, worker: Worker, _given: argparse.Namespace) -> str:
    pb = _messages()
    ask(worker, "Restart", pb.RestartRequest(), pb.RestartReply)
    until = time.monotonic() + _HAND_OVER
    while time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
        try:
            _, now = find(mounted.directory)
        except NoMountError:
            continue  # between the two
        if now.about.pid != worker.about.pid:
            return f"worker {worker.about.pid} handed over to {now.about.pid}"
    raise ControlError(
        f"worker {worker.about.pid} has not handed over within {_HAND_OVER:.0f} s: a program is "
        "writing, see fuse-s3 status"
    )


def run_log_level(arguments: list[str]) -> int:
    """Have a mount's worker log more, or less."""
    parser = _parser("log-level", "Log more, or less, until the worker ends.")
    parser.add_argument("level", choices=_LEVELS, metavar="LEVEL", help=", ".join(_LEVELS))
    return _carry_out(_log_level, parser.parse_args(arguments))


def _log_level(_: Mounted, worker: Worker, given: argparse.Namespace) -> str:
    pb = _messages()
    request = pb.SetLogLevelRequest(level=given.level)
    reply = ask(worker, "SetLogLevel", request, pb.SetLogLevelReply)
    return f"log level {given.level}; it was {reply.before}"


def run_drop_metadata(arguments: list[str]) -> int:
    """Have a mount, or a part of it, looked up in the bucket anew."""
    parser = _parser("drop-metadata", "Forget what is remembered of names, sizes and times.")
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="only of this")
    given = parser.parse_args(arguments)
    return _carry_out(_drop_metadata, given)


def _drop_metadata(mounted: Mounted, worker: Worker, given: argparse.Namespace) -> str:
    pb = _messages()
    request = pb.DropMetadataRequest(path=_below(mounted.directory, given.path))
    reply = ask(worker, "DropMetadata", request, pb.DropMetadataReply)
    return f"forgotten; the kernel was told of {reply.nodes} files and directories"


def _below(directory: str, path: str) -> str:
    """Return a path relative to the mount point; nothing is looked at."""
    if not path.startswith("/"):
        return path
    normal = os.path.normpath(path)
    if normal == directory:
        return ""
    if not normal.startswith(directory.rstrip("/") + "/"):
        raise NoMountError(f"{path} is not below {directory}")
    return normal[len(directory.rstrip("/")) + 1 :]
