"""Step 3, without systemd: a process that has lost everything before it is executed.

What is executed is the keeper, which starts the worker and, should that die, the next one. It
needs no privilege for that: worker and keeper are one account, that of a service or, where an
ordinary user mounts, the user's own. So nothing that outlives the helper is root's.
"""

import fcntl
import os
import pwd
import select
import signal

from fuse_s3_helper import syscalls

_OUT_OF_THE_WAY = 64
# Python ignores these, and an ignored signal stays ignored across exec, a blocked one blocked.
_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def fork_worker(account: pwd.struct_passwd, command: list[str], fds: dict[int, int]) -> int:
    """Fork, become `account` for good, and execute `command`.

    `fds` are the descriptors it keeps, as number there to number here; the standard three are
    /dev/null where they are not named.

    Returns:
        Its process id, and that of its process group.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _keep_only(fds)
        become(account)
        # Nothing of our environment: what steers a loader, an interpreter or a library stays here.
        environment = {"PATH": "/usr/bin:/bin", "HOME": account.pw_dir, "LANG": "C.UTF-8"}
        os.execve(command[0], command, environment)
    except BaseException as error:  # noqa: BLE001  the child must never run on as a second helper
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(126)


def end_of(pid: int, seconds: float) -> int | None:
    """Wait so long for a child to end; return its status, None when it has not ended by then."""
    with open(os.pidfd_open(pid)) as pidfd:
        ended, _, _ = select.select([pidfd], [], [], seconds)
    return os.waitpid(pid, 0)[1] if ended else None


def _keep_only(fds: dict[int, int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    wanted = {0: null, 1: null, 2: null} | fds
    # Copies out of the way first: the number one of them goes to may be another one's source.
    copies = {to: fcntl.fcntl(fd, fcntl.F_DUPFD, _OUT_OF_THE_WAY) for to, fd in wanted.items()}
    for to, fd in copies.items():
        os.dup2(fd, to)
    # Not up to the limit on descriptors: it may have been lowered below one that is open.
    os.closerange(max(wanted) + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)


def become(account: pwd.struct_passwd) -> None:
    """Become `account`, without any capability, for good; an ordinary user stays who they are."""
    # Safe because of the order: the bounding set while CAP_SETPCAP is still there, the groups
    # while CAP_SETGID is, the user last. Leaving uid 0 in all three ids empties the permitted,
    # effective and ambient sets (capabilities(7)), the inheritable one is emptied by name;
    # no_new_privs makes exec unable to refill them.
    as_root = os.geteuid() == 0
    if as_root:
        with open("/proc/sys/kernel/cap_last_cap") as last:
            for capability in range(int(last.read()) + 1):
                syscalls.set_process(syscalls.PR_CAPBSET_DROP, capability)
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    syscalls.empty_capabilities()
    syscalls.set_process(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if 0 in os.getresuid() + (os.getresgid() if as_root else ()):
        raise PermissionError("still root after giving it up")
