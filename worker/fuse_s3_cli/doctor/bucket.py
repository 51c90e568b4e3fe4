"""What a mount needs of a bucket: tried by a worker that is started as for a mount.

`mount.s3 -f` with the option `examine`: the same helper reads the same files, the same account in
the same sandbox makes the same requests. Nothing is mounted.
"""

import ast
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuse_s3_cli.doctor.findings import Finding
from fuse_s3_shared.mountopts import MountOption, OptionSyntaxError, join_options, split_options

__all__ = ["examine_bucket", "findings_of"]

_PATIENCE = 60.0  # seconds; mount.s3 waits for 30
_OURS = {"log_file", "logfile", "log_level", "dbglevel", "debug", "foreground", "examine"}
_EVENT = re.compile(r"\S+ [A-Z]+ fuse-s3\[\d+\] (?P<event>[a-z_]+)(?P<fields> .*)?")
_FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|\S+)')
_REFUSAL = "mount.s3: "
_SKEW_WARNED, _SKEW_FAILED = 60, 900  # seconds; S3 refuses what is signed 15 minutes off

_DOES = {
    "list": ("directories can be listed", "s3:ListBucket on the bucket"),
    "put": ("files can be stored", "s3:PutObject on BUCKET/*; a read-only mount (ro) needs none"),
    "get": ("files can be read", "s3:GetObject on BUCKET/*"),
    "copy": (
        "files can be renamed",
        "s3:GetObject and s3:PutObject on BUCKET/*, s3:GetObjectTagging and s3:PutObjectTagging "
        "where objects have tags; or a server that copies",
    ),
    "multipart": ("large files can be stored", "s3:PutObject on BUCKET/*"),
    "abort": ("uploads can be given up", "s3:AbortMultipartUpload on BUCKET/*"),
    "delete": ("files can be removed", "s3:DeleteObject on BUCKET/*"),
    "time": ("the store answers in time", "see fuse-s3 status of a mount for how long it takes"),
}
"""By action of the worker: what it shows, and what is needed for it."""

_REFUSED = (
    ("secret key is wrong", "correct the secret key: AWS_SECRET_ACCESS_KEY, the credentials file "
     "of the AWS CLI, or passwd_file="),
    ("does not know this access key", "correct the access key, or endpoint_url= if it is another "
     "server's"),
    ("denied", "have the key's policy allow s3:ListBucket on the bucket, or use another key"),
    ("no credentials", "give a key: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a credentials "
     "file, or passwd_file="),
    ("does not exist", "correct the bucket's name or endpoint_url=, or make the bucket"),
    ("there is no bucket", "correct the bucket's name or endpoint_url=, or make the bucket"),
    ("does not answer as an S3 server", "correct endpoint_url=: something else answers there"),
    ("does not answer", "correct endpoint_url=, or see why the network does not lead there"),
    ("option", "correct the options: mount.s3 --help"),
)  # fmt: skip
_OTHERWISE = "see docs/troubleshooting.md"
"""What to do about a refusal, by what is in its line."""


def examine_bucket(helper: Path | None, spec: str, options: str) -> Iterator[Finding]:
    """Try a bucket."""
    if helper is None:
        yield Finding.skipped("bucket", "there is no helper to start a worker")
        return
    if os.geteuid() != 0:
        yield Finding.skipped("bucket", "only root can try it as a mount does: use sudo")
        return
    try:
        words = _words(options)
    except OptionSyntaxError as error:
        yield Finding.failed("options", str(error), "see mount.s3 --help")
        return
    with tempfile.TemporaryDirectory(prefix="fuse-s3-doctor-") as directory:
        command = [str(helper), "-f", "-o", words, "--", spec, directory]
        try:
            done = subprocess.run(  # noqa: S603  our own helper
                command,
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            text = f"mount.s3 -f has not ended within {_PATIENCE:.0f} s"
            yield Finding.failed("bucket", text, "see whether name servers answer")
            return
    yield from findings_of(done.returncode, done.stderr)


def _words(options: str) -> str:
    """Return the options of a mount, and those that make it an examination."""
    kept = [option for option in split_options(options) if option.name not in _OURS]
    ours = [MountOption("log_level", "info"), MountOption("examine"), MountOption("foreground")]
    return join_options([*kept, *ours])


def findings_of(status: int, said: str) -> Iterator[Finding]:
    """Return what helper and worker have found out."""
    refusals = []
    for line in said.splitlines():
        event = _EVENT.fullmatch(line)
        if event is not None:
            fields = {name: _value(word) for name, word in _FIELD.findall(event["fields"] or "")}
            yield from _of_event(event["event"], fields)
        elif line.startswith(_REFUSAL):
            refusals.append(line.removeprefix(_REFUSAL))
    if status == 0:
        return
    for text in refusals or [f"mount.s3 -f ended with status {status}"]:
        advice = next((advice for word, advice in _REFUSED if word in text), _OTHERWISE)
        yield Finding.failed("bucket", text, advice)


def _value(word: str) -> str:
    """Undo what the log does to a word."""
    return str(ast.literal_eval(word)) if word.startswith('"') else word


def _of_event(event: str, fields: dict[str, str]) -> Iterator[Finding]:
    if event == "sandbox":
        yield _sandbox(fields)
    elif event == "examined" and fields.get("action") == "clock":
        yield _clock(fields)
    elif event == "examined":
        yield _action(fields)


def _sandbox(fields: dict[str, str]) -> Finding:
    missing = fields.get("missing", "")
    if not missing:
        return Finding.ok("sandbox", "all layers are in force")
    advice = "a newer kernel; in a container: a seccomp profile that allows Landlock"
    if fields.get("mode") == "off":
        advice = "leave sandbox=off out"
    return Finding.warning("sandbox", f"not in force: {missing}", advice)


def _clock(fields: dict[str, str]) -> Finding:
    if "seconds" not in fields:
        return Finding.skipped("clock", fields.get("reason", ""))
    ahead = int(fields["seconds"])
    text = f"the server's clock is {abs(ahead)} s {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) > _SKEW_FAILED:
        advice = "set this machine's clock: what it signs is refused, and mended each time"
        return Finding.failed("clock", text, f"{advice} (timedatectl set-ntp true)")
    if abs(ahead) > _SKEW_WARNED:
        return Finding.warning("clock", text, "timedatectl set-ntp true")
    return Finding.ok("clock", text if ahead else "the server's clock and ours agree")


def _action(fields: dict[str, str]) -> Finding:
    action, reason = fields.get("action", ""), fields.get("reason", "")
    shows, needs = _DOES.get(action, (action, ""))
    outcome = fields.get("outcome")
    if outcome == "ok":
        return Finding.ok(action, shows)
    if outcome == "skipped":
        return Finding.skipped(action, reason)
    code = fields.get("code", "")
    text = f"{reason} ({code})" if code and code not in reason else reason
    return Finding.failed(action, text, f"needed: {needs}")
