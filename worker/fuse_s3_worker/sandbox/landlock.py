"""Landlock: which files and which TCP ports, and signals to nobody; as much as the kernel has.

Its ABI grew with the kernels; what a kernel does not know is left out, and the caller is told.
A domain holds for the thread that enters it and those that it starts, so there may be no others.
Source: linux/landlock.h, Documentation/userspace-api/landlock.rst.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterable

from fuse_s3_worker.sandbox.files import Access, Place
from fuse_s3_worker.sandbox.libc import address_of, system_call

__all__ = ["LAYERS_SINCE", "UnavailableError", "restrict"]

# The same numbers on every machine (asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_FS_OF_FIRST_ABI = (1 << 13) - 1
_FS_ADDED = {2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
_NET_BIND, _NET_CONNECT = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2

LAYERS_SINCE = {"landlock_files": 1, "landlock_tcp": 4, "landlock_scopes": 6}
"""Layer name to the ABI that brought it."""

_REASONS = {
    errno.ENOSYS: "this kernel has no Landlock: Linux 5.13 and newer may have it",
    errno.EOPNOTSUPP: "Landlock is off: boot with landlock in the kernel's lsm=",
    errno.EPERM: "a filter around this process forbids Landlock",
}


class UnavailableError(Exception):
    """There is no domain; the message says why."""


def _abi_version() -> int:
    """Return the version of Landlock that this kernel has.

    Raises:
        UnavailableError: it has none.
    """
    try:
        return system_call(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        raise UnavailableError(_REASONS.get(error.errno or 0, str(error.strerror))) from None


def restrict(places: Iterable[Place], ports: Iterable[int]) -> int:
    """Allow these places and TCP connections to these ports, and nothing else from now on.

    Returns:
        The kernel's ABI: what it did not know yet is not restricted.

    Raises:
        UnavailableError: the kernel cannot, or there are other threads.
    """
    abi = _abi_version()
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  threads, not paths
        raise UnavailableError("another thread runs already, and would stay outside")
    try:
        with contextlib.closing(_Ruleset(abi)) as ruleset:
            for place in places:
                ruleset.add_place(place)
            for port in sorted(ports) if abi >= LAYERS_SINCE["landlock_tcp"] else ():
                ruleset.add_port(port)
            ruleset.enforce()
    except OSError as error:
        raise UnavailableError(_REASONS.get(error.errno or 0, str(error.strerror))) from None
    return abi


class _Ruleset:
    """A ruleset of everything that an ABI can restrict."""

    def __init__(self, abi: int) -> None:
        self._handled = Access(_FS_OF_FIRST_ABI)
        for since, access in _FS_ADDED.items():
            self._handled |= access if abi >= since else Access(0)
        # struct landlock_ruleset_attr, which grew as well
        words = [int(self._handled)]
        words += [_NET_BIND | _NET_CONNECT] if abi >= LAYERS_SINCE["landlock_tcp"] else []
        scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS
        words += [scopes] if abi >= LAYERS_SINCE["landlock_scopes"] else []
        attributes, owner = address_of(struct.pack(f"={len(words)}Q", *words))
        self._fd = system_call(_CREATE_RULESET, attributes, 8 * len(words), 0)
        del owner

    def close(self) -> None:
        """Forget it; what was enforced stays so."""
        os.close(self._fd)

    def enforce(self) -> None:
        """Put it in force for this thread and those that it will start."""
        system_call(_RESTRICT_SELF, self._fd, 0)

    def add_port(self, port: int) -> None:
        """Allow TCP connections to a port."""
        self._add(_RULE_NET_PORT, struct.pack("=QQ", _NET_CONNECT, port))

    def add_place(self, place: Place) -> None:
        """Allow what is at a place, if there is anything."""
        try:
            fd = os.open(place.path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        access = place.access & self._handled
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= Access.OF_FILES
        self._add(_RULE_PATH_BENEATH, struct.pack("=Qi", int(access), fd))
        if not place.held:
            os.close(fd)

    def _add(self, kind: int, rule: bytes) -> None:
        address, owner = address_of(rule)
        system_call(_ADD_RULE, self._fd, kind, address, 0)
        del owner
