"""`fuse-s3 list`: the mounts of this machine."""

import argparse
import json
import os
import time

from fuse_s3_cli.control import shown
from fuse_s3_cli.models import Listed
from fuse_s3_cli.mounts import mounts, worker_of, workers
from fuse_s3_cli.table import columns, duration

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """List the mounts; return 0, also when there are none."""
    parser = argparse.ArgumentParser(
        prog="fuse-s3 list", description="List the buckets that are mounted on this machine."
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    as_json = parser.parse_args(arguments).json
    found = _listed()
    if as_json:
        print(json.dumps([one.model_dump() for one in found], indent=2))
        return 0
    rows = [("DIRECTORY", "BUCKET", "ACCESS", "WORKER", "SINCE")]
    for one in found:
        worker = "none" if one.pid is None else str(one.pid)
        since = "-" if one.since is None else duration(time.time() - one.since)
        access = "ro" if one.read_only else "rw"
        rows.append((shown(one.directory), shown(one.spec), access, worker, since))
    if found:
        print(columns(rows))
    else:
        print("no bucket is mounted")
    return 0


def _listed() -> list[Listed]:
    there = [*workers()]
    found = []
    for mounted in mounts():
        worker = worker_of(mounted, there)
        found.append(
            Listed(
                directory=os.fsencode(mounted.directory).decode("utf-8", "backslashreplace"),
                spec=mounted.spec,
                read_only=mounted.read_only,
                device=mounted.device,
                pid=worker.about.pid if worker else None,
                since=worker.about.since if worker else None,
            )
        )
    return found
