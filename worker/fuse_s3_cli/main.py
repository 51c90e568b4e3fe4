"""`fuse-s3`: one program, a few verbs; each verb is a module of its own, imported when used."""

import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import NamedTuple

__all__ = ["main"]


class _Verb(NamedTuple):
    module: str
    usage: str
    text: str
    function: str = "run"


_VERBS = {
    "mount": _Verb(
        "fuse_s3_cli.mount",
        "mount [--foreground] SPEC DIRECTORY [-o OPTIONS]",
        "mount a bucket; --foreground stays until unmounted and logs to the terminal",
    ),
    "staged": _Verb(
        "fuse_s3_cli.staged",
        "staged [--cache DIRECTORY]... [list|upload|discard|save] [ID|KEY...]",
        "what is left in cache directories: list it, store it, throw it away, save a copy",
    ),
    "list": _Verb(
        "fuse_s3_cli.list",
        "list [--json]",
        "what is mounted on this machine, and who serves it",
    ),
    "status": _Verb(
        "fuse_s3_cli.status",
        "status MOUNT [--json]",
        "everything there is to know of a mount: requests, memory, what is not stored yet",
    ),
    "restart": _Verb(
        "fuse_s3_cli.orders",
        "restart MOUNT",
        "hand a mount over to a new worker, without programs noticing",
        "run_restart",
    ),
    "log-level": _Verb(
        "fuse_s3_cli.orders",
        "log-level MOUNT error|warning|info|debug",
        "log more, or less, until the worker ends",
        "run_log_level",
    ),
    "drop-metadata": _Verb(
        "fuse_s3_cli.orders",
        "drop-metadata MOUNT [PATH]",
        "forget names, sizes and times, so that the bucket is asked again",
        "run_drop_metadata",
    ),
    "doctor": _Verb(
        "fuse_s3_cli.doctor",
        "doctor [SPEC] [-o OPTIONS] [--json]",
        "check this machine, and what a bucket lets us do; say what to do about it",
    ),
}


def main() -> int:
    """Run the verb that the command line names; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        _print_usage()
        return 0 if arguments else 1
    if arguments[0] in {"-V", "--version", "version"}:
        print(f"fuse-s3 {metadata.version('fuse-s3')}")
        return 0
    verb = _VERBS.get(arguments[0])
    if verb is None:
        sys.stderr.write(f"fuse-s3: unknown command '{arguments[0]}': see fuse-s3 --help\n")
        return 1
    run: Callable[[list[str]], int] = getattr(import_module(verb.module), verb.function)
    return run(arguments[1:])


def _print_usage() -> None:
    print("usage: fuse-s3 COMMAND\n")
    for verb in _VERBS.values():
        print(f"  fuse-s3 {verb.usage}\n      {verb.text}")
    print("\n  fuse-s3 --version\n\nOptions of a mount: mount.s3 --help")


if __name__ == "__main__":
    sys.exit(main())
