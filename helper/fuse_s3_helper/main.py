"""`mount.s3`: from mount(8)'s argument vector to a mount that serves, or one line and a status.

The whole of it is `mount`, below. Every privileged act is in a module of its own, with the
argument for why it is safe above it.
"""

import os
import signal
import sys
from collections.abc import Callable

from fuse_s3_helper import mount as mounting
from fuse_s3_helper import usermount
from fuse_s3_helper.argv import USAGE, MountRequest, parse
from fuse_s3_helper.errors import INTERRUPTED, MountError, SystemFailure, warn
from fuse_s3_helper.files import open_files
from fuse_s3_helper.installed import KEEPER, VERSION, WORKER
from fuse_s3_helper.mountpoint import inside, pin
from fuse_s3_helper.process import become
from fuse_s3_helper.worker import Worker, activated_worker, identity, start_worker
from fuse_s3_shared.handoff import File, Mount, Mounted, Ready, Serve, Serving
from fuse_s3_shared.limits import PROTOCOL_VERSION


def main(argv: list[str]) -> int:
    """Run the helper; return an exit status of mount(8)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
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
    as_root = os.geteuid() == 0
    create_mount = mounting.create_mount if as_root else usermount.create_mount
    if not as_root:
        usermount.program()
    with inside(request.given.get("-N")):
        point = pin(request.directory)
    account = identity(request.given.get("worker_user"))
    files = open_files(request.files, with_homes="worker_user" not in request.given)
    by_systemd = as_root and not request.given.keys() & {"worker_user", "foreground"}
    worker = activated_worker() if by_systemd else None
    worker = worker or start_worker(account, KEEPER, foreground="foreground" in request.given)
    try:
        ready = _hand_over(request, worker, files)
        if "-f" in request.given:
            worker.stop()
            return
        only = (ready.uid, ready.gid) if request.given.keys() & {"owner_only", "private"} else None
        made = create_mount(request, only, point)
        try:
            _attach(request, worker, made)
        except BaseException:
            with inside(request.given.get("-N")):
                made.undo()
            raise
    except BaseException:
        worker.stop()
        raise
    if "-v" in request.given:
        print(f"mount.s3: {request.spec} is mounted on {point.path}")
    _warn_of_early_mount(request)


def _warn_of_early_mount(request: MountRequest) -> None:
    """Name the consequence where systemd takes this for a mount that needs no network.

    Only where systemd has started mount(8), as it does for a line of fstab or a mount unit: by
    hand the word means nothing.
    """
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getppid()) and "_netdev" not in request.given:
        warn(
            "without _netdev this is mounted before there is a network at boot, and unmounted "
            "after it is gone at shutdown, when what is not stored yet is lost"
        )


def _hand_over(request: MountRequest, worker: Worker, files: dict[str, tuple[str, int]]) -> Ready:
    """Tell the worker what to serve, with the files that it may not open; return its answer."""
    for option, (path, fd) in files.items():
        worker.say(File(option, path), fd)
        os.close(fd)
    read_only = any(flag.word == "ro" for flag in request.flags)
    switches = read_only, *(word in request.given for word in ("-s", "-f", "foreground"))
    owner = os.geteuid(), os.getegid()
    worker.say(Mount(PROTOCOL_VERSION, request.spec, request.worker_options, *owner, *switches))
    return worker.expect(Ready)


def _attach(request: MountRequest, worker: Worker, made: mounting.Mount) -> None:
    """Have the mount served, and attach it once it is."""
    worker.say(Serve(), made.device)
    # From here the copies of the worker and of who keeps it are the only ones: with them ends the
    # connection, and whatever waits for it.
    os.close(made.device)
    worker.expect(Serving)
    if not made.serves(worker.seconds_left):
        raise MountError("the worker says that it serves, but its root directory cannot be read")
    with inside(request.given.get("-N")):
        made.attach()
    worker.say(Mounted(request.directory))


def _help(_: MountRequest) -> None:
    """Let the worker, who knows the options, print them; without privileges, like all it does."""
    print(f"{USAGE}\n", flush=True)
    become(identity(None))
    # Safe: whoever runs this has no privileges any more.
    os.execv(WORKER, [WORKER, "--help"])


_ACTIONS: dict[str, Callable[[MountRequest], None]] = {
    "mount": mount,
    "remount": mounting.remount,
    "help": _help,
    "version": lambda _: print(f"mount.s3 {VERSION}"),
}
