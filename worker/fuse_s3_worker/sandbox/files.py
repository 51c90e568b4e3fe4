"""The part of the table that is about files: where a worker may look, and why.

A rule is for what is there now: a file that is replaced by another of its name, as editors and
DHCP clients do with /etc/resolv.conf, needs a rule for its directory.
"""

import enum
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Access", "Needs", "Place", "places"]


class Access(enum.IntFlag):
    """LANDLOCK_ACCESS_FS_ of linux/landlock.h, those that have a use here, and what they add up to.

    EXECUTE is none of them: there is no program that a worker may start.
    """

    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15

    READ = READ_FILE | READ_DIR
    CHANGE = WRITE_FILE | TRUNCATE
    OWN = READ | CHANGE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | REFER
    OF_FILES = READ_FILE | CHANGE | IOCTL_DEV


class Place(NamedTuple):
    """A file, or everything below a directory, and what a worker may do there.

    Where the kernel makes directories up as they are looked at, one is `held`, so that it stays
    the one that the rule is for.
    """

    path: str
    access: Access
    why: str
    held: bool = False


class Needs(NamedTuple):
    """What one mount needs beyond every other's.

    `ports` are of TCP. `files` may be replaced by others of their names at any time; what is below
    `directories` is read, and below `own` everything may be done.
    """

    ports: frozenset[int] = frozenset()
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


_READ = Access.READ

_EVERYWHERE = (
    *(Place(path, _READ, "shared libraries, locales, OpenSSL's configuration")
      for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")),
    *(Place(path, _READ, "the authorities whose certificates are trusted")
      for path in ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates",
                   "/usr/local/share/ca-certificates", "/usr/share/crypto-policies")),
    # Not the four files of the resolver alone: the next version of one is another file.
    Place("/etc", Access.READ_FILE, "resolv.conf, hosts, nsswitch.conf, gai.conf, localtime"),
    Place("/usr/share/zoneinfo", _READ, "times in the log"),
    Place("/dev/null", Access.READ_FILE | Access.CHANGE, "standard input and output"),
    Place("/dev/urandom", Access.READ_FILE, "random numbers, where getrandom(2) is not used"),
    Place("/proc/self", _READ, "what it takes itself", held=True),
)  # fmt: skip

_RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf")

# Directories that are too much to allow for the sake of one file in them.
_TOO_MUCH = {Path(path) for path in ("/", "/run", "/var", "/var/run", "/home", "/root", "/dev")}


def places(needs: Needs) -> Iterator[Place]:
    """Yield every place that a worker with these `needs` may look at."""
    yield from _EVERYWHERE
    for path in filter(None, sys.path):
        yield Place(path, _READ, "Python and the worker's packages")
    trusted = ssl.get_default_verify_paths()
    for path in filter(None, (trusted.cafile, trusted.capath)):
        yield Place(path, _READ, "the authorities that this OpenSSL trusts")
    for path in _RESOLVER:
        yield from _replaceable(path, "where the resolver's files really are")
    for path in needs.files:
        yield from _replaceable(path, "what the credentials' configuration names")
    for path in needs.directories:
        yield Place(path, _READ, "see the needs of the mount")
    for path in needs.own:
        yield Place(path, Access.OWN, "what it keeps")


def _replaceable(path: str, why: str) -> Iterator[Place]:
    """Allow a file, also behind a link, and those that will be there under its name."""
    for target in {Path(path), Path(os.path.realpath(path))}:
        if target.parent in _TOO_MUCH:
            yield Place(str(target), Access.READ_FILE, why)
        else:
            yield Place(str(target.parent), Access.READ_FILE, why)
