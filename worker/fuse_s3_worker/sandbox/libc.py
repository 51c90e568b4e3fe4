"""The few calls of the kernel that Python has no name for: thin, typed, raising OSError."""

import ctypes
import os

__all__ = ["address_of", "process_control", "system_call"]

_libc = ctypes.CDLL(None, use_errno=True)


def process_control(option: int, argument: int) -> None:
    """Call prctl(2) with one argument."""
    _checked(_libc.prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))


def system_call(number: int, *arguments: int) -> int:
    """Call the kernel by number; addresses are integers, from `address_of`."""
    # A variadic C function takes integers as they come: make each a full machine word.
    return _checked(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))


def address_of(data: bytes) -> tuple[int, object]:
    """Return where a copy of `data` is, and its owner, to be kept as long as it is needed."""
    buffer = ctypes.create_string_buffer(data, len(data))
    return ctypes.addressof(buffer), buffer


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
