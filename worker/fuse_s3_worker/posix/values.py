"""Single values of metadata headers: numbers and times, as the programs that write them do.

A reader returns None for what it cannot read; whoever asked falls back to something else.
"""

import re
from datetime import UTC, datetime

__all__ = [
    "read_id",
    "read_number",
    "read_octal",
    "read_rfc3339",
    "read_seconds",
    "read_ticks",
    "write_rfc3339",
    "write_seconds",
]

_SECOND = 1_000_000_000
_DIGITS = 9  # of a fraction: nanoseconds
# strtol(3) with base 0, which s3fs reads with: a leading 0 makes it octal, 0x hexadecimal.
_NUMBER = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]{1,8}|0[0-7]{0,11}|[1-9][0-9]{0,9})\s*")
_OCTAL = re.compile(r"\s*[0-7]{1,11}\s*")
_SECONDS = re.compile(r"\s*(-?)([0-9]{1,12})(?:\.([0-9]{1,18}))?\s*")  # no later than 33658 AD
_TICKS = re.compile(r"\s*(-?[0-9]{1,21})(ns|ms|)\s*")
_TICK = {"ns": 1, "ms": 1_000_000, "": 1_000_000}  # FSx for Lustre: without a unit, milliseconds
_U32 = 0xFFFFFFFF
_LATEST = 10**12 * _SECOND
_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_300_799  # seconds: what datetime has dates for


def read_number(text: str) -> int | None:
    """Read an unsigned number of 32 bits in decimal, octal (0...) or hexadecimal (0x...)."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    digits = match[1]
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
    number = int(digits, 8 if octal else 0)
    return number if number <= _U32 else None


def read_octal(text: str) -> int | None:
    """Read an unsigned number of 32 bits in octal, whatever its first digit."""
    number = int(text, 8) if _OCTAL.fullmatch(text) else _U32 + 1
    return number if number <= _U32 else None


def read_id(text: str) -> int | None:
    """Read a user or group; the last number of 32 bits is nobody's: to chown(2) it is "leave"."""
    number = read_number(text)
    return None if number == _U32 else number


def read_seconds(text: str) -> int | None:
    """Read seconds with a fraction; return nanoseconds.

    s3fs writes all nine digits, which count up from the second before; for times before 1970 that
    makes a difference to a decimal fraction, which rclone writes.
    """
    match = _SECONDS.fullmatch(text)
    if not match:
        return None
    sign, seconds, fraction = match[1], int(match[2]) * _SECOND, match[3] or ""
    nanoseconds = int(fraction[:_DIGITS].ljust(_DIGITS, "0"))
    if not sign:
        return seconds + nanoseconds
    return -seconds + nanoseconds if len(fraction) == _DIGITS else -seconds - nanoseconds


def write_seconds(nanoseconds: int) -> str:
    """Write a time as s3fs does: it takes the digits of a fraction for a whole number."""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    return f"{seconds}.{fraction:09}" if fraction else str(seconds)


def read_ticks(text: str) -> int | None:
    """Read a time of AWS DataSync, FSx for Lustre or File Cache; return nanoseconds."""
    match = _TICKS.fullmatch(text)
    if not match:
        return None
    nanoseconds = int(match[1]) * _TICK[match[2]]
    return nanoseconds if abs(nanoseconds) < _LATEST else None


def read_rfc3339(text: str) -> int | None:
    """Read a time of gcsfuse, such as 2024-05-06T07:08:09.123456789Z; return nanoseconds."""
    whole, dot, rest = text.strip().partition(".")
    fraction = re.match(r"[0-9]{1,9}", rest)
    if dot and not fraction:
        return None
    digits = fraction[0] if fraction else ""
    try:
        time = datetime.fromisoformat(whole + rest[len(digits) :])
        seconds = int(time.replace(tzinfo=time.tzinfo or UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * _SECOND + int(digits.ljust(_DIGITS, "0"))


def write_rfc3339(nanoseconds: int) -> str:
    """Write a time as gcsfuse does."""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    whole = datetime.fromtimestamp(min(max(seconds, _YEAR_1), _YEAR_9999), UTC)
    return f"{whole.replace(tzinfo=None).isoformat()}.{fraction:09}Z"
