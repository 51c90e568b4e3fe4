"""The table: what a worker may do, each with the reason. Everything else is refused.

The seccomp filter and the service unit's system call filter are both made from CALLS, so that
they cannot drift apart; a test runs the worker's own start under the one that the unit gets.
Files and ports depend on the machine and on the options; see `files` and `Needs`.
"""

import errno
import mmap
import socket
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "ALL_BITS",
    "CALLS",
    "CHECKS",
    "FAMILIES",
    "KILLED",
    "NOT_THERE",
    "OWN_PROCESS",
    "Calls",
    "Check",
    "names",
]


class Calls(NamedTuple):
    """System calls by name, and why a worker makes them.

    What is of the `start` alone is over when the worker puts its own filter in place: the unit
    allows it, the filter does not.
    """

    words: str
    why: str
    start: bool = False


FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX")
"""Address families of sockets: the store and name servers; the log, the helper, the loop."""

CALLS = (
    Calls("brk mmap munmap mremap mprotect madvise", "memory, never writable and executable"),
    Calls(
        "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek",
        "bytes: the device, connections, files",
    ),
    Calls(
        "epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 "
        "eventfd2 pipe2 timerfd_create timerfd_settime",
        "the event loop, and what wakes it up",
    ),
    Calls(
        "socket socketpair connect sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown "
        "getsockopt setsockopt getsockname getpeername",
        "connections to the store, name resolution, the log",
    ),
    Calls("bind listen accept accept4", "the control socket; TCP ports are Landlock's to refuse"),
    Calls("close close_range dup dup2 dup3 fcntl ioctl fstat", "descriptors"),
    Calls(
        "openat open newfstatat stat lstat statx faccessat faccessat2 access readlinkat readlink "
        "getdents64 getcwd fstatfs statfs",
        "looking files up: libraries, certificates, resolver; which ones is Landlock's to say",
    ),
    Calls(
        "memfd_create ftruncate fallocate fsync fdatasync flock fadvise64 copy_file_range fchmod "
        "mkdirat mkdir unlinkat unlink rmdir renameat2 renameat rename linkat link",
        "files of its own: copies of credentials in memory, the cache directory",
    ),
    Calls(
        "clone set_robust_list rseq futex sched_yield sched_getaffinity getcpu membarrier gettid "
        "sigaltstack exit",
        "threads, for what blocks; never a process",
    ),
    Calls("rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait tgkill", "its own signals"),
    Calls(
        "clock_gettime clock_getres gettimeofday time clock_nanosleep nanosleep restart_syscall",
        "time",
    ),
    Calls(
        "getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp "
        "getsid getrusage times prlimit64 sysinfo uname prctl pidfd_open getrandom",
        "what it is, and what surrounds it",
    ),
    Calls("exit_group", "the end"),
    Calls(
        "execve arch_prctl set_tid_address",
        "starting an interpreter",
        start=True,
    ),
    Calls("chmod fchmodat", "the control socket's mode: no descriptor names it", start=True),
    Calls(
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        "giving up the rest",
        start=True,
    ),
)

NOT_THERE = ("clone3", "io_uring_setup")
"""Calls that do not exist, as far as a worker can tell, for libraries have another way.

The flags of clone3(2) are in memory, where no filter can see them; the C library falls back to
clone(2). An io_uring does what it is told past all filters.
"""

KILLED = (
    Calls("ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd",
          "other processes"),
    Calls("mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree "
          "mount_setattr", "mounts, which are the helper's"),
    Calls("unshare setns", "namespaces, where an unprivileged process has all capabilities"),
    Calls("bpf perf_event_open userfaultfd add_key request_key keyctl io_uring_enter "
          "io_uring_register", "where kernels have had their holes"),
    Calls("init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff "
          "iopl ioperm acct quotactl quotactl_fd settimeofday clock_settime adjtimex clock_adjtime "
          "sethostname setdomainname syslog vhangup open_by_handle_at", "the machine"),
)  # fmt: skip
"""Calls that no worker ever makes: whoever makes one has taken it over, and it ends."""


ALL_BITS = 0xFFFF_FFFF

OWN_PROCESS = -1
"""Stands for the worker's own process id among the values of a Check."""


class Check(NamedTuple):
    """What an argument of a system call must be: `argument & mask` is one of `values`.

    Arguments are looked at as the kernel does, by their lower 32 bits.
    """

    call: str
    argument: int
    values: tuple[int, ...]
    why: str
    mask: int = ALL_BITS
    errno: int = errno.EPERM


_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020080  # linux/sched.h: every CLONE_NEW flag that clone(2) takes
_SOCK_TYPE_MASK = 0xF
_INET_AND_UNIX = tuple(int(getattr(socket, name)) for name in FAMILIES)
_WRITE, _EXEC = mmap.PROT_WRITE, mmap.PROT_EXEC
_MSG_FASTOPEN = 0x20000000
_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE = 15, 16, 3

# asm-generic/ioctls.h, linux/sockios.h, linux/pidfd.h
_IOCTLS = {
    "TCGETS": 0x5401, "TIOCGWINSZ": 0x5413, "FIONREAD": 0x541B, "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450, "FIOCLEX": 0x5451, "SIOCGIFINDEX": 0x8933, "PIDFD_GET_INFO": 0xC040FF0B,
}  # fmt: skip
# asm-generic/fcntl.h, linux/fcntl.h; not among them: F_SETOWN and F_SETSIG, by which the kernel
# sends signals to others, F_NOTIFY, F_SETLEASE.
_FCNTLS = {
    "F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_SETFL": 4, "F_GETLK": 5,
    "F_SETLK": 6, "F_SETLKW": 7, "F_OFD_GETLK": 36, "F_OFD_SETLK": 37, "F_OFD_SETLKW": 38,
    "F_DUPFD_CLOEXEC": 1030, "F_SETPIPE_SZ": 1031, "F_GETPIPE_SZ": 1032, "F_ADD_SEALS": 1033,
    "F_GET_SEALS": 1034,
}  # fmt: skip

CHECKS = (
    Check("mmap", 2, (0, _WRITE, _EXEC), "not writable and executable", _WRITE | _EXEC,
          errno.EACCES),
    Check("mprotect", 2, (0,), "not executable afterwards", _EXEC, errno.EACCES),
    Check("clone", 0, (_CLONE_THREAD,), "a thread, in the same namespaces",
          _CLONE_THREAD | _CLONE_NEW),
    Check("tgkill", 0, (OWN_PROCESS,), "a thread of its own"),
    Check("prlimit64", 0, (0,), "its own limits"),
    Check("prctl", 0, (_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE), "names of threads"),
    Check("socket", 0, _INET_AND_UNIX, "not netlink, packet, vsock ...", errno=errno.EAFNOSUPPORT),
    Check("socket", 1, (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET), "not raw",
          _SOCK_TYPE_MASK, errno.ESOCKTNOSUPPORT),
    # MPTCP, SCTP and SMC would connect where Landlock looks at TCP alone.
    Check("socket", 2, (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP), "nothing but TCP and UDP",
          errno=errno.EPROTONOSUPPORT),
    Check("socketpair", 0, (socket.AF_UNIX,), "the only family that has pairs",
          errno=errno.EAFNOSUPPORT),
    # It connects without connect(2), and so past Landlock's list of ports.
    *(Check(call, argument, (0,), "no connection in passing", _MSG_FASTOPEN, errno.EOPNOTSUPP)
      for call, argument in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3))),
    Check("ioctl", 1, tuple(_IOCTLS.values()), "terminals, sockets, processes; not TIOCSTI"),
    Check("fcntl", 1, tuple(_FCNTLS.values()), "no signals to others"),
)  # fmt: skip


def names(*, start: bool) -> Iterator[str]:
    """Yield the calls that are allowed: while the worker starts, or afterwards."""
    for calls in CALLS:
        if start or not calls.start:
            yield from calls.words.split()
