"""The demo: a bucket is filled, mounted, compared, written to, and everything is taken away again.

Started by tools/demo, which see. Each step shows the commands that it runs, so that the reader can
repeat them. Whatever is made is written down for undoing in the moment that it is made.
"""

import contextlib
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from console import CommandFailedError, Console
from support.moto import Moto
from support.rgw import Rgw, RgwUnavailableError

ROOT = Path(__file__).resolve().parent.parent
HELPER = Path("/sbin/mount.s3")

_T = TypeVar("_T")

_MIB = 1 << 20
_LARGE_FILE = 64 * _MIB
_THREADS = 8
_SERVERS: dict[str, type[Moto] | type[Rgw]] = {"moto": Moto, "rgw": Rgw}
_WORKER_GOES = 15.0  # seconds for a worker to end after its unmount
_STEPS = 9


class DemoError(Exception):
    """Something is not as it should be; one line for the reader."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tree goes: a prefix of a bucket, "" for all of it.

    `options` and `environment` are what mount needs to get there.
    """

    client: Any
    bucket: str
    prefix: str = ""
    options: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The first word of the mount."""
        return f"{self.bucket}/{self.prefix}".rstrip("/")

    def keys(self) -> list[str]:
        """Return all keys, without the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        found = (item["Key"] for page in pages for item in page.get("Contents", []))
        return [key.removeprefix(self.prefix) for key in found]

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=content)

    def delete(self, key: str) -> int:
        """Delete an object; return 0, the bytes that were moved."""
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
        return 0


class Demo:
    """The steps, in order; `undo` takes away what they made."""

    def __init__(self, console: Console, undo: contextlib.ExitStack) -> None:
        self._console = console
        self._undo = undo
        with console.undisturbed():
            self._home = Path(tempfile.mkdtemp(prefix="fuse-s3-demo-"))
            undo.callback(shutil.rmtree, self._home, ignore_errors=True)
        self._home.chmod(0o711)  # servers and workers run under users of their own
        # Temporary files of everything that is started from here, too.
        tempfile.tempdir = os.environ["TMPDIR"] = str(self._home)
        self._source = self._home / "source"
        self._mount_point = self._home / "mnt"  # in commands relative to our directory, to be short
        self._mount_point.mkdir()
        self._worker = 0

    def run(self) -> None:
        """Show it all."""
        place = self._find_place()
        self._make_tree()
        self._fill(place)
        self._have_helper()
        self._mount(place)
        self._compare()
        self._change(place)
        self._show_worker()
        self._look_around()

    # -- a bucket -------------------------------------------------------------------------------

    def _find_place(self) -> Place:
        bucket = os.environ.get("BUCKET", "")
        endpoint = os.environ.get("ENDPOINT", "")
        if bucket:
            self._console.step(f"Your bucket: {bucket} at {endpoint or 'Amazon S3'}")
            return self._own_place(bucket, endpoint)
        if endpoint:
            raise DemoError("ENDPOINT= needs BUCKET=, the name of a bucket there")
        name = os.environ.get("SERVER") or "moto"
        if name not in _SERVERS:
            raise DemoError(f"SERVER={name}: give one of {', '.join(_SERVERS)}")
        self._console.step(f"An S3 server on the loopback interface: {name}")
        return self._own_server(name)

    def _own_place(self, bucket: str, endpoint: str) -> Place:
        """Take a prefix of the reader's bucket, which nothing else is in."""
        options = [f"endpoint_url={endpoint}"] if endpoint else []
        client = boto3.client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=boto3.Session().region_name or "us-east-1",
            config=_client_config(path_style=bool(endpoint)),
        )
        place = Place(client, bucket, f"fuse-s3-demo-{secrets.token_hex(4)}/", options)
        self._console.say(f"  everything goes below {place.prefix} and is deleted at the end")
        place.keys()  # an error that is found out now is one line
        self._undo.callback(self._empty, place)
        return place

    def _own_server(self, name: str) -> Place:
        self._console.say("  starting it" if name == "moto" else "  installing and starting it")
        no_proxy = _no_proxy()
        os.environ.update(no_proxy)
        server = _SERVERS[name]()
        self._undo.callback(server.stop)
        server.start()
        keys, endpoint = server.store.keys, server.store.endpoint
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
            region_name="us-east-1",
            config=_client_config(path_style=True),
        )
        client.create_bucket(Bucket="demo")
        self._console.say(
            f"  it serves the bucket demo at {endpoint}; its keys are good nowhere else"
        )
        environment = server.store.environment | no_proxy
        for variable, value in environment.items():
            self._console.say(f"$ export {variable}={value}")
        return Place(client, "demo", "", [f"endpoint_url={endpoint}"], environment)

    # -- a tree ---------------------------------------------------------------------------------

    def _make_tree(self) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        self._console.step(f"A tree to store: a copy of {library}, and a file of 64 MiB")
        # Without links, which a bucket does not have.
        shutil.copytree(library, self._source, ignore_dangling_symlinks=True)
        with (self._source / "large-file").open("wb") as file:
            for _ in range(_LARGE_FILE // _MIB):
                file.write(os.urandom(_MIB))
        files = [path for path in self._source.rglob("*") if path.is_file()]
        directories = sum(path.is_dir() for path in self._source.rglob("*"))
        size = sum(path.stat().st_size for path in files) // _MIB
        self._console.change_directory(self._home)
        self._console.say(f"  source: {len(files)} files, {directories} directories, {size} MiB")

    def _fill(self, place: Place) -> None:
        self._console.step(
            f"Fill the bucket with it, over the S3 API, {_THREADS} requests at a time"
        )
        paths = [path for path in sorted(self._source.rglob("*")) if _is_key(path)]
        self._each(paths, lambda path: self._store(place, path), "objects")

    def _store(self, place: Place, path: Path) -> int:
        key = str(path.relative_to(self._source))
        content = path.read_bytes() if path.is_file() else b""
        place.put(key if path.is_file() else f"{key}/", content)
        return len(content)

    def _empty(self, place: Place) -> None:
        self._console.say(f"  deleting everything below {place.prefix}")
        self._each(place.keys(), place.delete, "objects deleted")

    def _each(self, items: Sequence[_T], work: Callable[[_T], int], what: str) -> None:
        """Do `work`, which returns a number of bytes, for all items, several at a time."""
        threads = ThreadPoolExecutor(_THREADS)
        try:
            waiting = {threads.submit(work, item) for item in items}
            moved = 0
            while waiting:
                done, waiting = wait(waiting, timeout=0.1)
                moved += sum(future.result() for future in done)
                size = f", {moved // _MIB} MiB" if moved else ""
                text = f"{len(items) - len(waiting)} of {len(items)} {what}{size}"
                self._console.progress(text, done=not waiting)
        finally:
            threads.shutdown(cancel_futures=True)

    # -- the mount ------------------------------------------------------------------------------

    def _have_helper(self) -> None:
        console = self._console
        console.step("The mount helper")
        if HELPER.exists():
            console.say(f"  {HELPER} is installed already: it is used, and left alone at the end")
            console.run(HELPER, "--version")
            return
        console.say(f"  {HELPER} is not there: installed now, uninstalled at the end")
        # Before the beginning: a half-made installation has to go as well.
        self._undo.callback(console.run, "make", "-s", "-C", ROOT, "uninstall")
        console.run(
            *("make", "-s", "-C", ROOT, "install"),
            progress=lambda _, seconds: f"the worker and what it needs: {seconds:.0f} s",
        )

    def _mount(self, place: Place) -> None:
        console = self._console
        console.step("Mount it")
        command = ["mount", "-v", "-t", "s3", place.spec, "mnt"]
        command += ["-o", ",".join(place.options)] if place.options else []
        self._undo.callback(self._unmount)
        before = _workers()
        console.run(*command, environment=place.environment)
        self._worker = max(_workers() - before, default=0)
        if not self._worker:
            raise DemoError("there is no worker that was not there before")
        console.run("findmnt", "mnt")

    def _unmount(self) -> None:
        """Unmount, and wait for the worker's end."""
        if not os.path.ismount(self._mount_point):
            return
        try:
            self._console.run("umount", "mnt")
        except CommandFailedError:
            # Detached, it hangs on nothing of ours; the worker ends when its last user leaves.
            self._console.run("umount", "-l", "mnt")
            raise DemoError("somebody still uses the mount: it ends when they leave it") from None
        until = time.monotonic() + _WORKER_GOES
        # Gone also from the process table: while it is there, its user cannot be removed.
        while Path(f"/proc/{self._worker}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        if _runs(self._worker):
            raise DemoError(f"worker {self._worker} did not end with its mount")

    # -- what it does ---------------------------------------------------------------------------

    def _compare(self) -> None:
        self._console.step("Compare every file with its source")
        total = 2 * sum(path.stat().st_size for path in self._source.rglob("*") if path.is_file())
        self._console.run(
            *("diff", "-r", "source", "mnt"),
            progress=lambda pid, _: f"{_bytes_read(pid) // _MIB} of {total // _MIB} MiB read",
        )
        self._console.say("  no difference")

    def _change(self, place: Place) -> None:
        console = self._console
        console.step("Write, read back, delete")
        console.run("cp", "-r", "mnt/json", "mnt/a-copy")
        console.run("diff", "-r", "source/json", "mnt/a-copy")
        console.run("dd", "if=source/large-file", "of=mnt/second", "bs=1M", "conv=fsync")
        console.run("cmp", "source/large-file", "mnt/second")
        console.run("sh", "-c", "echo one more line >> mnt/a-copy/decoder.py")
        console.run("tail", "-n", "1", "mnt/a-copy/decoder.py")
        self._expect(place, there={"second", "a-copy/decoder.py"})
        console.run("rm", "-r", "mnt/a-copy", "mnt/second")
        self._expect(place, gone={"second", "a-copy/decoder.py"})

    def _expect(
        self,
        place: Place,
        there: frozenset[str] | set[str] = frozenset(),
        gone: frozenset[str] | set[str] = frozenset(),
    ) -> None:
        """Ask the bucket itself."""
        keys = set(place.keys())
        wrong = sorted((there - keys) | (gone & keys))
        if wrong:
            raise DemoError(f"the bucket is not as it should be: {', '.join(wrong)}")
        what = (
            f"has {', '.join(sorted(there))}"
            if there
            else f"no longer has {', '.join(sorted(gone))}"
        )
        self._console.say(f"  the bucket {what}")

    def _show_worker(self) -> None:
        console = self._console
        console.step("Who serves it: a process without any privilege")
        console.run("ps", "-o", "pid,user,rss,args", "-p", str(self._worker))
        fields = "^(Uid|Gid|Groups|Cap(Prm|Eff|Bnd)|NoNewPrivs)"
        said = console.run("grep", "-E", fields, f"/proc/{self._worker}/status")
        status = dict(line.split(":", 1) for line in said.splitlines())
        none = "0" * 16
        if "0" in status["Uid"].split() or any(
            status[c].strip() != none for c in ("CapPrm", "CapBnd")
        ):
            raise DemoError("the worker has privileges")
        if status["NoNewPrivs"].strip() != "1":
            raise DemoError("the worker may gain privileges")

    def _look_around(self) -> None:
        console = self._console
        if not (sys.stdin.isatty() and console.terminal):
            console.step("Done")
            return
        console.step(
            f"Done. The bucket is at {self._mount_point}: look around from another terminal."
        )
        try:
            input("  Enter takes everything away. ")
        except KeyboardInterrupt:
            console.say("")  # the terminal has left its ^C there
            raise


def _client_config(*, path_style: bool) -> Config:
    return Config(
        s3={"addressing_style": "path" if path_style else "auto"},
        retries={"total_max_attempts": 3},
        max_pool_connections=2 * _THREADS,
        request_checksum_calculation="when_required",  # Ceph refuses trailing ones
    )


def _no_proxy() -> dict[str, str]:
    """Return what keeps requests to the loopback interface from a proxy, where there is one."""
    if not any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy")):
        return {}
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return {"no_proxy": ",".join(filter(None, (known, "127.0.0.1")))}


def _is_key(path: Path) -> bool:
    """Tell whether a path has to be stored: a file, or a directory that nothing else shows."""
    return path.is_file() or (path.is_dir() and not any(path.iterdir()))


def _bytes_read(pid: int) -> int:
    """Return what a process has read so far; see proc(5), /proc/PID/io."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
    return 0


def _workers() -> set[int]:
    """Return the process ids of all workers."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"/fuse-s3-worker\0" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


def _runs(pid: int) -> bool:
    """Tell whether a process is there, and not merely waiting for its parent to take notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def main() -> int:
    """Run the demo; return an exit status."""
    console = Console(_STEPS)
    try:
        with contextlib.ExitStack() as undo:
            try:
                Demo(console, undo).run()
            finally:
                console.ignore_signals()
    except KeyboardInterrupt:
        console.say("\ninterrupted: nothing is left behind")
        return 130
    except (
        *(DemoError, CommandFailedError, RgwUnavailableError),
        *(BotoCoreError, ClientError, OSError),
    ) as error:
        console.say(f"\nthe demo failed: {error}")
        return 1
    console.say("\neverything is as it should be, and nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
