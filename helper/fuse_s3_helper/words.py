"""The mount options that the helper itself understands; every other one is the worker's.

Three vocabularies: the kernel's flags, the words that mount(8) and fstab leave in the string
without wanting anything from us, and our own few that decide something privileged.
"""

from typing import NamedTuple

# linux/mount.h: MS_ for mount(2), ATTR_ for fsmount(2).
MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32
ATTR_NOSUID, ATTR_NODEV = 2, 4


class Flag(NamedTuple):
    """A kernel flag in its three spellings; `word` belongs to the superblock, `attr` to the mount.

    mount(2) takes `ms`; fsconfig(2) takes `word` as a key; fsmount(2) takes `attr`.
    """

    ms: int
    attr: int = 0
    word: str = ""
    on: bool = True


_ON = {
    "ro": Flag(1, 1, "ro"),
    "noexec": Flag(8, 8),
    "sync": Flag(16, 0, "sync"),
    "mand": Flag(64, 0, "mand"),
    "dirsync": Flag(128, 0, "dirsync"),
    "nosymfollow": Flag(256, 0x200000),
    "noatime": Flag(1024, 0x10),
    "nodiratime": Flag(2048, 0x80),
    "silent": Flag(32768),
    "relatime": Flag(1 << 21),
    "strictatime": Flag(1 << 24, 0x20),
    "lazytime": Flag(1 << 25, 0, "lazytime"),
}

_OPPOSITE = {"ro": "rw", "sync": "async", "silent": "loud"}


def _off(word: str) -> str:
    """Return the word that takes back `word`: noexec and exec, relatime and norelatime."""
    return _OPPOSITE.get(word) or (word[2:] if word.startswith("no") else f"no{word}")


FLAGS = (
    _ON
    | {_off(word): flag._replace(on=False) for word, flag in _ON.items()}
    | {"read-only": _ON["ro"]}
    # nosuid and nodev are always on: a bucket's content must not bring privileges or devices.
    # suid and dev, which ask for the opposite, are accepted and change nothing.
    | dict.fromkeys(("nosuid", "nodev", "suid", "dev"), Flag(0))
)

# For the kernel's security module: passed on as they are, quotes removed.
LSM = frozenset({"context", "fscontext", "defcontext", "rootcontext", "seclabel"})

IGNORED = frozenset(
    # mount(8) and fstab's own words, some of which libmount leaves in the string ...
    "defaults auto noauto nofail user nouser users nousers owner noowner group nogroup "
    "comment helper uhelper iversion noiversion quiet "
    # ... and what other FUSE programs need and this one does by itself or has no use for.
    "auto_unmount auto-unmount nonempty fsname subtype max_read dev_t_ino "
    "default_permissions allow_other allow-other allow_root allow-root".split()
)

IGNORED_PREFIXES = ("x-", "X-")

# mount(8) keeps `private` for itself, a word of mount propagation: through it, only the longer
# name arrives here. _netdev is systemd's, and only noticed when it is missing.
OWN = frozenset({"remount", "owner_only", "private", "worker_user", "foreground", "_netdev"})
