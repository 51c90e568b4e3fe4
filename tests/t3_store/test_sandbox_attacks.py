"""A hostile program in the worker's place: everything it tries is refused.

Each act is done three times: freely as root, where it must succeed, or the test shows nothing; by
root in the sandbox, so that it is the sandbox that refuses; and as the worker, who is nobody.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import pty
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fuse_s3_worker.sandbox import Needs
from fuse_s3_worker.sandbox.syscalls import ARCHITECTURES
from support.confined import (
    DONE,
    Outcome,
    become_worker,
    enter,
    needs_sandbox,
    outcome_of,
)
from support.isolation import needs_root

pytestmark = [needs_root, needs_sandbox]

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWUTS = 0x20000, 0x4000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_PTRACE_SEIZE, _TIOCSTI = 0x4206, 0x5412

_EXECVEAT = {"x86_64": 322, "aarch64": 281}
_NUMBERS = ARCHITECTURES[os.uname().machine].numbers | {"execveat": _EXECVEAT[os.uname().machine]}


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _call(name: str, *arguments: int | bytes) -> int:
    words = (word if isinstance(word, bytes) else ctypes.c_long(word) for word in arguments)
    return _checked(_libc.syscall(ctypes.c_long(_NUMBERS[name]), *words))


class Scene:
    """What there is to attack.

    Attributes:
        home: a directory of the worker's own.
        elsewhere: a directory where everybody may write.
        victim: another process of the worker's user.
        port: a TCP port where somebody listens, and which is not allowed.
        abstract: the name of an abstract socket where somebody listens.
        terminal: a terminal, already open.
    """

    def __init__(self, public: Path, opened: contextlib.ExitStack) -> None:
        self.home, self.elsewhere = public / "home", public / "elsewhere"
        for directory in (self.home, self.elsewhere):
            directory.mkdir()
            directory.chmod(0o777)
        self.program = Path("/bin/true").read_bytes()
        self.secret = self.elsewhere / "secret"
        self.reset()
        sleep = opened.enter_context(
            subprocess.Popen(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                              "sleep", "600"])
        )  # fmt: skip
        opened.callback(sleep.kill)
        self.victim = sleep.pid
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = int(listener.getsockname()[1])
        abstract = opened.enter_context(socket.socket(socket.AF_UNIX))
        self.abstract = f"\0fuse-s3-{os.getpid()}"
        abstract.bind(self.abstract)
        abstract.listen()
        other_end, self.terminal = pty.openpty()
        opened.callback(os.close, self.terminal)
        opened.callback(os.close, other_end)

    def reset(self) -> None:
        """Put back what an attack that succeeded took away."""
        self.secret.write_text("everybody may read it, and the worker need not")
        self.secret.chmod(0o644)
        for entry in self.home.iterdir():
            entry.unlink()

    @property
    def needs(self) -> Needs:
        """What the worker under attack was allowed beyond the usual."""
        return Needs(own=(str(self.home),))


@pytest.fixture
def scene(public: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as opened:
        yield Scene(public, opened)


# -- the acts --------------------------------------------------------------------------------------


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def _apart() -> None:
    """Leave this machine's mounts and name alone, should an act succeed."""
    _unshare(_CLONE_NEWNS | _CLONE_NEWUTS)
    _checked(_libc.mount(b"", b"/", b"", _MS_REC_PRIVATE, b""))


def _mount(scene: Scene) -> None:
    _checked(_libc.mount(b"none", os.fsencode(scene.elsewhere), b"tmpfs", 0, b""))


def _fast_open(scene: Scene) -> None:
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", scene.port))


def _connect(scene: Scene) -> None:
    socket.create_connection(("127.0.0.1", scene.port), 10).close()


def _connect_abstract(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(scene.abstract)


def _socket(family: int, kind: int) -> None:
    socket.socket(family, kind, socket.IPPROTO_ICMP if family == socket.AF_INET else 0).close()


def _signal_by_io(scene: Scene) -> None:
    ours, _theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, scene.victim)


def _write_and_execute() -> None:
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError as error:
        raise OSError(error.errno, "mmap") from None


def _make_executable() -> None:
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _checked(_libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC))


def _execute_memory(scene: Scene) -> None:
    program = os.memfd_create("program", 0)
    os.write(program, scene.program)
    arguments = (ctypes.c_char_p * 2)(b"true", None)
    _call("execveat", program, b"", ctypes.addressof(arguments), 0, _AT_EMPTY_PATH)


def _clone_into_namespace() -> None:
    flags = _CLONE_NEWUTS | signal.SIGCHLD
    _end_child(_call("clone", flags, 0, 0, 0, 0))


def _end_child(pid: int) -> None:
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def _clone3() -> None:
    arguments = (ctypes.c_uint64 * 8)(_CLONE_NEWUTS, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    _end_child(_call("clone3", ctypes.addressof(arguments), 64))


def _fork() -> None:
    _end_child(os.fork())


def _read_memory_of(pid: int) -> None:
    """Ask for no bytes: whether it is allowed is looked at all the same."""
    place = (ctypes.c_uint64 * 2)(0x1000, 0)
    _call("process_vm_readv", pid, ctypes.addressof(place), 0, ctypes.addressof(place), 1, 0)


def _map_of_bpf() -> None:
    # union bpf_attr: an array of one entry, BPF_MAP_CREATE
    attributes = struct.pack("=IIII", 2, 4, 4, 1).ljust(64, b"\0")
    os.close(_call("bpf", 0, attributes, len(attributes)))


def _perf() -> None:
    # perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_DUMMY
    attributes = struct.pack("=IIQ", 1, 128, 9).ljust(128, b"\0")
    os.close(_call("perf_event_open", attributes, 0, -1, -1, 0))


def _uring() -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(_call("io_uring_setup", 1, ctypes.addressof(parameters)))


def _by_handle() -> None:
    handle = struct.pack("=Ii", 8, 1) + bytes(8)
    try:
        _call("open_by_handle_at", _AT_FDCWD, handle, 0)
    except OSError as error:
        if error.errno != errno.ESTALE:  # no such file: it was looked for
            raise


def _type_into(scene: Scene) -> None:
    fcntl.ioctl(scene.terminal, _TIOCSTI, b"x")


def _into_own_namespace() -> None:
    _checked(_libc.setns(os.pidfd_open(os.getpid()), _CLONE_NEWNS))


def _execute(program: str, *arguments: str) -> None:
    os.execv(program, [program, *arguments])


def _descriptor_of(pid: int) -> None:
    os.close(_call("pidfd_getfd", os.pidfd_open(pid), 0, 0))


def _list(path: str) -> None:
    list(Path(path).iterdir())


def _parent() -> int:
    return os.getppid()


class Act(NamedTuple):
    """Something hostile, and what becomes of it: of root in the sandbox, and of the worker."""

    do: Callable[[Scene], object]
    sandbox: Outcome
    worker: Outcome


def refused(do: Callable[[Scene], object], number: int) -> Act:
    return Act(do, Outcome(number), Outcome(number))


def killed(do: Callable[[Scene], object]) -> Act:
    return Act(do, KILLED, KILLED)


KILLED = Outcome(signal=signal.SIGSYS)

ACTS = {
    # -- files
    # All of /etc is open as far as Landlock goes; modes count, and the worker is nobody.
    "read /etc/shadow": Act(
        lambda _: os.open("/etc/shadow", os.O_RDONLY), DONE, Outcome(errno.EACCES)
    ),
    "write to /etc/hosts": refused(lambda _: os.open("/etc/hosts", os.O_WRONLY), errno.EACCES),
    "list /etc": refused(lambda _: _list("/etc"), errno.EACCES),
    "list /root": refused(lambda _: _list("/root"), errno.EACCES),
    "list /": refused(lambda _: _list("/"), errno.EACCES),
    "read what everybody may": refused(lambda s: s.secret.read_text(), errno.EACCES),
    "read another's command line": refused(
        lambda s: Path(f"/proc/{s.victim}/cmdline").read_text(), errno.EACCES
    ),
    "open /dev/fuse": refused(lambda _: os.open("/dev/fuse", os.O_RDWR), errno.EACCES),
    "open its memory": refused(lambda _: os.open("/proc/self/mem", os.O_RDWR), errno.EACCES),
    "write elsewhere": refused(lambda s: (s.elsewhere / "new").write_text("x"), errno.EACCES),
    "write to a file elsewhere": refused(lambda s: os.open(s.secret, os.O_WRONLY), errno.EACCES),
    "empty a file elsewhere": refused(lambda s: os.truncate(s.secret, 0), errno.EPERM),
    "remove a file elsewhere": refused(lambda s: s.secret.unlink(), errno.EACCES),
    "rename a file elsewhere": refused(lambda s: s.secret.rename(s.home / "mine"), errno.EACCES),
    "make a link at home": refused(lambda s: (s.home / "link").symlink_to(s.secret), errno.EPERM),
    "make a device": refused(
        lambda s: os.mknod(s.home / "null", 0o20666, os.makedev(1, 3)), errno.EPERM
    ),
    "change an owner": refused(lambda s: os.chown(s.secret, 0, 0), errno.EPERM),
    "open by handle": killed(lambda _: _by_handle()),
    # -- mounts, namespaces, ids
    "mount": killed(_mount),
    "umount": killed(lambda _: _checked(_libc.umount2(b"/proc", 2))),
    "chroot": killed(lambda s: os.chroot(s.home)),
    "unshare": killed(lambda _: _unshare(_CLONE_NEWUTS)),
    "enter a namespace": killed(lambda _: _into_own_namespace()),
    "start a process in a namespace": refused(lambda _: _clone_into_namespace(), errno.EPERM),
    "the same by clone3": refused(lambda _: _clone3(), errno.ENOSYS),
    "become somebody else": refused(lambda _: os.setresuid(1, 1, 1), errno.EPERM),
    "join a group": refused(lambda _: os.setgroups([0]), errno.EPERM),
    # -- programs and other processes
    "execute a shell": refused(lambda _: _execute("/bin/sh", "-c", "exit 0"), errno.EPERM),
    "execute memory": refused(_execute_memory, errno.EPERM),
    "fork": refused(lambda _: _fork(), errno.EPERM),
    "ptrace its parent": killed(lambda _: _checked(_libc.ptrace(_PTRACE_SEIZE, _parent(), 0, 0))),
    "read its parent's memory": killed(lambda _: _read_memory_of(_parent())),
    "take a descriptor of its parent's": killed(lambda _: _descriptor_of(_parent())),
    "signal a process of its user": refused(
        lambda s: os.kill(s.victim, signal.SIGCONT), errno.EPERM
    ),
    "signal its threads": refused(
        lambda s: _checked(_libc.tgkill(s.victim, s.victim, 0)), errno.EPERM
    ),
    "signal it by input and output": refused(_signal_by_io, errno.EPERM),
    "look at its parent's limits": refused(
        lambda _: resource.prlimit(_parent(), resource.RLIMIT_NOFILE), errno.EPERM
    ),
    "type into a terminal": refused(_type_into, errno.EPERM),
    # -- memory
    "write and execute": refused(lambda _: _write_and_execute(), errno.EACCES),
    "make memory executable": refused(lambda _: _make_executable(), errno.EACCES),
    # -- the network
    "AF_NETLINK": refused(
        lambda _: _socket(socket.AF_NETLINK, socket.SOCK_RAW), errno.EAFNOSUPPORT
    ),
    "AF_PACKET": refused(lambda _: _socket(socket.AF_PACKET, socket.SOCK_RAW), errno.EAFNOSUPPORT),
    "a raw socket": refused(
        lambda _: _socket(socket.AF_INET, socket.SOCK_RAW), errno.ESOCKTNOSUPPORT
    ),
    "connect to a port": refused(_connect, errno.EACCES),
    "connect in passing": refused(_fast_open, errno.EOPNOTSUPP),
    "listen": refused(lambda _: socket.create_server(("127.0.0.1", 0)).close(), errno.EACCES),
    "connect to an abstract socket": refused(_connect_abstract, errno.EPERM),
    # -- the kernel
    "bpf": killed(lambda _: _map_of_bpf()),
    "perf": killed(lambda _: _perf()),
    "userfaultfd": killed(lambda _: os.close(_call("userfaultfd", 0))),
    "a key": killed(lambda _: _call("add_key", b"user", b"fuse-s3", b"x", 1, -2)),
    "io_uring": refused(lambda _: _uring(), errno.ENOSYS),
    "the name of the machine": killed(lambda _: socket.sethostname("taken-over")),
}


@pytest.mark.parametrize("name", ACTS)
def test_what_a_hostile_worker_tries_is_refused(name: str, scene: Scene) -> None:
    act = ACTS[name]

    def attack() -> None:
        act.do(scene)

    def confined() -> None:
        enter(scene.needs)

    assert outcome_of(_apart, attack) == DONE, "not an attack: root cannot do it freely"
    scene.reset()
    assert outcome_of(_apart, confined, attack) == act.sandbox
    assert outcome_of(_apart, become_worker, confined, attack) == act.worker


# -- what is left ----------------------------------------------------------------------------------

LEFT: dict[str, Callable[[Scene], object]] = {
    "write at home": lambda s: (s.home / "mine").write_text("x"),
    "make a directory at home": lambda s: (s.home / "d").mkdir(),
    "look into /etc": lambda _: Path("/etc/passwd").read_text(),
    "send a datagram to any port": lambda s: _datagram(s.port),
    "map memory twice": lambda _: _map_twice(),
}


def _datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", port))


def _map_twice() -> None:
    """Writable at one address and executable at another: how libffi makes ctypes' callbacks."""
    memory = os.memfd_create("code")
    os.ftruncate(memory, 4096)
    mmap.mmap(memory, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE).close()
    mmap.mmap(memory, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_a_hostile_worker(name: str, scene: Scene) -> None:
    """The other half of the truth, which docs/security.md tells as well."""

    def attack() -> None:
        LEFT[name](scene)

    def confined() -> None:
        enter(scene.needs)

    assert outcome_of(_apart, become_worker, confined, attack) == DONE
