#!/usr/bin/python3 -IS
"""A hostile program in the worker's place, which is confined by the policy alone.

Nothing here needs a privilege: each of these the kernel lets everybody do. The last line says what
became of each, as name=errno, and 0 where it was done.
"""

import ctypes
import mmap
import os
import socket
import sys
from collections.abc import Callable

_LISTENER = ("10.0.2.2", 9)  # of no type that a worker may connect to


def _execute_shell() -> None:
    pid = os.fork()
    if not pid:
        try:
            os.execv("/bin/sh", ["sh", "-c", "exit 0"])
        except OSError as error:
            os._exit(error.errno or 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "execv")


def _write_and_execute() -> None:
    try:
        mmap.mmap(-1, 4096, prot=7)
    except PermissionError as error:
        raise OSError(error.errno, "mmap") from None


def _make_executable() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 4096)
    memory[0] = 0xC3  # written, so that it is private to this process
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.mprotect(ctypes.c_void_p(address), 4096, 5):
        raise OSError(ctypes.get_errno(), "mprotect")


def _execute_memory() -> None:
    memory = os.memfd_create("code")
    os.ftruncate(memory, 4096)
    try:
        mmap.mmap(memory, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    except PermissionError as error:
        raise OSError(error.errno, "mmap") from None


def _socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def _listen() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 8080))


def _connect() -> None:
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(_LISTENER)
        except (ConnectionRefusedError, TimeoutError):
            return  # it got as far as the other end


def _bus() -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/dbus/system_bus_socket")


ACTS: dict[str, Callable[[], object]] = {
    "fuse": lambda: os.open("/dev/fuse", os.O_RDWR),
    "passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),  # what is allowed, for comparison
    "shell": _execute_shell,
    "execmem": _write_and_execute,
    "mprotect": _make_executable,
    "memfd": _execute_memory,
    "netlink": lambda: _socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "alg": lambda: _socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "listen": _listen,
    "connect": _connect,
    "bus": _bus,
    "tmp": lambda: os.open("/tmp/fuse-s3-test", os.O_WRONLY | os.O_CREAT),
    "boot": lambda: os.open("/boot", os.O_RDONLY),
}


def main() -> None:
    """Try everything."""
    results = []
    for name, act in ACTS.items():
        try:
            act()
            results.append(f"{name}=0")
        except OSError as error:
            results.append(f"{name}={error.errno}")
    sys.stderr.write(" ".join(results) + "\n")


main()
