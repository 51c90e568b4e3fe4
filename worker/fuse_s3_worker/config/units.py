"""Words of an option to values: sizes, durations, modes, users. Each failure says what is right."""

import grp
import pwd
import re
from collections.abc import Callable

__all__ = [
    "INDEFINITE",
    "KIB",
    "MIB",
    "GIB",
    "TIB",
    "duration",
    "flag",
    "group",
    "mode",
    "size",
    "user",
]

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

INDEFINITE = float("inf")

_SIZE = re.compile(r"([0-9]+)([KMGT]?)(i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_TRUE, _FALSE = {"", "1", "yes", "true", "on"}, {"0", "no", "false", "off"}


def size(word: object) -> object:
    """Read `8M`, `8MiB` or `8388608`; a letter is a power of 1024."""
    if not isinstance(word, str):
        return word
    match = _SIZE.fullmatch(word)
    if not match:
        raise ValueError("not a size, such as 8M, 1G or 8388608")
    return int(match[1]) * _FACTORS[match[2].upper()]


def duration(word: object) -> object:
    """Read seconds, with or without a fraction, or `indefinite`."""
    if not isinstance(word, str):
        return word
    if word == "indefinite":
        return INDEFINITE
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < INDEFINITE:
        raise ValueError("not a number of seconds, and not 'indefinite'")
    return seconds


def flag(word: object) -> object:
    """Read yes or no; the option's name alone is yes."""
    if not isinstance(word, str):
        return word
    if word.lower() in _TRUE | _FALSE:
        return word.lower() in _TRUE
    raise ValueError("not yes or no")


def mode(word: object) -> object:
    """Read permission bits in octal, as in 0644."""
    if not isinstance(word, str):
        return word
    try:
        bits = int(word, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:  # noqa: PLR2004
        raise ValueError("not an octal mode up to 0777")
    return bits


def user(word: object) -> object:
    """Read a user's number or name."""
    return _number_of(word, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group(word: object) -> object:
    """Read a group's number or name."""
    return _number_of(word, "group", lambda name: grp.getgrnam(name).gr_gid)


def _number_of(word: object, kind: str, look_up: Callable[[str], int]) -> object:
    if not isinstance(word, str):
        return word
    if word.isascii() and word.isdecimal():
        return int(word)
    try:
        return look_up(word)
    except KeyError:
        raise ValueError(f"no such {kind} on this machine") from None
