"""POSIX access control lists, in the form that setxattr(2) takes (linux/posix_acl_xattr.h).

The kernel checks access by them (FUSE_POSIX_ACL) and leaves to the file system what acl(5) says
under "OBJECT CREATION AND DEFAULT ACLs" and "CORRESPONDENCE BETWEEN ACL ENTRIES AND FILE PERMISSION
BITS": that a mode and a list say the same, whichever of them is changed.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

__all__ = ["ACCESS", "DEFAULT", "NAMES", "Inherited", "chmod", "inherit", "is_valid", "mode_of"]

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = frozenset({ACCESS, DEFAULT})

_VERSION = Struct("<I")
_ENTRY = Struct("<HHI")  # e_tag e_perm e_id
_POSIX_ACL_XATTR_VERSION = 2
_PERMISSIONS = 0o7


class _Tag(IntEnum):
    """ACL_*: whom an entry is about."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


class _Entry(NamedTuple):
    tag: int
    perm: int
    id: int


# Which entry stands for which bits of a mode; with a mask, that has the bits of the group.
_SHIFTS = {_Tag.USER_OBJ: 6, _Tag.OTHER: 0}
# Entries in the only order there is, and how often each may be there at most.
_ORDER = (
    (_Tag.USER_OBJ, 1),
    (_Tag.USER, 0xFFFF),
    (_Tag.GROUP_OBJ, 1),
    (_Tag.GROUP, 0xFFFF),
    (_Tag.MASK, 1),
    (_Tag.OTHER, 1),
)
_NEEDED = {_Tag.USER_OBJ, _Tag.GROUP_OBJ, _Tag.OTHER}
_NAMED = {_Tag.USER, _Tag.GROUP}


class Inherited(NamedTuple):
    """What a new file gets from its directory's default list.

    Attributes:
        mode: permission bits.
        access: its own list; None when its mode says all of it.
    """

    mode: int
    access: bytes | None


def is_valid(raw: bytes) -> bool:
    """Tell whether `raw` is a list that the kernel takes."""
    try:
        _parse(raw)
    except ValueError:
        return False
    return True


def mode_of(raw: bytes) -> tuple[int, bool]:
    """Return the permission bits that a list stands for, and whether they say all of it.

    Raises:
        ValueError: it is no list.
    """
    entries = _parse(raw)
    mode = sum(e.perm << shift for e in entries if (shift := _shift(e, entries)) is not None)
    return mode, len(entries) == len(_NEEDED)


def chmod(raw: bytes, mode: int) -> bytes:
    """Return a list in which the bits of `mode` are what they are in a mode."""
    entries = _parse(raw)
    return _encode(
        [
            e if (shift := _shift(e, entries)) is None else e._replace(perm=_bits(mode, shift))
            for e in entries
        ]
    )


def inherit(default: bytes, mode: int) -> Inherited:
    """Return what a file that is made with `mode` gets from a default list; no umask counts."""
    entries = []
    parsed = _parse(default)
    for entry in parsed:
        shift = _shift(entry, parsed)
        perm = entry.perm if shift is None else entry.perm & _bits(mode, shift)
        entries.append(entry._replace(perm=perm))
    access = _encode(entries)
    bits, is_all = mode_of(access)
    return Inherited(bits, None if is_all else access)


def _bits(mode: int, shift: int) -> int:
    return mode >> shift & _PERMISSIONS


def _shift(entry: _Entry, entries: list[_Entry]) -> int | None:
    """Return where in a mode the bits of an entry are; None when they are in no mode."""
    masked = any(e.tag == _Tag.MASK for e in entries)
    if entry.tag == (_Tag.MASK if masked else _Tag.GROUP_OBJ):
        return 3
    return _SHIFTS.get(_Tag(entry.tag))


def _parse(raw: bytes) -> list[_Entry]:
    if len(raw) < _VERSION.size or _VERSION.unpack_from(raw)[0] != _POSIX_ACL_XATTR_VERSION:
        raise ValueError("no access control list of version 2")
    if (len(raw) - _VERSION.size) % _ENTRY.size:
        raise ValueError("half an entry")
    entries = [_Entry(*fields) for fields in _ENTRY.iter_unpack(raw[_VERSION.size :])]
    _check(entries)
    return entries


def _check(entries: list[_Entry]) -> None:
    rest = [entry.tag for entry in entries]
    for tag, most in _ORDER:
        count = 0
        while rest and rest[0] == tag and count < most:
            rest.pop(0)
            count += 1
    tags = {entry.tag for entry in entries}
    if rest or not tags >= _NEEDED or (tags & _NAMED and _Tag.MASK not in tags):
        raise ValueError("entries are missing, too many, or out of order")
    if any(entry.perm & ~_PERMISSIONS for entry in entries):
        raise ValueError("there are no such permissions")


def _encode(entries: list[_Entry]) -> bytes:
    packed = (_ENTRY.pack(*entry) for entry in entries)
    return _VERSION.pack(_POSIX_ACL_XATTR_VERSION) + b"".join(packed)
