"""Changing a part of a file, and what comes of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["change", "fails", "patched"]


def change(path: Path, offset: int, data: bytes) -> int:
    """Write in the midst of a file; return the descriptor."""
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, offset)
    return fd


def patched(content: bytes, offset: int, data: bytes) -> bytes:
    """Return what a file has after such a change."""
    return content[:offset] + data + content[offset + len(data) :]


def fails(number: int, call: Callable[[int], object], fd: int) -> None:
    """See that a call fails with this errno."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call(fd)
    assert caught.value.errno == number
