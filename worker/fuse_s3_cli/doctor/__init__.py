"""`fuse-s3 doctor`: checks this machine, and what a bucket lets us do, from end to end."""

import argparse
import json
from itertools import chain

from fuse_s3_cli.doctor.bucket import examine_bucket
from fuse_s3_cli.doctor.findings import Finding, Outcome, lines
from fuse_s3_cli.doctor.machine import Machine, examine_machine

__all__ = ["run"]

_FAILED = 1


def run(arguments: list[str]) -> int:
    """Check; return 1 when something fails, 0 for warnings."""
    parser = argparse.ArgumentParser(
        prog="fuse-s3 doctor",
        description="Check this machine and, with SPEC, what a bucket lets us do. The bucket is "
        "tried with requests on keys of their own, which are removed.",
    )
    parser.add_argument("spec", nargs="?", metavar="SPEC", help="what would be mounted")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    machine = Machine()
    looks = examine_machine(machine)
    if given.spec is not None:
        looks = chain(looks, examine_bucket(machine.helper, given.spec, ",".join(given.options)))
    findings: list[Finding] = []
    for finding in looks:
        findings.append(finding)
        if not given.json:
            print("\n".join(lines([finding])), flush=True)
    if given.json:
        print(json.dumps([finding.model_dump() for finding in findings], indent=2))
    return _FAILED if any(one.outcome is Outcome.FAILED for one in findings) else 0
