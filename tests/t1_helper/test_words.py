"""The words of the helper, against the numbers of linux/mount.h."""

import pytest

from fuse_s3_helper import words
from fuse_s3_helper.files import FILE_OPTIONS
from fuse_s3_helper.words import FLAGS, IGNORED, LSM, OWN, Flag

# include/uapi/linux/mount.h; (MS_ of mount(2), MOUNT_ATTR_ of fsmount(2), key of fsconfig(2))
KERNEL = {
    "ro": (0x00000001, 0x00000001, "ro"),  # MS_RDONLY, MOUNT_ATTR_RDONLY
    "noexec": (0x00000008, 0x00000008, ""),  # MS_NOEXEC, MOUNT_ATTR_NOEXEC
    "sync": (0x00000010, 0, "sync"),  # MS_SYNCHRONOUS
    "mand": (0x00000040, 0, "mand"),  # MS_MANDLOCK
    "dirsync": (0x00000080, 0, "dirsync"),  # MS_DIRSYNC
    "nosymfollow": (0x00000100, 0x00200000, ""),  # MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW
    "noatime": (0x00000400, 0x00000010, ""),  # MS_NOATIME, MOUNT_ATTR_NOATIME
    "nodiratime": (0x00000800, 0x00000080, ""),  # MS_NODIRATIME, MOUNT_ATTR_NODIRATIME
    "silent": (0x00008000, 0, ""),  # MS_SILENT
    "relatime": (0x00200000, 0x00000000, ""),  # MS_RELATIME, MOUNT_ATTR_RELATIME
    "strictatime": (0x01000000, 0x00000020, ""),  # MS_STRICTATIME, MOUNT_ATTR_STRICTATIME
    "lazytime": (0x02000000, 0, "lazytime"),  # MS_LAZYTIME
}

# mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS": what takes a flag back
OPPOSITES = {
    "rw": "ro",
    "exec": "noexec",
    "async": "sync",
    "nomand": "mand",
    "nodirsync": "dirsync",
    "symfollow": "nosymfollow",
    "atime": "noatime",
    "diratime": "nodiratime",
    "loud": "silent",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
    "nolazytime": "lazytime",
}

# Always on, so neither the word nor its opposite changes anything.
CONSTANT = {"nosuid", "nodev", "suid", "dev"}


@pytest.mark.parametrize("word", KERNEL)
def test_flag(word: str) -> None:
    assert FLAGS[word] == Flag(*KERNEL[word], on=True)


@pytest.mark.parametrize("word", OPPOSITES)
def test_opposite(word: str) -> None:
    assert FLAGS[word] == Flag(*KERNEL[OPPOSITES[word]], on=False)


def test_no_other_flags() -> None:
    assert FLAGS.keys() == KERNEL.keys() | OPPOSITES.keys() | CONSTANT | {"read-only"}
    assert FLAGS["read-only"] == FLAGS["ro"]
    assert {FLAGS[word] for word in CONSTANT} == {Flag(0)}


def test_the_flags_that_are_always_on() -> None:
    assert (words.MS_NOSUID, words.MS_NODEV, words.MS_REMOUNT) == (0x2, 0x4, 0x20)
    assert (words.ATTR_NOSUID, words.ATTR_NODEV) == (0x2, 0x4)


def test_every_word_has_one_owner() -> None:
    vocabularies = [FLAGS.keys(), LSM, IGNORED, OWN, FILE_OPTIONS.keys()]
    assert sum(map(len, vocabularies)) == len(set().union(*vocabularies))
