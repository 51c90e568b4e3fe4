"""`mount.s3`: from mount(8)'s argument vector to a mount that serves, or one line and a status.

The whole of it is `mount`, below. Every privileged act is in a module of its own, with the
argument for why it is safe above it.
"""

import os
import signal
import sys

from fuse_s3_helper import mount as mounting
from fuse_s3_helper.argv import USAGE, MountRequest, parse
from fuse_s3_helper.device import open_device
from fuse_s3_helper.errors import INTERRUPTED, MountError, SystemFailure, UsageError
from fuse_s3_helper.files import open_files
from fuse_s3_helper.installed import VERSION, WORKER
from fuse_s3_helper.mountpoint import inside, pin
from fuse_s3_helper.worker import Worker, fork_worker, identity, start_worker
from fuse_s3_shared.handoff import File, Mount, Mounted, Ready, Serve, Serving


def main(argv: list[str]) -> int:
    """Run the helper; return an exit status of mount(8)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupted)
    try:
        request = parse(argv)
        _ACTIONS[request.action](request)
    except KeyboardInterrupt:
        print("mount.s3: interrupted, nothing is mounted", file=sys.stderr)
        return INTERRUPTED
    except (MountError, OSError) as error:
        print(f"mount.s3: {error}", file=sys.stderr)
        return error.code if isinstance(error, MountError) else SystemFailure.code
    return 0


def mount(request: MountRequest) -> None:
    """Mount what `request` says, step by step; leave nothing behind when a step fails."""
    _need_root()
    with inside(request.namespace):
        point = pin(request.directory)
    account = identity(request.worker_user)
    files = open_files(request.files, with_homes=request.worker_user is None)
    worker = start_worker(account, WORKER, foreground=request.foreground)
    try:
        device, ready = _hand_over(request, worker, files)
        if request.fake:
            worker.stop()
            return
        _tell(request, f"worker {worker.pid} runs as {account.pw_name} and reaches {request.spec}")
        owner = (ready.uid, ready.gid) if request.private else (os.geteuid(), os.getegid())
        made = mounting.create_mount(request, device, owner, point)
        # From here the worker's copy is the only one: if the worker dies, so does the connection,
        # and nothing that waits for it waits for ever.
        os.close(device)
        try:
            _attach(request, worker, made)
        except BaseException:
            with inside(request.namespace):
                made.undo()
            raise
    except BaseException:
        worker.stop()
        raise
    _tell(request, f"{request.spec} is mounted on {point.path}")


def _hand_over(
    request: MountRequest, worker: Worker, files: dict[str, tuple[str, int]]
) -> tuple[int, Ready]:
    """Tell the worker what to serve, with the files and the device; return device and answer."""
    version = worker.greet()
    for option, (path, fd) in files.items():
        worker.say(File(option, path), fd)
        os.close(fd)
    device = open_device()
    read_only = any(flag.word == "ro" for flag in request.flags)
    switches = read_only, request.sloppy, request.fake, request.foreground
    owner = os.geteuid(), os.getegid()
    worker.say(Mount(version, request.spec, request.worker_options, *owner, *switches), device)
    return device, worker.expect(Ready)


def _attach(request: MountRequest, worker: Worker, made: mounting.Mount) -> None:
    """Attach the mount once it serves."""
    worker.say(Serve())
    worker.expect(Serving)
    if not made.serves(worker.seconds_left):
        raise MountError("the worker says that it serves, but its root directory cannot be read")
    with inside(request.namespace):
        made.attach()
    worker.say(Mounted(request.directory))


def _remount(request: MountRequest) -> None:
    _need_root()
    with inside(request.namespace):
        point = pin(request.directory)
        if not request.fake:
            mounting.remount(request, point)


def _help(_: MountRequest) -> None:
    """Let the worker, who knows the options, print them; without privileges, like all it does."""
    print(f"{USAGE}\n", flush=True)
    if os.geteuid() == 0:
        os.waitpid(fork_worker(identity(None), [WORKER, "--help"], {1: 1, 2: 2}), 0)
    else:
        os.execv(WORKER, [WORKER, "--help"])


def _version(_: MountRequest) -> None:
    print(f"mount.s3 {VERSION}")


_ACTIONS = {"mount": mount, "remount": _remount, "help": _help, "version": _version}


def _need_root() -> None:
    if os.geteuid() != 0:
        raise UsageError(
            "only root can mount; for ordinary users mount(8) runs its helpers without "
            "privileges, even where fstab says user: use sudo, or mount at boot"
        )


def _tell(request: MountRequest, text: str) -> None:
    if request.verbose:
        print(f"mount.s3: {text}")


def _interrupted(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
